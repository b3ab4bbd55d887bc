/* plan.c - what stands where in a scene. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "scenes.h"

struct split { /* a leaf has no children */
    float u0, v0, u1, v1;
    float at, width; /* the border: a road where it has a width */
    bool across;     /* u = at; else v = at */
    bool paved;
    ground kind;
    uint32_t id;
    split *low, *high;
};

#define MARGIN 60.0f /* metres planned beyond the image */
#define BEND 14.0f

/* ---- world and plan ---- */

static void bend(const scene *s, float x, float y, float *u, float *v)
{
    *u = BEND * noise(s->seed + 11, x / 230, y / 230);
    *v = BEND * noise(s->seed + 12, x / 230, y / 230);
}

void scene_to_plan(const scene *s, float x, float y, float *u, float *v)
{
    float bu, bv;
    bend(s, x, y, &bu, &bv);
    *u = s->turn_c * x + s->turn_s * y + bu;
    *v = s->turn_c * y - s->turn_s * x + bv;
}

static void to_world(const scene *s, float u, float v, float *x, float *y)
{
    *x = s->turn_c * u - s->turn_s * v;
    *y = s->turn_c * v + s->turn_s * u;
    for (int i = 0; i < 6; i++) { // the bend is gentle: a few steps come close enough
        float bu, bv;
        bend(s, *x, *y, &bu, &bv);
        *x = s->turn_c * (u - bu) - s->turn_s * (v - bv);
        *y = s->turn_c * (v - bv) + s->turn_s * (u - bu);
    }
}

static bool is_water(const scene *s, float u, float v)
{
    if (s->river_w > 0) {
        const float middle = s->river_y + 70 * noise(s->seed + 21, u / 260, 0.5f) +
                             9 * noise(s->seed + 22, u / 40, 0.5f);
        const float w = s->river_w * (1 + 0.3f * noise(s->seed + 23, u / 90, 0.5f));
        if (fabsf(v - middle) < w + 0.8f * noise(s->seed + 24, u / 4, v / 4)) return true;
    }
    return octaves(s->seed + 25, u / 170, v / 170, 4) < s->pond;
}

/* ---- land ---- */

static ground choose_ground(uint32_t *state, bool town)
{
    const float p = draw(state, 0, 1);
    if (town) return p < 0.72f ? GROUND_GARDEN : p < 0.9f ? GROUND_YARD : GROUND_MEADOW;
    return p < 0.62f ? GROUND_CROP : p < 0.8f ? GROUND_MEADOW : GROUND_FOREST;
}

static void set_border(split *n, bool town, int depth, uint32_t *state)
{
    n->paved = town || depth < 2;
    n->width = depth == 0 ? 8.5f : n->paved ? 6.0f : draw(state, 0, 1) < 0.4f ? 3.0f : 0;
}

static split *divide(const scene *s, float u0, float v0, float u1, float v1, bool town, int depth,
                     uint32_t id)
{
    split *n = calloc(1, sizeof *n);
    if (!n) return NULL;
    const float w = u1 - u0, h = v1 - v0;
    const float stop = town ? 52 : 130;
    uint32_t state = hash3(s->seed, id, 77);

    n->u0 = u0, n->v0 = v0, n->u1 = u1, n->v1 = v1, n->id = id;
    n->across = w > h;
    const float longer = n->across ? w : h;
    if (longer < stop * draw(&state, 1.0f, 1.7f)) {
        n->kind = choose_ground(&state, town);
        n->across = draw(&state, 0, 1) < 0.85f ? h > w : w > h;
        return n;
    }
    n->at = (n->across ? u0 : v0) + longer * draw(&state, 0.36f, 0.64f);
    set_border(n, town, depth, &state);
    const float half = n->width / 2;
    const float chance = longer < 600 ? 0.22f : 0; // that a part becomes a town
    const bool low_town = draw(&state, 0, 1) < chance || town;
    const bool high_town = draw(&state, 0, 1) < chance || town;
    if (n->across) {
        n->low = divide(s, u0, v0, n->at - half, v1, low_town, depth + 1, 2 * id);
        n->high = divide(s, n->at + half, v0, u1, v1, high_town, depth + 1, 2 * id + 1);
    } else {
        n->low = divide(s, u0, v0, u1, n->at - half, low_town, depth + 1, 2 * id);
        n->high = divide(s, u0, n->at + half, u1, v1, high_town, depth + 1, 2 * id + 1);
    }
    return n;
}

static void free_split(split *n)
{
    if (!n) return;
    free_split(n->low);
    free_split(n->high);
    free(n);
}

static const split *leaf_at(const split *n, float u, float v, const split **road)
{
    *road = NULL;
    while (n->low && n->high) {
        const float d = (n->across ? u : v) - n->at;
        if (fabsf(d) < n->width / 2) {
            *road = n;
            return n;
        }
        n = d < 0 ? n->low : n->high;
    }
    return n;
}

spot scene_spot(const scene *s, float u, float v)
{
    const split *road, *n = leaf_at(s->root, u, v, &road);
    spot out = {0};

    out.id = n->id;
    if (road) {
        out.kind = road->paved ? GROUND_ROAD : GROUND_TRACK;
        out.width = road->width;
        out.road = (road->across ? u : v) - road->at;
        out.along = road->across ? v : u;
        if (out.kind == GROUND_ROAD) return out; // bridges
    } else {
        out.kind = n->kind;
        out.across = n->across;
        out.edge = fminf(fminf(u - n->u0, n->u1 - u), fminf(v - n->v0, n->v1 - v));
    }
    if (is_water(s, u, v)) out.kind = GROUND_WATER;
    return out;
}

/* ---- things ---- */

static thing *add(scene *s, thing_kind kind, float u, float v, float du, float dv)
{
    float x0, y0, x1, y1;
    to_world(s, u, v, &x0, &y0);
    if (fminf(x0, y0) < -MARGIN || fmaxf(x0, y0) > s->size + MARGIN) return NULL;
    if (s->n_things == s->max_things) {
        const int max = s->max_things ? 2 * s->max_things : 1024;
        thing *grown = realloc(s->things, (size_t)max * sizeof *grown);
        if (!grown) return NULL;
        s->things = grown;
        s->max_things = max;
    }
    thing *t = &s->things[s->n_things];
    memset(t, 0, sizeof *t);
    t->x = x0;
    t->y = y0;
    to_world(s, u + 4 * du, v + 4 * dv, &x1, &y1);
    const float length = hypotf(x1 - t->x, y1 - t->y);
    t->dx = (x1 - t->x) / length;
    t->dy = (y1 - t->y) / length;
    t->kind = kind;
    t->id = hash3(s->seed, (uint32_t)s->n_things, 5);
    s->n_things++;
    return t;
}

static void plant(scene *s, float u, float v, float radius, uint32_t *state)
{
    if (is_water(s, u, v)) return;
    thing *t = add(s, THING_TREE, u, v, 1, 0);
    if (!t) return;
    const float dark = draw(state, 0.55f, 1.15f), yellow = draw(state, 0, 1);
    t->len = t->wid = radius;
    t->height = radius * draw(state, 1.7f, 2.6f);
    t->colour =
        (rgb){dark * (0.055f + 0.035f * yellow), dark * (0.095f + 0.025f * yellow), dark * 0.040f};
    if (draw(state, 0, 1) < 0.03f) t->colour = (rgb){0.16f, 0.13f, 0.08f}; // dry
}

static void plant_forest(scene *s, const split *n, uint32_t *state)
{
    const float step = draw(state, 4.2f, 6.0f);
    const bool rows = draw(state, 0, 1) < 0.25f; // an orchard or a plantation
    const float stray = rows ? 0.12f : 0.5f;
    for (float v = n->v0 + 2; v < n->v1 - 2; v += step)
        for (float u = n->u0 + 2; u < n->u1 - 2; u += step) {
            const float pu = u + step * draw(state, -stray, stray);
            const float pv = v + step * draw(state, -stray, stray);
            if (octaves(s->seed + 31, pu / 45, pv / 45, 3) > (rows ? -9 : -0.33f))
                plant(s, pu, pv,
                      step * (rows ? draw(state, 0.32f, 0.4f) : draw(state, 0.42f, 0.8f)), state);
        }
}

static rgb roof_colour(uint32_t *state)
{
    static const rgb tones[] = {{0.30f, 0.13f, 0.08f}, {0.36f, 0.17f, 0.11f}, {0.22f, 0.11f, 0.08f},
                                {0.10f, 0.10f, 0.11f}, {0.17f, 0.17f, 0.18f}, {0.28f, 0.26f, 0.24f},
                                {0.24f, 0.18f, 0.13f}};
    rgb c = tones[(int)draw(state, 0, 6.99f)];
    const float k = draw(state, 0.75f, 1.25f);
    return (rgb){c.r * k, c.g * k, c.b * k};
}

static void park(scene *s, float u, float v, float du, float dv, uint32_t *state)
{
    static const rgb paints[] = {{0.6f, 0.6f, 0.6f},    {0.35f, 0.36f, 0.38f},
                                 {0.03f, 0.03f, 0.04f}, {0.35f, 0.03f, 0.03f},
                                 {0.04f, 0.08f, 0.28f}, {0.12f, 0.13f, 0.14f}};
    if (is_water(s, u, v)) return;
    thing *t = add(s, THING_CAR, u, v, du, dv);
    if (!t) return;
    t->len = 2.2f, t->wid = 0.9f, t->height = 1.4f;
    t->colour = paints[(int)draw(state, 0, 5.99f)];
}

/* A house with its garden; side: which way the street lies, +1 or -1 along the depth. */
static void build_plot(scene *s, float u, float v, bool across, float side, uint32_t *state)
{
    const float au = across ? 0 : 1, av = across ? 1 : 0; // along the street
    const float du = across ? side : 0, dv = across ? 0 : side;
    if (is_water(s, u, v)) return;
    if (draw(state, 0, 1) < 0.93f) {
        const bool gable = draw(state, 0, 1) < 0.7f; // ridge along the street
        thing *t = add(s, THING_HOUSE, u + 4 * du, v + 4 * dv, gable ? au : du, gable ? av : dv);
        if (!t) return;
        t->len = draw(state, 4.6f, 6.8f);
        t->wid = draw(state, 3.6f, 4.8f);
        t->height = draw(state, 3.0f, 6.0f);
        t->colour = roof_colour(state);
    }
    if (draw(state, 0, 1) < 0.7f) {
        const float a = draw(state, 0, 1) < 0.5f ? -5 : 5;
        thing *t = add(s, THING_DRIVE, u + 9 * du + a * au, v + 9 * dv + a * av, du, dv);
        if (t) t->len = 6, t->wid = draw(state, 1.5f, 2.8f), t->colour = (rgb){0.24f, 0.23f, 0.22f};
        if (draw(state, 0, 1) < 0.6f)
            park(s, u + 9 * du + a * au, v + 9 * dv + a * av, du, dv, state);
    }
    const bool hedge = draw(state, 0, 1) < 0.45f;
    for (float d = -14; hedge && d < 8; d += 1.3f)
        plant(s, u + d * du + 7.5f * au, v + d * dv + 7.5f * av, draw(state, 0.7f, 1.1f), state);
    if (draw(state, 0, 1) < 0.09f) {
        thing *t = add(s, THING_POOL, u - 6 * du, v - 6 * dv, au, av);
        if (t) t->len = 4, t->wid = 2, t->colour = (rgb){0.10f, 0.38f, 0.46f};
    }
    for (float left = draw(state, 0.5f, 7.5f); left > 1; left--) {
        const float a = draw(state, -8, 8), d = draw(state, -13, -3);
        plant(s, u + a * au + d * du, v + a * av + d * dv, draw(state, 1.2f, 3.4f), state);
    }
}

static void build_gardens(scene *s, const split *n, uint32_t *state)
{
    const float depth = n->across ? n->u1 - n->u0 : n->v1 - n->v0;
    const float length = n->across ? n->v1 - n->v0 : n->u1 - n->u0;
    const int rows = depth > 40 ? 2 : 1;
    const float pitch = draw(state, 14, 19);
    for (int row = 0; row < rows; row++) {
        const float side = row ? 1 : -1;
        const float d = rows == 1 ? depth / 2 : row ? depth - 15 : 15;
        for (float a = pitch / 2; a < length - pitch / 3; a += pitch)
            build_plot(s, n->across ? n->u0 + d : n->u0 + a, n->across ? n->v0 + a : n->v0 + d,
                       n->across, side, state);
    }
}

static void build_yard(scene *s, const split *n, uint32_t *state)
{
    const float w = n->u1 - n->u0, h = n->v1 - n->v0;
    const float u = n->u0 + w * draw(state, 0.3f, 0.4f), v = n->v0 + h * draw(state, 0.45f, 0.55f);
    if (is_water(s, u, v)) return;
    thing *t = add(s, THING_HALL, u, v, 1, 0);
    if (!t) return;
    const float grey = draw(state, 0.12f, 0.6f);
    t->len = w * draw(state, 0.2f, 0.26f);
    t->wid = h * draw(state, 0.26f, 0.38f);
    t->height = draw(state, 5, 11);
    t->colour = (rgb){grey, grey * draw(state, 0.94f, 1.02f), grey * draw(state, 0.9f, 1.08f)};
    for (float pu = n->u0 + w * 0.72f; pu < n->u1 - 4; pu += 9)
        for (float pv = n->v0 + 4; pv < n->v1 - 4; pv += 2.6f)
            if (draw(state, 0, 1) < 0.55f) park(s, pu, pv, 1, 0, state);
}

static void furnish(scene *s, const split *n)
{
    if (!n) return;
    uint32_t state = hash3(s->seed, n->id, 99);
    if (n->low && n->high) {
        const float from = n->across ? n->v0 : n->u0, to = n->across ? n->v1 : n->u1;
        const bool hedge = !n->paved && draw(&state, 0, 1) < 0.45f;
        const bool avenue = n->paved && draw(&state, 0, 1) < 0.4f;
        const float pitch = hedge ? 3.2f : 11, off = n->width / 2 + (hedge ? 0.5f : 2.6f);
        for (float a = from; (hedge || avenue) && a < to; a += pitch * draw(&state, 0.7f, 1.6f)) {
            const float p = n->at + (avenue && draw(&state, 0, 1) < 0.5f ? -off : off);
            plant(s, n->across ? p : a, n->across ? a : p, draw(&state, 1.0f, hedge ? 2.2f : 3.6f),
                  &state);
        }
        for (float a = from + 10; n->paved && a < to; a += draw(&state, 15, 120)) {
            const float p = n->at + (draw(&state, 0, 1) < 0.5f ? -1 : 1) * n->width * 0.24f;
            park(s, n->across ? p : a, n->across ? a : p, !n->across, n->across, &state);
        }
        furnish(s, n->low);
        furnish(s, n->high);
        return;
    }
    if (n->kind == GROUND_FOREST) plant_forest(s, n, &state);
    if (n->kind == GROUND_GARDEN) build_gardens(s, n, &state);
    if (n->kind == GROUND_YARD) build_yard(s, n, &state);
    if (n->kind == GROUND_MEADOW)
        for (float left = draw(&state, -3, 9); left > 0; left--)
            plant(s, draw(&state, n->u0, n->u1), draw(&state, n->v0, n->v1), draw(&state, 2, 4.5f),
                  &state);
}

/* ---- things by place ---- */

static int cell_of(const scene *s, float x, float y)
{
    const int last = s->n_cells - 1;
    int i = (int)floorf((x + MARGIN) / SCENE_CELL), j = (int)floorf((y + MARGIN) / SCENE_CELL);
    i = i < 0 ? 0 : i > last ? last : i;
    j = j < 0 ? 0 : j > last ? last : j;
    return j * s->n_cells + i;
}

static bool sort_things(scene *s)
{
    s->n_cells = (int)((s->size + 2 * MARGIN) / SCENE_CELL) + 1;
    const size_t n = (size_t)s->n_cells * (size_t)s->n_cells;
    s->cells = calloc(n + 2, sizeof *s->cells);
    s->order = malloc(((size_t)s->n_things + 1) * sizeof *s->order);
    if (!s->cells || !s->order) return false;
    for (int i = 0; i < s->n_things; i++)
        s->cells[cell_of(s, s->things[i].x, s->things[i].y) + 2]++;
    for (size_t i = 2; i < n + 2; i++) s->cells[i] += s->cells[i - 1];
    for (int i = 0; i < s->n_things; i++)
        s->order[s->cells[cell_of(s, s->things[i].x, s->things[i].y) + 1]++] = i;
    return true;
}

scene *scene_plan(uint32_t seed, float size)
{
    scene *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    uint32_t state = hash3(seed, 1, 2);
    const float turn = draw(&state, -0.7f, 0.7f), azimuth = draw(&state, 3.6f, 5.4f);
    const float elevation = draw(&state, 0.6f, 0.95f);

    s->seed = hash3(seed, 3, 4);
    s->size = size;
    s->turn_c = cosf(turn);
    s->turn_s = sinf(turn);
    s->sun_x = cosf(elevation) * cosf(azimuth);
    s->sun_y = cosf(elevation) * sinf(azimuth);
    s->sun_z = sinf(elevation);
    s->river_w = draw(&state, 0, 1) < 0.4f ? draw(&state, 5, 14) : 0;
    s->pond = draw(&state, 0, 1) < 0.5f ? -0.52f : -2;
    s->clouds = draw(&state, 0, 1) < 0.3f ? draw(&state, 0.2f, 0.4f) : 0;
    s->haze = draw(&state, 0.01f, 0.035f);
    s->dryness = draw(&state, 0, 1);

    const float reach = 0.71f * size + 2 * MARGIN; // the turned world with its margin lies within
    const float cu = (s->turn_c + s->turn_s) * size / 2, cv = (s->turn_c - s->turn_s) * size / 2;
    s->river_y = cv + draw(&state, -0.3f, 0.3f) * size;
    s->root = divide(s, cu - reach, cv - reach, cu + reach, cv + reach, false, 0, 1);
    if (s->root) furnish(s, s->root);
    if (!s->root || !sort_things(s)) {
        scene_free(s);
        return NULL;
    }
    return s;
}

void scene_free(scene *s)
{
    if (!s) return;
    free_split(s->root);
    free(s->things);
    free(s->cells);
    free(s->order);
    free(s);
}
