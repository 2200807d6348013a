// Activations of pairs of channels: x, y and their gradients are f32 or bf16, angles f32.
#pragma once
#include "../../backend/gpu/common.cuh"

// values → out, exchanged in each pair where the second of x is larger. A thread for each pair of vectors; a plane has `columns` of
// them, and the planes of a pair follow each other. What is moved is not rounded.
template <typename V, typename T>
__device__ __forceinline__ void exchange(const T *x, const T *values, T *out, int columns, int count) {
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= count)
        return;
    const long long first = k + (long long)(k / columns) * columns, second = first + columns;
    const V a = reinterpret_cast<const V *>(x)[first], b = reinterpret_cast<const V *>(x)[second];
    const V of_a = reinterpret_cast<const V *>(values)[first], of_b = reinterpret_cast<const V *>(values)[second];
    V larger, smaller;
#pragma unroll
    for (int j = 0; j < V::COUNT; j++) {
        const bool swap = to_float(b.values[j]) > to_float(a.values[j]);
        larger.values[j] = swap ? of_b.values[j] : of_a.values[j];
        smaller.values[j] = swap ? of_a.values[j] : of_b.values[j];
    }
    reinterpret_cast<V *>(out)[first] = larger;
    reinterpret_cast<V *>(out)[second] = smaller;
}

#define MAX_MIN(type, T, mapping, V)                                                                                       \
    extern "C" __global__ void max_min_##mapping##_##type(const T *__restrict__ x, T *__restrict__ y, int columns,         \
                                                          int count) {                                                     \
        begin();                                                                                                           \
        exchange<V>(x, x, y, columns, count);                                                                              \
    }                                                                                                                      \
    extern "C" __global__ void max_min_gradient_##mapping##_##type(const T *__restrict__ x, const T *__restrict__ dy,      \
                                                                   T *__restrict__ dx, int columns, int count) {           \
        begin();                                                                                                           \
        exchange<V>(x, dy, dx, columns, count);                                                                            \
    }
#define MAX_MIN_MAPPINGS(type, T) FOR_MAPPINGS(MAX_MIN, type, T)
FOR_TYPES(MAX_MIN_MAPPINGS)

// What one angle gives.
struct __align__(16) Reflection {
    float normal_a, normal_b, cosine, sine;
    // Without fused operations, which would decide otherwise than the CPU where both sides meet.
    __device__ __forceinline__ bool keeps(float a, float b) const {
        return __fadd_rn(__fmul_rn(a, normal_a), __fmul_rn(b, normal_b)) > 0.0f;
    }
    __device__ __forceinline__ float2 image(float a, float b) const {
        return make_float2(cosine * a + sine * b, sine * a - cosine * b);
    }
};

// That of the block's pair. Shared: 16 bytes.
__device__ __forceinline__ Reflection reflection_of(const float *angles) {
    SHARED(Reflection, slot);
    return of_block(slot, [&] {
        const double angle = angles[blockIdx.y];
        double half_sine, half_cosine, sine, cosine;
        sincos(0.5 * angle, &half_sine, &half_cosine);
        sincos(angle, &sine, &cosine);
        return Reflection{(float)half_sine, (float)-half_cosine, (float)cosine, (float)sine};
    });
}

// As over_rows, with the indices of the vectors of both channels of the block's pair; channels counts pairs.
template <typename V, typename F> __device__ __forceinline__ void over_pairs(PLANES, F f) {
    const int columns = inner / V::COUNT;
    const long long before = (long long)blockIdx.y * columns;
    over_rows<V>(rows, 2 * channels, inner, rows_per_block, [&](long long at) { f(before + at, before + at + columns); });
}

template <typename V, typename T>
__device__ __forceinline__ void householder(const T *x, const float *angles, T *y, PLANES) {
    const Reflection reflection = reflection_of(angles);
    over_pairs<V>(rows, channels, inner, rows_per_block, [&](long long first, long long second) {
        V a = reinterpret_cast<const V *>(x)[first], b = reinterpret_cast<const V *>(x)[second];
#pragma unroll
        for (int j = 0; j < V::COUNT; j++) {
            const float xa = to_float(a.values[j]), xb = to_float(b.values[j]);
            const bool kept = reflection.keeps(xa, xb);
            const float2 image = reflection.image(xa, xb);
            a.values[j] = from_float<T>(kept ? xa : image.x);
            b.values[j] = from_float<T>(kept ? xb : image.y);
        }
        reinterpret_cast<V *>(y)[first] = a;
        reinterpret_cast<V *>(y)[second] = b;
    });
}

// ∂x, and ∂θ of the block's rows: partial (pieces, C/2). Shared: a double for each thread.
template <typename V, typename T>
__device__ __forceinline__ void householder_gradient(const T *x, const float *angles, const T *dy, T *dx, double *partial,
                                                     PLANES) {
    const Reflection reflection = reflection_of(angles);
    float sum = 0.0f;
    over_pairs<V>(rows, channels, inner, rows_per_block, [&](long long first, long long second) {
        const V a = reinterpret_cast<const V *>(x)[first], b = reinterpret_cast<const V *>(x)[second];
        V da = reinterpret_cast<const V *>(dy)[first], db = reinterpret_cast<const V *>(dy)[second];
#pragma unroll
        for (int j = 0; j < V::COUNT; j++) {
            const float xa = to_float(a.values[j]), xb = to_float(b.values[j]);
            const float d1 = to_float(da.values[j]), d2 = to_float(db.values[j]);
            const bool kept = reflection.keeps(xa, xb);
            // A reflection is its own transpose.
            const float2 image = reflection.image(d1, d2);
            da.values[j] = from_float<T>(kept ? d1 : image.x);
            db.values[j] = from_float<T>(kept ? d2 : image.y);
            // The derivative of the image by θ: (−sin, cos; cos, sin)·z.
            const float along = d1 * (reflection.cosine * xb - reflection.sine * xa) +
                                d2 * (reflection.cosine * xa + reflection.sine * xb);
            sum += kept ? 0.0f : along;
        }
        reinterpret_cast<V *>(dx)[first] = da;
        reinterpret_cast<V *>(dx)[second] = db;
    });
    leave_sum(sum, partial, channels);
}

#define HOUSEHOLDER(type, T, mapping, V)                                                                                   \
    extern "C" __global__ void __launch_bounds__(256) householder_##mapping##_##type(                                      \
        const T *__restrict__ x, const float *__restrict__ angles, T *__restrict__ y, PLANES) {                            \
        begin();                                                                                                           \
        householder<V>(x, angles, y, rows, channels, inner, rows_per_block);                                               \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) householder_gradient_##mapping##_##type(                             \
        const T *__restrict__ x, const float *__restrict__ angles, const T *__restrict__ dy, T *__restrict__ dx,           \
        double *__restrict__ partial, PLANES) {                                                                            \
        begin();                                                                                                           \
        householder_gradient<V>(x, angles, dy, dx, partial, rows, channels, inner, rows_per_block);                        \
    }
#define HOUSEHOLDER_MAPPINGS(type, T) FOR_MAPPINGS(HOUSEHOLDER, type, T)
FOR_TYPES(HOUSEHOLDER_MAPPINGS)
