// The convolution of mma.cu, or its data gradient, for an image: x has few channels and any storage
// type.
//
// K runs over all values under the kernel (taps times channels). They are gathered one by one and
// rounded to the type of the products. A block makes 64 pixels by 64 channels, a warp 32 by 32, and
// the block takes 64 bytes of K at a time. In plain f32 arithmetic (simt.cu), the first convolution
// of a network took 140 us on an H100, and the gradient of the last one 237 us.
//
// Reads x, w, bias, item_bias and addend. Overwrites y, which may take the addend's place.
#include "conv/tile.cuh"

struct ConvImageParams {
    ConvParams conv;
    StorageType x_type;
    int gradient;
};

template <class S> DEVICE void conv_image(const ConvImageParams& params) {
    using Tile = ConvTile<S, 64, 64, 32, 32, false>;
    constexpr int BK = Tile::BK, ROWS = Tile::THREADS / BK;
    const ConvParams& p = params.conv;
    const ConvShape& s = p.shape;
    const View x{const_cast<void*>(p.x), params.x_type};
    const S* w = static_cast<const S*>(p.w);
    u8* shared = shared_memory();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warp_m = warp / 2 * 32, warp_n = warp % 2 * 32;
    const int rows = s.n * s.yh * s.yw, m0 = blockIdx.x * 64, n0 = blockIdx.y * 64;
    const int taps = s.kernel * s.kernel, depth = taps * s.ci, shift = s.spread == DENSE ? 0 : 1;
    // A thread gathers value k of every ROWS-th pixel and of every ROWS-th channel.
    const int k = threadIdx.x % BK, to = k * int(sizeof(S)) % 16, chunk = k * int(sizeof(S)) / 16;
    const int left_at = slice_offset(warp_m + lane % 16, lane / 16);
    const int right_at = Tile::A_BYTES + slice_offset(warp_n + lane % 8 + lane / 16 * 8, lane / 8 % 2);
    const int column0 = m0 % s.yw, row0 = m0 / s.yw % s.yh, image0 = m0 / s.yw / s.yh;
    float sum[2][4][4] = {};
    for (int k0 = 0; k0 < depth; k0 += BK) {
        const int tap = (k0 + k) / s.ci, c = (k0 + k) % s.ci, ky = tap / s.kernel, kx = tap % s.kernel;
        for (int r = threadIdx.x / BK; r < 64; r += ROWS) {
            // The tile's pixels follow each other, so a division is needed only where a row or an
            // image ends.
            const int over = column0 + r < s.yw ? 0 : (column0 + r) / s.yw, row = row0 + over, images = row < s.yh ? 0 : row / s.yh;
            const int i = (row - images * s.yh) * s.stride - p.pad + ky, j = (column0 + r - over * s.yw) * s.stride - p.pad + kx;
            const bool stands = s.spread != ZEROS || ((i | j) & 1) == 0;
            const bool inside = m0 + r < rows && tap < taps && stands && u32(i >> shift) < u32(s.xh) && u32(j >> shift) < u32(s.xw);
            const float value = inside ? at(x, ((i64(image0 + images) * s.xh + (i >> shift)) * s.xw + (j >> shift)) * s.ci + c) : 0.0f;
            *reinterpret_cast<S*>(shared + slice_offset(r, chunk) + to) = from_float<S>(value);
            const int o = n0 + r;
            S weight = from_float<S>(0.0f);
            if (o < s.co && tap < taps) {
                weight = params.gradient ? w[(i64(c) * taps + taps - 1 - tap) * s.row + s.first + o] : w[(i64(o) * taps + tap) * s.row + c];
            }
            *reinterpret_cast<S*>(shared + Tile::A_BYTES + slice_offset(r, chunk) + to) = weight;
        }
        block_barrier();
        for (int step = 0; step < 2; step++) {
            u32 left[2][4], right[2][4];
            for (int i = 0; i < 2; i++) {
                load_matrices(left[i], shared + (left_at ^ 32 * step) + 16 * i * SLICE);
                load_matrices(right[i], shared + (right_at ^ 32 * step) + 16 * i * SLICE);
                for (int word = 0; word < 4; word++) {
                    round_fragment(left[i][word], S{});
                    round_fragment(right[i][word], S{});
                }
            }
            for (int i = 0; i < 2; i++) {
                for (int j = 0; j < 4; j++) multiply(sum[i][j], left[i], right[j / 2][2 * (j & 1)], right[j / 2][2 * (j & 1) + 1], S{});
            }
        }
        block_barrier();
    }
    Tile::finish(p, sum, reinterpret_cast<float*>(shared) + warp * Tile::HALF * 32, m0 + warp_m, n0 + warp_n, rows, lane);
}

#define CONV_IMAGE(type, S) \
    KERNEL(conv_image_##type, ConvImageParams, 128, 4) { conv_image<S>(p); }

CONV_IMAGE(f16, f16)
CONV_IMAGE(bf16, bf16)
CONV_IMAGE(f32, tf32)
