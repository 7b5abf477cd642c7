// What one thread of a convolution's tile copies to shared memory, stage by stage: chunks of 16
// bytes of the image and of the weights.
#pragma once
#include "include/mma.cuh"
#include "conv/shape.cuh"

struct ConvParams {
    void *y, *gated;
    const void *x, *second, *w, *bias, *item_bias, *addend;
    float* partial;
    ConvShape shape;
    int splits, pad;
    int single;  // y and addend are f32 whatever the storage type; only in _few
    int silu, stages;
};

constexpr int SLICE = 64;  // bytes of K in a stage

// The offset of the 16-byte chunk `chunk` of a 64-byte row. The same chunk of eight rows falls into
// eight different bank groups, so that ldmatrix has no bank conflicts.
DEVICE int slice_offset(int row, int chunk) { return row * SLICE + ((chunk ^ (row >> 1 & 3)) << 4); }

// The same for the gradient's tile of weights, whose rows are the summed channels.
template <class S, int BN> DEVICE int transposed_offset(int row, int chunk) {
    constexpr int CHUNKS = BN * int(sizeof(S)) / 16;
    int swizzle = sizeof(S) == 4 ? (row & 3) << 1 : CHUNKS < 8 ? row >> 1 & 3 : row & 7;
    return row * BN * int(sizeof(S)) + ((chunk ^ swizzle) << 4);
}

// The output channel of a column of the tile, where values and gates alternate in groups of eight.
DEVICE int gate_column(const ConvParams& p, int column) {
    return column / 16 * 8 + column % 8 + (column & 8 ? p.shape.co / 2 : 0);
}

// Where the sum stands: a tap of a slice of channels of x or of second. Taps change fastest: the
// nine taps of a slice read nearly the same pixels, which are then still in a cache.
template <class S> struct SumCursor {
    static constexpr int BK = SLICE / int(sizeof(S));
    int taps, slices_of_x, tap, ky, kx, slice;
    bool in_second;
    int channels, channel;  // of the source that is read; the first of the slice

    // first: the number of (slice, tap) pairs before it.
    DEVICE SumCursor(const ConvShape& s, int first) {
        taps = s.kernel * s.kernel;
        slices_of_x = (s.ci + BK - 1) / BK;
        tap = first % taps, ky = tap / s.kernel, kx = tap % s.kernel, slice = first / taps;
        enter_slice(s);
    }

    DEVICE void enter_slice(const ConvShape& s) {
        in_second = slice >= slices_of_x;
        channels = in_second ? s.ci2 : s.ci;
        channel = BK * (in_second ? slice - slices_of_x : slice);
    }

    // Goes on to the next tap; true if that is in a new slice.
    DEVICE bool advance(const ConvShape& s) {
        tap++;
        if (++kx == s.kernel) {
            kx = 0;
            ky++;
        }
        if (tap < taps) return false;
        tap = ky = 0;
        slice++;
        enter_slice(s);
        return true;
    }
};

// The pixels of a tile of BM pixels whose channels this thread copies. For each of them, `place` is
// what tap 0 reads, and `inside` has a bit for each tap that lies in the image. In a spread image,
// two positions along an axis share one pixel, and `odd` says whether tap 0 is at the second one.
template <class S, int BM, int THREADS> struct ImageCursor {
    static constexpr int LOADS = BM * 4 / THREADS, STEP = THREADS / 4;
    static_assert(BM * 4 % THREADS == 0, "every thread copies the same number of chunks");
    static_assert(STEP % 8 == 0, "a thread's rows share one swizzle");
    int chunk, shift, to, place[LOADS];
    u32 inside[LOADS], odd;
    const u8* source;

    // m0: the tile's first pixel; rows: the number of pixels of y.
    DEVICE ImageCursor(const ConvParams& p, int m0, int rows, int thread) {
        const ConvShape& s = p.shape;
        chunk = thread % 4, shift = s.spread == DENSE ? 0 : 1, to = slice_offset(thread / 4, chunk), odd = 0;
        for (int i = 0; i < LOADS; i++) {
            const int m = m0 + thread / 4 + i * STEP;
            const int rest = m / s.yw, y0 = rest % s.yh * s.stride - p.pad, x0 = m % s.yw * s.stride - p.pad;
            place[i] = (rest / s.yh * s.xh + (y0 >> shift)) * s.xw + (x0 >> shift);
            odd |= u32(((y0 & 1) << 1 | (x0 & 1)) & (shift ? 3 : 0)) << 2 * i;
            inside[i] = 0;
            for (int tap = 0; tap < s.kernel * s.kernel; tap++) {
                const int y = y0 + tap / s.kernel, x = x0 + tap % s.kernel;
                const bool stands = s.spread != ZEROS || ((y | x) & 1) == 0;
                const bool valid = m < rows && stands && u32(y >> shift) < u32(s.xh) && u32(x >> shift) < u32(s.xw);
                inside[i] |= u32(valid) << tap;
            }
        }
    }

    DEVICE void enter_slice(const ConvParams& p, const SumCursor<S>& at) {
        source = static_cast<const u8*>(at.in_second ? p.second : p.x) + at.channel * int(sizeof(S)) + 16 * chunk;
    }

    // Whether this thread's chunk of channels exists.
    DEVICE bool is_whole(const SumCursor<S>& at) const { return chunk * VECTOR<S> < at.channels - at.channel; }

    DEVICE void copy(const ConvShape& s, const SumCursor<S>& at, u8* stage) const {
        const int pixel_bytes = at.channels * int(sizeof(S));
        int ahead[LOADS];
        for (int i = 0; i < LOADS; i++) ahead[i] = at.ky * s.xw + at.kx;
        if (__builtin_expect(shift, 0)) {
            for (int i = 0; i < LOADS; i++) {
                ahead[i] = (at.ky + (odd >> (2 * i + 1) & 1)) / 2 * s.xw + (at.kx + (odd >> 2 * i & 1)) / 2;
            }
        }
        // A copy that is not valid reads nothing, so its address may lead anywhere.
        const u32 valid = is_whole(at) ? 1u << at.tap : 0;
        for (int i = 0; i < LOADS; i++) {
            copy_async(stage + to + i * STEP * SLICE, source + i64(place[i] + ahead[i]) * pixel_bytes, (inside[i] & valid) != 0);
        }
    }
};

// The weights of a tile of BN channels that this thread copies: `weight` is the first of them, at
// tap 0 of slice 0, and `step` is the bytes from one to the next. `within` has a bit for each one
// that lies in the channels.
template <class S, int BN, int THREADS, bool GRADIENT> struct WeightCursor {
    static constexpr int LOADS = BN * 4 / THREADS, CHUNKS = BN * int(sizeof(S)) / 16;
    static constexpr int STEP = GRADIENT ? THREADS / CHUNKS : THREADS / 4, PERIOD = GRADIENT && sizeof(S) == 4 ? 4 : 8;
    static constexpr int TO_STEP = STEP * (GRADIENT ? BN * int(sizeof(S)) : SLICE);
    static_assert(BN * 4 % THREADS == 0, "every thread copies the same number of chunks");
    static_assert(STEP % 16 == 0 || GRADIENT, "a thread's values and gates are equally far apart");
    static_assert(STEP % PERIOD == 0 && THREADS % CHUNKS == 0, "a thread's rows share one swizzle");
    int row, to;
    const u8* weight;
    i64 step, offset;
    u32 within;

    // n0: the tile's first channel.
    DEVICE WeightCursor(const ConvParams& p, int n0, int thread) {
        const ConvShape& s = p.shape;
        const int taps = s.kernel * s.kernel, chunk = thread % 4;
        row = GRADIENT ? thread / CHUNKS : thread / 4;
        const int o = n0 + (GRADIENT ? thread % CHUNKS * VECTOR<S> : row);
        i64 at = i64(p.gated ? gate_column(p, o) : o) * taps * s.row + chunk * VECTOR<S>;
        if (GRADIENT) at = (i64(row) * taps + taps - 1) * s.row + s.first + o;
        weight = reinterpret_cast<const u8*>(static_cast<const S*>(p.w) + at);
        step = i64(p.gated ? STEP / 2 : STEP) * taps * s.row * int(sizeof(S));
        within = 0;
        for (int i = 0; i < LOADS; i++) within |= u32(GRADIENT ? o < s.co : o + i * STEP < s.co) << i;
        to = GRADIENT ? transposed_offset<S, BN>(row, thread % CHUNKS) : slice_offset(thread / 4, chunk);
    }

    DEVICE void enter_slice(const ConvShape& s, const SumCursor<S>& at) {
        offset = GRADIENT ? (i64(at.channel) * at.taps - at.tap) * s.row : i64(at.tap) * s.row + at.channel + (at.in_second ? s.ci : 0);
        offset *= sizeof(S);
    }

    // whole: the thread's chunk of channels exists; the gradient has whole rows instead.
    DEVICE void copy(const SumCursor<S>& at, u8* tile, bool whole) const {
        const u32 valid_rows = GRADIENT || whole ? within : 0;
        for (int i = 0; i < LOADS; i++) {
            bool valid = (valid_rows & 1u << i) != 0 && (!GRADIENT || row + i * STEP < at.channels - at.channel);
            copy_async(tile + to + i * TO_STEP, weight + offset + i * step, valid);
        }
    }

    // Goes on to the next tap of the slice.
    DEVICE void advance(const ConvShape& s) { offset += (GRADIENT ? -s.row : s.row) * int(sizeof(S)); }
};
