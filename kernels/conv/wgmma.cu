// chips: 90a
// The convolution of mma.cu and its data gradient by the products of a warpgroup: 3x3 with stride 1
// (also over a doubled image), and 1x1.
//
// A tile is BM pixels by 128 channels. Its pixels are a patch 8 wide and BM / 8 high. A 1x1
// convolution has no neighbours and takes the pixels as they follow each other. K runs over slices
// of 64 channels and over the taps of each slice. The patch with its border is loaded once per
// slice, and each tap multiplies the same shared memory from another start: the eight pixels of a
// row lie 128 bytes apart, and the next row follows after PITCH pixels. So a tile of 256 pixels
// takes 190 KB out of the L2 cache for 37.7 Mflop, where 128x128 tiles of mma.cu take 590 KB.
//
// A convolution of a doubled image is four convolutions of the image itself with 2x2 taps, one for
// each parity of the output pixel. This takes 16 products in place of 36. Each 2x2 weight is the
// sum of the 3x3 taps that read the same pixel (doubled_weights.cu), and a tile makes pixels of one
// parity. The data gradient with respect to the image itself adds up the four, so its K also runs
// over the parities of dy.
//
// A block goes from tile to tile. Eight of its twelve warps multiply, in two warpgroups of BM / 2
// pixels each. One thread loads patches and weights as far ahead of them as the rings of buffers
// allow, also for the next tile. Another thread loads the addend and stores the results. These
// threads wait for each other only at barriers in shared memory. The last warpgroup gives registers
// to the others.
//
// Reads x, second, w, bias, item_bias and addend. Overwrites y, which may take the addend's place:
// a tile is read before it is written.
#include "include/gelu.cuh"
#include "conv/group_tile.cuh"
#include "include/wgmma.cuh"

template <class S, int BM, int KERNEL_SIZE, bool GRADIENT, bool GATED, bool DOUBLED> struct GroupConv {
    using Tile = GroupTile<BM, KERNEL_SIZE, GRADIENT, DOUBLED>;
    static constexpr int BN = Tile::BN, BK = 64, ROW = Tile::ROW, MULTIPLIERS = 8;
    static constexpr int TAPS = DOUBLED ? 4 : KERNEL_SIZE * KERNEL_SIZE, HEIGHT = Tile::HEIGHT, PITCH = Tile::PITCH;
    static constexpr int PATCH_BYTES = PITCH * (HEIGHT + KERNEL_SIZE - 1) * ROW, PATCH_STEP = (PATCH_BYTES + 1023) / 1024 * 1024;
    // HALF_BYTES are 64 columns of the results.
    static constexpr int WEIGHT_BYTES = BN * ROW, HALF_BYTES = BM * ROW;
    // A 1x1 convolution has a patch for each stage of weights, a 3x3 convolution has two patches.
    static constexpr int STAGES = BM == 256 ? (KERNEL_SIZE == 1 ? 3 : 4) : (KERNEL_SIZE == 1 ? 5 : 8);
    static constexpr int PATCHES = KERNEL_SIZE == 1 ? STAGES : 2;
    static constexpr int WEIGHTS_AT = PATCHES * PATCH_STEP, RESULTS_AT = WEIGHTS_AT + STAGES * WEIGHT_BYTES;
    static constexpr int BARRIERS_AT = RESULTS_AT + 2 * HALF_BYTES;
    static constexpr int PRODUCTS = BM / 128;  // of 64 pixels, per warpgroup
    // The tap at which the next patch is requested. Its buffer is then sure to be free, because the
    // last read of it ended STAGES taps before.
    static constexpr int AHEAD = STAGES < TAPS ? STAGES : TAPS - 1;

    const GroupConvParams& p;
    const u32 shared = shared_address(shared_memory());

    DEVICE explicit GroupConv(const GroupConvParams& params) : p(params) {}

    // Each patch and each stage of weights has two barriers, for full and for empty. The place of
    // the results has two: a tile may be written there (free), and a tile has been written there
    // (ready).
    DEVICE u32 patch_full(int k) const { return shared + BARRIERS_AT + 8 * k; }
    DEVICE u32 patch_empty(int k) const { return patch_full(PATCHES + k); }
    DEVICE u32 full(int k) const { return patch_full(2 * PATCHES + k); }
    DEVICE u32 empty(int k) const { return full(STAGES + k); }
    DEVICE u32 results_free() const { return full(2 * STAGES); }
    DEVICE u32 results_ready() const { return results_free() + 8; }

    DEVICE void initialise_barriers() const {
        for (int k = 0; k < PATCHES; k++) {
            barrier_init(patch_full(k), 1);
            barrier_init(patch_empty(k), MULTIPLIERS);
        }
        for (int k = 0; k < STAGES; k++) {
            barrier_init(full(k), 1);
            barrier_init(empty(k), MULTIPLIERS);
        }
        barrier_init(results_free(), 1);
        barrier_init(results_ready(), MULTIPLIERS);
        fence_barrier_init();
    }

    DEVICE void load_patch(const Tile& t, int slice, u32 to, u32 barrier) const {
        if (DOUBLED && GRADIENT) {
            // Four consecutive slices are the four parities of dy at the same channels.
            load_box(to, p.x, barrier, BK * (slice >> 2) + (slice & 1) * p.ci, t.x - 1, slice >> 1 & 1, t.y - 1, t.image);
            return;
        }
        const bool in_second = slice >= p.slices_of_x;
        const TensorMap& map = in_second ? p.second : p.x;
        load_box(to, map, barrier, BK * (in_second ? slice - p.slices_of_x : slice), t.x - p.pad, t.y - p.pad, t.image, 0);
    }

    DEVICE void load_weights(const Tile& t, int slice, int tap, u32 to, u32 barrier) const {
        if (GRADIENT) {
            // Rows are the summed channels. 64 columns take 8 KB.
            for (int half = 0; half < 2; half++) {
                const u32 at = to + half * BK * ROW;
                if (DOUBLED) load_box(at, p.w, barrier, t.n0 + 64 * half, tap, BK * (slice >> 2), slice & 3, 0);
                else load_box(at, p.w, barrier, t.n0 + 64 * half, TAPS - 1 - tap, BK * slice, 0, 0);
            }
            return;
        }
        const int channel = slice < p.slices_of_x ? BK * slice : p.ci + BK * (slice - p.slices_of_x);
        if (GATED) load_box(to, p.w, barrier, channel, 0, 0, t.n0 / 16, 0);
        else load_box(to, p.w, barrier, channel, tap, t.n0, Tile::BY_PARITY ? 2 * t.odd_y + t.odd_x : 0, 0);
    }

    // Run by one thread: fills the rings.
    DEVICE void load() const {
        Ring<STAGES> stage;
        Ring<PATCHES> patch;
        int next_tile = blockIdx.x, next_slice = Tile(p, next_tile).first;
        auto load_next_patch = [&]() {
            if (next_tile >= p.tiles) return;
            const Tile t(p, next_tile);
            barrier_wait(patch_empty(patch.at), patch.parity ^ 1);
            barrier_expect(patch_full(patch.at), PATCH_BYTES);
            load_patch(t, next_slice, shared + patch.at * PATCH_STEP, patch_full(patch.at));
            patch.advance();
            if (++next_slice < t.last) return;
            next_tile += gridDim.x;
            if (next_tile < p.tiles) next_slice = Tile(p, next_tile).first;
        };
        if (KERNEL_SIZE != 1) load_next_patch();
        for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
            const Tile t(p, tile);
            for (int slice = t.first; slice < t.last; slice++) {
                for (int tap = 0; tap < TAPS; tap++) {
                    barrier_wait(empty(stage.at), stage.parity ^ 1);
                    barrier_expect(full(stage.at), WEIGHT_BYTES + (KERNEL_SIZE == 1 ? PATCH_BYTES : 0));
                    if (KERNEL_SIZE == 1) load_patch(t, slice, shared + stage.at * PATCH_STEP, full(stage.at));
                    load_weights(t, slice, tap, shared + WEIGHTS_AT + stage.at * WEIGHT_BYTES, full(stage.at));
                    stage.advance();
                    if (KERNEL_SIZE != 1 && tap == AHEAD) load_next_patch();
                }
            }
        }
    }

    // Stores 64 columns of the results from channel `channel` on.
    DEVICE void store_half(const TensorMap& map, const Tile& t, int half, int channel) const {
        store_box(map, shared + RESULTS_AT + half * HALF_BYTES, channel + t.odd_x * p.co, t.x, t.odd_y, t.y, t.image);
    }

    // Run by one thread: loads the addend to the place of the results, and stores the results to y.
    DEVICE void bring_and_store_results() const {
        u32 parity = 0;
        auto wait_for_results = [&]() {
            barrier_wait(results_ready(), parity);
            parity ^= 1;
        };
        for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
            const Tile t(p, tile);
            if (p.adds) {
                barrier_expect(results_free(), 2 * HALF_BYTES);
                for (int half = 0; half < 2; half++) {
                    const int channel = t.n0 + 64 * half + t.odd_x * p.co;
                    load_box(shared + RESULTS_AT + half * HALF_BYTES, p.addend, results_free(), channel, t.x, t.odd_y, t.y, t.image);
                }
            } else {
                barrier_arrive(results_free());
            }
            wait_for_results();
            store_half(p.y, t, 0, GATED ? t.n0 / 2 : t.n0);
            if (GATED) store_half(p.gated, t, 1, t.n0 / 2);
            else if (t.n0 + 64 < p.co) store_half(p.y, t, 1, t.n0 + 64);
            commit_stores();
            wait_for_stores_to_read();
            if (!GATED) continue;
            barrier_arrive(results_free());
            wait_for_results();
            store_half(p.y, t, 0, p.co / 2 + t.n0 / 2);
            commit_stores();
            wait_for_stores_to_read();
        }
    }

    // Run by eight warps: multiplies the tiles and hands over the results.
    DEVICE void multiply() const {
        const int group = threadIdx.x / 128;
        const bool speaks = threadIdx.x % 32 == 0;
        Ring<STAGES> stage;
        Ring<PATCHES> patch;
        u32 results_parity = 0;
        for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
            const Tile t(p, tile);
            float sum[PRODUCTS][16][4];
            int read_stage = -1, read_patch = -1;  // read by products that may still run
            auto release = [&]() {
                if (speaks && read_stage >= 0) barrier_arrive(empty(read_stage));
                if (speaks && read_patch >= 0) barrier_arrive(patch_empty(read_patch));
            };
            for (int slice = t.first; slice < t.last; slice++) {
                if (KERNEL_SIZE != 1) barrier_wait(patch_full(patch.at), patch.parity);
#pragma unroll 1
                for (int tap = 0; tap < TAPS; tap++) {
                    barrier_wait(full(stage.at), stage.parity);
                    const u32 pixels = shared + (KERNEL_SIZE == 1 ? stage.at : patch.at) * PATCH_STEP + t.start(slice, tap);
                    multiply_stage(sum, pixels + group * PRODUCTS * 8 * PITCH * ROW, shared + WEIGHTS_AT + stage.at * WEIGHT_BYTES,
                                   slice > t.first || tap > 0);
                    wait_for_products<1>();
                    release();
                    read_stage = stage.at;
                    read_patch = KERNEL_SIZE != 1 && tap == TAPS - 1 ? patch.at : -1;
                    stage.advance();
                }
                if (KERNEL_SIZE != 1) patch.advance();
            }
            float bias[16][2];
            load_bias(bias, t);
            wait_for_products<0>();
            release();
            if (p.partial) {
                store_partial(sum, t, group);
            } else {
                auto begin_results = [&]() {
                    barrier_wait(results_free(), results_parity);
                    results_parity ^= 1;
                };
                auto end_results = [&]() {
                    fence_shared();
                    warp_barrier();
                    if (speaks) barrier_arrive(results_ready());
                };
                begin_results();
                if constexpr (GATED) {
                    write_products(sum, bias, group);
                    end_results();
                    begin_results();
                    write_gates(sum, bias, group);
                } else {
                    write_results(sum, bias, group);
                }
                end_results();
            }
        }
    }

    static DEVICE void multiply_stage(float (&sum)[PRODUCTS][16][4], u32 pixels, u32 weights, bool add) {
        fence_products();
#pragma unroll
        for (int i = 0; i < PRODUCTS; i++) {
#pragma unroll
            for (int k = 0; k < BK / 16; k++) {
                const u64 a = matrix_at(pixels + i * 8 * PITCH * ROW + 32 * k, PITCH * ROW);
                const u64 b = GRADIENT ? matrix_at(weights + 16 * ROW * k, 8 * ROW, BK * ROW) : matrix_at(weights + 32 * k, 8 * ROW);
                multiply_group<S, GRADIENT>(sum[i], a, b, add || k > 0);
            }
        }
        commit_products();
    }

    // Stores the f32 sums of a part of K.
    DEVICE void store_partial(const float (&sum)[PRODUCTS][16][4], const Tile& t, int group) const {
        const int lane = threadIdx.x % 32, column = t.n0 + lane % 4 * 2;
        float* partial = p.partial + i64(t.part) * p.n * p.yh * p.yw * p.co;
#pragma unroll
        for (int i = 0; i < PRODUCTS; i++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int m = t.pixel(p, first_row(group, i) + 8 * half);
                if (m < 0) continue;
#pragma unroll
                for (int j = 0; j < 16; j++) {
                    const int o = column + 8 * j;
                    if (o >= p.co) continue;
                    store_words2(partial + i64(m) * p.co + o, Words2{{float_bits(sum[i][j][2 * half]), float_bits(sum[i][j][2 * half + 1])}});
                }
            }
        }
    }

    // The first row of the tile in this lane's results of product i.
    static DEVICE int first_row(int group, int i) { return (group * PRODUCTS + i) * 64 + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4; }

    // Loads the biases of this lane's two columns in each group of eight. They are zero if a bias
    // is absent, and past the last channel.
    DEVICE void load_bias(float (&bias)[16][2], const Tile& t) const {
#pragma unroll
        for (int j = 0; j < 16; j++) {
            int o = t.n0 + 8 * j;
            if (GATED) o = t.n0 / 2 + j / 2 * 8 + (j & 1) * (p.co / 2);
            o += threadIdx.x % 4 * 2;
            u32 word = 0, of_item = 0;
            if (p.bias && o < p.co) word = *reinterpret_cast<const u32*>(static_cast<const S*>(p.bias) + o);
            if (p.item_bias && o < p.co) {
                of_item = *reinterpret_cast<const u32*>(static_cast<const S*>(p.item_bias) + i64(t.image) * p.co + o);
            }
            for (int e = 0; e < 2; e++) bias[j][e] = unpack(word >> 16 * e, S{}) + unpack(of_item >> 16 * e, S{});
        }
    }

    // The address of this lane's results of product i in chunk `chunk` of the 128-byte rows. `half`
    // selects the first or second eight rows.
    DEVICE u32 place_of(int group, int i, int half, int chunk) const {
        const int row = first_row(group, 0);
        return shared + RESULTS_AT + (row + 64 * i + 8 * half) * ROW + ((chunk ^ (row & 7)) << 4) + threadIdx.x % 4 * 4;
    }

    // Writes the results, in their storage type, to the place that they are stored from.
    DEVICE void write_results(const float (&sum)[PRODUCTS][16][4], const float (&bias)[16][2], int group) const {
#pragma unroll
        for (int i = 0; i < PRODUCTS; i++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                u32 added[16];
#pragma unroll
                for (int j = 0; j < 16; j++) added[j] = p.adds ? load_shared(place_of(group, i, half, j % 8) + j / 8 * HALF_BYTES) : 0;
#pragma unroll
                for (int j = 0; j < 16; j++) {
                    float v[2];
                    for (int e = 0; e < 2; e++) {
                        v[e] = sum[i][j][2 * half + e] + bias[j][e] + unpack(added[j] >> 16 * e, S{});
                        if (!GRADIENT && p.silu) v[e] = silu_of(v[e]);
                    }
                    store_shared(place_of(group, i, half, j % 8) + j / 8 * HALF_BYTES, pack2<S>(v[0], v[1]));
                }
            }
        }
    }

    // Columns of values and gates alternate in groups of eight. The values go into the first half
    // of the results' place, and value times gelu(gate) into the second.
    DEVICE void write_products(const float (&sum)[PRODUCTS][16][4], const float (&bias)[16][2], int group) const {
#pragma unroll
        for (int i = 0; i < PRODUCTS; i++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
#pragma unroll
                for (int j = 0; j < 16; j += 2) {
                    float value[2], product[2];
                    for (int e = 0; e < 2; e++) {
                        value[e] = sum[i][j][2 * half + e] + bias[j][e];
                        product[e] = value[e] * gelu_of(sum[i][j + 1][2 * half + e] + bias[j + 1][e], false);
                    }
                    const u32 place = place_of(group, i, half, j / 2);
                    store_shared(place, pack2<S>(value[0], value[1]));
                    store_shared(place + HALF_BYTES, pack2<S>(product[0], product[1]));
                }
            }
        }
    }
    // Writes the gates into the first half.
    DEVICE void write_gates(const float (&sum)[PRODUCTS][16][4], const float (&bias)[16][2], int group) const {
#pragma unroll
        for (int i = 0; i < PRODUCTS; i++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
#pragma unroll
                for (int j = 1; j < 16; j += 2) {
                    const float low = sum[i][j][2 * half] + bias[j][0], high = sum[i][j][2 * half + 1] + bias[j][1];
                    store_shared(place_of(group, i, half, j / 2), pack2<S>(low, high));
                }
            }
        }
    }

    static DEVICE void run(const GroupConvParams& p) {
        const GroupConv c(p);
        if (threadIdx.x == 0) c.initialise_barriers();
        block_barrier();
        if (threadIdx.x / 32 < MULTIPLIERS) {
            take_registers<224>();
            c.multiply();
        } else {
            leave_registers<56>();
            if (threadIdx.x == 32 * MULTIPLIERS) c.load();
            else if (threadIdx.x == 32 * (MULTIPLIERS + 1) && !p.partial) c.bring_and_store_results();
        }
    }
};

#define CONV_WGMMA(type, S, bm, size, form, doubled)                                                                                     \
    KERNEL(conv_wgmma_##type##_##bm##x128_##form, GroupConvParams, 384, 1) { GroupConv<S, bm, size, false, false, doubled>::run(p); }    \
    KERNEL(conv_vjp_wgmma_##type##_##bm##x128_##form, GroupConvParams, 384, 1) { GroupConv<S, bm, size, true, false, doubled>::run(p); }
#define CONV_WGMMA_ALL(type, S)                                                                                                          \
    CONV_WGMMA(type, S, 256, 3, 3x3, false)                                                                                              \
    CONV_WGMMA(type, S, 128, 3, 3x3, false)                                                                                              \
    CONV_WGMMA(type, S, 256, 1, 1x1, false)                                                                                              \
    CONV_WGMMA(type, S, 128, 1, 1x1, false)                                                                                              \
    CONV_WGMMA(type, S, 256, 3, doubled, true)                                                                                           \
    CONV_WGMMA(type, S, 128, 3, doubled, true)                                                                                           \
    /* 128 registers of sums and those of gelu are too many for 256 pixels. */                                                           \
    KERNEL(conv_wgmma_##type##_128x128_gated, GroupConvParams, 384, 1) { GroupConv<S, 128, 1, false, true, false>::run(p); }

CONV_WGMMA_ALL(f16, f16)
CONV_WGMMA_ALL(bf16, bf16)
