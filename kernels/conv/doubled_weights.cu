// chips: 90a
// A 3x3 convolution of a doubled image is four convolutions with 2x2 taps (see wgmma.cu). This
// kernel makes their weights.
//
// The kernel overwrites y (parity, co, 2x2, row) with sums of w (co, 3x3, row). Along an axis, an
// even pixel sees tap 0 and the sum of taps 1 and 2; an odd pixel sees the sum of taps 0 and 1, and
// tap 2. A thread takes eight channels of `row` of one output channel; co_row is co times row. The
// sums are f32 and are rounded once. They are made in scratch before each convolution, because
// keeping them would take another 16/9 of the weight's memory.
#include "include/kernel.cuh"

struct DoubledWeightsParams { void* y; const void* w; i64 co_row; int row; };

template <class S> DEVICE void doubled_weights(const DoubledWeightsParams& p) {
    constexpr int V = VECTOR<S>;
    const i64 vectors = p.co_row / V, k = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (k >= vectors) return;
    const i64 o = k * V / p.row, c = k * V % p.row;
    const S* w = static_cast<const S*>(p.w) + o * 9 * p.row + c;
    float tap[9][V];
#pragma unroll
    for (int t = 0; t < 9; t++) load_vector(w + i64(t) * p.row, tap[t]);
#pragma unroll
    for (int parity = 0; parity < 4; parity++) {
#pragma unroll
        for (int t = 0; t < 4; t++) {
            // The first and last row, and the first and last column, of the taps that are added up.
            const int odd_y = parity / 2, odd_x = parity % 2, i = t / 2, j = t % 2;
            const int top = i == 0 ? 0 : 1 + odd_y, bottom = i == 0 ? odd_y : 2, left = j == 0 ? 0 : 1 + odd_x, right = j == 0 ? odd_x : 2;
            float sum[V] = {};
#pragma unroll
            for (int y = top; y <= bottom; y++) {
#pragma unroll
                for (int x = left; x <= right; x++) {
                    for (int e = 0; e < V; e++) sum[e] += tap[3 * y + x][e];
                }
            }
            store_vector(static_cast<S*>(p.y) + parity * 4 * p.co_row + (o * 4 + t) * p.row + c, sum);
        }
    }
}
KERNEL(conv_doubled_weights_f16, DoubledWeightsParams, 256, 2) { doubled_weights<f16>(p); }
KERNEL(conv_doubled_weights_bf16, DoubledWeightsParams, 256, 2) { doubled_weights<bf16>(p); }
