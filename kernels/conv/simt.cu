// The convolution of mma.cu and its data gradient for any channel count and any mix of storage types, in plain f32 arithmetic.
//
// Reads x, second, w, bias, item_bias, addend; overwrites y, which may be the addend's place.
// 64 pixels by 64 channels a block, 4 x 4 a thread, 16 values of K at a time.
#include "conv/spread.cuh"
#include "include/view.cuh"

struct ConvSimtParams {
    ViewOut y;
    View x, second, w, bias, item_bias, addend;
    int n, xh, xw, ci, ci2, yh, yw, co, row, first, kernel, stride, spread, gradient, pad, silu;
};
KERNEL(conv_simt, ConvSimtParams, 256, 2) {
    constexpr int ROW = 68;
    float* a = reinterpret_cast<float*>(shared_memory());
    float* b = a + 16 * ROW;
    const int rows = p.n * p.yh * p.yw, m0 = blockIdx.x * 64, n0 = blockIdx.y * 64;
    const int taps = p.kernel * p.kernel, channels = p.ci + p.ci2, depth = taps * channels, pad = p.pad;
    const int tm = threadIdx.x / 16 * 4, tn = threadIdx.x % 16 * 4;
    float sum[4][4] = {};
    for (int k0 = 0; k0 < depth; k0 += 16) {
        for (int i = threadIdx.x; i < 16 * 64; i += 256) {
            int k = k0 + i % 16, r = i / 16, m = m0 + r, tap = k / channels, c = k % channels;
            float v = 0;
            if (m < rows && k < depth) {
                int j = m % p.yw, rest = m / p.yw;
                int y = rest % p.yh * p.stride - pad + tap / p.kernel, x = j * p.stride - pad + tap % p.kernel;
                bool valid = true;
                if (p.spread != DENSE) {
                    valid = p.spread == REPEAT || ((y | x) & 1) == 0;
                    y >>= 1;
                    x >>= 1;
                }
                if (valid && u32(y) < u32(p.xh) && u32(x) < u32(p.xw)) {
                    i64 pixel = (i64(rest / p.yh) * p.xh + y) * p.xw + x;
                    v = c < p.ci ? at(p.x, pixel * p.ci + c) : at(p.second, pixel * p.ci2 + c - p.ci);
                }
            }
            a[i % 16 * ROW + r] = v;
            int o = n0 + r;
            v = 0;
            if (o < p.co && k < depth) {
                i64 from = p.gradient ? (i64(c) * taps + taps - 1 - tap) * p.row + p.first + o : (i64(o) * taps + tap) * p.row + c;
                v = at(p.w, from);
            }
            b[i % 16 * ROW + r] = v;
        }
        block_barrier();
        for (int k = 0; k < 16; k++) {
            for (int i = 0; i < 4; i++) {
                for (int j = 0; j < 4; j++) sum[i][j] += a[k * ROW + tm + i] * b[k * ROW + tn + j];
            }
        }
        block_barrier();
    }
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) {
            int m = m0 + tm + i, o = n0 + tn + j;
            if (m >= rows || o >= p.co) continue;
            float v = sum[i][j] + (p.bias.data ? at(p.bias, o) : 0.0f);
            if (p.item_bias.data) v += at(p.item_bias, i64(m / (p.yh * p.yw)) * p.co + o);
            i64 to = i64(m) * p.co + o;
            if (p.addend.data) v += at(p.addend, to);
            put(p.y, to, p.silu ? silu_of(v) : v);
        }
    }
}
