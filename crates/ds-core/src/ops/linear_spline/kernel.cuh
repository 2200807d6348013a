// The linear spline on the GPU, forward and backward: mod.rs has the formulas, gpu.rs and backend/gpu/launch.rs the launches.
//
// A block works on some rows of one channel ("planes"), or, where planes are too small for that, on some rows of neighbouring
// columns of (N, C·inner) ("columns"). x and ∂y are read once, ∂x is written once, 16 bytes at a time where planes allow it.
//
// ∂c needs two sums for each segment. Every thread has sums of its own in shared memory, laid out (segment, thread), so that no
// two threads meet in a bank and nothing is atomic; they are added up in a fixed order, in the block and then over the blocks:
// the same input gives the same bits.
//
// The file is plain enough to be compiled as C++ beside emulation.h, which is how it is tested where there is no GPU.

#pragma once
#include "../../backend/gpu/common.cuh"

// y = σ(x). Grid: (pieces of rows, channels). Shared: a row of equal float2 for each segment, `row_bytes` in all: with 16 of them,
// each lane of a half warp, which reads 128 bytes at once, has banks of its own.
template <typename T, typename V>
__device__ __forceinline__ void forward_planes(const T *x, const float *coefficients, T *y, Knots knots, int row_bytes, PLANES) {
    SHARED(float2, lines);
    const int copies = row_bytes / (int)sizeof(float2);
    float2 *own = lines + threadIdx.x % copies;
    over_rows_ahead<2, V>(
        rows, channels, inner, rows_per_block, [&](long long at) { return packed_at<V>(x, at); },
        [&] {
            const float *c = coefficients + (long long)blockIdx.y * (knots.segments + 1);
#pragma unroll 4
            for (int k = threadIdx.x / copies; k < knots.segments; k += blockDim.x / copies)
                of_row(own, k, row_bytes) = make_float2(c[k], c[k + 1] - c[k]);
            __syncthreads();
        },
        [&](long long at, const Packed<V> &input) {
            V vector = unpacked(input);
#pragma unroll
            for (int j = 0; j < V::COUNT; j++) {
                float t;
                const float2 line = of_row(own, locate(to_float(vector.values[j]), knots, t), row_bytes);
                vector.values[j] = from_float<T>(fmaf(t, line.y, line.x));
            }
            reinterpret_cast<V *>(y)[at] = vector;
        });
}

// ∂x, and ∂c of the block's rows: partial (pieces, C, K). Grid and rows as forward. Shared: for each segment a float2 for each
// thread, then a float.
template <typename T, typename V>
__device__ __forceinline__ void backward_planes(const T *x, const float *coefficients, const T *dy, T *dx, float *partial,
                                                Knots knots, PLANES) {
    SHARED(float2, sums);
    const int threads = blockDim.x, row_bytes = threads * (int)sizeof(float2);
    float *slopes = reinterpret_cast<float *>(sums + knots.segments * threads);
    float2 *own = sums + threadIdx.x;
    struct Inputs {
        Packed<V> x, dy;
    };
    over_rows_ahead<3, V>(
        rows, channels, inner, rows_per_block,
        [&](long long at) { return Inputs{packed_at<V>(x, at), packed_at<V>(dy, at)}; },
        [&] {
            const float *c = coefficients + (long long)blockIdx.y * (knots.segments + 1);
            for (int k = threadIdx.x; k < knots.segments; k += threads)
                slopes[k] = (c[k + 1] - c[k]) / knots.step;
            for (int k = 0; k < knots.segments; k++)
                own[k * threads] = make_float2(0.0f, 0.0f);
            __syncthreads();
        },
        [&](long long at, const Inputs &inputs) {
            // What depends on nothing comes first: sums of the same thread must wait for each other.
            const V vector = unpacked(inputs.x), gradient = unpacked(inputs.dy);
            int segments[V::COUNT];
            float t[V::COUNT];
            V out;
#pragma unroll
            for (int j = 0; j < V::COUNT; j++) {
                segments[j] = locate(to_float(vector.values[j]), knots, t[j]);
                out.values[j] = from_float<T>(to_float(gradient.values[j]) * slopes[segments[j]]);
            }
            reinterpret_cast<V *>(dx)[at] = out;
            add_to_segments(own, row_bytes, segments, t, gradient);
        });
    add_up(sums, knots.segments, threads);
    float *out = partial + ((long long)blockIdx.x * channels + blockIdx.y) * (knots.segments + 1);
    for (int k = threadIdx.x; k <= knots.segments; k += threads)
        out[k] = at_knot(sums, threads, knots.segments, k);
}

// y = σ(x) for (N, M) with M = C·inner, column by column. Grid: (pieces of rows, tiles of columns); block (32, rows at a time).
template <typename T>
__device__ __forceinline__ void forward_columns(const T *x, const float *coefficients, T *y, Knots knots, int, PLANES) {
    const int width = channels * inner;
    const int column = blockIdx.y * 32 + threadIdx.x % 32;
    if (column >= width)
        return;
    const float *c = coefficients + (long long)(column / inner) * (knots.segments + 1);
    const int first = blockIdx.x * rows_per_block, end = min(first + rows_per_block, rows);
    for (int row = first + threadIdx.x / 32; row < end; row += blockDim.x / 32) {
        const long long at = (long long)row * width + column;
        float t;
        const int segment = locate(to_float(x[at]), knots, t);
        const float value = c[segment];
        y[at] = from_float<T>(fmaf(t, c[segment + 1] - value, value));
    }
}

// ∂x, and ∂c of each column of the block's rows: partial (pieces, C·inner, K). Shared: for each segment a float2 for each thread.
template <typename T>
__device__ __forceinline__ void backward_columns(const T *x, const float *coefficients, const T *dy, T *dx, float *partial,
                                                 Knots knots, PLANES) {
    SHARED(float2, sums);
    const int threads = blockDim.x, width = channels * inner;
    // Its own sums, so that nobody need wait.
    for (int i = threadIdx.x; i < knots.segments * threads; i += threads)
        sums[i] = make_float2(0.0f, 0.0f);
    const int column = blockIdx.y * 32 + threadIdx.x % 32;
    if (column < width) {
        const float *c = coefficients + (long long)(column / inner) * (knots.segments + 1);
        const int first = blockIdx.x * rows_per_block, end = min(first + rows_per_block, rows);
        for (int row = first + threadIdx.x / 32; row < end; row += threads / 32) {
            const long long at = (long long)row * width + column;
            float t;
            const int segment = locate(to_float(x[at]), knots, t);
            const float g = to_float(dy[at]);
            float2 *sum = sums + threadIdx.x + segment * threads;
            const float2 old = *sum;
            *sum = make_float2(old.x + g, fmaf(g, t, old.y));
            dx[at] = from_float<T>(g * ((c[segment + 1] - c[segment]) / knots.step));
        }
    }
    add_up_warps(sums, knots.segments, threads);
    const int knot_count = knots.segments + 1;
    for (int k = threadIdx.x; k < 32 * knot_count; k += threads) {
        const int of = blockIdx.y * 32 + k / knot_count;
        if (of < width)
            partial[((long long)blockIdx.x * width + of) * knot_count + k % knot_count] =
                at_knot(sums + k / knot_count, threads, knots.segments, k % knot_count);
    }
}

// ∂c (C, K) = Σ over the columns of a channel and the pieces of partial (pieces, C·inner, K), in that order.
extern "C" __global__ void spline_merge(const float *partial, float *dc, int pieces, int channels, int inner, int knots) {
    begin();
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= channels * knots)
        return;
    const int channel = k / knots, knot = k % knots;
    double sum = 0.0;
    for (int j = 0; j < inner; j++)
#pragma unroll 8
        for (int piece = 0; piece < pieces; piece++)
            sum += partial[(((long long)piece * channels + channel) * inner + j) * knots + knot];
    dc[k] = (float)sum;
}

#define FORWARD(name, T, ...)                                                                                            \
    extern "C" __global__ void __launch_bounds__(256, 5)                                                                 \
        name(const T *__restrict__ x, const float *__restrict__ c, T *__restrict__ y, Knots knots, int row_bytes,        \
             PLANES) {                                                                                                   \
        begin();                                                                                                         \
        __VA_ARGS__(x, c, y, knots, row_bytes, rows, channels, inner, rows_per_block);                                   \
    }
// Two blocks on a multiprocessor are what shared memory allows: half of its registers are enough for one without spilling.
#define BACKWARD(name, T, ...)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256, 2)                                                                 \
        name(const T *__restrict__ x, const float *__restrict__ c, const T *__restrict__ dy, T *__restrict__ dx,         \
             float *__restrict__ partial, Knots knots, int rows, int channels, int inner, int rows_per_block) {          \
        begin();                                                                                                         \
        __VA_ARGS__(x, c, dy, dx, partial, knots, rows, channels, inner, rows_per_block);                                \
    }
#define LINEAR_SPLINE(type, T)                                                                                                  \
    FORWARD(spline_forward_vectors_##type, T, forward_planes<T, Vector<T>>)                                               \
    FORWARD(spline_forward_scalars_##type, T, forward_planes<T, Scalar<T>>)                                               \
    FORWARD(spline_forward_columns_##type, T, forward_columns<T>)                                                         \
    BACKWARD(spline_backward_vectors_##type, T, backward_planes<T, Vector<T>>)                                            \
    BACKWARD(spline_backward_scalars_##type, T, backward_planes<T, Scalar<T>>)                                            \
    BACKWARD(spline_backward_columns_##type, T, backward_columns<T>)

LINEAR_SPLINE(f32, float)
LINEAR_SPLINE(f16, __half)
LINEAR_SPLINE(bf16, __nv_bfloat16)
