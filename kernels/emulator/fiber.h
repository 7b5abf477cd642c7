// The switch from one fiber to another. emulator.cpp includes this file inside its namespace.

#ifndef __x86_64__
#error "the emulated driver switches fibers with x86-64 instructions"
#endif

#ifdef __AVX512F__
#define DMAP_MORE_REGISTERS                                                                                              \
    , "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", \
        "xmm29", "xmm30", "xmm31", "k1", "k2", "k3", "k4", "k5", "k6", "k7"
#else
#define DMAP_MORE_REGISTERS
#endif

// Stops a fiber, whose stack pointer goes to `save`, and goes on with the one whose stack pointer
// is `load`. It jumps in place of a call and a return: the processor predicts where a function
// returns to by the calls before it, and a switch by call and return would mislead it each time.
[[gnu::always_inline]] static inline void switch_fiber(void** save, void* load) {
    asm volatile(
        "leaq -128(%%rsp), %%rsp\n\t"  // below the red zone
        "pushq %%rbp\n\t"
        "pushq %%rbx\n\t"
        "leaq 1f(%%rip), %%rax\n\t"
        "pushq %%rax\n\t"
        "movq %%rsp, (%0)\n\t"
        "movq %1, %%rsp\n\t"
        "popq %%rax\n\t"
        "jmp *%%rax\n"
        "1:\n\t"
        "popq %%rbx\n\t"
        "popq %%rbp\n\t"
        "leaq 128(%%rsp), %%rsp"
        : "+D"(save), "+S"(load)
        :
        : "rax", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc", "xmm0", "xmm1", "xmm2",
          "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14",
          "xmm15" DMAP_MORE_REGISTERS);
}
