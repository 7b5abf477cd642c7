// channel_bias: y[n, p, c] = x[n, p, c] + b[n, c]; dx = dy. channel_sum: db[n, c] = sum over p of dy[n, p, c], a block per
// item and 32 channels, in a fixed order.
#include "include/view.cuh"

struct ChannelBiasParams { View y, x, b; i64 item; int channels; };
KERNEL(channel_bias, ChannelBiasParams, 256, 4) {
    i64 base = i64(blockIdx.y) * p.item, step = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < p.item; i += step) {
        put(p.y, base + i, at(p.x, base + i) + at(p.b, i64(blockIdx.y) * p.channels + i % p.channels));
    }
}

struct ChannelSumParams { View y, x; i64 pixels; int channels; };
KERNEL(channel_sum, ChannelSumParams, 256, 4) {
    float* partial = reinterpret_cast<float*>(shared_memory());
    int lane = threadIdx.x % 32, row = threadIdx.x / 32, c = blockIdx.x * 32 + lane;
    float sum = 0;
    if (c < p.channels) {
        for (i64 pixel = row; pixel < p.pixels; pixel += 8) {
            sum += at(p.x, (i64(blockIdx.y) * p.pixels + pixel) * p.channels + c);
        }
    }
    partial[threadIdx.x] = sum;
    block_barrier();
    if (row == 0 && c < p.channels) {
        for (int r = 1; r < 8; r++) sum += partial[r * 32 + lane];
        put(p.y, i64(blockIdx.y) * p.channels + c, sum);
    }
}
