// Kernels with one mistake each, and one without: the emulator has to catch every one. Never part of a GPU build.
#include "../include/wgmma.cuh"

struct FaultParams { float* y; const float* x; int count, reserved; };

// y[i] = x[count - 1 - i], by way of shared memory.
template <bool BARRIER> DEVICE void reverse(const FaultParams& p) {
    float* shared = reinterpret_cast<float*>(shared_memory());
    int i = threadIdx.x;
    shared[i] = p.x[i];
    if (BARRIER) block_barrier();
    p.y[i] = shared[p.count - 1 - i];
}
KERNEL(fault_none, FaultParams, 256, 1) { reverse<true>(p); }
KERNEL(fault_missing_barrier, FaultParams, 256, 1) { reverse<false>(p); }

KERNEL(fault_write_past_the_end, FaultParams, 256, 1) {
    p.y[threadIdx.x] = p.x[threadIdx.x];
    if (threadIdx.x == 0) p.y[p.count] = 1;
}

KERNEL(fault_read_past_the_end, FaultParams, 256, 1) {
    p.y[threadIdx.x] = p.x[threadIdx.x] + 0 * p.x[threadIdx.x + 1];
}

template <bool WAIT> DEVICE void copy_through_shared(const FaultParams& p) {
    float* shared = reinterpret_cast<float*>(shared_memory());
    if (threadIdx.x < u32(p.count) / 4) copy_async(shared + 4 * threadIdx.x, p.x + 4 * threadIdx.x, true);
    commit_copies();
    if (WAIT) wait_for_copies<0>();
    block_barrier();
    p.y[threadIdx.x] = shared[threadIdx.x];
    wait_for_copies<0>();
}
KERNEL(fault_none_asynchronous, FaultParams, 256, 1) { copy_through_shared<true>(p); }
KERNEL(fault_missing_wait, FaultParams, 256, 1) { copy_through_shared<false>(p); }

KERNEL(fault_misaligned, FaultParams, 256, 1) {
    if (threadIdx.x == 0) store_words4(p.y, load_words4(p.x + 1));
    if (threadIdx.x >= 4) p.y[threadIdx.x] = p.x[threadIdx.x];
}

KERNEL(fault_unwritten, FaultParams, 256, 1) {
    if (threadIdx.x != 5) p.y[threadIdx.x] = p.x[threadIdx.x];
}

KERNEL(fault_shared_past_the_end, FaultParams, 256, 1) {
    float* shared = reinterpret_cast<float*>(shared_memory());
    shared[p.count + threadIdx.x] = 0;
    p.y[threadIdx.x] = p.x[threadIdx.x];
}

KERNEL(fault_barrier_not_reached_by_all, FaultParams, 256, 1) {
    p.y[threadIdx.x] = p.x[threadIdx.x];
    if (threadIdx.x != 7) block_barrier();
}

KERNEL(fault_write_to_an_input, FaultParams, 256, 1) {
    p.y[threadIdx.x] = p.x[threadIdx.x];
    if (threadIdx.x == 0) const_cast<float*>(p.x)[3] = 0;
}

// What one thread holds of a product of x's words with themselves, seen as bf16: eight rows of 128 bytes stand for all 64 and 128.
enum Mistake { NONE, NO_FENCE_OF_COPIES, NO_FENCE_OF_PRODUCTS, READ_BEFORE_THE_WAIT, OVERWRITTEN };
template <Mistake MISTAKE> DEVICE void product_of_a_group(const FaultParams& p) {
    u8* shared = shared_memory();
    if (threadIdx.x < 64) copy_async(shared + 16 * threadIdx.x, p.x + 4 * (threadIdx.x % 32), true);
    commit_copies();
    wait_for_copies<0>();
    if (MISTAKE != NO_FENCE_OF_COPIES) fence_shared();
    block_barrier();
    float d[16][4];
    const u64 matrix = matrix_at(shared_address(shared), 0, 0);
    if (MISTAKE != NO_FENCE_OF_PRODUCTS) fence_products();
    multiply_group<bf16, false>(d, matrix, matrix, false);
    commit_products();
    if (MISTAKE == OVERWRITTEN) {
        block_barrier();
        if (threadIdx.x < 64) copy_async(shared + 16 * threadIdx.x, p.x, false);
        commit_copies();
        wait_for_copies<0>();
    }
    const float early = d[15][3];
    wait_for_products<0>();
    p.y[threadIdx.x] = MISTAKE == READ_BEFORE_THE_WAIT ? early : d[15][3];
}
KERNEL(fault_none_of_products, FaultParams, 128, 1) { product_of_a_group<NONE>(p); }
KERNEL(fault_products_of_copies_not_fenced, FaultParams, 128, 1) { product_of_a_group<NO_FENCE_OF_COPIES>(p); }
KERNEL(fault_products_not_fenced, FaultParams, 128, 1) { product_of_a_group<NO_FENCE_OF_PRODUCTS>(p); }
KERNEL(fault_products_read_too_early, FaultParams, 128, 1) { product_of_a_group<READ_BEFORE_THE_WAIT>(p); }
KERNEL(fault_products_overwritten, FaultParams, 128, 1) { product_of_a_group<OVERWRITTEN>(p); }
