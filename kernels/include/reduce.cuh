// Sums over a warp and over a block in one fixed order, so that every run gives the same bits.
#pragma once
#include "include/kernel.cuh"

DEVICE float warp_sum(float v) {
    for (int mask = 16; mask > 0; mask /= 2) v += shuffle_xor(v, mask);
    return v;
}

// Gives every thread the sum over the block. All threads of the block must call it. `scratch` has
// one float per warp.
DEVICE float block_sum(float v, float* scratch) {
    v = warp_sum(v);
    int warps = blockDim.x / 32;
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
    block_barrier();
    float sum = 0;
    for (int w = 0; w < warps; w++) sum += scratch[w];
    block_barrier();
    return sum;
}
