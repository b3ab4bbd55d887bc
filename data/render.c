/* render.c - pixels of a scene, tile by tile. A tile is drawn with a margin wide enough for the
 * shadows and the blur that reach into it, so tiles meet without a seam. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "scenes.h"

#define SS 2                  /* samples per pixel and axis */
#define STEP (SCENE_GSD / SS) /* metres between samples */
#define MARGIN 112            /* pixels: shadows of the highest things */
#define TALLEST 18.0f

typedef struct sample {
    float height;
    rgb colour;
} sample;

typedef struct canvas {
    const scene *s;
    int w, h;     /* samples, margin included */
    float x0, y0; /* world place of sample 0, 0 */
    sample *at;   /* w x h */
} canvas;

static rgb scale(rgb c, float k)
{
    return (rgb){c.r * k, c.g * k, c.b * k};
}

static rgb mix(rgb a, rgb b, float t)
{
    t = t < 0 ? 0 : t > 1 ? 1 : t;
    return (rgb){a.r + (b.r - a.r) * t, a.g + (b.g - a.g) * t, a.b + (b.b - a.b) * t};
}

/* ---- ground ---- */

static rgb crop_colour(const scene *s, const spot *p, float u, float v)
{
    static const rgb crops[] = {
        {0.07f, 0.12f, 0.035f}, {0.10f, 0.15f, 0.05f}, {0.05f, 0.10f, 0.04f},
        {0.33f, 0.27f, 0.15f},  {0.40f, 0.34f, 0.20f}, {0.20f, 0.14f, 0.09f},
        {0.15f, 0.10f, 0.07f},  {0.30f, 0.30f, 0.06f}, {0.24f, 0.21f, 0.13f}};
    uint32_t state = hash3(s->seed, p->id, 41);
    const int dry = draw(&state, 0, 1) < s->dryness ? 3 : 0;
    const rgb c = crops[(int)draw(&state, (float)dry, dry ? 8.99f : 6.99f)];
    const float period = draw(&state, 0.7f, 3.2f), strength = draw(&state, 0.02f, 0.16f);
    const float along = p->across ? v : u, across = p->across ? u : v;

    const float uneven = 1 + 0.22f * octaves(p->id, u / 45, v / 45, 4);
    const float rows = sinf(6.2832f * across / period + noise(p->id + 1, along / 9, across / 9)) *
                       (0.6f + 0.4f * noise(p->id + 2, u / 15, v / 15));
    const float grain = 0.10f * noise(p->id + 3, along / 0.9f, across / 0.35f) +
                        0.08f * noise(p->id + 4, u / 0.4f, v / 0.4f);
    rgb out = scale(c, uneven * (1 + strength * rows + grain));

    const float tram = draw(&state, 15, 27); // wheel tracks of the sprayer, in pairs
    const float d = fabsf(fmodf(across + 1000 * tram, tram) - tram / 2);
    if (fabsf(d - 0.9f) < 0.25f && strength > 0.05f)
        out = mix(out, (rgb){0.16f, 0.12f, 0.08f}, 0.45f);
    const rgb verge = {0.11f, 0.125f, 0.05f};
    return mix(out, scale(verge, 1 + 0.3f * noise(9, u, v)), 1.3f - p->edge / 1.4f);
}

static rgb grass_colour(const scene *s, uint32_t id, float u, float v, bool mown)
{
    const float dry = s->dryness * 0.7f + 0.4f * octaves(id, u / 30, v / 30, 4);
    rgb c = mix((rgb){0.065f, 0.115f, 0.035f}, (rgb){0.21f, 0.18f, 0.085f}, dry);
    c = scale(c, 1 + 0.25f * octaves(id + 7, u / 3.1f, v / 3.1f, 3) +
                     (mown ? 0.05f * (sinf(u * 4.2f) > 0 ? 1.0f : -1.0f) : 0));
    const float bare = octaves(id + 17, u / 9, v / 9, 3);
    return bare > 0.38f ? mix(c, (rgb){0.25f, 0.20f, 0.14f}, (bare - 0.38f) * 6) : c;
}

static rgb road_colour(const scene *s, const spot *p, float u, float v)
{
    const float grey = 0.105f + 0.03f * octaves(s->seed + 51, u / 20, v / 20, 3) +
                       0.012f * noise(s->seed + 52, u / 0.3f, v / 0.3f);
    rgb c = {grey, grey * 0.985f, grey * 0.96f};
    const float half = p->width / 2, side = fabsf(p->road);
    if (p->kind == GROUND_TRACK) {
        const rgb dirt =
            scale((rgb){0.30f, 0.25f, 0.18f}, 1 + 0.2f * noise(51, u / 1.5f, v / 1.5f));
        return side < 0.35f ? mix(dirt, grass_colour(s, 51, u, v, false), 0.7f) : dirt;
    }
    if (half - side < 1.1f) // pavement
        c = scale((rgb){0.27f, 0.26f, 0.245f}, 1 + 0.06f * noise(52, u / 0.6f, v / 0.6f));
    else if (half - side < 1.25f)
        c = scale(c, 0.8f);
    else if (p->width > 7 && side < 0.09f && fmodf(p->along + 9000, 6) < 3)
        c = (rgb){0.55f, 0.55f, 0.53f};
    else if (octaves(s->seed + 53, u / 4, v / 4, 4) > 0.42f) // patched
        c = scale(c, 0.7f);
    return c;
}

static rgb water_colour(const scene *s, float u, float v)
{
    const float ripple = octaves(s->seed + 61, u / 1.2f, v / 2.6f, 3);
    const float depth = octaves(s->seed + 62, u / 40, v / 40, 3);
    rgb c = mix((rgb){0.022f, 0.036f, 0.036f}, (rgb){0.05f, 0.06f, 0.04f}, 0.5f + depth);
    return scale(c, 1 + 0.22f * ripple);
}

static rgb ground_colour(const scene *s, float x, float y)
{
    float u, v;
    scene_to_plan(s, x, y, &u, &v);
    const spot p = scene_spot(s, u, v);
    rgb c = {0, 0, 0};

    switch (p.kind) {
    case GROUND_CROP:
        c = crop_colour(s, &p, u, v);
        break;
    case GROUND_MEADOW:
        c = grass_colour(s, p.id, u, v, false);
        break;
    case GROUND_FOREST:
        c = scale((rgb){0.075f, 0.07f, 0.04f}, 1 + 0.4f * octaves(p.id, u / 2, v / 2, 3));
        break;
    case GROUND_GARDEN:
        c = grass_colour(
            s, hash3(p.id, (uint32_t)(int32_t)floorf(u / 19), (uint32_t)(int32_t)floorf(v / 22)), u,
            v, true);
        break;
    case GROUND_YARD:
        c = scale((rgb){0.17f, 0.165f, 0.155f}, 1 + 0.25f * octaves(p.id, u / 12, v / 12, 4));
        if (p.edge < 2.5f) c = grass_colour(s, p.id, u, v, true);
        break;
    case GROUND_WATER:
        return water_colour(s, u, v);
    case GROUND_ROAD:
    case GROUND_TRACK:
        c = road_colour(s, &p, u, v);
        break;
    }
    return scale(c, 1 + 0.12f * octaves(s->seed + 63, x / 120, y / 120, 3));
}

/* ---- things ---- */

static void put(sample *p, float height, rgb colour)
{
    if (height < p->height) return;
    p->height = height;
    p->colour = colour;
}

static void draw_tree(const thing *t, float x, float y, sample *p)
{
    const float dx = x - t->x, dy = y - t->y, r = hypotf(dx, dy) / t->len;
    if (r > 1.25f) return;
    const float lumps =
        noise(t->id, x / 0.8f, y / 0.8f) + 0.6f * noise(t->id + 1, x / 0.35f, y / 0.35f);
    const float q = r * (1 + 0.22f * noise(t->id + 2, 3 * dx / (r * t->len + 0.1f),
                                           3 * dy / (r * t->len + 0.1f)));
    if (q > 1) return;
    put(p, t->height * (0.45f + 0.55f * sqrtf(1 - q * q)) + 0.35f * lumps,
        scale(t->colour, 1.05f + 0.22f * lumps));
}

static void draw_roof(const thing *t, float a, float b, sample *p)
{
    const float slope = t->kind == THING_HOUSE ? (t->wid - fabsf(b)) * 0.75f : 0;
    float k = 1 + 0.05f * noise(t->id, a / 0.3f, b / 0.3f) + 0.10f * noise(t->id + 1, a / 2, b / 2);
    float height = t->height + slope;
    rgb c = t->colour;

    if (t->kind == THING_HOUSE) {
        k *= 1 + 0.07f * sinf(6.2832f * b / 0.6f);                       // courses of tiles
        if (fabsf(a - 0.4f * t->len) < 0.4f && fabsf(b - 0.8f) < 0.4f) { // chimney
            height += 1.2f;
            c = (rgb){0.22f, 0.13f, 0.10f};
        } else if (t->id % 5 == 0 && b > 0.7f && b < t->wid - 0.9f && fabsf(a) < 0.6f * t->len) {
            c = (rgb){0.025f, 0.03f, 0.06f}; // solar panels
            k = fmodf(a + 90, 1.0f) < 0.08f ? 4.0f : 1.0f;
        }
    } else {
        k *= fmodf(a + 900, 6) < 0.25f ? 0.88f : 1.0f; // sheets
        if (t->wid - fabsf(b) < 0.5f || t->len - fabsf(a) < 0.5f) height += 0.5f;
        if (fmodf(a + 900, 14) < 2.5f && fmodf(b + 900, 11) < 1.8f && t->len - fabsf(a) > 3) {
            height += 1.1f; // machines and skylights
            k *= 0.75f;
        }
    }
    put(p, height, scale(c, k));
}

static void draw_flat(const thing *t, float a, float b, sample *p)
{
    if (t->kind == THING_POOL) {
        const bool rim = t->len - fabsf(a) < 0.4f || t->wid - fabsf(b) < 0.4f;
        put(p, 0.05f,
            rim ? (rgb){0.42f, 0.40f, 0.37f} : scale(t->colour, 1 + 0.12f * noise(t->id, a, b)));
        return;
    }
    if (t->kind == THING_DRIVE) {
        put(p, 0.02f, scale(t->colour, 1 + 0.08f * noise(t->id, a / 0.5f, b / 0.5f)));
        return;
    }
    const bool glass = (a > 0.3f && a < 0.9f) || (a < -1.0f && a > -1.5f);
    put(p, fabsf(a) > 1.4f ? 0.9f : t->height, glass ? (rgb){0.04f, 0.05f, 0.06f} : t->colour);
}

static void draw_thing(const canvas *cv, const thing *t)
{
    const float reach = t->kind == THING_TREE ? 1.25f * t->len : hypotf(t->len, t->wid);
    const int i0 = (int)fmaxf(0, floorf((t->x - reach - cv->x0) / STEP));
    const int j0 = (int)fmaxf(0, floorf((t->y - reach - cv->y0) / STEP));
    const int i1 = (int)fminf((float)cv->w, ceilf((t->x + reach - cv->x0) / STEP));
    const int j1 = (int)fminf((float)cv->h, ceilf((t->y + reach - cv->y0) / STEP));

    for (int j = j0; j < j1; j++)
        for (int i = i0; i < i1; i++) {
            const float x = cv->x0 + (float)i * STEP, y = cv->y0 + (float)j * STEP;
            const float a = (x - t->x) * t->dx + (y - t->y) * t->dy;
            const float b = (y - t->y) * t->dx - (x - t->x) * t->dy;
            sample *p = &cv->at[(size_t)j * (size_t)cv->w + (size_t)i];
            if (t->kind == THING_TREE)
                draw_tree(t, x, y, p);
            else if (fabsf(a) > t->len || fabsf(b) > t->wid)
                continue;
            else if (t->kind == THING_HOUSE || t->kind == THING_HALL)
                draw_roof(t, a, b, p);
            else
                draw_flat(t, a, b, p);
        }
}

static void draw_things(const canvas *cv)
{
    const scene *s = cv->s;
    const float pad = 60; // as the plan's margin; longer than half of any thing
    const int i0 = (int)fmaxf(0, floorf(cv->x0 / SCENE_CELL));
    const int j0 = (int)fmaxf(0, floorf(cv->y0 / SCENE_CELL));
    const float x1 = cv->x0 + (float)cv->w * STEP, y1 = cv->y0 + (float)cv->h * STEP;
    for (int j = j0; j < s->n_cells && (float)j * SCENE_CELL < y1 + 2 * pad; j++)
        for (int i = i0; i < s->n_cells && (float)i * SCENE_CELL < x1 + 2 * pad; i++) {
            const int cell = j * s->n_cells + i;
            for (int k = s->cells[cell]; k < s->cells[cell + 1]; k++)
                draw_thing(cv, &s->things[s->order[k]]);
        }
}

/* ---- light ---- */

static float height_at(const canvas *cv, int i, int j)
{
    i = i < 0 ? 0 : i >= cv->w ? cv->w - 1 : i;
    j = j < 0 ? 0 : j >= cv->h ? cv->h - 1 : j;
    return cv->at[(size_t)j * (size_t)cv->w + (size_t)i].height;
}

/* 1 in the sun, 0 in the shade of something between. */
static float sunlit(const canvas *cv, int i, int j)
{
    const scene *s = cv->s;
    const float level = hypotf(s->sun_x, s->sun_y), rise = s->sun_z / level * STEP;
    const float di = s->sun_x / level, dj = s->sun_y / level;
    const float start = height_at(cv, i, j);
    float clear = 1;

    for (int k = 2; start + (float)k * rise < TALLEST; k++) {
        const int ni = i + (int)lrintf(di * (float)k), nj = j + (int)lrintf(dj * (float)k);
        if (ni < 0 || nj < 0 || ni >= cv->w || nj >= cv->h) break;
        const float over = height_at(cv, ni, nj) - start - (float)k * rise;
        if (over > 0) clear = fminf(clear, 1 - over / (0.25f + 0.02f * (float)k));
        if (clear <= 0) return 0;
    }
    return clear;
}

static float cloud(const scene *s, float x, float y)
{
    if (s->clouds <= 0) return 0;
    const float d = octaves(s->seed + 71, x / 150, y / 150, 6) - 0.62f + s->clouds;
    return d < 0 ? 0 : fminf(1, d * 5);
}

static rgb lit(const canvas *cv, int i, int j)
{
    const scene *s = cv->s;
    const float x = cv->x0 + (float)i * STEP, y = cv->y0 + (float)j * STEP;
    const sample *p = &cv->at[(size_t)j * (size_t)cv->w + (size_t)i];
    const float gx = (height_at(cv, i + 1, j) - height_at(cv, i - 1, j)) / (2 * STEP);
    const float gy = (height_at(cv, i, j + 1) - height_at(cv, i, j - 1)) / (2 * STEP);
    const float cx = fmaxf(-1.2f, fminf(1.2f, gx)), cy = fmaxf(-1.2f, fminf(1.2f, gy));
    const float facing =
        fmaxf(0, (s->sun_z - cx * s->sun_x - cy * s->sun_y) / sqrtf(1 + cx * cx + cy * cy));
    const float shade = 1 - 0.75f * cloud(s, x + 90 * s->sun_x, y + 90 * s->sun_y);
    const float direct = 0.92f * facing / s->sun_z * sunlit(cv, i, j) * shade;
    rgb c = {p->colour.r * (direct + 0.15f), p->colour.g * (direct + 0.17f),
             p->colour.b * (direct + 0.22f)}; // the sky lights the shade blue
    const float white = cloud(s, x, y);
    if (white > 0)
        c = mix(c, scale((rgb){0.72f, 0.73f, 0.75f}, 1 + 0.2f * octaves(71, x / 25, y / 25, 4)),
                white);
    const rgb veil = {0.7f * s->haze, 0.85f * s->haze, 1.25f * s->haze};
    return (rgb){c.r + veil.r, c.g + veil.g, c.b + veil.b};
}

/* ---- sensor ---- */

/* Mean of the samples under a soft spot of about 1.3 pixels: light in, so linear values. */
static rgb exposed(const rgb *light, int stride, int i, int j)
{
    static const float weight[6] = {0.06f, 0.17f, 0.27f, 0.27f, 0.17f, 0.06f};
    rgb sum = {0, 0, 0};
    for (int dj = 0; dj < 6; dj++)
        for (int di = 0; di < 6; di++) {
            const rgb c = light[(size_t)(j + dj) * (size_t)stride + (size_t)(i + di)];
            const float k = weight[di] * weight[dj];
            sum.r += k * c.r, sum.g += k * c.g, sum.b += k * c.b;
        }
    return sum;
}

static uint8_t digit(const scene *s, float light, int x, int y, uint32_t channel)
{
    const float exposure = 1.6f;
    const float v = 255 * powf(fminf(1, fmaxf(0, light * exposure)), 1 / 2.1f);
    const uint32_t h = hash3((uint32_t)x, (uint32_t)y, s->seed + 81 + channel);
    const float gauss = unit(h) + unit(hash3(h, 1, 0)) + unit(hash3(h, 2, 0)) - 1.5f; // sigma 0.5
    return (uint8_t)lrintf(fminf(255, fmaxf(0, v + 2.2f * gauss)));
}

bool scene_render(const scene *s, int x, int y, int w, int h, uint8_t *rgb_out)
{
    const int pad = 2; // samples that the sensor's spot reaches beyond the tile
    canvas cv = {s,
                 (w + 2 * MARGIN) * SS,
                 (h + 2 * MARGIN) * SS,
                 ((float)x - MARGIN) * SCENE_GSD,
                 ((float)y - MARGIN) * SCENE_GSD,
                 NULL};
    const int lw = w * SS + 2 * pad, lh = h * SS + 2 * pad, first = MARGIN * SS - pad;
    rgb *light = malloc((size_t)lw * (size_t)lh * sizeof *light);
    cv.at = calloc((size_t)cv.w * (size_t)cv.h, sizeof *cv.at);

    if (light && cv.at) {
        for (int j = first; j < first + lh; j++)
            for (int i = first; i < first + lw; i++)
                cv.at[(size_t)j * (size_t)cv.w + (size_t)i].colour =
                    ground_colour(s, cv.x0 + (float)i * STEP, cv.y0 + (float)j * STEP);
        draw_things(&cv);
        for (int j = 0; j < lh; j++)
            for (int i = 0; i < lw; i++)
                light[(size_t)j * (size_t)lw + (size_t)i] = lit(&cv, first + i, first + j);
        for (int j = 0; j < h; j++)
            for (int i = 0; i < w; i++) {
                const rgb c = exposed(light, lw, i * SS, j * SS);
                uint8_t *out = rgb_out + 3 * ((size_t)j * (size_t)w + (size_t)i);
                out[0] = digit(s, c.r, x + i, y + j, 0);
                out[1] = digit(s, c.g, x + i, y + j, 1);
                out[2] = digit(s, c.b, x + i, y + j, 2);
            }
    }
    const bool ok = light && cv.at;
    free(light);
    free(cv.at);
    return ok;
}
