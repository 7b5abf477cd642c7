// State of the emulator for barriers in shared memory and for copies of boxes. emulator.cpp
// includes this file inside its namespace.

// The words of a TensorMap, as the emulator writes and reads them. Values have 16 bits.
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

// A copy of a box to or from shared memory that is under way.
struct BoxCopy {
    const TensorLayout* map;
    u32 shared;
    i64 start[5];
    bool is_load;
    u32 barrier;
};
