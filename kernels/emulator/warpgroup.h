// State of the emulator for the products of a warpgroup. emulator.cpp includes this file inside its
// namespace.

// A product of a warpgroup, as one of its threads has issued it.
struct GroupProduct {
    Kind kind;
    float* d;
    u64 a, b;
    bool add, transposed;
    bool same(const GroupProduct& o) const { return kind == o.kind && a == o.a && b == o.b && add == o.add && transposed == o.transposed; }
};

// The true values of the accumulators of products under way. The thread's own copy is NaN.
struct Pending {
    float values[64];
    u32 products;
};

struct WarpGroup { u32 arrived = 0, generation = 0; };
