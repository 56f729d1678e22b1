// Causal attention over a tree of segments, for one storage type: included once for float and once for bf16.
//
// The pack's tokens lie in one line. A segment is a run of them; it sees itself causally and each of its ancestors'
// runs (its "spans") whole. A row of the batch is a path from a root to a leaf, so a prefix that rows share is computed
// once, and a token never sees another row. Rows of `qkv` hold the query heads, the key heads and the value heads.

// Copies one head's keys or values of all spans of a segment, then of itself, to float: as rows, as columns, or both.
static void NAME(gather)(const REAL *qkv, const packed *p, int64_t segment, int64_t offset, float *as_rows,
                         float *as_columns, int64_t column_stride) {
    int64_t to = 0;
    for (int64_t s = p->first_span[segment]; s <= p->first_span[segment + 1]; s++) {
        const int own = s == p->first_span[segment + 1];
        const int64_t start = own ? p->start[segment] : p->span_start[s];
        const int64_t length = own ? p->length[segment] : p->span_length[s];
        for (int64_t j = 0; j < length; j++, to++) {
            const REAL *from = qkv + (start + j) * p->stride + offset;
            if (as_rows)
                for (int64_t i = 0; i < p->size; i++) as_rows[to * p->size + i] = WIDEN(from[i]);
            if (as_columns)
                for (int64_t i = 0; i < p->size; i++) as_columns[i * column_stride + to] = WIDEN(from[i]);
        }
    }
    if (as_columns)
        for (int64_t i = 0; i < p->size; i++)
            for (int64_t j = to; j < column_stride; j++) as_columns[i * column_stride + j] = 0;
}

static void NAME(load)(const REAL *from, int64_t stride, float *to, int64_t rows, int64_t size, float scale) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < size; j++) to[i * size + j] = WIDEN(from[i * stride + j]) * scale;
}

static void NAME(store)(const float *from, REAL *to, int64_t stride, int64_t rows, int64_t size, float scale) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < size; j++) to[i * stride + j] = NARROW(from[i * size + j] * scale);
}

static void NAME(attend_segment)(const REAL *qkv, REAL *out, float *lse, const packed *p, int64_t segment,
                                 int64_t kv_head, float *memory) {
    const int64_t d = p->size, group = p->heads / p->kv_heads, before = ancestors(p, segment);
    const int64_t keys = before + p->length[segment], padded = round_up(keys);
    float *columns = memory, *values = columns + d * padded, *q = values + d * padded, *scores = q + BLOCK * d;
    float *result = scores + BLOCK * padded;
    NAME(gather)(qkv, p, segment, (p->heads + kv_head) * d, NULL, columns, padded);
    NAME(gather)(qkv, p, segment, (p->heads + p->kv_heads + kv_head) * d, values, NULL, 0);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++)
        for (int64_t i = 0; i < p->length[segment]; i += BLOCK) {
            const int64_t rows = p->length[segment] - i < BLOCK ? p->length[segment] - i : BLOCK;
            const int64_t token = p->start[segment] + i, seen = round_up(before + i + rows);
            NAME(load)(qkv + token * p->stride + head * d, p->stride, q, rows, d, p->scale);
            product((strided){q, d, 1}, columns, padded, scores, padded, rows, seen, d, 0);
            softmax_rows(scores, padded, rows, before + i + 1, seen, lse + head * p->tokens + token);
            product((strided){scores, padded, 1}, values, d, result, d, rows, d, before + i + rows, 0);
            NAME(store)(result, out + token * p->heads * d + head * d, p->heads * d, rows, d, 1.0f);
        }
}

// out (tokens, heads * size) and lse (heads, tokens), the log of each softmax's sum, which the gradient needs.
void NAME(attention)(const REAL *qkv, REAL *out, float *lse, const packed *p) {
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (int64_t segment = 0; segment < p->segments; segment++)
        for (int64_t kv_head = 0; kv_head < p->kv_heads; kv_head++) {
            const int64_t padded = round_up(ancestors(p, segment) + p->length[segment]);
            float *memory = scratch(2 * p->size * padded + BLOCK * (2 * p->size + padded));
            NAME(attend_segment)(qkv, out, lse, p, segment, kv_head, memory);
            free(memory);
        }
}

// One segment's share of the gradients of one key/value head; d_keys and d_values are (tokens, size).
static void NAME(attend_segment_backward)(const REAL *grad, const REAL *qkv, const REAL *out, const float *lse,
                                          REAL *d_qkv, const packed *p, int64_t segment, int64_t kv_head,
                                          float *d_keys, float *d_values, float *memory) {
    const int64_t d = p->size, group = p->heads / p->kv_heads, before = ancestors(p, segment);
    const int64_t keys = before + p->length[segment], padded = round_up(keys);
    float *key_columns = memory, *value_columns = key_columns + d * padded, *key_rows = value_columns + d * padded;
    float *to_keys = key_rows + d * padded, *to_values = to_keys + d * padded, *q = to_values + d * padded;
    float *g = q + BLOCK * d, *o = g + BLOCK * d, *p_rows = o + BLOCK * d, *ds = p_rows + BLOCK * padded;
    NAME(gather)(qkv, p, segment, (p->heads + kv_head) * d, key_rows, key_columns, padded);
    NAME(gather)(qkv, p, segment, (p->heads + p->kv_heads + kv_head) * d, NULL, value_columns, padded);
    memset(to_keys, 0, 2 * d * padded * sizeof(float));
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++)
        for (int64_t i = 0; i < p->length[segment]; i += BLOCK) {
            const int64_t rows = p->length[segment] - i < BLOCK ? p->length[segment] - i : BLOCK;
            const int64_t token = p->start[segment] + i, seen = before + i + rows, wide = round_up(seen);
            NAME(load)(qkv + token * p->stride + head * d, p->stride, q, rows, d, p->scale);
            NAME(load)(grad + token * p->heads * d + head * d, p->heads * d, g, rows, d, 1.0f);
            NAME(load)(out + token * p->heads * d + head * d, p->heads * d, o, rows, d, 1.0f);
            product((strided){q, d, 1}, key_columns, padded, p_rows, padded, rows, wide, d, 0);
            product((strided){g, d, 1}, value_columns, padded, ds, padded, rows, wide, d, 0);
            softmax_backward(p_rows, ds, padded, rows, before + i + 1, wide, lse + head * p->tokens + token, g, o, d);
            product((strided){p_rows, 1, padded}, g, d, to_values, d, seen, d, rows, 1);
            product((strided){ds, 1, padded}, q, d, to_keys, d, seen, d, rows, 1);
            product((strided){ds, padded, 1}, key_rows, d, o, d, rows, d, seen, 0);
            NAME(store)(o, d_qkv + token * p->stride + head * d, p->stride, rows, d, p->scale);
        }
    scatter_add(to_keys, d_keys, p, segment);
    scatter_add(to_values, d_values, p, segment);
}

// d_qkv, laid out as qkv, from `grad` laid out as out. One task a key/value head: segments add into shared prefixes.
void NAME(attention_backward)(const REAL *grad, const REAL *qkv, const REAL *out, const float *lse, REAL *d_qkv,
                              const packed *p) {
    const int64_t d = p->size, padded = round_up(longest(p));
#pragma omp parallel for schedule(dynamic)
    for (int64_t kv_head = 0; kv_head < p->kv_heads; kv_head++) {
        float *memory = scratch(2 * p->tokens * d + 5 * d * padded + BLOCK * (3 * d + 2 * padded));
        float *d_keys = memory, *d_values = d_keys + p->tokens * d;
        memset(d_keys, 0, 2 * p->tokens * d * sizeof(float));
        for (int64_t segment = 0; segment < p->segments; segment++)
            NAME(attend_segment_backward)(grad, qkv, out, lse, d_qkv, p, segment, kv_head, d_keys, d_values,
                                          d_values + p->tokens * d);
        NAME(store)(d_keys, d_qkv + (p->heads + kv_head) * d, p->stride, p->tokens, d, 1.0f);
        NAME(store)(d_values, d_qkv + (p->heads + p->kv_heads + kv_head) * d, p->stride, p->tokens, d, 1.0f);
        free(memory);
    }
}
