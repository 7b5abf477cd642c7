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

struct GegluParams { View y, x; i64 pixels; int channels, reserved; };
KERNEL(geglu, GegluParams, 256, 4) {
    bool fours = p.channels % 4 == 0;
    int row = fours ? p.channels / 4 : p.channels;
    i64 step = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < p.pixels * row; i += step) {
        i64 pixel = i / row, value = 2 * pixel * p.channels + i % row * (fours ? 4 : 1), gate = value + p.channels;
        if (fours) {
            float a[4], b[4];
            load4(p.x, value, a);
            load4(p.x, gate, b);
            for (int e = 0; e < 4; e++) a[e] *= gelu_of(b[e], false);
            store4(p.y, 4 * i, a);
        } else {
            put(p.y, i, at(p.x, value) * gelu_of(at(p.x, gate), false));
        }
    }
}

struct GegluVjpParams { View dx, dy, x; i64 pixels; int channels, reserved; };
KERNEL(geglu_vjp, GegluVjpParams, 256, 4) {
    bool fours = p.channels % 4 == 0;
    int row = fours ? p.channels / 4 : p.channels;
    i64 step = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < p.pixels * row; i += step) {
        i64 pixel = i / row, value = 2 * pixel * p.channels + i % row * (fours ? 4 : 1), gate = value + p.channels;
        if (fours) {
            float a[4], b[4], dy[4];
            load4(p.x, value, a);
            load4(p.x, gate, b);
            load4(p.dy, 4 * i, dy);
            for (int e = 0; e < 4; e++) {
                float db = dy[e] * a[e] * gelu_slope(b[e], false);
                a[e] = dy[e] * gelu_of(b[e], false);
                b[e] = db;
            }
            store4(p.dx, value, a);
            store4(p.dx, gate, b);
        } else {
            float a = at(p.x, value), b = at(p.x, gate), dy = at(p.dy, i);
            put(p.dx, value, dy * gelu_of(b, false));
            put(p.dx, gate, dy * a * gelu_slope(b, false));
        }
    }
}
