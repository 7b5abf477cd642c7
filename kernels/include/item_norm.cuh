// The squared norm || a - b ||^2 of every batch item takes two launches. In the first, PARTIALS
// blocks per item leave partial sums. In the second, the kernel that needs the norm adds them up in
// one fixed order.
#pragma once
#include "include/reduce.cuh"
#include "include/view.cuh"

constexpr int PARTIALS = 64;

// blockIdx.x is the part and blockIdx.y the item; a block has 256 threads. b may be absent.
DEVICE void partial_squares(float* partial, View a, View b, i64 item) {
    float* scratch = reinterpret_cast<float*>(shared_memory());
    i64 base = i64(blockIdx.y) * item, step = i64(gridDim.x) * blockDim.x;
    float sum = 0;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < item; i += step) {
        float d = at(a, base + i) - (b.data ? at(b, base + i) : 0.0f);
        sum += d * d;
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) partial[i64(blockIdx.y) * PARTIALS + blockIdx.x] = sum;
}

DEVICE float total_squares(const float* partial, i64 n) {
    double sum = 0;
    for (int k = 0; k < PARTIALS; k++) sum += partial[n * PARTIALS + k];
    return float(sum);
}
