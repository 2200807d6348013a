// Dropout, drawn from a key and the position.
#pragma once
#include <backend/gpu/common.cuh>

// The finaliser of SplitMix64, as in rng.rs.
__device__ __forceinline__ unsigned long long hash(unsigned long long key, unsigned long long index) {
    unsigned long long z = key + (index + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

// `step`, if there is one, has the key of the step, with which `key` is hashed.
#define DROPOUT(type, T)                                                                                                   \
    extern "C" __global__ void dropout_##type(const T *__restrict__ x, T *__restrict__ y, const unsigned long long *step,  \
                                              unsigned long long key, unsigned long long threshold, float scale, int n,    \
                                              int aligned) {                                                               \
        begin();                                                                                                           \
        const unsigned long long drawn = step ? hash(*step, key) : key;                                                    \
        pointwise<T>(x, nullptr, y, n, aligned, [&](float x, float, long long at) {                                        \
            return (hash(drawn, at) >> 32) >= threshold ? x * scale : 0.0f;                                                \
        });                                                                                                                \
    }
FOR_TYPES(DROPOUT)
