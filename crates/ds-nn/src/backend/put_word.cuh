// Words that the host puts on the device.
#pragma once
#include <backend/gpu/common.cuh>

// Numbers that differ from step to step, where kernels find them.
extern "C" __global__ void put_word(unsigned long long word, unsigned long long *out) {
    begin();
    *out = word;
}
