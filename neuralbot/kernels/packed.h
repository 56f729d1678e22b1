// A pack's shape, and the steps of its attention that do not depend on the storage type.
#pragma once
#include "product.h"

#define BLOCK 24  // query rows taken at once: their scores over a few thousand keys stay in the second-level cache

typedef struct {
    int64_t tokens, heads, kv_heads, size, stride;  // stride: elements from one token's row of qkv to the next
    int64_t segments;
    const int64_t *start, *length;          // (segments)
    const int64_t *first_span;              // (segments + 1): where each segment's ancestors stand in the span lists
    const int64_t *span_start, *span_length;  // ancestors' runs, nearest to the root first
    float scale;
} packed;

static inline int64_t round_up(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

static int64_t ancestors(const packed *p, int64_t segment) {
    int64_t tokens = 0;
    for (int64_t s = p->first_span[segment]; s < p->first_span[segment + 1]; s++) tokens += p->span_length[s];
    return tokens;
}

static int64_t longest(const packed *p) {
    int64_t most = 0;
    for (int64_t s = 0; s < p->segments; s++) {
        const int64_t keys = ancestors(p, s) + p->length[s];
        most = keys > most ? keys : most;
    }
    return most;
}

static float *scratch(int64_t floats) {
    float *memory = aligned_alloc(64, round_up(floats) * sizeof(float));
    if (!memory) abort();
    return memory;
}

// Each row i of scores becomes its softmax over the first `first + i` keys; zero from there to `seen`.
static void softmax_rows(float *scores, int64_t stride, int64_t rows, int64_t first, int64_t seen, float *lse) {
    for (int64_t i = 0; i < rows; i++) {
        float *row = scores + i * stride, most = row[0], sum = 0;
        const int64_t keys = first + i;
#pragma omp simd reduction(max : most)
        for (int64_t j = 1; j < keys; j++) most = row[j] > most ? row[j] : most;
        for (int64_t j = 0; j < keys; j++) {
            row[j] = exponential(row[j] - most);
            sum += row[j];
        }
        lse[i] = most + __builtin_logf(sum);
        const float inverse = 1.0f / sum;
        for (int64_t j = 0; j < keys; j++) row[j] *= inverse;
        for (int64_t j = keys; j < seen; j++) row[j] = 0;
    }
}

// Scores become probabilities p by their lse; ds, the gradients towards p, become those towards the scores.
static void softmax_backward(float *p, float *ds, int64_t stride, int64_t rows, int64_t first, int64_t seen,
                             const float *lse, const float *grad, const float *out, int64_t size) {
    for (int64_t i = 0; i < rows; i++) {
        float *row = p + i * stride, *d = ds + i * stride, mean = 0;
        const int64_t keys = first + i;
        for (int64_t j = 0; j < size; j++) mean += grad[i * size + j] * out[i * size + j];
        for (int64_t j = 0; j < keys; j++) {
            row[j] = exponential(row[j] - lse[i]);
            d[j] = row[j] * (d[j] - mean);
        }
        for (int64_t j = keys; j < seen; j++) row[j] = d[j] = 0;
    }
}

// Adds the rows gathered for a segment back to the tokens that they came from.
static void scatter_add(const float *rows, float *tokens, const packed *p, int64_t segment) {
    int64_t from = 0;
    for (int64_t s = p->first_span[segment]; s <= p->first_span[segment + 1]; s++) {
        const int own = s == p->first_span[segment + 1];
        const int64_t count = (own ? p->length[segment] : p->span_length[s]) * p->size;
        float *to = tokens + (own ? p->start[segment] : p->span_start[s]) * p->size;
        for (int64_t i = 0; i < count; i++) to[i] += rows[from + i];
        from += count;
    }
}
