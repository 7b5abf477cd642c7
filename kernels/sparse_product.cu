// y[n, i] = sum over the entries (j, m) of row i of m x[n, j]. Row i has the entries from starts[i]
// to starts[i + 1] of index and weight. The VJP is this kernel with the transposed matrix. A thread
// makes one value at a time; blockIdx.y is the item.
#include "include/view.cuh"

struct SparseProductParams { ViewOut y; View x; const int* starts; const int* index; const float* weight; i64 rows, columns; };
KERNEL(sparse_product, SparseProductParams, 256, 4) {
    i64 step = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < p.rows; i += step) {
        float sum = 0;
        for (int k = p.starts[i]; k < p.starts[i + 1]; k++) sum += p.weight[k] * at(p.x, blockIdx.y * p.columns + p.index[k]);
        put(p.y, blockIdx.y * p.rows + i, sum);
    }
}
