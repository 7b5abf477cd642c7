// gelu: y = x Phi(x), or x s(1.702 x) in the quick form; dx = dy y'. Tensors seen as one row of values, a thread takes four.
// Reads x (and dy), overwrites y or dx; in place over the first operand is fine.
#include "include/gelu.cuh"

struct GeluParams { View y, x; i64 count; int quick, reserved; };
KERNEL(gelu, GeluParams, 256, 4) {
    View x[1] = {p.x};
    bool quick = p.quick;
    elementwise(p.y, x, p.count, [quick](const float (&v)[1]) { return gelu_of(v[0], quick); });
}

struct GeluVjpParams { View dx, dy, x; i64 count; int quick, reserved; };
KERNEL(gelu_vjp, GeluVjpParams, 256, 4) {
    View x[2] = {p.dy, p.x};
    bool quick = p.quick;
    elementwise(p.dx, x, p.count, [quick](const float (&v)[2]) { return v[0] * gelu_slope(v[1], quick); });
}
