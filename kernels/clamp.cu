// y = min(max(x, low), high), what is not finite stays; dx = dy where low <= x <= high, else 0.
// Tensors of one extent, seen as one row of values; in place over the first operand is fine.
#include "include/view.cuh"

struct ClampParams { View y, x; i64 count; float low, high; };
KERNEL(clamp, ClampParams, 256, 4) {
    View x[1] = {p.x};
    elementwise(p.y, x, p.count, [&](const float (&v)[1]) {
        return is_finite(v[0]) ? smaller(larger(v[0], p.low), p.high) : v[0];
    });
}

struct ClampVjpParams { View dx, dy, x; i64 count; float low, high; };
KERNEL(clamp_vjp, ClampVjpParams, 256, 4) {
    View x[2] = {p.dy, p.x};
    elementwise(p.dx, x, p.count, [&](const float (&v)[2]) { return v[1] >= p.low && v[1] <= p.high ? v[0] : 0.0f; });
}
