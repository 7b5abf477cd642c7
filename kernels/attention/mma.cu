// Multi-head attention, self and cross, and its VJP. The scores are never stored.
//
//   S = scale q k^T,  P = softmax(S),  o = P v,  lse = log sum exp S per row
//   P = exp(S - lse),  delta = rowsum(do * o),  dv = P^T do,  dS = P * (do v^T - delta)
//   dq = scale dS k,  dk = scale dS^T q
//
// attention_mma: a warp takes 16 R rows of one head, and a block takes the rows of its four or five
// warps. The block walks over tiles of the other side through two buffers of cp.async. In the
// forward pass and for dq, the rows are queries. For dk and dv, the rows are keys and the scores
// are transposed. P goes from the accumulators of one product into the left operand of the next
// without leaving the registers. R = 2 reads shared memory half as often; it is used if there are
// enough blocks for the chip.
//
// Heads of more than 160 channels go through wide.cu. Mixed storage types, and head sizes that are
// not whole 16-byte vectors, go through simt.cu. All kernels overwrite their outputs. blockIdx.x is
// the tile of rows, blockIdx.y the head and blockIdx.z the item.
#include "attention/tile.cuh"

// Shared memory: q, then two buffers of (k, v).
template <class S, int D, int R, int WARPS, int KEYS> DEVICE void attention_forward(const AttentionParams& p) {
    using T = Tile<S, D, 32 * WARPS>;
    constexpr int ROWS = 16 * R * WARPS;
    const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16 * R, q0 = blockIdx.x * ROWS;
    u8* q = shared_memory();
    u8* buffers = q + ROWS * T::STRIDE;
    T::template copy<ROWS>(q, p.q, q0, p.queries, p.d);
    T::template copy_pair<KEYS>(buffers, p.k, p.v, 0, p.keys, p.d);
    const float to_log2 = p.scale * LOG2E;
    float out[R][D / 8][4] = {}, largest[R][2], total[R][2] = {};
    for (int i = 0; i < R; i++) largest[i][0] = largest[i][1] = -INFINITY_F;
    const int tiles = (p.keys + KEYS - 1) / KEYS;
    for (int tile = 0; tile < tiles; tile++) {
        T::template copy_pair<KEYS>(buffers, p.k, p.v, tile + 1, p.keys, p.d);
        wait_for_copies<1>();
        block_barrier();
        const u8* k = buffers + tile % 2 * 2 * KEYS * T::STRIDE;
        float s[R][KEYS / 8][4];
        T::rows_by_rows(s, q, warp_row, k, lane);
#pragma unroll
        for (int i = 0; i < R; i++) {
            if (__builtin_expect((tile + 1) * KEYS > p.keys, 0)) T::hide_from(p.keys - tile * KEYS, s[i], lane);
            for (int half = 0; half < 2; half++) {
                float m = largest[i][half];
                for (int j = 0; j < KEYS / 8; j++) m = larger(m, larger(s[i][j][2 * half], s[i][j][2 * half + 1]));
                m = row_max(m);  // finite: every tile has a key
                const float shrink = exp2_fast((largest[i][half] - m) * to_log2), base = m * to_log2;
                float sum = 0;
                largest[i][half] = m;
                for (int j = 0; j < KEYS / 8; j++) {
                    for (int e = 2 * half; e < 2 * half + 2; e++) {
                        s[i][j][e] = exp2_fast(s[i][j][e] * to_log2 - base);
                        sum += s[i][j][e];
                    }
                }
                total[i][half] = total[i][half] * shrink + sum;
                for (int j = 0; j < D / 8; j++) {
                    out[i][j][2 * half] *= shrink;
                    out[i][j][2 * half + 1] *= shrink;
                }
            }
        }
        T::add_weighted(out, s, k + KEYS * T::STRIDE, lane);
        block_barrier();
    }
    wait_for_copies<0>();
    for (int i = 0; i < R; i++) {
        const int row = q0 + warp_row + 16 * i;
        float factor[2];
        for (int half = 0; half < 2; half++) {
            float sum = row_sum(total[i][half]);
            factor[half] = 1.0f / sum;
            int query = row + lane / 4 + 8 * half;
            if (lane % 4 == 0 && query < p.queries) p.lse[p.row_base() + query] = largest[i][half] * p.scale + logf(sum);
        }
        T::store(p.o, out[i], factor, row, 0, p.queries, p.d, lane);
    }
}

// Shared memory: q, do, then two buffers of (k, v).
template <class S, int D, int R, int WARPS, int KEYS> DEVICE void attention_dq(const AttentionParams& p) {
    using T = Tile<S, D, 32 * WARPS>;
    constexpr int ROWS = 16 * R * WARPS;
    const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16 * R, q0 = blockIdx.x * ROWS;
    u8* q = shared_memory();
    u8* dout = q + ROWS * T::STRIDE;
    u8* buffers = dout + ROWS * T::STRIDE;
    T::template copy<ROWS>(q, p.q, q0, p.queries, p.d);
    T::template copy<ROWS>(dout, p.dout, q0, p.queries, p.d);
    T::template copy_pair<KEYS>(buffers, p.k, p.v, 0, p.keys, p.d);
    const float to_log2 = p.scale * LOG2E;
    float out[R][D / 8][4] = {}, lse[R][2], delta[R][2];
    for (int i = 0; i < R; i++) {
        for (int half = 0; half < 2; half++) {
            int row = q0 + warp_row + 16 * i + lane / 4 + 8 * half;
            bool valid = row < p.queries;
            lse[i][half] = valid ? p.lse[p.row_base() + row] * LOG2E : 0.0f;
            delta[i][half] = valid ? p.delta[p.row_base() + row] : 0.0f;
        }
    }
    const int tiles = (p.keys + KEYS - 1) / KEYS;
    for (int tile = 0; tile < tiles; tile++) {
        T::template copy_pair<KEYS>(buffers, p.k, p.v, tile + 1, p.keys, p.d);
        wait_for_copies<1>();
        block_barrier();
        const u8* k = buffers + tile % 2 * 2 * KEYS * T::STRIDE;
        float s[R][KEYS / 8][4], ds[R][KEYS / 8][4];
        T::rows_by_rows(s, q, warp_row, k, lane);
        T::rows_by_rows(ds, dout, warp_row, k + KEYS * T::STRIDE, lane);
#pragma unroll
        for (int i = 0; i < R; i++) {
            if (__builtin_expect((tile + 1) * KEYS > p.keys, 0)) T::hide_from(p.keys - tile * KEYS, s[i], lane);
            for (int j = 0; j < KEYS / 8; j++) {
                for (int e = 0; e < 4; e++) {
                    ds[i][j][e] = exp2_fast(s[i][j][e] * to_log2 - lse[i][e / 2]) * (ds[i][j][e] - delta[i][e / 2]);
                }
            }
        }
        T::add_weighted(out, ds, k, lane);
        block_barrier();
    }
    wait_for_copies<0>();
    float factor[2] = {p.scale, p.scale};
    for (int i = 0; i < R; i++) T::store(p.dq, out[i], factor, q0 + warp_row + 16 * i, 0, p.queries, p.d, lane);
}

// Shared memory: k, v, then two buffers of (q, do).
template <class S, int D, int R, int WARPS, int QUERIES> DEVICE void attention_dkv(const AttentionParams& p) {
    using T = Tile<S, D, 32 * WARPS>;
    constexpr int ROWS = 16 * R * WARPS;
    const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16 * R, k0 = blockIdx.x * ROWS;
    u8* k = shared_memory();
    u8* v = k + ROWS * T::STRIDE;
    u8* buffers = v + ROWS * T::STRIDE;
    T::template copy<ROWS>(k, p.k, k0, p.keys, p.d);
    T::template copy<ROWS>(v, p.v, k0, p.keys, p.d);
    T::template copy_pair<QUERIES>(buffers, p.q, p.dout, 0, p.queries, p.d);
    const float to_log2 = p.scale * LOG2E;
    float dk[R][D / 8][4] = {}, dv[R][D / 8][4] = {};
    const int tiles = (p.queries + QUERIES - 1) / QUERIES;
    for (int tile = 0; tile < tiles; tile++) {
        T::template copy_pair<QUERIES>(buffers, p.q, p.dout, tile + 1, p.queries, p.d);
        wait_for_copies<1>();
        block_barrier();
        const u8* q = buffers + tile % 2 * 2 * QUERIES * T::STRIDE;
        const u8* dout = q + QUERIES * T::STRIDE;
        float s[R][QUERIES / 8][4], ds[R][QUERIES / 8][4], lse[QUERIES / 8][2], delta[QUERIES / 8][2];
        // Queries past the end get lse = infinity and so probability 0.
        const i64 at = p.row_base() + tile * QUERIES + 2 * (lane % 4);
        const int left = p.queries - tile * QUERIES - 2 * (lane % 4);
        for (int j = 0; j < QUERIES / 8; j++) {
            for (int column = 0; column < 2; column++) {
                bool valid = 8 * j + column < left;
                lse[j][column] = valid ? p.lse[at + 8 * j + column] * LOG2E : INFINITY_F;
                delta[j][column] = valid ? p.delta[at + 8 * j + column] : 0.0f;
            }
        }
        T::rows_by_rows(s, k, warp_row, q, lane);
        T::rows_by_rows(ds, v, warp_row, dout, lane);
        for (int i = 0; i < R; i++) {
            for (int j = 0; j < QUERIES / 8; j++) {
                for (int e = 0; e < 4; e++) {
                    s[i][j][e] = exp2_fast(s[i][j][e] * to_log2 - lse[j][e & 1]);
                    ds[i][j][e] = s[i][j][e] * (ds[i][j][e] - delta[j][e & 1]);
                }
            }
        }
        T::add_weighted(dv, s, dout, lane);
        T::add_weighted(dk, ds, q, lane);
        block_barrier();
    }
    wait_for_copies<0>();
    float scale[2] = {p.scale, p.scale}, one[2] = {1.0f, 1.0f};
    for (int i = 0; i < R; i++) {
        T::store(p.dk, dk[i], scale, k0 + warp_row + 16 * i, 0, p.keys, p.d, lane);
        T::store(p.dv, dv[i], one, k0 + warp_row + 16 * i, 0, p.keys, p.d, lane);
    }
}

// Tiles of the other side have `wide` tokens in the forward pass, and `narrow` tokens in reverse,
// where a row needs more registers.
#define ATTENTION_MMA(type, S, D, name, R, warps, wide, narrow, blocks, reverse)     \
    KERNEL(attention_mma_##type##_##name, AttentionParams, 32 * warps, blocks) {     \
        attention_forward<S, D, R, warps, wide>(p);                                  \
    }                                                                                \
    KERNEL(attention_dq_mma_##type##_##name, AttentionParams, 32 * warps, reverse) { \
        attention_dq<S, D, R, warps, narrow>(p);                                     \
    }                                                                                \
    KERNEL(attention_dkv_mma_##type##_##name, AttentionParams, 32 * warps, reverse) { \
        attention_dkv<S, D, R, warps, narrow>(p);                                    \
    }

#define ATTENTION_TYPES(D, wide, narrow, blocks, reverse)                \
    ATTENTION_MMA(f16, f16, D, D, 1, 4, wide, narrow, blocks, reverse)   \
    ATTENTION_MMA(bf16, bf16, D, D, 1, 4, wide, narrow, blocks, reverse) \
    ATTENTION_MMA(f32, tf32, D, D, 1, 4, wide, narrow, blocks, reverse)

ATTENTION_TYPES(32, 64, 32, 3, 3)
ATTENTION_TYPES(48, 64, 32, 3, 2)
ATTENTION_TYPES(64, 64, 32, 3, 2)
ATTENTION_TYPES(80, 32, 32, 2, 2)
ATTENTION_TYPES(160, 32, 16, 1, 1)

// The head sizes with the most tokens in the known networks. They have blocks of 128 rows, and
// blocks of 160 rows for grids that take one turn of the chip with 160 rows and two turns with 128.
// For example, 4096 tokens of five heads are 160 blocks of 128 rows or 130 blocks of 160 rows, for
// 132 multiprocessors.
#define ATTENTION_PAIRS(D)                                       \
    ATTENTION_MMA(f16, f16, D, D##x2, 2, 4, 64, 32, 2, 2)        \
    ATTENTION_MMA(bf16, bf16, D, D##x2, 2, 4, 64, 32, 2, 2)      \
    ATTENTION_MMA(f16, f16, D, D##x2x5, 2, 5, 64, 32, 1, 1)      \
    ATTENTION_MMA(bf16, bf16, D, D##x2x5, 2, 5, 64, 32, 1, 1)

ATTENTION_PAIRS(48)
ATTENTION_PAIRS(64)
