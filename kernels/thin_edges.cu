// thin_edges: y = sqrt(a^2 + b^2 + 1e-6) where it exceeds both neighbours in the direction of
// (a, b), rounded to 45 degrees, else 0. Beyond the border the magnitude is 0.
// thin_edges_vjp: da = dy a / y and db = dy b / y where y is above 0, else 0.
// One channel. A thread makes one pixel at a time.
#include "include/view.cuh"

DEVICE float magnitude(View a, View b, i64 k) {
    const float x = at(a, k), y = at(b, k);
    return sqrtf(x * x + y * y + 1e-6f);
}

DEVICE float thin(View a, View b, i64 k, int h, int w) {
    const int row = int(k / w % h), column = int(k % w);
    const int octant = int(rintf(atan2f(at(b, k), at(a, k)) * 1.2732395f)) & 3;
    const int down = octant > 0, right = octant == 2 ? 0 : octant == 3 ? -1 : 1;
    const float here = magnitude(a, b, k);
    for (int sign = -1; sign <= 1; sign += 2) {
        const int r = row + sign * down, c = column + sign * right;
        const bool inside = r >= 0 && r < h && c >= 0 && c < w;
        if (here <= (inside ? magnitude(a, b, k + sign * (i64(down) * w + right)) : 0.0f)) return 0;
    }
    return here;
}

struct ThinEdgesParams { ViewOut y; View a, b; i64 count; int h, w; };
KERNEL(thin_edges, ThinEdgesParams, 256, 4) {
    i64 step = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < p.count; i += step) put(p.y, i, thin(p.a, p.b, i, p.h, p.w));
}

struct ThinEdgesVjpParams { ViewOut da, db; View dy, a, b; i64 count; int h, w; };
KERNEL(thin_edges_vjp, ThinEdgesVjpParams, 256, 4) {
    i64 step = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < p.count; i += step) {
        const float y = thin(p.a, p.b, i, p.h, p.w), factor = y > 0 ? at(p.dy, i) / y : 0.0f;
        put(p.da, i, factor * at(p.a, i));
        put(p.db, i, factor * at(p.b, i));
    }
}
