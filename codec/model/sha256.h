/* sha256.h - SHA-256 (FIPS 180-4), for content ids. May include: the standard library only. */
#ifndef NSVQ_SHA256_H
#define NSVQ_SHA256_H

#include <stddef.h>
#include <stdint.h>

typedef struct nsvq_sha256 {
    uint32_t state[8];
    uint64_t n_bytes;
    uint8_t  block[64];
} nsvq_sha256;

void nsvq_sha256_init(nsvq_sha256 *h);
void nsvq_sha256_add(nsvq_sha256 *h, const void *bytes, size_t n);
void nsvq_sha256_end(nsvq_sha256 *h, uint8_t digest[32]);

#endif
