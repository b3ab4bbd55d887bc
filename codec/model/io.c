/* io.c - see io.h. */
#include "io.h"

#include <stdlib.h>
#include <string.h>

#define CHUNK 256 /* array items converted at a time */

uint32_t io_get(const uint8_t *p, int n_bytes)
{
    uint32_t v = 0;
    for (int i = n_bytes; i-- > 0;) v = v << 8 | p[i];
    return v;
}

void io_put(uint8_t *p, int n_bytes, uint32_t v)
{
    for (int i = 0; i < n_bytes; i++) p[i] = (uint8_t)(v >> (8 * i));
}

static bool reserve(io *s, size_t n)
{
    if (n <= s->cap - s->size) return true;
    if (n > SIZE_MAX / 4 || s->size > SIZE_MAX / 4) return false;
    size_t cap = 2 * s->size + n + 1024;
    uint8_t *out = realloc(s->out, cap);
    if (!out) return false;
    s->out = out;
    s->cap = cap;
    return true;
}

void io_bytes(io *s, void *p, size_t n)
{
    if (s->mode == IO_LOAD) {
        if (s->bad || n > (size_t)(s->end - s->p)) {
            s->bad = true;
            memset(p, 0, n);
            return;
        }
        if (n) memcpy(p, s->p, n);
        s->p += n;
    } else if (s->mode == IO_HASH) {
        nsvq_sha256_add(s->hash, p, n);
    } else if (!s->no_memory && reserve(s, n)) {
        if (n) memcpy(s->out + s->size, p, n);
        s->size += n;
    } else {
        s->no_memory = true;
    }
}

static uint32_t number(io *s, uint32_t v, int n_bytes, uint32_t min, uint32_t max)
{
    uint8_t raw[4];
    io_put(raw, n_bytes, v);
    io_bytes(s, raw, (size_t)n_bytes);
    v = io_get(raw, n_bytes);
    if (v < min || v > max) s->bad = true;
    return s->bad ? 0 : v;
}

void io_u8(io *s, uint8_t *v, uint32_t min, uint32_t max)
{
    uint32_t w = number(s, *v, 1, min, max);
    if (s->mode == IO_LOAD) *v = (uint8_t)w;
}

void io_u16(io *s, uint16_t *v, uint32_t min, uint32_t max)
{
    uint32_t w = number(s, *v, 2, min, max);
    if (s->mode == IO_LOAD) *v = (uint16_t)w;
}

void io_u32(io *s, uint32_t *v, uint32_t min, uint32_t max)
{
    uint32_t w = number(s, *v, 4, min, max);
    if (s->mode == IO_LOAD) *v = w;
}

static void load_item(uint8_t *item, const uint8_t *raw, int n_bytes)
{
    uint32_t v = io_get(raw, n_bytes);
    uint16_t v16 = (uint16_t)v;
    if (n_bytes == 2)
        memcpy(item, &v16, 2);
    else
        memcpy(item, &v, 4);
}

static uint32_t item_value(const uint8_t *item, int n_bytes)
{
    uint32_t v;
    uint16_t v16;
    if (n_bytes == 2) {
        memcpy(&v16, item, 2);
        return v16;
    }
    memcpy(&v, item, 4);
    return v;
}

static uint8_t *new_array(io *s, size_t n, int n_bytes)
{
    if (s->bad || n > (size_t)(s->end - s->p) / (size_t)n_bytes) {
        s->bad = true;
        return NULL;
    }
    uint8_t *p = n ? malloc(n * (size_t)n_bytes) : NULL;
    if (n && !p) s->bad = s->no_memory = true;
    return p;
}

/* items [n]; returns them, or newly loaded ones. n_bytes: 1, 2 or 4. */
static void *array(io *s, void *items, size_t n, int n_bytes)
{
    uint8_t raw[CHUNK * 4];
    uint8_t *p = items;

    if (s->mode == IO_LOAD && !(p = new_array(s, n, n_bytes))) return NULL;
    if (n_bytes == 1) {
        io_bytes(s, p, n);
        return p;
    }
    for (size_t at = 0; at < n; at += CHUNK) {
        size_t k = n - at < CHUNK ? n - at : CHUNK, step = (size_t)n_bytes;
        uint8_t *item = p + at * step;
        if (s->mode != IO_LOAD)
            for (size_t i = 0; i < k; i++)
                io_put(raw + i * step, n_bytes, item_value(item + i * step, n_bytes));
        io_bytes(s, raw, k * step);
        if (s->mode == IO_LOAD)
            for (size_t i = 0; i < k; i++) load_item(item + i * step, raw + i * step, n_bytes);
    }
    return p;
}

void io_u8s(io *s, uint8_t **p, size_t n)
{
    *p = array(s, *p, n, 1);
}

void io_s8s(io *s, int8_t **p, size_t n)
{
    *p = array(s, *p, n, 1);
}

void io_s16s(io *s, int16_t **p, size_t n)
{
    *p = array(s, *p, n, 2);
}

void io_u16s(io *s, uint16_t **p, size_t n)
{
    *p = array(s, *p, n, 2);
}

void io_s32s(io *s, int32_t **p, size_t n)
{
    *p = array(s, *p, n, 4);
}
