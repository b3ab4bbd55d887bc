/* gemm.h - float matrix products: oneDNN's where the build has it, else our own. */
#ifndef NSVQ_TRAINER_GEMM_H
#define NSVQ_TRAINER_GEMM_H

/* c [m][n] = alpha op(a) op(b) + beta c, by rows; ta, tb: 'N', or 'T' for the transpose of what is stored. */
void gemm(char ta, char tb, int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb,
          float beta, float *c, int ldc);
/* Our own. */
void gemm_plain(char ta, char tb, int m, int n, int k, float alpha, const float *a, int lda, const float *b,
                int ldb, float beta, float *c, int ldc);

#endif
