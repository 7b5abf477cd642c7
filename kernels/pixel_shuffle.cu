// pixel_shuffle: y[2i + a, 2j + b, c] = x[i, j, 4c + 2a + b]
// pixel_unshuffle: y[i, j, 4c + 2a + b] = x[2i + a, 2j + b, c]
// Each is the other's VJP. (h, w, channels) is the shape with more pixels. A thread moves one value
// at a time.
#include "include/view.cuh"

struct PixelShuffleParams { ViewOut y; View x; i64 count; int w, channels; };

// The place of value i of the image with more pixels in the one with more channels. `row` counts
// the rows of all items; their number is even in each.
DEVICE i64 place_in_channels(const PixelShuffleParams& p, i64 i) {
    const int c = int(i % p.channels), j = int(i / p.channels % p.w);
    const i64 row = i / p.channels / p.w;
    return (row / 2 * (p.w / 2) + j / 2) * 4 * p.channels + 4 * c + 2 * int(row % 2) + j % 2;
}

KERNEL(pixel_shuffle, PixelShuffleParams, 256, 4) {
    const i64 step = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < p.count; i += step) {
        put(p.y, i, at(p.x, place_in_channels(p, i)));
    }
}
KERNEL(pixel_unshuffle, PixelShuffleParams, 256, 4) {
    const i64 step = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < p.count; i += step) {
        put(p.y, place_in_channels(p, i), at(p.x, i));
    }
}
