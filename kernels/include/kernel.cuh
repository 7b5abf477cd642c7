// The base of every kernel file: entry points, indices, shared memory, barriers and scalar types.
//
// NVRTC compiles this source for the GPU. With DMAP_EMULATE, the same source is C++20 for the
// emulated driver. All differences between the two are in this folder and in emulator/, so that a
// kernel file has no #ifdef.
#pragma once

#ifdef DMAP_EMULATE

#include "emulator/emulator.h"

#else

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define DEVICE __device__ __forceinline__

// An entry point: its name, the type of its one by-value parameter `p`, the threads per block, and
// the blocks that should fit on a multiprocessor.
#define KERNEL(name, Params, threads, blocks) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Params p)

// All shared memory is dynamic; the launch states its size.
DEVICE u8* shared_memory() {
    extern __shared__ __align__(1024) unsigned char dynamic_shared[];
    return dynamic_shared;
}

DEVICE void block_barrier() { __syncthreads(); }
DEVICE void warp_barrier() { __syncwarp(); }
DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
DEVICE u32 float_bits(float v) { return __float_as_uint(v); }
DEVICE float bits_float(u32 v) { return __uint_as_float(v); }
DEVICE u32 multiply_high(u32 a, u32 b) { return __umulhi(a, b); }

// Types of 16-byte and 8-byte accesses. The address must be a multiple of their size.
struct alignas(16) Words4 { u32 w[4]; };
struct alignas(8) Words2 { u32 w[2]; };
DEVICE Words4 load_words4(const void* p) { return *static_cast<const Words4*>(p); }
DEVICE Words2 load_words2(const void* p) { return *static_cast<const Words2*>(p); }
DEVICE void store_words4(void* p, Words4 v) { *static_cast<Words4*>(p) = v; }
DEVICE void store_words2(void* p, Words2 v) { *static_cast<Words2*>(p) = v; }

#define INFINITY_F __int_as_float(0x7f800000)

DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The result is within two units in the last place. The reciprocal of infinity is 0.
DEVICE float reciprocal_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// For floats, this is one instruction; the template below would take three.
DEVICE float larger(float a, float b) { return fmaxf(a, b); }

struct f16 { u16 bits; };
struct bf16 { u16 bits; };

DEVICE float to_float(f16 v) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.bits));
    return f;
}
DEVICE f16 round_f16(float v) {
    f16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h.bits) : "f"(v));
    return h;
}
DEVICE bf16 round_bf16(float v) {
    bf16 h;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h.bits) : "f"(v));
    return h;
}
// The nearest number with ten mantissa bits, because a TF32 product reads only these bits.
DEVICE u32 round_tf32(float v) {
    u32 r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(v));
    return r;
}

#endif

// In a parameter struct, this is a pointer through which some of the kernels that take the struct
// write, and the others read.
template <class T> using Either = T*;

DEVICE float to_float(float v) { return v; }
DEVICE float to_float(bf16 v) { return bits_float(u32(v.bits) << 16); }

template <class T> DEVICE T from_float(float v);
template <> DEVICE float from_float<float>(float v) { return v; }
template <> DEVICE f16 from_float<f16>(float v) { return round_f16(v); }
template <> DEVICE bf16 from_float<bf16>(float v) { return round_bf16(v); }

template <class A, class B> DEVICE constexpr auto smaller(A a, B b) { return a < b ? a : b; }
template <class A, class B> DEVICE auto larger(A a, B b) { return a > b ? a : b; }
DEVICE bool is_finite(float v) { return (float_bits(v) & 0x7f800000u) != 0x7f800000u; }

// Two values of a 16-bit type in one word, the first in the low half.
template <class T> DEVICE u32 pack2(float low, float high) {
    return u32(from_float<T>(low).bits) | u32(from_float<T>(high).bits) << 16;
}
DEVICE float unpack(u32 half, f16) { return to_float(f16{u16(half)}); }
DEVICE float unpack(u32 half, bf16) { return to_float(bf16{u16(half)}); }

// The number of elements of T in 16 bytes.
template <class T> constexpr int VECTOR = 16 / int(sizeof(T));

// Conversions of 16 bytes of T to floats, and back.
template <class T> DEVICE void unpack_vector(Words4 v, float (&out)[4]) {
    for (int i = 0; i < 4; i++) out[i] = bits_float(v.w[i]);
}
template <class T> DEVICE void unpack_vector(Words4 v, float (&out)[8]) {
    for (int i = 0; i < 8; i++) out[i] = unpack(v.w[i / 2] >> (16 * (i & 1)), T{});
}
template <class T, int V> DEVICE void load_vector(const T* p, float (&out)[V]) { unpack_vector<T>(load_words4(p), out); }
DEVICE void store_vector(float* p, const float (&in)[4]) {
    Words4 v;
    for (int i = 0; i < 4; i++) v.w[i] = float_bits(in[i]);
    store_words4(p, v);
}
template <class T> DEVICE void store_vector(T* p, const float (&in)[8]) {
    Words4 v;
    for (int i = 0; i < 4; i++) v.w[i] = pack2<T>(in[2 * i], in[2 * i + 1]);
    store_words4(p, v);
}
