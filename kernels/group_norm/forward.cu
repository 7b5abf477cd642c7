// Group normalisation with affine parameters, FiLM and SiLU.
//
//   xhat = (x - mean_g) rstd_g,  u = (gamma xhat + beta)(1 + scale) + shift,  y = silu(u) or u
//
// x is one tensor, or two whose channels follow each other (x, then second). Overwrites y, mean and
// rstd.
//
// There are three launches. _statistics leaves, for each group of a chunk of pixels, the mean and
// the sum of squared deviations. It sums values and squares per channel around the chunk's first
// pixel, in one pass, because no value is far from that pixel in units of the standard deviation.
// _combine adds the chunks up in a fixed order. The last launch reads x once more and overwrites y.
// If the pixels of a group fit a cache, one launch does it all: _of_group has a block per item and
// group.
//
// A thread takes a vector of V channels. As many threads as a pixel has vectors take one pixel, and
// the rest of the block takes other pixels.
#include "group_norm/group_norm.cuh"

template <class S, int V> DEVICE void statistics(const GroupNormParams& p) {
    const Part<V> part = Part<V>::chunk(p);
    // Sums and squares have rows x channels floats each. Then comes the centre of every channel.
    float* sums = reinterpret_cast<float*>(shared_memory());
    float* squares = sums + part.rows * p.channels;
    float* centres = squares + part.rows * p.channels;
    for (int v = part.first; v < part.end && part.row < part.rows; v += part.across) {
        const Source<S> source(p, part.base, v * V);
        const S* x = source.x(p);
        Stored<S, V> in[AT_ONCE];
        float sum[V] = {}, square[V] = {}, centre[V], value[V];
        in[0].load(x);
        in[0].unpack(centre);
        for (int pixel = part.row; pixel < part.count; pixel += AT_ONCE * part.rows) {
            for (int u = 0; u < AT_ONCE; u++) {
                if (part.has(pixel, u)) in[u].load(x + part.after(pixel, u) * source.stride);
            }
            for (int u = 0; u < AT_ONCE && part.has(pixel, u); u++) {
                in[u].unpack(value);
                for (int e = 0; e < V; e++) {
                    const float from_centre = value[e] - centre[e];
                    sum[e] += from_centre;
                    square[e] += from_centre * from_centre;
                }
            }
        }
        for (int e = 0; e < V; e++) {
            sums[part.row * p.channels + v * V + e] = sum[e];
            squares[part.row * p.channels + v * V + e] = square[e];
            if (part.row == 0) centres[v * V + e] = centre[e];
        }
    }
    add_rows(sums, part.rows, p.channels);
    add_rows(squares, part.rows, p.channels);
    // A warp takes one group.
    const int per = p.channels / p.groups, lane = threadIdx.x % 32;
    const float pixels = float(smaller(p.chunk, p.pixels - int(blockIdx.x) * p.chunk)), share = 1.0f / pixels;
    for (int g = threadIdx.x / 32; g < p.groups; g += blockDim.x / 32) {
        float mean = 0, deviations = 0;
        for (int c = g * per + lane; c < (g + 1) * per; c += 32) mean += centres[c] + sums[c] * share;
        mean = warp_sum(mean) / float(per);
        for (int c = g * per + lane; c < (g + 1) * per; c += 32) {
            const float offset = sums[c] * share, from_mean = centres[c] + offset - mean;
            deviations += larger(squares[c] - sums[c] * offset, 0.0f) + pixels * from_mean * from_mean;
        }
        deviations = warp_sum(deviations);
        float* out = p.partial + ((i64(blockIdx.y) * p.chunks + blockIdx.x) * p.groups + g) * 2;
        if (lane == 0) {
            out[0] = mean;
            out[1] = deviations;
        }
    }
}

template <class S, int V> DEVICE void normalise(const GroupNormParams& p, const Part<V>& part) {
    for (int v = part.first; v < part.end; v += part.across) {
        const Channels<S, V> k(p, part.n, v * V);
        const Source<S> source(p, part.base, v * V);
        const S* x = source.x(p);
        S* y = static_cast<S*>(p.y) + part.base * p.channels + v * V;
        for (int pixel = part.row; pixel < part.count; pixel += AT_ONCE * part.rows) {
            Stored<S, V> in[AT_ONCE];
            for (int u = 0; u < AT_ONCE; u++) {
                if (part.has(pixel, u)) in[u].load(x + part.after(pixel, u) * source.stride);
            }
            for (int u = 0; u < AT_ONCE && part.has(pixel, u); u++) {
                float value[V];
                in[u].unpack(value);
                for (int e = 0; e < V; e++) {
                    const float before_silu = k.a[e] * value[e] + k.b[e];
                    value[e] = p.silu ? silu_of(before_silu) : before_silu;
                }
                store_channels<S, V>(y + part.after(pixel, u) * i64(p.channels), value);
            }
        }
    }
}

// This thread's sum of x - centre over a group, or of its square.
template <class S, int V> DEVICE float sum_of_group(const GroupNormParams& p, const Part<V>& part, float centre, bool squared) {
    float sum = 0;
    for (int v = part.first; v < part.end; v += part.across) {
        const Source<S> source(p, part.base, v * V);
        const S* x = source.x(p);
        for (int pixel = part.row; pixel < part.count; pixel += AT_ONCE * part.rows) {
            Stored<S, V> in[AT_ONCE];
            for (int u = 0; u < AT_ONCE; u++) {
                if (part.has(pixel, u)) in[u].load(x + part.after(pixel, u) * source.stride);
            }
            for (int u = 0; u < AT_ONCE && part.has(pixel, u); u++) {
                float value[V];
                in[u].unpack(value);
                for (int e = 0; e < V; e++) sum += squared ? (value[e] - centre) * (value[e] - centre) : value[e] - centre;
            }
        }
    }
    return sum;
}

// Makes all passes over a group: the mean, then the exact squared deviations, then y. The second
// and third pass read from the cache.
template <class S, int V> DEVICE void of_group(const GroupNormParams& p) {
    float* scratch = reinterpret_cast<float*>(shared_memory());
    const Part<V> part = Part<V>::group(p);
    const int group = part.n * p.groups + blockIdx.x;
    const float values = float(p.pixels) * float(p.channels / p.groups);
    const float mean = block_sum(sum_of_group<S, V>(p, part, 0.0f, false), scratch) / values;
    const float squares = block_sum(sum_of_group<S, V>(p, part, mean, true), scratch);
    if (threadIdx.x == 0) {
        p.mean[group] = mean;
        p.rstd[group] = 1.0f / sqrtf(squares / values + p.eps);
    }
    block_barrier();
    normalise<S, V>(p, part);
}

// One block per item and group: first the mean of all chunks, then the squared deviations from it.
KERNEL(group_norm_combine, GroupNormParams, 256, 4) {
    float* scratch = reinterpret_cast<float*>(shared_memory());
    const int n = blockIdx.x / p.groups, g = blockIdx.x % p.groups, per = p.channels / p.groups;
    const float* partial = p.partial + (i64(n) * p.chunks * p.groups + g) * 2;
    const float values = float(p.pixels) * float(per);
    auto values_of = [&](int chunk) { return float(smaller(p.chunk, p.pixels - chunk * p.chunk)) * float(per); };
    float sum = 0, squares = 0;
    for (int chunk = threadIdx.x; chunk < p.chunks; chunk += blockDim.x) sum += values_of(chunk) * partial[i64(chunk) * p.groups * 2];
    const float mean = block_sum(sum, scratch) / values;
    for (int chunk = threadIdx.x; chunk < p.chunks; chunk += blockDim.x) {
        const float* in = partial + i64(chunk) * p.groups * 2;
        const float from_mean = in[0] - mean;
        squares += in[1] + values_of(chunk) * from_mean * from_mean;
    }
    squares = block_sum(squares, scratch);
    if (threadIdx.x == 0) {
        p.mean[blockIdx.x] = mean;
        p.rstd[blockIdx.x] = 1.0f / sqrtf(squares / values + p.eps);
    }
}

// Kernels take whole vectors of channels, or, with _any, one channel at a time.
#define GROUP_NORM(type, S)                                                                                       \
    KERNEL(group_norm_statistics_##type, GroupNormParams, 256, 4) { statistics<S, VECTOR<S>>(p); }                \
    KERNEL(group_norm_statistics_##type##_any, GroupNormParams, 256, 4) { statistics<S, 1>(p); }                  \
    KERNEL(group_norm_##type, GroupNormParams, 256, 4) { normalise<S, VECTOR<S>>(p, Part<VECTOR<S>>::chunk(p)); } \
    KERNEL(group_norm_##type##_any, GroupNormParams, 256, 4) { normalise<S, 1>(p, Part<1>::chunk(p)); }           \
    KERNEL(group_norm_of_group_##type, GroupNormParams, 512, 1) { of_group<S, VECTOR<S>>(p); }

GROUP_NORM(f32, float)
GROUP_NORM(f16, f16)
GROUP_NORM(bf16, bf16)
