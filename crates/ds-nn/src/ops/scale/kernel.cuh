// Multiplication of a tensor with a number.
#pragma once
#include <backend/gpu/common.cuh>

#define SCALE(type, T)                                                                                                     \
    extern "C" __global__ void scale_##type(const T *__restrict__ x, T *__restrict__ y, float factor, int n, int aligned) { \
        begin();                                                                                                            \
        pointwise<T>(x, nullptr, y, n, aligned, [&](float x, float, long long) { return factor * x; });                    \
    }
FOR_TYPES(SCALE)
