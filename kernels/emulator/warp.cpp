// Warp collectives: shuffles, matrix loads and products. This file is compiled after emulator.cpp in
// one unit and works on its block.

namespace emulator {

template <Kind KIND> static float product_operand(const u32* words, int k) {
    if (KIND == MULTIPLY_TF32) return bits_float(words[k] & ~0x1fffu);
    u16 half = u16(words[k / 2] >> (16 * (k & 1)));
    return KIND == MULTIPLY_F16 ? to_float(f16{half}) : bits_float(u32(half) << 16);
}

// D = A B + C with the fragment layouts of the PTX manual.
template <Kind KIND> [[gnu::optimize("O3")]] static void multiply_warp(Lane* lanes) {
    constexpr int per_word = KIND == MULTIPLY_TF32 ? 1 : 2, depth = 8 * per_word;
    typedef float Row __attribute__((vector_size(32)));
    float a[16][16];
    Row b[16], sums[16];
    for (int lane = 0; lane < 32; lane++) {
        int g = lane / 4, t = lane % 4;
        for (int word = 0; word < 4; word++) {
            for (int e = 0; e < per_word; e++) {
                int row = g + 8 * (word & 1), k = (word >> 1) * 4 * per_word + t * per_word + e;
                a[row][k] = product_operand<KIND>(lanes[lane].in + word, e);
            }
        }
        for (int word = 0; word < 2; word++) {
            for (int e = 0; e < per_word; e++) {
                b[word * 4 * per_word + t * per_word + e][g] = product_operand<KIND>(lanes[lane].in + 4 + word, e);
            }
        }
    }
    auto for_each_sum = [&](auto&& act) {
        for (int lane = 0; lane < 32; lane++) {
            for (int i = 0; i < 4; i++) {
                float* sum = reinterpret_cast<float*>(&sums[lane / 4 + 8 * (i >> 1)]) + lane % 4 * 2 + (i & 1);
                act(lanes[lane], i, *sum);
            }
        }
    };
    for_each_sum([](Lane& lane, int i, float& sum) { sum = bits_float(lane.in[6 + i]); });
    // Eight rows at a time, so that no addition waits for the one before it.
    for (int first = 0; first < 16; first += 8) {
        Row eight[8];
        memcpy(eight, sums + first, sizeof eight);
        for (int k = 0; k < depth; k++) {
#pragma GCC unroll 8
            for (int row = 0; row < 8; row++) eight[row] += a[first + row][k] * b[k];
        }
        memcpy(sums + first, eight, sizeof eight);
    }
    for_each_sum([](Lane& lane, int i, float& sum) { lane.out[i] = float_bits(sum); });
}

static void matrices(Lane* lanes, bool transposed) {
    for (int lane = 0; lane < 32; lane++) {
        int g = lane / 4, t = lane % 4;
        for (int m = 0; m < 4; m++) {
            u16 pair[2];
            for (int e = 0; e < 2; e++) {
                int row = transposed ? 2 * t + e : g, column = transposed ? g : 2 * t + e;
                memcpy(&pair[e], static_cast<const u8*>(lanes[8 * m + row].address) + 2 * column, 2);
            }
            lanes[lane].out[m] = u32(pair[0]) | u32(pair[1]) << 16;
        }
    }
}

Lane& collective(Kind kind, const u32* in, int count, const void* address) {
    Fiber& fiber = *block->now;
    Warp& warp = *fiber.warp;
    u32 seen = warp.generation;
    // There are two sets of slots, because a lane can be at most one collective ahead of the
    // others.
    Lane* lanes = warp.lanes[seen & 1];
    Lane& mine = lanes[fiber.lane];
    for (int i = 0; i < count; i++) mine.in[i] = in[i];
    mine.address = address;
    if (warp.arrived == 0) warp.kind = kind;
    if (warp.kind != kind) fail("lanes of a warp are at different collectives");
    if (++warp.arrived < warp.size) {
        wait_while(&warp.generation, seen);
        return mine;
    }
    if (warp.size != 32 && kind != BARRIER) fail("a collective in a warp of fewer than 32 lanes");
    switch (kind) {
        case BARRIER: break;
        case SHUFFLE:
            for (int l = 0; l < 32; l++) lanes[l].out[0] = lanes[l ^ lanes[l].in[1]].in[0];
            break;
        case MATRICES: matrices(lanes, false); break;
        case MATRICES_TRANSPOSED: matrices(lanes, true); break;
        case MULTIPLY_F16: multiply_warp<MULTIPLY_F16>(lanes); break;
        case MULTIPLY_BF16: multiply_warp<MULTIPLY_BF16>(lanes); break;
        case MULTIPLY_TF32: multiply_warp<MULTIPLY_TF32>(lanes); break;
    }
    warp.arrived = 0;
    warp.generation++;
    return mine;
}

void warp_barrier() { collective(BARRIER, nullptr, 0, nullptr); }

}  // namespace emulator
