// What the emulator keeps of barriers in shared memory and of copies of boxes. Included by emulator.cpp inside its namespace.

// The words of a TensorMap as the emulator writes and reads them: values of 16 bits.
struct TensorLayout {
    u64 address;
    u64 strides[4];  // bytes, of the second extent and later ones
    u32 extents[5];
    u32 box[5];
};
static_assert(sizeof(TensorLayout) <= 128);

struct Barrier {
    u32 arrivals, pending, phase = 0;
    i64 bytes = 0;
    const void* initialised_by = nullptr;  // a fiber, until it has fenced
};

// A box under way: to or from shared memory.
struct BoxCopy {
    const TensorLayout* map;
    u32 shared;
    i64 start[5];
    bool is_load;
    u32 barrier;
};
