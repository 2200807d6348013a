// Biases and their gradients: y is f32 or bf16, biases are f32.
#pragma once
#include <backend/gpu/common.cuh>

// y (N, C, inner) += bias (C).
#define ADD_BIAS(type, T)                                                                                                  \
    extern "C" __global__ void add_bias_##type(T *y, const float *__restrict__ bias, int channels, int inner, int n,       \
                                               int aligned) {                                                              \
        begin();                                                                                                           \
        pointwise<T>(y, nullptr, y, n, aligned,                                                                            \
                     [&](float y, float, long long at) { return y + bias[(int)at / inner % channels]; });                  \
    }
FOR_TYPES(ADD_BIAS)

// Σ over the block's rows of a channel: partial (pieces, C). Shared: a double for each thread.
template <typename V, typename T> __device__ __forceinline__ void channel_sums(const T *x, double *partial, PLANES) {
    SHARED(double, scratch);
    float sum = 0.0f;
    over_rows<V>(rows, channels, inner, rows_per_block, [&](long long at) {
        const V vector = reinterpret_cast<const V *>(x)[at];
#pragma unroll
        for (int j = 0; j < V::COUNT; j++)
            sum += to_float(vector.values[j]);
    });
    const double total = block_sum(sum, scratch);
    if (threadIdx.x == 0)
        partial[(long long)blockIdx.x * channels + blockIdx.y] = total;
}
#define CHANNEL_SUMS(type, T)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) channel_sums_vectors_##type(const T *__restrict__ x,                 \
                                                                                  double *partial, PLANES) {               \
        begin();                                                                                                           \
        channel_sums<Vector<T>>(x, partial, rows, channels, inner, rows_per_block);                                        \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) channel_sums_scalars_##type(const T *__restrict__ x,                 \
                                                                                  double *partial, PLANES) {               \
        begin();                                                                                                           \
        channel_sums<Scalar<T>>(x, partial, rows, channels, inner, rows_per_block);                                        \
    }
FOR_TYPES(CHANNEL_SUMS)
