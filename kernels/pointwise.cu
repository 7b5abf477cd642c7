// Functions that are applied value by value: y = f(x), dx = dy f'(x). Their formulas are in
// src/ops/pointwise.rs.
//
// The tensors have one shape and are seen as one row of values. Reads x (and dy), and overwrites y
// or dx, which may take the place of the first operand. A thread takes four values at a time.
#include "include/gelu.cuh"

// a and b are parameters of the function.
struct PointwiseParams { ViewOut y; View x; i64 count; float a, b; };
struct PointwiseVjpParams { ViewOut dx; View dy, x; i64 count; float a, b; };

// The kernels of a function: y from x, and dx from dy and x. Both expressions may contain a and b.
#define POINTWISE(name, y_of_x, dx_of_dy_and_x)                                  \
    KERNEL(name, PointwiseParams, 256, 4) {                                      \
        const View in[1] = {p.x};                                                \
        const float a = p.a, b = p.b;                                            \
        elementwise(p.y, in, p.count, [a, b](const float (&v)[1]) {              \
            const float x = v[0];                                                \
            return y_of_x;                                                       \
        });                                                                      \
    }                                                                            \
    KERNEL(name##_vjp, PointwiseVjpParams, 256, 4) {                             \
        const View in[2] = {p.dy, p.x};                                          \
        const float a = p.a, b = p.b;                                            \
        elementwise(p.dx, in, p.count, [a, b](const float (&v)[2]) {             \
            const float dy = v[0], x = v[1];                                     \
            return dx_of_dy_and_x;                                               \
        });                                                                      \
    }

POINTWISE(silu, silu_of(x), dy * silu_slope(x))
POINTWISE(gelu, gelu_of(x, a != 0), dy * gelu_slope(x, a != 0))
POINTWISE(leaky_relu, x > 0 ? x : a * x, x > 0 ? dy : a * dy)
POINTWISE(hyperbolic_tangent, tanhf(x), dy * (1.0f - tanhf(x) * tanhf(x)))
POINTWISE(clamp, is_finite(x) ? smaller(larger(x, a), b) : x, x >= a && x <= b ? dy : 0.0f)
