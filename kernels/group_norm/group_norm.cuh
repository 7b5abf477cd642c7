// The parts that all group norm kernels share: parameters, sources, coefficients, and the part of
// the work that a thread takes.
#pragma once
#include "include/reduce.cuh"
#include "include/view.cuh"

struct GroupNormParams {
    void *y, *second_y;              // y, or the gradients with respect to x and second
    const void *x, *second, *dy, *addend;
    Either<float> mean, rstd;        // (n, groups), written in the forward pass
    const void *gamma, *beta, *film; // film (n, 2c): scale, shift; may be absent
    float *partial, *sums;           // (n, chunks, groups, 2); (n, groups, 2)
    // channels: of x and second together; first: of x.
    int n, pixels, channels, first, groups, chunk, chunks, silu;
    float eps;
};

// V channels as they are stored. In 16-bit types, they take half the registers of their f32 values.
template <class S, int V> struct Stored {
    Words4 words;
    DEVICE void load(const S* p) { words = load_words4(p); }
    DEVICE void unpack(float (&out)[V]) const { unpack_vector<S>(words, out); }
};
template <class S> struct Stored<S, 1> {
    S value;
    DEVICE void load(const S* p) { value = *p; }
    DEVICE void unpack(float (&out)[1]) const { out[0] = to_float(value); }
};

template <class S, int V> DEVICE void store_channels(S* p, const float (&in)[V]) {
    if constexpr (V == 1) *p = from_float<S>(in[0]);
    else store_vector(p, in);
}

// The number of pixels whose loads a thread has under way at the same time.
constexpr int AT_ONCE = 2;

// Channel c of the pixels from `pixel` on, in the source that has it: `at` is where these pixels
// start, and `stride` is how far apart they are.
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

// The group of a channel of item n; advance() goes on to the next channel.
struct GroupOf {
    int index, left, per;
    DEVICE GroupOf(const GroupNormParams& p, int n, int c) {
        per = p.channels / p.groups;
        index = n * p.groups + c / per;
        left = per - c % per;
    }
    DEVICE void advance() {
        if (--left) return;
        left = per;
        index++;
    }
};

// Loads V values of a parameter.
template <class S, int V> DEVICE void load_parameter(const void* vector, i64 first, float (&out)[V]) {
    Stored<S, V> stored;
    stored.load(static_cast<const S*>(vector) + first);
    stored.unpack(out);
}

// Coefficients of V channels from c on of item n: u = a x + b with a = rstd factor,
// factor = gamma (1 + scale), and the group's mean as centre.
template <class S, int V> struct Channels {
    float a[V], b[V], factor[V], centre[V];

    DEVICE Channels(const GroupNormParams& p, int n, int c) {
        float beta[V], scale[V] = {}, shift[V] = {};
        load_parameter<S, V>(p.gamma, c, factor);
        load_parameter<S, V>(p.beta, c, beta);
        if (p.film) {
            load_parameter<S, V>(p.film, i64(n) * 2 * p.channels + c, scale);
            load_parameter<S, V>(p.film, i64(n) * 2 * p.channels + p.channels + c, shift);
        }
        GroupOf group(p, n, c);
        for (int e = 0; e < V; e++, group.advance()) {
            centre[e] = p.mean[group.index];
            factor[e] *= 1.0f + scale[e];
            a[e] = p.rstd[group.index] * factor[e];
            b[e] = beta[e] * (1.0f + scale[e]) + shift[e] - centre[e] * a[e];
        }
    }
};

// A block's part of the work, and this thread's share of it: vectors first, first + across, ...
// below `end` of the pixels row, row + rows, ... below `count`. Pixels are counted from pixel
// `base` of all items.
template <int V> struct Part {
    int n, count, first, end, across, row, rows;  // idle threads (row >= rows) have count 0
    i64 base;

    DEVICE Part(const GroupNormParams& p, int item, int pixel, int pixels, int vector, int vectors) {
        n = item;
        base = i64(item) * p.pixels + pixel;
        across = smaller(vectors, int(blockDim.x));
        rows = blockDim.x / across;
        row = threadIdx.x / across;
        first = vector + threadIdx.x % across;
        end = vector + vectors;
        count = row < rows ? pixels : 0;
    }
    // The part that has all channels of a chunk of pixels.
    static DEVICE Part chunk(const GroupNormParams& p) {
        const int from = blockIdx.x * p.chunk;
        return Part(p, blockIdx.y, from, smaller(p.chunk, p.pixels - from), 0, p.channels / V);
    }
    // The part that has all pixels of group blockIdx.x, whose channels are whole vectors.
    static DEVICE Part group(const GroupNormParams& p) {
        const int vectors = p.channels / p.groups / V;
        return Part(p, blockIdx.y, 0, p.pixels, blockIdx.x * vectors, vectors);
    }

    // The u-th of the thread's pixels from `pixel` on, and whether the part has it.
    DEVICE i64 after(int pixel, int u) const { return pixel + u * rows; }
    DEVICE bool has(int pixel, int u) const { return after(pixel, u) < count; }
};

// Sums `scratch` (rows x channels) of every channel over the rows of threads. All threads of the
// block must call it.
DEVICE void add_rows(float* scratch, int rows, int channels) {
    block_barrier();
    for (int c = threadIdx.x; c < channels; c += blockDim.x) {
        float sum = 0;
        for (int r = 0; r < rows; r++) sum += scratch[r * channels + c];
        scratch[c] = sum;
    }
    block_barrier();
}
