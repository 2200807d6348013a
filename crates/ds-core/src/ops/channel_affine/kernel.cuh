// Arguments of splines: x and its gradient are f32 or bf16, ln α f32.
#pragma once
#include "../../backend/gpu/common.cuh"

#define SHIFT(type, T)                                                                                                     \
    extern "C" __global__ void shift_##type(const T *__restrict__ x, T *__restrict__ y, float shift, int n, int aligned) { \
        begin();                                                                                                           \
        pointwise<T>(x, nullptr, y, n, aligned, [&](float x, float, long long) { return x + shift; });                     \
    }
FOR_TYPES(SHIFT)

// α of the block's channel. Shared: a float.
__device__ __forceinline__ float scale_of(const float *log_alpha) {
    SHARED(float, slot);
    return of_block(slot, [&] { return (float)exp((double)log_alpha[blockIdx.y]); });
}

template <typename V, typename T>
__device__ __forceinline__ void channel_affine(const T *x, const float *log_alpha, T *y, float shift, PLANES) {
    const float alpha = scale_of(log_alpha);
    // Rounded as on the CPU: next to a knot that decides the segment.
    by_channel<V>(x, y, rows, channels, inner, rows_per_block,
                  [&](float x) { return __fadd_rn(__fmul_rn(alpha, x), shift); });
}

// ∂x, and ∂ln α = Σ ∂y·α·x of the block's rows: partial (pieces, C). Shared: a double for each thread.
template <typename V, typename T>
__device__ __forceinline__ void channel_affine_gradient(const T *x, const float *log_alpha, const T *dy, T *dx,
                                                        double *partial, PLANES) {
    const float alpha = scale_of(log_alpha);
    by_channel_gradient<V>(x, dy, dx, partial, rows, channels, inner, rows_per_block, [&](float x, float dy, float &sum) {
        const float scaled = alpha * dy;
        sum += scaled * x;
        return scaled;
    });
}

#define CHANNEL_AFFINE(type, T, mapping, V)                                                                                \
    extern "C" __global__ void __launch_bounds__(256) channel_affine_##mapping##_##type(                                   \
        const T *__restrict__ x, const float *__restrict__ log_alpha, T *__restrict__ y, float shift, PLANES) {            \
        begin();                                                                                                           \
        channel_affine<V>(x, log_alpha, y, shift, rows, channels, inner, rows_per_block);                                  \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) channel_affine_gradient_##mapping##_##type(                          \
        const T *__restrict__ x, const float *__restrict__ log_alpha, const T *__restrict__ dy, T *__restrict__ dx,        \
        double *__restrict__ partial, PLANES) {                                                                            \
        begin();                                                                                                           \
        channel_affine_gradient<V>(x, log_alpha, dy, dx, partial, rows, channels, inner, rows_per_block);                  \
    }
#define CHANNEL_AFFINE_MAPPINGS(type, T) FOR_MAPPINGS(CHANNEL_AFFINE, type, T)
FOR_TYPES(CHANNEL_AFFINE_MAPPINGS)
