// What the GPU kernels share: 16 bytes at a time, the segment of an input, walks over the rows of a channel, and sums over the
// threads of a block in a fixed order.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
// One name and type for all kernels of a file, as the language wants it.
extern __shared__ __align__(16) unsigned char dynamic_shared[];
#define SHARED(type, name) type *name = reinterpret_cast<type *>(dynamic_shared)

// Every kernel begins with it (programmatic dependent launch): the next one may be launched, and the results of the one before are
// waited for. On older cards a kernel is launched when the one before it has ended.
__device__ __forceinline__ void begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
#endif

// A rectifier: x where it is positive, slope·x elsewhere. Slope 0 is ReLU, which is 0 at −∞, too.
__device__ __forceinline__ float rectified(float slope, float x) {
    if (x > 0.0f) return x;
    return slope == 0.0f && x <= 0.0f ? 0.0f : slope * x;
}
// Its gradient at x.
__device__ __forceinline__ float rectified_gradient(float slope, float x, float dy) {
    if (x > 0.0f) return dy;
    return slope == 0.0f ? 0.0f : slope * dy;
}

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

// The same as words, which are no numbers of their own until they are unpacked: a compiler that may look into a vector that is
// still under way waits for it.
template <typename V> struct Packed;
template <typename T> struct __align__(16) Packed<Vector<T>> {
    unsigned words[4];
};
template <typename T> struct Packed<Scalar<T>> {
    T value;
};
template <typename T> __device__ __forceinline__ Vector<T> unpacked(const Packed<Vector<T>> &packed) {
    Vector<T> vector;
    memcpy(&vector, &packed, 16);
    return vector;
}
template <typename T> __device__ __forceinline__ Scalar<T> unpacked(const Packed<Scalar<T>> &packed) { return {{packed.value}}; }
template <typename V, typename T> __device__ __forceinline__ Packed<V> packed_at(const T *array, long long at) {
    return reinterpret_cast<const Packed<V> *>(array)[at];
}

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

// The segment of x, counted from the first, and the position in it. For up to 2²³ segments.
__device__ __forceinline__ int locate(float x, const Knots &knots, float &t) {
    // x/step rounded as a division rounds it: one correction with the remainder makes the quotient exact to the last bit where
    // the inverse is (Markstein). An infinite quotient has no remainder.
    const float quotient = x * knots.inverse;
    const float corrected = fmaf(fmaf(-quotient, knots.step, x), knots.inverse, quotient);
    const float u = fabsf(quotient) < 1e30f ? corrected : quotient;
    // Floats from 2²³ to 2²⁴ are the whole numbers: a sum there that is rounded down is a floor, and its last bits count the
    // segment, without the conversions, which are slow. NaN takes the first segment.
    const float zero = 8388608.0f + knots.centre;
    const float floored = __fadd_rd(fminf(fmaxf(u, knots.first), knots.last), zero);
    t = u - (floored - zero);
    return __float_as_int(floored) & 0x7fffff;
}

// Where a thread is in the vectors of some rows of one channel, without a division for each of them.
struct Walk {
    long long at;
    int column;
    int row;
    // What threads-per-block vectors are in rows and columns.
    int row_step;
    int column_step;
    int columns;
    long long row_stride;

    __device__ __forceinline__ Walk(int thread, int threads, int columns, long long row_stride)
        : columns(columns), row_stride(row_stride) {
        row = thread / columns;
        column = thread - row * columns;
        row_step = threads / columns;
        column_step = threads - row_step * columns;
        at = row * row_stride + column;
    }
    __device__ __forceinline__ void advance() {
        row += row_step;
        column += column_step;
        at += row_step * row_stride + column_step;
        if (column >= columns) {
            column -= columns;
            row += 1;
            at += row_stride - columns;
        }
    }
};

// Σ over the threads of a block with the same thread % 32, into those below 32, in a fixed order.
__device__ __forceinline__ void add_up_warps(float2 *sums, int segments, int threads) {
    __syncthreads();
    if (threads == 32)
        return;
    for (int k = threadIdx.x; k < segments * 32; k += threads) {
        float2 *one = sums + (k / 32) * threads + k % 32;
        float2 sum = *one;
#pragma unroll 4
        for (int other = 32; other < threads; other += 32) {
            const float2 more = one[other];
            sum.x += more.x;
            sum.y += more.y;
        }
        *one = sum;
    }
    __syncthreads();
}

// Σ over the threads of a block into the first, in a fixed order.
__device__ __forceinline__ void add_up(float2 *sums, int segments, int threads) {
    add_up_warps(sums, segments, threads);
    // A thread for each segment; each begins at another bank. Four sums, so that one need not wait for the other.
    for (int k = threadIdx.x; k < segments; k += threads) {
        float2 *row = sums + k * threads, sum[4];
#pragma unroll
        for (int j = 0; j < 4; j++)
            sum[j] = row[(k + j) % 32];
#pragma unroll
        for (int j = 4; j < 32; j++) {
            const float2 more = row[(k + j) % 32];
            sum[j % 4].x += more.x;
            sum[j % 4].y += more.y;
        }
        *row = make_float2((sum[0].x + sum[1].x) + (sum[2].x + sum[3].x), (sum[0].y + sum[1].y) + (sum[2].y + sum[3].y));
    }
    __syncthreads();
}

// ∂c_k of one channel or column from the sums by segment: segment k gives Σ∂y − Σ∂y·t, segment k−1 its Σ∂y·t.
__device__ __forceinline__ float at_knot(const float2 *sums, int stride, int segments, int k) {
    const float right = k < segments ? sums[k * stride].x - sums[k * stride].y : 0.0f;
    const float left = k > 0 ? sums[(k - 1) * stride].y : 0.0f;
    return right + left;
}

__device__ __forceinline__ double plus(double a, double b) { return a + b; }
__device__ __forceinline__ double2 plus(double2 a, double2 b) { return make_double2(a.x + b.x, a.y + b.y); }

// Σx and Σx² of `count` numbers from Σd and Σd², with d = x − origin.
__device__ __forceinline__ double2 sums_from_origin(double alone, double squares, double origin, double count) {
    return make_double2(alone + count * origin, squares + origin * (2.0 * alone + count * origin));
}

// Σ of count numbers from `start` on, each `stride` after the other, in a fixed order: two sums, so that one need not wait for
// the other. `zero`: 0 of the type.
template <typename S> __device__ __forceinline__ S strided_sum(const S *start, int count, int stride, S zero) {
    S even = zero, odd = zero;
#pragma unroll 2
    for (int k = 1; k < count; k += 2) {
        even = plus(even, start[0]);
        odd = plus(odd, start[stride]);
        start += 2 * stride;
    }
    if (count % 2)
        even = plus(even, start[0]);
    return plus(even, odd);
}

// Σ over the threads of a block, a multiple of 16, in a fixed order; all threads get it. `scratch`: a number for each thread,
// which is a double or a double2.
template <typename N, typename S> __device__ __forceinline__ S block_sum(N value, S *scratch) {
    const S zero = {};
    const int parts = blockDim.x / 16;
    __syncthreads();
    scratch[threadIdx.x] = value;
    __syncthreads();
    if (threadIdx.x < parts)
        scratch[threadIdx.x] = strided_sum(scratch + threadIdx.x, 16, parts, zero);
    __syncthreads();
    if (threadIdx.x == 0)
        scratch[0] = strided_sum(scratch, parts, 1, zero);
    __syncthreads();
    const S sum = scratch[0];
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
    for (Walk walk(threadIdx.x, blockDim.x, columns, (long long)channels * columns); walk.row < count; walk.advance())
        f(start + walk.at);
}

// The element of a row of a table, whose first is at `column`.
template <typename E> __device__ __forceinline__ E &of_row(E *column, int row, int row_bytes) {
    return *reinterpret_cast<E *>(reinterpret_cast<unsigned char *>(column) + row * row_bytes);
}

// Adds ∂y and ∂y·t of a vector's elements to a thread's sums of their segments, which begin at `own`: one after the other, since two
// may be in the same segment.
template <typename V>
__device__ __forceinline__ void add_to_segments(float2 *own, int row_bytes, const int (&segments)[V::COUNT],
                                                const float (&t)[V::COUNT], const V &gradient) {
#pragma unroll
    for (int j = 0; j < V::COUNT; j++) {
        const float g = to_float(gradient.values[j]);
        float2 &sum = of_row(own, segments[j], row_bytes);
        const float2 old = sum;
        sum = make_float2(old.x + g, fmaf(g, t[j], old.y));
    }
}

// As over_rows, but f(index, inputs) gets what load(index) gave, and the loads of the next DEPTH vectors are under way while one
// is worked on: where tables leave room for few threads, they alone do not keep memory busy. prepare() is called when the first
// of them are, and ends with a barrier if it makes tables.
template <int DEPTH, typename V, typename L, typename P, typename F>
__device__ __forceinline__ void over_rows_ahead(PLANES, L load, P prepare, F f) {
    const int first = blockIdx.x * rows_per_block, columns = inner / V::COUNT, threads = blockDim.x;
    const int vectors = min(rows_per_block, rows - first) * columns;
    Walk walk(threadIdx.x, threads, columns, (long long)channels * columns);
    walk.at += ((long long)first * channels + blockIdx.y) * columns;
    int left = threadIdx.x < vectors ? (vectors - (int)threadIdx.x - 1) / threads + 1 : 0;
    // A ring that the unrolled loops keep in registers.
    decltype(load(0LL)) ring[DEPTH];
    long long at[DEPTH];
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
        at[k] = walk.at;
        if (k < left)
            ring[k] = load(at[k]);
        walk.advance();
    }
    prepare();
    while (left > 0) {
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            const auto inputs = ring[k];
            const long long here = at[k];
            at[k] = walk.at;
            if (left > DEPTH)
                ring[k] = load(at[k]);
            walk.advance();
            f(here, inputs);
            if (--left == 0)
                return;
        }
    }
}

// y = f(x) for the block's rows of its channel.
template <typename V, typename T, typename F>
__device__ __forceinline__ void by_channel(const T *x, T *y, PLANES, F f) {
    over_rows<V>(rows, channels, inner, rows_per_block, [&](long long at) {
        V vector = reinterpret_cast<const V *>(x)[at];
#pragma unroll
        for (int j = 0; j < V::COUNT; j++)
            vector.values[j] = from_float<T>(f(to_float(vector.values[j])));
        reinterpret_cast<V *>(y)[at] = vector;
    });
}

// What f gives to the block's first thread, for all of them. `slot` is shared memory.
template <typename N, typename F> __device__ __forceinline__ N of_block(N *slot, F f) {
    if (threadIdx.x == 0)
        *slot = f();
    __syncthreads();
    return *slot;
}

// Σ over the threads of a block to its piece and channel: partial (pieces, C). Shared: a double for each thread.
__device__ __forceinline__ void leave_sum(float sum, double *partial, int channels) {
    SHARED(double, scratch);
    const double total = block_sum(sum, scratch);
    if (threadIdx.x == 0)
        partial[(long long)blockIdx.x * channels + blockIdx.y] = total;
}

// ∂x = f(x, ∂y, sum) for the block's rows of its channel; f adds to the sum, which goes to partial (pieces, C). Shared: a double for
// each thread.
template <typename V, typename T, typename F>
__device__ __forceinline__ void by_channel_gradient(const T *x, const T *dy, T *dx, double *partial, PLANES, F f) {
    float sum = 0.0f;
    over_rows<V>(rows, channels, inner, rows_per_block, [&](long long at) {
        const V vector = reinterpret_cast<const V *>(x)[at], gradient = reinterpret_cast<const V *>(dy)[at];
        V out;
#pragma unroll
        for (int j = 0; j < V::COUNT; j++)
            out.values[j] = from_float<T>(f(to_float(vector.values[j]), to_float(gradient.values[j]), sum));
        reinterpret_cast<V *>(dx)[at] = out;
    });
    leave_sum(sum, partial, channels);
}

// DEFINE(type, T, mapping, V) for vectors and scalars of one type.
#define FOR_MAPPINGS(DEFINE, type, T)                                                                                      \
    DEFINE(type, T, vectors, Vector<T>)                                                                                    \
    DEFINE(type, T, scalars, Scalar<T>)

// out (count) = Σ over pieces of partial (pieces, count, every), of each the first, in that order.
extern "C" __global__ void merge(const double *partial, float *out, int pieces, int count, int every) {
    begin();
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= count)
        return;
    double sum = 0.0;
#pragma unroll 8
    for (int piece = 0; piece < pieces; piece++)
        sum += partial[((long long)piece * count + k) * every];
    out[k] = (float)sum;
}

// Which of `count` arrays the block works on: blocks first[k]..first[k + 1] are those of array k.
__device__ __forceinline__ int array_of_block(const int *first, int count) {
    int low = 0, high = count;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if ((int)blockIdx.x >= first[middle])
            low = middle;
        else
            high = middle;
    }
    return low;
}

// The position of a knot.
__device__ __forceinline__ double knot_at(int k, int size, double step) { return (k - size / 2) * step; }

__device__ __forceinline__ float sign(double x) { return x > 0.0 ? 1.0f : x < 0.0 ? -1.0f : 0.0f; }
