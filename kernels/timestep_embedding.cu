// y[n] = [cos(t f_0) .. cos(t f_{h-1}), sin(t f_0) ..]
// with f_i = exp(-ln(10000) i / h), h = channels / 2
// blockIdx.x is the item. The kernel takes the exact cosf and sinf, because t reaches 1000.
#include "include/view.cuh"

struct TimestepEmbeddingParams { ViewOut y; View t; int channels; };
KERNEL(timestep_embedding, TimestepEmbeddingParams, 256, 1) {
    int half = p.channels / 2;
    float t = at(p.t, blockIdx.x);
    for (int i = threadIdx.x; i < half; i += blockDim.x) {
        float angle = t * expf(-9.210340372f * float(i) / float(half));
        put(p.y, i64(blockIdx.x) * p.channels + i, cosf(angle));
        put(p.y, i64(blockIdx.x) * p.channels + half + i, sinf(angle));
    }
}
