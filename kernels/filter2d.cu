// filter2d: y[p] = sum over t of k[t] R(x)[p + t]. R continues the image: it reflects at the
// boundary without repeating the edge, or goes on at the other side (circular). Every item has its
// own kernel k.
// filter2d_vjp: dx[q] = sum over t, and over the padded positions P that repeat q, of
// k[t] dy[P - t]. If R reflects there are up to three such positions per axis; a circular image has
// them outside of dy too, where it goes on.
// A thread takes one pixel and up to four channels. Whole blocks skip the zeros of the kernel,
// which are most of its values in a motion blur.
#include "include/view.cuh"

struct Filter2dParams { ViewOut y; View x; const float* kernel; int h, w, channels, size, circular; };

DEVICE int reflected(int i, int n) {
    i = i < 0 ? -i : i;
    return i < n ? i : 2 * (n - 1) - i;
}

// The pixel of an axis of n that position i repeats, at most n outside.
DEVICE int continued(int i, int n, int circular) {
    if (!circular) return reflected(i, n);
    return i < 0 ? i + n : i < n ? i : i - n;
}

// blockIdx.x covers the pixels, blockIdx.y four channels, blockIdx.z the item.
KERNEL(filter2d, Filter2dParams, 256, 2) {
    int pixel = blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= p.h * p.w) return;
    int i = pixel / p.w, j = pixel % p.w, border = p.size / 2, c0 = blockIdx.y * 4, count = smaller(4, p.channels - c0);
    const float* kernel = p.kernel + i64(blockIdx.z) * p.size * p.size;
    i64 base = i64(blockIdx.z) * p.h * p.w;
    float sum[4] = {};
    for (int a = 0; a < p.size; a++) {
        i64 row = base + i64(continued(i + a - border, p.h, p.circular)) * p.w;
        for (int b = 0; b < p.size; b++) {
            float weight = kernel[a * p.size + b];
            if (weight == 0) continue;
            i64 from = (row + continued(j + b - border, p.w, p.circular)) * p.channels + c0;
            for (int c = 0; c < count; c++) sum[c] += weight * at(p.x, from + c);
        }
    }
    for (int c = 0; c < count; c++) put(p.y, (base + pixel) * p.channels + c0 + c, sum[c]);
}

// The positions that R fills from row i, counted from the image's first row: i itself, and its
// mirror images in the border. Of a circular image only i: the kernel goes around it.
DEVICE int mirror_images(int i, int n, int border, int circular, int (&out)[3]) {
    int count = 0;
    out[count++] = i;
    if (circular) return count;
    if (i >= 1 && i <= border) out[count++] = -i;
    int below = 2 * (n - 1) - i;
    if (i <= n - 2 && below <= n - 1 + border) out[count++] = below;
    return count;
}

KERNEL(filter2d_vjp, Filter2dParams, 256, 2) {
    int pixel = blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= p.h * p.w) return;
    int border = p.size / 2, c0 = blockIdx.y * 4, count = smaller(4, p.channels - c0);
    const float* kernel = p.kernel + i64(blockIdx.z) * p.size * p.size;
    i64 base = i64(blockIdx.z) * p.h * p.w;
    int rows[3], columns[3];
    int row_count = mirror_images(pixel / p.w, p.h, border, p.circular, rows), column_count = mirror_images(pixel % p.w, p.w, border, p.circular, columns);
    float sum[4] = {};
    for (int a = 0; a < p.size; a++) {
        for (int b = 0; b < p.size; b++) {
            float weight = kernel[a * p.size + b];
            if (weight == 0) continue;
            for (int r = 0; r < row_count; r++) {
                int i = rows[r] + border - a;
                if (p.circular) i = continued(i, p.h, 1);
                if (i < 0 || i >= p.h) continue;
                for (int q = 0; q < column_count; q++) {
                    int j = columns[q] + border - b;
                    if (p.circular) j = continued(j, p.w, 1);
                    if (j < 0 || j >= p.w) continue;
                    i64 from = (base + i64(i) * p.w + j) * p.channels + c0;
                    for (int c = 0; c < count; c++) sum[c] += weight * at(p.x, from + c);
                }
            }
        }
    }
    for (int c = 0; c < count; c++) put(p.y, (base + pixel) * p.channels + c0 + c, sum[c]);
}
