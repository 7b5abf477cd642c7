// y = x s(x); dx = dy s (1 + x (1 - s)), s = 1 / (1 + exp(-x)). Tensors of one extent, seen as one row of values.
// Reads x (and dy), overwrites y; in place over the first operand is fine. One thread takes four values at a time.
#include "include/view.cuh"

struct SiluParams { View y, x; i64 count; };
KERNEL(silu, SiluParams, 256, 4) {
    View x[1] = {p.x};
    elementwise(p.y, x, p.count, [](const float (&v)[1]) { return silu_of(v[0]); });
}

struct SiluVjpParams { View dx, dy, x; i64 count; };
KERNEL(silu_vjp, SiluVjpParams, 256, 4) {
    View x[2] = {p.dy, p.x};
    elementwise(p.dx, x, p.count, [](const float (&v)[2]) { return v[0] * silu_slope(v[1]); });
}
