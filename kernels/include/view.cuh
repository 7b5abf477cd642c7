// Tensors whose storage type is known only at launch. They are for memory-bound kernels: there, one
// uniform branch per four values costs nothing, and the number of type combinations would be large.
#pragma once
#include "include/kernel.cuh"

// Storage types, numbered as on the host.
enum Dtype { F32 = 0, F16 = 1, BF16 = 2 };

using StorageType = i64;
struct View {
    void* data;
    StorageType dtype;
};

// Types for parameter structs. From them the host reads what a kernel does with a tensor: a View is
// only read.
using ViewOut = View;     // written
// ViewEither is written by some of the kernels that take the struct, and read by the others.
using ViewEither = View;

DEVICE float at(View v, i64 i) {
    if (v.dtype == F32) return static_cast<const float*>(v.data)[i];
    if (v.dtype == F16) return to_float(static_cast<const f16*>(v.data)[i]);
    return to_float(static_cast<const bf16*>(v.data)[i]);
}

DEVICE void put(View v, i64 i, float x) {
    if (v.dtype == F32) static_cast<float*>(v.data)[i] = x;
    else if (v.dtype == F16) static_cast<f16*>(v.data)[i] = round_f16(x);
    else static_cast<bf16*>(v.data)[i] = round_bf16(x);
}

// Values i .. i + 4. i must be a multiple of 4.
DEVICE void load4(View v, i64 i, float (&out)[4]) {
    if (v.dtype == F32) {
        load_vector(static_cast<const float*>(v.data) + i, out);
        return;
    }
    Words2 w = load_words2(static_cast<const u16*>(v.data) + i);
    for (int k = 0; k < 4; k++) {
        u32 half = w.w[k / 2] >> (16 * (k & 1));
        out[k] = v.dtype == F16 ? unpack(half, f16{}) : unpack(half, bf16{});
    }
}

DEVICE void store4(View v, i64 i, const float (&in)[4]) {
    if (v.dtype == F32) {
        store_vector(static_cast<float*>(v.data) + i, in);
        return;
    }
    Words2 w;
    for (int k = 0; k < 2; k++) {
        w.w[k] = v.dtype == F16 ? pack2<f16>(in[2 * k], in[2 * k + 1]) : pack2<bf16>(in[2 * k], in[2 * k + 1]);
    }
    store_words2(static_cast<u16*>(v.data) + i, w);
}

// Loads four values from i on (then i is a multiple of 4), or only the value at i.
DEVICE void load_some(View v, i64 i, int count, float (&out)[4]) {
    if (count == 4) load4(v, i, out);
    else out[0] = at(v, i);
}

DEVICE void store_some(View v, i64 i, int count, const float (&in)[4]) {
    if (count == 4) store4(v, i, in);
    else put(v, i, in[0]);
}

// y[i] = f(operands at i) for items of `item` values; f may depend on the item, which is
// blockIdx.y. A thread takes four values at a time if `item` is a multiple of four, else one. y may
// take the place of an operand, because the same thread reads a value before it writes it.
template <int COUNT, class F> DEVICE void elementwise(View y, const View (&x)[COUNT], i64 item, F f) {
    i64 base = i64(blockIdx.y) * item;
    i64 first = i64(blockIdx.x) * blockDim.x + threadIdx.x, step = i64(gridDim.x) * blockDim.x;
    if (item % 4 == 0) {
        for (i64 i = first; i < item / 4; i += step) {
            float in[COUNT][4], out[4];
            for (int k = 0; k < COUNT; k++) load4(x[k], base + 4 * i, in[k]);
            for (int e = 0; e < 4; e++) {
                float values[COUNT];
                for (int k = 0; k < COUNT; k++) values[k] = in[k][e];
                out[e] = f(values);
            }
            store4(y, base + 4 * i, out);
        }
        return;
    }
    for (i64 i = first; i < item; i += step) {
        float values[COUNT];
        for (int k = 0; k < COUNT; k++) values[k] = at(x[k], base + i);
        put(y, base + i, f(values));
    }
}

// The sigmoid uses two approximations of the hardware. The exact exponential and quotient took four
// times as many instructions, and the norms consist mostly of them.
DEVICE float sigmoid(float x) { return reciprocal_fast(1.0f + exp2_fast(x * -1.442695041f)); }
DEVICE float silu_of(float x) { return x * sigmoid(x); }
// d silu / dx = s (1 + x (1 - s))
DEVICE float silu_slope(float x) {
    float s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
}
