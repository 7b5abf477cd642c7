// Convolution 3x3 (stride 1 or 2) and 1x1 as an implicit matrix product, and its data gradient.
//
//   y[m, o] = sum over tap, c of x[source(m, tap), c] w[o, tap, c]
//             + bias[o] + item_bias[n, o] + addend[m, o]            m = (n, i, j)
//
// source(m, tap) is pixel (i stride + tap_y - pad, j stride + tap_x - pad), and zeros outside the
// image. `spread` says what the positions of the image hold: the pixels of x as they are (DENSE), a
// pixel at every second position with zeros between (ZEROS), or each pixel four times (REPEAT:
// nearest-neighbour doubling that is not stored). x is one tensor, or two whose channels follow
// each other (x, then second).
//
// The data gradient is the same product over dy, spread by the forward stride. Its weights are
// w[c, flipped tap, first + o], read as they are stored: the rows of the shared tile are then the
// summed channels, and ldmatrix transposes them. So the weights are kept only once.
//
// Reads x, second, w, bias, item_bias and addend. Overwrites y, which may take the addend's place:
// a thread reads the addend where it writes the result.
//
// conv_mma: a block makes BM x BN outputs, and each of its (BM / WM)(BN / WN) warps makes WM x WN
// of them. K runs over 64-byte slices of the channels and over the taps of each slice, in `stages`
// stages of cp.async. If the grid would leave most of the chip idle, blockIdx.z splits K into
// parts. Each part leaves its sums in `partial`, and conv_finish adds them up in order.
// _few: tensors with few channels (RGB images) do not fill a 16-byte vector. So these kernels store
// the results, and in the gradient also load the weights, element by element.
// An image that is read goes through image.cu. Other channel counts and mixes of storage types go
// through simt.cu.
//
// With `gated` (GEGLU), the co = 2c outputs are c values and then c gates:
//   gated[m, o] = y[m, o] gelu(y[m, c + o])
// The columns of a tile are then eight values, their eight gates, and so on, so that one thread has
// both. With `silu`, y is silu of the sum.
#include "conv/tile.cuh"

#define CONV_MMA(type, S, bm, bn, wm, wn, blocks)                                                                   \
    KERNEL(conv_mma_##type##_##bm##x##bn, ConvParams, 32 * (bm / wm) * (bn / wn), blocks) {                         \
        ConvTile<S, bm, bn, wm, wn, false>::run(p);                                                                 \
    }                                                                                                               \
    KERNEL(conv_vjp_mma_##type##_##bm##x##bn, ConvParams, 32 * (bm / wm) * (bn / wn), blocks) {                     \
        ConvTile<S, bm, bn, wm, wn, true>::run(p);                                                                  \
    }

CONV_MMA(f16, f16, 128, 128, 64, 64, 2)
CONV_MMA(bf16, bf16, 128, 128, 64, 64, 2)
CONV_MMA(f32, tf32, 128, 128, 64, 64, 2)
CONV_MMA(f16, f16, 64, 64, 32, 32, 4)
CONV_MMA(bf16, bf16, 64, 64, 32, 32, 4)
CONV_MMA(f32, tf32, 64, 64, 32, 32, 3)

#define CONV_FEW(type, S)                                                                                                                  \
    KERNEL(conv_mma_##type##_few, ConvParams, 128, 4) { ConvTile<S, 128, 32, 32, 32, false, true>::run(p); }                               \
    KERNEL(conv_vjp_mma_##type##_few, ConvParams, 128, 4) { ConvTile<S, 128, 32, 32, 32, true, true>::run(p); }

CONV_FEW(f16, f16)
CONV_FEW(bf16, bf16)
CONV_FEW(f32, tf32)

// Adds the parts of K in order, then bias, item bias and addend, and applies silu. A thread makes
// four values at a time.
struct ConvFinishParams {
    ViewOut y;
    View bias, item_bias, addend;
    const float* partial;
    i64 count, item;
    int co, splits, silu;
};
KERNEL(conv_finish, ConvFinishParams, 256, 4) {
    i64 step = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < p.count / 4; i += step) {
        float v[4] = {}, part[4];
        for (int z = 0; z < p.splits; z++) {
            load_vector(p.partial + i64(z) * p.count + 4 * i, part);
            for (int e = 0; e < 4; e++) v[e] += part[e];
        }
        if (p.bias.data) {
            load4(p.bias, 4 * i % p.co, part);
            for (int e = 0; e < 4; e++) v[e] += part[e];
        }
        if (p.item_bias.data) {
            load4(p.item_bias, 4 * i / p.item * p.co + 4 * i % p.co, part);
            for (int e = 0; e < 4; e++) v[e] += part[e];
        }
        if (p.addend.data) {
            load4(p.addend, 4 * i, part);
            for (int e = 0; e < 4; e++) v[e] += part[e];
        }
        if (p.silu) {
            for (int e = 0; e < 4; e++) v[e] = silu_of(v[e]);
        }
        store4(p.y, 4 * i, v);
    }
}
