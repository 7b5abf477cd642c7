// guided_step: z' = z - f g.
//   Normalised: f = min(length[n], max(0, r[n] - floor[n]) / ||g||) / ||g||. Else: f = length[n].
// sphere_projection: z' = mean + radius[n] (z - mean) / ||z - mean||, or mean where they coincide.
// squares_partial (norm.cu) runs first, on g or on z - mean. blockIdx.y is the item.
#include "include/item_norm.cuh"

struct GuidedStepParams { ViewOut out; View z, g, r; const float* partial; const float* coefficients; i64 item; int width, step, floor, normalised; };
KERNEL(guided_step, GuidedStepParams, 256, 4) {
    const float* c = p.coefficients + i64(blockIdx.y) * p.width;
    float factor = c[p.step];
    if (p.normalised) {
        float norm = sqrtf(total_squares(p.partial, blockIdx.y));
        float length = smaller(factor, larger(at(p.r, blockIdx.y) - c[p.floor], 0.0f) / norm);
        factor = norm > 0 ? length / norm : 0.0f;
    }
    View x[2] = {p.z, p.g};
    elementwise(p.out, x, p.item, [&](const float (&v)[2]) { return v[0] - factor * v[1]; });
}

struct SphereProjectionParams { ViewOut out; View z, mean; const float* partial; const float* coefficients; i64 item; int width, column; };
KERNEL(sphere_projection, SphereProjectionParams, 256, 4) {
    float norm = sqrtf(total_squares(p.partial, blockIdx.y));
    float factor = norm > 0 ? p.coefficients[i64(blockIdx.y) * p.width + p.column] / norm : 0.0f;
    View x[2] = {p.z, p.mean};
    elementwise(p.out, x, p.item, [&](const float (&v)[2]) { return v[1] + factor * (v[0] - v[1]); });
}
