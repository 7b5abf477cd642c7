// z = mean + exp(clamp(logvar, -30, 20) / 2) noise. mean and logvar are the halves of a pixel's 2c
// channels. The VJP is with respect to both: dmean = dz, and dlogvar = dz noise exp(logvar / 2) / 2
// inside the limits, else 0. A thread takes one channel of a pixel.
#include "include/view.cuh"

DEVICE float deviation(float logvar) { return expf(0.5f * smaller(larger(logvar, -30.0f), 20.0f)); }

struct DiagonalGaussianParams { ViewOut z; View moments, noise; i64 count; int channels; };
KERNEL(diagonal_gaussian, DiagonalGaussianParams, 256, 4) {
    i64 step = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < p.count; i += step) {
        i64 mean = i + i / p.channels * p.channels;
        put(p.z, i, at(p.moments, mean) + deviation(at(p.moments, mean + p.channels)) * at(p.noise, i));
    }
}

struct DiagonalGaussianVjpParams { ViewOut d; View dz, moments, noise; i64 count; int channels; };
KERNEL(diagonal_gaussian_vjp, DiagonalGaussianVjpParams, 256, 4) {
    i64 step = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < p.count; i += step) {
        i64 mean = i + i / p.channels * p.channels;
        float logvar = at(p.moments, mean + p.channels), dz = at(p.dz, i);
        put(p.d, mean, dz);
        bool limited = logvar < -30.0f || logvar > 20.0f;
        put(p.d, mean + p.channels, limited ? 0.0f : 0.5f * dz * deviation(logvar) * at(p.noise, i));
    }
}
