// Rectifiers: x, y and their gradients are f32 or bf16, slopes f32.
#pragma once
#include "../../backend/gpu/common.cuh"

#define RECTIFIER(type, T)                                                                                                 \
    extern "C" __global__ void rectifier_forward_##type(const T *__restrict__ x, T *__restrict__ y, float slope, int n,    \
                                                        int aligned) {                                                     \
        begin();                                                                                                           \
        pointwise<T>(x, nullptr, y, n, aligned, [&](float x, float, long long) { return rectified(slope, x); });           \
    }                                                                                                                      \
    extern "C" __global__ void rectifier_backward_##type(const T *__restrict__ x, const T *__restrict__ dy,                \
                                                         T *__restrict__ dx, float slope, int n, int aligned) {            \
        begin();                                                                                                           \
        pointwise<T>(x, dy, dx, n, aligned, [&](float x, float dy, long long) { return rectified_gradient(slope, x, dy); }); \
    }
FOR_TYPES(RECTIFIER)

template <typename V, typename T>
__device__ __forceinline__ void channel_rectifier(const T *x, const float *slopes, T *y, PLANES) {
    const float slope = slopes[blockIdx.y];
    by_channel<V>(x, y, rows, channels, inner, rows_per_block, [&](float x) { return rectified(slope, x); });
}

// ∂x, and Σ ∂y·min(x, 0) of the block's rows: partial (pieces, C). Shared: a double for each thread.
template <typename V, typename T>
__device__ __forceinline__ void channel_rectifier_gradient(const T *x, const float *slopes, const T *dy, T *dx,
                                                           double *partial, PLANES) {
    const float slope = slopes[blockIdx.y];
    by_channel_gradient<V>(x, dy, dx, partial, rows, channels, inner, rows_per_block, [&](float x, float dy, float &sum) {
        sum += x > 0.0f ? 0.0f : dy * x;
        return rectified_gradient(slope, x, dy);
    });
}

#define CHANNEL_RECTIFIER(type, T, mapping, V)                                                                             \
    extern "C" __global__ void __launch_bounds__(256) channel_rectifier_##mapping##_##type(                                \
        const T *__restrict__ x, const float *__restrict__ slopes, T *__restrict__ y, PLANES) {                            \
        begin();                                                                                                           \
        channel_rectifier<V>(x, slopes, y, rows, channels, inner, rows_per_block);                                         \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) channel_rectifier_gradient_##mapping##_##type(                       \
        const T *__restrict__ x, const float *__restrict__ slopes, const T *__restrict__ dy, T *__restrict__ dx,           \
        double *__restrict__ partial, PLANES) {                                                                            \
        begin();                                                                                                           \
        channel_rectifier_gradient<V>(x, slopes, dy, dx, partial, rows, channels, inner, rows_per_block);                  \
    }
#define CHANNEL_RECTIFIER_MAPPINGS(type, T) FOR_MAPPINGS(CHANNEL_RECTIFIER, type, T)
FOR_TYPES(CHANNEL_RECTIFIER_MAPPINGS)
