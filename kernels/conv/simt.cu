// The convolution of mma.cu and its data gradient in plain f32 arithmetic, for any channel count
// and any mix of storage types.
//
// Reads x, second, w, bias, item_bias and addend. Overwrites y, which may take the addend's place.
// A block makes 64 pixels by 64 channels, a thread 4 by 4, and the block takes 16 values of K at a
// time.
#include "conv/shape.cuh"
#include "include/view.cuh"

struct ConvSimtParams {
    ViewOut y;
    View x, second, w, bias, item_bias, addend;
    ConvShape shape;
    int gradient, pad, silu;
};
KERNEL(conv_simt, ConvSimtParams, 256, 2) {
    const ConvShape& s = p.shape;
    constexpr int ROW = 68;
    float* a = reinterpret_cast<float*>(shared_memory());
    float* b = a + 16 * ROW;
    const int rows = s.n * s.yh * s.yw, m0 = blockIdx.x * 64, n0 = blockIdx.y * 64;
    const int taps = s.kernel * s.kernel, channels = s.ci + s.ci2, depth = taps * channels, pad = p.pad;
    const int tm = threadIdx.x / 16 * 4, tn = threadIdx.x % 16 * 4;
    float sum[4][4] = {};
    for (int k0 = 0; k0 < depth; k0 += 16) {
        for (int i = threadIdx.x; i < 16 * 64; i += 256) {
            int k = k0 + i % 16, r = i / 16, m = m0 + r, tap = k / channels, c = k % channels;
            float v = 0;
            if (m < rows && k < depth) {
                int j = m % s.yw, rest = m / s.yw;
                int y = rest % s.yh * s.stride - pad + tap / s.kernel, x = j * s.stride - pad + tap % s.kernel;
                bool valid = true;
                if (s.spread != DENSE) {
                    valid = s.spread == REPEAT || ((y | x) & 1) == 0;
                    y >>= 1;
                    x >>= 1;
                }
                if (valid && u32(y) < u32(s.xh) && u32(x) < u32(s.xw)) {
                    i64 pixel = (i64(rest / s.yh) * s.xh + y) * s.xw + x;
                    v = c < s.ci ? at(p.x, pixel * s.ci + c) : at(p.second, pixel * s.ci2 + c - s.ci);
                }
            }
            a[i % 16 * ROW + r] = v;
            int o = n0 + r;
            v = 0;
            if (o < s.co && k < depth) {
                i64 from = p.gradient ? (i64(c) * taps + taps - 1 - tap) * s.row + s.first + o : (i64(o) * taps + tap) * s.row + c;
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
            if (m >= rows || o >= s.co) continue;
            float v = sum[i][j] + (p.bias.data ? at(p.bias, o) : 0.0f);
            if (p.item_bias.data) v += at(p.item_bias, i64(m / (s.yh * s.yw)) * s.co + o);
            i64 to = i64(m) * s.co + o;
            if (p.addend.data) v += at(p.addend, to);
            put(p.y, to, p.silu ? silu_of(v) : v);
        }
    }
}
