// Extents of a convolution or of its data gradient, as mma.cu, image.cu and simt.cu take them.
#pragma once

// The positions of the source hold its pixels as they are (DENSE), a pixel at every second position
// with zeros between (ZEROS), or each pixel four times (REPEAT).
enum Spread { DENSE = 1, ZEROS = 2, REPEAT = 3 };

// n: batch items. xh, xw: rows and columns of x. ci, ci2: channels of x and of second. yh, yw, co:
// rows, columns and channels of y. row: input channels of the weight. first: the first of these
// input channels in the gradient.
struct ConvShape {
    int n, xh, xw, ci, ci2, yh, yw, co, row, first, kernel, stride, spread;
};
