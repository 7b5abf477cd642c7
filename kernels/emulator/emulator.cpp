// This file runs one block of a kernel: see emulator.h.
#include "emulator.h"

#include <map>
#include <string>
#include <sys/mman.h>
#include <vector>

namespace emulator {

#include "fiber.h"

constexpr size_t STACK = 96 << 10;
// Stacks begin at different distances from their page, so that they share no set of the cache.
constexpr size_t STACK_SHIFT = 832, STACK_SHIFTS = 64 << 10;
constexpr size_t GUARD = 4096;
constexpr u8 POISON = 0xff;  // NaN in every storage type

thread_local constinit Registers* registers = nullptr;

struct Kernel { size_t parameter_bytes; Body body; u32 threads; };
static std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}
Registration::Registration(const char* name, size_t bytes, Body body, u32 threads) { kernels()[name] = {bytes, body, threads}; }

struct Copy { void* to; const void* from; bool valid; };

struct Warp {
    Lane lanes[2][32];
    Kind kind;
    u32 arrived = 0, generation = 0, size = 0;
};

#include "warpgroup.h"
#include "bulk.h"

struct Fiber {
    void* stack_pointer;
    const u32* waits_for;  // goes on once *waits_for differs from `seen`
    u32 seen;
    bool done;
    Registers registers;
    Warp* warp;
    u32 lane;
    std::vector<std::vector<Copy>> groups;
    std::vector<Copy> open;
    std::vector<std::vector<GroupProduct>> product_groups;
    std::vector<GroupProduct> open_products;
    std::map<float*, Pending> pending;
    WarpGroup* warp_group;
    bool fenced_products, wrote_shared, stored_shared;
    std::vector<BoxCopy> open_stores, stores;
    std::map<u32, i64> phases;  // of each barrier, the last one that this thread waited for
};

struct Block {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<WarpGroup> warp_groups;
    std::vector<u8*> stacks;
    std::map<u32, Barrier> barriers;
    std::vector<BoxCopy> boxes;
    u32 shared_bytes = 0;
    bool early_copies = false;
    std::vector<u8> shared;
    u8* shared_base = nullptr;
    u32 waiting = 0, finished = 0, generation = 0;
    u32 unfenced = 0;  // threads that wrote shared memory by copies and did not fence it
    Fiber* now = nullptr;
    void* scheduler = nullptr;
    Body body = nullptr;
    const void* parameters = nullptr;
    std::string error;
};
// The block that this thread runs. It is a pointer, because a thread-local object with a
// constructor is checked at every use.
static thread_local constinit Block* block = nullptr;

u8* shared_memory() { return block->shared_base; }

[[gnu::always_inline]] static inline void yield() { switch_fiber(&block->now->stack_pointer, block->scheduler); }

void fail(const char* what) {
    if (block->error.empty()) {
        Index t = block->now->registers.thread, b = block->now->registers.block;
        block->error = std::string(what) + " (thread " + std::to_string(t.x) + " of block " + std::to_string(b.x) + ", " +
                      std::to_string(b.y) + ", " + std::to_string(b.z) + ")";
    }
    for (;;) yield();
}

[[gnu::always_inline]] static inline void wait_while(const u32* counter, u32 seen) {
    block->now->waits_for = counter;
    block->now->seen = seen;
    yield();
    block->now->waits_for = nullptr;
}

void block_barrier() {
    u32 seen = block->generation;
    if (block->finished) fail("a barrier is not reached by threads that have ended");
    if (++block->waiting == block->fibers.size()) {
        block->waiting = 0;
        block->generation++;
        return;
    }
    wait_while(&block->generation, seen);
}

static void do_copy(const Copy& c) {
    if (c.valid) memcpy(c.to, c.from, 16);
    else memset(c.to, 0, 16);
}

void copy_async(void* to, const void* from, bool valid) {
    check_alignment(to, 16);
    if (valid) check_alignment(from, 16);
    if (block->early_copies) do_copy({to, from, valid});
    block->now->open.push_back({to, from, valid});
}
void commit_copies() {
    block->now->groups.push_back(std::move(block->now->open));
    block->now->open.clear();
}
void wait_for_copies(int allowed) {
    auto& groups = block->now->groups;
    while (groups.size() > size_t(allowed)) {
        for (const Copy& c : groups.front()) {
            if (!block->early_copies) do_copy(c);
            if (!block->now->wrote_shared) block->unfenced++;
            block->now->wrote_shared = true;
        }
        groups.erase(groups.begin());
    }
}

static bool do_one_box(u32 random);
static std::string state_of_barriers();

static void fiber_main() {
    block->body(block->parameters);
    for (const auto& group : block->now->groups) {
        if (!group.empty()) fail("the kernel ended with asynchronous copies under way");
    }
    if (!block->now->open.empty()) fail("the kernel ended with asynchronous copies under way");
    if (!block->now->pending.empty()) fail("the kernel ended with products under way");
    if (!block->now->open_stores.empty() || !block->now->stores.empty()) fail("the kernel ended with stores of boxes that nobody waited for");
    block->now->done = true;
    block->finished++;
    if (block->waiting) fail("a thread ended while others wait at a barrier");
    yield();
    __builtin_unreachable();
}

static void start(Fiber& fiber, u8* stack, u32 index) {
    void** top = reinterpret_cast<void**>(stack + STACK + STACK_SHIFTS - index * STACK_SHIFT % STACK_SHIFTS);
    *--top = nullptr;  // a return address that is never used; the stack looks as after a call
    *--top = reinterpret_cast<void*>(fiber_main);
    fiber.stack_pointer = top;
}

struct Random {
    u64 state;
    u32 below(u32 n) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        return u32((state >> 32) * n >> 32);
    }
};

// Whether no kernel has written these bytes: the first one is poison, and each is like the next.
static bool is_poison(const u8* first, const u8* end) {
    return *first == POISON && memcmp(first, first + 1, end - first - 1) == 0;
}

// Lets the lanes of a warp go on, in random order: each once, or until all of them wait. The first
// keeps the warps of a block in step, the second lets one run ahead of the others as far as it can.
// Returns whether a lane went on.
static bool run_warp(u32 warp, Random& random) {
    const bool runs_ahead = random.below(2);
    const u32 lanes = block->warps[warp].size;
    bool moved_ever = false, moved = true;
    while (moved && (runs_ahead || !moved_ever)) {
        moved = false;
        // An odd step visits each of 32 lanes once.
        const u32 first = random.below(32), step = 2 * random.below(16) + 1;
        for (u32 i = 0; i < 32; i++) {
            const u32 lane = (first + i * step) % 32;
            if (lane >= lanes) continue;
            Fiber& f = block->fibers[32 * warp + lane];
            if (f.done || (f.waits_for && *f.waits_for == f.seen)) continue;
            moved = moved_ever = true;
            block->now = &f;
            registers = &f.registers;
            switch_fiber(&block->scheduler, f.stack_pointer);
            if (!block->error.empty()) return true;
        }
    }
    return moved_ever;
}

}  // namespace emulator

using namespace emulator;

extern "C" size_t dmap_emulated_parameter_bytes(const char* name) {
    auto found = kernels().find(name);
    return found == kernels().end() ? 0 : found->second.parameter_bytes;
}

extern "C" u32 dmap_emulated_threads(const char* name) {
    auto found = kernels().find(name);
    return found == kernels().end() ? 0 : found->second.threads;
}

// Writes the names of all kernels, each ended by a zero, and returns the bytes needed.
extern "C" size_t dmap_emulated_kernels(char* out, size_t room) {
    std::string all;
    for (const auto& k : kernels()) all += k.first + '\0';
    if (all.size() <= room) memcpy(out, all.data(), all.size());
    return all.size();
}

// Runs one block. Returns 0, or 1 with a message.
extern "C" int dmap_emulated_block(const char* name, const void* parameters, const u32* grid, const u32* size, const u32* at,
                                   u32 shared_bytes, u64 seed, char* message, size_t room) {
    const Kernel& kernel = kernels().at(name);
    u32 threads = size[0] * size[1] * size[2];
    static thread_local Block own;
    block = &own;
    block->error.clear();
    if (threads > kernel.threads) block->error = "more threads than the kernel's launch bound";
    block->body = kernel.body;
    // The parameters are copied to a place that is aligned for tensor maps.
    alignas(64) static thread_local u8 aligned[4096];
    memcpy(aligned, parameters, kernel.parameter_bytes);
    block->parameters = aligned;
    block->barriers.clear();
    block->boxes.clear();
    block->shared.assign(shared_bytes + 2 * GUARD + 1024, POISON);
    block->shared_bytes = shared_bytes;
    uintptr_t base = reinterpret_cast<uintptr_t>(block->shared.data()) + GUARD;
    block->shared_base = reinterpret_cast<u8*>((base + 1023) / 1024 * 1024);
    block->warps.assign((threads + 31) / 32, Warp());
    block->warp_groups.assign((threads + 127) / 128, WarpGroup());
    block->fibers.clear();
    block->fibers.resize(threads);
    block->waiting = block->finished = block->generation = block->unfenced = 0;
    while (block->stacks.size() < threads) {
        void* memory = mmap(nullptr, STACK + STACK_SHIFTS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        block->stacks.push_back(static_cast<u8*>(memory));
    }
    Random random{seed * 0x9E3779B97F4A7C15ull + 1};
    block->early_copies = seed / 2 % 2;
    for (u32 i = 0; i < threads; i++) {
        Fiber& f = block->fibers[i];
        f.registers = {{i % size[0], i / size[0] % size[1], i / size[0] / size[1]}, {at[0], at[1], at[2]},
                       {size[0], size[1], size[2]}, {grid[0], grid[1], grid[2]}};
        f.warp = &block->warps[i / 32];
        f.lane = i % 32;
        f.warp_group = &block->warp_groups[i / 128];
        f.fenced_products = f.wrote_shared = f.stored_shared = false;
        f.warp->size++;
        f.waits_for = nullptr;
        f.done = false;
        start(f, block->stacks[i], i);
    }
    std::vector<u32> order(block->warps.size());
    for (u32 i = 0; i < order.size(); i++) order[i] = i;
    while (block->error.empty() && block->finished < threads) {
        for (u32 i = order.size(); i > 1; i--) std::swap(order[i - 1], order[random.below(i)]);
        bool moved = false;
        for (u32 warp : order) {
            moved = run_warp(warp, random) || moved;
            if (!block->error.empty()) break;
        }
        if (!moved && !do_one_box(random.below(1 << 16))) {
            block->error = "threads wait for each other: a barrier or collective is not reached by all" + state_of_barriers();
        }
    }
    if (block->error.empty() && !block->boxes.empty()) block->error = "the kernel ended with loads of boxes under way";
    u8 *first = block->shared.data(), *end = first + block->shared.size();
    if (block->error.empty() && !is_poison(first, block->shared_base)) block->error = "a write before the shared memory";
    if (block->error.empty() && !is_poison(block->shared_base + shared_bytes, end)) {
        block->error = "a write past the shared memory that the launch states";
    }
    if (block->error.empty()) return 0;
    strncpy(message, block->error.c_str(), room - 1);
    message[room - 1] = 0;
    return 1;
}
