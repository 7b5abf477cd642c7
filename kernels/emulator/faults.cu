// Kernels with one mistake each, and one without: the emulator has to catch every one. Never part of a GPU build.
#include "../include/mma.cuh"

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
