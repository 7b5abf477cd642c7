// y = mean + factor exp((f log beta + (1 - f) log beta~) / 2) noise, with f = (v + 1) / 2. The
// columns of the coefficients of item n hold log beta, log beta~ and the factor. blockIdx.y is the
// item.
#include "include/view.cuh"

struct LearnedNoiseParams { ViewOut y; View mean, v, noise; const float* coefficients; i64 item; int width, large, small, factor; };
KERNEL(learned_noise, LearnedNoiseParams, 256, 4) {
    const float* c = p.coefficients + i64(blockIdx.y) * p.width;
    float large = c[p.large], small = c[p.small], factor = c[p.factor];
    View x[3] = {p.mean, p.v, p.noise};
    elementwise(p.y, x, p.item, [&](const float (&v)[3]) {
        float f = 0.5f * (v[1] + 1.0f);
        return v[0] + factor * expf(0.5f * (f * large + (1.0f - f) * small)) * v[2];
    });
}
