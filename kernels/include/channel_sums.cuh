// Sums over pixels for every channel. A block adds up a chunk of pixels and leaves its sums in
// scratch; partial_sums.cu adds the chunks up in order.
#pragma once
#include "include/view.cuh"

constexpr int SUM_THREADS = 256, SUM_ROWS = SUM_THREADS / 32;

// Loads N vectors of four channels, or with count = 1 single channels with zeros after them, `step`
// elements apart.
template <int N> DEVICE void load_rows(View v, i64 first, i64 step, int count, float (&out)[N][4]) {
    if (count == 1) {
        for (int n = 0; n < N; n++) {
            out[n][0] = at(v, first + n * step);
            out[n][1] = out[n][2] = out[n][3] = 0;
        }
    } else if (v.dtype == F32) {
        for (int n = 0; n < N; n++) load_vector(static_cast<const float*>(v.data) + first + n * step, out[n]);
    } else {
        // All loads are under way before the first result is used.
        Words2 words[N];
        for (int n = 0; n < N; n++) words[n] = load_words2(static_cast<const u16*>(v.data) + first + n * step);
        for (int n = 0; n < N; n++) {
            for (int k = 0; k < 4; k++) {
                const u32 half = words[n].w[k / 2] >> (16 * (k & 1));
                out[n][k] = v.dtype == F16 ? unpack(half, f16{}) : unpack(half, bf16{});
            }
        }
    }
}

// A number of pixels as a type.
template <int N> struct Rows { static constexpr int COUNT = N; };

// Overwrites `out` (SUMS, channels) with sums over the pixels first .. last. blockIdx.x is the
// block of 32 vectors of channels. `of(c, count)` gives a function that adds what N pixels
// contribute to `count` channels from c on: Rows<N>, pixels that are SUM_ROWS apart. A warp takes
// every SUM_ROWS-th pixel.
template <int SUMS, int AT_ONCE, class F> DEVICE void channel_sums(float* out, i64 first, i64 last, int channels, F of) {
    float* scratch = reinterpret_cast<float*>(shared_memory());
    const int count = channels % 4 == 0 ? 4 : 1, lane = threadIdx.x % 32, row = threadIdx.x / 32;
    const int c = (blockIdx.x * 32 + lane) * count;
    float sum[SUMS][4] = {};
    if (c < channels) {
        auto add = of(c, count);
        i64 pixel = first + row;
        for (; pixel + (AT_ONCE - 1) * SUM_ROWS < last; pixel += AT_ONCE * SUM_ROWS) add(Rows<AT_ONCE>{}, pixel, sum);
        for (; pixel < last; pixel += SUM_ROWS) add(Rows<1>{}, pixel, sum);
    }
    for (int s = 0; s < SUMS; s++) {
        for (int e = 0; e < 4; e++) scratch[(row * SUMS + s) * 128 + 32 * e + lane] = sum[s][e];
    }
    block_barrier();
    for (int i = threadIdx.x; i < SUMS * 128; i += SUM_THREADS) {
        const int e = i / 32 % 4, channel = (blockIdx.x * 32 + i % 32) * count + e;
        if (e >= count || channel >= channels) continue;
        float total = 0;
        for (int r = 0; r < SUM_ROWS; r++) total += scratch[r * SUMS * 128 + i];
        out[i / 128 * channels + channel] = total;
    }
}
