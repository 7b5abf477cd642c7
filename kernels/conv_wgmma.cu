// sm_90a only
// The convolution of conv.cu, 3x3 of stride 1 or 1x1, and its data gradient, by the products of a warpgroup.
//
// A block of two warpgroups makes BM pixels by 128 channels. Pixels are a patch 8 wide and BM / 8 high; a 1x1 convolution has no neighbours and
// takes them as they follow each other. K runs over slices of 64 channels and the taps of each. The patch with its border is copied once
// per slice, and each tap multiplies the same shared memory from another start: eight pixels of a row stand 128 bytes apart, the next
// row follows after PITCH pixels. So a 256-pixel tile takes 190 KB out of the L2 cache for 37.7 Mflop, where 128x128 tiles of conv.cu take
// 590 KB. Weights come tap by tap, four stages of them.
//
// The loop of a stage: wait for its copies, barrier, start its products while those before still run, start the copies of the stage after
// next (its buffer was read two products ago), wait for the products before. Two buffers for the patch (3x3): the next slice is copied under taps 2 to 6 of this one.
//
// Reads x, second, w, bias, item_bias, addend; overwrites y, which may be the addend's place: a thread reads what it adds where it writes.
#include "include/conv_tile.cuh"
#include "include/wgmma.cuh"

template <class S, int BM, int KERNEL_SIZE, bool GRADIENT> struct GroupTile {
    static constexpr int BN = 128, BK = 64, ROW = 128, STAGES = 4, TAPS = KERNEL_SIZE * KERNEL_SIZE, THREADS = 256;
    static constexpr int HEIGHT = BM / 8, PITCH = 8 + KERNEL_SIZE - 1, PIXELS = PITCH * (HEIGHT + KERNEL_SIZE - 1);
    static constexpr int PATCH_BYTES = (PIXELS * ROW + 1023) / 1024 * 1024, PATCHES = KERNEL_SIZE == 1 ? STAGES : 2;
    static constexpr int B_BYTES = BN * ROW, WEIGHTS_AT = PATCHES * PATCH_BYTES;
    static constexpr int PARTS = KERNEL_SIZE == 1 ? 1 : 5, PART = PIXELS / PARTS, FIRST_PART = 2;
    static constexpr int PRODUCTS = BM / 128;  // of 64 pixels, a warpgroup
    // How results leave a warp, 16 rows at a time.
    using Results = ConvTile<S, 128, 128, 32, 128, GRADIENT>;
    static_assert(PIXELS % PARTS == 0 && sizeof(S) == 2, "parts of a patch are equal, values are of 16 bits");

    // Where a block's pixels lie.
    struct Patch {
        int image, y, x;  // KERNEL_SIZE 1: x is the first of all pixels
        DEVICE Patch(const ConvParams& p) {
            const int across = (p.yw + 7) / 8, down = (p.yh + HEIGHT - 1) / HEIGHT, rest = blockIdx.x / across;
            image = rest / down;
            y = rest % down * HEIGHT;
            x = KERNEL_SIZE == 1 ? blockIdx.x * BM : blockIdx.x % across * 8;
        }
        // The output pixel in row r of the tile, or -1.
        DEVICE int pixel(const ConvParams& p, int r) const {
            if (KERNEL_SIZE == 1) return x + r < p.n * p.yh * p.yw ? x + r : -1;
            const int i = y + r / 8, j = x + r % 8;
            return i < p.yh && j < p.yw ? (image * p.yh + i) * p.yw + j : -1;
        }
        // The input pixel that stands at pixel k of the patch with its border, or -1.
        DEVICE int source(const ConvParams& p, int k) const {
            if (KERNEL_SIZE == 1) return pixel(p, k);
            const int i = y + k / PITCH - p.pad, j = x + k % PITCH - p.pad, shift = p.spread == DENSE ? 0 : 1;
            const bool inside = u32(i >> shift) < u32(p.xh) && u32(j >> shift) < u32(p.xw);
            return inside ? (image * p.xh + (i >> shift)) * p.xw + (j >> shift) : -1;
        }
    };

    // A slice of the channels: of which source, from where on.
    struct Slice {
        const S* source;
        int channels, channel, weight_channel;
        DEVICE Slice(const ConvParams& p, int slice) {
            const int of_x = (p.ci + BK - 1) / BK;
            const bool in_second = slice >= of_x;
            source = static_cast<const S*>(in_second ? p.second : p.x);
            channels = in_second ? p.ci2 : p.ci;
            channel = BK * (in_second ? slice - of_x : slice);
            weight_channel = channel + (in_second ? p.ci : 0);
        }
    };

    static DEVICE void copy_patch(const ConvParams& p, const Patch& patch, const Slice& s, u8* to, int part) {
        const int chunk = threadIdx.x % 8, c = s.channel + 8 * chunk, end = (part + 1) * PART;
        for (int k = part * PART + threadIdx.x / 8; k < end; k += THREADS / 8) {
            const int pixel = patch.source(p, k);
            copy_async(to + k * ROW + ((chunk ^ (k & 7)) << 4), s.source + i64(pixel) * s.channels + c, pixel >= 0 && c < s.channels);
        }
    }

    static DEVICE void copy_weights(const ConvParams& p, const Slice& s, u8* to, int tap, int n0) {
        const S* w = static_cast<const S*>(p.w);
        if constexpr (GRADIENT) {
            // Rows are summed channels; 64 columns are 8 KB.
            const int chunk = threadIdx.x % 16, o = n0 + 8 * chunk;
            for (int k = threadIdx.x / 16; k < BK; k += THREADS / 16) {
                const S* from = w + (i64(s.channel + k) * TAPS + TAPS - 1 - tap) * p.row + p.first + o;
                copy_async(to + chunk / 8 * (BK * ROW) + k * ROW + ((chunk % 8 ^ (k & 7)) << 4), from, o < p.co && s.channel + k < s.channels);
            }
        } else {
            const int chunk = threadIdx.x % 8, c = 8 * chunk;
            for (int row = threadIdx.x / 8; row < BN; row += THREADS / 8) {
                const int o = p.gated ? Results::gate_column(p, n0 + row) : n0 + row;
                const S* from = w + (i64(o) * TAPS + tap) * p.row + s.weight_channel + c;
                copy_async(to + row * ROW + ((chunk ^ (row & 7)) << 4), from, n0 + row < p.co && s.channel + c < s.channels);
            }
        }
    }

    static DEVICE void run(const ConvParams& p) {
        u8* shared = shared_memory();
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = warp / 4, n0 = blockIdx.y * BN;
        const Patch patch(p);
        const int slices = (p.ci + BK - 1) / BK + (p.ci2 + BK - 1) / BK, per = (slices + p.splits - 1) / p.splits;
        const int first = blockIdx.z * per, last = smaller(first + per, slices), count = (last - first) * TAPS;

        // Copies that stage t needs: its weights, and of a 1x1 convolution its pixels. Of a 3x3 one the pixels are copied ahead, in parts.
        auto copy_stage = [&](int t) {
            if (t >= count) return;
            const Slice s(p, first + t / TAPS);
            copy_weights(p, s, shared + WEIGHTS_AT + t % STAGES * B_BYTES, t % TAPS, n0);
            if (KERNEL_SIZE == 1) copy_patch(p, patch, s, shared + t % STAGES * PATCH_BYTES, 0);
        };
        auto copy_part = [&](int slice, int part) {
            if (slice < last) copy_patch(p, patch, Slice(p, slice), shared + ((slice - first) & 1) * PATCH_BYTES, part);
        };
        if (KERNEL_SIZE != 1) {
            for (int part = 0; part < PARTS; part++) copy_part(first, part);
        }
        for (int t = 0; t < 2; t++) {
            copy_stage(t);
            commit_copies();
        }

        float sum[PRODUCTS][16][4];
        const u32 base = shared_address(shared);
        int tap = 0, slice = first;
        for (int t = 0; t < count; t++) {
            wait_for_copies<1>();
            fence_shared_for_products();
            block_barrier();
            const int start = KERNEL_SIZE == 1 ? t % STAGES * PATCH_BYTES : ((slice - first) & 1) * PATCH_BYTES + (tap / 3 * PITCH + tap % 3) * ROW;
            const u32 weights = base + WEIGHTS_AT + t % STAGES * B_BYTES;
            fence_products();
#pragma unroll
            for (int i = 0; i < PRODUCTS; i++) {
                const u32 rows = base + start + (group * PRODUCTS + i) * 8 * PITCH * ROW;
#pragma unroll
                for (int k = 0; k < BK / 16; k++) {
                    const u64 a = matrix_at(rows + 32 * k, PITCH * ROW);
                    const u64 b = GRADIENT ? matrix_at(weights + 16 * ROW * k, 8 * ROW, BK * ROW) : matrix_at(weights + 32 * k, 8 * ROW);
                    multiply_group<S, GRADIENT>(sum[i], a, b, t + k > 0);
                }
            }
            commit_products();
            copy_stage(t + 2);
            if (KERNEL_SIZE != 1 && tap >= FIRST_PART && tap < FIRST_PART + PARTS) copy_part(slice + 1, tap - FIRST_PART);
            commit_copies();
            wait_for_products<1>();
            if (++tap == TAPS) {
                tap = 0;
                slice++;
            }
        }
        wait_for_products<0>();
        wait_for_copies<0>();
        block_barrier();
        float* stage = reinterpret_cast<float*>(shared) + warp * 16 * BN;
#pragma unroll
        for (int i = 0; i < PRODUCTS; i++) {
            const int row = (group * PRODUCTS + i) * 64 + warp % 4 * 16;
            Results::stage_rows(stage, sum[i], lane);
            warp_barrier();
            Results::put_rows(p, stage, [&](int r) { return patch.pixel(p, row + r); }, n0, lane);
            warp_barrier();
        }
    }
};

#define CONV_WGMMA(type, S, bm, size, blocks)                                                                                        \
    KERNEL(conv_wgmma_##type##_##bm##x128_##size##x##size, ConvParams, 256, blocks) { GroupTile<S, bm, size, false>::run(p); }       \
    KERNEL(conv_vjp_wgmma_##type##_##bm##x128_##size##x##size, ConvParams, 256, blocks) { GroupTile<S, bm, size, true>::run(p); }

CONV_WGMMA(f16, f16, 256, 3, 1)
CONV_WGMMA(f16, f16, 128, 3, 2)
CONV_WGMMA(f16, f16, 256, 1, 1)
CONV_WGMMA(f16, f16, 128, 1, 1)
CONV_WGMMA(bf16, bf16, 256, 3, 1)
CONV_WGMMA(bf16, bf16, 128, 3, 2)
CONV_WGMMA(bf16, bf16, 256, 1, 1)
CONV_WGMMA(bf16, bf16, 128, 1, 1)
