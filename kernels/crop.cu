// y[n, i, j, c] = x[n, i, j, c] where x has that pixel, and 0 elsewhere. This is both crop and
// zero_pad; each is the other's VJP. A thread makes one value of y at a time.
#include "include/view.cuh"

struct CropParams { ViewOut y; View x; i64 count; int yh, yw, xh, xw, channels; };

DEVICE void window(const CropParams& p) {
    i64 step = i64(gridDim.x) * blockDim.x;
    for (i64 k = i64(blockIdx.x) * blockDim.x + threadIdx.x; k < p.count; k += step) {
        int c = int(k % p.channels), j = int(k / p.channels % p.yw);
        i64 row = k / p.channels / p.yw;
        int i = int(row % p.yh);
        i64 n = row / p.yh;
        bool inside = i < p.xh && j < p.xw;
        put(p.y, k, inside ? at(p.x, ((n * p.xh + i) * p.xw + j) * p.channels + c) : 0.0f);
    }
}

KERNEL(crop, CropParams, 256, 4) { window(p); }
KERNEL(zero_pad, CropParams, 256, 4) { window(p); }
