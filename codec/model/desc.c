/* desc.c - proves that a model is sound before anything runs it.
 *
 * After nsvq_model_check the engine and the kernels assert nothing about shapes any more.
 * Invariants: (1) a register is written once, before it is read, and is read (or is the output);
 *   (2) for every layer and channel sum |wt| * max|in| + |bias| <= INT32_MAX, so any order of
 *       summation gives the same bits;
 *   (3) sums of the codebook search stay inside int32 (kernels.h, search): dim <= 32.
 * May include: desc.h. */
#include "desc.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define MAX_U8 255
#define MAX_S16 32768 /* a saturated residual sum may be -32768 */
#define MAX_PIXEL 128
#define MAX_DIM 32
#define MAX_SHIFT 24
#define MAX_SEED_SHIFT 6
#define MAX_GAIN 2048 /* 8 octaves of 1/256, 16 of 1/128 */
#define MAX_RAW_BITS 12
#define MAX_REACH 512 /* pixels: a block */
#define MAX_WORK (UINT64_C(1) << 29) /* multiplications per 64 x 64 pixels: 131 thousand per pixel */

typedef struct reg {
    bool written, read;
    uint8_t type, stride; /* stride: pixels per position, each way */
    uint32_t channels;
    int32_t max; /* of |value| */
    uint32_t reach; /* pixels around its own that a position depends on */
} reg;

static bool has_arrays(const nsvq_layer *l)
{
    return l->wt && l->bias && l->shift && l->mul;
}

/* Largest |acc + bias| of output channel o whose n weights stand `step` apart. */
static int64_t worst_sum(const nsvq_layer *l, int o, const int8_t *wt, int n, int step, int32_t max)
{
    int64_t sum = 0;
    for (int i = 0; i < n; i++) sum += abs(wt[(size_t)i * step]);
    return sum * max + llabs((long long)l->bias[o]);
}

static const char *check_arithmetic(const nsvq_layer *l, int32_t max)
{
    if (!has_arrays(l)) return "layer without weights";
    for (int o = 0; o < l->cout; o++) {
        bool depthwise = l->kind == NSVQ_LAYER_DEPTHWISE;
        int64_t worst = depthwise ? worst_sum(l, o, l->wt + o, l->k * l->k, l->cin, max)
                                  : worst_sum(l, o, l->wt + (size_t)o * l->cin, l->cin, 1, max);
        if (worst > INT32_MAX) return "layer whose sums may overflow";
        if (l->shift[o] > MAX_SHIFT) return "layer with a shift above 24";
        if (l->mul[o] < 0) return "layer with a negative multiplier";
    }
    return NULL;
}

static const char *check_pointwise(const nsvq_layer *l, const reg *src, const reg *res, reg *dst)
{
    if (l->k != 1 || l->rep < 1 || l->cin < 1 || l->cout < 1) return "pointwise layer: bad shape";
    if (src->channels != (uint32_t)l->cin * l->rep) return "pointwise layer: input channels differ";
    if (l->out_type != NSVQ_U8 && l->out_type != NSVQ_S16)
        return "pointwise layer: bad output type";
    dst->channels = (uint32_t)l->cout * l->rep;
    if (res && (res->channels != dst->channels || res->stride != src->stride))
        return "pointwise layer: residual of another shape";
    dst->stride = src->stride;
    dst->max = l->out_type == NSVQ_U8 ? MAX_U8 : MAX_S16;
    return check_arithmetic(l, src->max);
}

static const char *check_depthwise(const nsvq_layer *l, const reg *src, const reg *res, reg *dst)
{
    if ((l->k != 3 && l->k != 5) || l->rep != 1 || res) return "depthwise layer: bad shape";
    if (l->cin != src->channels || l->cin != l->cout || l->cin % 16)
        return "depthwise layer: bad channels";
    if (l->in_type != NSVQ_S16 || l->out_type != NSVQ_U8) return "depthwise layer: not s16 to u8";
    dst->channels = l->cout;
    dst->stride = src->stride;
    dst->max = MAX_U8;
    return check_arithmetic(l, src->max);
}

static const char *check_space_to_depth(const nsvq_layer *l, const reg *src, const reg *res,
                                        reg *dst)
{
    if ((l->k != 2 && l->k != 4) || l->rep != 1 || res) return "space to depth: bad shape";
    if (l->wt || l->bias || l->shift || l->mul) return "space to depth: has weights";
    if (l->cin != src->channels || l->cout != (uint32_t)l->cin * l->k * l->k)
        return "space to depth: bad channels";
    if (l->out_type != l->in_type) return "space to depth: changes the type";
    if (src->stride * l->k > NSVQ_Z_STRIDE) return "space to depth: beyond the coarsest grid";
    dst->channels = l->cout;
    dst->stride = (uint8_t)(src->stride * l->k);
    dst->max = src->max;
    return NULL;
}

static const char *check_layer(const nsvq_layer *l, reg *regs)
{
    if (l->src >= NSVQ_MAX_REGISTERS || l->dst >= NSVQ_MAX_REGISTERS ||
        (l->res >= NSVQ_MAX_REGISTERS && l->res != NSVQ_NO_REGISTER))
        return "layer with a register out of range";

    reg *src = &regs[l->src], *dst = &regs[l->dst];
    reg *res = l->res == NSVQ_NO_REGISTER ? NULL : &regs[l->res];
    if (!src->written || (res && !res->written)) return "layer reads an unwritten register";
    if (dst->written) return "layer writes a register again";
    if (l->in_type != src->type) return "layer whose input type differs from its register";

    const char *why = "unknown layer kind";
    if (l->kind == NSVQ_LAYER_POINTWISE)
        why = check_pointwise(l, src, res, dst);
    else if (l->kind == NSVQ_LAYER_DEPTHWISE)
        why = check_depthwise(l, src, res, dst);
    else if (l->kind == NSVQ_LAYER_SPACE_TO_DEPTH)
        why = check_space_to_depth(l, src, res, dst);
    if (why) return why;
    if (dst->channels > NSVQ_MAX_CHANNELS) return "layer with too many channels";
    dst->reach = res && res->reach > src->reach ? res->reach : src->reach;
    if (l->kind == NSVQ_LAYER_DEPTHWISE) dst->reach += l->k / 2 * src->stride;
    if (dst->reach > MAX_REACH) return "layer that reaches beyond a block";

    src->read = true;
    if (res) res->read = true;
    dst->written = true;
    dst->type = l->out_type;
    return NULL;
}

/* Multiplications per 64 x 64 pixels of a sound layer that writes dst. */
static uint64_t work_of(const nsvq_layer *l, const reg *dst)
{
    uint64_t side = NSVQ_Z_STRIDE / dst->stride;

    if (l->kind == NSVQ_LAYER_SPACE_TO_DEPTH) return 0;
    if (l->kind == NSVQ_LAYER_DEPTHWISE) return side * side * l->k * l->k * l->cout;
    return side * side * l->rep * l->cin * l->cout;
}

/* in: what register 0 holds; out: what `output` has to hold (its max does not matter). */
static const char *check_net(const nsvq_net *net, reg in, reg out)
{
    reg regs[NSVQ_MAX_REGISTERS] = {{0}};
    uint64_t work = 0;

    if (net->n_layers < 1 || net->n_layers > NSVQ_MAX_LAYERS) return "network: number of layers";
    if (net->output >= NSVQ_MAX_REGISTERS) return "network: output register out of range";
    regs[0] = in;
    regs[0].written = true;
    for (int i = 0; i < net->n_layers; i++) {
        const char *why = check_layer(&net->layer[i], regs);
        if (why) return why;
        work += work_of(&net->layer[i], &regs[net->layer[i].dst]);
    }
    if (work > MAX_WORK) return "network: too much work per pixel";

    reg *o = &regs[net->output];
    if (net->output == 0 || !o->written || o->type != out.type || o->channels != out.channels ||
        o->stride != out.stride)
        return "network: output of the wrong shape";
    o->read = true;
    for (int i = 0; i < NSVQ_MAX_REGISTERS; i++)
        if (regs[i].written && !regs[i].read) return "network: a result that nothing reads";
    return NULL;
}

static bool plain_shape(const nsvq_layer *l, int in_type, int cin, int out_type, int cout)
{
    return l->kind == NSVQ_LAYER_POINTWISE && l->k == 1 && l->rep == 1 && l->in_type == in_type &&
           l->out_type == out_type && l->cin == cin && l->cout == cout;
}

static const char *check_prior(const nsvq_model_desc *m)
{
    const nsvq_prior *p = &m->prior;
    int n_latent = m->n_slices * m->dim, n_ctx = 4 * n_latent + NSVQ_N_EXTRA;
    int n_cells = (int)(m->n_codes / NSVQ_CELL), h = p->hidden;
    const char *why;

    if (h < 1 || h > NSVQ_MAX_CHANNELS) return "prior: hidden channels";
    for (int i = 0; i < NSVQ_N_PASSES; i++) {
        if (!plain_shape(&p->mean[i], NSVQ_S16, n_ctx, NSVQ_S16, n_latent) ||
            !plain_shape(&p->ctx[i], NSVQ_S16, n_ctx, NSVQ_S16, h))
            return "prior: pass layer of the wrong shape";
        if ((why = check_arithmetic(&p->mean[i], NSVQ_LATENT_MAX))) return why;
        if ((why = check_arithmetic(&p->ctx[i], NSVQ_LATENT_MAX))) return why;
    }
    for (int s = 0; s < m->n_slices; s++) {
        if ((s > 0 && !plain_shape(&p->prev[s], NSVQ_S16, s * m->dim, NSVQ_U8, h)) ||
            !plain_shape(&p->logit[s], NSVQ_U8, h, NSVQ_S16, n_cells) ||
            !plain_shape(&p->shiftm[s], NSVQ_U8, h, NSVQ_S16, m->dim))
            return "prior: slice layer of the wrong shape";
        if (s > 0 && (why = check_arithmetic(&p->prev[s], NSVQ_CODE_MAX))) return why;
        if ((why = check_arithmetic(&p->logit[s], MAX_U8))) return why;
        if ((why = check_arithmetic(&p->shiftm[s], MAX_U8))) return why;
    }

    if (!p->member) return "prior: no member frequencies";
    for (size_t cell = 0; cell < (size_t)m->n_slices * (size_t)n_cells; cell++) {
        uint32_t sum = 0;
        for (int i = 0; i < NSVQ_CELL; i++) {
            uint32_t f = p->member[cell * NSVQ_CELL + (size_t)i];
            if (f < 1) return "prior: a member without frequency";
            sum += f;
        }
        if (sum != 1u << 15) return "prior: member frequencies do not sum to 32768";
    }
    return NULL;
}

static bool name_is_fine(const nsvq_model_desc *m)
{
    size_t n = 0;
    while (n < sizeof m->name && m->name[n] >= 0x20 && m->name[n] < 0x7f) n++;
    for (size_t i = n; i < sizeof m->name; i++)
        if (m->name[i]) return false;
    return n > 0 && n < sizeof m->name;
}

int nsvq_model_set_name(nsvq_model_desc *m, const char *name)
{
    memset(m->name, 0, sizeof m->name);
    if (strlen(name) >= sizeof m->name) return -1;
    memcpy(m->name, name, strlen(name));
    return name_is_fine(m) ? 0 : -1;
}

static const char *check_codes(const nsvq_model_desc *m)
{
    if (m->n_slices < 1 || m->n_slices > NSVQ_MAX_SLICES) return "number of slices";
    if (m->dim < 4 || m->dim % 4 || m->dim > MAX_DIM) return "channels per slice";
    if (m->n_codes < NSVQ_CELL || m->n_codes % NSVQ_CELL || m->n_codes > 4096)
        return "number of codes";
    if (!m->codes) return "no codes";
    for (size_t i = 0; i < (size_t)m->n_slices * m->n_codes * m->dim; i++)
        if (m->codes[i] > NSVQ_CODE_MAX || m->codes[i] < -NSVQ_CODE_MAX) return "code out of range";
    for (int i = 0; i < 3; i++)
        if (m->seed_channel[i] >= m->n_slices * m->dim) return "seed channel out of range";
    if (m->seed_shift > MAX_SEED_SHIFT) return "seed shift above 6";
    return NULL;
}

static const char *check_vq(const nsvq_model_desc *m)
{
    const char *why = check_codes(m);

    if (why) return why;
    if (m->stride != 16) return "stride";
    if (m->latent != m->n_slices * m->dim) return "number of latents";
    return check_prior(m);
}

static const char *check_tables(const uint8_t *shift, const uint8_t *half, const uint16_t *freq, int n_tables)
{
    if (!shift || !half || !freq) return "hyper: no tables";
    for (int c = 0; c < n_tables; c++, freq += NSVQ_CLASS_SYMBOLS) {
        int n = 2 * half[c] + 2;
        uint32_t sum = 0;
        if (shift[c] > MAX_RAW_BITS || n > NSVQ_CLASS_SYMBOLS) return "hyper: bad class";
        for (int i = 0; i < NSVQ_CLASS_SYMBOLS; i++) {
            if ((freq[i] > 0) != (i < n)) return "hyper: a symbol without frequency, or one too many";
            sum += freq[i];
        }
        if (sum != 1u << 15) return "hyper: frequencies do not sum to 32768";
    }
    return NULL;
}

static const char *check_classes(const nsvq_hyper *h)
{
    const nsvq_trellis *t = &h->trellis;
    const char *why = check_tables(h->shift, h->half, h->freq, NSVQ_N_CLASSES);

    if (why) return why;
    if (h->first_class >= NSVQ_N_CLASSES) return "hyper: first class";
    if (!t->shift && !t->half && !t->freq) return NULL;
    return check_tables(t->shift, t->half, t->freq, 2 * NSVQ_N_CLASSES);
}

static const char *check_hyper(const nsvq_model_desc *m)
{
    const nsvq_hyper *h = &m->hyper;
    int n = m->latent, per = NSVQ_Z_STRIDE / m->stride * (NSVQ_Z_STRIDE / m->stride);
    const reg z = {.type = NSVQ_S16, .stride = NSVQ_Z_STRIDE, .channels = h->z};
    const reg y = {.type = NSVQ_S16, .stride = m->stride, .channels = m->latent,
                   .max = NSVQ_LATENT_MAX};
    const reg z_in = {.type = NSVQ_S16, .stride = NSVQ_Z_STRIDE, .channels = h->z + NSVQ_N_EXTRA,
                      .max = NSVQ_LATENT_MAX};
    const reg out = {.type = NSVQ_U8, .stride = NSVQ_Z_STRIDE,
                     .channels = (uint32_t)h->side * (uint32_t)per};
    const char *why;

    if (h->z < 1 || h->z > NSVQ_MAX_Z || h->side < 1) return "hyper: channels";
    if ((why = check_net(&h->synthesis, z_in, out))) return why;
    if (m->has_analysis && (why = check_net(&h->analysis, y, z))) return why;
    if (!plain_shape(&h->scale, NSVQ_U8, h->side, NSVQ_S16, n) ||
        !plain_shape(&h->base, NSVQ_U8, h->side, NSVQ_S16, n))
        return "hyper: side layer of the wrong shape";
    if ((why = check_arithmetic(&h->scale, MAX_U8))) return why;
    if ((why = check_arithmetic(&h->base, MAX_U8))) return why;
    for (int p = 1; p < NSVQ_N_PASSES; p++) {
        if (!plain_shape(&h->mean[p], NSVQ_S16, 4 * n + NSVQ_N_EXTRA, NSVQ_S16, n))
            return "hyper: pass layer of the wrong shape";
        if ((why = check_arithmetic(&h->mean[p], NSVQ_LATENT_MAX))) return why;
    }
    if (!h->gain || !h->z_mean || !h->z_scale) return "hyper: no gains";
    for (int i = 0; i < NSVQ_N_GAINS * (n + h->z); i++)
        if (abs(h->gain[i]) > MAX_GAIN) return "hyper: gain out of range";
    for (int i = 0; h->pass_gain && i < NSVQ_N_PASSES * n; i++)
        if (abs(h->pass_gain[i]) > MAX_GAIN) return "hyper: gain of a pass out of range";
    for (int i = 0; i < h->z; i++)
        if (abs(h->z_mean[i]) > NSVQ_LATENT_MAX || abs(h->z_scale[i]) > MAX_GAIN)
            return "hyper: mean or scale out of range";
    return check_classes(h);
}

const char *nsvq_model_check(const nsvq_model_desc *m)
{
    const char *why;

    if (!name_is_fine(m)) return "name is not 1 to 31 printable ASCII characters, zero-padded";
    if (m->family != NSVQ_FAMILY_VQ && m->family != NSVQ_FAMILY_HYPER) return "unknown family";
    if (m->stride != 8 && m->stride != 16) return "stride";
    if (m->latent < 1 || 4 * m->latent + NSVQ_N_EXTRA > NSVQ_MAX_CHANNELS) return "number of latents";

    bool hyper = m->family == NSVQ_FAMILY_HYPER;
    const reg y = {.type = NSVQ_S16, .stride = m->stride, .channels = m->latent};
    const reg y_hat = {.type = NSVQ_S16, .stride = m->stride, .max = NSVQ_LATENT_MAX,
                       .channels = m->latent + (hyper ? NSVQ_N_EXTRA : 0u)};
    const reg pixels = {.type = NSVQ_S16, .stride = m->stride, .channels = 3u * m->stride * m->stride};
    const reg quarter = {.type = NSVQ_S16, .stride = 4, .channels = 48, .max = MAX_PIXEL};

    if ((why = check_net(&m->synthesis, y_hat, pixels))) return why;
    if (m->has_analysis > 1) return "analysis flag is not 0 or 1";
    if (m->has_analysis && (why = check_net(&m->analysis, quarter, y))) return why;
    return hyper ? check_hyper(m) : check_vq(m);
}

static void free_layer(nsvq_layer *l)
{
    free(l->wt);
    free(l->bias);
    free(l->shift);
    free(l->mul);
}

static void free_hyper(nsvq_hyper *h)
{
    for (int i = 0; i < NSVQ_MAX_LAYERS; i++) {
        free_layer(&h->analysis.layer[i]);
        free_layer(&h->synthesis.layer[i]);
    }
    free_layer(&h->scale);
    free_layer(&h->base);
    for (int i = 0; i < NSVQ_N_PASSES; i++) free_layer(&h->mean[i]);
    free(h->gain);
    free(h->pass_gain);
    free(h->z_mean);
    free(h->z_scale);
    free(h->shift);
    free(h->half);
    free(h->freq);
    free(h->trellis.shift);
    free(h->trellis.half);
    free(h->trellis.freq);
}

void nsvq_model_free(nsvq_model_desc *m)
{
    if (!m) return;
    for (int i = 0; i < NSVQ_MAX_LAYERS; i++) {
        free_layer(&m->analysis.layer[i]);
        free_layer(&m->synthesis.layer[i]);
    }
    free_hyper(&m->hyper);
    for (int i = 0; i < NSVQ_N_PASSES; i++) {
        free_layer(&m->prior.mean[i]);
        free_layer(&m->prior.ctx[i]);
    }
    for (int i = 0; i < NSVQ_MAX_SLICES; i++) {
        free_layer(&m->prior.prev[i]);
        free_layer(&m->prior.logit[i]);
        free_layer(&m->prior.shiftm[i]);
    }
    free(m->prior.member);
    free(m->codes);
    free(m->card);
    free(m->master);
    memset(m, 0, sizeof *m);
}
