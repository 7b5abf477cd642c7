// Multi-head attention, self and cross, the scores never stored; and its VJP.
//
//   S = scale q k^T,  P = softmax(S),  o = P v,  lse = log sum exp S per row
//   P = exp(S - lse),  delta = rowsum(do * o),  dv = P^T do,  dS = P * (do v^T - delta),  dq = scale dS k,  dk = scale dS^T q
//
// attention_mma: a block takes 64 rows of one head, a warp 16 of them, and walks over tiles of the other side through two
// buffers of cp.async. Forward and dq rows are queries; dk, dv rows are keys, with the transposed scores. P goes from the accumulators
// of one product into the left operand of the next without leaving the registers.
// Heads of more than 160 channels: attention_wide.cu. Mixed storage types and odd head sizes: attention_simt.cu.
// All overwrite their outputs. blockIdx.x is the tile of rows, blockIdx.y the head, blockIdx.z the item.
#include "include/attention_tile.cuh"

// Shared memory: q, then two buffers of (k, v).
template <class S, int D, int KEYS> DEVICE void attention_forward(const AttentionParams& p) {
    using T = Tile<S, D>;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, q0 = blockIdx.x * 64;
    u8* q = shared_memory();
    u8* buffers = q + 64 * T::STRIDE;
    T::template copy<64>(q, p.q, q0, p.queries, p.d);
    T::template copy_pair<KEYS>(buffers, p.k, p.v, 0, p.keys, p.d);
    const float to_log2 = p.scale * LOG2E;
    float out[D / 8][4] = {}, largest[2] = {-INFINITY_F, -INFINITY_F}, total[2] = {};
    const int tiles = (p.keys + KEYS - 1) / KEYS;
    for (int tile = 0; tile < tiles; tile++) {
        T::template copy_pair<KEYS>(buffers, p.k, p.v, tile + 1, p.keys, p.d);
        wait_for_copies<1>();
        block_barrier();
        const u8* k = buffers + tile % 2 * 2 * KEYS * T::STRIDE;
        float s[KEYS / 8][4];
        T::rows_by_rows(s, q, 16 * warp, k, lane);
        if (__builtin_expect((tile + 1) * KEYS > p.keys, 0)) T::hide_from(p.keys - tile * KEYS, s, lane);
        for (int half = 0; half < 2; half++) {
            float m = largest[half];
            for (int j = 0; j < KEYS / 8; j++) m = larger(m, larger(s[j][2 * half], s[j][2 * half + 1]));
            m = row_max(m);  // finite: every tile has a key
            const float shrink = exp2_fast((largest[half] - m) * to_log2), base = m * to_log2;
            float sum = 0;
            largest[half] = m;
            for (int j = 0; j < KEYS / 8; j++) {
                for (int e = 2 * half; e < 2 * half + 2; e++) {
                    s[j][e] = exp2_fast(s[j][e] * to_log2 - base);
                    sum += s[j][e];
                }
            }
            total[half] = total[half] * shrink + sum;
            for (int j = 0; j < D / 8; j++) {
                out[j][2 * half] *= shrink;
                out[j][2 * half + 1] *= shrink;
            }
        }
        T::add_weighted(out, s, k + KEYS * T::STRIDE, lane);
        block_barrier();
    }
    wait_for_copies<0>();
    float factor[2];
    for (int half = 0; half < 2; half++) {
        float sum = row_sum(total[half]);
        factor[half] = 1.0f / sum;
        int row = q0 + 16 * warp + lane / 4 + 8 * half;
        if (lane % 4 == 0 && row < p.queries) p.lse[p.row_base() + row] = largest[half] * p.scale + logf(sum);
    }
    T::store(p.o, out, factor, q0 + 16 * warp, 0, p.queries, p.d, lane);
}

// Shared memory: q, do, then two buffers of (k, v).
template <class S, int D, int KEYS> DEVICE void attention_dq(const AttentionParams& p) {
    using T = Tile<S, D>;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, q0 = blockIdx.x * 64;
    u8* q = shared_memory();
    u8* dout = q + 64 * T::STRIDE;
    u8* buffers = dout + 64 * T::STRIDE;
    T::template copy<64>(q, p.q, q0, p.queries, p.d);
    T::template copy<64>(dout, p.dout, q0, p.queries, p.d);
    T::template copy_pair<KEYS>(buffers, p.k, p.v, 0, p.keys, p.d);
    const float to_log2 = p.scale * LOG2E;
    float out[D / 8][4] = {}, lse[2], delta[2];
    for (int half = 0; half < 2; half++) {
        int row = q0 + 16 * warp + lane / 4 + 8 * half;
        bool valid = row < p.queries;
        lse[half] = valid ? p.lse[p.row_base() + row] * LOG2E : 0.0f;
        delta[half] = valid ? p.delta[p.row_base() + row] : 0.0f;
    }
    const int tiles = (p.keys + KEYS - 1) / KEYS;
    for (int tile = 0; tile < tiles; tile++) {
        T::template copy_pair<KEYS>(buffers, p.k, p.v, tile + 1, p.keys, p.d);
        wait_for_copies<1>();
        block_barrier();
        const u8* k = buffers + tile % 2 * 2 * KEYS * T::STRIDE;
        float s[KEYS / 8][4], ds[KEYS / 8][4];
        T::rows_by_rows(s, q, 16 * warp, k, lane);
        T::rows_by_rows(ds, dout, 16 * warp, k + KEYS * T::STRIDE, lane);
        if (__builtin_expect((tile + 1) * KEYS > p.keys, 0)) T::hide_from(p.keys - tile * KEYS, s, lane);
        for (int j = 0; j < KEYS / 8; j++) {
            for (int e = 0; e < 4; e++) ds[j][e] = exp2_fast(s[j][e] * to_log2 - lse[e / 2]) * (ds[j][e] - delta[e / 2]);
        }
        T::add_weighted(out, ds, k, lane);
        block_barrier();
    }
    wait_for_copies<0>();
    float factor[2] = {p.scale, p.scale};
    T::store(p.dq, out, factor, q0 + 16 * warp, 0, p.queries, p.d, lane);
}

// Shared memory: k, v, then two buffers of (q, do).
template <class S, int D, int QUERIES> DEVICE void attention_dkv(const AttentionParams& p) {
    using T = Tile<S, D>;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, k0 = blockIdx.x * 64;
    u8* k = shared_memory();
    u8* v = k + 64 * T::STRIDE;
    u8* buffers = v + 64 * T::STRIDE;
    T::template copy<64>(k, p.k, k0, p.keys, p.d);
    T::template copy<64>(v, p.v, k0, p.keys, p.d);
    T::template copy_pair<QUERIES>(buffers, p.q, p.dout, 0, p.queries, p.d);
    const float to_log2 = p.scale * LOG2E;
    float dk[D / 8][4] = {}, dv[D / 8][4] = {};
    const int tiles = (p.queries + QUERIES - 1) / QUERIES;
    for (int tile = 0; tile < tiles; tile++) {
        T::template copy_pair<QUERIES>(buffers, p.q, p.dout, tile + 1, p.queries, p.d);
        wait_for_copies<1>();
        block_barrier();
        const u8* q = buffers + tile % 2 * 2 * QUERIES * T::STRIDE;
        const u8* dout = q + QUERIES * T::STRIDE;
        float s[QUERIES / 8][4], ds[QUERIES / 8][4], lse[QUERIES / 8][2], delta[QUERIES / 8][2];
        // Queries that are not there have probability 0.
        const i64 at = p.row_base() + tile * QUERIES + 2 * (lane % 4);
        const int left = p.queries - tile * QUERIES - 2 * (lane % 4);
        for (int j = 0; j < QUERIES / 8; j++) {
            for (int column = 0; column < 2; column++) {
                bool valid = 8 * j + column < left;
                lse[j][column] = valid ? p.lse[at + 8 * j + column] * LOG2E : INFINITY_F;
                delta[j][column] = valid ? p.delta[at + 8 * j + column] : 0.0f;
            }
        }
        T::rows_by_rows(s, k, 16 * warp, q, lane);
        T::rows_by_rows(ds, v, 16 * warp, dout, lane);
        for (int j = 0; j < QUERIES / 8; j++) {
            for (int e = 0; e < 4; e++) {
                s[j][e] = exp2_fast(s[j][e] * to_log2 - lse[j][e & 1]);
                ds[j][e] = s[j][e] * (ds[j][e] - delta[j][e & 1]);
            }
        }
        T::add_weighted(dv, s, dout, lane);
        T::add_weighted(dk, ds, q, lane);
        block_barrier();
    }
    wait_for_copies<0>();
    float scale[2] = {p.scale, p.scale}, one[2] = {1.0f, 1.0f};
    T::store(p.dk, dk, scale, k0 + 16 * warp, 0, p.keys, p.d, lane);
    T::store(p.dv, dv, one, k0 + 16 * warp, 0, p.keys, p.d, lane);
}

// `wide` tiles of the other side forward, `narrow` ones in reverse, where a row needs more registers.
#define ATTENTION_MMA(type, S, D, wide, narrow, blocks, reverse)                                                \
    KERNEL(attention_mma_##type##_##D, AttentionParams, 128, blocks) { attention_forward<S, D, wide>(p); }      \
    KERNEL(attention_dq_mma_##type##_##D, AttentionParams, 128, reverse) { attention_dq<S, D, narrow>(p); }     \
    KERNEL(attention_dkv_mma_##type##_##D, AttentionParams, 128, reverse) { attention_dkv<S, D, narrow>(p); }

#define ATTENTION_TYPES(D, wide, narrow, blocks, reverse)       \
    ATTENTION_MMA(f16, f16, D, wide, narrow, blocks, reverse)   \
    ATTENTION_MMA(bf16, bf16, D, wide, narrow, blocks, reverse) \
    ATTENTION_MMA(f32, tf32, D, wide, narrow, blocks, reverse)

ATTENTION_TYPES(32, 64, 32, 3, 3)
ATTENTION_TYPES(48, 64, 32, 3, 2)
ATTENTION_TYPES(64, 64, 32, 3, 2)
ATTENTION_TYPES(80, 32, 32, 2, 2)
ATTENTION_TYPES(160, 32, 16, 1, 1)
