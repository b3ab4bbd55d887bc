/* writemodel.c - writes a small random model that the library does not ship: writemodel SEED FILE */
#include <stdio.h>
#include <stdlib.h>

#include "testmodel.h"

int main(int argc, char **argv)
{
    nsvq_model_desc model;
    size_t size = 0;

    if (argc != 3 || !testmodel_make(&model, TESTMODEL_SMALL, strtoull(argv[1], NULL, 10))) return 2;
    uint8_t *bytes = nsvq_model_store(&model, NSVQ_STORE_ANALYSIS, &size);
    FILE *f = fopen(argv[2], "wb");
    int ok = bytes && f && fwrite(bytes, 1, size, f) == size;
    if (f && fclose(f) != 0) ok = 0;
    free(bytes);
    nsvq_model_free(&model);
    return ok ? 0 : 1;
}
