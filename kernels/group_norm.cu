// Group normalisation with affine, FiLM and SiLU, and its VJP.
//
//   xhat = (x - mean_g) rstd_g,  u = (gamma xhat + beta)(1 + scale) + shift,  y = silu(u) or u
//   du = dy silu'(u),  p = du gamma (1 + scale),  dx = rstd (p - avg(p) - xhat avg(p xhat)), averages over the group of item n
//   dscale = sum over pixels of du (gamma xhat + beta),  dshift = sum over pixels of du
//
// Three launches each way. _statistics leaves per chunk of pixels and group the count's mean and squared deviations (two passes, the
// second out of the cache) or the two sums of the VJP; _combine adds the chunks up in a fixed order (Chan); the last one reads x
// (and dy) once more and overwrites y or dx, to which it adds what is in `addend`; dx may take dy's place.
// x is one tensor or two whose channels follow each other (x, then second); dx then goes to two tensors as well.
// Threads: a vector of V channels each, as many as a pixel has, the rest of the block on other pixels of the chunk.
#include "include/reduce.cuh"
#include "include/view.cuh"

struct GroupNormParams {
    void *y, *second_y;              // y, or dx by x and by second
    const void *x, *second, *dy, *addend;
    float *mean, *rstd;              // (n, groups)
    const void *gamma, *beta, *film; // film (n, 2c): scale, shift; may be absent
    float *partial, *sums;           // (n, chunks, groups, 2); (n, groups, 2)
    int n, pixels, channels, first, groups, chunk, chunks, silu;  // channels: of both; first: of x
    float eps;
};

template <class S, int V> DEVICE void load_channels(const S* p, float (&out)[V]) {
    if constexpr (V == 1) out[0] = to_float(*p);
    else load_vector(p, out);
}

// Channel c of the pixels from `pixel` on, in whichever source has it: where they start, and how far apart they are.
template <class S> struct Source {
    i64 at;
    int stride;
    bool is_second;

    DEVICE Source(const GroupNormParams& p, i64 pixel, int c) {
        is_second = c >= p.first;
        stride = is_second ? p.channels - p.first : p.first;
        at = pixel * stride + (is_second ? c - p.first : c);
    }
    DEVICE const S* x(const GroupNormParams& p) const { return static_cast<const S*>(is_second ? p.second : p.x) + at; }
    DEVICE S* dx(const GroupNormParams& p) const { return static_cast<S*>(is_second ? p.second_y : p.y) + at; }
};

// u = a x + b for V channels from c on of item n, and factor = gamma (1 + scale).
template <class S, int V> struct Channels {
    float a[V], b[V], factor[V], centre[V];

    DEVICE Channels(const GroupNormParams& p, int n, int c) {
        int per = p.channels / p.groups;
        for (int e = 0; e < V; e++) {
            int g = n * p.groups + (c + e) / per;
            const S* film = static_cast<const S*>(p.film) + i64(n) * 2 * p.channels + c + e;
            float scale = p.film ? 1.0f + to_float(film[0]) : 1.0f, shift = p.film ? to_float(film[p.channels]) : 0.0f;
            centre[e] = p.mean[g];
            factor[e] = to_float(static_cast<const S*>(p.gamma)[c + e]) * scale;
            a[e] = p.rstd[g] * factor[e];
            b[e] = to_float(static_cast<const S*>(p.beta)[c + e]) * scale + shift - centre[e] * a[e];
        }
    }
};

// Which vectors and pixels a thread takes.
template <int V> struct Lanes {
    int vectors, across, first, row, rows;
    DEVICE Lanes(int channels) {
        vectors = channels / V;
        across = smaller(vectors, int(blockDim.x));
        rows = blockDim.x / across;
        first = threadIdx.x % across;
        row = threadIdx.x / across;  // threads with row >= rows rest
    }
};

// Sums `values` of every channel over the rows of threads, then over each group, into out[g]; by all threads of the block.
template <int V> DEVICE void add_rows(float* scratch, const Lanes<V>& l, int channels) {
    block_barrier();
    for (int c = threadIdx.x; c < channels; c += blockDim.x) {
        float sum = 0;
        for (int r = 0; r < l.rows; r++) sum += scratch[r * channels + c];
        scratch[c] = sum;
    }
    block_barrier();
}

template <class S, int V> DEVICE void statistics(const GroupNormParams& p) {
    float* scratch = reinterpret_cast<float*>(shared_memory());  // rows x channels, then one mean per group
    Lanes<V> l(p.channels);
    float* means = scratch + l.rows * p.channels;
    const int per = p.channels / p.groups, from = blockIdx.x * p.chunk, count = smaller(p.chunk, p.pixels - from);
    const i64 base = i64(blockIdx.y) * p.pixels + from;
    for (int pass = 0; pass < 2; pass++) {
        if (l.row < l.rows) {
            for (int v = l.first; v < l.vectors; v += l.across) {
                float sum[V] = {}, centre[V] = {};
                Source<S> source(p, base, v * V);
                const S* x = source.x(p);
                if (pass == 1) {
                    for (int e = 0; e < V; e++) centre[e] = means[(v * V + e) / per];
                }
                for (int pixel = l.row; pixel < count; pixel += l.rows) {
                    float in[V];
                    load_channels<S, V>(x + i64(pixel) * source.stride, in);
                    for (int e = 0; e < V; e++) sum[e] += pass == 0 ? in[e] : (in[e] - centre[e]) * (in[e] - centre[e]);
                }
                for (int e = 0; e < V; e++) scratch[l.row * p.channels + v * V + e] = sum[e];
            }
        }
        add_rows(scratch, l, p.channels);
        for (int g = threadIdx.x; g < p.groups; g += blockDim.x) {
            float sum = 0;
            for (int c = g * per; c < (g + 1) * per; c++) sum += scratch[c];
            float* out = p.partial + ((i64(blockIdx.y) * p.chunks + blockIdx.x) * p.groups + g) * 2;
            if (pass == 0) out[0] = means[g] = sum / float(count * per);
            else out[1] = sum;
        }
        block_barrier();
    }
}

template <class S, int V> DEVICE void normalise(const GroupNormParams& p) {
    Lanes<V> l(p.channels);
    if (l.row >= l.rows) return;
    const int from = blockIdx.x * p.chunk, count = smaller(p.chunk, p.pixels - from);
    const i64 base = i64(blockIdx.y) * p.pixels + from;
    for (int v = l.first; v < l.vectors; v += l.across) {
        Channels<S, V> k(p, blockIdx.y, v * V);
        Source<S> source(p, base, v * V);
        const S* in = source.x(p);
        for (int pixel = l.row; pixel < count; pixel += l.rows) {
            i64 i = (base + pixel) * p.channels + v * V;
            float x[V];
            load_channels<S, V>(in + i64(pixel) * source.stride, x);
            for (int e = 0; e < V; e++) {
                float u = k.a[e] * x[e] + k.b[e];
                x[e] = p.silu ? silu_of(u) : u;
            }
            if constexpr (V == 1) static_cast<S*>(p.y)[i] = from_float<S>(x[0]);
            else store_vector(static_cast<S*>(p.y) + i, x);
        }
    }
}

// Sums over a chunk: of p and p (x - mean) per group, or with FILM of du and du (x - mean) per channel.
template <class S, int V> DEVICE void vjp_statistics(const GroupNormParams& p) {
    float* scratch = reinterpret_cast<float*>(shared_memory());
    Lanes<V> l(p.channels);
    const int per = p.channels / p.groups, from = blockIdx.x * p.chunk, count = smaller(p.chunk, p.pixels - from);
    const i64 base = i64(blockIdx.y) * p.pixels + from;
    float* by_x = scratch + l.rows * p.channels;
    if (l.row < l.rows) {
        for (int v = l.first; v < l.vectors; v += l.across) {
            Channels<S, V> k(p, blockIdx.y, v * V);
            Source<S> source(p, base, v * V);
            const S* in = source.x(p);
            float sum[V] = {}, sum_x[V] = {};
            for (int pixel = l.row; pixel < count; pixel += l.rows) {
                i64 i = (base + pixel) * p.channels + v * V;
                float x[V], dy[V];
                load_channels<S, V>(in + i64(pixel) * source.stride, x);
                load_channels<S, V>(static_cast<const S*>(p.dy) + i, dy);
                for (int e = 0; e < V; e++) {
                    float du = p.silu ? dy[e] * silu_slope(k.a[e] * x[e] + k.b[e]) : dy[e];
                    sum[e] += du * k.factor[e];
                    sum_x[e] += du * k.factor[e] * (x[e] - k.centre[e]);
                }
            }
            for (int e = 0; e < V; e++) {
                scratch[l.row * p.channels + v * V + e] = sum[e];
                by_x[l.row * p.channels + v * V + e] = sum_x[e];
            }
        }
    }
    add_rows(scratch, l, p.channels);
    add_rows(by_x, l, p.channels);
    for (int g = threadIdx.x; g < p.groups; g += blockDim.x) {
        float sum = 0, sum_x = 0;
        for (int c = g * per; c < (g + 1) * per; c++) {
            sum += scratch[c];
            sum_x += by_x[c];
        }
        float* out = p.partial + ((i64(blockIdx.y) * p.chunks + blockIdx.x) * p.groups + g) * 2;
        out[0] = sum;
        out[1] = sum_x;
    }
}

template <class S, int V> DEVICE void vjp(const GroupNormParams& p) {
    Lanes<V> l(p.channels);
    if (l.row >= l.rows) return;
    const int per = p.channels / p.groups, from = blockIdx.x * p.chunk, count = smaller(p.chunk, p.pixels - from);
    const i64 base = i64(blockIdx.y) * p.pixels + from;
    for (int v = l.first; v < l.vectors; v += l.across) {
        Channels<S, V> k(p, blockIdx.y, v * V);
        Source<S> source(p, base, v * V);
        const S* in = source.x(p);
        S* out = source.dx(p);
        float by_x[V], one[V], by_du[V];
        for (int e = 0; e < V; e++) {
            int g = int(blockIdx.y) * p.groups + (v * V + e) / per;
            float rstd = p.rstd[g];
            by_du[e] = rstd * k.factor[e];
            one[e] = p.sums[2 * g];
            by_x[e] = p.sums[2 * g + 1];
        }
        for (int pixel = l.row; pixel < count; pixel += l.rows) {
            i64 i = (base + pixel) * p.channels + v * V;
            float x[V], dy[V];
            load_channels<S, V>(in + i64(pixel) * source.stride, x);
            load_channels<S, V>(static_cast<const S*>(p.dy) + i, dy);
            for (int e = 0; e < V; e++) {
                float du = p.silu ? dy[e] * silu_slope(k.a[e] * x[e] + k.b[e]) : dy[e];
                dy[e] = by_du[e] * du + by_x[e] * (x[e] - k.centre[e]) + one[e];
            }
            if (p.addend) {
                float sum[V];
                load_channels<S, V>(static_cast<const S*>(p.addend) + i, sum);
                for (int e = 0; e < V; e++) dy[e] += sum[e];
            }
            if constexpr (V == 1) out[i64(pixel) * source.stride] = from_float<S>(dy[0]);
            else store_vector(out + i64(pixel) * source.stride, dy);
        }
    }
}

// One warp per item and group.
KERNEL(group_norm_combine, GroupNormParams, 32, 8) {
    const int n = blockIdx.x / p.groups, g = blockIdx.x % p.groups, per = p.channels / p.groups;
    float count = 0, mean = 0, squares = 0;
    for (int chunk = threadIdx.x; chunk < p.chunks; chunk += 32) {
        const float* in = p.partial + ((i64(n) * p.chunks + chunk) * p.groups + g) * 2;
        float k = float(smaller(p.chunk, p.pixels - chunk * p.chunk) * per), delta = in[0] - mean;
        mean += delta * k / (count + k);
        squares += in[1] + delta * delta * count * k / (count + k);
        count += k;
    }
    for (int mask = 1; mask < 32; mask *= 2) {
        float other_count = shuffle_xor(count, mask), other_mean = shuffle_xor(mean, mask), other = shuffle_xor(squares, mask);
        float both = count + other_count, delta = other_mean - mean;
        // Lane 0 gets the sum of all in a fixed order; what the higher lane of a pair gets is not used.
        if (both > 0) {
            mean += delta * other_count / both;
            squares += other + delta * delta * count * other_count / both;
        }
        count = both;
    }
    if (threadIdx.x == 0) {
        p.mean[blockIdx.x] = mean;
        p.rstd[blockIdx.x] = 1.0f / sqrtf(squares / count + p.eps);
    }
}

// sums = (-rstd avg(p), -rstd^2 avg(p xhat)): what is added, and the factor of x - mean.
KERNEL(group_norm_vjp_combine, GroupNormParams, 32, 8) {
    const int n = blockIdx.x / p.groups, g = blockIdx.x % p.groups, per = p.channels / p.groups;
    float sum = 0, sum_x = 0;
    for (int chunk = threadIdx.x; chunk < p.chunks; chunk += 32) {
        const float* in = p.partial + ((i64(n) * p.chunks + chunk) * p.groups + g) * 2;
        sum += in[0];
        sum_x += in[1];
    }
    sum = warp_sum(sum);
    sum_x = warp_sum(sum_x);
    if (threadIdx.x == 0) {
        float rstd = p.rstd[blockIdx.x], share = 1.0f / (float(p.pixels) * float(per));
        p.sums[2 * blockIdx.x] = -rstd * sum * share;
        p.sums[2 * blockIdx.x + 1] = -rstd * rstd * rstd * sum_x * share;
    }
}

// One block per 32 channels and item; a row of 8 warps over the pixels.
template <class S> DEVICE void film_vjp(const GroupNormParams& p) {
    float* scratch = reinterpret_cast<float*>(shared_memory());
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32, c = blockIdx.x * 32 + lane, n = blockIdx.y;
    float sum = 0, sum_x = 0;
    if (c < p.channels) {
        Channels<S, 1> k(p, n, c);
        Source<S> source(p, i64(n) * p.pixels, c);
        const S* in = source.x(p);
        for (int pixel = row; pixel < p.pixels; pixel += 8) {
            i64 i = (i64(n) * p.pixels + pixel) * p.channels + c;
            float x = to_float(in[i64(pixel) * source.stride]), du = to_float(static_cast<const S*>(p.dy)[i]);
            if (p.silu) du *= silu_slope(k.a[0] * x + k.b[0]);
            sum += du;
            sum_x += du * (x - k.centre[0]);
        }
    }
    scratch[threadIdx.x] = sum;
    scratch[256 + threadIdx.x] = sum_x;
    block_barrier();
    if (row == 0 && c < p.channels) {
        for (int r = 1; r < 8; r++) {
            sum += scratch[32 * r + lane];
            sum_x += scratch[256 + 32 * r + lane];
        }
        float rstd = p.rstd[n * p.groups + c / (p.channels / p.groups)];
        float gamma = to_float(static_cast<const S*>(p.gamma)[c]), beta = to_float(static_cast<const S*>(p.beta)[c]);
        S* out = static_cast<S*>(p.y) + i64(n) * 2 * p.channels + c;
        out[0] = from_float<S>(gamma * sum_x * rstd + beta * sum);
        out[p.channels] = from_float<S>(sum);
    }
}

// Whole vectors of channels, or, with _any, one channel at a time.
#define GROUP_NORM(type, S)                                                                                                   \
    KERNEL(group_norm_statistics_##type, GroupNormParams, 256, 4) { statistics<S, VECTOR<S>>(p); }                            \
    KERNEL(group_norm_statistics_##type##_any, GroupNormParams, 256, 4) { statistics<S, 1>(p); }                              \
    KERNEL(group_norm_##type, GroupNormParams, 256, 4) { normalise<S, VECTOR<S>>(p); }                                        \
    KERNEL(group_norm_##type##_any, GroupNormParams, 256, 4) { normalise<S, 1>(p); }                                          \
    KERNEL(group_norm_vjp_statistics_##type, GroupNormParams, 256, 2) { vjp_statistics<S, VECTOR<S>>(p); }                    \
    KERNEL(group_norm_vjp_statistics_##type##_any, GroupNormParams, 256, 2) { vjp_statistics<S, 1>(p); }                      \
    KERNEL(group_norm_vjp_##type, GroupNormParams, 256, 2) { vjp<S, VECTOR<S>>(p); }                                          \
    KERNEL(group_norm_vjp_##type##_any, GroupNormParams, 256, 2) { vjp<S, 1>(p); }                                            \
    KERNEL(group_norm_film_vjp_##type, GroupNormParams, 256, 2) { film_vjp<S>(p); }

GROUP_NORM(f32, float)
GROUP_NORM(f16, f16)
GROUP_NORM(bf16, bf16)
