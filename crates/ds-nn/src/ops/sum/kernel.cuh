// The sum of two tensors of one type.
#pragma once
#include <backend/gpu/common.cuh>

#define ADD(type, T)                                                                                                       \
    extern "C" __global__ void add_##type(const T *__restrict__ a, const T *__restrict__ b, T *__restrict__ y, int n,      \
                                          int aligned) {                                                                   \
        begin();                                                                                                           \
        pointwise<T>(a, b, y, n, aligned, [&](float a, float b, long long) { return a + b; });                             \
    }
FOR_TYPES(ADD)
