#pragma once

// Batch norm, the sum with a residual, and a spline or rectifier.
//
// Grid: (pieces of rows, channels) for all of them. A channel's parameters are γ, β and its coefficients, `width` in all.

// What x is normalised with: z = scale·x + shift (+ r).
struct Line {
    float scale, shift, mean;
    double inverse;
};

__device__ __forceinline__ Line line_of(const float *parameters, int width, double mean, double variance, double epsilon) {
    const double inverse = 1.0 / sqrt(variance + epsilon);
    const double scale = parameters[blockIdx.y * width] * inverse;
    return {(float)scale, (float)(parameters[blockIdx.y * width + 1] - scale * mean), (float)mean, inverse};
}

__device__ __forceinline__ float normalised(const Line &line, float x, float r) { return fmaf(line.scale, x, line.shift) + r; }

// Σ d and Σ d² of the block's rows, with d = x − the first number of the channel: partial (pieces, C, 2). Shared: a double for
// each thread.
template <typename V, typename T>
__device__ __forceinline__ void norm_statistics(const T *x, double2 *partial, PLANES) {
    SHARED(double, scratch);
    const float origin = to_float(x[(long long)blockIdx.y * inner]);
    float sum = 0.0f, squares = 0.0f;
    over_rows<V>(rows, channels, inner, rows_per_block, [&](long long at) {
        const V vector = reinterpret_cast<const V *>(x)[at];
#pragma unroll
        for (int j = 0; j < V::COUNT; j++) {
            const float d = to_float(vector.values[j]) - origin;
            sum += d;
            squares = fmaf(d, d, squares);
        }
    });
    const double total = block_sum(sum, scratch), of_squares = block_sum(squares, scratch);
    if (threadIdx.x == 0)
        partial[(long long)blockIdx.x * channels + blockIdx.y] = make_double2(total, of_squares);
}

// Σ over pieces of partial (pieces, C, 2) for the block's channel, by all threads of it. `scratch`: a double2 for each piece.
__device__ __forceinline__ double2 of_pieces(const double2 *partial, int pieces, int channels, double2 *scratch) {
    for (int piece = threadIdx.x; piece < pieces; piece += blockDim.x)
        scratch[piece] = partial[(long long)piece * channels + blockIdx.y];
    __syncthreads();
    double2 sum = make_double2(0.0, 0.0);
    for (int piece = 0; piece < pieces; piece++) {
        sum.x += scratch[piece].x;
        sum.y += scratch[piece].y;
    }
    return sum;
}

// y = f(z). With `partial` the statistics are those of the batch, which go to `moments` (C, 2) and into the running ones; without
// they are the running ones. Shared: a double2 for each piece, then a float2 for each segment.
template <typename V, bool SPLINE, typename T>
__device__ __forceinline__ void norm_forward(const T *x, const T *residual, const float *parameters, const double2 *partial,
                                             float *running_mean, float *running_variance, double2 *moments, T *y,
                                             const Knots &knots, float slope, int width, int pieces, double count,
                                             double epsilon, double momentum, PLANES) {
    SHARED(double2, scratch);
    float2 *lines = reinterpret_cast<float2 *>(scratch + pieces);
    if (SPLINE) {
        const float *c = parameters + (long long)blockIdx.y * width + 2;
        for (int i = threadIdx.x; i < knots.segments; i += blockDim.x)
            lines[i] = make_float2(c[i], c[i + 1] - c[i]);
    }
    double mean, variance;
    if (partial) {
        const double2 sums = of_pieces(partial, pieces, channels, scratch);
        const double shift = sums.x / count;
        mean = to_float(x[(long long)blockIdx.y * inner]) + shift;
        variance = fmax(sums.y / count - shift * shift, 0.0);
    } else {
        mean = running_mean[blockIdx.y];
        variance = running_variance[blockIdx.y];
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        moments[blockIdx.y] = make_double2(mean, variance);
        if (partial) {
            const double unbiased = variance * (count / fmax(count - 1.0, 1.0));
            running_mean[blockIdx.y] = (float)((1.0 - momentum) * running_mean[blockIdx.y] + momentum * mean);
            running_variance[blockIdx.y] = (float)((1.0 - momentum) * running_variance[blockIdx.y] + momentum * unbiased);
        }
    }
    const Line line = line_of(parameters, width, mean, variance, epsilon);
    __syncthreads();
    over_rows<V>(rows, channels, inner, rows_per_block, [&](long long at) {
        V vector = reinterpret_cast<const V *>(x)[at], r;
        if (residual)
            r = reinterpret_cast<const V *>(residual)[at];
#pragma unroll
        for (int j = 0; j < V::COUNT; j++) {
            const float z = normalised(line, to_float(vector.values[j]), residual ? to_float(r.values[j]) : 0.0f);
            float value;
            if (SPLINE) {
                float t;
                const float2 segment = lines[locate(z, knots, t)];
                value = fmaf(t, segment.y, segment.x);
            } else {
                value = z > 0.0f ? z : slope * z;
            }
            vector.values[j] = from_float<T>(value);
        }
        reinterpret_cast<V *>(y)[at] = vector;
    });
}

// Σ ∂z and Σ ∂z·(x − μ) of the block's rows: products (pieces, C, 2); for splines ∂c: coefficients (pieces, C, K); and ∂z, if
// there is an array for it. Shared: a double for each thread; for splines a float2 for each segment and thread, then a float for
// each segment.
template <typename V, bool SPLINE, typename T>
__device__ __forceinline__ void norm_sums(const T *x, const T *residual, const float *parameters, const double2 *moments,
                                          const T *dy, T *dz, double2 *products, float *coefficients, const Knots &knots,
                                          float slope, int width, double epsilon, PLANES) {
    SHARED(double, scratch);
    const int threads = blockDim.x;
    float2 *sums = reinterpret_cast<float2 *>(scratch + threads);
    float *slopes = reinterpret_cast<float *>(sums + knots.segments * threads);
    if (SPLINE) {
        const float *c = parameters + (long long)blockIdx.y * width + 2;
        for (int i = threadIdx.x; i < knots.segments; i += threads)
            slopes[i] = (c[i + 1] - c[i]) / knots.step;
        for (int i = threadIdx.x; i < knots.segments * threads; i += threads)
            sums[i] = make_float2(0.0f, 0.0f);
    }
    const Line line = line_of(parameters, width, moments[blockIdx.y].x, moments[blockIdx.y].y, epsilon);
    __syncthreads();
    float alone = 0.0f, with_x = 0.0f;
    const int first = blockIdx.x * rows_per_block, count = min(rows_per_block, rows - first), columns = inner / V::COUNT;
    const long long start = ((long long)first * channels + blockIdx.y) * columns;
    const V *from_x = reinterpret_cast<const V *>(x) + start, *from_dy = reinterpret_cast<const V *>(dy) + start;
    const V *from_r = residual ? reinterpret_cast<const V *>(residual) + start : nullptr;
    V *to = dz ? reinterpret_cast<V *>(dz) + start : nullptr;
    Walk walk(threadIdx.x, threads, columns, (long long)channels * columns);
    V vector, gradient, r;
    if (walk.row < count) {
        vector = from_x[walk.at];
        gradient = from_dy[walk.at];
        if (from_r)
            r = from_r[walk.at];
    }
    while (walk.row < count) {
        // The next vectors are under way while these are worked on, as in the spline's own kernel.
        const long long at = walk.at;
        V next_vector, next_gradient, next_r;
        walk.go_on();
        if (walk.row < count) {
            next_vector = from_x[walk.at];
            next_gradient = from_dy[walk.at];
            if (from_r)
                next_r = from_r[walk.at];
        }
#pragma unroll
        for (int j = 0; j < V::COUNT; j++) {
            const float value = to_float(vector.values[j]), g = to_float(gradient.values[j]);
            const float z = normalised(line, value, from_r ? to_float(r.values[j]) : 0.0f);
            float of_z;
            if (SPLINE) {
                float t;
                const int segment = locate(z, knots, t);
                float2 *sum = sums + threadIdx.x + segment * threads;
                const float2 old = *sum;
                *sum = make_float2(old.x + g, fmaf(g, t, old.y));
                of_z = g * slopes[segment];
            } else {
                of_z = z > 0.0f ? g : slope * g;
            }
            alone += of_z;
            with_x = fmaf(of_z, value - line.mean, with_x);
            gradient.values[j] = from_float<T>(of_z);
        }
        if (to)
            to[at] = gradient;
        vector = next_vector;
        gradient = next_gradient;
        r = next_r;
    }
    const double of_1 = block_sum(alone, scratch), of_x = block_sum(with_x, scratch);
    const long long piece = (long long)blockIdx.x * channels + blockIdx.y;
    if (threadIdx.x == 0)
        products[piece] = make_double2(of_1, of_x);
    if (SPLINE) {
        add_up(sums, knots.segments, threads, 1);
        for (int k = threadIdx.x; k <= knots.segments; k += threads)
            coefficients[piece * (knots.segments + 1) + k] = at_knot(sums, threads, knots.segments, k);
    }
}

// ∂x = γ/σ·(∂z − mean(∂z) − x̂·mean(∂z·x̂)), without the means where the statistics are not of the batch; and the gradients of the
// parameters (C, width) from the sums of all pieces. `gradient` is ∂z (`has_dz`), or ∂y. Shared: a double2 for each piece, then a
// float for each segment.
template <typename V, bool SPLINE, typename T>
__device__ __forceinline__ void norm_input(const T *x, const T *residual, const float *parameters, const double2 *moments,
                                           const T *gradient, const double2 *products, const float *coefficients, T *dx,
                                           float *dparameters, const Knots &knots, float slope, int width, int pieces,
                                           double count, double epsilon, int of_batch, int has_dz, PLANES) {
    SHARED(double2, scratch);
    float *slopes = reinterpret_cast<float *>(scratch + pieces);
    if (SPLINE && !has_dz) {
        const float *c = parameters + (long long)blockIdx.y * width + 2;
        for (int i = threadIdx.x; i < knots.segments; i += blockDim.x)
            slopes[i] = (c[i + 1] - c[i]) / knots.step;
    }
    const double2 sums = of_pieces(products, pieces, channels, scratch);
    const double mean = moments[blockIdx.y].x;
    const Line line = line_of(parameters, width, mean, moments[blockIdx.y].y, epsilon);
    if (blockIdx.x == 0) {
        float *out = dparameters + (long long)blockIdx.y * width;
        if (threadIdx.x == 0) {
            out[0] = (float)(sums.y * line.inverse);
            out[1] = (float)sums.x;
        }
        for (int k = threadIdx.x; k < width - 2; k += blockDim.x) {
            double sum = 0.0;
            for (int piece = 0; piece < pieces; piece++)
                sum += coefficients[((long long)piece * channels + blockIdx.y) * (width - 2) + k];
            out[2 + k] = (float)sum;
        }
    }
    // k·∂z + m·x + n with numbers of the channel.
    const double of_z = parameters[blockIdx.y * width] * line.inverse;
    const double of_x = of_batch ? -of_z * (sums.y / count) * line.inverse * line.inverse : 0.0;
    const float k = (float)of_z, m = (float)of_x, n = of_batch ? (float)(-of_z * sums.x / count - of_x * mean) : 0.0f;
    over_rows<V>(rows, channels, inner, rows_per_block, [&](long long at) {
        const V vector = reinterpret_cast<const V *>(x)[at];
        V out = reinterpret_cast<const V *>(gradient)[at], r;
        if (residual && !has_dz)
            r = reinterpret_cast<const V *>(residual)[at];
#pragma unroll
        for (int j = 0; j < V::COUNT; j++) {
            const float value = to_float(vector.values[j]);
            float dz = to_float(out.values[j]);
            if (!has_dz) {
                const float z = normalised(line, value, residual ? to_float(r.values[j]) : 0.0f);
                float t;
                if (SPLINE)
                    dz *= slopes[locate(z, knots, t)];
                else
                    dz = z > 0.0f ? dz : slope * dz;
            }
            out.values[j] = from_float<T>(fmaf(k, dz, fmaf(m, value, n)));
        }
        reinterpret_cast<V *>(dx)[at] = out;
    });
}

#define NORM(type, T, mapping, V, kind, SPLINE)                                                                            \
    extern "C" __global__ void __launch_bounds__(256) norm_forward_##kind##_##mapping##_##type(                            \
        const T *__restrict__ x, const T *__restrict__ residual, const float *__restrict__ parameters,                     \
        const double2 *__restrict__ partial, float *running_mean, float *running_variance, double2 *moments,               \
        T *__restrict__ y, Knots knots, float slope, int width, int pieces, double count, double epsilon, double momentum, \
        PLANES) {                                                                                                          \
        norm_forward<V, SPLINE>(x, residual, parameters, partial, running_mean, running_variance, moments, y, knots,       \
                                slope, width, pieces, count, epsilon, momentum, rows, channels, inner, rows_per_block);    \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256, 2) norm_sums_##kind##_##mapping##_##type(                            \
        const T *__restrict__ x, const T *__restrict__ residual, const float *__restrict__ parameters,                     \
        const double2 *__restrict__ moments, const T *__restrict__ dy, T *__restrict__ dz, double2 *products,              \
        float *coefficients, Knots knots, float slope, int width, double epsilon, PLANES) {                                \
        norm_sums<V, SPLINE>(x, residual, parameters, moments, dy, dz, products, coefficients, knots, slope, width,        \
                             epsilon, rows, channels, inner, rows_per_block);                                              \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256, 6) norm_input_##kind##_##mapping##_##type(                           \
        const T *__restrict__ x, const T *__restrict__ residual, const float *__restrict__ parameters,                     \
        const double2 *__restrict__ moments, const T *__restrict__ gradient, const double2 *__restrict__ products,         \
        const float *__restrict__ coefficients, T *__restrict__ dx, float *dparameters, Knots knots, float slope,          \
        int width, int pieces, double count, double epsilon, int of_batch, int has_dz, PLANES) {                           \
        norm_input<V, SPLINE>(x, residual, parameters, moments, gradient, products, coefficients, dx, dparameters,         \
                              knots, slope, width, pieces, count, epsilon, of_batch, has_dz, rows, channels, inner,        \
                              rows_per_block);                                                                             \
    }
#define NORM_BY_MAPPING(type, T, mapping, V)                                                                               \
    extern "C" __global__ void __launch_bounds__(256) norm_statistics_##mapping##_##type(const T *__restrict__ x,          \
                                                                                         double2 *partial, PLANES) {       \
        norm_statistics<V>(x, partial, rows, channels, inner, rows_per_block);                                             \
    }                                                                                                                      \
    NORM(type, T, mapping, V, spline, true)                                                                                \
    NORM(type, T, mapping, V, rectifier, false)
#define NORM_BY_TYPE(type, T)                                                                                              \
    NORM_BY_MAPPING(type, T, vectors, Vector<T>)                                                                           \
    NORM_BY_MAPPING(type, T, scalars, Scalar<T>)
FOR_TYPES(NORM_BY_TYPE)

// γ (C), β (C) and coefficients (C, width − 2) side by side, or (`apart`) back again.
extern "C" __global__ void pack_parameters(float *gamma, float *beta, float *coefficients, float *packed, int channels, int width,
                                           int apart) {
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= channels * width)
        return;
    const int channel = at / width, k = at % width;
    float *other = k == 0 ? gamma + channel : k == 1 ? beta + channel : coefficients + channel * (width - 2) + k - 2;
    if (apart)
        *other = packed[at];
    else
        packed[at] = *other;
}
