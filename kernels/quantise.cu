// y = s round(x / s), halves to even. The step s depends on the place within a block of 8x8 pixels
// and on the channel. A thread makes one value at a time. There is no VJP: the gradient passes.
#include "include/view.cuh"

struct QuantiseParams { ViewOut y; View x; const float* steps; i64 count; int h, w, channels; };
KERNEL(quantise, QuantiseParams, 256, 4) {
    i64 threads = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < p.count; i += threads) {
        const i64 pixel = i / p.channels;
        const int row = int(pixel / p.w % p.h) % 8, column = int(pixel % p.w) % 8;
        const float step = p.steps[(row * 8 + column) * p.channels + i % p.channels];
        put(p.y, i, step * rintf(at(p.x, i) / step));
    }
}
