// residual_norm: r[n] = || a[n] - y[n] ||. VJP: da = dr (a - y) / r, or 0 where r = 0.
// squared_norm: s[n] = || x[n] ||^2. squared_sum: s = sum + the squares of all values of x.
// squares_partial runs first and leaves PARTIALS sums per item. The second launch adds them up,
// with one thread per item, or in squared_sum with one thread for each of an item's PARTIALS.
#include "include/item_norm.cuh"

struct SquaresPartialParams { float* partial; View a, b; i64 item; };
KERNEL(squares_partial, SquaresPartialParams, 256, 4) { partial_squares(p.partial, p.a, p.b, p.item); }

struct NormParams { ViewOut r; const float* partial; int items; };
KERNEL(residual_norm, NormParams, 32, 1) {
    for (int n = threadIdx.x; n < p.items; n += 32) put(p.r, n, sqrtf(total_squares(p.partial, n)));
}
KERNEL(squared_norm, NormParams, 32, 1) {
    for (int n = threadIdx.x; n < p.items; n += 32) put(p.r, n, total_squares(p.partial, n));
}

// x is seen as `items` items. Adds in f64, because the sum goes over all weights of a network.
struct SquaredSumParams { ViewOut y; View sum; const float* partial; int items; };
KERNEL(squared_sum, SquaredSumParams, PARTIALS, 1) {
    double* sums = reinterpret_cast<double*>(shared_memory());
    double sum = 0;
    for (int n = 0; n < p.items; n++) sum += p.partial[n * PARTIALS + int(threadIdx.x)];
    sums[threadIdx.x] = sum;
    block_barrier();
    if (threadIdx.x != 0) return;
    sum = p.sum.data ? at(p.sum, 0) : 0.0f;
    for (int k = 0; k < PARTIALS; k++) sum += sums[k];
    put(p.y, 0, float(sum));
}

struct ResidualNormVjpParams { ViewOut da; View dr, a, y, r; i64 item; };
KERNEL(residual_norm_vjp, ResidualNormVjpParams, 256, 4) {
    float r = at(p.r, blockIdx.y), factor = r > 0 ? at(p.dr, blockIdx.y) / r : 0.0f;
    View x[2] = {p.a, p.y};
    elementwise(p.da, x, p.item, [&](const float (&v)[2]) { return factor * (v[0] - v[1]); });
}
