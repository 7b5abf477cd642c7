// Parameters of the kernels in wgmma.cu, and the part of the work that one tile covers.
#pragma once
#include "include/bulk.cuh"

struct GroupConvParams {
    TensorMap x, second, w, addend;
    TensorMapOut y, gated;
    const void *bias, *item_bias;
    float* partial;
    // Extents of y. For the convolution of a doubled image, yh and yw are half the rows and columns
    // of y. For a 1x1 convolution, one row has all pixels.
    int n, yh, yw, co;
    // ci: channels of x. slices: slices of x and second together, over all parities.
    // slices_per_part: slices of one part of the sum.
    int ci, slices_of_x, slices, slices_per_part;
    // Number of tiles along a row, along a column, along the channels, and in all.
    int across, down, columns, tiles;
    int pad, adds, silu;
};

// The pixels, channels and slices of a tile. The channels change fastest from tile to tile, so that
// blocks that run at the same time share pixels.
template <int BM, int KERNEL_SIZE, bool GRADIENT, bool DOUBLED> struct GroupTile {
    static constexpr int BN = 128, ROW = 128;  // channels of a tile; bytes of a pixel in a slice
    static constexpr int HEIGHT = BM / 8, PITCH = 8 + KERNEL_SIZE - 1;
    static constexpr bool BY_PARITY = DOUBLED && !GRADIENT;  // a tile has pixels of one parity

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
    // The pixel of y in row r of the tile, or -1 if there is none. Only partial sums need it. The
    // parity does not matter, because the convolution of a doubled image has no partial sums.
    DEVICE int pixel(const GroupConvParams& p, int r) const {
        if (KERNEL_SIZE == 1) return x + r < p.yw ? x + r : -1;
        const int i = y + r / 8, j = x + r % 8;
        return i < p.yh && j < p.yw ? (image * p.yh + i) * p.yw + j : -1;
    }
    // Bytes from the start of a patch to the first pixel that a tap of a slice reads.
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
