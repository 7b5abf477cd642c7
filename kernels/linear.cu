// y[r, o] = sum over i of x[r, i] w[o, i] + bias[o], or silu of that, for a few rows r (a batch of
// time embeddings). Reading w is then all the cost, so a warp takes one output o, and a block takes
// eight. Many rows go through conv/mma.cu as a 1x1 convolution, and so does dx of a linear layer.
#include "include/reduce.cuh"
#include "include/view.cuh"

struct LinearParams { ViewOut y; View x, w, bias; int rows, inputs, outputs, silu; };
KERNEL(linear, LinearParams, 256, 4) {
    int o = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (o >= p.outputs) return;
    bool fours = p.inputs % 4 == 0;
    for (int r = 0; r < p.rows; r++) {
        float sum = 0;
        if (fours) {
            for (int i = 4 * lane; i < p.inputs; i += 128) {
                float x[4], w[4];
                load4(p.x, i64(r) * p.inputs + i, x);
                load4(p.w, i64(o) * p.inputs + i, w);
                for (int e = 0; e < 4; e++) sum += x[e] * w[e];
            }
        } else {
            for (int i = lane; i < p.inputs; i += 32) sum += at(p.x, i64(r) * p.inputs + i) * at(p.w, i64(o) * p.inputs + i);
        }
        sum = warp_sum(sum);
        if (lane == 0) {
            sum += at(p.bias, o);
            put(p.y, i64(r) * p.outputs + o, p.silu ? silu_of(sum) : sum);
        }
    }
}
