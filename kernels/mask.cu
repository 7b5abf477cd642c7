// y[p, c] = x[p, c] mask[p], which is its own VJP. All pixels of the batch are seen as one row; a
// thread takes one value at a time. `channels` neighbouring values share one value of the mask: all
// channels of a pixel, or 1 if the mask has the shape of x.
#include "include/view.cuh"

struct MaskParams { ViewOut y; View x, mask; i64 count; int channels; };
KERNEL(mask, MaskParams, 256, 4) {
    i64 step = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < p.count; i += step) {
        put(p.y, i, at(p.x, i) * at(p.mask, i / p.channels));
    }
}
