/* pixels.c - pictures into the first layer and out of the last one, scalar: the specification.
 * May include: kernels.h, table.h, shape.h.
 */
#include "shape.h"
#include "table.h"

static void to_pixels_c(uint8_t *out, ptrdiff_t stride, const int16_t *in, int n, int side)
{
    for (int y = 0; y < side; y++)
        for (int x = 0; x < side * n; x++)
            for (int c = 0; c < 3; c++)
                out[y * stride + 3 * x + c] = nsvq_pixel(
                    in[x / side * 3 * side * side + nsvq_square_channel(y, x % side, c, side)]);
}

static void from_pixels_c(int16_t *out, const uint8_t *in, ptrdiff_t stride, int n)
{
    for (int i = 0; i < n; i++)
        for (int py = 0; py < 4; py++)
            for (int e = 0; e < 12; e++)
                out[i * 48 + py * 12 + e] = (int16_t)(in[py * stride + i * 12 + e] - 128);
}

void nsvq_pixels_init(nsvq_kernels *k, unsigned cpu)
{
    k->to_pixels = to_pixels_c;
    k->from_pixels = from_pixels_c;
#if NSVQ_HAVE_AVX2
    if (cpu & NSVQ_CPU_AVX2) nsvq_pixels_avx2(k);
#endif
}
