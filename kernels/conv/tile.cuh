// One block's tile of the convolution of mma.cu: the operands go through shared memory to the
// tensor cores, and the results to y.
#pragma once
#include "include/gelu.cuh"
#include "include/mma.cuh"
#include "conv/cursors.cuh"

// Four stages are used if a multiprocessor has the memory for two such blocks.
constexpr int LEAST_STAGES = 3;

template <class S, int BM, int BN, int WM, int WN, bool GRADIENT, bool FEW = false> struct ConvTile {
    static constexpr int WARPS = (BM / WM) * (BN / WN), THREADS = 32 * WARPS;
    static constexpr int BK = SLICE / int(sizeof(S));
    static constexpr int A_BYTES = BM * SLICE, STAGE_BYTES = (BM + BN) * SLICE;
    static constexpr int MI = WM / 16, NI = WN / 8, HALF = WM / 2;
    static_assert(WM % 16 == 0 && WN % 32 == 0, "a warp's rows of results are staged as 16-byte chunks, swizzled by eights");
    static_assert(WARPS * WM * WN * 2 <= LEAST_STAGES * STAGE_BYTES, "half the results are staged where the operands were");

    static DEVICE void run(const ConvParams& p) {
        const ConvShape& s = p.shape;
        u8* shared = shared_memory();
        const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
        const int warp_m = warp / (BN / WN) * WM, warp_n = warp % (BN / WN) * WN;
        const int rows = s.n * s.yh * s.yw, m0 = blockIdx.x * BM, n0 = blockIdx.y * BN;
        // The part of the sum that this block makes, in pairs of slice and tap.
        const int slices = (s.ci + BK - 1) / BK + (s.ci2 + BK - 1) / BK;
        const int all = s.kernel * s.kernel * slices, per = (all + p.splits - 1) / p.splits;
        const int first = blockIdx.z * per, last = smaller(first + per, all);
        SumCursor<S> at(s, first);
        ImageCursor<S, BM, THREADS> image(p, m0, rows, thread);
        WeightCursor<S, BN, THREADS, GRADIENT> weights(p, n0, thread);
        image.enter_slice(p, at);
        weights.enter_slice(s, at);
        auto copy_slice = [&](u32 stage_at) {
            u8* stage = shared + stage_at;
            image.copy(s, at, stage);
            if constexpr (GRADIENT && FEW) copy_weights(p, stage + A_BYTES, at.tap, at.channel, at.channels, n0);
            else weights.copy(at, stage + A_BYTES, image.is_whole(at));
            weights.advance(s);
            if (at.advance(s)) {
                image.enter_slice(p, at);
                weights.enter_slice(s, at);
            }
        };

        // Where a lane reads its rows of the fragments. The other half of a slice (in the gradient,
        // the next columns) lies 32 bytes further on or back.
        const int left_at = slice_offset(warp_m + lane % 16, lane / 16);
        const int right_at = A_BYTES + (GRADIENT ? transposed_offset<S, BN>(lane % 16, warp_n / 8 + lane / 16)
                                                 : slice_offset(warp_n + lane % 8 + lane / 16 * 8, lane / 8 % 2));
        float sum[MI][NI][4] = {};
        const u32 count = last > first ? last - first : 0;
        const u32 stages = p.stages;
        if constexpr (GRADIENT && FEW) clear_weights(shared, stages);
        for (u32 turn = 0; turn < stages - 1; turn++) {
            if (turn < count) copy_slice(turn * STAGE_BYTES);
            commit_copies();
        }
        // The stage that is multiplied, and the stage before it, which is free.
        u32 stage_at = 0, free_at = (stages - 1) * STAGE_BYTES;
        for (u32 turn = 0; turn < count; turn++) {
            if (stages == LEAST_STAGES) wait_for_copies<LEAST_STAGES - 2>();
            else wait_for_copies<LEAST_STAGES - 1>();
            block_barrier();
            if (turn + stages - 1 < count) copy_slice(free_at);
            commit_copies();
            multiply_slice(sum, shared + stage_at, left_at, right_at, warp_n, lane);
            free_at = stage_at;
            stage_at = stage_at == (stages - 1) * STAGE_BYTES ? 0 : stage_at + STAGE_BYTES;
        }
        wait_for_copies<0>();
        block_barrier();
        finish(p, sum, reinterpret_cast<float*>(shared) + warp * HALF * WN, m0 + warp_m, n0 + warp_n, rows, lane);
    }

    // sum += the slice of the image in `stage` times its slice of the weights, in two steps of 32
    // bytes of K.
    static DEVICE void multiply_slice(float (&sum)[MI][NI][4], const u8* stage, int left_at, int right_at, int warp_n, int lane) {
#pragma unroll
        for (int step = 0; step < 2; step++) {
            u32 left[MI][4], right[NI / 2][4];
#pragma unroll
            for (int i = 0; i < MI; i++) {
                load_matrices(left[i], stage + (left_at ^ 32 * step) + 16 * i * SLICE);
                for (int k = 0; k < 4; k++) round_fragment(left[i][k], S{});
            }
#pragma unroll
            for (int j = 0; j < NI / 2; j++) load_right(right[j], stage, right_at, step, j, warp_n, lane);
#pragma unroll
            for (int i = 0; i < MI; i++) {
#pragma unroll
                for (int j = 0; j < NI; j++) multiply(sum[i][j], left[i], right[j / 2][2 * (j & 1)], right[j / 2][2 * (j & 1) + 1], S{});
            }
        }
    }

    // Writes zeros once for all stages, because nothing is copied to the columns beyond the last
    // channel.
    static DEVICE void clear_weights(u8* shared, int stages) {
        for (int i = threadIdx.x; i < stages * BN * 4; i += THREADS) {
            store_words4(shared + i / (BN * 4) * STAGE_BYTES + A_BYTES + i % (BN * 4) * 16, Words4{});
        }
        block_barrier();
    }

    // Copies a slice of the weights value by value. The barrier that follows the wait for the
    // slice's asynchronous copies also makes these values visible.
    static DEVICE void copy_weights(const ConvParams& p, u8* b, int tap, int channel, int channels, int n0) {
        const ConvShape& s = p.shape;
        const S* w = static_cast<const S*>(p.w);
        const int taps = s.kernel * s.kernel, columns = smaller(BN, s.co - n0);
        for (int i = threadIdx.x; i < BK * columns; i += THREADS) {
            int r = i / columns, c = i % columns;
            S v = from_float<S>(0.0f);
            if (channel + r < channels) v = w[(i64(channel + r) * taps + taps - 1 - tap) * s.row + s.first + n0 + c];
            *(reinterpret_cast<S*>(b + transposed_offset<S, BN>(r, c / VECTOR<S>)) + c % VECTOR<S>) = v;
        }
    }

    // Loads the fragments of the j-th 16 columns of a warp. Words 0 and 1 are the first eight
    // columns, words 2 and 3 the others.
    static DEVICE void load_right(u32 (&r)[4], const u8* stage, int at, int step, int j, int warp_n, int lane) {
        if constexpr (!GRADIENT) {
            load_matrices(r, stage + (at ^ 32 * step) + 16 * j * SLICE);
        } else if constexpr (sizeof(S) == 2) {
            load_matrices_transposed(r, stage + (at ^ 32 * j) + 16 * step * BN * int(sizeof(S)));
        } else {
            for (int k = 0; k < 4; k++) {
                int row = 8 * step + lane % 4 + 4 * (k & 1), c = warp_n + 16 * j + lane / 4 + 8 * (k >> 1);
                r[k] = *reinterpret_cast<const u32*>(stage + A_BYTES + transposed_offset<S, BN>(row, c / 4) + c % 4 * 4);
            }
        }
        for (int k = 0; k < 4; k++) round_fragment(r[k], S{});
    }

    // Moves the accumulators to shared memory, half of a warp's rows at a time, and from there to y
    // in whole 16-byte vectors. Each warp works in its own part of the shared memory.
    static DEVICE void finish(const ConvParams& p, const float (&sum)[MI][NI][4], float* stage, int m0, int n0, int rows, int lane) {
#pragma unroll
        for (int part = 0; part < 2; part++) {
            for (int i = 0; i < MI / 2; i++) stage_rows(stage + 16 * i * WN, sum[part * MI / 2 + i], lane);
            warp_barrier();
            const int from = m0 + part * HALF;
            put_rows(p, stage, from, rows, n0, lane);
            warp_barrier();
        }
    }

    // Writes sixteen rows of accumulators to shared memory.
    static DEVICE void stage_rows(float* stage, const float (&c)[NI][4], int lane) {
        const int g = lane / 4, t = lane % 4;
        for (int j = 0; j < NI; j++) {
            for (int half = 0; half < 2; half++) {
                int r = g + 8 * half, chunk = (2 * j + t / 2) ^ (r & 7);
                store_words2(stage + r * WN + 4 * chunk + 2 * (t & 1), Words2{{float_bits(c[j][2 * half]), float_bits(c[j][2 * half + 1])}});
            }
        }
    }

    // Writes HALF rows of staged results to y or to `partial`: the pixels from `from` on that lie
    // below `rows`.
    static DEVICE void put_rows(const ConvParams& p, const float* stage, int from, int rows, int n0, int lane) {
        const ConvShape& s = p.shape;
        auto pixel = [&](int r) { return from + r < rows ? from + r : -1; };
        if (p.splits > 1) {
            float* partial = p.partial + i64(blockIdx.z) * s.n * s.yh * s.yw * s.co;
            for (int r = lane / (WN / 4); r < HALF; r += 32 / (WN / 4)) {
                const int c = lane % (WN / 4), m = pixel(r);
                if (m >= 0 && n0 + 4 * c < s.co) {
                    store_words4(partial + i64(m) * s.co + n0 + 4 * c, load_words4(stage + r * WN + 4 * (c ^ (r & 7))));
                }
            }
            return;
        }
        if constexpr (FEW) {
            for (int i = lane; i < HALF * WN; i += 32) {
                const int r = i / WN, c = i % WN, o = n0 + c, m = pixel(r);
                if (m < 0 || o >= s.co) continue;
                i64 at = i64(m) * s.co + o;
                float v = stage[r * WN + 4 * (c / 4 ^ (r & 7)) + c % 4];
                if (p.bias) v += to_float(static_cast<const S*>(p.bias)[o]);
                if (p.addend) v += p.single ? static_cast<const float*>(p.addend)[at] : to_float(static_cast<const S*>(p.addend)[at]);
                if (p.single) static_cast<float*>(p.y)[at] = v;
                else static_cast<S*>(p.y)[at] = from_float<S>(v);
            }
            return;
        }
        if constexpr (!GRADIENT) {
            if (p.gated) return finish_gated(p, stage, from, rows, n0, lane);
        }
        constexpr int V = VECTOR<S>, VECTORS = WN / V;
        const int c = lane % VECTORS * V, o = n0 + c;
        if (o >= s.co) return;
        float bias[V] = {};
        if (p.bias) load_vector(static_cast<const S*>(p.bias) + o, bias);
        // The addend may lie where y goes, so its loads cannot move past a store. They are made for
        // several rows before the first of these rows is stored.
        constexpr int STEP = 32 / VECTORS, AT_ONCE = smaller(HALF / STEP, 4);
        for (int first = lane / VECTORS; first < HALF; first += AT_ONCE * STEP) {
            int m[AT_ONCE];
            Words4 added[AT_ONCE];
            for (int u = 0; u < AT_ONCE; u++) {
                m[u] = pixel(first + u * STEP);
                if (p.addend && m[u] >= 0) added[u] = load_words4(static_cast<const S*>(p.addend) + i64(m[u]) * s.co + o);
            }
            for (int u = 0; u < AT_ONCE; u++) {
                if (m[u] < 0) continue;
                float v[V], a[V];
                staged(stage, first + u * STEP, c, bias, v);
                if (p.item_bias) {
                    load_vector(static_cast<const S*>(p.item_bias) + i64(m[u] / (s.yh * s.yw)) * s.co + o, a);
                    for (int e = 0; e < V; e++) v[e] += a[e];
                }
                if (p.addend) {
                    unpack_vector<S>(added[u], a);
                    for (int e = 0; e < V; e++) v[e] += a[e];
                }
                if (!GRADIENT && p.silu) {
                    for (int e = 0; e < V; e++) v[e] = silu_of(v[e]);
                }
                store_vector(static_cast<S*>(p.y) + i64(m[u]) * s.co + o, v);
            }
        }
    }

    // Gives V columns of a staged row of results plus the bias.
    template <int V> static DEVICE void staged(const float* stage, int r, int column, const float (&bias)[V], float (&v)[V]) {
        for (int e = 0; e < V; e += 4) {
            Words4 w = load_words4(stage + r * WN + 4 * ((column + e) / 4 ^ (r & 7)));
            for (int k = 0; k < 4; k++) v[e + k] = bits_float(w.w[k]) + bias[e + k];
        }
    }

    static DEVICE void finish_gated(const ConvParams& p, const float* stage, int from, int rows, int n0, int lane) {
        const ConvShape& s = p.shape;
        constexpr int V = VECTOR<S>, VECTORS = WN / 2 / V;
        const int c = lane % VECTORS * V, column = c / 8 * 16 + c % 8, o = n0 / 2 + c, half = s.co / 2;
        if (o >= half) return;
        float value_bias[V] = {}, gate_bias[V] = {};
        if (p.bias) {
            load_vector(static_cast<const S*>(p.bias) + o, value_bias);
            load_vector(static_cast<const S*>(p.bias) + half + o, gate_bias);
        }
        for (int r = lane / VECTORS; r < HALF; r += 32 / VECTORS) {
            const int m = from + r;
            if (m >= rows) continue;
            float value[V], gate[V];
            staged(stage, r, column, value_bias, value);
            staged(stage, r, column + 8, gate_bias, gate);
            S* y = static_cast<S*>(p.y) + i64(m) * s.co + o;
            store_vector(y, value);
            store_vector(y + half, gate);
            for (int e = 0; e < V; e++) value[e] *= gelu_of(gate[e], false);
            store_vector(static_cast<S*>(p.gated) + i64(m) * half + o, value);
        }
    }
};
