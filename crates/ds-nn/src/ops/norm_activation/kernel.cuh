#pragma once
#include <backend/gpu/common.cuh>

// Batch norm, the sum with a residual, and a spline or rectifier.
//
// Grid: (pieces of rows, channels) for all of them. A channel's parameters are γ, β and its coefficients, `width` in all.

// What x is normalised with: z = scale·x + shift (+ r). One thread finds it for the block: divisions and roots in double precision
// are long.
struct Line {
    double inverse;
    float scale, shift, mean;
};
// And what ∂x is made with: k·∂z + m·x + n.
struct InputLine {
    Line line;
    float k, m, n;
};

__device__ __forceinline__ Line line_of(const float *parameters, int width, double mean, double variance, double epsilon) {
    const double inverse = 1.0 / sqrt(variance + epsilon);
    const double scale = parameters[blockIdx.y * width] * inverse;
    return {inverse, (float)scale, (float)(parameters[blockIdx.y * width + 1] - scale * mean), (float)mean};
}

__device__ __forceinline__ float normalised(const Line &line, float x, float r) { return fmaf(line.scale, x, line.shift) + r; }

// Σ x and Σ x² of the block's rows: partial (pieces, C, 2). Shared: a double2 for each thread.
template <typename V, typename T>
__device__ __forceinline__ void norm_statistics(const T *x, double2 *partial, PLANES) {
    SHARED(double2, scratch);
    float origin, sum = 0.0f, squares = 0.0f;
    over_rows_ahead<4, V>(
        rows, channels, inner, rows_per_block, [&](long long at) { return packed_at<V>(x, at); },
        [&] { origin = to_float(x[(long long)blockIdx.y * inner]); },
        [&](long long, const Packed<V> &input) {
            const V vector = unpacked(input);
#pragma unroll
            for (int j = 0; j < V::COUNT; j++) {
                const float d = to_float(vector.values[j]) - origin;
                sum += d;
                squares = fmaf(d, d, squares);
            }
        });
    const double2 total = block_sum(make_double2(sum, squares), scratch);
    const double count = (double)min(rows_per_block, rows - (int)blockIdx.x * rows_per_block) * inner;
    if (threadIdx.x == 0)
        partial[(long long)blockIdx.x * channels + blockIdx.y] = sums_from_origin(total.x, total.y, origin, count);
}

// What merges pieces in parts.
constexpr int PARTS_OF_PIECES = 128;

// Σ over pieces of partial (pieces, C, 2) for the block's channel, in a fixed order; all threads call it, the first gets it.
// `scratch`: a double2 for each part.
__device__ __forceinline__ double2 of_pieces(const double2 *partial, int pieces, int channels, double2 *scratch) {
    const int parts = min(min(pieces, PARTS_OF_PIECES), (int)blockDim.x);
    const double2 zero = make_double2(0.0, 0.0);
    if (threadIdx.x < parts) {
        const double2 *first = partial + (long long)threadIdx.x * channels + blockIdx.y;
        scratch[threadIdx.x] = strided_sum(first, (pieces - threadIdx.x - 1) / parts + 1, parts * channels, zero);
    }
    __syncthreads();
    if (parts <= 16)
        return threadIdx.x == 0 ? strided_sum(scratch, parts, 1, zero) : zero;
    double2 sum = zero;
    if (threadIdx.x < 16)
        sum = strided_sum(scratch + threadIdx.x, (parts - threadIdx.x - 1) / 16 + 1, 16, zero);
    __syncthreads();
    if (threadIdx.x < 16)
        scratch[threadIdx.x] = sum;
    __syncthreads();
    return threadIdx.x == 0 ? strided_sum(scratch, 16, 1, zero) : zero;
}

// y = f(z). With `partial` the statistics are those of the batch, which go to `moments` (C, 2) and into the running ones; without
// they are the running ones. Shared: a double2 for each part and a Line (64 bytes), then a row of equal float2 for each segment,
// `row_bytes` in all.
template <typename V, bool SPLINE, typename T>
__device__ __forceinline__ void norm_forward(const T *x, const T *residual, const float *parameters, const double2 *partial,
                                             float *running_mean, float *running_variance, double2 *moments, T *y,
                                             const Knots &knots, float slope, int width, int pieces, double count,
                                             double epsilon, double momentum, int row_bytes, PLANES) {
    SHARED(double2, scratch);
    Line *shared_line = reinterpret_cast<Line *>(scratch + PARTS_OF_PIECES);
    float2 *lines = reinterpret_cast<float2 *>(scratch + PARTS_OF_PIECES + 4);
    const int copies = row_bytes / (int)sizeof(float2);
    float2 *own = SPLINE ? lines + threadIdx.x % copies : lines;
    struct Inputs {
        Packed<V> x, r;
    };
    Line line;
    over_rows_ahead<2, V>(
        rows, channels, inner, rows_per_block,
        [&](long long at) {
            Inputs inputs;
            inputs.x = packed_at<V>(x, at);
            if (residual)
                inputs.r = packed_at<V>(residual, at);
            return inputs;
        },
        [&] {
            if (SPLINE) {
                const float *c = parameters + (long long)blockIdx.y * width + 2;
#pragma unroll 4
                for (int k = threadIdx.x / copies; k < knots.segments; k += blockDim.x / copies)
                    of_row(own, k, row_bytes) = make_float2(c[k], c[k + 1] - c[k]);
            }
            double2 sums = make_double2(0.0, 0.0);
            if (partial)
                sums = of_pieces(partial, pieces, channels, scratch);
            if (threadIdx.x == 0) {
                double mean, variance;
                if (partial) {
                    mean = sums.x / count;
                    variance = fmax(sums.y / count - mean * mean, 0.0);
                } else {
                    mean = running_mean[blockIdx.y];
                    variance = running_variance[blockIdx.y];
                }
                *shared_line = line_of(parameters, width, mean, variance, epsilon);
                if (blockIdx.x == 0) {
                    moments[blockIdx.y] = make_double2(mean, variance);
                    if (partial) {
                        const double unbiased = variance * (count / fmax(count - 1.0, 1.0)), left = 1.0 - momentum;
                        running_mean[blockIdx.y] = (float)(left * running_mean[blockIdx.y] + momentum * mean);
                        running_variance[blockIdx.y] = (float)(left * running_variance[blockIdx.y] + momentum * unbiased);
                    }
                }
            }
            __syncthreads();
            line = *shared_line;
        },
        [&](long long at, const Inputs &inputs) {
            V vector = unpacked(inputs.x);
            const V r = unpacked(inputs.r);
#pragma unroll
            for (int j = 0; j < V::COUNT; j++) {
                const float z = normalised(line, to_float(vector.values[j]), residual ? to_float(r.values[j]) : 0.0f);
                float value;
                if (SPLINE) {
                    float t;
                    const float2 segment = of_row(own, locate(z, knots, t), row_bytes);
                    value = fmaf(t, segment.y, segment.x);
                } else {
                    value = rectified(slope, z);
                }
                vector.values[j] = from_float<T>(value);
            }
            reinterpret_cast<V *>(y)[at] = vector;
        });
}

// The gradient of y is ∂y, to which `more` is added if it is there. Σ ∂z and Σ ∂z·(x − μ) of the block's rows: products (pieces, C, 2); for splines ∂c: coefficients (pieces, C, K); and ∂z, if
// there is an array for it. Shared: a double2 for each thread and a Line (64 bytes); for splines a float2 for each segment and
// thread, then a float for each segment.
template <typename V, bool SPLINE, typename T>
__device__ __forceinline__ void norm_sums(const T *x, const T *residual, const float *parameters, const double2 *moments,
                                          const T *dy, const T *more, T *dz, double2 *products, float *coefficients,
                                          const Knots &knots, float slope, int width, double epsilon, PLANES) {
    SHARED(double2, scratch);
    const int threads = blockDim.x, row_bytes = threads * (int)sizeof(float2);
    Line *shared_line = reinterpret_cast<Line *>(scratch + threads);
    float2 *sums = reinterpret_cast<float2 *>(scratch + threads + 4), *own = sums + threadIdx.x;
    float *slopes = reinterpret_cast<float *>(sums + knots.segments * threads);
    struct Inputs {
        Packed<V> x, dy, more, r;
    };
    Line line;
    float alone = 0.0f, with_x = 0.0f;
    over_rows_ahead<2, V>(
        rows, channels, inner, rows_per_block,
        [&](long long at) {
            Inputs inputs;
            inputs.x = packed_at<V>(x, at);
            inputs.dy = packed_at<V>(dy, at);
            if (more)
                inputs.more = packed_at<V>(more, at);
            if (residual)
                inputs.r = packed_at<V>(residual, at);
            return inputs;
        },
        [&] {
            if (threadIdx.x == 0)
                *shared_line = line_of(parameters, width, moments[blockIdx.y].x, moments[blockIdx.y].y, epsilon);
            if (SPLINE) {
                // From the last thread on, as the first is busy.
                const float *c = parameters + (long long)blockIdx.y * width + 2;
                for (int k = threads - 1 - threadIdx.x; k < knots.segments; k += threads)
                    slopes[k] = (c[k + 1] - c[k]) / knots.step;
                for (int k = 0; k < knots.segments; k++)
                    own[k * threads] = make_float2(0.0f, 0.0f);
            }
            __syncthreads();
            line = *shared_line;
        },
        [&](long long at, const Inputs &inputs) {
            const V vector = unpacked(inputs.x), r = unpacked(inputs.r), other = unpacked(inputs.more);
            V gradient = unpacked(inputs.dy);
            if (more)
#pragma unroll
                for (int j = 0; j < V::COUNT; j++)
                    gradient.values[j] = from_float<T>(to_float(gradient.values[j]) + to_float(other.values[j]));
            int segments[V::COUNT];
            float t[V::COUNT];
            V out;
#pragma unroll
            for (int j = 0; j < V::COUNT; j++) {
                const float value = to_float(vector.values[j]), g = to_float(gradient.values[j]);
                const float z = normalised(line, value, residual ? to_float(r.values[j]) : 0.0f);
                float of_z;
                if (SPLINE) {
                    segments[j] = locate(z, knots, t[j]);
                    of_z = g * slopes[segments[j]];
                } else {
                    of_z = rectified_gradient(slope, z, g);
                }
                alone += of_z;
                with_x = fmaf(of_z, value - line.mean, with_x);
                out.values[j] = from_float<T>(of_z);
            }
            if (dz)
                reinterpret_cast<V *>(dz)[at] = out;
            if (SPLINE)
                add_to_segments(own, row_bytes, segments, t, gradient);
        });
    const double2 total = block_sum(make_double2(alone, with_x), scratch);
    const long long piece = (long long)blockIdx.x * channels + blockIdx.y;
    if (threadIdx.x == 0)
        products[piece] = total;
    if (SPLINE) {
        add_up(sums, knots.segments, threads);
        for (int k = threadIdx.x; k <= knots.segments; k += threads)
            coefficients[piece * (knots.segments + 1) + k] = at_knot(sums, threads, knots.segments, k);
    }
}

// ∂x = γ/σ·(∂z − mean(∂z) − x̂·mean(∂z·x̂)), without the means where the statistics are not of the batch; and the gradients of the
// parameters (C, width) from the sums of all pieces. `gradient` is ∂z (`has_dz`), or ∂y, where there is no residual. Shared: a
// double2 for each part and an InputLine (64 bytes), then a float for each segment.
template <typename V, bool SPLINE, typename T>
__device__ __forceinline__ void norm_input(const T *x, const float *parameters, const double2 *moments,
                                           const T *gradient, const double2 *products, const float *coefficients, T *dx,
                                           float *dparameters, const Knots &knots, float slope, int width, int pieces,
                                           double count, double epsilon, int of_batch, int has_dz, PLANES) {
    SHARED(double2, scratch);
    InputLine *shared_line = reinterpret_cast<InputLine *>(scratch + PARTS_OF_PIECES);
    float *slopes = reinterpret_cast<float *>(scratch + PARTS_OF_PIECES + 4);
    struct Inputs {
        Packed<V> x, gradient;
    };
    InputLine of;
    over_rows_ahead<2, V>(
        rows, channels, inner, rows_per_block,
        [&](long long at) { return Inputs{packed_at<V>(x, at), packed_at<V>(gradient, at)}; },
        [&] {
            if (SPLINE && !has_dz) {
                const float *c = parameters + (long long)blockIdx.y * width + 2;
                for (int k = blockDim.x - 1 - threadIdx.x; k < knots.segments; k += blockDim.x)
                    slopes[k] = (c[k + 1] - c[k]) / knots.step;
            }
            const double2 sums = of_pieces(products, pieces, channels, scratch);
            if (threadIdx.x == 0) {
                const double mean = moments[blockIdx.y].x;
                const Line line = line_of(parameters, width, mean, moments[blockIdx.y].y, epsilon);
                const double of_z = parameters[blockIdx.y * width] * line.inverse;
                const double share = 1.0 / count;
                const double of_x = of_batch ? -of_z * (sums.y * share) * line.inverse * line.inverse : 0.0;
                const float n = of_batch ? (float)(-of_z * (sums.x * share) - of_x * mean) : 0.0f;
                *shared_line = {line, (float)of_z, (float)of_x, n};
                if (blockIdx.x == 0) {
                    dparameters[(long long)blockIdx.y * width] = (float)(sums.y * line.inverse);
                    dparameters[(long long)blockIdx.y * width + 1] = (float)sums.x;
                }
            }
            if (blockIdx.x == 0) {
                for (int k = blockDim.x - 1 - threadIdx.x; k < width - 2; k += blockDim.x) {
                    const float *from = coefficients + (long long)blockIdx.y * (width - 2) + k;
                    const int stride = channels * (width - 2);
                    double sum = 0.0;
#pragma unroll 8
                    for (int piece = 0; piece < pieces; piece++, from += stride)
                        sum += *from;
                    dparameters[(long long)blockIdx.y * width + 2 + k] = (float)sum;
                }
            }
            __syncthreads();
            of = *shared_line;
        },
        [&](long long at, const Inputs &inputs) {
            const V vector = unpacked(inputs.x);
            V out = unpacked(inputs.gradient);
#pragma unroll
            for (int j = 0; j < V::COUNT; j++) {
                const float value = to_float(vector.values[j]);
                float dz = to_float(out.values[j]);
                if (!has_dz) {
                    const float z = normalised(of.line, value, 0.0f);
                    float t;
                    if (SPLINE)
                        dz *= slopes[locate(z, knots, t)];
                    else
                        dz = rectified_gradient(slope, z, dz);
                }
                out.values[j] = from_float<T>(fmaf(of.k, dz, fmaf(of.m, value, of.n)));
            }
            reinterpret_cast<V *>(dx)[at] = out;
        });
}

#define NORM(type, T, mapping, V, kind, SPLINE)                                                                            \
    extern "C" __global__ void __launch_bounds__(256, 4) norm_forward_##kind##_##mapping##_##type(                         \
        const T *__restrict__ x, const T *__restrict__ residual, const float *__restrict__ parameters,                     \
        const double2 *__restrict__ partial, float *running_mean, float *running_variance, double2 *moments,               \
        T *__restrict__ y, Knots knots, float slope, int width, int pieces, double count, double epsilon, double momentum, \
        int row_bytes, PLANES) {                                                                                           \
        begin();                                                                                                           \
        norm_forward<V, SPLINE>(x, residual, parameters, partial, running_mean, running_variance, moments, y, knots,       \
                                slope, width, pieces, count, epsilon, momentum, row_bytes, rows, channels, inner,          \
                                rows_per_block);                                                                           \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256, 2) norm_sums_##kind##_##mapping##_##type(                            \
        const T *__restrict__ x, const T *__restrict__ residual, const float *__restrict__ parameters,                     \
        const double2 *__restrict__ moments, const T *__restrict__ dy, const T *__restrict__ more, T *__restrict__ dz,     \
        double2 *products, float *coefficients, Knots knots, float slope, int width, double epsilon, PLANES) {             \
        begin();                                                                                                           \
        norm_sums<V, SPLINE>(x, residual, parameters, moments, dy, more, dz, products, coefficients, knots, slope, width,  \
                             epsilon, rows, channels, inner, rows_per_block);                                              \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256, 4) norm_input_##kind##_##mapping##_##type(                           \
        const T *__restrict__ x, const float *__restrict__ parameters,                                                     \
        const double2 *__restrict__ moments, const T *__restrict__ gradient, const double2 *__restrict__ products,         \
        const float *__restrict__ coefficients, T *__restrict__ dx, float *dparameters, Knots knots, float slope,          \
        int width, int pieces, double count, double epsilon, int of_batch, int has_dz, PLANES) {                           \
        begin();                                                                                                           \
        norm_input<V, SPLINE>(x, parameters, moments, gradient, products, coefficients, dx, dparameters, knots, slope,     \
                              width, pieces, count, epsilon, of_batch, has_dz, rows, channels, inner, rows_per_block);     \
    }
#define NORM_BY_MAPPING(type, T, mapping, V)                                                                               \
    extern "C" __global__ void __launch_bounds__(256) norm_statistics_##mapping##_##type(const T *__restrict__ x,          \
                                                                                         double2 *partial, PLANES) {       \
        begin();                                                                                                           \
        norm_statistics<V>(x, partial, rows, channels, inner, rows_per_block);                                             \
    }                                                                                                                      \
    NORM(type, T, mapping, V, spline, true)                                                                                \
    NORM(type, T, mapping, V, rectifier, false)
#define NORM_BY_TYPE(type, T)                                                                                              \
    NORM_BY_MAPPING(type, T, vectors, Vector<T>)                                                                           \
    NORM_BY_MAPPING(type, T, scalars, Scalar<T>)
FOR_TYPES(NORM_BY_TYPE)

// The parameters of a layer: γ (C), β (C) and coefficients (C, width − 2), and all of them side by side.
struct ChannelParameters {
    float *gamma, *beta, *coefficients, *packed;
    int channels, width;
};
// As many as the arguments of a kernel have room for. Blocks first[k]..first[k + 1] work on layer k, 256 numbers each.
struct AllChannelParameters {
    int first[92];
    ChannelParameters layers[90];
};

// Puts the parameters of each layer side by side, or (`apart`) back again.
extern "C" __global__ void pack_parameters(const AllChannelParameters all, int count, int apart) {
    begin();
    const int low = array_of_block(all.first, count);
    const ChannelParameters &of = all.layers[low];
    const int at = (blockIdx.x - all.first[low]) * 256 + threadIdx.x;
    if (at >= of.channels * of.width)
        return;
    const int channel = at / of.width, k = at % of.width;
    float *other = k == 0   ? of.gamma + channel
                   : k == 1 ? of.beta + channel
                            : of.coefficients + channel * (of.width - 2) + k - 2;
    if (apart)
        *other = of.packed[at];
    else
        of.packed[at] = *other;
}
