/* shape.h - index and rounding arithmetic that every backend shares, C and CUDA.
 * May include: <stdint.h> only.
 */
#ifndef NSVQ_SHAPE_H
#define NSVQ_SHAPE_H

#include <stdint.h>

#ifdef __CUDACC__
#define NSVQ_HD static __host__ __device__ inline
#else
#define NSVQ_HD static inline
#endif

NSVQ_HD int32_t nsvq_sat16(int32_t v)
{
    return v < INT16_MIN ? INT16_MIN : v > INT16_MAX ? INT16_MAX : v;
}

NSVQ_HD int32_t nsvq_clamp_u8(int32_t v)
{
    return v < 0 ? 0 : v > 255 ? 255 : v;
}

/* Accumulator to the range of s16: packs + mulhrs on x86. acc + bias fits by the load check; the
 * product of s16 and mul in [0, 32767] plus 2^14 fits, and shifted it is within s16 again. */
NSVQ_HD int32_t nsvq_requantise(int32_t acc, int32_t bias, int shift, int32_t mul)
{
    int32_t t = nsvq_sat16((acc + bias) >> shift);  // >> of a negative is arithmetic

    return (t * mul + (1 << 14)) >> 15;
}

/* Where the pixel (x, y) of a square of side x side pixels, channel c, stands among the channels
 * [sy side / 4][sx side / 4][py 4][px 4][c 3] of its position. */
NSVQ_HD int nsvq_square_channel(int y, int x, int c, int side)
{
    return (((y / 4 * (side / 4) + x / 4) * 4 + y % 4) * 4 + x % 4) * 3 + c;
}

/* One value of the last layer, unit 1/32 grey level around 128, as a pixel. */
NSVQ_HD uint8_t nsvq_pixel(int32_t v)
{
    return (uint8_t)nsvq_clamp_u8(((v + 16) >> 5) + 128);
}

#endif
