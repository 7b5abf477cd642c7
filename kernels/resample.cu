// upsample: y[2i + a, 2j + b] = gain x[i, j]
// pool: y[i, j] = gain (x[2i, 2j] + x[2i, 2j + 1] + x[2i + 1, 2j] + x[2i + 1, 2j + 1])
// Each is the other's VJP. (h, w) is the size of the small image. A thread takes four channels at a
// time if their number is a multiple of four, else one.
#include "include/view.cuh"

struct ResampleParams { ViewOut y; View x; i64 rows; int w, channels; float gain; };

template <int C> DEVICE void load(View v, i64 i, float (&out)[C]) {
    if constexpr (C == 4) load4(v, i, out);
    else out[0] = at(v, i);
}
template <int C> DEVICE void store(View v, i64 i, const float (&in)[C]) {
    if constexpr (C == 4) store4(v, i, in);
    else put(v, i, in[0]);
}

// `rows` = n h counts the rows of the small image. Its row r covers rows 2r and 2r + 1 of the large
// one.
template <int C, bool UP> DEVICE void resample(const ResampleParams& p) {
    int row = p.w * (p.channels / C);
    i64 step = i64(gridDim.x) * blockDim.x;
    for (i64 k = i64(blockIdx.x) * blockDim.x + threadIdx.x; k < p.rows * row; k += step) {
        i64 r = k / row;
        int j = int(k % row) / (p.channels / C), c = int(k % (p.channels / C)) * C;
        i64 small = (r * p.w + j) * p.channels + c;
        float sum[C] = {};
        if (UP) {
            load<C>(p.x, small, sum);
            for (int e = 0; e < C; e++) sum[e] *= p.gain;
        }
        for (int a = 0; a < 2; a++) {
            for (int b = 0; b < 2; b++) {
                i64 large = ((2 * r + a) * 2 * p.w + 2 * j + b) * p.channels + c;
                if (UP) {
                    store<C>(p.y, large, sum);
                } else {
                    float v[C];
                    load<C>(p.x, large, v);
                    for (int e = 0; e < C; e++) sum[e] += v[e];
                }
            }
        }
        if (!UP) {
            for (int e = 0; e < C; e++) sum[e] *= p.gain;
            store<C>(p.y, small, sum);
        }
    }
}

KERNEL(upsample, ResampleParams, 256, 4) {
    if (p.channels % 4 == 0) resample<4, true>(p);
    else resample<1, true>(p);
}
KERNEL(pool, ResampleParams, 256, 4) {
    if (p.channels % 4 == 0) resample<4, false>(p);
    else resample<1, false>(p);
}
