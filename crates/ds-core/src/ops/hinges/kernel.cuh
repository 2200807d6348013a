// Adaptive piecewise linear units: x, y and their gradients are f32 or bf16, parameters f32.
#pragma once
#include "../../backend/gpu/common.cuh"

// max(0, x) + Σ_s a_s·max(0, b_s − x). Shared: a and b of the channel.
template <typename V, typename T>
__device__ __forceinline__ void hinges(const T *x, const float *a, const float *b, T *y, int count, PLANES) {
    SHARED(float2, of_channel);
    for (int s = threadIdx.x; s < count; s += blockDim.x)
        of_channel[s] = make_float2(a[blockIdx.y * count + s], b[blockIdx.y * count + s]);
    __syncthreads();
    by_channel<V>(x, y, rows, channels, inner, rows_per_block, [&](float x) {
        float y = x > 0.0f ? x : 0.0f;
        for (int s = 0; s < count; s++)
            y += of_channel[s].y > x ? of_channel[s].x * (of_channel[s].y - x) : 0.0f;
        return y;
    });
}

// ∂x, and for each hinge Σ ∂y·max(0, b − x) and Σ ∂y·[b > x]·a: partial (pieces, C, S, 2). Shared: a double for each thread, then
// a and b of the channel. The sums take a pass for each hinge; the block's rows are still in the cache.
template <typename V, typename T>
__device__ __forceinline__ void hinges_gradient(const T *x, const float *a, const float *b, const T *dy, T *dx,
                                                double *partial, int count, PLANES) {
    SHARED(double, scratch);
    float2 *of_channel = reinterpret_cast<float2 *>(scratch + blockDim.x);
    for (int s = threadIdx.x; s < count; s += blockDim.x)
        of_channel[s] = make_float2(a[blockIdx.y * count + s], b[blockIdx.y * count + s]);
    __syncthreads();
    over_rows<V>(rows, channels, inner, rows_per_block, [&](long long at) {
        const V vector = reinterpret_cast<const V *>(x)[at], gradient = reinterpret_cast<const V *>(dy)[at];
        V out;
#pragma unroll
        for (int j = 0; j < V::COUNT; j++) {
            const float x = to_float(vector.values[j]), dy = to_float(gradient.values[j]);
            float dx = x > 0.0f ? dy : 0.0f;
            for (int s = 0; s < count; s++)
                dx -= of_channel[s].y > x ? of_channel[s].x * dy : 0.0f;
            out.values[j] = from_float<T>(dx);
        }
        reinterpret_cast<V *>(dx)[at] = out;
    });
    for (int s = 0; s < count; s++) {
        const float2 hinge = of_channel[s];
        float slope = 0.0f, offset = 0.0f;
        over_rows<V>(rows, channels, inner, rows_per_block, [&](long long at) {
            const V vector = reinterpret_cast<const V *>(x)[at], gradient = reinterpret_cast<const V *>(dy)[at];
#pragma unroll
            for (int j = 0; j < V::COUNT; j++) {
                const float x = to_float(vector.values[j]), dy = to_float(gradient.values[j]);
                slope += hinge.y > x ? dy * (hinge.y - x) : 0.0f;
                offset += hinge.y > x ? dy : 0.0f;
            }
        });
        const double of_slope = block_sum(slope, scratch), of_offset = block_sum(offset, scratch);
        if (threadIdx.x == 0) {
            double *out = partial + (((long long)blockIdx.x * channels + blockIdx.y) * count + s) * 2;
            out[0] = of_slope;
            out[1] = hinge.x * of_offset;
        }
    }
}

#define HINGES(type, T, mapping, V)                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) hinges_##mapping##_##type(                                           \
        const T *__restrict__ x, const float *__restrict__ a, const float *__restrict__ b, T *__restrict__ y, int count,   \
        PLANES) {                                                                                                          \
        begin();                                                                                                           \
        hinges<V>(x, a, b, y, count, rows, channels, inner, rows_per_block);                                               \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) hinges_gradient_##mapping##_##type(                                  \
        const T *__restrict__ x, const float *__restrict__ a, const float *__restrict__ b, const T *__restrict__ dy,       \
        T *__restrict__ dx, double *__restrict__ partial, int count, PLANES) {                                             \
        begin();                                                                                                           \
        hinges_gradient<V>(x, a, b, dy, dx, partial, count, rows, channels, inner, rows_per_block);                        \
    }
#define HINGES_MAPPINGS(type, T) FOR_MAPPINGS(HINGES, type, T)
FOR_TYPES(HINGES_MAPPINGS)
