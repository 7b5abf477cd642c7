// The parameters of the kernels of wgmma.cu, and the part of the work that a tile is.
#pragma once
#include "include/bulk.cuh"

struct GroupConvParams {
    TensorMap x, second, w, addend;
    TensorMapOut y, gated;
    const void *bias, *item_bias;
    float* partial;
    int n, yh, yw, co;                             // of y: of a doubled image half the rows and columns, of a 1x1 convolution one row of all pixels
    int ci, slices_of_x, slices, slices_per_part;  // channels of x; slices of x and second together, of all parities; of a part of the sum
    int across, down, columns, tiles;              // tiles along a row, along a column, along the channels, all
    int pad, adds, silu;
};

// Which pixels, channels and slices a tile has. Blocks that run together share pixels: tiles of other channels come first.
template <int BM, int KERNEL_SIZE, bool GRADIENT, bool DOUBLED> struct GroupTile {
    static constexpr int BN = 128, ROW = 128;  // channels; bytes of a pixel's slice
    static constexpr int HEIGHT = BM / 8, PITCH = 8 + KERNEL_SIZE - 1;
    static constexpr bool BY_PARITY = DOUBLED && !GRADIENT;  // its pixels

    int n0, part, image, y, x, odd_y, odd_x, first, last;

    DEVICE GroupTile(const GroupConvParams& p, int index) {
        n0 = index % p.columns * BN;
        int rest = index / p.columns;
        odd_y = odd_x = 0;
        if (BY_PARITY) {
            odd_x = rest & 1;
            odd_y = rest >> 1 & 1;
            rest >>= 2;
        }
        x = rest % p.across * (KERNEL_SIZE == 1 ? BM : 8);
        rest /= p.across;
        y = rest % p.down * HEIGHT;
        rest /= p.down;
        image = rest % p.n;
        part = rest / p.n;
        first = part * p.slices_per_part;
        last = smaller(first + p.slices_per_part, p.slices);
    }
    // The pixel of y in row r, or -1. Partial sums of a doubled image are not made.
    DEVICE int pixel(const GroupConvParams& p, int r) const {
        if (KERNEL_SIZE == 1) return x + r < p.yw ? x + r : -1;
        const int i = y + r / 8, j = x + r % 8;
        return i < p.yh && j < p.yw ? (image * p.yh + i) * p.yw + j : -1;
    }
    // Bytes from the start of a patch to what a tap of a slice reads first.
    DEVICE int start(int slice, int tap) const {
        if (KERNEL_SIZE == 1) return 0;
        constexpr int SIDE = DOUBLED ? 2 : KERNEL_SIZE;
        int i = tap / SIDE, j = tap % SIDE;
        if (BY_PARITY) {
            i += odd_y;
            j += odd_x;
        } else if (DOUBLED) {
            i = 2 - i - (slice >> 1 & 1);
            j = 2 - j - (slice & 1);
        }
        return (i * PITCH + j) * ROW;
    }
};
