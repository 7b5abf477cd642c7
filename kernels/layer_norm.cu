// Layer norm over the channels of every pixel, and its VJPs with respect to x, gamma and beta.
//
//   xhat = (x - mean) rstd,  y = gamma xhat + beta
//   p = gamma dy,  dx = rstd (p - avg(p) - xhat avg(p xhat)), averages over the channels
//   dgamma = sum over pixels of dy xhat,  dbeta = sum over pixels of dy
//
// A warp takes one pixel, and a block takes eight. A warp reads its pixel three times; the first
// read fills the cache for the others. The variance takes two passes. Overwrites y, or dx with the
// gradient plus `addend`. dx may take dy's place: after the warp's last sum, a lane writes only
// what it alone has read.
//
// dgamma and dbeta take three launches: layer_norm_moments overwrites (pixels, 2) with the mean and
// rstd of every pixel, layer_norm_weight_vjp overwrites partial (chunks, 2, channels) with the sums
// of every chunk of pixels, and partial_sums.cu adds the chunks up. In the second, blockIdx.x is
// the block of channels and blockIdx.y the chunk.
#include "include/channel_sums.cuh"
#include "include/reduce.cuh"

// Calls f(first channel, count) for the channels of this lane: four at a time if pixels are whole
// vectors.
template <class F> DEVICE void over_channels(int channels, F f) {
    int lane = threadIdx.x % 32;
    if (channels % 4 == 0) {
        for (int c = 4 * lane; c < channels; c += 128) f(c, 4);
    } else {
        for (int c = lane; c < channels; c += 32) f(c, 1);
    }
}

struct Moments { float mean, rstd; };

DEVICE Moments moments(View x, i64 first, int channels, float eps) {
    float sum = 0, squares = 0;
    over_channels(channels, [&](int c, int count) {
        float v[4];
        load_some(x, first + c, count, v);
        for (int e = 0; e < count; e++) sum += v[e];
    });
    float mean = warp_sum(sum) / channels;
    over_channels(channels, [&](int c, int count) {
        float v[4];
        load_some(x, first + c, count, v);
        for (int e = 0; e < count; e++) squares += (v[e] - mean) * (v[e] - mean);
    });
    return {mean, 1.0f / sqrtf(warp_sum(squares) / channels + eps)};
}

struct LayerNormParams { ViewOut y; View x, gamma, beta; i64 pixels; int channels; float eps; };
KERNEL(layer_norm, LayerNormParams, 256, 4) {
    i64 pixel = i64(blockIdx.x) * 8 + threadIdx.x / 32, first = pixel * p.channels;
    if (pixel >= p.pixels) return;
    Moments m = moments(p.x, first, p.channels, p.eps);
    over_channels(p.channels, [&](int c, int count) {
        float v[4], gamma[4], beta[4];
        load_some(p.x, first + c, count, v);
        load_some(p.gamma, c, count, gamma);
        load_some(p.beta, c, count, beta);
        for (int e = 0; e < count; e++) v[e] = gamma[e] * ((v[e] - m.mean) * m.rstd) + beta[e];
        store_some(p.y, first + c, count, v);
    });
}

struct LayerNormVjpParams { ViewOut dx; View dy, x, gamma, addend; i64 pixels; int channels; float eps; };
KERNEL(layer_norm_vjp, LayerNormVjpParams, 256, 4) {
    i64 pixel = i64(blockIdx.x) * 8 + threadIdx.x / 32, first = pixel * p.channels;
    if (pixel >= p.pixels) return;
    Moments m = moments(p.x, first, p.channels, p.eps);
    float sum = 0, sum_x = 0;
    auto load = [&](int c, int count, float (&weighted)[4], float (&xhat)[4]) {
        float gamma[4];
        load_some(p.dy, first + c, count, weighted);
        load_some(p.x, first + c, count, xhat);
        load_some(p.gamma, c, count, gamma);
        for (int e = 0; e < count; e++) {
            weighted[e] *= gamma[e];
            xhat[e] = (xhat[e] - m.mean) * m.rstd;
        }
    };
    over_channels(p.channels, [&](int c, int count) {
        float weighted[4], xhat[4];
        load(c, count, weighted, xhat);
        for (int e = 0; e < count; e++) {
            sum += weighted[e];
            sum_x += weighted[e] * xhat[e];
        }
    });
    float average = warp_sum(sum) / p.channels, average_x = warp_sum(sum_x) / p.channels;
    over_channels(p.channels, [&](int c, int count) {
        float weighted[4], xhat[4];
        load(c, count, weighted, xhat);
        for (int e = 0; e < count; e++) weighted[e] = m.rstd * (weighted[e] - average - xhat[e] * average_x);
        if (p.addend.data) {
            float sum[4];
            load_some(p.addend, first + c, count, sum);
            for (int e = 0; e < count; e++) weighted[e] += sum[e];
        }
        store_some(p.dx, first + c, count, weighted);
    });
}

struct LayerNormMomentsParams { float* moments; View x; i64 pixels; int channels; float eps; };
KERNEL(layer_norm_moments, LayerNormMomentsParams, 256, 4) {
    i64 pixel = i64(blockIdx.x) * 8 + threadIdx.x / 32;
    if (pixel >= p.pixels) return;
    Moments m = moments(p.x, pixel * p.channels, p.channels, p.eps);
    if (threadIdx.x % 32 != 0) return;
    p.moments[2 * pixel] = m.mean;
    p.moments[2 * pixel + 1] = m.rstd;
}

struct LayerNormWeightParams { float* partial; const float* moments; View dy, x; i64 pixels, chunk; int channels; };
KERNEL(layer_norm_weight_vjp, LayerNormWeightParams, 256, 3) {
    const i64 first = i64(blockIdx.y) * p.chunk;
    float* out = p.partial + i64(blockIdx.y) * 2 * p.channels;
    channel_sums<2, 2>(out, first, smaller(first + p.chunk, p.pixels), p.channels, [&](int c, int count) {
        return [&p, c, count](auto rows, i64 pixel, float (&sum)[2][4]) {
            float dy[rows.COUNT][4], x[rows.COUNT][4];
            load_rows(p.dy, pixel * p.channels + c, i64(SUM_ROWS) * p.channels, count, dy);
            load_rows(p.x, pixel * p.channels + c, i64(SUM_ROWS) * p.channels, count, x);
            for (int n = 0; n < rows.COUNT; n++) {
                const float* moments = p.moments + 2 * (pixel + n * SUM_ROWS);
                for (int e = 0; e < 4; e++) {
                    sum[0][e] += dy[n][e] * ((x[n][e] - moments[0]) * moments[1]);
                    sum[1][e] += dy[n][e];
                }
            }
        };
    });
}
