// y[o, i, q] = sum over taps k of weight[k, i] x[o, index[k, i], q]: a sparse map along one axis. o
// runs over what lies outside the axis, and q over what lies inside (the channels; for an axis of
// rows, the columns and channels).
//
// The taps contain the boundary rule. Both tables are stored tap by tap, so that neighbouring rows
// i lie next to each other. Rows with fewer taps end with weights of 0. The VJP is this kernel with
// the transposed taps. A thread makes one value of y at a time.
#include "include/view.cuh"

struct AxisFilterParams { ViewOut y; View x; const int* index; const float* weight; i64 count; int rows, inputs, taps; i64 inside; };
KERNEL(axis_filter, AxisFilterParams, 256, 4) {
    i64 step = i64(gridDim.x) * blockDim.x;
    for (i64 k = i64(blockIdx.x) * blockDim.x + threadIdx.x; k < p.count; k += step) {
        i64 q = k % p.inside, outside = k / p.inside / p.rows;
        int i = int(k / p.inside % p.rows);
        float sum = 0;
        for (int tap = i; tap < p.taps * p.rows; tap += p.rows) {
            sum += p.weight[tap] * at(p.x, (outside * p.inputs + p.index[tap]) * p.inside + q);
        }
        put(p.y, k, sum);
    }
}
