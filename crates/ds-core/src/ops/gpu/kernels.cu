// Activations other than the linear spline, other parameters of splines, and the norms of splines, one file for all of ds-core.
// x, y and their gradients are f32 or bf16, parameters f32. The formulas are those of the CPU's ops beside this folder; the
// launches are in the Rust files here.

#include "common.cuh"

#define RECTIFIER(type, T)                                                                                                 \
    extern "C" __global__ void rectifier_forward_##type(const T *__restrict__ x, T *__restrict__ y, float slope, int n,    \
                                                        int aligned) {                                                     \
        pointwise<T>(x, nullptr, y, n, aligned, [&](float x, float, long long) { return x > 0.0f ? x : slope * x; });      \
    }                                                                                                                      \
    extern "C" __global__ void rectifier_backward_##type(const T *__restrict__ x, const T *__restrict__ dy,                \
                                                         T *__restrict__ dx, float slope, int n, int aligned) {            \
        pointwise<T>(x, dy, dx, n, aligned, [&](float x, float dy, long long) { return x > 0.0f ? dy : slope * dy; });     \
    }
FOR_TYPES(RECTIFIER)

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

template <typename V, typename T>
__device__ __forceinline__ void channel_rectifier(const T *x, const float *slopes, T *y, PLANES) {
    const float slope = slopes[blockIdx.y];
    by_channel<V>(x, y, rows, channels, inner, rows_per_block, [&](float x) { return x > 0.0f ? x : slope * x; });
}

// ∂x, and Σ ∂y·min(x, 0) of the block's rows: partial (pieces, C). Shared: a double for each thread.
template <typename V, typename T>
__device__ __forceinline__ void channel_rectifier_gradient(const T *x, const float *slopes, const T *dy, T *dx,
                                                           double *partial, PLANES) {
    SHARED(double, scratch);
    const float slope = slopes[blockIdx.y];
    float sum = 0.0f;
    over_rows<V>(rows, channels, inner, rows_per_block, [&](long long at) {
        const V vector = reinterpret_cast<const V *>(x)[at], gradient = reinterpret_cast<const V *>(dy)[at];
        V out;
#pragma unroll
        for (int j = 0; j < V::COUNT; j++) {
            const float x = to_float(vector.values[j]), dy = to_float(gradient.values[j]);
            out.values[j] = from_float<T>(x > 0.0f ? dy : slope * dy);
            sum += x > 0.0f ? 0.0f : dy * x;
        }
        reinterpret_cast<V *>(dx)[at] = out;
    });
    const double total = block_sum(sum, scratch);
    if (threadIdx.x == 0)
        partial[(long long)blockIdx.x * channels + blockIdx.y] = total;
}

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

#define BY_MAPPING(type, T, mapping, V)                                                                                    \
    extern "C" __global__ void __launch_bounds__(256) channel_rectifier_##mapping##_##type(                                \
        const T *__restrict__ x, const float *__restrict__ slopes, T *__restrict__ y, PLANES) {                            \
        channel_rectifier<V>(x, slopes, y, rows, channels, inner, rows_per_block);                                         \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) channel_rectifier_gradient_##mapping##_##type(                       \
        const T *__restrict__ x, const float *__restrict__ slopes, const T *__restrict__ dy, T *__restrict__ dx,           \
        double *__restrict__ partial, PLANES) {                                                                            \
        channel_rectifier_gradient<V>(x, slopes, dy, dx, partial, rows, channels, inner, rows_per_block);                  \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) hinges_##mapping##_##type(                                           \
        const T *__restrict__ x, const float *__restrict__ a, const float *__restrict__ b, T *__restrict__ y, int count,   \
        PLANES) {                                                                                                          \
        hinges<V>(x, a, b, y, count, rows, channels, inner, rows_per_block);                                               \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) hinges_gradient_##mapping##_##type(                                  \
        const T *__restrict__ x, const float *__restrict__ a, const float *__restrict__ b, const T *__restrict__ dy,       \
        T *__restrict__ dx, double *__restrict__ partial, int count, PLANES) {                                             \
        hinges_gradient<V>(x, a, b, dy, dx, partial, count, rows, channels, inner, rows_per_block);                        \
    }
#define BY_TYPE(type, T)                                                                                                   \
    BY_MAPPING(type, T, vectors, Vector<T>)                                                                                \
    BY_MAPPING(type, T, scalars, Scalar<T>)
FOR_TYPES(BY_TYPE)

// out (count) = Σ over pieces of partial (pieces, count, every), of each the first, in that order.
extern "C" __global__ void merge(const double *partial, float *out, int pieces, int count, int every) {
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= count)
        return;
    double sum = 0.0;
#pragma unroll 8
    for (int piece = 0; piece < pieces; piece++)
        sum += partial[((long long)piece * count + k) * every];
    out[k] = (float)sum;
}

__device__ __forceinline__ double knot_at(int k, int size, double step) { return (k - size / 2) * step; }

// c_k + b1·x_k + b0, a thread for each coefficient.
extern "C" __global__ void add_linear_term(const float *c, const float *b1, const float *b0, float *out, int channels, int size,
                                           double step) {
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k < channels * size)
        out[k] = (float)(c[k] + b1[k / size] * knot_at(k % size, size, step) + b0[k / size]);
}

// ∂b1 and ∂b0 from ∂c, 32 threads for each channel. Shared: a double2 for each thread.
extern "C" __global__ void linear_term_gradient(const float *dc, float *db1, float *db0, int channels, int size, double step) {
    SHARED(double2, scratch);
    const int channel = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    double2 sum = make_double2(0.0, 0.0);
    if (channel < channels)
        for (int k = threadIdx.x % 32; k < size; k += 32) {
            const double g = dc[channel * size + k];
            sum.x += g * knot_at(k, size, step);
            sum.y += g;
        }
    scratch[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x % 32 == 0 && channel < channels) {
        sum = strided_sum(scratch + threadIdx.x, 32, 1, make_double2(0.0, 0.0));
        db1[channel] = (float)sum.x;
        db0[channel] = (float)sum.y;
    }
}

// The coefficients of b1·x + b0 + Σ_k a_k·max(0, x − x_k), a thread for each channel.
extern "C" __global__ void sum_of_relus(const float *a, const float *b1, const float *b0, float *out, int channels, int size,
                                        double step) {
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= channels)
        return;
    double slope = b1[channel], value = b0[channel] + slope * knot_at(0, size, step);
    out[channel * size] = (float)value;
#pragma unroll 8
    for (int k = 1; k < size; k++) {
        value += slope * step;
        out[channel * size + k] = (float)value;
        if (k < size - 1)
            slope += a[channel * (size - 2) + k - 1];
    }
}

// ∂a from ∂c, a thread for each channel; ∂b1 and ∂b0 are those of linear_term_gradient.
extern "C" __global__ void sum_of_relus_gradient(const float *dc, float *da, int channels, int size, double step) {
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= channels)
        return;
    // From the right: Σ_{k>j} g_k and Σ_{k>j} g_k·(x_k − x_j).
    double sum = 0.0, moment = 0.0;
#pragma unroll 8
    for (int j = size - 2; j > 0; j--) {
        sum += dc[channel * size + j + 1];
        moment += sum * step;
        da[channel * (size - 2) + j - 1] = (float)moment;
    }
}

// One layer of splines whose norm is penalised.
struct NormLayer {
    // Coefficients (C, K), or slope changes (C, K−2), and what is to be added to.
    const float *knots;
    float *gradient;
    // The linear term, if there is one; where its gradient is not wanted there is none.
    const float *b1, *b0;
    float *db1, *db0;
    double weight, step;
    // Where 0 and 1 lie: segment, and position in it.
    double position[2];
    int segment[2];
    int channels, size;
    // 0: coefficients; 1: coefficients and a linear term; 2: slope changes and a linear term.
    int kind;
    int unused;
};
// As many as the arguments of a kernel have room for.
struct NormLayers {
    NormLayer layers[36];
};

__device__ __forceinline__ float sign(double x) { return x > 0.0 ? 1.0f : x < 0.0 ? -1.0f : 0.0f; }

// The slope change at inner knot k, rounded as on the CPU.
__device__ __forceinline__ float slope_change(const float *c, int k, float outer) {
    return fmaf(c[k + 2], outer, fmaf(c[k + 1], -(outer + outer), c[k] * outer));
}

// σ(0) or σ(1) of a channel.
__device__ __forceinline__ double value_at(const NormLayer &layer, int channel, int which) {
    const int i = layer.segment[which];
    const double step = layer.step, t = layer.position[which];
    float values[2];
    if (layer.kind == 2) {
        const float *a = layer.knots + channel * (layer.size - 2);
        double slope = layer.b1[channel], value = layer.b0[channel] + slope * knot_at(0, layer.size, step);
        float last = (float)value;
        for (int k = 1; k <= i + 1; k++) {
            last = (float)value;
            value += slope * step;
            if (k < layer.size - 1)
                slope += a[k - 1];
        }
        values[0] = last;
        values[1] = (float)value;
    } else {
        const float *c = layer.knots + channel * layer.size;
        for (int j = 0; j < 2; j++) {
            values[j] = c[i + j];
            if (layer.kind == 1)
                values[j] = (float)(c[i + j] + layer.b1[channel] * knot_at(i + j, layer.size, step) + layer.b0[channel]);
        }
    }
    return values[0] + t * ((double)values[1] - values[0]);
}

// Adds weight·∂norm to the gradients, a thread for each number. Grid: (layers, pieces of their numbers).
extern "C" __global__ void norm_gradient(const NormLayers all, int bv2) {
    const NormLayer &layer = all.layers[blockIdx.x];
    const int width = layer.kind == 2 ? layer.size - 2 : layer.size;
    for (int at = blockIdx.y * blockDim.x + threadIdx.x; at < layer.channels * width; at += gridDim.y * blockDim.x) {
        const int channel = at / width, k = at % width;
        float g = layer.gradient[at];
        if (layer.kind == 2) {
            g += (float)layer.weight * sign(layer.knots[at]);
        } else {
            const float *c = layer.knots + channel * width;
            const float outer = 1.0f / (float)layer.step, unit = (float)(layer.weight / layer.step);
            if (k >= 2)
                g += unit * sign(slope_change(c, k - 2, outer));
            if (k >= 1 && k <= width - 2)
                g -= 2.0f * unit * sign(slope_change(c, k - 1, outer));
            if (k <= width - 3)
                g += unit * sign(slope_change(c, k, outer));
        }
        if (bv2) {
            const double at_0 = sign(value_at(layer, channel, 0)), at_1 = sign(value_at(layer, channel, 1));
            if (layer.kind == 2) {
                const double x = knot_at(k + 1, layer.size, layer.step);
                g += (float)(layer.weight * (at_0 * fmax(-x, 0.0) + at_1 * fmax(1.0 - x, 0.0)));
            } else {
                for (int which = 0; which < 2; which++) {
                    const double signed_weight = layer.weight * (which == 0 ? at_0 : at_1), t = layer.position[which];
                    if (k == layer.segment[which])
                        g += (float)(signed_weight * (1.0 - t));
                    if (k == layer.segment[which] + 1)
                        g += (float)(signed_weight * t);
                }
            }
            if (k == 0 && layer.db1)
                layer.db1[channel] += (float)(layer.weight * at_1);
            if (k == 0 && layer.db0)
                layer.db0[channel] += (float)(layer.weight * (at_0 + at_1));
        }
        layer.gradient[at] = g;
    }
}
