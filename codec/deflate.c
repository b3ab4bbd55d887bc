/* deflate.c - zlib in one call each, for the parts whose sizes are known. */
#include "codec.h"

#include <limits.h>
#define ZLIB_CONST
#include <zlib.h>

int inflate_exact(uint8_t *out, size_t out_size, const uint8_t *in, size_t in_size, bool words)
{
    z_stream z = {0};
    uint8_t none; // zlib wants a place even for nothing
    int rc;

    if (in_size > UINT_MAX || out_size > UINT_MAX) return -1;
    if (inflateInit2(&z, -MAX_WBITS) != Z_OK) return -2;
    z.next_in = in;
    z.avail_in = (uInt)in_size;
    z.next_out = out_size ? out : &none;
    z.avail_out = (uInt)out_size;
    rc = words ? inflateSetDictionary(&z, (const Bytef *)meta_words, (uInt)meta_words_bytes) : Z_OK;
    if (rc == Z_OK) rc = inflate(&z, Z_FINISH);
    inflateEnd(&z);
    if (rc == Z_MEM_ERROR) return -2;
    return rc == Z_STREAM_END && !z.avail_in && !z.avail_out ? 0 : -1;
}

void wr_deflate(wr *w, const uint8_t *in, size_t n, bool words)
{
    z_stream z = {0};
    size_t bound, before = w->size;
    uint8_t *p;

    if (n > UINT_MAX / 2 || deflateInit2(&z, 9, Z_DEFLATED, -MAX_WBITS, 9, Z_DEFAULT_STRATEGY)) {
        w->bad = true;
        return;
    }
    bound = deflateBound(&z, (uLong)n);
    p = wr_room(w, bound);
    if (p) {
        z.next_in = in;
        z.avail_in = (uInt)n;
        z.next_out = p;
        z.avail_out = (uInt)bound;
        if (words) deflateSetDictionary(&z, (const Bytef *)meta_words, (uInt)meta_words_bytes);
        int rc = deflate(&z, Z_FINISH);
        w->size = before + bound - z.avail_out;
        w->bad |= rc != Z_STREAM_END;
    }
    deflateEnd(&z);
}
