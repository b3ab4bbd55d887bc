/* join.c - see join.h. */
#include "join.h"

#include <stddef.h>

/* Quiet latents from `quiet` on, `step` apart, of n at most. */
static int quiet_run(const uint8_t *quiet, ptrdiff_t step, int n)
{
    int i = 0;

    while (i < n && i < JOIN_REACH && quiet[i * step]) i++;
    return i;
}

/* Latents at `first`, first + step, ..: n of them take up the part of step d that falls off to the edge's
 * far side. sign: 1 before the edge, -1 behind it. */
static void spread(int16_t *first, ptrdiff_t step, int n, int d, int sign)
{
    for (int k = 0; k < n; k++) {
        int16_t *v = first + k * step;
        *v = (int16_t)(*v + sign * (d * (2 * (n - k) - 1) / (4 * n)));
    }
}

/* position: the first latent behind the edge, `step` positions apart from the one before it; before and
 * behind: how many there are in the window. */
static void join_at(const join_window *j, ptrdiff_t position, ptrdiff_t step, int before, int behind)
{
    const uint8_t *quiet = j->quiet + position;
    int16_t *b = j->latents + position * j->n_latent, *a = b - step * j->n_latent;
    int n_a = quiet_run(quiet - step, -step, before), n_b = quiet_run(quiet, step, behind);
    int64_t length = 0;

    if (!n_a || !n_b) return;
    for (int c = 0; c < j->n_latent; c++) length += (int64_t)(b[c] - a[c]) * (b[c] - a[c]);
    if (length > j->limit) return;
    for (int c = 0; c < j->n_latent; c++) {
        int d = b[c] - a[c];
        spread(a + c, -step * j->n_latent, n_a, d, 1);
        spread(b + c, step * j->n_latent, n_b, d, -1);
    }
}

void join_before_column(const join_window *j, int x, int y0, int y1)
{
    for (int y = y0; y < y1; y++) join_at(j, (ptrdiff_t)y * j->w + x, 1, x, j->w - x);
}

void join_before_row(const join_window *j, int y, int x0, int x1)
{
    for (int x = x0; x < x1; x++) join_at(j, (ptrdiff_t)y * j->w + x, j->w, y, j->h - y);
}
