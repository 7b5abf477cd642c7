// Products of a warpgroup (128 threads) whose operands are read from shared memory (PTX ISA: wgmma,
// sm_90a only).
//
// D (64 x 128, f32) += A (64 x 16) B (16 x 128). Both operands lie in rows of 128 bytes. The
// 16-byte chunk c of a row lies at c ^ (row & 7), and rows are counted from an address that is a
// multiple of 1024: the hardware applies this swizzle to bits of the final address. A thread holds
// the same elements of D as with m16n8 fragments: warp w of the group has rows 16 w to 16 w + 15,
// and d[j] has columns 8 j to 8 j + 7.
//
// A product is asynchronous. Until wait_for_products, the operands must stay unchanged and the
// accumulators must not be touched.
#pragma once
#include "include/bulk.cuh"

// The descriptor of a matrix in shared memory. `stride` is the number of bytes from one group of
// eight rows to the next. The matrix is K-major: a row is one row (or column) of the product, and
// 16 values of k take 32 bytes. B may also be transposed: then a row is one k, and the next 64
// columns lie `columns` bytes further on.
DEVICE u64 matrix_at(u32 address, u32 stride, u32 columns = 16) {
    return u64((address & 0x3ffff) >> 4) | u64(columns >> 4) << 16 | u64(stride >> 4) << 32 | u64(1) << 62;
}

template <class S> constexpr bool IS_F16 = false;
template <> constexpr bool IS_F16<f16> = true;

#ifndef DMAP_EMULATE

#define DMAP_ACCUMULATORS \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define DMAP_PRODUCT(type, transposed)                                                                                               \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type                    \
                 " {" DMAP_ACCUMULATORS "}, %64, %65, p, 1, 1, 0, " transposed "; }"                                                     \
                 : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3]), "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]), "+f"(d[8][3]), "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]), "+f"(d[10][0]), "+f"(d[10][1]), "+f"(d[10][2]), "+f"(d[10][3]), "+f"(d[11][0]), "+f"(d[11][1]), "+f"(d[11][2]), "+f"(d[11][3]), "+f"(d[12][0]), "+f"(d[12][1]), "+f"(d[12][2]), "+f"(d[12][3]), "+f"(d[13][0]), "+f"(d[13][1]), "+f"(d[13][2]), "+f"(d[13][3]), "+f"(d[14][0]), "+f"(d[14][1]), "+f"(d[14][2]), "+f"(d[14][3]), "+f"(d[15][0]), "+f"(d[15][1]), "+f"(d[15][2]), "+f"(d[15][3]) \
                 : "l"(a), "l"(b), "r"(int(add)))

// Adds the product to d if `add` is true, else overwrites d.
template <class S, bool TRANSPOSED> DEVICE void multiply_group(float (&d)[16][4], u64 a, u64 b, bool add) {
    constexpr bool half = IS_F16<S>;
    if constexpr (half && TRANSPOSED) DMAP_PRODUCT("f16", "1");
    else if constexpr (half) DMAP_PRODUCT("f16", "0");
    else if constexpr (TRANSPOSED) DMAP_PRODUCT("bf16", "1");
    else DMAP_PRODUCT("bf16", "0");
}

// Call this before the first product, and before a product whose accumulators were touched.
DEVICE void fence_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most N groups of products are under way.
template <int N> DEVICE void wait_for_products() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }

// All threads of a warpgroup call one of these. From then on each thread has COUNT registers: more
// than at the start (take) or fewer (leave).
template <int COUNT> DEVICE void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT)); }
template <int COUNT> DEVICE void leave_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT)); }

#endif
