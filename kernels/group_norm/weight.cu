// The gradients of a group normalisation with respect to gamma and beta. The forward formulas are
// in forward.cu.
//
//   du = dy silu'(u) (1 + scale)
//   dgamma = sum over items and pixels of du xhat,  dbeta = that of du
//
// This is the first of two launches: it overwrites partial (items, chunks, 2, channels) with the
// sums of every chunk of pixels, and partial_sums.cu adds them up. Reads x, dy, mean, rstd and the
// parameters. blockIdx.x is the block of channels, blockIdx.y the chunk and blockIdx.z the item. A
// thread takes four channels of a pixel, or one.
#include "include/channel_sums.cuh"

struct GroupNormWeightParams {
    float* partial;
    View x, dy, gamma, beta, film;  // film (n, 2c): scale, shift; may be absent
    const float *mean, *rstd;       // (n, groups)
    i64 pixels, chunk;
    int channels, groups, silu;
};

// What this thread's channels from c on need. u = slope xhat + offset.
struct WeightSums {
    const GroupNormWeightParams& p;
    int c, count;
    float mean[4], rstd[4], slope[4], offset[4], by_film[4];

    DEVICE WeightSums(const GroupNormWeightParams& params, int first, int number) : p(params), c(first), count(number) {
        const int n = blockIdx.z, per = p.channels / p.groups;
        const i64 film = i64(n) * 2 * p.channels + c;
        for (int e = 0; e < 4; e++) {
            const int k = e < count ? e : 0, group = n * p.groups + (c + k) / per;
            mean[e] = p.mean[group];
            rstd[e] = p.rstd[group];
            by_film[e] = p.film.data ? 1.0f + at(p.film, film + k) : 1.0f;
            slope[e] = at(p.gamma, c + k) * by_film[e];
            offset[e] = at(p.beta, c + k) * by_film[e] + (p.film.data ? at(p.film, film + p.channels + k) : 0.0f);
        }
    }
    template <class R> DEVICE void operator()(R, i64 pixel, float (&sum)[2][4]) const {
        float x[R::COUNT][4], dy[R::COUNT][4];
        const i64 first = pixel * p.channels + c, step = i64(SUM_ROWS) * p.channels;
        load_rows(p.x, first, step, count, x);
        load_rows(p.dy, first, step, count, dy);
        for (int k = 0; k < R::COUNT; k++) {
            for (int e = 0; e < 4; e++) {
                const float xhat = (x[k][e] - mean[e]) * rstd[e];
                const float du = dy[k][e] * by_film[e] * (p.silu ? silu_slope(slope[e] * xhat + offset[e]) : 1.0f);
                sum[0][e] += du * xhat;
                sum[1][e] += du;
            }
        }
    }
};

KERNEL(group_norm_weight_vjp, GroupNormWeightParams, 256, 2) {
    const i64 base = i64(blockIdx.z) * p.pixels, first = i64(blockIdx.y) * p.chunk;
    float* out = p.partial + (i64(blockIdx.z) * gridDim.y + blockIdx.y) * 2 * p.channels;
    channel_sums<2, 2>(out, base + first, base + smaller(first + p.chunk, p.pixels), p.channels,
                       [&](int c, int count) { return WeightSums(p, c, count); });
}
