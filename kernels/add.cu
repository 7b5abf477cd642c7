// add: y = a + scale b. scale: y = scale x.
// VJP: da = dy, db = scale dy. So `scale` is its own reverse.
// The tensors have one shape and are seen as one row of values. y may take the place of an operand.
#include "include/view.cuh"

struct AddParams { ViewOut y; View a, b; i64 count; float scale; };
KERNEL(add, AddParams, 256, 4) {
    View x[2] = {p.a, p.b};
    elementwise(p.y, x, p.count, [&](const float (&v)[2]) { return v[0] + p.scale * v[1]; });
}

struct ScaleParams { ViewOut y; View x; i64 count; float scale; };
KERNEL(scale, ScaleParams, 256, 4) {
    View x[1] = {p.x};
    elementwise(p.y, x, p.count, [&](const float (&v)[1]) { return p.scale * v[0]; });
}
