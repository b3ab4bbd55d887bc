/* shipped.h - the models compiled into the library: a table that codec/tool/embed.c generates. */
#ifndef NSVQ_SHIPPED_H
#define NSVQ_SHIPPED_H

#include "nsvq.h"

typedef struct shipped {
    const char *name;
    uint64_t id;
    int family, stride;
    const uint8_t *bytes, *end;
} shipped;

extern const shipped shipped_models[];
extern const int n_shipped_models;
extern nsvq_model *shipped_loaded[]; /* NULL until asked for; never released */

#endif
