/* gemm.c - see gemm.h. Our own product packs both matrices for a block of k and keeps ROWS x 32 sums in
 * registers. */
#if NSVQ_HAVE_DNNL
#include <dnnl.h>
#endif
#include <stddef.h>
#include <string.h>

#include "fast.h"
#include "gemm.h"

enum { ROWS = 6, COLUMNS = 32, DEPTH = 384 };

/* b's rows from k0 on -> [columns / 32][depth][32], zeros behind the last column. */
static void pack_b(float *to, const float *b, int ldb, int trans, int k0, int depth, int n)
{
    for (int j0 = 0; j0 < n; j0 += COLUMNS)
        for (int l = 0; l < depth; l++, to += COLUMNS)
            for (int j = 0; j < COLUMNS; j++)
                to[j] = j0 + j >= n ? 0.f
                        : trans     ? b[(size_t)(j0 + j) * (size_t)ldb + (size_t)(k0 + l)]
                                    : b[(size_t)(k0 + l) * (size_t)ldb + (size_t)(j0 + j)];
}

/* Rows i0.. of a -> [depth][ROWS] times alpha, zeros behind the last. */
static void pack_a(float *to, const float *a, int lda, int trans, int i0, int m, int k0, int depth, float alpha)
{
    for (int l = 0; l < depth; l++)
        for (int i = 0; i < ROWS; i++, to++)
            *to = i0 + i >= m ? 0.f
                  : trans     ? alpha * a[(size_t)(k0 + l) * (size_t)lda + (size_t)(i0 + i)]
                              : alpha * a[(size_t)(i0 + i) * (size_t)lda + (size_t)(k0 + l)];
}

FAST static void multiply_packed(float *sum, const float *a, const float *b, int depth)
{
    v16 acc[ROWS][2] = {{{0}}};
    for (int l = 0; l < depth; l++, a += ROWS, b += COLUMNS) {
        const v16 b0 = *(const v16 *)b, b1 = *(const v16 *)(b + 16);
        for (int i = 0; i < ROWS; i++) {
            acc[i][0] += a[i] * b0;
            acc[i][1] += a[i] * b1;
        }
    }
    memcpy(sum, acc, sizeof acc);
}

void gemm_plain(char ta, char tb, int m, int n, int k, float alpha, const float *a, int lda, const float *b,
                int ldb, float beta, float *c, int ldc)
{
    const int panels = (n + COLUMNS - 1) / COLUMNS;
    float *pb = grow(NULL, (size_t)panels * COLUMNS * DEPTH), pa[DEPTH * ROWS], sum[ROWS * COLUMNS];
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            float *v = &c[(size_t)i * (size_t)ldc + (size_t)j];
            *v = beta == 0.f ? 0.f : beta * *v;
        }
    for (int k0 = 0; k0 < k; k0 += DEPTH) {
        const int depth = k - k0 < DEPTH ? k - k0 : DEPTH;
        pack_b(pb, b, ldb, tb == 'T', k0, depth, n);
        for (int i0 = 0; i0 < m; i0 += ROWS) {
            pack_a(pa, a, lda, ta == 'T', i0, m, k0, depth, alpha);
            for (int p = 0; p < panels; p++) {
                multiply_packed(sum, pa, pb + (size_t)p * COLUMNS * (size_t)depth, depth);
                for (int i = 0; i < ROWS && i0 + i < m; i++)
                    for (int j = 0; j < COLUMNS && p * COLUMNS + j < n; j++)
                        c[(size_t)(i0 + i) * (size_t)ldc + (size_t)(p * COLUMNS + j)] += sum[i * COLUMNS + j];
            }
        }
    }
    free(pb);
}

void gemm(char ta, char tb, int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb,
          float beta, float *c, int ldc)
{
#if NSVQ_HAVE_DNNL
    dnnl_sgemm(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
#else
    gemm_plain(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
#endif
}
