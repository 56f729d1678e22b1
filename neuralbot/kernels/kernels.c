// The small steps of a decoder layer, each one pass over memory. Products of large matrices are torch's (oneDNN).
// Built by native.py where a C compiler is present; plain.py is the twin in torch that runs elsewhere.
#include "packed.h"

#define REAL float
#define NAME(x) x##_f32
#define WIDEN widen_f32
#define NARROW narrow_f32
#include "attention.h"
#include "elementwise.h"
#undef REAL
#undef NAME
#undef WIDEN
#undef NARROW

#define REAL bf16
#define NAME(x) x##_bf16
#define WIDEN widen_bf16
#define NARROW narrow_bf16
#include "attention.h"
#include "elementwise.h"
