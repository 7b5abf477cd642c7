// y = s round(x / s), halves to even. The step s depends on the place within a block of 8x8 pixels
// and on the channel. A thread makes one value at a time.
// VJP of the cubic approximation: dx = 3 (x / s - round(x / s))^2 dy. That of the identity needs no
// kernel.
#include "include/view.cuh"

struct QuantiseParams { ViewOut y; View x; const float* steps; i64 count; int h, w, channels; };
struct QuantiseVjpParams { ViewOut dx; View dy, x; const float* steps; i64 count; int h, w, channels; };

// The step of value i.
template <class Params> DEVICE float step_of(const Params& p, i64 i) {
    const i64 pixel = i / p.channels;
    const int row = int(pixel / p.w % p.h) % 8, column = int(pixel % p.w) % 8;
    return p.steps[(row * 8 + column) * p.channels + i % p.channels];
}

KERNEL(quantise, QuantiseParams, 256, 4) {
    i64 threads = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < p.count; i += threads) {
        const float step = step_of(p, i);
        put(p.y, i, step * rintf(at(p.x, i) / step));
    }
}
KERNEL(quantise_vjp, QuantiseVjpParams, 256, 4) {
    i64 threads = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < p.count; i += threads) {
        const float steps = at(p.x, i) / step_of(p, i), over = steps - rintf(steps);
        put(p.dx, i, 3.0f * over * over * at(p.dy, i));
    }
}
