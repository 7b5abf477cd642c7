// Copies of boxes of a tensor by the copy engine (TMA), and the barriers in shared memory that
// signal their arrival (PTX ISA: cp.async.bulk.tensor, mbarrier; sm_90a only).
//
// A TensorMap describes a tensor of 16-bit values by five extents and the bytes between them, and
// the box that one copy takes. Elements of a box outside the tensor are zero in a load and are left
// out in a store. A row of a box has 128 bytes. Its 16-byte chunk c lies at c ^ (row & 7), as
// matrix_at in wgmma.cuh reads it. Rows are counted from an address that is a multiple of 1024.
//
// A barrier takes 8 bytes. A phase of it ends when as many threads have arrived as barrier_init
// said and all announced bytes have come. The phases have parities 0, 1, 0, ...; waiting for parity
// 1 on a fresh barrier returns at once.
#pragma once
#include "include/mma.cuh"

#ifndef DMAP_EMULATE

struct alignas(64) TensorMap { u64 words[16]; };

DEVICE void barrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// The thread that initialised the barriers calls this before the block's barrier.
DEVICE void fence_barrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void barrier_arrive(u32 barrier) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory"); }
// Arrives, and announces the bytes of boxes that will come.
DEVICE void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Waits until the phase of this parity has ended.
DEVICE void barrier_wait(u32 barrier, u32 parity) {
    u32 ended = 0;
    while (!ended) {
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.b32 %0, 1, 0, p; }"
                     : "=r"(ended) : "r"(barrier), "r"(parity) : "memory");
    }
}

// Loads the box that starts at element (i0, i1, i2, i3, i4) into shared memory. Its bytes count on
// the barrier.
DEVICE void load_box(u32 to, const TensorMap& from, u32 barrier, int i0, int i1, int i2, int i3, int i4) {
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6, %7}], [%2];"
                 ::"r"(to), "l"(&from), "r"(barrier), "r"(i0), "r"(i1), "r"(i2), "r"(i3), "r"(i4) : "memory");
}
// Stores a box from shared memory. Threads must first call fence_shared for what they wrote there.
// The thread that stores also commits its stores and waits for them.
DEVICE void store_box(const TensorMap& to, u32 from, int i0, int i1, int i2, int i3, int i4) {
    asm volatile("cp.async.bulk.tensor.5d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];"
                 ::"l"(&to), "r"(from), "r"(i0), "r"(i1), "r"(i2), "r"(i3), "r"(i4) : "memory");
}
DEVICE void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Waits until all committed stores have read their shared memory.
DEVICE void wait_for_stores_to_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
// Makes this thread's writes to shared memory visible to stores of boxes and to products of a
// warpgroup. A barrier must follow.
DEVICE void fence_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// These two functions load and store one word of shared memory.
DEVICE u32 load_shared(u32 at) {
    u32 word;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(at) : "memory");
    return word;
}
DEVICE void store_shared(u32 at, u32 word) { asm volatile("st.shared.u32 [%0], %1;" ::"r"(at), "r"(word) : "memory"); }

#endif

// In a parameter struct this type marks the map of a tensor that the kernel writes; TensorMap marks
// one that it reads. The host reads the difference.
using TensorMapOut = TensorMap;

// A position in a ring of COUNT buffers that are filled and emptied in turn. Two barriers guard
// each buffer.
template <int COUNT> struct Ring {
    int at = 0;
    u32 parity = 0;  // of the phase in which the buffer is full
    DEVICE void advance() {
        if (++at == COUNT) {
            at = 0;
            parity ^= 1;
        }
    }
};
