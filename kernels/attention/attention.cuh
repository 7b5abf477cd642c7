// The parameters of the attention kernels: on tensor cores mma.cu and wide.cu, in plain arithmetic simt.cu.
#pragma once
#include "include/view.cuh"

// One of q, k, v, o: elements between items, between tokens, between heads.
struct Matrix {
    ViewEither view;
    i64 item;
    int row, head;

    DEVICE i64 start() const { return i64(blockIdx.z) * item + i64(blockIdx.y) * head; }
};

// o, do, dq have `queries` tokens, k, v, dk, dv `keys`. lse and delta are (n, heads, queries).
struct AttentionParams {
    Matrix q, k, v, o, dout, dq, dk, dv;
    Either<float> lse;  // written forward
    float* delta;
    int queries, keys, d, heads;
    float scale;
    int causal;  // queries see no later key; the plain kernels only

    DEVICE bool sees(int query, int key) const { return key < keys && !(causal && key > query); }
    DEVICE i64 row_base() const { return (i64(blockIdx.z) * heads + blockIdx.y) * queries; }
};
