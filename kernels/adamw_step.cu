// An optimiser's step on all values of a trained tensor, in f32:
//
//   g' = g min(1, limit / (sqrt(squares) + 1e-6))
//   m' = b1 m + (1 - b1) g',  v' = b2 v + (1 - b2) g'^2
//   z' = (1 - decay) z - rate (m' by_m) / (sqrt(v' by_v) + 1e-8),  and g becomes 0
//
// `coefficients` are step, rate, decay (the rate times the weight decay), by_m, by_v and limit.
// Where step is 0 all values stay. Where `squares` is not finite, only g becomes 0. Reads z, m, v,
// g. Overwrites each with its next value, in its place or elsewhere. A thread takes four values at
// a time.
#include "include/view.cuh"

struct AdamWStepParams {
    ViewOut next_z, next_m, next_v, next_g;
    View z, m, v, g;
    const float *squares, *coefficients;
    i64 count;
    float old_m, new_m, old_v, new_v;  // b1, 1 - b1, b2, 1 - b2
};
KERNEL(adamw_step, AdamWStepParams, 256, 4) {
    const float* c = p.coefficients;
    const float rate = c[1], decay = c[2], by_m = c[3], by_v = c[4], squares = p.squares[0];
    const float clip = smaller(c[5] / (sqrtf(squares) + 1e-6f), 1.0f);
    const bool adds_up = c[0] == 0, is_step = !adds_up && is_finite(squares);
    // A micro-batch without a step would otherwise move four tensors for nothing.
    if (adds_up && p.z.data == p.next_z.data && p.m.data == p.next_m.data && p.v.data == p.next_v.data && p.g.data == p.next_g.data) return;
    const int width = p.count % 4 == 0 ? 4 : 1;
    const i64 step = i64(gridDim.x) * blockDim.x * width;
    for (i64 i = (i64(blockIdx.x) * blockDim.x + threadIdx.x) * width; i < p.count; i += step) {
        float z[4] = {}, m[4] = {}, v[4] = {}, g[4] = {};
        load_some(p.z, i, width, z);
        load_some(p.m, i, width, m);
        load_some(p.v, i, width, v);
        load_some(p.g, i, width, g);
        for (int e = 0; e < 4; e++) {
            if (is_step) {
                const float clipped = clip * g[e];
                m[e] = p.old_m * m[e] + p.new_m * clipped;
                v[e] = p.old_v * v[e] + p.new_v * clipped * clipped;
                z[e] = (1.0f - decay) * z[e] - rate * (m[e] * by_m) / (sqrtf(v[e] * by_v) + 1e-8f);
            }
            if (!adds_up) g[e] = 0;
        }
        store_some(p.next_z, i, width, z);
        store_some(p.next_m, i, width, m);
        store_some(p.next_v, i, width, v);
        store_some(p.next_g, i, width, g);
    }
}
