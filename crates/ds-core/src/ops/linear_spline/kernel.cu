// The linear spline on the GPU, forward and backward: see mod.rs for the formulas and geometry.rs for the launches.
//
// A block works on some rows of one channel ("planes"), or, where planes are too small for that, on some rows of neighbouring
// columns of (N, C·inner) ("columns"). x and ∂y are read once, ∂x is written once, 16 bytes at a time where planes allow it.
//
// ∂c needs two sums for each segment. Every thread has sums of its own in shared memory, laid out (segment, thread), so that no
// two threads meet in a bank and nothing is atomic; they are added up in a fixed order, in the block and then over the blocks:
// the same input gives the same bits.
//
// The file is plain enough to be compiled as C++ beside emulation.h, which is how it is tested where there is no GPU.

#include "../gpu/common.cuh"

// y = σ(x). Grid: (pieces of rows, channels). Shared: a float2 for each segment.
template <typename T, typename V>
__device__ __forceinline__ void forward_planes(const T *x, const float *coefficients, T *y, Knots knots, int rows,
                                               int channels, int inner, int rows_per_block) {
    SHARED(float2, lines);
    const int channel = blockIdx.y;
    const float *c = coefficients + (long long)channel * (knots.segments + 1);
    for (int i = threadIdx.x; i < knots.segments; i += blockDim.x)
        lines[i] = make_float2(c[i], c[i + 1] - c[i]);
    __syncthreads();
    const int first = blockIdx.x * rows_per_block;
    const int count = min(rows_per_block, rows - first);
    const int columns = inner / V::COUNT;
    const long long start = ((long long)first * channels + channel) * columns;
    const V *from = reinterpret_cast<const V *>(x) + start;
    V *to = reinterpret_cast<V *>(y) + start;
    for (Walk walk(threadIdx.x, blockDim.x, columns, (long long)channels * columns); walk.row < count; walk.go_on()) {
        V vector = from[walk.at];
#pragma unroll
        for (int j = 0; j < V::COUNT; j++) {
            float t;
            const float2 line = lines[locate(to_float(vector.values[j]), knots, t)];
            vector.values[j] = from_float<T>(fmaf(t, line.y, line.x));
        }
        to[walk.at] = vector;
    }
}

// ∂x, and ∂c of the block's rows: partial (pieces, C, K). Grid and rows as forward. Shared: for each segment a float2 for each
// thread, then a float.
template <typename T, typename V>
__device__ __forceinline__ void backward_planes(const T *x, const float *coefficients, const T *dy, T *dx, float *partial,
                                                Knots knots, int rows, int channels, int inner, int rows_per_block) {
    SHARED(float2, sums);
    float *slopes = reinterpret_cast<float *>(sums + knots.segments * blockDim.x);
    const int channel = blockIdx.y, threads = blockDim.x;
    const float *c = coefficients + (long long)channel * (knots.segments + 1);
    for (int i = threadIdx.x; i < knots.segments; i += threads)
        slopes[i] = (c[i + 1] - c[i]) / knots.step;
    for (int i = threadIdx.x; i < knots.segments * threads; i += threads)
        sums[i] = make_float2(0.0f, 0.0f);
    __syncthreads();
    float2 *own = sums + threadIdx.x;
    const int first = blockIdx.x * rows_per_block;
    const int count = min(rows_per_block, rows - first);
    const int columns = inner / V::COUNT;
    const long long start = ((long long)first * channels + channel) * columns;
    const V *from_x = reinterpret_cast<const V *>(x) + start;
    const V *from_dy = reinterpret_cast<const V *>(dy) + start;
    V *to = reinterpret_cast<V *>(dx) + start;
    Walk walk(threadIdx.x, threads, columns, (long long)channels * columns);
    V vector, gradient;
    if (walk.row < count) {
        vector = from_x[walk.at];
        gradient = from_dy[walk.at];
    }
    while (walk.row < count) {
        // The next vectors are under way while this one is worked on: shared memory leaves room for few threads.
        const long long at = walk.at;
        V next_vector, next_gradient;
        walk.go_on();
        if (walk.row < count) {
            next_vector = from_x[walk.at];
            next_gradient = from_dy[walk.at];
        }
        V out;
#pragma unroll
        for (int j = 0; j < V::COUNT; j++) {
            float t;
            const int segment = locate(to_float(vector.values[j]), knots, t);
            const float g = to_float(gradient.values[j]);
            float2 *sum = own + segment * threads;
            const float2 old = *sum;
            *sum = make_float2(old.x + g, fmaf(g, t, old.y));
            out.values[j] = from_float<T>(g * slopes[segment]);
        }
        to[at] = out;
        vector = next_vector;
        gradient = next_gradient;
    }
    add_up(sums, knots.segments, threads, 1);
    float *out = partial + ((long long)blockIdx.x * channels + channel) * (knots.segments + 1);
    for (int k = threadIdx.x; k <= knots.segments; k += threads)
        out[k] = at_knot(sums, threads, knots.segments, k);
}

// y = σ(x) for (N, M) with M = C·inner, column by column. Grid: (pieces of rows, tiles of columns); block (32, rows at a time).
template <typename T>
__device__ __forceinline__ void forward_columns(const T *x, const float *coefficients, T *y, Knots knots, int rows, int channels,
                                                int inner, int rows_per_block) {
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
                                                 Knots knots, int rows, int channels, int inner, int rows_per_block) {
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
    add_up(sums, knots.segments, threads, 32);
    const int knot_count = knots.segments + 1;
    for (int k = threadIdx.x; k < 32 * knot_count; k += threads) {
        const int of = blockIdx.y * 32 + k / knot_count;
        if (of < width)
            partial[((long long)blockIdx.x * width + of) * knot_count + k % knot_count] =
                at_knot(sums + k / knot_count, threads, knots.segments, k % knot_count);
    }
}

// ∂c (C, K) = Σ over pieces and the columns of a channel of partial (pieces, C·inner, K), in that order.
extern "C" __global__ void spline_merge(const float *partial, float *dc, int pieces, int channels, int inner, int knots) {
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= channels * knots)
        return;
    const int channel = k / knots, knot = k % knots;
    double sum = 0.0;
    for (int piece = 0; piece < pieces; piece++)
        for (int j = 0; j < inner; j++)
            sum += partial[(((long long)piece * channels + channel) * inner + j) * knots + knot];
    dc[k] = (float)sum;
}

#define FORWARD(name, T, ...)                                                                                            \
    extern "C" __global__ void __launch_bounds__(256)                                                                    \
        name(const T *__restrict__ x, const float *__restrict__ c, T *__restrict__ y, Knots knots, int rows,             \
             int channels, int inner, int rows_per_block) {                                                              \
        __VA_ARGS__(x, c, y, knots, rows, channels, inner, rows_per_block);                                              \
    }
// Two blocks on a multiprocessor are what shared memory allows: half of its registers are enough for one without spilling.
#define BACKWARD(name, T, ...)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256, 2)                                                                 \
        name(const T *__restrict__ x, const float *__restrict__ c, const T *__restrict__ dy, T *__restrict__ dx,         \
             float *__restrict__ partial, Knots knots, int rows, int channels, int inner, int rows_per_block) {          \
        __VA_ARGS__(x, c, dy, dx, partial, knots, rows, channels, inner, rows_per_block);                                \
    }
#define KERNELS(type, T)                                                                                                  \
    FORWARD(spline_forward_vectors_##type, T, forward_planes<T, Vector<T>>)                                               \
    FORWARD(spline_forward_scalars_##type, T, forward_planes<T, Scalar<T>>)                                               \
    FORWARD(spline_forward_columns_##type, T, forward_columns<T>)                                                         \
    BACKWARD(spline_backward_vectors_##type, T, backward_planes<T, Vector<T>>)                                            \
    BACKWARD(spline_backward_scalars_##type, T, backward_planes<T, Scalar<T>>)                                            \
    BACKWARD(spline_backward_columns_##type, T, backward_columns<T>)

KERNELS(f32, float)
KERNELS(f16, __half)
KERNELS(bf16, __nv_bfloat16)
