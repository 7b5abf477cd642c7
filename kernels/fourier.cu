// The centred orthonormal Fourier transform of lines:
//   y[k] = scale * sum over j of x[j] exp(-+2 pi i (j - c)(k - c) / n),  c = n / 2 rounded down.
// x has `from` values in the middle of the n, y keeps the `to` values in the middle. Complex images
// have their real parts in the first `channels` channels and their imaginary parts in the others.
//
// A block transforms `lines` neighbouring lines in shared memory, by Stockham's form: for each
// factor r of n it combines r values, and leaves the results where the next factor finds them in
// order. `waves` holds exp(-+2 pi i k / n). Shared memory: two copies of the lines, 16 n bytes per
// line.
#include "include/view.cuh"

struct FourierParams { ViewOut y; View x; const float* waves; const int* factors; i64 count, within; int channels, n, factor_count, from, to, complex_from, complex_to, lines; float scale; };

struct Complex { float re, im; };
DEVICE void add_product(Complex& sum, Complex a, Complex b) {
    sum.re += a.re * b.re - a.im * b.im;
    sum.im += a.re * b.im + a.im * b.re;
}

// The index of line l's first value, in a tensor of `extent` values along the axis and `width`
// channels per pixel, and in `stride` the distance to the next value.
DEVICE i64 line_start(const FourierParams& p, i64 l, int extent, int width, i64& stride) {
    const i64 pixel = l / p.channels % p.within, outside = l / p.channels / p.within;
    stride = p.within * width;
    return (outside * extent * p.within + pixel) * width + l % p.channels;
}

KERNEL(fourier, FourierParams, 256, 2) {
    Complex *now = reinterpret_cast<Complex*>(shared_memory()), *next = now + i64(p.n) * p.lines;
    const i64 first = i64(blockIdx.x) * p.lines;
    const int lines = int(smaller(i64(p.lines), p.count - first)), total = p.n * lines, centre = p.n / 2;
    // Neighbouring threads take neighbouring lines, whose values lie next to each other.
    for (int i = threadIdx.x; i < total; i += blockDim.x) {
        const int line = i % lines, place = i / lines, j = place - (p.n - p.from) / 2;
        Complex v = {0, 0};
        if (j >= 0 && j < p.from) {
            i64 stride, start = line_start(p, first + line, p.from, p.channels * (1 + p.complex_from), stride);
            v.re = at(p.x, start + j * stride);
            if (p.complex_from) v.im = at(p.x, start + j * stride + p.channels);
        }
        now[line * p.n + (place + p.n - centre) % p.n] = v;
    }
    block_barrier();
    // What is left of n, and the product of the factors that are done.
    int left = p.n, done = 1;
    for (int f = 0; f < p.factor_count; f++) {
        const int r = p.factors[f], parts = left / r;
        for (int i = threadIdx.x; i < total; i += blockDim.x) {
            const int line = i / p.n, k = i % p.n, q = k % done, u = k / done % r, part = k / done / r;
            const Complex* from = now + line * p.n + q;
            Complex sum = {0, 0};
            for (int t = 0; t < r; t++) {
                // The wave of t u / r times that of part u / left.
                const int turn = (p.n / r * (t * u % r) + done * part * u) % p.n;
                const Complex wave = {p.waves[2 * turn], p.waves[2 * turn + 1]};
                add_product(sum, from[done * (part + parts * t)], wave);
            }
            next[i] = sum;
        }
        block_barrier();
        Complex* other = now;
        now = next;
        next = other;
        left = parts;
        done *= r;
    }
    for (int i = threadIdx.x; i < total; i += blockDim.x) {
        const int line = i % lines, place = i / lines, k = place - (p.n - p.to) / 2;
        if (k < 0 || k >= p.to) continue;
        i64 stride, start = line_start(p, first + line, p.to, p.channels * (1 + p.complex_to), stride);
        const Complex v = now[line * p.n + (place + p.n - centre) % p.n];
        put(p.y, start + k * stride, p.scale * v.re);
        if (p.complex_to) put(p.y, start + k * stride + p.channels, p.scale * v.im);
    }
}
