// What kernels over many arrays share, and words that the host puts on the device.
#pragma once
#include <backend/gpu/common.cuh>

// Which of `count` arrays the block works on: blocks first[k]..first[k + 1] are those of array k.
__device__ __forceinline__ int array_of_block(const int *first, int count) {
    int low = 0, high = count;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if ((int)blockIdx.x >= first[middle])
            low = middle;
        else
            high = middle;
    }
    return low;
}

// Numbers that differ from step to step, where kernels find them.
extern "C" __global__ void put_word(unsigned long long word, unsigned long long *out) { *out = word; }
