// Row-wise steps of a decoder layer, for one storage type: included once for float and once for bf16.
// REAL is the type in memory, NAME(x) the function's name for it; all arithmetic is in float.

// out = x / rms(x) * weight, and rstd = 1 / rms(x), row by row.
void NAME(rms_norm)(const REAL *x, const float *weight, REAL *out, float *rstd, int64_t rows, int64_t width, float eps) {
#pragma omp parallel for
    for (int64_t t = 0; t < rows; t++) {
        const REAL *row = x + t * width;
        float squares = 0;
        for (int64_t i = 0; i < width; i++) squares += WIDEN(row[i]) * WIDEN(row[i]);
        const float r = 1.0f / __builtin_sqrtf(squares / width + eps);
        rstd[t] = r;
        for (int64_t i = 0; i < width; i++) out[t * width + i] = NARROW(WIDEN(row[i]) * r * weight[i]);
    }
}

// The gradient of rms_norm towards x, plus `residual` (the gradient that goes around the norm; may be null).
void NAME(rms_norm_backward)(const REAL *grad, const REAL *x, const float *weight, const float *rstd,
                             const REAL *residual, REAL *out, int64_t rows, int64_t width) {
#pragma omp parallel for
    for (int64_t t = 0; t < rows; t++) {
        const REAL *g = grad + t * width, *row = x + t * width;
        float dot = 0;
        for (int64_t i = 0; i < width; i++) dot += WIDEN(g[i]) * weight[i] * WIDEN(row[i]);
        const float r = rstd[t], pull = dot * r * r / width;
        REAL *to = out + t * width;
        if (residual) {
            const REAL *around = residual + t * width;
            for (int64_t i = 0; i < width; i++)
                to[i] = NARROW(WIDEN(around[i]) + r * (WIDEN(g[i]) * weight[i] - WIDEN(row[i]) * pull));
        } else {
            for (int64_t i = 0; i < width; i++) to[i] = NARROW(r * (WIDEN(g[i]) * weight[i] - WIDEN(row[i]) * pull));
        }
    }
}

// Rotates `heads` heads of `size` in place, in rows `stride` apart, by cos and sin (rows, size); sign -1 turns back.
void NAME(rotate)(REAL *x, const float *cos, const float *sin, int64_t rows, int64_t heads, int64_t size,
                  int64_t stride, float sign) {
    const int64_t half = size / 2;
#pragma omp parallel for
    for (int64_t t = 0; t < rows; t++) {
        const float *c = cos + t * size, *s = sin + t * size;
        for (int64_t h = 0; h < heads; h++) {
            REAL *low = x + t * stride + h * size, *high = low + half;
            for (int64_t i = 0; i < half; i++) {
                const float a = WIDEN(low[i]), b = WIDEN(high[i]);
                low[i] = NARROW(a * c[i] - sign * b * s[i]);
                high[i] = NARROW(b * c[i + half] + sign * a * s[i + half]);
            }
        }
    }
}

// out = silu(gate) * up, where a row of `gate_up` holds its gates and then its ups.
void NAME(swiglu)(const REAL *gate_up, REAL *out, int64_t rows, int64_t width) {
#pragma omp parallel for
    for (int64_t t = 0; t < rows; t++) {
        const REAL *gate = gate_up + 2 * t * width, *up = gate + width;
        for (int64_t i = 0; i < width; i++) {
            const float g = WIDEN(gate[i]);
            out[t * width + i] = NARROW(g / (1.0f + exponential(-g)) * WIDEN(up[i]));
        }
    }
}

// The gradients of swiglu towards gate and up, laid out as they are.
void NAME(swiglu_backward)(const REAL *grad, const REAL *gate_up, REAL *out, int64_t rows, int64_t width) {
#pragma omp parallel for
    for (int64_t t = 0; t < rows; t++) {
        const REAL *gate = gate_up + 2 * t * width, *up = gate + width, *d = grad + t * width;
        REAL *to_gate = out + 2 * t * width, *to_up = to_gate + width;
        for (int64_t i = 0; i < width; i++) {
            const float g = WIDEN(gate[i]), sigmoid = 1.0f / (1.0f + exponential(-g)), da = WIDEN(d[i]);
            to_gate[i] = NARROW(da * WIDEN(up[i]) * sigmoid * (1.0f + g * (1.0f - sigmoid)));
            to_up[i] = NARROW(da * g * sigmoid);
        }
    }
}

// losses[i] = -log softmax(logits[i])[labels[i]]; the logits become weights[i] * (softmax - one at the label).
void NAME(cross_entropy)(REAL *logits, const int64_t *labels, const float *weights, float *losses, int64_t rows,
                         int64_t vocabulary) {
#pragma omp parallel for
    for (int64_t t = 0; t < rows; t++) {
        REAL *row = logits + t * vocabulary;
        float most = WIDEN(row[0]), sum = 0;
#pragma omp simd reduction(max : most)
        for (int64_t i = 1; i < vocabulary; i++) most = WIDEN(row[i]) > most ? WIDEN(row[i]) : most;
        const float label = WIDEN(row[labels[t]]);
        for (int64_t i = 0; i < vocabulary; i++) sum += exponential(WIDEN(row[i]) - most);
        const float scale = weights[t] / sum;
        losses[t] = __builtin_logf(sum) + most - label;
        for (int64_t i = 0; i < vocabulary; i++) row[i] = NARROW(scale * exponential(WIDEN(row[i]) - most));
        row[labels[t]] = NARROW(scale * exponential(label - most) - weights[t]);
    }
}

static float NAME(scale)(const REAL *row, const float *columns, int64_t width) {
    float most = 1e-30f;
    if (columns) {
#pragma omp simd reduction(max : most)
        for (int64_t i = 0; i < width; i++) {
            const float size = __builtin_fabsf(WIDEN(row[i]) * columns[i]);
            most = size > most ? size : most;
        }
    } else {
#pragma omp simd reduction(max : most)
        for (int64_t i = 0; i < width; i++) {
            const float size = __builtin_fabsf(WIDEN(row[i]));
            most = size > most ? size : most;
        }
    }
    return most / 127.0f;
}

// Rows to int8 by their largest absolute value: x * columns ~ out * scales[row]. `columns` may be null.
void NAME(quantize_rows)(const REAL *x, const float *columns, int8_t *out, float *scales, int64_t rows, int64_t width) {
#pragma omp parallel for
    for (int64_t t = 0; t < rows; t++) {
        const REAL *row = x + t * width;
        const float scale = NAME(scale)(row, columns, width), inverse = 1.0f / scale;
        int8_t *to = out + t * width;
        scales[t] = scale;
        if (columns)
            for (int64_t i = 0; i < width; i++) to[i] = (int8_t)nearest(WIDEN(row[i]) * columns[i] * inverse);
        else
            for (int64_t i = 0; i < width; i++) to[i] = (int8_t)nearest(WIDEN(row[i]) * inverse);
    }
}

// out[:, start : start + width] = sums * scales[row] * columns[column] (+ added); out's rows are `stride` apart.
void NAME(dequantize)(const int32_t *sums, const float *scales, const float *columns, const REAL *added, REAL *out,
                      int64_t rows, int64_t width, int64_t start, int64_t stride) {
#pragma omp parallel for
    for (int64_t t = 0; t < rows; t++) {
        const int32_t *row = sums + t * width;
        REAL *to = out + t * stride + start;
        const float scale = scales[t];
        for (int64_t i = 0; i < width; i++) {
            float value = row[i] * scale * (columns ? columns[start + i] : 1.0f);
            if (added) value += WIDEN(added[t * stride + start + i]);
            to[i] = NARROW(value);
        }
    }
}

// Four-bit numbers to REAL: a block of 64 lies in 32 bytes, its first half in their low bits; value = table * largest.
void NAME(unpack_four_bits)(const uint8_t *packed, const float *table, const float *largest, REAL *out, int64_t blocks) {
    const vector values = *(const vector *)table;
#pragma omp parallel for
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t part = 0; part < 64; part += LANES) {
            const uint8_t *from = packed + b * 32 + part % 32;
            indices index;
            for (int i = 0; i < LANES; i++) index[i] = part < 32 ? from[i] & 15 : from[i] >> 4;
            const vector found = __builtin_shuffle(values, index) * largest[b];
            for (int i = 0; i < LANES; i++) out[b * 64 + part + i] = NARROW(found[i]);
        }
}
