// Numbers of the kernels: bf16 as bits, sixteen floats as one vector, and an exponential that vectorizes.
#pragma once
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint16_t bf16;
#define LANES 16
typedef float vector __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float)), may_alias));
typedef int32_t indices __attribute__((vector_size(LANES * sizeof(int32_t))));

static inline float widen_f32(float x) { return x; }
static inline float narrow_f32(float x) { return x; }

static inline float widen_bf16(bf16 x) {
    union { uint32_t bits; float value; } u = {.bits = (uint32_t)x << 16};
    return u.value;
}

// Rounds to nearest, ties to even, as torch does.
static inline bf16 narrow_bf16(float x) {
    union { float value; uint32_t bits; } u = {.value = x};
    return (bf16)((u.bits + 0x7fffu + ((u.bits >> 16) & 1u)) >> 16);
}

// exp(x) for x <= 88, relative error below 2e-7; 0 below -87. 2^n by the exponent bits, the rest by a polynomial.
static inline float exponential(float x) {
    const float clamped = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
    const float n = __builtin_floorf(clamped * 1.44269504f + 0.5f);
    const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    union { uint32_t bits; float value; } scale = {.bits = (uint32_t)((int32_t)n + 127) << 23};
    return x < -87.0f ? 0.0f : p * scale.value;
}

// The nearest integer of |x| < 2^22, ties to even: the sum's last bits are the integer's.
static inline int32_t nearest(float x) {
    union { float value; int32_t bits; } u = {.value = x + 12582912.0f};
    return u.bits - 0x4b400000;
}
