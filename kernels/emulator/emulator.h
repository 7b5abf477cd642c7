// The device side of a GPU as C++20. The threads of a block are fibers; barriers and warp
// collectives switch between them.
//
// The emulator is adversarial on purpose. Shared memory starts as NaN and has a guard band. The
// block's seed decides whether asynchronous copies and copies of boxes happen at once or as late as
// their wait allows. Products of a warpgroup happen as late as their wait allows, and until then
// their accumulators are NaN. Warps and lanes run in a seeded random order; a warp stays in step
// with the others or runs ahead of them. Misaligned vectors and diverged collectives stop the
// launch with a message.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef unsigned long long u64;
typedef long long i64;

#define DEVICE inline

namespace emulator {

struct Index { u32 x, y, z; };

// The index registers of the running fiber.
struct Registers { Index thread, block, block_size, grid_size; };
extern thread_local constinit Registers* registers;

using Body = void (*)(const void*);
struct Registration {
    Registration(const char* name, size_t parameter_bytes, Body body, u32 threads);
};

u8* shared_memory();
void block_barrier();
void warp_barrier();
// Stops the launch with a message.
[[noreturn]] void fail(const char* what);

// The values that a lane puts into a collective, and the values that it gets.
struct Lane { u32 in[12]; u32 out[4]; const void* address; };
enum Kind { SHUFFLE, MATRICES, MATRICES_TRANSPOSED, MULTIPLY_F16, MULTIPLY_BF16, MULTIPLY_TF32, BARRIER };
// Waits for the other lanes of the warp. The last lane to arrive computes for all of them.
Lane& collective(Kind kind, const u32* in, int count, const void* address);

void copy_async(void* to, const void* from, bool valid);
void commit_copies();
void wait_for_copies(int groups);

// Products of a warpgroup. The matrices are descriptors; the accumulators are those of one thread.
void multiply_group(Kind kind, float* d, u64 a, u64 b, bool add, bool transposed);
void fence_products();
void commit_products();
void wait_for_products(int groups);

// Barriers in shared memory and copies of boxes. Addresses count from the start of the shared
// memory.
void barrier_init(u32 barrier, u32 arrivals);
void fence_barrier_init();
void barrier_arrive(u32 barrier);
void barrier_expect(u32 barrier, u32 bytes);
void barrier_wait(u32 barrier, u32 parity);
void load_box(u32 to, const void* map, u32 barrier, const int* start);
void store_box(const void* map, u32 from, const int* start);
void commit_stores();
void wait_for_stores_to_read();
void fence_shared();
u32 load_shared(u32 at);
void store_shared(u32 at, u32 word);

inline void check_alignment(const void* p, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(p) % bytes) fail("a vector access is not aligned");
}

}  // namespace emulator

#define KERNEL(name, Params, threads, blocks)                                                             \
    static void name(const Params& p);                                                                    \
    static emulator::Registration registration_##name(                                                    \
        #name, sizeof(Params), [](const void* q) { name(*static_cast<const Params*>(q)); }, threads);     \
    static void name(const Params& p)

#define threadIdx (emulator::registers->thread)
#define blockIdx (emulator::registers->block)
#define blockDim (emulator::registers->block_size)
#define gridDim (emulator::registers->grid_size)

#define INFINITY_F __builtin_inff()

inline u8* shared_memory() { return emulator::shared_memory(); }
inline void block_barrier() { emulator::block_barrier(); }
inline void warp_barrier() { emulator::warp_barrier(); }
inline u32 float_bits(float v) { u32 u; memcpy(&u, &v, 4); return u; }
inline float bits_float(u32 u) { float v; memcpy(&v, &u, 4); return v; }
inline u32 multiply_high(u32 a, u32 b) { return u32((u64(a) * b) >> 32); }
inline float exp2_fast(float x) { return exp2f(x); }
inline float reciprocal_fast(float x) { return 1.0f / x; }

inline float shuffle_xor(float value, int mask) {
    u32 in[2] = {float_bits(value), u32(mask)};
    return bits_float(emulator::collective(emulator::SHUFFLE, in, 2, nullptr).out[0]);
}

struct alignas(16) Words4 { u32 w[4]; };
struct alignas(8) Words2 { u32 w[2]; };
template <class W> W load_words(const void* p) {
    emulator::check_alignment(p, sizeof(W));
    W v;
    memcpy(&v, p, sizeof(W));
    return v;
}
template <class W> void store_words(void* p, W v) {
    emulator::check_alignment(p, sizeof(W));
    memcpy(p, &v, sizeof(W));
}
inline Words4 load_words4(const void* p) { return load_words<Words4>(p); }
inline Words2 load_words2(const void* p) { return load_words<Words2>(p); }
inline void store_words4(void* p, Words4 v) { store_words(p, v); }
inline void store_words2(void* p, Words2 v) { store_words(p, v); }

struct f16 { u16 bits; };
struct bf16 { u16 bits; };
inline float to_float(f16 v) { _Float16 h; memcpy(&h, &v.bits, 2); return float(h); }
inline f16 round_f16(float v) { _Float16 h = _Float16(v); f16 r; memcpy(&r.bits, &h, 2); return r; }
inline bf16 round_bf16(float v) {
    u32 u = float_bits(v);
    if (v != v) return bf16{0x7fff};
    return bf16{u16((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
// Rounds ties away from zero, as cvt.rna does.
inline u32 round_tf32(float v) { u32 u = float_bits(v); return v != v ? u : (u + 0x1000) & ~0x1fffu; }

inline void load_matrices_of(emulator::Kind kind, u32 (&r)[4], const void* row) {
    emulator::check_alignment(row, 16);
    emulator::Lane& lane = emulator::collective(kind, nullptr, 0, row);
    for (int i = 0; i < 4; i++) r[i] = lane.out[i];
}
inline void load_matrices(u32 (&r)[4], const void* row) { load_matrices_of(emulator::MATRICES, r, row); }
inline void load_matrices_transposed(u32 (&r)[4], const void* row) { load_matrices_of(emulator::MATRICES_TRANSPOSED, r, row); }

inline void multiply_of(emulator::Kind kind, float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    u32 in[10] = {a[0], a[1], a[2], a[3], b0, b1, float_bits(c[0]), float_bits(c[1]), float_bits(c[2]), float_bits(c[3])};
    emulator::Lane& lane = emulator::collective(kind, in, 10, nullptr);
    for (int i = 0; i < 4; i++) c[i] = bits_float(lane.out[i]);
}
inline void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, f16) { multiply_of(emulator::MULTIPLY_F16, c, a, b0, b1); }
inline void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, bf16) { multiply_of(emulator::MULTIPLY_BF16, c, a, b0, b1); }
inline void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, float) { multiply_of(emulator::MULTIPLY_TF32, c, a, b0, b1); }

inline void copy_async(void* to, const void* from, bool valid) { emulator::copy_async(to, from, valid); }
inline void commit_copies() { emulator::commit_copies(); }
template <int N> void wait_for_copies() { emulator::wait_for_copies(N); }

struct alignas(64) TensorMap { u64 words[16]; };

// Addresses of shared memory count from its start, as on a GPU.
inline u32 shared_address(const void* p) { return u32(static_cast<const u8*>(p) - emulator::shared_memory()); }
template <class S, bool TRANSPOSED> void multiply_group(float (&d)[16][4], u64 a, u64 b, bool add) {
    const bool half = to_float(S{0x3c00}) == 1.0f;  // one as f16
    emulator::multiply_group(half ? emulator::MULTIPLY_F16 : emulator::MULTIPLY_BF16, &d[0][0], a, b, add, TRANSPOSED);
}
inline void fence_products() { emulator::fence_products(); }
inline void commit_products() { emulator::commit_products(); }
template <int N> void wait_for_products() { emulator::wait_for_products(N); }
template <int COUNT> void take_registers() { static_assert(COUNT % 8 == 0 && COUNT >= 24 && COUNT <= 256); }
template <int COUNT> void leave_registers() { static_assert(COUNT % 8 == 0 && COUNT >= 24 && COUNT <= 256); }

using emulator::barrier_init, emulator::fence_barrier_init, emulator::barrier_arrive, emulator::barrier_expect, emulator::barrier_wait;
using emulator::commit_stores, emulator::wait_for_stores_to_read, emulator::fence_shared, emulator::load_shared, emulator::store_shared;
inline void load_box(u32 to, const TensorMap& from, u32 barrier, int i0, int i1, int i2, int i3, int i4) {
    const int start[5] = {i0, i1, i2, i3, i4};
    emulator::load_box(to, &from, barrier, start);
}
inline void store_box(const TensorMap& to, u32 from, int i0, int i1, int i2, int i3, int i4) {
    const int start[5] = {i0, i1, i2, i3, i4};
    emulator::store_box(&to, from, start);
}

// Each kernel file has its own object. The linker keeps it, because a table names this symbol.
#ifdef DMAP_EMULATED_FILE
int DMAP_EMULATED_FILE;
#endif
