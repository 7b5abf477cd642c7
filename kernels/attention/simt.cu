// Attention in plain f32 arithmetic for any head size and any mix of storage types. The formulas
// are in mma.cu. All kernels overwrite their outputs. blockIdx.x is the tile of rows, blockIdx.y
// the head and blockIdx.z the item.
#include "attention/attention.cuh"
#include "include/reduce.cuh"

// delta[r] = sum over the head's channels of do o. A warp takes one row.
KERNEL(attention_delta, AttentionParams, 256, 4) {
    int row = blockIdx.x * 8 + threadIdx.x / 32;
    if (row >= p.queries) return;
    float sum = 0;
    for (int c = threadIdx.x % 32; c < p.d; c += 32) {
        sum += at(p.o.view, p.o.start() + i64(row) * p.o.row + c) * at(p.dout.view, p.dout.start() + i64(row) * p.dout.row + c);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) p.delta[p.row_base() + row] = sum;
}

// Loads rows of a matrix as f32 into shared memory, `stride` floats apart, with zeros past its end.
DEVICE void load_rows(float* to, int stride, const Matrix& m, int first, int rows, int tokens, int d) {
    for (int i = threadIdx.x; i < rows * d; i += blockDim.x) {
        int r = i / d, c = i % d;
        to[r * stride + c] = first + r < tokens ? at(m.view, m.start() + i64(first + r) * m.row + c) : 0.0f;
    }
}

DEVICE float dot(const float* a, const float* b, int d) {
    float sum = 0;
    for (int c = 0; c < d; c++) sum += a[c] * b[c];
    return sum;
}

// A block takes 8 queries, and 16 keys at a time. A thread makes one score; then all threads share
// the channels.
KERNEL(attention_simt, AttentionParams, 128, 2) {
    const int d = p.d, stride = d + 1, q0 = blockIdx.x * 8, row = threadIdx.x / 16, key = threadIdx.x % 16;
    float* q = reinterpret_cast<float*>(shared_memory());
    float *k = q + 8 * stride, *v = k + 16 * stride, *out = v + 16 * stride, *s = out + 8 * stride;
    float *largest = s + 128, *total = largest + 8, *shrink = total + 8;
    load_rows(q, stride, p.q, q0, 8, p.queries, d);
    for (int i = threadIdx.x; i < 8 * stride; i += 128) out[i] = 0;
    if (threadIdx.x < 8) {
        largest[threadIdx.x] = -INFINITY_F;
        total[threadIdx.x] = 0;
    }
    for (int from = 0; from < p.keys; from += 16) {
        load_rows(k, stride, p.k, from, 16, p.keys, d);
        load_rows(v, stride, p.v, from, 16, p.keys, d);
        block_barrier();
        s[threadIdx.x] = p.sees(q0 + row, from + key) ? dot(q + row * stride, k + key * stride, d) * p.scale : -INFINITY_F;
        block_barrier();
        if (threadIdx.x < 8) {
            float* mine = s + 16 * threadIdx.x;
            float m = largest[threadIdx.x], sum = 0;
            for (int i = 0; i < 16; i++) m = larger(m, mine[i]);
            for (int i = 0; i < 16; i++) sum += mine[i] = expf(mine[i] - m);
            shrink[threadIdx.x] = expf(largest[threadIdx.x] - m);
            total[threadIdx.x] = total[threadIdx.x] * shrink[threadIdx.x] + sum;
            largest[threadIdx.x] = m;
        }
        block_barrier();
        for (int i = threadIdx.x; i < 8 * d; i += 128) {
            int r = i / d, c = i % d;
            float sum = out[r * stride + c] * shrink[r];
            for (int j = 0; j < 16; j++) sum += s[16 * r + j] * v[j * stride + c];
            out[r * stride + c] = sum;
        }
        block_barrier();
    }
    for (int i = threadIdx.x; i < 8 * d; i += 128) {
        int r = i / d, c = i % d;
        if (q0 + r < p.queries) put(p.o.view, p.o.start() + i64(q0 + r) * p.o.row + c, out[r * stride + c] / total[r]);
    }
    if (threadIdx.x < 8 && q0 + int(threadIdx.x) < p.queries) {
        p.lse[p.row_base() + q0 + threadIdx.x] = largest[threadIdx.x] + logf(total[threadIdx.x]);
    }
}

// A block takes 4 queries, and 16 keys at a time.
KERNEL(attention_dq_simt, AttentionParams, 64, 2) {
    const int d = p.d, stride = d + 1, q0 = blockIdx.x * 4, row = threadIdx.x / 16, key = threadIdx.x % 16;
    float* q = reinterpret_cast<float*>(shared_memory());
    float *dout = q + 4 * stride, *out = dout + 4 * stride, *k = out + 4 * stride, *v = k + 16 * stride, *ds = v + 16 * stride;
    load_rows(q, stride, p.q, q0, 4, p.queries, d);
    load_rows(dout, stride, p.dout, q0, 4, p.queries, d);
    for (int i = threadIdx.x; i < 4 * stride; i += 64) out[i] = 0;
    bool valid = q0 + row < p.queries;
    float lse = valid ? p.lse[p.row_base() + q0 + row] : 0.0f, delta = valid ? p.delta[p.row_base() + q0 + row] : 0.0f;
    for (int from = 0; from < p.keys; from += 16) {
        load_rows(k, stride, p.k, from, 16, p.keys, d);
        load_rows(v, stride, p.v, from, 16, p.keys, d);
        block_barrier();
        float probability = p.sees(q0 + row, from + key) ? expf(dot(q + row * stride, k + key * stride, d) * p.scale - lse) : 0.0f;
        ds[threadIdx.x] = probability * (dot(dout + row * stride, v + key * stride, d) - delta) * p.scale;
        block_barrier();
        for (int i = threadIdx.x; i < 4 * d; i += 64) {
            int r = i / d, c = i % d;
            for (int j = 0; j < 16; j++) out[r * stride + c] += ds[16 * r + j] * k[j * stride + c];
        }
        block_barrier();
    }
    for (int i = threadIdx.x; i < 4 * d; i += 64) {
        int r = i / d, c = i % d;
        if (q0 + r < p.queries) put(p.dq.view, p.dq.start() + i64(q0 + r) * p.dq.row + c, out[r * stride + c]);
    }
}

// A block takes 4 keys, and 16 queries at a time.
KERNEL(attention_dkv_simt, AttentionParams, 64, 2) {
    const int d = p.d, stride = d + 1, k0 = blockIdx.x * 4, key = threadIdx.x / 16, row = threadIdx.x % 16;
    float* k = reinterpret_cast<float*>(shared_memory());
    float *v = k + 4 * stride, *dk = v + 4 * stride, *dv = dk + 4 * stride, *q = dv + 4 * stride, *dout = q + 16 * stride;
    float *s = dout + 16 * stride, *ds = s + 64;
    load_rows(k, stride, p.k, k0, 4, p.keys, d);
    load_rows(v, stride, p.v, k0, 4, p.keys, d);
    for (int i = threadIdx.x; i < 4 * stride; i += 64) dk[i] = dv[i] = 0;
    for (int from = 0; from < p.queries; from += 16) {
        load_rows(q, stride, p.q, from, 16, p.queries, d);
        load_rows(dout, stride, p.dout, from, 16, p.queries, d);
        block_barrier();
        bool valid = from + row < p.queries;
        float lse = valid ? p.lse[p.row_base() + from + row] : 0.0f, delta = valid ? p.delta[p.row_base() + from + row] : 0.0f;
        float probability = valid && p.sees(from + row, k0 + key) ? expf(dot(q + row * stride, k + key * stride, d) * p.scale - lse) : 0.0f;
        s[threadIdx.x] = probability;
        ds[threadIdx.x] = probability * (dot(dout + row * stride, v + key * stride, d) - delta) * p.scale;
        block_barrier();
        for (int i = threadIdx.x; i < 4 * d; i += 64) {
            int r = i / d, c = i % d;
            for (int j = 0; j < 16; j++) {
                dv[r * stride + c] += s[16 * r + j] * dout[j * stride + c];
                dk[r * stride + c] += ds[16 * r + j] * q[j * stride + c];
            }
        }
        block_barrier();
    }
    for (int i = threadIdx.x; i < 4 * d; i += 64) {
        int r = i / d, c = i % d;
        if (k0 + r >= p.keys) continue;
        put(p.dk.view, p.dk.start() + i64(k0 + r) * p.dk.row + c, dk[r * stride + c]);
        put(p.dv.view, p.dv.start() + i64(k0 + r) * p.dv.row + c, dv[r * stride + c]);
    }
}
