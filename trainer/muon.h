/* muon.h - steps of matrices by their orthogonalised momentum.
 * Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024); the size of a
 * step after J. Liu et al., "Muon is scalable for LLM training" (arXiv 2502.16982, 2025). */
#ifndef NSVQ_TRAINER_MUON_H
#define NSVQ_TRAINER_MUON_H

#define MUON_RATE 3.f /* of the learning rate, for matrices */
#define MUON_MOMENTUM 0.95f
#define MUON_SIZE 0.2f /* root mean square of a step at rate 1 */
#define MUON_ROUNDS 5  /* of x <- (MUON_A + MUON_B x x^T + MUON_D (x x^T)^2) x */
#define MUON_A 3.4445f
#define MUON_B (-4.7750f)
#define MUON_D 2.0315f

/* p [rows][cols] moves by `rate` times a matrix whose singular values are all about 1 and whose root mean
 * square is about 0.2, as AdamW's is; m [rows][cols] is its momentum, g the gradient times `scale`. column
 * [cols], or NULL: steps of a column are in these units. */
void muon_step(float *p, float *m, const float *g, float scale, const float *column, int rows, int cols,
               float rate);

#endif
