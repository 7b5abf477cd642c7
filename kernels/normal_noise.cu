// Standard normal noise from a counter: Philox4x32-10, keyed by (seed, image, step, draw) per item,
// and Box-Muller. Element by element, these are the numbers of src/noise.rs. blockIdx.y is the
// item; a thread makes four values at a time.
#include "include/view.cuh"

struct NormalNoiseParams { float* y; const u32* keys; i64 item; };

DEVICE void box_muller(u32 a, u32 b, float& x, float& y) {
    float u = (float(a >> 8) + 0.5f) * (1.0f / 16777216.0f), v = (float(b >> 8) + 0.5f) * (1.0f / 16777216.0f);
    float radius = sqrtf(-2.0f * logf(u)), angle = 6.283185307f * v;
    x = radius * cosf(angle);
    y = radius * sinf(angle);
}

KERNEL(normal_noise, NormalNoiseParams, 256, 4) {
    const u32* key = p.keys + 5 * blockIdx.y;
    i64 blocks = (p.item + 3) / 4, step = i64(gridDim.x) * blockDim.x;
    for (i64 block = i64(blockIdx.x) * blockDim.x + threadIdx.x; block < blocks; block += step) {
        u32 c[4] = {u32(block), key[2], key[3], key[4]}, k0 = key[0], k1 = key[1];
        for (int round = 0; round < 10; round++) {
            u32 a = c[0] * 0xD2511F53u, a_high = multiply_high(c[0], 0xD2511F53u);
            u32 b = c[2] * 0xCD9E8D57u, b_high = multiply_high(c[2], 0xCD9E8D57u);
            c[0] = b_high ^ c[1] ^ k0;
            c[1] = b;
            c[2] = a_high ^ c[3] ^ k1;
            c[3] = a;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        float v[4];
        box_muller(c[0], c[1], v[0], v[1]);
        box_muller(c[2], c[3], v[2], v[3]);
        for (int e = 0; e < 4; e++) {
            if (4 * block + e < p.item) p.y[i64(blockIdx.y) * p.item + 4 * block + e] = v[e];
        }
    }
}
