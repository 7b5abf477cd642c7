// channel_copy: y[p, to + c] = x[p, from + c] for c < count, over all pixels p of the batch. A
// concatenation is two of these copies, and a slice is one.
// channel_pad: y[p, c] = x[p, c - start] inside, 0 outside.
// VJP: the gradients of a concatenation are slices of dy; slice and pad are each other's VJP.
// A thread takes four channels at a time if every offset is a multiple of four, else one.
#include "include/view.cuh"

struct ChannelCopyParams { ViewOut y; View x; i64 pixels; int y_channels, x_channels, to, from, count; };
KERNEL(channel_copy, ChannelCopyParams, 256, 4) {
    bool fours = (p.y_channels | p.x_channels | p.to | p.from | p.count) % 4 == 0;
    int row = fours ? p.count / 4 : p.count;
    i64 step = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < p.pixels * row; i += step) {
        i64 pixel = i / row;
        int c = int(i % row);
        if (fours) {
            float v[4];
            load4(p.x, pixel * p.x_channels + p.from + 4 * c, v);
            store4(p.y, pixel * p.y_channels + p.to + 4 * c, v);
        } else {
            put(p.y, pixel * p.y_channels + p.to + c, at(p.x, pixel * p.x_channels + p.from + c));
        }
    }
}

struct ChannelPadParams { ViewOut y; View x; i64 pixels; int total, channels, start; };
KERNEL(channel_pad, ChannelPadParams, 256, 4) {
    i64 step = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < p.pixels * p.total; i += step) {
        i64 pixel = i / p.total;
        int c = int(i % p.total) - p.start;
        put(p.y, i, c >= 0 && c < p.channels ? at(p.x, pixel * p.channels + c) : 0.0f);
    }
}
