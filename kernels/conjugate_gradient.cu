// inner_product: p[n] = <a[n], b[n]>. products_partial runs first and leaves PARTIALS sums per
// item; inner_product adds them up.
// ratio_step: out = x + sign (above[n] / below[n]) d, or x where below is 0. blockIdx.y is the
// item.
#include "include/item_norm.cuh"

struct ProductsPartialParams { float* partial; View a, b; i64 item; };
KERNEL(products_partial, ProductsPartialParams, 256, 4) {
    float* scratch = reinterpret_cast<float*>(shared_memory());
    i64 base = i64(blockIdx.y) * p.item, step = i64(gridDim.x) * blockDim.x;
    float sum = 0;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < p.item; i += step) sum += at(p.a, base + i) * at(p.b, base + i);
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) p.partial[i64(blockIdx.y) * PARTIALS + blockIdx.x] = sum;
}

struct InnerProductParams { ViewOut out; const float* partial; int items; };
KERNEL(inner_product, InnerProductParams, 32, 1) {
    for (int n = threadIdx.x; n < p.items; n += 32) put(p.out, n, total_squares(p.partial, n));
}

struct RatioStepParams { ViewOut out; View x, d, above, below; i64 item; float sign; };
KERNEL(ratio_step, RatioStepParams, 256, 4) {
    float below = at(p.below, blockIdx.y), factor = below != 0 ? p.sign * at(p.above, blockIdx.y) / below : 0.0f;
    View x[2] = {p.x, p.d};
    elementwise(p.out, x, p.item, [&](const float (&v)[2]) { return v[0] + factor * v[1]; });
}
