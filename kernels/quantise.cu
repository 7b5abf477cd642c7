// y = s round(x / s), halves to even. The step s depends on the place within a block of 8x8 pixels
// and on the channel. A thread makes one value at a time.
// VJP of the cubic approximation: dx = 3 (x / s - round(x / s))^2 dy. That of the identity needs no
// kernel.
#include "include/view.cuh"

// The steps of an image of `count` values.
struct QuantiseSteps { const float* values; i64 count; int h, w, channels; };
struct QuantiseParams { ViewOut y; View x; QuantiseSteps steps; };
struct QuantiseVjpParams { ViewOut dx; View dy, x; QuantiseSteps steps; };

// The step of value i.
DEVICE float step_of(const QuantiseSteps& s, i64 i) {
    const i64 pixel = i / s.channels;
    const int row = int(pixel / s.w % s.h) % 8, column = int(pixel % s.w) % 8;
    return s.values[(row * 8 + column) * s.channels + i % s.channels];
}

KERNEL(quantise, QuantiseParams, 256, 4) {
    i64 threads = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < p.steps.count; i += threads) {
        const float step = step_of(p.steps, i);
        put(p.y, i, step * rintf(at(p.x, i) / step));
    }
}
KERNEL(quantise_vjp, QuantiseVjpParams, 256, 4) {
    i64 threads = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < p.steps.count; i += threads) {
        const float steps = at(p.x, i) / step_of(p.steps, i), over = steps - rintf(steps);
        put(p.dx, i, 3.0f * over * over * at(p.dy, i));
    }
}
