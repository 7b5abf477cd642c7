// y[p] = table[label[p]], or NaN if the label is outside the table. blockIdx.x is p.
#include "include/view.cuh"

struct EmbeddingParams { ViewOut y; View label, table; int rows, channels; };
KERNEL(embedding, EmbeddingParams, 256, 1) {
    float label = at(p.label, blockIdx.x);
    bool known = label >= 0 && label < float(p.rows);
    for (int c = threadIdx.x; c < p.channels; c += blockDim.x) {
        float v = known ? at(p.table, i64(label) * p.channels + c) : bits_float(0x7fc00000u);
        put(p.y, i64(blockIdx.x) * p.channels + c, v);
    }
}
