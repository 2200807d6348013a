// Enough of CUDA to run a kernel on the CPU, one block after the other: every thread is a fiber, and __syncthreads goes on to
// the next one. Shared memory is filled with NaN before each block, and each array has NaN around it, so that what was not
// written or not meant shows in the results.
#pragma once
#include <immintrin.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __align__(n) alignas(n)
#define __launch_bounds__(...)
#define SHARED(type, name) type *name = reinterpret_cast<type *>(emulation::shared.data())

// One kernel runs after the other.
inline void begin() {}

struct float2 {
    float x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
struct double2 {
    double x, y;
};
inline double2 make_double2(double x, double y) { return {x, y}; }
struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

struct __half {
    uint16_t bits;
};
inline float __half2float(__half h) { return _cvtsh_ss(h.bits); }
inline __half __float2half_rn(float f) { return {_cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT)}; }

struct __nv_bfloat16 {
    uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 b) {
    const uint32_t bits = static_cast<uint32_t>(b.bits) << 16;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}
inline __nv_bfloat16 __float2bfloat16_rn(float f) {
    if (std::isnan(f))
        return {0x7fc0};
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

// CUDA's min, fminf and fmaxf give the number where the other operand is NaN, as those of C do.
template <typename T> T min(T a, T b) { return a < b ? a : b; }
template <typename T> T max(T a, T b) { return a > b ? a : b; }

// The sum rounded down: one too large by rounding to nearest shows in what the rounding took away, which is exact (Knuth).
inline float __fadd_rd(float a, float b) {
    const float sum = a + b, of_b = sum - a;
    const float lost = (a - (sum - of_b)) + (b - of_b);
    return lost < 0.0f ? std::nextafter(sum, -INFINITY) : sum;
}
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline int __float_as_int(float f) {
    int bits;
    std::memcpy(&bits, &f, 4);
    return bits;
}

namespace emulation {
// 64-bit words, so that it is aligned for every type.
inline std::vector<double> shared;
inline dim3 thread, block, threads, blocks;

constexpr size_t STACK = 64 << 10;
struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(STACK);
    unsigned index;
    bool done;
    // At a barrier of the block.
    bool waiting;
};
inline ucontext_t scheduler;
inline std::vector<Fiber> fibers;
inline Fiber *current;
inline std::function<void()> kernel;

inline void enter() {
    kernel();
    current->done = true;
    swapcontext(&current->context, &scheduler);
}

// Lets the others go on.
inline void pass() {
    swapcontext(&current->context, &scheduler);
    thread.x = current->index;
}

inline void synchronize() {
    current->waiting = true;
    pass();
}

// Where the threads of a warp wait for each other.
struct Warp {
    unsigned arrived, generation;
};
inline Warp warps[32];

// Each round goes on with every thread up to its next barrier, forwards and backwards by turns: a missing barrier is wrong in one
// of the two.
inline void run_block() {
    for (unsigned t = 0; t < threads.x; t++) {
        Fiber &fiber = fibers[t];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.index = t;
        fiber.done = fiber.waiting = false;
        makecontext(&fiber.context, enter, 0);
    }
    for (Warp &warp : warps)
        warp.arrived = 0;
    bool forwards = true;
    for (bool alive = true; alive; forwards = !forwards) {
        alive = false;
        bool moved = false;
        for (unsigned k = 0; k < threads.x; k++) {
            current = &fibers[forwards ? k : threads.x - 1 - k];
            if (current->done)
                continue;
            alive = true;
            if (current->waiting)
                continue;
            moved = true;
            thread.x = current->index;
            swapcontext(&scheduler, &current->context);
        }
        // All that are left have come to the barrier.
        if (!moved)
            for (unsigned k = 0; k < threads.x; k++)
                fibers[k].waiting = false;
    }
}

inline void launch(dim3 grid, unsigned threads_of_block, size_t shared_bytes, std::function<void()> f) {
    kernel = std::move(f);
    threads.x = threads_of_block;
    blocks = grid;
    if (fibers.size() < threads_of_block)
        fibers = std::vector<Fiber>(threads_of_block);
    for (block.y = 0; block.y < grid.y; block.y++)
        for (block.x = 0; block.x < grid.x; block.x++) {
            shared.assign((shared_bytes + 7) / 8, NAN);
            shared.shrink_to_fit();
            run_block();
        }
}
} // namespace emulation

// TF32 has ten bits after the point; halves are rounded away from 0.
inline float to_tf32(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    bits = (bits + 0x1000) & ~0x1fffu;
    std::memcpy(&value, &bits, 4);
    return value;
}

// mma.m16n8k8 by the threads of a warp, which all must call it: each lays down its part of the factors, and goes on when the others
// have done so.
namespace emulation {
struct Factors {
    float a[32][4], b[32][2];
};
inline Factors factors[2][32];
} // namespace emulation
inline void multiply_add(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
    const unsigned thread = emulation::thread.x, lane = thread % 32;
    emulation::Warp &warp = emulation::warps[thread / 32];
    const unsigned generation = warp.generation;
    emulation::Factors &of = emulation::factors[generation % 2][thread / 32];
    std::memcpy(of.a[lane], a, sizeof a);
    std::memcpy(of.b[lane], b, sizeof b);
    if (++warp.arrived == 32) {
        warp.arrived = 0;
        warp.generation++;
    }
    while (warp.generation == generation)
        emulation::pass();
    for (unsigned r = 0; r < 4; r++) {
        const unsigned row = lane / 4 + 8 * (r / 2), column = 2 * (lane % 4) + r % 2;
        for (unsigned k = 0; k < 8; k++)
            c[r] += of.a[row % 8 * 4 + k % 4][row / 8 + 2 * (k / 4)] * of.b[column * 4 + k % 4][k / 4];
    }
}

#define threadIdx emulation::thread
#define blockIdx emulation::block
#define blockDim emulation::threads
#define gridDim emulation::blocks
#define __syncthreads emulation::synchronize
