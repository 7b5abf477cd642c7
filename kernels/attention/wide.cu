// Attention with heads of up to 512 channels: autoencoders have one such head. The formulas are
// those of mma.cu, but a row of results no longer fits the registers of one warp.
//
// A block of eight warps takes ROWS rows of one head and walks over tiles of TILE tokens of the
// other side. The warps share out a tile's scores in units of 16 x 16, and the scores pass through
// shared memory. Of the results, every warp has all rows of 64 channels.
//
// In the forward pass and for dq, the rows are queries. For dk and dv, the rows are keys and the
// scores are transposed. All kernels overwrite their outputs. blockIdx.x is the tile of rows,
// blockIdx.y the head and blockIdx.z the item.
#include "attention/tile.cuh"

constexpr int CHANNELS = 512, WARPS = 8, THREADS = 32 * WARPS, WARP_CHANNELS = CHANNELS / WARPS;

template <class S, int ROWS, int TILE> struct WideTile {
    using T = Tile<S, CHANNELS, THREADS>;
    using Weights = Tile<S, TILE>;
    // Floats of a row of scores. With this number, four rows fall into different banks.
    static constexpr int SCORES = TILE + 8;
    static constexpr int UNITS = ROWS / 16 * (TILE / 16);
    static constexpr int BIG = T::STRIDE, SMALL = Weights::STRIDE;

    // One warp makes unit number `unit`, 16 x 16, of the scores of the rows of `a` with the rows of
    // `b`.
    static DEVICE void scores(float* out, const u8* a, const u8* b, int unit, int lane) {
        int row = unit / (TILE / 16) * 16, column = unit % (TILE / 16) * 16;
        float sum[1][2][4];
        T::rows_by_rows(sum, a, row, b + column * BIG, lane);
        for (int j = 0; j < 2; j++) {
            for (int half = 0; half < 2; half++) {
                float* to = out + (row + lane / 4 + 8 * half) * SCORES + column + 8 * j + 2 * (lane % 4);
                store_words2(to, Words2{{float_bits(sum[0][j][2 * half]), float_bits(sum[0][j][2 * half + 1])}});
            }
        }
    }

    // The address of weight `column` of a row. In TF32 the weights are in the order in which
    // right_columns() reads the rows of the tile.
    static DEVICE S* weight(u8* weights, int row, int column) {
        if (sizeof(S) == 4) column = column / 8 * 8 + (column & 1) * 4 + column % 8 / 2;
        return reinterpret_cast<S*>(weights + row * SMALL) + column;
    }

    // out (ROWS x 64 channels of this warp) += weights (ROWS x TILE) times the tile.
    static DEVICE void add_weighted(float (&out)[ROWS / 16][WARP_CHANNELS / 8][4], const u8* weights, const u8* tile, int warp, int lane) {
#pragma unroll
        for (int step = 0; step < TILE / T::DEPTH; step++) {
            u32 left[ROWS / 16][4];
#pragma unroll
            for (int i = 0; i < ROWS / 16; i++) Weights::left(left[i], weights, 16 * i, step, lane);
#pragma unroll
            for (int j = 0; j < WARP_CHANNELS / 16; j++) {
                u32 right[4];
                T::right_columns(right, tile, T::DEPTH * step, WARP_CHANNELS * warp + 16 * j, lane);
#pragma unroll
                for (int i = 0; i < ROWS / 16; i++) {
                    multiply(out[i][2 * j], left[i], right[0], right[1], S{});
                    multiply(out[i][2 * j + 1], left[i], right[2], right[3], S{});
                }
            }
        }
    }
};

// Shared memory: q, a tile of k, a tile of v, weights, scores, and a factor per row. While k is
// used, v is copied, and the other way round.
template <class S, int ROWS, int TILE> DEVICE void attention_wide_forward(const AttentionParams& p) {
    using W = WideTile<S, ROWS, TILE>;
    using T = typename W::T;
    // The threads that share a row in the softmax, and the values of each thread.
    constexpr int PER_ROW = THREADS / ROWS, VALUES = TILE / PER_ROW;
    static_assert(PER_ROW * ROWS == THREADS && VALUES * PER_ROW == TILE && 32 % PER_ROW == 0, "a row's threads are lanes of one warp");
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, q0 = blockIdx.x * ROWS;
    u8* q = shared_memory();
    u8* k = q + ROWS * W::BIG;
    u8* v = k + TILE * W::BIG;
    u8* weights = v + TILE * W::BIG;
    float* scores = reinterpret_cast<float*>(weights + ROWS * W::SMALL);
    float* factors = scores + ROWS * W::SCORES;
    T::template copy<ROWS>(q, p.q, q0, p.queries, p.d);
    T::template copy<TILE>(k, p.k, 0, p.keys, p.d);
    commit_copies();
    const int row = threadIdx.x / PER_ROW, column = threadIdx.x % PER_ROW * VALUES;
    const float to_log2 = p.scale * LOG2E;
    float out[ROWS / 16][WARP_CHANNELS / 8][4] = {}, largest = -INFINITY_F, total = 0;
    for (int first = 0; first < p.keys; first += TILE) {
        T::template copy<TILE>(v, p.v, first, p.keys, p.d);
        commit_copies();
        wait_for_copies<1>();
        block_barrier();
        for (int unit = warp; unit < W::UNITS; unit += WARPS) W::scores(scores, q, k, unit, lane);
        block_barrier();
        T::template copy<TILE>(k, p.k, first + TILE, p.keys, p.d);
        commit_copies();

        // Updates the running softmax; PER_ROW threads share a row.
        float s[VALUES], m = largest, sum = 0;
        for (int e = 0; e < VALUES; e++) {
            s[e] = first + column + e < p.keys ? scores[row * W::SCORES + column + e] : -INFINITY_F;
            m = larger(m, s[e]);
        }
        // The maximum is finite, because every tile has a key.
        for (int mask = 1; mask < PER_ROW; mask *= 2) m = larger(m, shuffle_xor(m, mask));
        for (int e = 0; e < VALUES; e++) {
            s[e] = exp2_fast(s[e] * to_log2 - m * to_log2);
            sum += s[e];
            *W::weight(weights, row, column + e) = from_float<S>(s[e]);
        }
        float shrink = exp2_fast((largest - m) * to_log2);
        largest = m;
        total = total * shrink + sum;
        if (column == 0) factors[row] = shrink;
        wait_for_copies<1>();
        block_barrier();

        for (int i = 0; i < ROWS / 16; i++) {
            for (int half = 0; half < 2; half++) {
                float factor = factors[16 * i + lane / 4 + 8 * half];
                for (int j = 0; j < WARP_CHANNELS / 8; j++) {
                    out[i][j][2 * half] *= factor;
                    out[i][j][2 * half + 1] *= factor;
                }
            }
        }
        W::add_weighted(out, weights, v, warp, lane);
        block_barrier();
    }
    wait_for_copies<0>();
    for (int mask = 1; mask < PER_ROW; mask *= 2) total += shuffle_xor(total, mask);
    if (column == 0) {
        factors[row] = 1.0f / total;
        if (q0 + row < p.queries) p.lse[p.row_base() + q0 + row] = largest * p.scale + logf(total);
    }
    block_barrier();
    for (int i = 0; i < ROWS / 16; i++) {
        float factor[2] = {factors[16 * i + lane / 4], factors[16 * i + lane / 4 + 8]};
        T::store(p.o, out[i], factor, q0 + 16 * i, WARP_CHANNELS * warp, p.queries, p.d, lane);
    }
}

// The rows are a (q, or k with KEYS) and a2 (do, or v). The tiles are b (k, or q) and b2 (v, or
// do). s = a b^T and ds = a2 b2^T become P and dS. The results are dS b and, with KEYS, P b2.
// Shared memory: a, a2, tiles of b and b2, two of weights, two of scores.
template <class S, int ROWS, int TILE, bool KEYS> DEVICE void attention_wide_reverse(const AttentionParams& p) {
    using W = WideTile<S, ROWS, TILE>;
    using T = typename W::T;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row0 = blockIdx.x * ROWS;
    const int rows = KEYS ? p.keys : p.queries, others = KEYS ? p.queries : p.keys;
    u8* a = shared_memory();
    u8* a2 = a + ROWS * W::BIG;
    u8* b = a2 + ROWS * W::BIG;
    u8* b2 = b + TILE * W::BIG;
    u8* of_ds = b2 + TILE * W::BIG;
    u8* of_p = of_ds + ROWS * W::SMALL;
    float* s = reinterpret_cast<float*>(of_p + ROWS * W::SMALL);
    float* ds = s + ROWS * W::SCORES;
    T::template copy<ROWS>(a, KEYS ? p.k : p.q, row0, rows, p.d);
    T::template copy<ROWS>(a2, KEYS ? p.v : p.dout, row0, rows, p.d);
    float by_ds[ROWS / 16][WARP_CHANNELS / 8][4] = {}, by_p[ROWS / 16][WARP_CHANNELS / 8][4] = {};
    for (int first = 0; first < others; first += TILE) {
        T::template copy<TILE>(b, KEYS ? p.q : p.k, first, others, p.d);
        T::template copy<TILE>(b2, KEYS ? p.dout : p.v, first, others, p.d);
        commit_copies();
        wait_for_copies<0>();
        block_barrier();
        for (int unit = warp; unit < 2 * W::UNITS; unit += WARPS) {
            if (unit < W::UNITS) W::scores(s, a, b, unit, lane);
            else W::scores(ds, a2, b2, unit - W::UNITS, lane);
        }
        block_barrier();
        for (int i = threadIdx.x; i < ROWS * TILE; i += THREADS) {
            int r = i / TILE, c = i % TILE, query = KEYS ? first + c : row0 + r, key = KEYS ? row0 + r : first + c;
            float probability = 0, slope = 0;
            if (query < p.queries && key < p.keys) {
                float lse = p.lse[p.row_base() + query], delta = p.delta[p.row_base() + query];
                probability = exp2_fast((s[r * W::SCORES + c] * p.scale - lse) * LOG2E);
                slope = probability * (ds[r * W::SCORES + c] - delta);
            }
            *W::weight(of_ds, r, c) = from_float<S>(slope);
            if (KEYS) *W::weight(of_p, r, c) = from_float<S>(probability);
        }
        block_barrier();
        W::add_weighted(by_ds, of_ds, b, warp, lane);
        if (KEYS) W::add_weighted(by_p, of_p, b2, warp, lane);
        block_barrier();
    }
    float scale[2] = {p.scale, p.scale}, one[2] = {1.0f, 1.0f};
    for (int i = 0; i < ROWS / 16; i++) {
        T::store(KEYS ? p.dk : p.dq, by_ds[i], scale, row0 + 16 * i, WARP_CHANNELS * warp, rows, p.d, lane);
        if (KEYS) T::store(p.dv, by_p[i], one, row0 + 16 * i, WARP_CHANNELS * warp, rows, p.d, lane);
    }
}

#define ATTENTION_WIDE(type, S, rows, rows_in_reverse, tile)                                                                            \
    KERNEL(attention_wide_##type, AttentionParams, THREADS, 1) { attention_wide_forward<S, rows, tile>(p); }                            \
    KERNEL(attention_dq_wide_##type, AttentionParams, THREADS, 1) { attention_wide_reverse<S, rows_in_reverse, tile, false>(p); }       \
    KERNEL(attention_dkv_wide_##type, AttentionParams, THREADS, 1) { attention_wide_reverse<S, rows_in_reverse, tile, true>(p); }

ATTENTION_WIDE(f16, f16, 64, 32, 32)
ATTENTION_WIDE(bf16, bf16, 64, 32, 32)
ATTENTION_WIDE(f32, tf32, 32, 16, 16)
