// The kernels of networks that no library has, or has slow ones: convolutions with few channels, batch norm fused with what
// follows it, pools, dropout, losses, optimisers, and images of a data set that lies on the device. What flows between layers is
// f32 or bf16, all else f32. The formulas are those of the CPU's ops in the folder above.
//
// Sums are merged in a fixed order: the same input gives the same bits.

#include "../../../../ds-core/src/ops/gpu/common.cuh"
#include "conv.cuh"
#include "norm.cuh"

// ---- Sums and biases -----------------------------------------------------------------------------------------------------------

// y (N, C, inner) += bias (C).
#define SUMS(type, T)                                                                                                      \
    extern "C" __global__ void add_##type(const T *__restrict__ a, const T *__restrict__ b, T *__restrict__ y, int n,      \
                                          int aligned) {                                                                   \
        pointwise<T>(a, b, y, n, aligned, [&](float a, float b, long long) { return a + b; });                             \
    }                                                                                                                      \
    extern "C" __global__ void add_bias_##type(T *y, const float *__restrict__ bias, int channels, int inner, int n,       \
                                               int aligned) {                                                              \
        pointwise<T>(y, nullptr, y, n, aligned,                                                                            \
                     [&](float y, float, long long at) { return y + bias[(int)at / inner % channels]; });                  \
    }
FOR_TYPES(SUMS)

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
        channel_sums<Vector<T>>(x, partial, rows, channels, inner, rows_per_block);                                        \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) channel_sums_scalars_##type(const T *__restrict__ x,                 \
                                                                                  double *partial, PLANES) {               \
        channel_sums<Scalar<T>>(x, partial, rows, channels, inner, rows_per_block);                                        \
    }
FOR_TYPES(CHANNEL_SUMS)

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

// ---- Pools: a thread for each pixel that is written ----------------------------------------------------------------------------

struct Pool {
    int planes, height, width, out_height, out_width, kernel, stride, padding;
    // Whether it is a mean.
    int mean;
    int unused;
};

__device__ __forceinline__ bool wins(float x, float largest) { return x > largest || x != x; }

template <typename T> __device__ __forceinline__ void pool_forward(const T *x, T *y, const Pool &p) {
    const int o = blockIdx.x * blockDim.x + threadIdx.x;
    const int area = p.out_height * p.out_width;
    if (o >= p.planes * area)
        return;
    const T *plane = x + (long long)(o / area) * p.height * p.width;
    const int top = o % area / p.out_width * p.stride - p.padding, left = o % p.out_width * p.stride - p.padding;
    float largest = -INFINITY, sum = 0.0f;
    for (int i = max(top, 0); i < min(top + p.kernel, p.height); i++)
        for (int j = max(left, 0); j < min(left + p.kernel, p.width); j++) {
            const float value = to_float(plane[i * p.width + j]);
            largest = wins(value, largest) ? value : largest;
            sum += value;
        }
    y[o] = from_float<T>(p.mean ? sum * (1.0f / (float)(p.kernel * p.kernel)) : largest);
}

// Whether pixel (row, column) is the first of the window at (top, left) that has its maximum.
template <typename T>
__device__ __forceinline__ bool is_first(const Pool &p, const T *plane, int top, int left, int row, int column, float y) {
    for (int i = max(top, 0); i < min(top + p.kernel, p.height); i++)
        for (int j = max(left, 0); j < min(left + p.kernel, p.width); j++) {
            const float value = to_float(plane[i * p.width + j]);
            if (value == y || value != value)
                return i == row && j == column;
        }
    return false;
}

template <typename T>
__device__ __forceinline__ void pool_backward(const T *x, const T *y, const T *dy, T *dx, const Pool &p) {
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    const int area = p.height * p.width;
    if (at >= p.planes * area)
        return;
    const int plane = at / area, row = at % area / p.width, column = at % p.width;
    const T *pixels = x + (long long)plane * area;
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
                sum += to_float(dy[o]) * (1.0f / (float)(p.kernel * p.kernel));
            else if (is_first(p, pixels, top, left, row, column, to_float(y[o])))
                sum += to_float(dy[o]);
        }
    dx[at] = from_float<T>(sum);
}

#define POOL(type, T)                                                                                                      \
    extern "C" __global__ void pool_forward_##type(const T *__restrict__ x, T *__restrict__ y, Pool p) {                   \
        pool_forward(x, y, p);                                                                                             \
    }                                                                                                                      \
    extern "C" __global__ void pool_backward_##type(const T *__restrict__ x, const T *__restrict__ y,                      \
                                                    const T *__restrict__ dy, T *__restrict__ dx, Pool p) {                \
        pool_backward(x, y, dy, dx, p);                                                                                    \
    }
FOR_TYPES(POOL)

// ---- Numbers that differ from step to step, where kernels find them ------------------------------------------------------------

extern "C" __global__ void put_word(unsigned long long word, unsigned long long *out) { *out = word; }

// ---- Dropout -------------------------------------------------------------------------------------------------------------------

// The finaliser of SplitMix64, as in rng.rs.
__device__ __forceinline__ unsigned long long hash(unsigned long long key, unsigned long long index) {
    unsigned long long z = key + (index + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

// `step`, if there is one, has the key of the step, with which `key` is hashed.
#define DROPOUT(type, T)                                                                                                   \
    extern "C" __global__ void dropout_##type(const T *__restrict__ x, T *__restrict__ y, const unsigned long long *step,  \
                                              unsigned long long key, unsigned long long threshold, float scale, int n,    \
                                              int aligned) {                                                               \
        const unsigned long long drawn = step ? hash(*step, key) : key;                                                    \
        pointwise<T>(x, nullptr, y, n, aligned, [&](float x, float, long long at) {                                        \
            return (hash(drawn, at) >> 32) >= threshold ? x * scale : 0.0f;                                                \
        });                                                                                                                \
    }
FOR_TYPES(DROPOUT)

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

// Which of `count` slots the block works on.
__device__ __forceinline__ int slot_of_block(const int *first, int count) {
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

template <typename F> __device__ __forceinline__ void update(const Slots &all, int count, F f) {
    const int low = slot_of_block(all.first, count);
    const Slot &slot = all.slots[low];
    const int start = (blockIdx.x - all.first[low]) * 1024;
    for (int k = start + threadIdx.x; k < min(start + 1024, slot.length); k += blockDim.x)
        f(slot, k, (slot.gradient ? slot.gradient[k] : 0.0f) + slot.decay * slot.theta[k]);
}

extern "C" __global__ void sgd(const Slots all, int count, const float *schedule, float momentum) {
    const float rate = schedule[0];
    update(all, count, [&](const Slot &slot, int k, float g) {
        const float v = momentum * slot.state[k] + g;
        slot.state[k] = v;
        slot.theta[k] -= rate * (g + momentum * v);
    });
}

// The schedule: the learning rate over the first bias correction, and 1/√ of the second one.
extern "C" __global__ void adam(const Slots all, int count, const float *schedule, float beta1, float beta2,
                                float epsilon) {
    const float rate = schedule[0], correction = schedule[1];
    update(all, count, [&](const Slot &slot, int k, float g) {
        float *second = slot.state + slot.length;
        const float m = beta1 * slot.state[k] + (1.0f - beta1) * g;
        const float v = beta2 * second[k] + (1.0f - beta2) * g * g;
        slot.state[k] = m;
        second[k] = v;
        slot.theta[k] -= rate * m / (sqrtf(v) * correction + epsilon);
    });
}

// ---- Packing: many arrays into one ---------------------------------------------------------------------------------------------

struct Piece {
    // None counts as 0.
    const float *from;
    int length;
    int start;
};
// Blocks first[k]..first[k + 1] work on piece k, 1024 numbers each.
struct Pieces {
    int first[194];
    Piece pieces[192];
};

// out[start + k] = scale·from[k]; behind a piece it is 0 up to the next multiple of 4.
extern "C" __global__ void pack_pieces(const Pieces all, int count, float *out, float scale) {
    const int low = slot_of_block(all.first, count);
    const Piece &piece = all.pieces[low];
    const int begin = (blockIdx.x - all.first[low]) * 1024, end = (piece.length + 3) / 4 * 4;
    for (int k = begin + threadIdx.x; k < min(begin + 1024, end); k += blockDim.x)
        out[piece.start + k] = piece.from && k < piece.length ? scale * piece.from[k] : 0.0f;
}

// ---- Images --------------------------------------------------------------------------------------------------------------------

// Images of a set (…, C, H, W), cropped, flipped and normalised: `picks` has the index of each and where it goes, dy + 128,
// dx + 128 and the flip in a byte each; `table` (C, 256) the value of each pixel. What is outside is black. A thread for each
// number.
template <typename T>
__device__ __forceinline__ void place_images(const unsigned char *images, const T *table, const unsigned *picks, T *out, int total,
                                             int count, int channels, int height, int width) {
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

#define PLACE_IMAGES(type, T)                                                                                              \
    extern "C" __global__ void place_images_##type(                                                                        \
        const unsigned char *__restrict__ images, const T *__restrict__ table, const unsigned *__restrict__ picks,         \
        T *__restrict__ out, int total, int count, int channels, int height, int width) {                                  \
        place_images(images, table, picks, out, total, count, channels, height, width);                                    \
    }
FOR_TYPES(PLACE_IMAGES)
