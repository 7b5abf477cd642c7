// Kernels with one mistake each, and a few without. The emulator must catch every mistake. These
// kernels are never part of a GPU build.
#include "include/wgmma.cuh"

struct FaultParams { float* y; const float* x; int count, reserved; };

// y[i] = x[count - 1 - i], through shared memory.
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

// One thread's value of a product of x's words with themselves, seen as bf16. The same eight rows
// of 128 bytes serve as all 64 rows and all 128 columns.
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

// y = x in three boxes of eight rows of 64 values, through two buffers. One thread loads, a warp
// copies, and one thread stores.
struct BoxFaultParams { TensorMap x, y; };
enum BoxMistake {
    BOX_NONE, EXPECTS_LESS, EXPECTS_MORE, READS_TOO_EARLY, OVERWRITES, COUNTS_TWO, NOT_FENCED, RESULTS_REUSED, STORES_LEFT, INIT_NOT_FENCED,
    MISALIGNED_BOX,
};
template <BoxMistake MISTAKE> DEVICE void copy_boxes(const BoxFaultParams& p) {
    constexpr int BOXES = 3, BYTES = 1024, WORDS = BYTES / 4;
    const u32 shared = shared_address(shared_memory()), results = shared + 2 * BYTES, barriers = results + BYTES;
    auto full = [&](int k) { return barriers + 8 * k; };
    auto empty = [&](int k) { return barriers + 16 + 8 * k; };
    const u32 results_free = barriers + 32, results_ready = barriers + 40;
    if (threadIdx.x == 0) {
        for (int k = 0; k < 2; k++) {
            barrier_init(full(k), 1);
            barrier_init(empty(k), MISTAKE == COUNTS_TWO ? 2 : 1);
        }
        barrier_init(results_free, 1);
        barrier_init(results_ready, 1);
        if (MISTAKE != INIT_NOT_FENCED) fence_barrier_init();
    }
    block_barrier();
    Ring<2> ring;
    if (threadIdx.x == 0) {
        for (int box = 0; box < BOXES; box++, ring.advance()) {
            if (MISTAKE != OVERWRITES) barrier_wait(empty(ring.at), ring.parity ^ 1);
            barrier_expect(full(ring.at), BYTES + (MISTAKE == EXPECTS_LESS ? -128 : MISTAKE == EXPECTS_MORE ? 128 : 0));
            load_box(shared + ring.at * BYTES + (MISTAKE == MISALIGNED_BOX ? 64 : 0), p.x, full(ring.at), 0, 8 * box, 0, 0, 0);
        }
    } else if (threadIdx.x / 32 == 1) {
        u32 parity = 0;
        for (int box = 0; box < BOXES; box++, ring.advance(), parity ^= 1) {
            barrier_wait(full(ring.at), MISTAKE == READS_TOO_EARLY ? ring.parity ^ 1 : ring.parity);
            barrier_wait(results_free, parity);
            for (int i = threadIdx.x % 32; i < WORDS; i += 32) store_shared(results + 4 * i, load_shared(shared + ring.at * BYTES + 4 * i));
            if (MISTAKE != NOT_FENCED) fence_shared();
            warp_barrier();
            if (threadIdx.x % 32) continue;
            barrier_arrive(empty(ring.at));
            barrier_arrive(results_ready);
        }
    } else if (threadIdx.x == 64) {
        u32 parity = 0;
        for (int box = 0; box < BOXES; box++, parity ^= 1) {
            barrier_arrive(results_free);
            barrier_wait(results_ready, parity);
            store_box(p.y, results, 0, 8 * box, 0, 0, 0);
            commit_stores();
            if (MISTAKE != RESULTS_REUSED && MISTAKE != STORES_LEFT) wait_for_stores_to_read();
        }
        if (MISTAKE == RESULTS_REUSED) wait_for_stores_to_read();
    }
}
#define BOX_FAULT(name, mistake) KERNEL(fault_##name, BoxFaultParams, 96, 1) { copy_boxes<mistake>(p); }
BOX_FAULT(none_of_boxes, BOX_NONE)
BOX_FAULT(boxes_expect_less, EXPECTS_LESS)
BOX_FAULT(boxes_expect_more, EXPECTS_MORE)
BOX_FAULT(boxes_read_too_early, READS_TOO_EARLY)
BOX_FAULT(boxes_overwritten, OVERWRITES)
BOX_FAULT(boxes_count_two, COUNTS_TWO)
BOX_FAULT(boxes_not_fenced, NOT_FENCED)
BOX_FAULT(boxes_results_reused, RESULTS_REUSED)
BOX_FAULT(boxes_stores_left, STORES_LEFT)
BOX_FAULT(boxes_init_not_fenced, INIT_NOT_FENCED)
BOX_FAULT(boxes_misaligned, MISALIGNED_BOX)
