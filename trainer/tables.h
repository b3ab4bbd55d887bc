/* tables.h - the symbol tables of the hyper family's 64 classes of scales (FORMAT.md, "Residuals"). */
#ifndef NSVQ_TRAINER_TABLES_H
#define NSVQ_TRAINER_TABLES_H

#include <stdint.h>

#include "trellis.h"

/* Those of dependent quantisation, whose steps are finer; rows of freq as in nsvq_trellis. */
typedef struct trellis_tables {
    uint8_t  first_class;
    uint16_t freq[2 * NSVQ_N_CLASSES * NSVQ_CLASS_SYMBOLS];
    trellis  search;
} trellis_tables;

typedef struct class_tables {
    int      lambda;      /* of the encoder's choice: squared steps per bit, unit 1/1024 */
    uint8_t  first_class;
    uint16_t freq[NSVQ_N_CLASSES * NSVQ_CLASS_SYMBOLS];
    symbol_costs costs[NSVQ_N_CLASSES];
    trellis_tables *trellis; /* NULL: each latent is quantised on its own */
} class_tables;

#define TABLES_REACH 2047 /* residuals beyond are counted there */

/* What was seen of each class: residuals, and by how many squared steps they lowered the error. */
typedef struct class_counts {
    double n[NSVQ_N_CLASSES][2 * TABLES_REACH + 1];
    double gain[NSVQ_N_CLASSES];
} class_counts;

typedef struct trellis_counts {
    double n[2 * NSVQ_N_CLASSES][2 * TABLES_REACH + 1]; /* indices */
} trellis_counts;

/* Tables for the counts, with the logistic density of each class for what was seldom seen; lambda stays, and so
 * does trellis.
 * counts NULL: that alone, and every class coded. */
void tables_make(class_tables *t, const class_counts *counts);
/* The same for t->trellis, whose first_class stays. */
void tables_make_trellis(class_tables *t, const trellis_counts *counts);
/* What the residuals of a block have cost, and what leaving classes out has cost more than coding them would. */
typedef struct choice_sums { int64_t spent, skipping; } choice_sums;
/* The encoder's choice for d / step, both in one unit: the nearest or the next towards 0 by squared
 * error + lambda * bits; of a latent without trellis, or of a hyper-latent. */
int  tables_choose(const class_tables *t, int first_class, int cls, int d, int step, choice_sums *sums);
int  tables_choose_z(const class_tables *t, int cls, int d, int step);

#endif
