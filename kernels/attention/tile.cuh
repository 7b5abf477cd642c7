// Tiles of tokens in shared memory and their fragments, for the attention kernels on tensor cores.
#pragma once
#include "attention/attention.cuh"
#include "include/mma.cuh"

constexpr float LOG2E = 1.4426950408889634f;

// Tiles of ROWS x D in shared memory, for a block of THREADS threads. A row is an odd number of
// 16-byte chunks long, so that the same chunk of eight rows falls into eight different bank groups.
template <class S, int D, int THREADS = 128> struct Tile {
    static constexpr int STRIDE = D * int(sizeof(S)) + 16;
    static constexpr int CHUNKS = D * int(sizeof(S)) / 16;
    static constexpr int STEPS = D * int(sizeof(S)) / 32;  // products over the head's channels
    static constexpr int DEPTH = 32 / int(sizeof(S));      // values of a row in one product

    // Copies tokens first .. first + ROWS of a matrix, with zeros past its end and past its
    // channels.
    template <int ROWS> static DEVICE void copy(u8* tile, const Matrix& m, int first, int tokens, int d) {
        const u8* from = static_cast<const u8*>(m.view.data) + (m.start() + i64(first) * m.row) * i64(sizeof(S));
        const int left = tokens - first;
#pragma unroll
        for (int k = 0; k < (ROWS * CHUNKS + THREADS - 1) / THREADS; k++) {
            int i = threadIdx.x + k * THREADS, r = i / CHUNKS, c = i % CHUNKS;
            if (ROWS * CHUNKS % THREADS && r >= ROWS) break;
            // A copy that is not valid reads nothing, so its address may lead anywhere.
            copy_async(tile + r * STRIDE + 16 * c, from + (u32(r * m.row) * u32(sizeof(S)) + 16 * c), r < left && c * VECTOR<S> < d);
        }
    }

    // Copies tile number `tile` of two matrices, as one group of copies, into the buffer whose turn
    // it is. Past the last tile, the group is empty.
    template <int ROWS> static DEVICE void copy_pair(u8* buffers, const Matrix& a, const Matrix& b, int tile, int tokens, int d) {
        u8* to = buffers + tile % 2 * 2 * ROWS * STRIDE;
        if (tile * ROWS < tokens) {
            copy<ROWS>(to, a, tile * ROWS, tokens, d);
            copy<ROWS>(to + ROWS * STRIDE, b, tile * ROWS, tokens, d);
        }
        commit_copies();
    }

    // Loads 16 rows as the left operand.
    static DEVICE void left(u32 (&r)[4], const u8* tile, int row, int step, int lane) {
        load_matrices(r, tile + (row + lane % 16) * STRIDE + 32 * step + 16 * (lane / 16));
        for (int k = 0; k < 4; k++) round_fragment(r[k], S{});
    }

    // Loads 16 rows as columns of the right operand, for products of rows with rows.
    static DEVICE void right_rows(u32 (&r)[4], const u8* tile, int row, int step, int lane) {
        load_matrices(r, tile + (row + lane % 8 + lane / 16 * 8) * STRIDE + 32 * step + 16 * (lane / 8 % 2));
        for (int k = 0; k < 4; k++) round_fragment(r[k], S{});
    }

    // Loads columns column .. column + 16 of DEPTH rows, for a product that sums over the rows. In
    // TF32 the rows are in the order of the columns of probabilities(): 0, 2, 4, 6, 1, 3, 5, 7.
    static DEVICE void right_columns(u32 (&r)[4], const u8* tile, int row, int column, int lane) {
        if constexpr (sizeof(S) == 2) {
            load_matrices_transposed(r, tile + (row + lane % 16) * STRIDE + 2 * column + 16 * (lane / 16));
        } else {
            for (int k = 0; k < 4; k++) {
                const u8* from = tile + (row + 2 * (lane % 4) + (k & 1)) * STRIDE + 4 * (column + lane / 4 + 8 * (k >> 1));
                r[k] = *reinterpret_cast<const u32*>(from);
            }
        }
        for (int k = 0; k < 4; k++) round_fragment(r[k], S{});
    }

    // Turns the accumulators of the DEPTH columns from DEPTH step on into the left operand of the
    // next product.
    template <int N> static DEVICE void probabilities(u32 (&r)[4], const float (&sum)[N][4], int step) {
        if constexpr (sizeof(S) == 2) {
            for (int k = 0; k < 4; k++) r[k] = pack2<S>(sum[2 * step + k / 2][2 * (k & 1)], sum[2 * step + k / 2][2 * (k & 1) + 1]);
        } else {
            r[0] = round_tf32(sum[step][0]);
            r[1] = round_tf32(sum[step][2]);
            r[2] = round_tf32(sum[step][1]);
            r[3] = round_tf32(sum[step][3]);
        }
    }

    // sum = 16 R rows of `a` times rows of `b`. One fragment of `b` serves all R.
    template <int R, int N> static DEVICE void rows_by_rows(float (&sum)[R][N][4], const u8* a, int row, const u8* b, int lane) {
        for (int i = 0; i < R; i++) {
            for (int j = 0; j < N; j++) {
                for (int e = 0; e < 4; e++) sum[i][j][e] = 0;
            }
        }
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            u32 l[R][4];
            for (int i = 0; i < R; i++) left(l[i], a, row + 16 * i, step, lane);
#pragma unroll
            for (int j = 0; j < N / 2; j++) {
                u32 r[4];
                right_rows(r, b, 16 * j, step, lane);
                for (int i = 0; i < R; i++) {
                    multiply(sum[i][2 * j], l[i], r[0], r[1], S{});
                    multiply(sum[i][2 * j + 1], l[i], r[2], r[3], S{});
                }
            }
        }
    }

    // Sets the scores of columns from `count` on to -infinity, because there are no such tokens.
    template <int N> static DEVICE void hide_from(int count, float (&scores)[N][4], int lane) {
        for (int j = 0; j < N; j++) {
            for (int e = 0; e < 4; e++) {
                if (8 * j + 2 * (lane % 4) + (e & 1) >= count) scores[j][e] = -INFINITY_F;
            }
        }
    }

    // out += weights times the tile's rows. The weights are accumulators of R times 16 x 8 N
    // values.
    template <int R, int N>
    static DEVICE void add_weighted(float (&out)[R][D / 8][4], const float (&weights)[R][N][4], const u8* tile, int lane) {
#pragma unroll
        for (int step = 0; step < 8 * N / DEPTH; step++) {
            u32 l[R][4];
            for (int i = 0; i < R; i++) probabilities(l[i], weights[i], step);
#pragma unroll
            for (int j = 0; j < D / 16; j++) {
                u32 r[4];
                right_columns(r, tile, DEPTH * step, 16 * j, lane);
                for (int i = 0; i < R; i++) {
                    multiply(out[i][2 * j], l[i], r[0], r[1], S{});
                    multiply(out[i][2 * j + 1], l[i], r[2], r[3], S{});
                }
            }
        }
    }

    // Stores accumulators of 16 rows and 8 N columns from `column` on to the tokens from `first`
    // on. factor[0] scales row g and factor[1] scales row g + 8.
    template <int N>
    static DEVICE void store(const Matrix& m, const float (&out)[N][4], const float (&factor)[2], int first, int column, int tokens, int d, int lane) {
        for (int half = 0; half < 2; half++) {
            int token = first + lane / 4 + 8 * half;
            if (token >= tokens) continue;
            S* to = static_cast<S*>(m.view.data) + m.start() + i64(token) * m.row;
            for (int j = 0; j < N; j++) {
                int c = column + 8 * j + 2 * (lane % 4);
                if (c >= d) continue;
                float a = out[j][2 * half] * factor[half], b = out[j][2 * half + 1] * factor[half];
                if constexpr (sizeof(S) == 2) *reinterpret_cast<u32*>(to + c) = pack2<S>(a, b);
                else store_words2(to + c, Words2{{float_bits(a), float_bits(b)}});
            }
        }
    }
};

// The maximum and the sum of a row over the four lanes that hold it.
DEVICE float row_max(float v) {
    v = larger(v, shuffle_xor(v, 1));
    return larger(v, shuffle_xor(v, 2));
}
DEVICE float row_sum(float v) {
    v += shuffle_xor(v, 1);
    return v + shuffle_xor(v, 2);
}
