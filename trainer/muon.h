/* muon.h - steps of matrices by their orthogonalised momentum.
 * Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024); the size of a
 * step after J. Liu et al., "Muon is scalable for LLM training" (arXiv 2502.16982, 2025). */
#ifndef NSVQ_TRAINER_MUON_H
#define NSVQ_TRAINER_MUON_H

/* p [rows][cols] moves by `rate` times a matrix whose singular values are all about 1 and whose root mean
 * square is about 0.2, as AdamW's is; m [rows][cols] is its momentum, g the gradient times `scale`. column
 * [cols], or NULL: steps of a column are in these units. */
void muon_step(float *p, float *m, const float *g, float scale, const float *column, int rows, int cols,
               float rate);

#endif
