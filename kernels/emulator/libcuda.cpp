// A stand-in for NVIDIA's libcuda: the part of the driver API that the program calls, over the
// emulated kernels. With it, the code that talks to the real driver runs on any machine.
//
// It is as late and as strict as the real driver may be. Work in a stream happens only when
// somebody waits for it. Pageable memory is staged, and pinned memory is read late. Device memory
// starts as NaN. A call that the manual forbids ends the process with one line. So does a copy from
// pageable memory that is not waited for at once, because a device that reads such memory by itself
// may do so after the call has returned.
//
// Environment variables say which device it is: STAND_IN_DRIVER, STAND_IN_DEVICES,
// STAND_IN_CAPABILITY and STAND_IN_MEMORY_MIB. Others say what it does not do: STAND_IN_REFUSES
// names kinds of images (cubin, ptx), and STAND_IN_FAILS_LAUNCH names the kernel whose launches
// fail.
#include "emulator.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

extern "C" size_t dmap_emulated_parameter_bytes(const char* name);
extern "C" u32 dmap_emulated_threads(const char* name);
extern "C" int dmap_emulated_block(const char* name, const void* parameters, const u32* grid, const u32* size, const u32* at,
                                   u32 shared_bytes, u64 seed, char* message, size_t room);

extern "C" int dmap_emulated_encode(void* map, u64 address, const u64* extents, const u64* strides, const u32* box);

namespace {

// Numbers of the driver's manual.
enum Result {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201, NO_BINARY_FOR_GPU = 209, UNSUPPORTED_PTX_VERSION = 222, NOT_FOUND = 500, NOT_READY = 600, LAUNCH_FAILED = 719,
};
enum Attribute { MULTIPROCESSORS = 16, MAJOR = 75, MINOR = 76, SHARED_OPT_IN = 97 };
constexpr int MAX_DYNAMIC_SHARED = 8;
constexpr u32 SHARED_WITHOUT_ASKING = 48 << 10, SHARED_AT_MOST = 227 << 10;

[[noreturn]] void misuse(const std::string& what) {
    fprintf(stderr, "stand-in libcuda: %s\n", what.c_str());
    fflush(stderr);
    abort();
}

std::string environment(const char* name, const char* otherwise) {
    const char* found = getenv(name);
    return found ? found : otherwise;
}
int number(const char* name, const char* otherwise) { return atoi(environment(name, otherwise).c_str()); }
int capability(int part) {
    std::string text = environment("STAND_IN_CAPABILITY", "9.0");
    return part == 0 ? atoi(text.c_str()) : atoi(text.c_str() + text.find('.') + 1);
}

using Command = std::function<Result()>;
struct Graph { std::vector<Command> commands; };
struct Stream {
    std::vector<Command> queue;
    std::unique_ptr<Graph> recorded;  // while the stream is captured
    Result broken = SUCCESS;          // a failure stays
};
struct Event { bool reached = false; std::chrono::steady_clock::time_point at; };
struct Module { std::string image; };
struct Function { std::string name; u32 shared = SHARED_WITHOUT_ASKING; };

std::recursive_mutex mutex;
std::map<u64, std::pair<void*, u64>> device_memory, pinned_memory;  // by address: allocation, bytes
u64 used_bytes = 0;
std::vector<Stream*> streams;
int context;  // its address is the handle
thread_local bool entered = false;
bool pageable_in_flight = false;

// Every call but the first few takes its turn under the lock and needs a context.
struct Call {
    std::lock_guard<std::recursive_mutex> lock{mutex};
    explicit Call(const char* name, bool during_capture = false, bool waits = false) {
        if (!entered) misuse(std::string(name) + " on a thread without a context");
        if (pageable_in_flight && !waits) misuse(std::string(name) + " before a copy from pageable memory was waited for");
        for (Stream* s : streams) {
            if (s->recorded && !during_capture) misuse(std::string(name) + " while a stream is captured");
        }
    }
};

bool holds(const std::map<u64, std::pair<void*, u64>>& memory, u64 address, u64 bytes) {
    auto after = memory.upper_bound(address);
    if (after == memory.begin()) return false;
    auto [start, allocation] = *--after;
    return address - start + bytes <= allocation.second;
}
void need_device(const char* call, u64 address, u64 bytes) {
    if (!holds(device_memory, address, bytes)) misuse(std::string(call) + ": not an allocation of the device");
}

void enqueue(Stream* s, Command c) { (s->recorded ? s->recorded->commands : s->queue).push_back(std::move(c)); }

Result finish(Stream* s) {
    std::vector<Command> queue = std::move(s->queue);
    s->queue.clear();
    for (const Command& c : queue) {
        if (s->broken == SUCCESS) s->broken = c();
    }
    return s->broken;
}

u64 allocate(std::map<u64, std::pair<void*, u64>>& memory, u64 bytes) {
    void* p = aligned_alloc(512, (bytes + 511) / 512 * 512);
    memset(p, 0xff, bytes);
    memory[reinterpret_cast<u64>(p)] = {p, bytes};
    return reinterpret_cast<u64>(p);
}
Result release(const char* call, std::map<u64, std::pair<void*, u64>>& memory, u64 address) {
    auto found = memory.find(address);
    if (found == memory.end()) misuse(std::string(call) + ": freed twice, or never allocated");
    for (Stream* s : streams) {
        if (!s->queue.empty()) misuse(std::string(call) + ": freed while a stream has work left");
    }
    free(found->second.first);
    memory.erase(found);
    return SUCCESS;
}

// Whether the device accepts an image. A CUBIN names its chip in the flags of its header, PTX in
// its text.
Result accepts(const std::string& image) {
    int have = 10 * capability(0) + capability(1);
    const bool cubin = image.compare(0, 4, "\177ELF") == 0;
    const std::string refused = environment("STAND_IN_REFUSES", "");
    if (refused.find(cubin ? "cubin" : "ptx") != std::string::npos) return cubin ? INVALID_IMAGE : UNSUPPORTED_PTX_VERSION;
    if (cubin) {
        int built = u8(image[49]);  // second byte of e_flags
        return built / 10 == have / 10 && built <= have ? SUCCESS : NO_BINARY_FOR_GPU;
    }
    size_t target = image.find(".target sm_");
    if (target == std::string::npos) return INVALID_IMAGE;
    return atoi(image.c_str() + target + 11) <= have ? SUCCESS : NO_BINARY_FOR_GPU;
}

}  // namespace

#define API extern "C" Result
#define DURING_CAPTURE true

API cuInit(u32) { return number("STAND_IN_DEVICES", "1") ? SUCCESS : NO_DEVICE; }
API cuDriverGetVersion(int* version) { return *version = number("STAND_IN_DRIVER", "13000"), SUCCESS; }
API cuDeviceGetCount(int* count) { return *count = number("STAND_IN_DEVICES", "1"), SUCCESS; }
API cuDeviceGet(int* device, int ordinal) {
    return *device = ordinal, ordinal < number("STAND_IN_DEVICES", "1") ? SUCCESS : INVALID_DEVICE;
}
API cuDeviceGetName(char* name, int room, int) { return snprintf(name, room, "Stand-in GPU"), SUCCESS; }
API cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
        // The same number as the emulated device, so that launches and bits are the same.
        case MULTIPROCESSORS: return *value = 2, SUCCESS;
        case MAJOR: return *value = capability(0), SUCCESS;
        case MINOR: return *value = capability(1), SUCCESS;
        case SHARED_OPT_IN: return *value = SHARED_AT_MOST, SUCCESS;
    }
    misuse("cuDeviceGetAttribute: attribute " + std::to_string(attribute) + " is not known here");
}
API cuGetErrorName(Result e, const char** name) {
    switch (e) {
        case OUT_OF_MEMORY: return *name = "CUDA_ERROR_OUT_OF_MEMORY", SUCCESS;
        case NO_DEVICE: return *name = "CUDA_ERROR_NO_DEVICE", SUCCESS;
        case INVALID_IMAGE: return *name = "CUDA_ERROR_INVALID_IMAGE", SUCCESS;
        case NO_BINARY_FOR_GPU: return *name = "CUDA_ERROR_NO_BINARY_FOR_GPU", SUCCESS;
        case UNSUPPORTED_PTX_VERSION: return *name = "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", SUCCESS;
        default: return *name = "CUDA_ERROR", SUCCESS;
    }
}
API cuGetErrorString(Result e, const char** text) {
    return *text = e == NO_DEVICE ? "no CUDA-capable device is detected" : "see the manual", SUCCESS;
}
API cuDevicePrimaryCtxRetain(void** out, int) { return *out = &context, SUCCESS; }
API cuCtxSetCurrent(void* wanted) { return entered = wanted == &context, entered ? SUCCESS : INVALID_CONTEXT; }

API cuMemAlloc_v2(u64* address, size_t bytes) {
    Call call("cuMemAlloc");
    if (bytes == 0) return INVALID_VALUE;
    u64 room = u64(number("STAND_IN_MEMORY_MIB", "65536")) << 20;
    if (used_bytes + bytes > room) return OUT_OF_MEMORY;
    used_bytes += bytes;
    return *address = allocate(device_memory, bytes), SUCCESS;
}
API cuMemFree_v2(u64 address) {
    Call call("cuMemFree");
    used_bytes -= device_memory.count(address) ? device_memory[address].second : 0;
    return release("cuMemFree", device_memory, address);
}
API cuMemGetInfo_v2(size_t* available, size_t* total) {
    Call call("cuMemGetInfo");
    *total = size_t(number("STAND_IN_MEMORY_MIB", "65536")) << 20;
    return *available = *total - used_bytes, SUCCESS;
}
API cuMemHostAlloc(void** p, size_t bytes, u32) {
    Call call("cuMemHostAlloc");
    return *p = reinterpret_cast<void*>(allocate(pinned_memory, bytes)), SUCCESS;
}
API cuMemFreeHost(void* p) {
    Call call("cuMemFreeHost");
    return release("cuMemFreeHost", pinned_memory, reinterpret_cast<u64>(p));
}

API cuMemcpyHtoDAsync_v2(u64 to, const void* from, size_t bytes, Stream* s) {
    Call call("cuMemcpyHtoDAsync", DURING_CAPTURE);
    need_device("cuMemcpyHtoDAsync", to, bytes);
    auto copy = [=](const void* source) { return memcpy(reinterpret_cast<void*>(to), source, bytes), SUCCESS; };
    if (holds(pinned_memory, reinterpret_cast<u64>(from), bytes)) {
        enqueue(s, [=] { return copy(from); });
    } else {
        if (s->recorded) misuse("cuMemcpyHtoDAsync: pageable memory in a captured stream");
        auto staged = std::make_shared<std::string>(static_cast<const char*>(from), bytes);
        enqueue(s, [=] { return copy(staged->data()); });
        pageable_in_flight = true;
    }
    return SUCCESS;
}
API cuMemcpyDtoHAsync_v2(void* to, u64 from, size_t bytes, Stream* s) {
    Call call("cuMemcpyDtoHAsync");
    need_device("cuMemcpyDtoHAsync", from, bytes);
    enqueue(s, [=] { return memcpy(to, reinterpret_cast<void*>(from), bytes), SUCCESS; });
    return SUCCESS;
}
API cuMemcpyDtoDAsync_v2(u64 to, u64 from, size_t bytes, Stream* s) {
    Call call("cuMemcpyDtoDAsync", DURING_CAPTURE);
    need_device("cuMemcpyDtoDAsync", from, bytes);
    need_device("cuMemcpyDtoDAsync", to, bytes);
    enqueue(s, [=] { return memmove(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes), SUCCESS; });
    return SUCCESS;
}
API cuMemsetD8Async(u64 to, u8 value, size_t bytes, Stream* s) {
    Call call("cuMemsetD8Async", DURING_CAPTURE);
    need_device("cuMemsetD8Async", to, bytes);
    enqueue(s, [=] { return memset(reinterpret_cast<void*>(to), value, bytes), SUCCESS; });
    return SUCCESS;
}

API cuModuleLoadData(Module** out, const void* image) {
    Call call("cuModuleLoadData");
    const char* text = static_cast<const char*>(image);
    size_t bytes = 0;
    if (memcmp(text, "\177ELF", 4) == 0) {
        // The section headers are at the end of NVRTC's files.
        u64 sections;
        unsigned short size, count;
        memcpy(&sections, text + 40, 8), memcpy(&size, text + 58, 2), memcpy(&count, text + 60, 2);
        bytes = sections + u64(size) * count;
    } else {
        bytes = strlen(text) + 1;
    }
    auto module = new Module{std::string(text, bytes)};
    *out = module;
    return accepts(module->image);
}
API cuModuleGetFunction(Function** out, Module* module, const char* name) {
    Call call("cuModuleGetFunction");
    // A name ends with a zero in the string table of a CUBIN, and with a parenthesis in PTX.
    bool cubin = module->image[0] == '\177';
    std::string wanted = cubin ? '\0' + std::string(name) + '\0' : " " + std::string(name) + "(";
    bool there = module->image.find(wanted) != std::string::npos && dmap_emulated_parameter_bytes(name) != 0;
    return *out = there ? new Function{name} : nullptr, there ? SUCCESS : NOT_FOUND;
}
API cuFuncSetAttribute(Function* f, int attribute, int value) {
    Call call("cuFuncSetAttribute");
    if (attribute != MAX_DYNAMIC_SHARED || value < 0 || u32(value) > SHARED_AT_MOST) return INVALID_VALUE;
    return f->shared = u32(value), SUCCESS;
}
API cuLaunchKernel(Function* f, u32 gx, u32 gy, u32 gz, u32 bx, u32 by, u32 bz, u32 shared, Stream* s, void** parameters,
                   void** extra) {
    Call call("cuLaunchKernel", DURING_CAPTURE);
    bool fits = gx && gy && gz && gy <= 65535 && gz <= 65535 && bx && by * bz == 1 && bx <= dmap_emulated_threads(f->name.c_str());
    if (!fits || shared > f->shared || extra || f->name == environment("STAND_IN_FAILS_LAUNCH", "")) return INVALID_VALUE;
    // The struct is copied at the launch, as in the real driver.
    std::vector<u64> words((dmap_emulated_parameter_bytes(f->name.c_str()) + 7) / 8);
    memcpy(words.data(), parameters[0], dmap_emulated_parameter_bytes(f->name.c_str()));
    enqueue(s, [=, name = f->name] {
        const u32 grid[3] = {gx, gy, gz}, size[3] = {bx, 1, 1};
        char message[256];
        for (u64 i = 0; i < u64(gx) * gy * gz; i++) {
            const u32 at[3] = {u32(i % gx), u32(i / gx % gy), u32(i / gx / gy)};
            if (dmap_emulated_block(name.c_str(), words.data(), grid, size, at, shared, i, message, sizeof message)) {
                fprintf(stderr, "stand-in libcuda: %s: %s\n", name.c_str(), message);
                return LAUNCH_FAILED;
            }
        }
        return SUCCESS;
    });
    return SUCCESS;
}

// Checks only the arguments that the program varies: five extents of 16-bit values, in swizzled
// rows of 128 bytes, with zeros outside.
API cuTensorMapEncodeTiled(void* map, int type, u32 rank, u64 address, const u64* extents, const u64* strides, const u32* box,
                           const u32* steps, int interleave, int swizzle, int, int fill) {
    const bool is_of_16_bits = type == 6 || type == 9;
    for (int d = 0; d < 5; d++) {
        if (rank != 5 || steps[d] != 1) return INVALID_VALUE;
    }
    if (!is_of_16_bits || interleave || swizzle != 3 || fill || reinterpret_cast<u64>(map) % 64) return INVALID_VALUE;
    need_device("cuTensorMapEncodeTiled", address, 2);
    return dmap_emulated_encode(map, address, extents, strides, box) ? INVALID_VALUE : SUCCESS;
}

API cuStreamCreate(Stream** out, u32) {
    Call call("cuStreamCreate");
    streams.push_back(*out = new Stream);
    return SUCCESS;
}
API cuStreamSynchronize(Stream* s) {
    Call call("cuStreamSynchronize", false, true);
    pageable_in_flight = false;
    return finish(s);
}
API cuStreamBeginCapture_v2(Stream* s, int) {
    Call call("cuStreamBeginCapture");
    s->recorded = std::make_unique<Graph>();
    return SUCCESS;
}
API cuStreamEndCapture(Stream* s, Graph** out) {
    Call call("cuStreamEndCapture", DURING_CAPTURE);
    if (!s->recorded) misuse("cuStreamEndCapture: nothing is captured");
    return *out = s->recorded.release(), SUCCESS;
}
API cuGraphInstantiateWithFlags(Graph** out, Graph* graph, u64) {
    Call call("cuGraphInstantiate");
    return *out = new Graph(*graph), SUCCESS;
}
API cuGraphDestroy(Graph* graph) {
    Call call("cuGraphDestroy");
    return delete graph, SUCCESS;
}
API cuGraphExecDestroy(Graph* graph) { return cuGraphDestroy(graph); }
API cuGraphLaunch(Graph* graph, Stream* s) {
    Call call("cuGraphLaunch");
    for (const Command& c : graph->commands) enqueue(s, c);
    return SUCCESS;
}

API cuEventCreate(Event** out, u32) { return *out = new Event, SUCCESS; }
API cuEventDestroy_v2(Event* e) { return delete e, SUCCESS; }
API cuEventRecord(Event* e, Stream* s) {
    Call call("cuEventRecord");
    e->reached = false;
    enqueue(s, [=] { return e->at = std::chrono::steady_clock::now(), e->reached = true, SUCCESS; });
    return SUCCESS;
}
API cuEventSynchronize(Event* e) {
    Call call("cuEventSynchronize");
    for (Stream* s : streams) {
        if (Result r = finish(s)) return r;
    }
    return e->reached ? SUCCESS : NOT_READY;
}
API cuEventElapsedTime(float* milliseconds, Event* start, Event* end) {
    Call call("cuEventElapsedTime");
    if (!start->reached || !end->reached) return NOT_READY;
    return *milliseconds = std::chrono::duration<float, std::milli>(end->at - start->at).count(), SUCCESS;
}
