// chips: 90a
// The kernels between the matrix products of an attention whose head is as wide as a layer. The
// products are launches of conv/wgmma.cu.
//
//   forward: S = q k^T, P = softmax(scale S), o = P v,
//            lse = log of the sum of exp(scale S) over the keys
//   reverse: dP = do v^T, dS = scale P (dP - delta), dq = dS k, dk = dS^T q, dv = P^T do,
//            delta = sum over channels of do o
//
// S and dP are f32 with shape (queries, keys), for one item. P and dS have the storage type. Both
// extents are multiples of four.
#include "include/reduce.cuh"

constexpr float LOG2E = 1.442695041f;

DEVICE float block_max(float v, float* scratch) {
    for (int mask = 16; mask > 0; mask /= 2) v = larger(v, shuffle_xor(v, mask));
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
    block_barrier();
    for (int w = 0; w < int(blockDim.x) / 32; w++) v = larger(v, scratch[w]);
    block_barrier();
    return v;
}

template <class S> DEVICE void store_four(S* p, const float (&v)[4]) { store_words2(p, Words2{{pack2<S>(v[0], v[1]), pack2<S>(v[2], v[3])}}); }

// One block takes one query. Its row of scores is read three times and stays in the cache.
struct SoftmaxParams { void* probabilities; float* lse; const float* scores; int queries, keys; float scale; };

template <class S> DEVICE void softmax(const SoftmaxParams& p) {
    float* scratch = reinterpret_cast<float*>(shared_memory());
    const float* scores = p.scores + i64(blockIdx.x) * p.keys;
    const int first = 4 * threadIdx.x, step = 4 * blockDim.x;
    float v[4], largest = -INFINITY_F, sum = 0;
    for (int k = first; k < p.keys; k += step) {
        load_vector(scores + k, v);
        for (int e = 0; e < 4; e++) largest = larger(largest, v[e]);
    }
    largest = block_max(largest, scratch) * p.scale;
    for (int k = first; k < p.keys; k += step) {
        load_vector(scores + k, v);
        for (int e = 0; e < 4; e++) sum += exp2_fast((v[e] * p.scale - largest) * LOG2E);
    }
    sum = block_sum(sum, scratch);
    const float share = 1.0f / sum;
    S* out = static_cast<S*>(p.probabilities) + i64(blockIdx.x) * p.keys;
    for (int k = first; k < p.keys; k += step) {
        load_vector(scores + k, v);
        for (int e = 0; e < 4; e++) v[e] = exp2_fast((v[e] * p.scale - largest) * LOG2E) * share;
        store_four(out + k, v);
    }
    if (threadIdx.x == 0) p.lse[blockIdx.x] = largest + logf(sum);
}

// Makes dS, and on request both the transposed dS and the transposed P, in tiles of 64 queries by
// 64 keys.
struct ScoreGradientParams {
    void *ds, *ds_transposed, *p_transposed;
    const float *scores, *dp, *lse, *delta;
    int queries, keys;
    float scale;
};

template <class S> DEVICE void score_gradients(const ScoreGradientParams& p) {
    // ROWS is the number of rows that the block's threads take at a time.
    constexpr int SIDE = 64, STRIDE = SIDE + 4, ROWS = 16;
    S* tile_ds = reinterpret_cast<S*>(shared_memory());
    S* tile_p = tile_ds + SIDE * STRIDE;
    const int k0 = blockIdx.x * SIDE, q0 = blockIdx.y * SIDE, column = threadIdx.x % 16 * 4;
    for (int row = threadIdx.x / 16; row < SIDE; row += ROWS) {
        const int q = q0 + row;
        if (q >= p.queries || k0 + column >= p.keys) continue;
        const i64 at = i64(q) * p.keys + k0 + column;
        float probability[4], ds[4];
        load_vector(p.scores + at, probability);
        load_vector(p.dp + at, ds);
        for (int e = 0; e < 4; e++) {
            probability[e] = exp2_fast((probability[e] * p.scale - p.lse[q]) * LOG2E);
            ds[e] = p.scale * probability[e] * (ds[e] - p.delta[q]);
            tile_ds[(column + e) * STRIDE + row] = from_float<S>(ds[e]);
            tile_p[(column + e) * STRIDE + row] = from_float<S>(probability[e]);
        }
        store_four(static_cast<S*>(p.ds) + at, ds);
    }
    block_barrier();
    if (!p.ds_transposed) return;
    for (int row = threadIdx.x / 16; row < SIDE; row += ROWS) {
        const int k = k0 + row;
        if (k >= p.keys || q0 + column >= p.queries) continue;
        const i64 at = i64(k) * p.queries + q0 + column;
        store_words2(static_cast<S*>(p.ds_transposed) + at, load_words2(tile_ds + row * STRIDE + column));
        store_words2(static_cast<S*>(p.p_transposed) + at, load_words2(tile_p + row * STRIDE + column));
    }
}

#define ATTENTION_SCORES(type, S)                                                                        \
    KERNEL(attention_softmax_##type, SoftmaxParams, 256, 4) { softmax<S>(p); }                          \
    KERNEL(attention_score_gradients_##type, ScoreGradientParams, 256, 4) { score_gradients<S>(p); }

ATTENTION_SCORES(f16, f16)
ATTENTION_SCORES(bf16, bf16)
