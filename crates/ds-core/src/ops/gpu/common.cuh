// What the GPU kernels share: 16 bytes at a time, the segment of an input, walks over the rows of a channel, and sums over the
// threads of a block in a fixed order.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
// One name and type for all kernels of a file, as the language wants it.
extern __shared__ __align__(16) unsigned char dynamic_shared[];
#define SHARED(type, name) type *name = reinterpret_cast<type *>(dynamic_shared)
#endif

// What an input's segment is found with, counted from the knot at 0 as on the CPU.
struct Knots {
    float step;
    // 1/step, rounded to nearest.
    float inverse;
    // The first and the last segment.
    float first;
    float last;
    // The segments left of 0, and K−1.
    int centre;
    int segments;
};

// 16 bytes of inputs.
template <typename T> struct __align__(16) Vector {
    static constexpr int COUNT = 16 / sizeof(T);
    T values[COUNT];
};
// One input, for planes that do not consist of whole vectors.
template <typename T> struct Scalar {
    static constexpr int COUNT = 1;
    T values[1];
};

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
template <typename T> __device__ __forceinline__ T from_float(float value);
template <> __device__ __forceinline__ float from_float<float>(float value) { return value; }
template <> __device__ __forceinline__ __half from_float<__half>(float value) { return __float2half_rn(value); }
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
    return __float2bfloat16_rn(value);
}

// DEFINE(name, type) for the types of what flows between layers. Parameters and sums are float whatever that is.
#define FOR_TYPES(DEFINE)                                                                                                  \
    DEFINE(f32, float)                                                                                                     \
    DEFINE(bf16, __nv_bfloat16)

// The segment of x, counted from the first, and the position in it.
__device__ __forceinline__ int locate(float x, const Knots &knots, float &t) {
    // x/step rounded as a division rounds it: one correction with the remainder makes the quotient exact to the last bit where
    // the inverse is (Markstein). An infinite quotient has no remainder.
    const float quotient = x * knots.inverse;
    const float corrected = fmaf(fmaf(-quotient, knots.step, x), knots.inverse, quotient);
    const float u = fabsf(quotient) < 1e30f ? corrected : quotient;
    // NaN takes the first segment.
    const float segment = floorf(fminf(fmaxf(u, knots.first), knots.last));
    t = u - segment;
    return (int)segment + knots.centre;
}

// Where a thread is in the vectors of some rows of one channel, without a division for each of them.
struct Walk {
    long long at;
    int column;
    int row;
    // What threads-per-block vectors are in rows and columns.
    int rows_on;
    int columns_on;
    int columns;
    long long row_stride;

    __device__ __forceinline__ Walk(int thread, int threads, int columns, long long row_stride)
        : columns(columns), row_stride(row_stride) {
        row = thread / columns;
        column = thread - row * columns;
        rows_on = threads / columns;
        columns_on = threads - rows_on * columns;
        at = row * row_stride + column;
    }
    __device__ __forceinline__ void go_on() {
        row += rows_on;
        column += columns_on;
        at += rows_on * row_stride + columns_on;
        if (column >= columns) {
            column -= columns;
            row += 1;
            at += row_stride - columns;
        }
    }
};

// Σ over the threads of a block, or of those with the same thread % width, into those below width, in a fixed order.
__device__ __forceinline__ void add_up(float2 *sums, int segments, int threads, int width) {
    // First to 32 columns at once, so that most of the sums are read once.
    if (threads > 32) {
        __syncthreads();
        for (int k = threadIdx.x; k < segments * 32; k += threads) {
            float2 *one = sums + (k / 32) * threads + k % 32;
            float2 sum = *one;
            for (int other = 32; other < threads; other += 32) {
                sum.x += one[other].x;
                sum.y += one[other].y;
            }
            *one = sum;
        }
    }
    for (int half = min(threads, 32) / 2; half >= width; half /= 2) {
        __syncthreads();
        for (int k = threadIdx.x; k < segments * half; k += threads) {
            float2 *one = sums + (k / half) * threads + k % half;
            one->x += one[half].x;
            one->y += one[half].y;
        }
    }
    __syncthreads();
}

// ∂c_k of one channel or column from the sums by segment: segment k gives Σ∂y − Σ∂y·t, segment k−1 its Σ∂y·t.
__device__ __forceinline__ float at_knot(const float2 *sums, int stride, int segments, int k) {
    const float right = k < segments ? sums[k * stride].x - sums[k * stride].y : 0.0f;
    const float left = k > 0 ? sums[(k - 1) * stride].y : 0.0f;
    return right + left;
}

// Σ over the threads of a block, in a fixed order; all threads get it. `scratch`: a double for each thread.
__device__ __forceinline__ double block_sum(double value, double *scratch) {
    __syncthreads();
    scratch[threadIdx.x] = value;
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            scratch[threadIdx.x] += scratch[threadIdx.x + half];
    }
    __syncthreads();
    const double sum = scratch[0];
    __syncthreads();
    return sum;
}

// y = f(a) or f(a, b) for n elements, a vector for each thread: 16 bytes at a time where all arrays are aligned.
template <typename T, typename F>
__device__ __forceinline__ void pointwise(const T *a, const T *b, T *y, int n, int aligned, F f) {
    constexpr int COUNT = Vector<T>::COUNT;
    const long long first = COUNT * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
    if (aligned && first + COUNT <= n) {
        const Vector<T> va = *reinterpret_cast<const Vector<T> *>(a + first);
        Vector<T> vb = va, out;
        if (b)
            vb = *reinterpret_cast<const Vector<T> *>(b + first);
#pragma unroll
        for (int j = 0; j < COUNT; j++)
            out.values[j] = from_float<T>(f(to_float(va.values[j]), to_float(vb.values[j]), first + j));
        *reinterpret_cast<Vector<T> *>(y + first) = out;
        return;
    }
    for (long long k = first; k < n && k < first + COUNT; k++)
        y[k] = from_float<T>(f(to_float(a[k]), b ? to_float(b[k]) : 0.0f, k));
}

// The last parameters of kernels that go channel by channel.
#define PLANES int rows, int channels, int inner, int rows_per_block

// Calls f(index) for the vectors of a block's rows of its channel, where V is a Vector or a Scalar: the index counts
// vectors from the start of the array.
template <typename V, typename F>
__device__ __forceinline__ void over_rows(PLANES, F f) {
    const int first = blockIdx.x * rows_per_block, count = min(rows_per_block, rows - first), columns = inner / V::COUNT;
    const long long start = ((long long)first * channels + blockIdx.y) * columns;
    for (Walk walk(threadIdx.x, blockDim.x, columns, (long long)channels * columns); walk.row < count; walk.go_on())
        f(start + walk.at);
}
