// The gradient of a group normalisation. The forward formulas are in forward.cu.
//
//   du = dy silu'(u),  p = du gamma (1 + scale),  dx = rstd (p - avg(p) - xhat avg(p xhat))
//   dscale = sum over pixels of du (gamma xhat + beta),  dshift = sum over pixels of du
//   Averages are over the group of item n.
//
// Reads x, second, dy, addend, mean, rstd and the parameters. Overwrites dx with the gradient plus
// the addend; dx may take dy's place. With two sources, each has its own gradient.
//
// There are three launches, as in forward.cu: _statistics leaves the two sums of every chunk and
// group, _combine adds them up in a fixed order, and the last launch makes dx. If the pixels of a
// group fit a cache, one launch does it all: _of_group. The gradient with respect to scale and
// shift has its own launch, _film_vjp.
#include "group_norm/group_norm.cuh"

// Turns dy of V channels into du, in place.
template <class S, int V> DEVICE void through_silu(const GroupNormParams& p, const Channels<S, V>& k, const float (&x)[V], float (&dy)[V]) {
    if (!p.silu) return;
    for (int e = 0; e < V; e++) dy[e] *= silu_slope(k.a[e] * x[e] + k.b[e]);
}

// This thread's sums of p and of p (x - mean) over its pixels of vector v.
template <class S, int V> DEVICE void vjp_sums(const GroupNormParams& p, const Part<V>& part, int v, float (&sum)[V], float (&sum_x)[V]) {
    const Channels<S, V> k(p, part.n, v * V);
    const Source<S> source(p, part.base, v * V);
    const S* x = source.x(p);
    const S* dy = static_cast<const S*>(p.dy) + part.base * p.channels + v * V;
    for (int pixel = part.row; pixel < part.count; pixel += AT_ONCE * part.rows) {
        Stored<S, V> in[AT_ONCE], gradient[AT_ONCE];
        for (int u = 0; u < AT_ONCE; u++) {
            if (!part.has(pixel, u)) continue;
            in[u].load(x + part.after(pixel, u) * source.stride);
            gradient[u].load(dy + part.after(pixel, u) * i64(p.channels));
        }
        for (int u = 0; u < AT_ONCE && part.has(pixel, u); u++) {
            float value[V], du[V];
            in[u].unpack(value);
            gradient[u].unpack(du);
            through_silu<S, V>(p, k, value, du);
            for (int e = 0; e < V; e++) {
                sum[e] += du[e];
                sum_x[e] += du[e] * (value[e] - k.centre[e]);
            }
        }
    }
    for (int e = 0; e < V; e++) {
        sum[e] *= k.factor[e];
        sum_x[e] *= k.factor[e];
    }
}

template <class S, int V> DEVICE void vjp_statistics(const GroupNormParams& p) {
    const Part<V> part = Part<V>::chunk(p);
    float* scratch = reinterpret_cast<float*>(shared_memory());
    float* by_x = scratch + part.rows * p.channels;
    for (int v = part.first; v < part.end && part.row < part.rows; v += part.across) {
        float sum[V] = {}, sum_x[V] = {};
        vjp_sums<S, V>(p, part, v, sum, sum_x);
        for (int e = 0; e < V; e++) {
            scratch[part.row * p.channels + v * V + e] = sum[e];
            by_x[part.row * p.channels + v * V + e] = sum_x[e];
        }
    }
    add_rows(scratch, part.rows, p.channels);
    add_rows(by_x, part.rows, p.channels);
    // A warp takes one group.
    const int per = p.channels / p.groups, lane = threadIdx.x % 32;
    for (int g = threadIdx.x / 32; g < p.groups; g += blockDim.x / 32) {
        float sum = 0, sum_x = 0;
        for (int c = g * per + lane; c < (g + 1) * per; c += 32) {
            sum += scratch[c];
            sum_x += by_x[c];
        }
        sum = warp_sum(sum);
        sum_x = warp_sum(sum_x);
        float* out = p.partial + ((i64(blockIdx.y) * p.chunks + blockIdx.x) * p.groups + g) * 2;
        if (lane == 0) {
            out[0] = sum;
            out[1] = sum_x;
        }
    }
}

template <class S, int V> DEVICE void vjp(const GroupNormParams& p, const Part<V>& part) {
    for (int v = part.first; v < part.end; v += part.across) {
        const Channels<S, V> k(p, part.n, v * V);
        const Source<S> source(p, part.base, v * V);
        const S* x = source.x(p);
        const i64 at = part.base * p.channels + v * V;
        const S* dy = static_cast<const S*>(p.dy) + at;
        const S* addend = p.addend ? static_cast<const S*>(p.addend) + at : nullptr;
        S* dx = source.dx(p);
        float by_x[V], one[V];
        GroupOf group(p, part.n, v * V);
        for (int e = 0; e < V; e++, group.advance()) {
            by_x[e] = p.sums[2 * group.index + 1];
            one[e] = p.sums[2 * group.index] - by_x[e] * k.centre[e];
        }
        for (int pixel = part.row; pixel < part.count; pixel += AT_ONCE * part.rows) {
            Stored<S, V> in[AT_ONCE], gradient[AT_ONCE], added[AT_ONCE];
            for (int u = 0; u < AT_ONCE; u++) {
                if (!part.has(pixel, u)) continue;
                in[u].load(x + part.after(pixel, u) * source.stride);
                gradient[u].load(dy + part.after(pixel, u) * i64(p.channels));
                if (addend) added[u].load(addend + part.after(pixel, u) * i64(p.channels));
            }
            for (int u = 0; u < AT_ONCE && part.has(pixel, u); u++) {
                float value[V], du[V], sum[V] = {};
                in[u].unpack(value);
                gradient[u].unpack(du);
                if (addend) added[u].unpack(sum);
                through_silu<S, V>(p, k, value, du);
                for (int e = 0; e < V; e++) sum[e] += k.a[e] * du[e] + by_x[e] * value[e] + one[e];
                store_channels<S, V>(dx + part.after(pixel, u) * source.stride, sum);
            }
        }
    }
}

// Stores the two values of a group that dx needs: -rstd avg(p), and the factor of x - mean, which
// is -rstd^2 avg(p xhat).
DEVICE void put_sums(const GroupNormParams& p, int group, float sum, float sum_x) {
    const float rstd = p.rstd[group], share = 1.0f / (float(p.pixels) * float(p.channels / p.groups));
    p.sums[2 * group] = -rstd * sum * share;
    p.sums[2 * group + 1] = -rstd * rstd * rstd * sum_x * share;
}

template <class S, int V> DEVICE void vjp_of_group(const GroupNormParams& p) {
    float* scratch = reinterpret_cast<float*>(shared_memory());
    const Part<V> part = Part<V>::group(p);
    float all = 0, all_x = 0;
    for (int v = part.first; v < part.end; v += part.across) {
        float sum[V] = {}, sum_x[V] = {};
        vjp_sums<S, V>(p, part, v, sum, sum_x);
        for (int e = 0; e < V; e++) {
            all += sum[e];
            all_x += sum_x[e];
        }
    }
    all = block_sum(all, scratch);
    all_x = block_sum(all_x, scratch);
    if (threadIdx.x == 0) put_sums(p, part.n * p.groups + blockIdx.x, all, all_x);
    block_barrier();
    vjp<S, V>(p, part);
}

KERNEL(group_norm_vjp_combine, GroupNormParams, 256, 4) {
    float* scratch = reinterpret_cast<float*>(shared_memory());
    const int n = blockIdx.x / p.groups, g = blockIdx.x % p.groups;
    const float* partial = p.partial + (i64(n) * p.chunks * p.groups + g) * 2;
    float sum = 0, sum_x = 0;
    for (int chunk = threadIdx.x; chunk < p.chunks; chunk += blockDim.x) {
        const float* in = partial + i64(chunk) * p.groups * 2;
        sum += in[0];
        sum_x += in[1];
    }
    sum = block_sum(sum, scratch);
    sum_x = block_sum(sum_x, scratch);
    if (threadIdx.x == 0) put_sums(p, blockIdx.x, sum, sum_x);
}

// One block takes 32 channels of an item, and its 8 warps share the pixels.
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

// Kernels take whole vectors of channels, or, with _any, one channel at a time.
#define GROUP_NORM(type, S)                                                                                     \
    KERNEL(group_norm_vjp_statistics_##type, GroupNormParams, 256, 2) { vjp_statistics<S, VECTOR<S>>(p); }      \
    KERNEL(group_norm_vjp_statistics_##type##_any, GroupNormParams, 256, 2) { vjp_statistics<S, 1>(p); }        \
    KERNEL(group_norm_vjp_##type, GroupNormParams, 256, 2) { vjp<S, VECTOR<S>>(p, Part<VECTOR<S>>::chunk(p)); } \
    KERNEL(group_norm_vjp_##type##_any, GroupNormParams, 256, 2) { vjp<S, 1>(p, Part<1>::chunk(p)); }           \
    KERNEL(group_norm_vjp_of_group_##type, GroupNormParams, 512, 1) { vjp_of_group<S, VECTOR<S>>(p); }          \
    KERNEL(group_norm_film_vjp_##type, GroupNormParams, 256, 2) { film_vjp<S>(p); }

GROUP_NORM(f32, float)
GROUP_NORM(f16, f16)
GROUP_NORM(bf16, bf16)
