// The weight gradient of a convolution; that of a linear layer is the one of a 1x1 convolution.
//
//   dw[o, tap, i] = sum over p of dy[p, o] x[source(p, tap), i] + addend[o, tap, i]
//
// p goes over the pixels of all items, and source(p, tap) is as in mma.cu. For each tap this is a
// product of two matrices whose rows are the pixels that are summed over, so ldmatrix transposes
// both.
//
// Reads dy, x and the addend (f32). Overwrites dw (f32), which may take the addend's place: a
// thread reads the addend where it writes the result.
//
// If the tiles would leave most of the chip idle, the pixels are split into parts of `slices`
// slices, and blockIdx.z is the part. Each part overwrites its own dw in `partial`, and
// partial_sums.cu adds them and the addend up in order.
//
// conv_weight_mma: a block makes SIDE x SIDE values of tap blockIdx.y, and each of its four warps a
// quarter of them. blockIdx.x counts the tiles, those of the out channels fastest. A slice is 64
// bytes of pixels: 32 pixels, or 16 in f32 (TF32 products). Three stages of cp.async hold slices of
// SIDE channels of both operands. Both have one type, and channels that are whole 16-byte vectors.
// conv_weight_simt: plain f32 arithmetic for any types and channels. A block makes 64 out channels
// (blockIdx.x) by 64 pairs of tap and in channel (blockIdx.y), a thread 4 by 4; a slice is 16
// pixels.
#include "conv/cursors.cuh"
#include "include/view.cuh"

struct ConvWeightParams {
    float *dw, *partial;
    View dy, x;
    const float* addend;
    // pixels, yh, yw, co: of dy, the pixels of all items. xh, xw, ci: of x. slices: of a part.
    int pixels, yh, yw, co, xh, xw, ci, kernel, stride, pad, splits, slices;

    DEVICE int row() const { return kernel * kernel * ci; }
    DEVICE float* out() const { return splits > 1 ? partial + i64(blockIdx.z) * co * row() : dw; }
};

// A pixel of dy: its index, and its item, row and column. Both go on without divisions.
struct PixelCursor {
    int index, item, row, column;

    DEVICE PixelCursor(const ConvWeightParams& p, int pixel) {
        index = pixel;
        column = pixel % p.yw;
        row = pixel / p.yw % p.yh;
        item = pixel / p.yw / p.yh;
    }
    DEVICE void advance(const ConvWeightParams& p, const PixelCursor& by) {
        index += by.index;
        item += by.item;
        row += by.row;
        column += by.column;
        if (column >= p.yw) {
            column -= p.yw;
            row++;
        }
        if (row >= p.yh) {
            row -= p.yh;
            item++;
        }
    }
    // The pixel of x under a tap, or -1 if there is none.
    DEVICE i64 source(const ConvWeightParams& p, int ky, int kx) const {
        const int i = row * p.stride - p.pad + ky, j = column * p.stride - p.pad + kx;
        const bool inside = index < p.pixels && u32(i) < u32(p.xh) && u32(j) < u32(p.xw);
        return inside ? (i64(item) * p.xh + i) * p.xw + j : -1;
    }
};

template <class S, int SIDE> struct WeightTile {
    static constexpr int THREADS = 128, WARP = SIDE / 2, MI = WARP / 16, NI = WARP / 8, STAGES = 3;
    static constexpr int BK = SLICE / int(sizeof(S)), ROW = SIDE * int(sizeof(S)), STAGE_BYTES = 2 * BK * ROW;
    // A thread copies every PER_ROW-th vector of one pixel, so that it has one cursor.
    static constexpr int PER_ROW = THREADS / BK, LOADS = SIDE / VECTOR<S> / PER_ROW;

    static DEVICE void run(const ConvWeightParams& p) {
        u8* shared = shared_memory();
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warp_m = warp / 2 * WARP, warp_n = warp % 2 * WARP;
        const int tiles = (p.co + SIDE - 1) / SIDE, o0 = int(blockIdx.x) % tiles * SIDE, i0 = int(blockIdx.x) / tiles * SIDE;
        const int tap = blockIdx.y, ky = tap / p.kernel, kx = tap % p.kernel;
        const int first = blockIdx.z * p.slices, count = smaller(p.slices, (p.pixels + BK - 1) / BK - first);

        const int vector = threadIdx.x % PER_ROW, to = transposed_offset<S, SIDE>(threadIdx.x / PER_ROW, vector);
        const S* dy = static_cast<const S*>(p.dy.data) + o0 + vector * VECTOR<S>;
        const S* x = static_cast<const S*>(p.x.data) + i0 + vector * VECTOR<S>;
        PixelCursor at(p, first * BK + threadIdx.x / PER_ROW);
        const PixelCursor step(p, BK);
        auto copy_slice = [&](u8* stage) {
            const i64 source = at.source(p, ky, kx);
            const S* from_dy = dy + i64(at.index) * p.co;
            const S* from_x = x + source * p.ci;
            // A copy that is not valid reads nothing, so its address may lead anywhere.
            for (int k = 0; k < LOADS; k++) {
                const int ahead = k * PER_ROW * VECTOR<S>, place = to ^ 16 * k * PER_ROW, channel = vector * VECTOR<S> + ahead;
                copy_async(stage + place, from_dy + ahead, at.index < p.pixels && o0 + channel < p.co);
                copy_async(stage + BK * ROW + place, from_x + ahead, source >= 0 && i0 + channel < p.ci);
            }
            at.advance(p, step);
        };

        float sum[MI][NI][4] = {};
        for (int turn = 0; turn < STAGES - 1; turn++) {
            if (turn < count) copy_slice(shared + turn * STAGE_BYTES);
            commit_copies();
        }
        // The stage that is multiplied, and the stage before it, which is free.
        u8 *stage = shared, *spare = shared + (STAGES - 1) * STAGE_BYTES;
        for (int turn = 0; turn < count; turn++) {
            wait_for_copies<STAGES - 2>();
            block_barrier();
            if (turn + STAGES - 1 < count) copy_slice(spare);
            commit_copies();
            multiply_slice(sum, stage, warp_m, warp_n, lane);
            spare = stage;
            stage = stage == shared + (STAGES - 1) * STAGE_BYTES ? shared : stage + STAGE_BYTES;
        }
        wait_for_copies<0>();
        finish(p, sum, o0 + warp_m + lane / 4, tap, i0 + warp_n + 2 * (lane % 4));
    }

    // sum += dy^T x over the pixels of a slice, in two steps of 32 bytes of pixels.
    static DEVICE void multiply_slice(float (&sum)[MI][NI][4], const u8* stage, int warp_m, int warp_n, int lane) {
#pragma unroll
        for (int step = 0; step < 2; step++) {
            u32 left[MI][4], right[NI / 2][4];
#pragma unroll
            for (int i = 0; i < MI; i++) load<true>(left[i], stage, step, warp_m, i, lane);
#pragma unroll
            for (int j = 0; j < NI / 2; j++) load<false>(right[j], stage + BK * ROW, step, warp_n, j, lane);
#pragma unroll
            for (int i = 0; i < MI; i++) {
#pragma unroll
                for (int j = 0; j < NI; j++) multiply(sum[i][j], left[i], right[j / 2][2 * (j & 1)], right[j / 2][2 * (j & 1) + 1], S{});
            }
        }
    }

    // Loads the fragments of the k-th 16 channels from `first` on. Of the words of a left operand,
    // 1 and 3 are the last eight channels and 2 and 3 the last pixels; in a right operand it is the
    // other way round.
    template <bool LEFT> static DEVICE void load(u32 (&r)[4], const u8* tile, int step, int first, int k, int lane) {
        if constexpr (sizeof(S) == 2) {
            const int matrix = lane / 8, pixel = lane % 8 + 8 * (LEFT ? matrix >> 1 : matrix & 1);
            const int at = transposed_offset<S, SIDE>(pixel, first / 8 + (LEFT ? matrix & 1 : matrix >> 1));
            load_matrices_transposed(r, tile + (at ^ 32 * k) + 16 * step * ROW);
        } else {
            for (int word = 0; word < 4; word++) {
                const int pixel = 8 * step + lane % 4 + 4 * (LEFT ? word >> 1 : word & 1);
                const int c = first + 16 * k + lane / 4 + 8 * (LEFT ? word & 1 : word >> 1);
                r[word] = *reinterpret_cast<const u32*>(tile + transposed_offset<S, SIDE>(pixel, c / 4) + c % 4 * 4);
            }
        }
        for (int word = 0; word < 4; word++) round_fragment(r[word], S{});
    }

    // Stores the sums. o and c are the channels of this lane's first one. All loads of the addend
    // come before the first store, because they cannot move past one: it may lie where dw goes.
    static DEVICE void finish(const ConvWeightParams& p, float (&sum)[MI][NI][4], int o, int tap, int c) {
        auto each = [&](auto act) {
#pragma unroll
            for (int i = 0; i < 2 * MI; i++) {
#pragma unroll
                for (int j = 0; j < NI; j++) {
                    const bool inside = o + 8 * i < p.co && c + 8 * j < p.ci;
                    float* two = sum[i / 2][j] + 2 * (i & 1);
                    if (inside) act(i64(o + 8 * i) * p.row() + i64(tap) * p.ci + c + 8 * j, two[0], two[1]);
                }
            }
        };
        if (p.addend) {
            each([&](i64 at, float& first, float& second) {
                const Words2 added = load_words2(p.addend + at);
                first += bits_float(added.w[0]);
                second += bits_float(added.w[1]);
            });
        }
        float* out = p.out();
        each([&](i64 at, float& first, float& second) { store_words2(out + at, Words2{{float_bits(first), float_bits(second)}}); });
    }
};

#define CONV_WEIGHT(type, S, side, blocks) \
    KERNEL(conv_weight_mma_##type##_##side##x##side, ConvWeightParams, 128, blocks) { WeightTile<S, side>::run(p); }

CONV_WEIGHT(f16, f16, 128, 2)
CONV_WEIGHT(bf16, bf16, 128, 2)
CONV_WEIGHT(f32, tf32, 128, 2)
CONV_WEIGHT(f16, f16, 64, 4)
CONV_WEIGHT(bf16, bf16, 64, 4)
CONV_WEIGHT(f32, tf32, 64, 3)

KERNEL(conv_weight_simt, ConvWeightParams, 256, 2) {
    constexpr int ROW = 68, BK = 16;
    float* a = reinterpret_cast<float*>(shared_memory());
    float* b = a + BK * ROW;
    const int o0 = blockIdx.x * 64, column0 = blockIdx.y * 64, first = blockIdx.z * p.slices * BK;
    const int last = smaller(p.pixels, first + p.slices * BK);
    const int tm = threadIdx.x / 16 * 4, tn = threadIdx.x % 16 * 4;
    // A thread gathers one channel of dy and one value under the kernel, of every fourth pixel.
    const int lane = threadIdx.x % 64, o = o0 + lane, column = column0 + lane, tap = column / p.ci, c = column % p.ci;
    float sum[4][4] = {};
    for (int k0 = first; k0 < last; k0 += BK) {
        for (int k = threadIdx.x / 64; k < BK; k += 4) {
            const PixelCursor pixel(p, k0 + k);
            const i64 source = column < p.row() ? pixel.source(p, tap / p.kernel, tap % p.kernel) : -1;
            a[k * ROW + lane] = o < p.co && pixel.index < p.pixels ? at(p.dy, i64(pixel.index) * p.co + o) : 0.0f;
            b[k * ROW + lane] = source >= 0 ? at(p.x, source * p.ci + c) : 0.0f;
        }
        block_barrier();
        for (int k = 0; k < BK; k++) {
            for (int i = 0; i < 4; i++) {
                for (int j = 0; j < 4; j++) sum[i][j] += a[k * ROW + tm + i] * b[k * ROW + tn + j];
            }
        }
        block_barrier();
    }
    float* out = p.out();
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) {
            if (o0 + tm + i >= p.co || column0 + tn + j >= p.row()) continue;
            const i64 to = i64(o0 + tm + i) * p.row() + column0 + tn + j;
            out[to] = sum[i][j] + (p.addend ? p.addend[to] : 0.0f);
        }
    }
}
