// gelu: y = x Phi(x), or x s(1.702 x) in the quick form; dx = dy y'. Tensors seen as one row of values, a thread takes four.
// geglu: y = a gelu(b), the first and second half of a pixel's 2c channels; da = dy gelu(b), db = dy a gelu'(b).
// Reads x (and dy), overwrites y or dx; in place over the first operand is fine, of geglu_vjp over x: a thread reads both halves of
// what it writes.
#include "include/view.cuh"

DEVICE float phi(float x) { return 0.5f * (1.0f + erff(x * 0.70710678f)); }
DEVICE float gelu_of(float x, bool quick) { return quick ? x * sigmoid(1.702f * x) : x * phi(x); }
DEVICE float gelu_slope(float x, bool quick) {
    float s = sigmoid(1.702f * x);
    return quick ? s + 1.702f * x * s * (1.0f - s) : phi(x) + x * 0.3989423f * expf(-0.5f * x * x);
}

struct GeluParams { View y, x; i64 count; int quick, reserved; };
KERNEL(gelu, GeluParams, 256, 4) {
    View x[1] = {p.x};
    bool quick = p.quick;
    elementwise(p.y, x, p.count, [quick](const float (&v)[1]) { return gelu_of(v[0], quick); });
}

struct GeluVjpParams { View dx, dy, x; i64 count; int quick, reserved; };
KERNEL(gelu_vjp, GeluVjpParams, 256, 4) {
    View x[2] = {p.dy, p.x};
    bool quick = p.quick;
    elementwise(p.dx, x, p.count, [quick](const float (&v)[2]) { return v[0] * gelu_slope(v[1], quick); });
}

// Calls f(index of the output, of the value, of the gate, count) for what this thread takes: four channels where a pixel's are whole
// vectors, else one.
template <class F> DEVICE void over_gates(i64 pixels, int channels, F f) {
    int count = channels % 4 == 0 ? 4 : 1, row = channels / count;
    i64 step = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < pixels * row; i += step) {
        i64 value = 2 * (i / row) * channels + i % row * count;
        f(count * i, value, value + channels, count);
    }
}

struct GegluParams { View y, x; i64 pixels; int channels, reserved; };
KERNEL(geglu, GegluParams, 256, 4) {
    over_gates(p.pixels, p.channels, [&](i64 i, i64 value, i64 gate, int count) {
        float a[4], b[4];
        load_some(p.x, value, count, a);
        load_some(p.x, gate, count, b);
        for (int e = 0; e < count; e++) a[e] *= gelu_of(b[e], false);
        store_some(p.y, i, count, a);
    });
}

struct GegluVjpParams { View dx, dy, x; i64 pixels; int channels, reserved; };
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
