// The kernels of networks that no library has, f32: batch norm fused with what follows it, pools, dropout, losses, optimisers,
// and images of a data set that lies on the device. The formulas are those of the CPU's ops in the folder above.
//
// Sums are merged in a fixed order: the same input gives the same bits.

#include "../../../../ds-core/src/ops/gpu/common.cuh"

// ---- Batch norm, the sum with a residual, and a spline or rectifier ------------------------------------------------------------
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
template <typename V>
__device__ __forceinline__ void norm_statistics(const float *x, double2 *partial, int rows, int channels, int inner,
                                                int rows_per_block) {
    SHARED(double, scratch);
    const float origin = x[(long long)blockIdx.y * inner];
    float sum = 0.0f, squares = 0.0f;
    over_rows<V>(rows, channels, inner, rows_per_block, [&](long long at) {
        const V vector = reinterpret_cast<const V *>(x)[at];
#pragma unroll
        for (int j = 0; j < V::COUNT; j++) {
            const float d = vector.values[j] - origin;
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
template <typename V, bool SPLINE>
__device__ __forceinline__ void norm_forward(const float *x, const float *residual, const float *parameters,
                                             const double2 *partial, float *running_mean, float *running_variance,
                                             double2 *moments, float *y, const Knots &knots, float slope, int width, int pieces,
                                             double count, double epsilon, double momentum, int rows, int channels, int inner,
                                             int rows_per_block) {
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
        mean = x[(long long)blockIdx.y * inner] + shift;
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
            const float z = normalised(line, vector.values[j], residual ? r.values[j] : 0.0f);
            if (SPLINE) {
                float t;
                const float2 segment = lines[locate(z, knots, t)];
                vector.values[j] = fmaf(t, segment.y, segment.x);
            } else {
                vector.values[j] = z > 0.0f ? z : slope * z;
            }
        }
        reinterpret_cast<V *>(y)[at] = vector;
    });
}

// Σ ∂z and Σ ∂z·(x − μ) of the block's rows: products (pieces, C, 2); for splines ∂c: coefficients (pieces, C, K); and ∂z, if
// there is an array for it. Shared: a double for each thread; for splines a float2 for each segment and thread, then a float for
// each segment.
template <typename V, bool SPLINE>
__device__ __forceinline__ void norm_sums(const float *x, const float *residual, const float *parameters, const double2 *moments,
                                          const float *dy, float *dz, double2 *products, float *coefficients, const Knots &knots,
                                          float slope, int width, double epsilon, int rows, int channels, int inner,
                                          int rows_per_block) {
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
            const float z = normalised(line, vector.values[j], from_r ? r.values[j] : 0.0f), g = gradient.values[j];
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
            with_x = fmaf(of_z, vector.values[j] - line.mean, with_x);
            gradient.values[j] = of_z;
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
template <typename V, bool SPLINE>
__device__ __forceinline__ void norm_input(const float *x, const float *residual, const float *parameters, const double2 *moments,
                                           const float *gradient, const double2 *products, const float *coefficients, float *dx,
                                           float *dparameters, const Knots &knots, float slope, int width, int pieces,
                                           double count, double epsilon, int of_batch, int has_dz, int rows, int channels,
                                           int inner, int rows_per_block) {
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
            float dz = out.values[j];
            if (!has_dz) {
                const float z = normalised(line, vector.values[j], residual ? r.values[j] : 0.0f);
                float t;
                if (SPLINE)
                    dz *= slopes[locate(z, knots, t)];
                else
                    dz = z > 0.0f ? dz : slope * dz;
            }
            out.values[j] = fmaf(k, dz, fmaf(m, vector.values[j], n));
        }
        reinterpret_cast<V *>(dx)[at] = out;
    });
}

#define PLANES int rows, int channels, int inner, int rows_per_block
#define NORM(mapping, V, kind, SPLINE)                                                                                     \
    extern "C" __global__ void __launch_bounds__(256) norm_forward_##kind##_##mapping(                                     \
        const float *__restrict__ x, const float *__restrict__ residual, const float *__restrict__ parameters,             \
        const double2 *__restrict__ partial, float *running_mean, float *running_variance, double2 *moments,               \
        float *__restrict__ y, Knots knots, float slope, int width, int pieces, double count, double epsilon,              \
        double momentum, PLANES) {                                                                                         \
        norm_forward<V, SPLINE>(x, residual, parameters, partial, running_mean, running_variance, moments, y, knots,       \
                                slope, width, pieces, count, epsilon, momentum, rows, channels, inner, rows_per_block);    \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256, 2) norm_sums_##kind##_##mapping(                                     \
        const float *__restrict__ x, const float *__restrict__ residual, const float *__restrict__ parameters,             \
        const double2 *__restrict__ moments, const float *__restrict__ dy, float *__restrict__ dz, double2 *products,      \
        float *coefficients, Knots knots, float slope, int width, double epsilon, PLANES) {                                \
        norm_sums<V, SPLINE>(x, residual, parameters, moments, dy, dz, products, coefficients, knots, slope, width,        \
                             epsilon, rows, channels, inner, rows_per_block);                                              \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) norm_input_##kind##_##mapping(                                       \
        const float *__restrict__ x, const float *__restrict__ residual, const float *__restrict__ parameters,             \
        const double2 *__restrict__ moments, const float *__restrict__ gradient, const double2 *__restrict__ products,     \
        const float *__restrict__ coefficients, float *__restrict__ dx, float *dparameters, Knots knots, float slope,      \
        int width, int pieces, double count, double epsilon, int of_batch, int has_dz, PLANES) {                           \
        norm_input<V, SPLINE>(x, residual, parameters, moments, gradient, products, coefficients, dx, dparameters,         \
                              knots, slope, width, pieces, count, epsilon, of_batch, has_dz, rows, channels, inner,        \
                              rows_per_block);                                                                             \
    }
#define BY_MAPPING(mapping, V)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256) norm_statistics_##mapping(const float *__restrict__ x,               \
                                                                                double2 *partial, PLANES) {                \
        norm_statistics<V>(x, partial, rows, channels, inner, rows_per_block);                                             \
    }                                                                                                                      \
    NORM(mapping, V, spline, true)                                                                                         \
    NORM(mapping, V, rectifier, false)

BY_MAPPING(vectors, Vector<float>)
BY_MAPPING(scalars, Scalar<float>)

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

// ---- Sums and biases -----------------------------------------------------------------------------------------------------------

extern "C" __global__ void add(const float *__restrict__ a, const float *__restrict__ b, float *__restrict__ y, int n,
                               int aligned) {
    pointwise(a, b, y, n, aligned, [&](float a, float b, long long) { return a + b; });
}

// y (N, C, inner) += bias (C).
extern "C" __global__ void add_bias(float *y, const float *__restrict__ bias, int channels, int inner, int n, int aligned) {
    pointwise(y, nullptr, y, n, aligned, [&](float y, float, long long at) { return y + bias[(int)at / inner % channels]; });
}

// Σ over the block's rows of a channel: partial (pieces, C). Shared: a double for each thread.
template <typename V> __device__ __forceinline__ void channel_sums(const float *x, double *partial, PLANES) {
    SHARED(double, scratch);
    float sum = 0.0f;
    over_rows<V>(rows, channels, inner, rows_per_block, [&](long long at) {
        const V vector = reinterpret_cast<const V *>(x)[at];
#pragma unroll
        for (int j = 0; j < V::COUNT; j++)
            sum += vector.values[j];
    });
    const double total = block_sum(sum, scratch);
    if (threadIdx.x == 0)
        partial[(long long)blockIdx.x * channels + blockIdx.y] = total;
}
extern "C" __global__ void __launch_bounds__(256) channel_sums_vectors(const float *__restrict__ x, double *partial, PLANES) {
    channel_sums<Vector<float>>(x, partial, rows, channels, inner, rows_per_block);
}
extern "C" __global__ void __launch_bounds__(256) channel_sums_scalars(const float *__restrict__ x, double *partial, PLANES) {
    channel_sums<Scalar<float>>(x, partial, rows, channels, inner, rows_per_block);
}

// out (count) = Σ over pieces of partial (pieces, count, every), of each the first, in that order.
extern "C" __global__ void merge(const double *partial, float *out, int pieces, int count, int every) {
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= count)
        return;
    double sum = 0.0;
    for (int piece = 0; piece < pieces; piece++)
        sum += partial[((long long)piece * count + k) * every];
    out[k] = (float)sum;
}

// ---- Pools: a thread for each pixel that is written ----------------------------------------------------------------------------

struct Pool {
    int planes, height, width, out_height, out_width, kernel, stride, padding;
    // Whether it is a mean.
    int mean;
    int unused;
};

__device__ __forceinline__ bool wins(float x, float largest) { return x > largest || x != x; }

extern "C" __global__ void pool_forward(const float *__restrict__ x, float *__restrict__ y, Pool p) {
    const int o = blockIdx.x * blockDim.x + threadIdx.x;
    const int area = p.out_height * p.out_width;
    if (o >= p.planes * area)
        return;
    const float *plane = x + (long long)(o / area) * p.height * p.width;
    const int top = o % area / p.out_width * p.stride - p.padding, left = o % p.out_width * p.stride - p.padding;
    float largest = -INFINITY, sum = 0.0f;
    for (int i = max(top, 0); i < min(top + p.kernel, p.height); i++)
        for (int j = max(left, 0); j < min(left + p.kernel, p.width); j++) {
            const float value = plane[i * p.width + j];
            largest = wins(value, largest) ? value : largest;
            sum += value;
        }
    y[o] = p.mean ? sum * (1.0f / (float)(p.kernel * p.kernel)) : largest;
}

// Whether pixel (row, column) is the first of the window at (top, left) that has its maximum.
__device__ __forceinline__ bool is_first(const Pool &p, const float *plane, int top, int left, int row, int column, float y) {
    for (int i = max(top, 0); i < min(top + p.kernel, p.height); i++)
        for (int j = max(left, 0); j < min(left + p.kernel, p.width); j++) {
            const float value = plane[i * p.width + j];
            if (value == y || value != value)
                return i == row && j == column;
        }
    return false;
}

extern "C" __global__ void pool_backward(const float *__restrict__ x, const float *__restrict__ y, const float *__restrict__ dy,
                                         float *__restrict__ dx, Pool p) {
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    const int area = p.height * p.width;
    if (at >= p.planes * area)
        return;
    const int plane = at / area, row = at % area / p.width, column = at % p.width;
    const float *pixels = x + (long long)plane * area;
    const long long outputs = (long long)plane * p.out_height * p.out_width;
    // The windows that cover the pixel.
    const int last_row = min((row + p.padding) / p.stride, p.out_height - 1);
    const int last_column = min((column + p.padding) / p.stride, p.out_width - 1);
    const int above = row + p.padding - p.kernel, before = column + p.padding - p.kernel;
    float sum = 0.0f;
    for (int i = above < 0 ? 0 : above / p.stride + 1; i <= last_row; i++)
        for (int j = before < 0 ? 0 : before / p.stride + 1; j <= last_column; j++) {
            const long long o = outputs + i * p.out_width + j;
            const int top = i * p.stride - p.padding, left = j * p.stride - p.padding;
            if (p.mean)
                sum += dy[o] * (1.0f / (float)(p.kernel * p.kernel));
            else if (is_first(p, pixels, top, left, row, column, y[o]))
                sum += dy[o];
        }
    dx[at] = sum;
}

// ---- Dropout -------------------------------------------------------------------------------------------------------------------

// The finaliser of SplitMix64, as in rng.rs.
__device__ __forceinline__ unsigned long long hash(unsigned long long key, unsigned long long index) {
    unsigned long long z = key + (index + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

extern "C" __global__ void dropout(const float *__restrict__ x, float *__restrict__ y, unsigned long long key,
                                   unsigned long long threshold, float scale, int n, int aligned) {
    pointwise(x, nullptr, y, n, aligned,
              [&](float x, float, long long at) { return (hash(key, at) >> 32) >= threshold ? x * scale : 0.0f; });
}

// ---- Losses: one block, f64 inside ---------------------------------------------------------------------------------------------

// log Σ exp of a row.
__device__ __forceinline__ double log_sum_exp(const float *row, int classes) {
    double largest = -INFINITY, sum = 0.0;
    for (int k = 0; k < classes; k++)
        largest = fmax(largest, (double)row[k]);
    for (int k = 0; k < classes; k++)
        sum += exp(row[k] - largest);
    return largest + log(sum);
}

// The loss of a row: softmax and cross-entropy with more than 0 classes; else of one number, sigmoid and binary cross-entropy
// (kind 1) or squared error (kind 2).
__device__ __forceinline__ double row_loss(const float *x, const unsigned char *labels, const float *targets, int kind,
                                           int classes, int row) {
    // A label that is no class has no loss.
    if (kind == 0)
        return labels[row] < classes ? log_sum_exp(x + row * classes, classes) - x[row * classes + labels[row]] : NAN;
    const double value = x[row], target = targets[row];
    if (kind == 1)
        return fmax(value, 0.0) - value * target + log1p(exp(-fabs(value)));
    return (value - target) * (value - target);
}

// The mean loss. Shared: a double for each thread.
extern "C" __global__ void loss_forward(const float *__restrict__ x, const unsigned char *__restrict__ labels,
                                        const float *__restrict__ targets, float *loss, int kind, int classes, int rows) {
    SHARED(double, scratch);
    double sum = 0.0;
    for (int row = threadIdx.x; row < rows; row += blockDim.x)
        sum += row_loss(x, labels, targets, kind, classes, row);
    const double total = block_sum(sum, scratch);
    if (threadIdx.x == 0)
        *loss = (float)(total / rows);
}

// Its gradient, a thread for each row.
extern "C" __global__ void loss_backward(const float *__restrict__ x, const unsigned char *__restrict__ labels,
                                         const float *__restrict__ targets, const float *gradient, float *dx, int kind,
                                         int classes, int rows) {
    const int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows)
        return;
    const double scale = (double)*gradient / rows;
    if (kind == 0) {
        const double normaliser = log_sum_exp(x + row * classes, classes);
        for (int k = 0; k < classes; k++)
            dx[row * classes + k] = (float)(scale * (exp(x[row * classes + k] - normaliser) - (k == labels[row] ? 1.0 : 0.0)));
        return;
    }
    const double value = x[row], target = targets[row];
    dx[row] = (float)(scale * (kind == 1 ? 1.0 / (1.0 + exp(-value)) - target : 2.0 * (value - target)));
}

// totals += (Σ loss, right answers). Shared: a double for each thread.
extern "C" __global__ void tally(const float *__restrict__ x, const unsigned char *__restrict__ labels,
                                 const float *__restrict__ targets, double *totals, int kind, int classes, int rows) {
    SHARED(double, scratch);
    double sum = 0.0, right = 0.0;
    for (int row = threadIdx.x; row < rows; row += blockDim.x) {
        sum += row_loss(x, labels, targets, kind, classes, row);
        if (kind == 0) {
            int best = 0;
            for (int k = 1; k < classes; k++)
                if (x[row * classes + k] > x[row * classes + best])
                    best = k;
            right += best == labels[row];
        } else if (kind == 1) {
            right += (x[row] > 0.0f) == (targets[row] > 0.5f);
        }
    }
    const double losses = block_sum(sum, scratch), answers = block_sum(right, scratch);
    if (threadIdx.x == 0) {
        totals[0] += losses;
        totals[1] += answers;
    }
}

// ---- Optimisers: all parameters of a group in one launch -----------------------------------------------------------------------

struct Slot {
    float *theta;
    // None counts as 0.
    const float *gradient;
    // The moving averages, one after the other.
    float *state;
    int length;
    float decay;
};
// As many as the arguments of a kernel have room for. Blocks first[k]..first[k + 1] work on slot k, 1024 numbers each.
struct Slots {
    int first[114];
    Slot slots[112];
};

template <typename F> __device__ __forceinline__ void update(const Slots &all, int count, F f) {
    int low = 0, high = count;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if ((int)blockIdx.x >= all.first[middle])
            low = middle;
        else
            high = middle;
    }
    const Slot &slot = all.slots[low];
    const int start = (blockIdx.x - all.first[low]) * 1024;
    for (int k = start + threadIdx.x; k < min(start + 1024, slot.length); k += blockDim.x)
        f(slot, k, (slot.gradient ? slot.gradient[k] : 0.0f) + slot.decay * slot.theta[k]);
}

extern "C" __global__ void sgd(const Slots all, int count, float momentum, float rate) {
    update(all, count, [&](const Slot &slot, int k, float g) {
        const float v = momentum * slot.state[k] + g;
        slot.state[k] = v;
        slot.theta[k] -= rate * (g + momentum * v);
    });
}

// With the learning rate over the first bias correction, and 1/√ of the second one.
extern "C" __global__ void adam(const Slots all, int count, float rate, float correction, float beta1, float beta2,
                                float epsilon) {
    update(all, count, [&](const Slot &slot, int k, float g) {
        float *second = slot.state + slot.length;
        const float m = beta1 * slot.state[k] + (1.0f - beta1) * g;
        const float v = beta2 * second[k] + (1.0f - beta2) * g * g;
        slot.state[k] = m;
        second[k] = v;
        slot.theta[k] -= rate * m / (sqrtf(v) * correction + epsilon);
    });
}

// ---- Images --------------------------------------------------------------------------------------------------------------------

// Images of a set (…, C, H, W), cropped, flipped and normalised: `picks` has the index of each and where it goes, dy + 128,
// dx + 128 and the flip in a byte each; `table` (C, 256) the value of each pixel. What is outside is black. A thread for each
// number.
extern "C" __global__ void place_images(const unsigned char *__restrict__ images, const float *__restrict__ table,
                                        const unsigned *__restrict__ picks, float *__restrict__ out, int total, int count,
                                        int channels, int height, int width) {
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    const int area = height * width, features = channels * area;
    if (at >= count * features)
        return;
    const int image = at / features, channel = at % features / area, row = at % area / width, column = at % width;
    const unsigned index = picks[2 * image], place = picks[2 * image + 1];
    const int y = row + (int)(place & 255) - 128;
    const int x = ((place >> 16) & 1 ? width - 1 - column : column) + (int)((place >> 8) & 255) - 128;
    const bool inside = index < (unsigned)total && y >= 0 && y < height && x >= 0 && x < width;
    const int value = inside ? images[(long long)index * features + channel * area + y * width + x] : 0;
    out[at] = table[channel * 256 + value];
}
