// Tensor-core fragments and asynchronous copies (PTX ISA: mma.sync, ldmatrix, cp.async).
//
// One step of a product takes 32 bytes of every row: 16 values of a 16-bit type (m16n8k16), or 8
// values of f32 (m16n8k8, TF32). Seen as bytes, both have the same fragments: in each matrix of 8
// rows by 16 bytes, lane 4 g + t holds word t of row g. So ldmatrix serves both. In the
// accumulator, this lane holds columns 2t and 2t + 1 of row g (c[0], c[1]) and of row g + 8
// (c[2], c[3]).
#pragma once
#include "include/kernel.cuh"

// The storage is f32 and the products are in TF32.
using tf32 = float;

template <class S> struct Fragments;

#ifndef DMAP_EMULATE

DEVICE u32 shared_address(const void* p) { return u32(__cvta_generic_to_shared(p)); }

// Both functions load four 8x8 matrices of 16-bit values. Lane i gives the address of row i % 8 of
// matrix i / 8.
DEVICE void load_matrices(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
DEVICE void load_matrices_transposed(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

DEVICE void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, f16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
DEVICE void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, bf16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
DEVICE void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, tf32) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Copies 16 bytes from global to shared memory, or writes zeros if `valid` is false. The bytes are
// visible after wait_for_copies and a barrier.
DEVICE void copy_async(void* to, const void* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most N of this thread's groups of copies are under way.
template <int N> DEVICE void wait_for_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

#endif

// Words of f32 are rounded to TF32, because a product would truncate them. Words of 16-bit types go
// into a product unchanged.
DEVICE void round_fragment(u32& word, tf32) { word = round_tf32(bits_float(word)); }
template <class S> DEVICE void round_fragment(u32&, S) {}
