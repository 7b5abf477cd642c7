// Barriers in shared memory and copies of boxes: see include/bulk.cuh. This file is compiled after
// emulator.cpp in one unit and works on its block.
//
// The block's seed decides when a copy is done: as soon as it is asked for, or only when no thread
// can go on without it.

namespace emulator {

static Barrier& barrier_at(u32 at) {
    if (at % 8 || at + 8 > block->shared_bytes) fail("a barrier that is not aligned, or outside the shared memory");
    auto found = block->barriers.find(at);
    if (found == block->barriers.end()) fail("a barrier that is not initialised");
    Barrier& barrier = found->second;
    if (barrier.initialised_by && barrier.initialised_by != block->now) fail("a barrier whose initialisation is not fenced");
    return barrier;
}

static void end_phase_if_complete(Barrier& barrier) {
    if (barrier.pending || barrier.bytes) return;
    barrier.pending = barrier.arrivals;
    barrier.phase++;
}

void barrier_init(u32 at, u32 arrivals) {
    block->barriers[at] = {.arrivals = arrivals, .pending = arrivals, .initialised_by = block->now};
    barrier_at(at);
}
void fence_barrier_init() {
    for (auto& [at, barrier] : block->barriers) {
        if (barrier.initialised_by == block->now) barrier.initialised_by = nullptr;
    }
}
void barrier_arrive(u32 at) {
    Barrier& barrier = barrier_at(at);
    if (barrier.pending == 0) fail("more threads arrive at a barrier than it counts");
    barrier.pending--;
    end_phase_if_complete(barrier);
}
void barrier_expect(u32 at, u32 bytes) {
    barrier_at(at).bytes += bytes;
    barrier_arrive(at);
}
void barrier_wait(u32 at, u32 parity) {
    Barrier& barrier = barrier_at(at);
    while ((barrier.phase & 1) == parity) wait_while(&barrier.phase, barrier.phase);
    // The last phase that has ended. A thread that waits for every phase is at most one behind.
    const i64 ended = i64(barrier.phase) - 1;
    auto [last, is_first] = block->now->phases.try_emplace(at, -1);
    if (ended > last->second + 1) fail("a thread missed a phase of a barrier");
    last->second = ended;
}

// Does a copy. Returns what is wrong with it, or null.
static const char* do_box(const BoxCopy& c) {
    const TensorLayout& map = *c.map;
    u32 bytes = 0;
    for (u32 row = 0; row < map.box[1] * map.box[2] * map.box[3] * map.box[4]; row++) {
        i64 offset = 0;
        bool inside = true;
        u32 rest = row;
        for (int d = 1; d < 5; d++) {
            const i64 i = c.start[d] + rest % map.box[d];
            rest /= map.box[d];
            inside = inside && i >= 0 && i < i64(map.extents[d]);
            offset += i * i64(map.strides[d - 1]);
        }
        for (u32 chunk = 0; chunk < map.box[0] / 8; chunk++, bytes += 16) {
            const i64 first = c.start[0] + 8 * chunk;
            const bool whole = inside && first >= 0 && first + 8 <= i64(map.extents[0]);
            if (inside && !whole && first + 8 > 0 && first < i64(map.extents[0])) return "a box that cuts through 16 bytes";
            u32 at = c.shared + bytes;
            at ^= (at >> 7 & 7) << 4;
            if (at + 16 > block->shared_bytes) return "a box reaches past the shared memory that the launch states";
            u8* global = reinterpret_cast<u8*>(map.address) + offset + 2 * first;
            if (c.is_load && whole) memcpy(block->shared_base + at, global, 16);
            else if (c.is_load) memset(block->shared_base + at, 0, 16);
            else if (whole) memcpy(global, block->shared_base + at, 16);
        }
    }
    if (!c.is_load) return nullptr;
    Barrier& barrier = block->barriers.at(c.barrier);
    barrier.bytes -= bytes;
    if (barrier.bytes < 0) return "more bytes come to a barrier than it expects";
    end_phase_if_complete(barrier);
    return nullptr;
}

static void do_box_now(const BoxCopy& c) {
    if (const char* fault = do_box(c)) fail(fault);
}

static BoxCopy box_copy(u32 shared, const void* map, const int* start, bool is_load, u32 barrier) {
    if (shared % 128) fail("a box in shared memory that is not aligned to 128 bytes");
    if (reinterpret_cast<uintptr_t>(map) % 64) fail("a tensor map that is not aligned to 64 bytes");
    BoxCopy c{static_cast<const TensorLayout*>(map), shared, {}, is_load, barrier};
    for (int d = 0; d < 5; d++) c.start[d] = start[d];
    if (c.map->address == 0) fail("a box of a tensor that is absent");
    return c;
}

void load_box(u32 to, const void* map, u32 barrier, const int* start) {
    barrier_at(barrier);
    const BoxCopy c = box_copy(to, map, start, true, barrier);
    if (block->early_copies) do_box_now(c);
    else block->boxes.push_back(c);
}
void store_box(const void* map, u32 from, const int* start) {
    for (const Fiber& f : block->fibers) {
        if (f.stored_shared) fail("a store of a box while what threads wrote is not fenced");
    }
    const BoxCopy c = box_copy(from, map, start, false, 0);
    if (block->early_copies) do_box_now(c);
    block->now->open_stores.push_back(c);
}
void commit_stores() {
    auto& open = block->now->open_stores;
    block->now->stores.insert(block->now->stores.end(), open.begin(), open.end());
    open.clear();
}
void wait_for_stores_to_read() {
    if (!block->early_copies) {
        for (const BoxCopy& c : block->now->stores) do_box_now(c);
    }
    block->now->stores.clear();
}

void fence_shared() {
    if (block->now->wrote_shared) block->unfenced--;
    block->now->wrote_shared = block->now->stored_shared = false;
}
u32 load_shared(u32 at) {
    if (at % 4 || at + 4 > block->shared_bytes) fail("a word outside the shared memory, or not aligned");
    u32 word;
    memcpy(&word, block->shared_base + at, 4);
    return word;
}
void store_shared(u32 at, u32 word) {
    if (at % 4 || at + 4 > block->shared_bytes) fail("a word outside the shared memory, or not aligned");
    memcpy(block->shared_base + at, &word, 4);
    block->now->stored_shared = true;
}

// Does one of the copies under way, if there is one, and returns whether there was one.
static bool do_one_box(u32 random) {
    if (block->boxes.empty()) return false;
    std::swap(block->boxes[random % block->boxes.size()], block->boxes.back());
    const BoxCopy c = block->boxes.back();
    block->boxes.pop_back();
    if (const char* fault = do_box(c)) block->error = fault;
    return true;
}

static std::string state_of_barriers() {
    std::string all;
    for (const auto& [at, b] : block->barriers) {
        all += "; barrier at " + std::to_string(at) + ": phase " + std::to_string(b.phase) + ", " + std::to_string(b.pending) +
               " arrivals and " + std::to_string(b.bytes) + " bytes to come";
    }
    return all;
}

}  // namespace emulator

// Does what cuTensorMapEncodeTiled does, with its limits, for 16-bit values in rows of 128 bytes.
// Returns 0, or 1 if it would refuse. `strides` are in bytes, of the second extent and later ones.
extern "C" int dmap_emulated_encode(void* map, u64 address, const u64* extents, const u64* strides, const u32* box) {
    using emulator::TensorLayout;
    TensorLayout layout{address, {}, {}, {}};
    bool fits = address % 16 == 0 && box[0] * 2 == 128;
    for (int d = 0; d < 5; d++) {
        fits = fits && extents[d] >= 1 && extents[d] <= u64(1) << 32 && box[d] >= 1 && box[d] <= 256;
        layout.extents[d] = u32(extents[d]);
        layout.box[d] = box[d];
        if (d == 4) break;
        fits = fits && strides[d] % 16 == 0 && strides[d] < u64(1) << 40;
        layout.strides[d] = strides[d];
    }
    memset(map, 0, 128);
    memcpy(map, &layout, sizeof layout);
    return fits ? 0 : 1;
}
