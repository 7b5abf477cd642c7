// Parameters of the attention kernels: mma.cu and wide.cu on tensor cores, simt.cu in plain
// arithmetic.
#pragma once
#include "include/view.cuh"

// One of q, k, v and o, or a gradient of one. `item`, `row` and `head` are the elements from one
// item, token or head to the next.
struct Matrix {
    ViewEither view;
    i64 item;
    int row, head;

    DEVICE i64 start() const { return i64(blockIdx.z) * item + i64(blockIdx.y) * head; }
};

// q, o, do and dq have `queries` tokens; k, v, dk and dv have `keys`. lse and delta are
// (n, heads, queries).
struct AttentionParams {
    Matrix q, k, v, o, dout, dq, dk, dv;
    Either<float> lse;  // written in the forward pass
    float* delta;
    int queries, keys, d, heads;
    float scale;
    int causal;  // a query sees no later key; only in simt.cu

    DEVICE bool sees(int query, int key) const { return key < keys && !(causal && key > query); }
    DEVICE i64 row_base() const { return (i64(blockIdx.z) * heads + blockIdx.y) * queries; }
};
