// C (rows x width) = or += A (rows x depth) times B (depth x width), all float, for blocks that fit the cache.
// A is read element by element by two strides, so it may lie transposed; B and C lie row by row.
// `width` is a multiple of LANES: the callers pad.
#pragma once
#include "vector.h"

#ifdef __AVX512F__
#define TILE_ROWS 6
#define TILE_VECTORS 4
#else  // sixteen registers of half the width
#define TILE_ROWS 2
#define TILE_VECTORS 2
#endif

typedef struct { const float *at; int64_t row, column; } strided;

__attribute__((always_inline)) static inline void tile(const int rows, const int vectors, strided a, const float *b,
                                                       int64_t b_row, float *c, int64_t c_row, int64_t depth, int add) {
    vector sums[TILE_ROWS][TILE_VECTORS];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++)
            sums[i][j] = add ? *(const vector *)(c + i * c_row + j * LANES) : (vector){0};
    for (int64_t k = 0; k < depth; k++) {
        vector row[TILE_VECTORS];
        for (int j = 0; j < vectors; j++) row[j] = *(const vector *)(b + k * b_row + j * LANES);
        for (int i = 0; i < rows; i++) {
            const float value = a.at[i * a.row + k * a.column];
            for (int j = 0; j < vectors; j++) sums[i][j] += value * row[j];
        }
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++) *(vector *)(c + i * c_row + j * LANES) = sums[i][j];
}

#define BAND(ROWS)                                                                                                  \
    static void band_##ROWS(strided a, const float *b, int64_t b_row, float *c, int64_t c_row, int64_t width,       \
                            int64_t depth, int add) {                                                               \
        int64_t j = 0;                                                                                              \
        for (; j + TILE_VECTORS * LANES <= width; j += TILE_VECTORS * LANES)                                        \
            tile(ROWS, TILE_VECTORS, a, b + j, b_row, c + j, c_row, depth, add);                                    \
        for (; j < width; j += LANES) tile(ROWS, 1, a, b + j, b_row, c + j, c_row, depth, add);                     \
    }
BAND(1)
BAND(2)
#ifdef __AVX512F__
BAND(3)
BAND(4)
BAND(5)
BAND(6)
#endif

static void product(strided a, const float *b, int64_t b_row, float *c, int64_t c_row, int64_t rows, int64_t width,
                    int64_t depth, int add) {
    for (int64_t i = 0; i < rows; i += TILE_ROWS) {
        const int64_t left = rows - i < TILE_ROWS ? rows - i : TILE_ROWS;
        const strided from = {a.at + i * a.row, a.row, a.column};
        float *to = c + i * c_row;
        switch (left) {
            case 1: band_1(from, b, b_row, to, c_row, width, depth, add); break;
            case 2: band_2(from, b, b_row, to, c_row, width, depth, add); break;
#ifdef __AVX512F__
            case 3: band_3(from, b, b_row, to, c_row, width, depth, add); break;
            case 4: band_4(from, b, b_row, to, c_row, width, depth, add); break;
            case 5: band_5(from, b, b_row, to, c_row, width, depth, add); break;
            default: band_6(from, b, b_row, to, c_row, width, depth, add);
#endif
        }
    }
}
