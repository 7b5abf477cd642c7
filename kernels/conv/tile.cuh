// A block's tile of the convolution of mma.cu: operands through shared memory to tensor cores, results to y.
#pragma once
#include "include/gelu.cuh"
#include "include/mma.cuh"
#include "conv/spread.cuh"

struct ConvParams {
    void *y, *gated;
    const void *x, *second, *w, *bias, *item_bias, *addend;
    float* partial;
    // ci, ci2: channels of x and second; row: of the weight; first: of these, the gradient's first.
    int n, xh, xw, ci, ci2, yh, yw, co, row, first, kernel, stride, spread, splits, pad;
    int full;  // y and addend are f32, whatever the rest; _few only
    int silu, stages;
};

constexpr int SLICE = 64;  // bytes of K in a stage
constexpr int LEAST_STAGES = 3;  // 4 where a multiprocessor has the memory for two blocks

// Where 16-byte chunk `chunk` of a 64-byte row lies: eight rows at one chunk fall into eight different bank groups.
DEVICE int slice_offset(int row, int chunk) { return row * SLICE + ((chunk ^ (row >> 1 & 3)) << 4); }

// The same for a tile whose rows are the summed channels.
template <class S, int BN> DEVICE int transposed_offset(int row, int chunk) {
    constexpr int CHUNKS = BN * int(sizeof(S)) / 16;
    int swizzle = sizeof(S) == 4 ? (row & 3) << 1 : CHUNKS < 8 ? row >> 1 & 3 : row & 7;
    return row * BN * int(sizeof(S)) + ((chunk ^ swizzle) << 4);
}

template <class S, int BM, int BN, int WM, int WN, bool GRADIENT, bool FEW = false> struct ConvTile {
    static constexpr int WARPS = (BM / WM) * (BN / WN), THREADS = 32 * WARPS;
    static constexpr int BK = SLICE / int(sizeof(S));
    static constexpr int A_BYTES = BM * SLICE, STAGE_BYTES = (BM + BN) * SLICE;
    static constexpr int A_LOADS = BM * 4 / THREADS, B_LOADS = BN * 4 / THREADS;
    static constexpr int MI = WM / 16, NI = WN / 8, HALF = WM / 2;
    static_assert(WM % 16 == 0 && WN % 32 == 0, "a warp's rows of results are staged as 16-byte chunks, swizzled by eights");
    static_assert(BM * 4 % THREADS == 0 && BN * 4 % THREADS == 0, "every thread copies the same number of chunks");
    static_assert(WARPS * WM * WN * 2 <= LEAST_STAGES * STAGE_BYTES, "half the results are staged where the operands were");

    static DEVICE void run(const ConvParams& p) {
        u8* shared = shared_memory();
        const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
        const int warp_m = warp / (BN / WN) * WM, warp_n = warp % (BN / WN) * WN;
        const int rows = p.n * p.yh * p.yw, m0 = blockIdx.x * BM, n0 = blockIdx.y * BN;
        const int taps = p.kernel * p.kernel;
        const int slices_of_x = (p.ci + BK - 1) / BK, slices = slices_of_x + (p.ci2 + BK - 1) / BK;
        const int all = taps * slices, per = (all + p.splits - 1) / p.splits;
        const int first = blockIdx.z * per, last = smaller(first + per, all);

        // The pixels whose channels this thread copies: where tap 0 reads, and a bit for each tap that lies in the image. A spread image has
        // one pixel for two positions: whether tap 0 is at the second of them.
        const int chunk = thread % 4, shift = p.spread == DENSE ? 0 : 1;
        int place[A_LOADS];
        u32 inside[A_LOADS], odd = 0;
        for (int i = 0; i < A_LOADS; i++) {
            const int m = m0 + thread / 4 + i * (THREADS / 4);
            const int rest = m / p.yw, y0 = rest % p.yh * p.stride - p.pad, x0 = m % p.yw * p.stride - p.pad;
            place[i] = (rest / p.yh * p.xh + (y0 >> shift)) * p.xw + (x0 >> shift);
            odd |= u32(((y0 & 1) << 1 | (x0 & 1)) & (shift ? 3 : 0)) << 2 * i;
            inside[i] = 0;
            for (int tap = 0; tap < taps; tap++) {
                const int y = y0 + tap / p.kernel, x = x0 + tap % p.kernel;
                const bool stands = p.spread != ZEROS || ((y | x) & 1) == 0;
                const bool valid = m < rows && stands && u32(y >> shift) < u32(p.xh) && u32(x >> shift) < u32(p.xw);
                inside[i] |= u32(valid) << tap;
            }
        }
        // Rows of a tile that a thread has are so far apart that they are swizzled alike.
        constexpr int CHUNKS = BN * int(sizeof(S)) / 16, A_STEP = THREADS / 4, B_STEP = GRADIENT ? THREADS / CHUNKS : THREADS / 4;
        constexpr int B_PERIOD = GRADIENT && sizeof(S) == 4 ? 4 : 8;
        static_assert(B_STEP % 16 == 0 || GRADIENT, "a thread's values and gates are equally far apart");
        static_assert(A_STEP % 8 == 0 && B_STEP % B_PERIOD == 0 && THREADS % CHUNKS == 0, "a thread's rows share one swizzle");
        // The first of the weights that this thread copies, at tap 0 of slice 0, bytes from one to the next, and which lie in the channels.
        const int b_row = GRADIENT ? thread / CHUNKS : thread / 4, o = n0 + (GRADIENT ? thread % CHUNKS * VECTOR<S> : b_row);
        i64 at = i64(p.gated ? gate_column(p, o) : o) * taps * p.row + chunk * VECTOR<S>;
        if (GRADIENT) at = (i64(b_row) * taps + taps - 1) * p.row + p.first + o;
        const u8* weight = reinterpret_cast<const u8*>(static_cast<const S*>(p.w) + at);
        const i64 weight_step = i64(p.gated ? B_STEP / 2 : B_STEP) * taps * p.row * int(sizeof(S));
        u32 within = 0;
        for (int i = 0; i < B_LOADS; i++) within |= u32(GRADIENT ? o < p.co : o + i * B_STEP < p.co) << i;
        const int a_to = slice_offset(thread / 4, chunk);
        const int b_to = A_BYTES + (GRADIENT ? transposed_offset<S, BN>(b_row, thread % CHUNKS) : a_to);
        constexpr int B_TO_STEP = B_STEP * (GRADIENT ? BN * int(sizeof(S)) : SLICE);

        // Taps change fastest: nine of them read a slice of nearly the same pixels, which is then still in a cache.
        int tap = first % taps, ky = tap / p.kernel, kx = tap % p.kernel, slice = first / taps;
        const u8* source;
        int channels, channel;
        i64 weight_offset;  // bytes
        auto enter_slice = [&]() {
            const bool in_second = slice >= slices_of_x;
            channels = in_second ? p.ci2 : p.ci;
            channel = BK * (in_second ? slice - slices_of_x : slice);
            source = static_cast<const u8*>(in_second ? p.second : p.x) + channel * int(sizeof(S)) + 16 * chunk;
            weight_offset = GRADIENT ? (i64(channel) * taps - tap) * p.row : i64(tap) * p.row + channel + (in_second ? p.ci : 0);
            weight_offset *= sizeof(S);
        };
        enter_slice();

        auto copy_slice = [&](u32 stage_at) {
            u8* to = shared + stage_at;
            const int left = channels - channel, pixel_bytes = channels * int(sizeof(S));
            const bool whole = chunk * VECTOR<S> < left;
            int ahead[A_LOADS];
            for (int i = 0; i < A_LOADS; i++) ahead[i] = ky * p.xw + kx;
            if (__builtin_expect(shift, 0)) {
                for (int i = 0; i < A_LOADS; i++) ahead[i] = (ky + (odd >> (2 * i + 1) & 1)) / 2 * p.xw + (kx + (odd >> 2 * i & 1)) / 2;
            }
            // Nothing is read where a copy is not valid: its address may lead anywhere.
            const u32 a_valid = whole ? 1u << tap : 0, b_valid = GRADIENT || whole ? within : 0;
            for (int i = 0; i < A_LOADS; i++) {
                copy_async(to + a_to + i * A_STEP * SLICE, source + i64(place[i] + ahead[i]) * pixel_bytes, (inside[i] & a_valid) != 0);
            }
            if constexpr (GRADIENT && FEW) copy_weights(p, to + A_BYTES, tap, channel, channels, n0);
            else for (int i = 0; i < B_LOADS; i++) {
                bool valid = (b_valid & 1u << i) != 0 && (!GRADIENT || b_row + i * B_STEP < left);
                copy_async(to + b_to + i * B_TO_STEP, weight + weight_offset + i * weight_step, valid);
            }
            weight_offset += (GRADIENT ? -p.row : p.row) * int(sizeof(S));
            tap++;
            if (++kx == p.kernel) {
                kx = 0;
                ky++;
            }
            if (tap == taps) {
                tap = ky = 0;
                slice++;
                enter_slice();
            }
        };

        // Where a lane reads its rows of the fragments: 32 bytes on, or back, is the other half of a slice (or the next columns of the gradient).
        const int left_at = slice_offset(warp_m + lane % 16, lane / 16);
        const int right_at = A_BYTES + (GRADIENT ? transposed_offset<S, BN>(lane % 16, warp_n / 8 + lane / 16)
                                                 : slice_offset(warp_n + lane % 8 + lane / 16 * 8, lane / 8 % 2));
        float sum[MI][NI][4] = {};
        const u32 count = last > first ? last - first : 0;
        const u32 stages = p.stages;
        if constexpr (GRADIENT && FEW) clear_weights(shared, stages);
        for (u32 s = 0; s < stages - 1; s++) {
            if (s < count) copy_slice(s * STAGE_BYTES);
            commit_copies();
        }
        // The stage that is multiplied, and the one before it, which is free.
        u32 stage_at = 0, free_at = (stages - 1) * STAGE_BYTES;
        for (u32 s = 0; s < count; s++) {
            if (stages == LEAST_STAGES) wait_for_copies<LEAST_STAGES - 2>();
            else wait_for_copies<LEAST_STAGES - 1>();
            block_barrier();
            if (s + stages - 1 < count) copy_slice(free_at);
            commit_copies();
            const u8* stage = shared + stage_at;
            free_at = stage_at;
            stage_at = stage_at == (stages - 1) * STAGE_BYTES ? 0 : stage_at + STAGE_BYTES;
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
        wait_for_copies<0>();
        block_barrier();
        finish(p, sum, reinterpret_cast<float*>(shared) + warp * HALF * WN, m0 + warp_m, n0 + warp_n, rows, lane);
    }

    // Output channel of a tile's column where values and gates alternate by eights.
    static DEVICE int gate_column(const ConvParams& p, int column) {
        return column / 16 * 8 + column % 8 + (column & 8 ? p.co / 2 : 0);
    }

    // Zeros in the columns beyond the last channel, once for all stages.
    static DEVICE void clear_weights(u8* shared, int stages) {
        for (int i = threadIdx.x; i < stages * BN * 4; i += THREADS) {
            store_words4(shared + i / (BN * 4) * STAGE_BYTES + A_BYTES + i % (BN * 4) * 16, Words4{});
        }
        block_barrier();
    }

    // A slice of the weights value by value; the barrier before the slice is used is the one that its copies wait for.
    static DEVICE void copy_weights(const ConvParams& p, u8* b, int tap, int channel, int channels, int n0) {
        const S* w = static_cast<const S*>(p.w);
        const int taps = p.kernel * p.kernel, columns = smaller(BN, p.co - n0);
        for (int i = threadIdx.x; i < BK * columns; i += THREADS) {
            int r = i / columns, c = i % columns;
            S v = from_float<S>(0.0f);
            if (channel + r < channels) v = w[(i64(channel + r) * taps + taps - 1 - tap) * p.row + p.first + n0 + c];
            *(reinterpret_cast<S*>(b + transposed_offset<S, BN>(r, c / VECTOR<S>)) + c % VECTOR<S>) = v;
        }
    }

    // Fragments of the j-th 16 columns of a warp: words 0, 1 are the first eight columns, 2, 3 the others.
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

    // Accumulators to shared memory, half of a warp's rows at a time, and from there in whole 16-byte vectors to y. Each warp works in its
    // own part.
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

    // Sixteen rows of accumulators to shared memory.
    static DEVICE void stage_rows(float* stage, const float (&c)[NI][4], int lane) {
        const int g = lane / 4, t = lane % 4;
        for (int j = 0; j < NI; j++) {
            for (int half = 0; half < 2; half++) {
                int r = g + 8 * half, chunk = (2 * j + t / 2) ^ (r & 7);
                store_words2(stage + r * WN + 4 * chunk + 2 * (t & 1), Words2{{float_bits(c[j][2 * half]), float_bits(c[j][2 * half + 1])}});
            }
        }
    }

    // HALF rows of staged results to y, or to `partial`: pixels from `from` on, below `rows`.
    static DEVICE void put_rows(const ConvParams& p, const float* stage, int from, int rows, int n0, int lane) {
        auto pixel = [&](int r) { return from + r < rows ? from + r : -1; };
        if (p.splits > 1) {
            float* partial = p.partial + i64(blockIdx.z) * p.n * p.yh * p.yw * p.co;
            for (int r = lane / (WN / 4); r < HALF; r += 32 / (WN / 4)) {
                const int c = lane % (WN / 4), m = pixel(r);
                if (m >= 0 && n0 + 4 * c < p.co) {
                    store_words4(partial + i64(m) * p.co + n0 + 4 * c, load_words4(stage + r * WN + 4 * (c ^ (r & 7))));
                }
            }
            return;
        }
        if constexpr (FEW) {
            for (int i = lane; i < HALF * WN; i += 32) {
                const int r = i / WN, c = i % WN, o = n0 + c, m = pixel(r);
                if (m < 0 || o >= p.co) continue;
                i64 at = i64(m) * p.co + o;
                float v = stage[r * WN + 4 * (c / 4 ^ (r & 7)) + c % 4];
                if (p.bias) v += to_float(static_cast<const S*>(p.bias)[o]);
                if (p.addend) v += p.full ? static_cast<const float*>(p.addend)[at] : to_float(static_cast<const S*>(p.addend)[at]);
                if (p.full) static_cast<float*>(p.y)[at] = v;
                else static_cast<S*>(p.y)[at] = from_float<S>(v);
            }
            return;
        }
        if constexpr (!GRADIENT) {
            if (p.gated) return finish_gated(p, stage, from, rows, n0, lane);
        }
        constexpr int V = VECTOR<S>, VECTORS = WN / V;
        const int c = lane % VECTORS * V, o = n0 + c;
        if (o >= p.co) return;
        float bias[V] = {};
        if (p.bias) load_vector(static_cast<const S*>(p.bias) + o, bias);
        // What is added may stand where y goes: it is loaded for several rows before the first of them is stored.
        constexpr int STEP = 32 / VECTORS, AT_ONCE = smaller(HALF / STEP, 4);
        for (int first = lane / VECTORS; first < HALF; first += AT_ONCE * STEP) {
            int m[AT_ONCE];
            Words4 added[AT_ONCE];
            for (int u = 0; u < AT_ONCE; u++) {
                m[u] = pixel(first + u * STEP);
                if (p.addend && m[u] >= 0) added[u] = load_words4(static_cast<const S*>(p.addend) + i64(m[u]) * p.co + o);
            }
            for (int u = 0; u < AT_ONCE; u++) {
                if (m[u] < 0) continue;
                float v[V], a[V];
                staged(stage, first + u * STEP, c, bias, v);
                if (p.item_bias) {
                    load_vector(static_cast<const S*>(p.item_bias) + i64(m[u] / (p.yh * p.yw)) * p.co + o, a);
                    for (int e = 0; e < V; e++) v[e] += a[e];
                }
                if (p.addend) {
                    unpack_vector<S>(added[u], a);
                    for (int e = 0; e < V; e++) v[e] += a[e];
                }
                if (!GRADIENT && p.silu) {
                    for (int e = 0; e < V; e++) v[e] = silu_of(v[e]);
                }
                store_vector(static_cast<S*>(p.y) + i64(m[u]) * p.co + o, v);
            }
        }
    }

    // V columns of a staged row of results, and the bias.
    template <int V> static DEVICE void staged(const float* stage, int r, int column, const float (&bias)[V], float (&v)[V]) {
        for (int e = 0; e < V; e += 4) {
            Words4 w = load_words4(stage + r * WN + 4 * ((column + e) / 4 ^ (r & 7)));
            for (int k = 0; k < 4; k++) v[e + k] = bits_float(w.w[k]) + bias[e + k];
        }
    }

    static DEVICE void finish_gated(const ConvParams& p, const float* stage, int from, int rows, int n0, int lane) {
        constexpr int V = VECTOR<S>, VECTORS = WN / 2 / V;
        const int c = lane % VECTORS * V, column = c / 8 * 16 + c % 8, o = n0 / 2 + c, half = p.co / 2;
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
            S* y = static_cast<S*>(p.y) + i64(m) * p.co + o;
            store_vector(y, value);
            store_vector(y + half, gate);
            for (int e = 0; e < V; e++) value[e] *= gelu_of(gate[e], false);
            store_vector(static_cast<S*>(p.gated) + i64(m) * half + o, value);
        }
    }
};
