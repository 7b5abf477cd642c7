// Products of a warpgroup: see include/wgmma.cuh. This file is compiled after emulator.cpp in one
// unit and works on its block.
//
// Nothing is multiplied before all 128 threads wait for it. Until then operands may change, as on a
// GPU, and accumulators are NaN.

namespace emulator {

void fence_products() { block->now->fenced_products = true; }

void multiply_group(Kind kind, float* d, u64 a, u64 b, bool add, bool transposed) {
    Fiber& fiber = *block->now;
    if (!fiber.fenced_products) fail("a product of a warpgroup without fence_products before it");
    if (block->unfenced) fail("a product of a warpgroup while copies are not fenced for it");
    auto [found, is_new] = fiber.pending.try_emplace(d);
    if (is_new) {
        memcpy(found->second.values, d, sizeof found->second.values);
        memset(d, POISON, sizeof found->second.values);
    }
    found->second.products++;
    fiber.open_products.push_back({kind, d, a, b, add, transposed});
}

void commit_products() {
    block->now->product_groups.push_back(std::move(block->now->open_products));
    block->now->open_products.clear();
}

// Value (`row`, `k`) of the matrix of a descriptor. The swizzle acts on bits of the final address.
static float group_operand(Kind kind, u64 matrix, int row, int k, bool transposed) {
    const u32 start = u32(matrix & 0x3fff) << 4, columns = u32(matrix >> 16 & 0x3fff) << 4, stride = u32(matrix >> 32 & 0x3fff) << 4;
    u32 at = start;
    if (transposed) at += row / 64 * columns + k / 8 * stride + k % 8 * 128 + row % 64 * 2;
    else at += row / 8 * stride + row % 8 * 128 + k * 2;
    at ^= (at >> 7 & 7) << 4;
    if (matrix >> 62 != 1 || (matrix >> 49 & 7) != 0) fail("a matrix that is not swizzled by 128 bytes, or with a base offset");
    if (at + 2 > block->shared_bytes) fail("a matrix reaches past the shared memory that the launch states");
    u16 half;
    memcpy(&half, block->shared_base + at, 2);
    return kind == MULTIPLY_F16 ? to_float(f16{half}) : bits_float(u32(half) << 16);
}

// Does one product, for all threads of a warpgroup.
static void multiply_warp_group(Fiber* fibers, size_t index) {
    const GroupProduct& p = fibers[0].product_groups.front()[index];
    static thread_local float a[64][16], b[16][128], sums[64][128];
    for (int k = 0; k < 16; k++) {
        for (int row = 0; row < 64; row++) a[row][k] = group_operand(p.kind, p.a, row, k, false);
        for (int column = 0; column < 128; column++) b[k][column] = group_operand(p.kind, p.b, column, k, p.transposed);
    }
    auto for_each_sum = [&](auto&& act) {
        for (int thread = 0; thread < 128; thread++) {
            Fiber& fiber = fibers[thread];
            Pending& pending = fiber.pending.at(fiber.product_groups.front()[index].d);
            const int row = thread / 32 * 16 + thread % 32 / 4, column = thread % 4 * 2;
            for (int i = 0; i < 64; i++) act(pending.values[i], sums[row + 8 * (i / 2 % 2)][i / 4 * 8 + column + i % 2]);
        }
    };
    for_each_sum([&](float& value, float& sum) { sum = p.add ? value : 0.0f; });
    for (int row = 0; row < 64; row++) {
        for (int k = 0; k < 16; k++) {
            for (int column = 0; column < 128; column++) sums[row][column] += a[row][k] * b[k][column];
        }
    }
    for_each_sum([](float& value, float& sum) { value = sum; });
}

void wait_for_products(int allowed) {
    Fiber& fiber = *block->now;
    WarpGroup& group = *fiber.warp_group;
    while (fiber.product_groups.size() > size_t(allowed)) {
        const u32 seen = group.generation;
        if (++group.arrived < 128) {
            wait_while(&group.generation, seen);
        } else {
            Fiber* all = &block->fibers[(&group - block->warp_groups.data()) * 128];
            for (int thread = 1; thread < 128; thread++) {
                const auto &first = all[0].product_groups, &other = all[thread].product_groups;
                bool alike = other.size() == first.size() && other.front().size() == first.front().size();
                for (size_t i = 0; alike && i < first.front().size(); i++) alike = other.front()[i].same(first.front()[i]);
                if (!alike) fail("threads of a warpgroup issue different products");
            }
            for (size_t i = 0; i < all[0].product_groups.front().size(); i++) multiply_warp_group(all, i);
            group.arrived = 0;
            group.generation++;
        }
        for (const GroupProduct& p : fiber.product_groups.front()) {
            auto found = fiber.pending.find(p.d);
            if (--found->second.products) continue;
            memcpy(p.d, found->second.values, sizeof found->second.values);
            fiber.pending.erase(found);
        }
        fiber.product_groups.erase(fiber.product_groups.begin());
    }
    fiber.fenced_products = false;
}

}  // namespace emulator
