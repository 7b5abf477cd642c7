// c = by_z z + by_eps eps + by_n n: the change of the coefficients that a measurement determines.
// With power = s^2 per coefficient, and sigma and the noise's standard deviation sigma_y in columns
// of the coefficients of item n:
//   where s sigma < sigma_y: by_z = r sigma / (s sigma_y),  by_n = 0
//   elsewhere:               by_z = etab / s^2,
//                            by_n = sqrt(sigma^2 - (etab sigma_y / s)^2) - eta sigma
// with r = sqrt(1 - eta^2) and by_eps = -r sigma. c is 0 where the power is at most 1e-6. power has
// one value per pixel, z, eps and n have `channels`. blockIdx.y is the item; a thread takes one
// value at a time.
#include "include/view.cuh"

struct SpectralStepParams {
    ViewOut c;
    View z, eps, n, power;
    const float* coefficients;
    i64 item;
    int channels, width, sigma, noise;
    float eta, etab;
};
KERNEL(spectral_step, SpectralStepParams, 256, 4) {
    const float* columns = p.coefficients + i64(blockIdx.y) * p.width;
    float sigma = columns[p.sigma], noise = columns[p.noise], kept = sqrtf(1.0f - p.eta * p.eta) * sigma;
    i64 step = i64(gridDim.x) * blockDim.x, base = i64(blockIdx.y) * p.item;
    for (i64 i = base + i64(blockIdx.x) * blockDim.x + threadIdx.x; i < base + p.item; i += step) {
        float power = at(p.power, i / p.channels), s = sqrtf(power), c = 0;
        if (power > 1e-6f) {
            float by_z = kept / (s * noise), by_n = 0;
            if (s * sigma >= noise) {
                float told = p.etab * noise / s;
                by_z = p.etab / power;
                by_n = sqrtf(larger(sigma * sigma - told * told, 0.0f)) - p.eta * sigma;
            }
            c = by_z * at(p.z, i) - kept * at(p.eps, i) + by_n * at(p.n, i);
        }
        put(p.c, i, c);
    }
}
