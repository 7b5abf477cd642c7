// y[n, c] = sum over pixels of x[n, pixel, c] + addend[n, c], or over the items as well: then an
// item here holds all pixels.
//
// This is the first of two launches: it overwrites partial (chunks, items, channels) with the sums
// of every chunk of pixels, and partial_sums.cu adds them up. blockIdx.x is the block of channels,
// blockIdx.y the chunk and blockIdx.z the item. A thread takes four channels of a pixel, or one.
#include "include/channel_sums.cuh"

struct PixelSumParams { float* partial; View x; i64 pixels, chunk; int channels; };
KERNEL(pixel_sum, PixelSumParams, 256, 4) {
    const i64 base = i64(blockIdx.z) * p.pixels, first = i64(blockIdx.y) * p.chunk;
    float* out = p.partial + (i64(blockIdx.y) * gridDim.z + blockIdx.z) * p.channels;
    channel_sums<1, 4>(out, base + first, base + smaller(first + p.chunk, p.pixels), p.channels, [&](int c, int count) {
        return [&p, c, count](auto rows, i64 pixel, float (&sum)[1][4]) {
            float x[rows.COUNT][4];
            load_rows(p.x, pixel * p.channels + c, i64(SUM_ROWS) * p.channels, count, x);
            for (int n = 0; n < rows.COUNT; n++) {
                for (int e = 0; e < 4; e++) sum[0][e] += x[n][e];
            }
        };
    });
}
