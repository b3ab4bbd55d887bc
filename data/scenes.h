/* scenes.h - the parts of nsvq-scenes: scenes.c (noise, output), plan.c (what stands where),
 * render.c (pixels). Lengths are metres, colours linear reflectances. */
#ifndef SCENES_H
#define SCENES_H

#include <stdbool.h>
#include <stdint.h>

#define SCENE_GSD 0.3f /* size of a pixel */
#define SCENE_TILE 512 /* pixels rendered at once */

typedef struct rgb {
    float r, g, b;
} rgb;

typedef enum ground {
    GROUND_CROP,
    GROUND_MEADOW,
    GROUND_FOREST,
    GROUND_GARDEN,
    GROUND_YARD,
    GROUND_WATER,
    GROUND_ROAD,
    GROUND_TRACK
} ground;

/* Where a point of the plan lies. */
typedef struct spot {
    ground kind;
    uint32_t id;       /* of the leaf: seeds its colours */
    bool across;       /* rows run along y */
    float edge;        /* metres to the nearest border of the leaf */
    float road, width; /* metres from the middle of the road or track, and its width */
    float along;       /* metres along it */
} spot;

typedef enum thing_kind {
    THING_TREE,
    THING_HOUSE,
    THING_HALL,
    THING_CAR,
    THING_POOL,
    THING_DRIVE
} thing_kind;

typedef struct thing {
    thing_kind kind;
    uint32_t id;
    float x, y;     /* middle, world */
    float dx, dy;   /* direction of its length */
    float len, wid; /* half of each; a tree has a radius, len */
    float height;
    rgb colour;
} thing;

typedef struct split split;
typedef struct scene {
    uint32_t seed;
    float size;                /* of the world: 0 .. size */
    float turn_c, turn_s;      /* world to plan */
    float river_y, river_w;    /* river_w 0: none */
    float pond;                /* level of the noise below which there is water */
    float clouds, haze;        /* 0: none */
    float sun_x, sun_y, sun_z; /* towards the sun */
    float dryness;             /* of the season, 0 .. 1 */
    split *root;
    thing *things;
    int n_things, max_things;
    int *cells; /* things by square of CELL metres: first index + list */
    int *order;
    int n_cells; /* per side */
} scene;

#define SCENE_CELL 32.0f

scene *scene_plan(uint32_t seed, float size);
void scene_free(scene *s);
void scene_to_plan(const scene *s, float x, float y, float *u, float *v);
spot scene_spot(const scene *s, float u, float v);
/* Pixels x .. x + w - 1, y .. y + h - 1 as RGB; w and h at most SCENE_TILE. False: no memory. */
bool scene_render(const scene *s, int x, int y, int w, int h, uint8_t *rgb_out);

uint32_t hash3(uint32_t a, uint32_t b, uint32_t c);
float unit(uint32_t h);
float draw(uint32_t *state, float lo, float hi);
float noise(uint32_t seed, float x, float y);
float octaves(uint32_t seed, float x, float y, int n);

#endif
