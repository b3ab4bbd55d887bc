/* exact.c - masks (FORMAT.md 4.2), and the filling of masked pixels before the analysis, which no decoder
 * has to know. */
#include "codec.h"

/* ---- masks ---- */

enum { MASK_NONE, MASK_ALL, MASK_BITS, MASK_SAME }; /* two bits per band; same as the band before */

static uint8_t row_end_mask(uint32_t width)
{
    return width & 7 ? (uint8_t)(0xff00 >> (width & 7)) : 0xff;
}

static bool plane_is(const uint8_t *bits, uint32_t width, uint32_t height, uint8_t value)
{
    size_t stride = mask_stride(width);
    uint8_t end = value & row_end_mask(width);

    for (uint32_t y = 0; y < height; y++, bits += stride) {
        for (size_t i = 0; i + 1 < stride; i++)
            if (bits[i] != value) return false;
        if (bits[stride - 1] != end) return false;
    }
    return true;
}

void mask_encode(wr *w, const uint8_t *bits, uint32_t n_bands, uint32_t width, uint32_t height)
{
    size_t stride = mask_stride(width), plane = stride * height;
    uint8_t kinds = 0;
    wr rows = {0};

    for (uint32_t b = 0; b < n_bands; b++, bits += plane) {
        unsigned kind = b && !memcmp(bits, bits - plane, plane)    ? MASK_SAME
                        : plane_is(bits, width, height, 0)         ? MASK_NONE
                        : plane_is(bits, width, height, 0xff)      ? MASK_ALL
                                                                   : MASK_BITS;
        kinds |= (uint8_t)(kind << (2 * b));
        uint8_t *p = kind == MASK_BITS ? wr_room(&rows, plane) : NULL;
        for (size_t i = 0; p && i < plane; i++) p[i] = i < stride ? bits[i] : bits[i] ^ bits[i - stride];
    }
    wr_le(w, kinds, 1);
    if (rows.size) wr_deflate(w, rows.p, rows.size, false);
    w->bad |= rows.bad;
    wr_free(&rows);
}

/* Undoes the difference of rows. False when a padding bit is set. */
static bool plane_restore(uint8_t *bits, uint32_t width, uint32_t height)
{
    size_t stride = mask_stride(width), plane = stride * height;
    uint8_t padding = 0;

    for (size_t i = stride; i < plane; i++) bits[i] ^= bits[i - stride];
    for (size_t i = stride - 1; i < plane; i += stride) padding |= bits[i];
    return !(padding & ~row_end_mask(width));
}

int mask_decode(uint8_t *bits, uint32_t n_bands, uint32_t width, uint32_t height,
                const uint8_t *in, size_t size)
{
    size_t stride = mask_stride(width), plane = stride * height, n = 0;
    unsigned kinds = size ? in[0] : 0;

    if (!size || kinds >> (2 * n_bands) || (kinds & 3) == MASK_SAME) return -1;
    for (uint32_t b = 0; b < n_bands; b++) n += (kinds >> (2 * b) & 3) == MASK_BITS;
    // stored planes go to the end of the buffer; each moves down to its place, never up
    uint8_t *stored = bits + (n_bands - n) * plane;
    if (n || size > 1) {
        int rc = n ? inflate_exact(stored, n * plane, in + 1, size - 1, false) : -1;
        if (rc) return rc;
    }
    for (uint32_t b = 0; b < n_bands; b++, kinds >>= 2, bits += plane) {
        switch (kinds & 3) {
        case MASK_NONE:
        case MASK_ALL:
            memset(bits, kinds & 1 ? 0xff : 0, plane);
            break;
        case MASK_BITS:
            memmove(bits, stored, plane);
            stored += plane;
            if (!plane_restore(bits, width, height)) return -1;
            break;
        case MASK_SAME:
            memcpy(bits, bits - plane, plane);
            break;
        }
    }
    return 0;
}

/* ---- filling of masked pixels ---- */

/* A level of the pyramid: known[i] tells whether value[i] is. */
typedef struct plane {
    int w, h;
    uint8_t *value, *known;
} plane;

enum { MAX_PLANES = 32 };

/* Averages what is known of each 2 x 2. */
static void push(plane *coarse, const plane *fine)
{
    for (int y = 0; y < coarse->h; y++)
        for (int x = 0; x < coarse->w; x++) {
            int sum = 0, n = 0;
            for (int i = 0; i < 4; i++) {
                int fx = 2 * x + (i & 1), fy = 2 * y + (i >> 1);
                if (fx >= fine->w || fy >= fine->h || !fine->known[fy * fine->w + fx]) continue;
                sum += fine->value[fy * fine->w + fx];
                n++;
            }
            coarse->known[y * coarse->w + x] = n > 0;
            coarse->value[y * coarse->w + x] = (uint8_t)(n ? (sum + n / 2) / n : 128);
        }
}

/* Bilinear from the coarser level, where something is unknown. */
static void pull(plane *fine, const plane *coarse)
{
    for (int y = 0; y < fine->h; y++)
        for (int x = 0; x < fine->w; x++) {
            if (fine->known[y * fine->w + x]) continue;
            int cx = x >> 1, cy = y >> 1, nx = x & 1 ? cx + 1 : cx - 1, ny = y & 1 ? cy + 1 : cy - 1;
            nx = nx < 0 ? 0 : nx >= coarse->w ? coarse->w - 1 : nx;
            ny = ny < 0 ? 0 : ny >= coarse->h ? coarse->h - 1 : ny;
            const uint8_t *near = coarse->value + cy * coarse->w, *far = coarse->value + ny * coarse->w;
            fine->value[y * fine->w + x] =
                (uint8_t)((9 * near[cx] + 3 * near[nx] + 3 * far[cx] + far[nx] + 8) >> 4);
        }
}

static void fill_channel(uint8_t *px, const uint8_t *known, plane *p, int n)
{
    size_t size = (size_t)p->w * (size_t)p->h;
    bool all_known = true;

    for (size_t i = 0; i < size; i++) {
        p->value[i] = px[3 * i];
        p->known[i] = known[3 * i];
        all_known &= known[3 * i] != 0;
    }
    if (all_known) return;
    for (int i = 1; i < n; i++) push(&p[i], &p[i - 1]);
    for (int i = n - 2; i >= 0; i--) pull(&p[i], &p[i + 1]);
    for (size_t i = 0; i < size; i++) px[3 * i] = p->value[i];
}

int fill_unknown(uint8_t *px, const uint8_t *known, int w, int h)
{
    plane p[MAX_PLANES];
    size_t total = 0;
    int n = 0;

    for (int pw = w, ph = h;; pw = (pw + 1) / 2, ph = (ph + 1) / 2) {
        p[n] = (plane){.w = pw, .h = ph};
        total += (size_t)pw * ph;
        n++;
        if (pw == 1 && ph == 1) break;
    }
    uint8_t *memory = malloc(2 * total), *at = memory;
    if (!memory) return -1;
    for (int i = 0; i < n; i++) {
        size_t size = (size_t)p[i].w * p[i].h;
        p[i].value = at;
        p[i].known = at + size;
        at += 2 * size;
    }
    for (int c = 0; c < 3; c++) fill_channel(px + c, known + c, p, n);
    free(memory);
    return 0;
}
