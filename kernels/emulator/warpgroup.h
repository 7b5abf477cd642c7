// What the emulator keeps of the products of a warpgroup. Included by emulator.cpp inside its namespace.

// A product of a warpgroup that one of its threads has issued.
struct GroupProduct {
    Kind kind;
    float* d;
    u64 a, b;
    bool add, transposed;
    bool same(const GroupProduct& o) const { return kind == o.kind && a == o.a && b == o.b && add == o.add && transposed == o.transposed; }
};

// The accumulators that products under way belong to, as they are; the thread's own copy is NaN.
struct Pending {
    float values[64];
    u32 products;
};

struct WarpGroup { u32 arrived = 0, generation = 0; };
