// One step of AdamW:
//   m' = b1 m + (1 - b1) g,  v' = b2 v + (1 - b2) g^2
//   z' = (1 - decay) z - rate (m' by_m) / (sqrt(v' by_v) + eps)
// The columns of the coefficients of item n hold rate, decay (the rate times the weight decay), and
// the bias corrections by_m and by_v. blockIdx.y is the item; a thread takes one value at a time.
#include "include/view.cuh"

struct AdamWParams {
    ViewOut next, next_m, next_v;
    View z, g, m, v;
    const float* coefficients;
    i64 item;
    int width, rate, decay, by_m, by_v;
    float old_m, new_m, old_v, new_v;  // b1, 1 - b1, b2, 1 - b2
};
KERNEL(adamw, AdamWParams, 256, 4) {
    const float* c = p.coefficients + i64(blockIdx.y) * p.width;
    float rate = c[p.rate], decay = c[p.decay], by_m = c[p.by_m], by_v = c[p.by_v];
    i64 step = i64(gridDim.x) * blockDim.x, base = i64(blockIdx.y) * p.item;
    for (i64 i = base + i64(blockIdx.x) * blockDim.x + threadIdx.x; i < base + p.item; i += step) {
        float g = at(p.g, i), m = p.old_m * at(p.m, i) + p.new_m * g, v = p.old_v * at(p.v, i) + p.new_v * g * g;
        put(p.next_m, i, m);
        put(p.next_v, i, v);
        put(p.next, i, (1.0f - decay) * at(p.z, i) - rate * (m * by_m) / (sqrtf(v * by_v) + 1e-8f));
    }
}
