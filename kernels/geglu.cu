// geglu: y = a gelu(b). a and b are the first and second half of a pixel's 2c channels.
// VJP: da = dy gelu(b), db = dy a gelu'(b).
//
// The product that makes a and b usually makes y as well (conv/mma.cu); geglu is for products that
// cannot. A thread takes four channels. Reads x (and dy), and overwrites y or dx. geglu_vjp may be
// in place over x, because a thread reads both halves of what it writes.
#include "include/gelu.cuh"

// Calls f(index of the output, of the value, of the gate, count) for what this thread takes: four
// channels if a pixel's channels are whole vectors, else one.
template <class F> DEVICE void over_gates(i64 pixels, int channels, F f) {
    int count = channels % 4 == 0 ? 4 : 1, row = channels / count;
    i64 step = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < pixels * row; i += step) {
        i64 value = 2 * (i / row) * channels + i % row * count;
        f(count * i, value, value + channels, count);
    }
}

struct GegluParams { ViewOut y; View x; i64 pixels; int channels; };
KERNEL(geglu, GegluParams, 256, 4) {
    over_gates(p.pixels, p.channels, [&](i64 i, i64 value, i64 gate, int count) {
        float a[4], b[4];
        load_some(p.x, value, count, a);
        load_some(p.x, gate, count, b);
        for (int e = 0; e < count; e++) a[e] *= gelu_of(b[e], false);
        store_some(p.y, i, count, a);
    });
}

struct GegluVjpParams { ViewOut dx; View dy, x; i64 pixels; int channels; };
KERNEL(geglu_vjp, GegluVjpParams, 256, 4) {
    over_gates(p.pixels, p.channels, [&](i64 i, i64 value, i64 gate, int count) {
        float a[4], b[4], dy[4];
        load_some(p.x, value, count, a);
        load_some(p.x, gate, count, b);
        load_some(p.dy, i, count, dy);
        for (int e = 0; e < count; e++) {
            float db = dy[e] * a[e] * gelu_slope(b[e], false);
            a[e] = dy[e] * gelu_of(b[e], false);
            b[e] = db;
        }
        store_some(p.dx, value, count, a);
        store_some(p.dx, gate, count, b);
    });
}
