// modulus: y[p, c] = |u[p, c] + i u[p, channels + c]|.
// modulus_vjp: du = dy u / |u| for real and imaginary part, 0 where u = 0.
// A thread makes one value at a time.
#include "include/view.cuh"

struct ModulusParams { ViewOut y; View u; i64 count; int channels; };
KERNEL(modulus, ModulusParams, 256, 4) {
    i64 step = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < p.count; i += step) {
        const i64 re = i / p.channels * 2 * p.channels + i % p.channels;
        const float a = at(p.u, re), b = at(p.u, re + p.channels);
        put(p.y, i, sqrtf(a * a + b * b));
    }
}

struct ModulusVjpParams { ViewOut du; View dy, u; i64 count; int channels; };
KERNEL(modulus_vjp, ModulusVjpParams, 256, 4) {
    i64 step = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < p.count; i += step) {
        const i64 pixel = i / (2 * p.channels), c = i % p.channels, re = pixel * 2 * p.channels + c;
        const float a = at(p.u, re), b = at(p.u, re + p.channels), modulus = sqrtf(a * a + b * b);
        put(p.du, i, modulus > 0 ? at(p.dy, pixel * p.channels + c) * at(p.u, i) / modulus : 0.0f);
    }
}
