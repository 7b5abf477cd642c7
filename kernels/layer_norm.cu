// Layer norm over the channels of every pixel, and its VJP with respect to x.
//
//   xhat = (x - mean) rstd,  y = gamma xhat + beta
//   p = gamma dy,  dx = rstd (p - avg(p) - xhat avg(p xhat)), averages over the channels
//
// A warp takes one pixel, and a block takes eight. A warp reads its pixel three times; the first
// read fills the cache for the others. The variance takes two passes. Overwrites y, or dx with the
// gradient plus `addend`. dx may take dy's place: after the warp's last sum, a lane writes only
// what it alone has read.
#include "include/reduce.cuh"
#include "include/view.cuh"

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
