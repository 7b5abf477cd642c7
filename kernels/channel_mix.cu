// y[p, o] = sum over c of matrix[o, c] x[p, c], for every pixel p of the batch. The VJP is this
// kernel with the transposed matrix. A thread makes one value of y at a time.
#include "include/view.cuh"

struct ChannelMixParams { ViewOut y; View x; const float* matrix; i64 count; int rows, channels; };
KERNEL(channel_mix, ChannelMixParams, 256, 4) {
    i64 step = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < p.count; i += step) {
        const i64 pixel = i / p.rows * p.channels;
        const float* row = p.matrix + i % p.rows * p.channels;
        float sum = 0;
        for (int c = 0; c < p.channels; c++) sum += row[c] * at(p.x, pixel + c);
        put(p.y, i, sum);
    }
}
