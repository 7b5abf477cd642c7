// y[o, i, q] = sum over taps k of row i of weight[k] x[o, index[k], q]: a sparse map along one axis, boundaries in the taps.
// o runs over what lies outside the axis, q over what lies inside (channels; for rows of an image, columns and channels).
// The VJP is this kernel with the transposed taps. One thread per value of y.
#include "include/view.cuh"

struct AxisFilterParams { View y, x; const int* start; const int* index; const float* weight; i64 count; int rows, inputs; i64 inside; };
KERNEL(axis_filter, AxisFilterParams, 256, 4) {
    i64 step = i64(gridDim.x) * blockDim.x;
    for (i64 k = i64(blockIdx.x) * blockDim.x + threadIdx.x; k < p.count; k += step) {
        i64 q = k % p.inside, outside = k / p.inside / p.rows;
        int i = int(k / p.inside % p.rows);
        float sum = 0;
        for (int tap = p.start[i]; tap < p.start[i + 1]; tap++) {
            sum += p.weight[tap] * at(p.x, (outside * p.inputs + p.index[tap]) * p.inside + q);
        }
        put(p.y, k, sum);
    }
}
