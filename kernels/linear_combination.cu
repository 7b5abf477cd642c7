// y[n] = sum over k of coefficients[n, column_k] x_k[n], for up to four x of one shape. The VJP,
// dx_k = coefficients[n, column_k] dy, is the same kernel with one x. blockIdx.y is the item; y may
// take the place of an x.
#include "include/view.cuh"

struct LinearCombinationParams { ViewOut y; View x[4]; const float* coefficients; i64 item; int width, column[4]; };

template <int COUNT> DEVICE void combine(const LinearCombinationParams& p) {
    float c[COUNT];
    View x[COUNT];
    for (int k = 0; k < COUNT; k++) {
        c[k] = p.coefficients[i64(blockIdx.y) * p.width + p.column[k]];
        x[k] = p.x[k];
    }
    elementwise(p.y, x, p.item, [&](const float (&v)[COUNT]) {
        float sum = 0;
        for (int k = 0; k < COUNT; k++) sum += c[k] * v[k];
        return sum;
    });
}

KERNEL(linear_combination_1, LinearCombinationParams, 256, 4) { combine<1>(p); }
KERNEL(linear_combination_2, LinearCombinationParams, 256, 4) { combine<2>(p); }
KERNEL(linear_combination_3, LinearCombinationParams, 256, 4) { combine<3>(p); }
KERNEL(linear_combination_4, LinearCombinationParams, 256, 4) { combine<4>(p); }
