#pragma once
#include <backend/gpu/common.cuh>

// 3×3 convolutions of padding 1 and stride 1 or 2 with few channels, all three directions, as products on tensor cores: factors
// are TF32 (bf16 is exact in it), sums f32. A 1×1 convolution of stride 2 is one whose other taps are 0 (and 0 times what is
// infinite is NaN: that spreads to neighbours).
//
// A tile is what some rows of outputs of one image need. It lies in shared memory channel by channel with a border of zeros, so
// that a tap is an offset: nothing is unfolded. Rows begin at multiples of 16 bytes, and the zeros left of a row are those right of
// the one above; planes are as long as keeps the threads of a warp out of each other's banks.
//
// mma.m16n8k8, by thread of the warp ("lane"): A[lane/4 + 8·(r%2)][lane%4 + 4·(r/2)] is a_r, B[lane%4 + 4·r][lane/4] is b_r,
// and C[lane/4 + 8·(r/2)][2·(lane%4) + r%2] is c_r.

constexpr int TAPS = 9;
// Zeros left of a row.
constexpr int MARGIN = 4;
// Vectors of a thread that are under way at the same time: stores between them would wait for one after the other.
constexpr int BATCH = 4;

#ifdef __CUDACC__
// Before compute capability 8.0 there are no such numbers and products: the host does not launch these kernels there.
__device__ __forceinline__ float to_tf32(float value) {
    unsigned bits = __float_as_uint(value);
#if __CUDA_ARCH__ >= 800
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
#endif
    return __uint_as_float(bits);
}
__device__ __forceinline__ void multiply_add(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
          "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
#else
    __trap();
#endif
}
#endif

struct __align__(16) Four {
    float values[4];
};
// Neighbouring pixels.
template <typename T> struct __align__(2 * sizeof(T)) Two {
    T values[2];
};

// Images (N, channels, height, width), and a tile's rows of outputs. Where `spread` is 2 there are zeros between neighbouring
// pixels (and after the last of a row or column), where `stride` is 2 there is an output for every second pixel of what comes of it.
struct Images {
    int channels, height, width, rows, stride, spread;
};

__device__ __forceinline__ int output_rows(const Images &of) { return of.height * of.spread / of.stride; }
__device__ __forceinline__ int output_width(const Images &of) { return of.width * of.spread / of.stride; }
__device__ __forceinline__ int tiles_of(const Images &of) { return (output_rows(of) + of.rows - 1) / of.rows; }
__device__ __forceinline__ int row_length(const Images &of) { return of.width * of.spread + MARGIN; }

// Where the top left tap of a tile's output lies in its plane.
__device__ __forceinline__ int place_of(int output, const Images &of) {
    const int width = output_width(of), row = output / width;
    return (row * row_length(of) + output - row * width) * of.stride + MARGIN - 1;
}

// `count` channels of a tile from `first` on with their borders, planes of `plane` numbers; what is outside the images is 0.
template <int SPREAD, typename T>
__device__ __forceinline__ void load_spread(const T *x, float *to, const Images &of, int tile, int first, int count, int plane) {
    constexpr int COUNT = Vector<T>::COUNT;
    const int tiles = tiles_of(of), image = tile / tiles, top = (tile - image * tiles) * of.rows * of.stride - 1;
    const int rows = (of.rows - 1) * of.stride + 3, vectors = of.width / COUNT, length = row_length(of);
    const T *from = x + (long long)image * of.channels * of.height * of.width;
    const int column = threadIdx.x % vectors, others = blockDim.x / vectors, lines = count * rows;
    if (threadIdx.x >= others * vectors)
        return;
    const Four zeros = {{0.0f, 0.0f, 0.0f, 0.0f}};
    for (int start = threadIdx.x / vectors; start < lines; start += BATCH * others) {
        Packed<Vector<T>> batch[BATCH];
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            const int line = start + b * others, channel = line / rows, spread_row = top + line - channel * rows;
            const int at = SPREAD == 2 ? spread_row >> 1 : spread_row;
            const bool exists = line < lines && at * SPREAD == spread_row && first + channel < of.channels;
            batch[b] = {};
            if (exists && spread_row >= 0 && at < of.height)
                batch[b] = packed_at<Vector<T>>(from + ((long long)(first + channel) * of.height + at) * of.width, column);
        }
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            const int line = start + b * others, channel = line / rows, row = line - channel * rows;
            if (line >= lines)
                break;
            const Vector<T> vector = unpacked(batch[b]);
            float *to_row = to + channel * plane + row * length;
#pragma unroll
            for (int k = 0; k < COUNT; k += 4) {
                Four four;
#pragma unroll
                for (int j = 0; j < 4; j++)
                    four.values[j] = to_tf32(to_float(vector.values[k + j]));
                Four *there = reinterpret_cast<Four *>(to_row + MARGIN + (column * COUNT + k) * SPREAD);
                if (SPREAD == 1) {
                    *there = four;
                } else {
                    there[0] = {{four.values[0], 0.0f, four.values[1], 0.0f}};
                    there[1] = {{four.values[2], 0.0f, four.values[3], 0.0f}};
                }
            }
            if (column == 0) {
                *reinterpret_cast<Four *>(to_row) = zeros;
                if (row == rows - 1)
                    *reinterpret_cast<Four *>(to_row + length) = zeros;
            }
        }
    }
}

template <typename T>
__device__ __forceinline__ void load_with_border(const T *x, float *to, const Images &of, int tile, int first, int count, int plane) {
    if (of.spread == 1)
        load_spread<1>(x, to, of, tile, first, count, plane);
    else
        load_spread<2>(x, to, of, tile, first, count, plane);
}

// The same without borders, of images of outputs.
template <typename T>
__device__ __forceinline__ void load_plain(const T *x, float *to, const Images &of, int tile, int first, int count, int plane) {
    const int tiles = tiles_of(of), image = tile / tiles, top = (tile - image * tiles) * of.rows;
    const int vectors = of.rows * of.width / Vector<T>::COUNT, inside = min(of.rows, of.height - top) * of.width;
    const T *from = x + ((long long)image * of.channels * of.height + top) * of.width;
    const int all = count * vectors, plane_of_x = of.height * of.width;
    for (int start = threadIdx.x; start < all; start += BATCH * blockDim.x) {
        Packed<Vector<T>> batch[BATCH];
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            const int k = start + b * blockDim.x, channel = k / vectors, pixel = (k - channel * vectors) * Vector<T>::COUNT;
            batch[b] = {};
            if (k < all && first + channel < of.channels && pixel < inside)
                batch[b] = packed_at<Vector<T>>(from + (long long)(first + channel) * plane_of_x + pixel, 0);
        }
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            const int k = start + b * blockDim.x, channel = k / vectors, pixel = (k - channel * vectors) * Vector<T>::COUNT;
            const Vector<T> vector = unpacked(batch[b]);
#pragma unroll
            for (int v = 0; v < Vector<T>::COUNT; v += 4) {
                Four four;
#pragma unroll
                for (int j = 0; j < 4; j++)
                    four.values[j] = to_tf32(to_float(vector.values[v + j]));
                if (k < all)
                    *reinterpret_cast<Four *>(to + channel * plane + pixel + v) = four;
            }
        }
    }
}

// W (O, I, 3, 3), or (O, I) where `taps` is 1, and the same in the order in which products take it: (inputs/8, 9, outputs/16, lane,
// 4), 0 where there is no channel or tap. What is computed has `outputs` channels; for ∂x (`turned`) those are I, and the taps are
// turned round.
struct PackedWeights {
    const float *w;
    Four *packed;
    int inputs, outputs, turned, taps;
};
// As many as the arguments of a kernel have room for. Blocks first[k]..first[k + 1] work on weights k, 256 fours each.
struct AllPackedWeights {
    int first[114];
    PackedWeights weights[112];
};

// Factors are rounded to T, and then to TF32.
template <typename T> __device__ __forceinline__ void conv_pack(const AllPackedWeights &all, int count) {
    const int low = array_of_block(all.first, count);
    const auto [w, packed, inputs, outputs, turned, taps] = all.weights[low];
    const int at = (blockIdx.x - all.first[low]) * 256 + threadIdx.x;
    const int sixteens = (outputs + 15) / 16, eights = (inputs + 7) / 8;
    if (at >= eights * TAPS * sixteens * 32)
        return;
    const int lane = at % 32, of_outputs = at / 32 % sixteens, tap = at / 32 / sixteens % TAPS, of_inputs = at / 32 / sixteens / TAPS;
    Four four;
#pragma unroll
    for (int r = 0; r < 4; r++) {
        const int o = of_outputs * 16 + lane / 4 + 8 * (r % 2), i = of_inputs * 8 + lane % 4 + 4 * (r / 2);
        const int of_w = taps == TAPS ? (turned ? TAPS - 1 - tap : tap) : tap - TAPS / 2;
        float value = 0.0f;
        if (o < outputs && i < inputs && of_w >= 0 && of_w < taps)
            value = to_float(from_float<T>(w[(turned ? i * outputs + o : o * inputs + i) * taps + of_w]));
        four.values[r] = to_tf32(value);
    }
    packed[at] = four;
}

// Adds the sums of the second half of `parts` parts of a block's threads to those of the first half, and so on, so that the first
// part has all. `scratch`: COUNT numbers for each thread of all but the first half.
template <int COUNT>
__device__ __forceinline__ void add_parts(float (&sums)[COUNT], float *scratch, int part, int parts, int thread, int threads) {
    for (int half = parts / 2; half > 0; half /= 2) {
        __syncthreads();
        if (part >= half && part < 2 * half)
#pragma unroll
            for (int k = 0; k < COUNT; k++)
                scratch[((part - half) * COUNT + k) * threads + thread] = sums[k];
        __syncthreads();
        if (part < half)
#pragma unroll
            for (int k = 0; k < COUNT; k++)
                sums[k] += scratch[(part * COUNT + k) * threads + thread];
    }
}

// y (N, O, …) of images x (N, I, …) and packed weights. Grid: (tiles, O over those of a block). A warp has 16·M outputs of 8·N
// pixels; WARPS of four are beside each other for other outputs, the rest for other pixels, and PARTS fours for other inputs.
// Where it is wanted, Σy and Σy² of the tile, of y as it is rounded: sums_of_y (tiles, O, 2). Shared: `chunk` channels of a tile;
// where there are parts, a sum for each thread of half of them; with sums of y, 2·M double2 for each of 128 threads.
template <typename T, int M, int N, int WARPS, int PARTS>
__device__ __forceinline__ void conv_forward(const T *x, const Four *packed, T *y, double2 *sums_of_y, const Images &of,
                                             int outputs, int chunk, int plane) {
    SHARED(float, tile);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, part = threadIdx.x / 128;
    const int first_output = (blockIdx.y * WARPS + warp % WARPS) * M;
    const int sixteens = (outputs + 15) / 16, height = output_rows(of), width = output_width(of);
    const int tiles = tiles_of(of), image = blockIdx.x / tiles, top = (blockIdx.x - image * tiles) * of.rows;
    const int pixels = min(of.rows, height - top) * width;
    const int first_pixel = warp / WARPS * (8 * N);
    int places[N];
#pragma unroll
    for (int n = 0; n < N; n++) {
        const int pixel = first_pixel + 8 * n + lane / 4;
        places[n] = (pixel < pixels ? place_of(pixel, of) : 0) + lane % 4 * plane;
    }
    float sums[M * N][4];
#pragma unroll
    for (int k = 0; k < M * N; k++)
#pragma unroll
        for (int r = 0; r < 4; r++)
            sums[k][r] = 0.0f;
    const int length = row_length(of);
    for (int first = 0; first < of.channels; first += chunk) {
        const int count = min(chunk, (of.channels - first + 7) / 8 * 8);
        if (first > 0)
            __syncthreads();
        load_with_border(x, tile, of, blockIdx.x, first, count, plane);
        __syncthreads();
        for (int eight = part; eight < count / 8; eight += PARTS) {
            const Four *weights = packed + (long long)((first / 8 + eight) * TAPS) * sixteens * 32 + lane;
            const float *channels = tile + eight * 8 * plane;
#pragma unroll
            for (int tap = 0; tap < TAPS; tap++) {
                Four a[M];
#pragma unroll
                for (int m = 0; m < M; m++)
                    a[m] = weights[(tap * sixteens + min(first_output + m, sixteens - 1)) * 32];
                const float *shifted = channels + tap / 3 * length + tap % 3;
#pragma unroll
                for (int n = 0; n < N; n++) {
                    const float b[2] = {shifted[places[n]], shifted[places[n] + 4 * plane]};
#pragma unroll
                    for (int m = 0; m < M; m++)
                        multiply_add(sums[m * N + n], a[m].values, b);
                }
            }
        }
    }
    if (PARTS > 1) {
        add_parts(reinterpret_cast<float(&)[M * N * 4]>(sums), tile, part, PARTS, threadIdx.x % 128, 128);
        if (part > 0)
            return;
    }
    T *to = y + ((long long)image * outputs * height + top) * width;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++) {
            const int pixel = first_pixel + 8 * n + lane % 4 * 2;
#pragma unroll
            for (int r = 0; r < 4; r += 2) {
                const int output = (first_output + m) * 16 + lane / 4 + 4 * r;
                if (output < outputs && pixel < pixels) {
                    const float *sum = sums[m * N + n] + r;
                    *reinterpret_cast<Two<T> *>(to + (long long)output * height * width + pixel) = {
                        {from_float<T>(sum[0]), from_float<T>(sum[1])}};
                }
            }
        }
    if (!sums_of_y)
        return;
    double2 *scratch = reinterpret_cast<double2 *>(tile);
    __syncthreads();
#pragma unroll
    for (int row = 0; row < 2 * M; row++) {
        // Relative to the first of them, so that f32 holds what is far from 0.
        const float origin = to_float(from_float<T>(sums[row / 2 * N][row % 2 * 2]));
        float alone = 0.0f, squares = 0.0f;
        int count = 0;
#pragma unroll
        for (int n = 0; n < N; n++)
            if (first_pixel + 8 * n + lane % 4 * 2 < pixels) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    const float d = to_float(from_float<T>(sums[row / 2 * N + n][row % 2 * 2 + j])) - origin;
                    alone += d;
                    squares = fmaf(d, d, squares);
                }
                count += 2;
            }
        scratch[row * 128 + warp * 32 + lane] = sums_from_origin(alone, squares, origin, count);
    }
    __syncthreads();
    for (int channel = warp * 32 + lane; channel < 16 * M * WARPS; channel += 128) {
        const int beside = channel / (16 * M), row = channel % (16 * M) / 8, output = blockIdx.y * WARPS * M * 16 + channel;
        if (output >= outputs)
            continue;
        double2 total = make_double2(0.0, 0.0);
#pragma unroll
        for (int k = 0; k < 16 / WARPS; k++)
            total = plus(total, scratch[row * 128 + (beside + k / 4 * WARPS) * 32 + channel % 8 * 4 + k % 4]);
        sums_of_y[(long long)blockIdx.x * outputs + output] = total;
    }
}

// Σ over the block's tiles of ∂y·x for each tap: partial (pieces, O/16, I/16, 2, 9, 4, lane), in the order of the products' sums.
// Grid: (pieces, O and I over those of a block, I fastest). Warps have 16·16 weights each: OUTPUTS·INPUTS of them are beside each
// other, and PARTS times as many have other pixels. Shared: OUTPUTS·16 planes of ∂y, INPUTS·16 of x; and a sum for each thread of
// half of the parts.
template <typename T, int OUTPUTS, int INPUTS, int PARTS, int STRIDE>
__device__ __forceinline__ void conv_weights(const T *x, const T *dy, float *partial, const Images &of, int images, int outputs,
                                             int plane, int dy_plane) {
    constexpr int SUMS = 2 * TAPS * 4, BESIDE = OUTPUTS * INPUTS;
    SHARED(float, gradients);
    float *tile = gradients + OUTPUTS * 16 * dy_plane;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % BESIDE, part = threadIdx.x / (32 * BESIDE);
    const int of_outputs = warp % OUTPUTS, of_inputs = warp / OUTPUTS;
    const int across = (of.channels + 16 * INPUTS - 1) / (16 * INPUTS);
    const int first_output = blockIdx.y / across * OUTPUTS, first_input = blockIdx.y % across * INPUTS;
    float sums[2 * TAPS][4];
#pragma unroll
    for (int k = 0; k < 2 * TAPS; k++)
#pragma unroll
        for (int r = 0; r < 4; r++)
            sums[k][r] = 0.0f;
    const int width = output_width(of), length = row_length(of), eights = of.rows * width / 8;
    const Images of_dy = {outputs, output_rows(of), width, of.rows, 1, 1};
    const float *own = gradients + (of_outputs * 16 + lane / 4) * dy_plane + lane % 4;
    const float *channels = tile + (of_inputs * 16 + lane / 4) * plane + lane % 4 * STRIDE + MARGIN - 1;
    for (int at = blockIdx.x; at < images * tiles_of(of); at += gridDim.x) {
        if (at != blockIdx.x)
            __syncthreads();
        load_spread<1>(x, tile, of, at, first_input * 16, INPUTS * 16, plane);
        load_plain(dy, gradients, of_dy, at, first_output * 16, OUTPUTS * 16, dy_plane);
        __syncthreads();
        int column = 8 * part;
        const float *pixels = channels + column * STRIDE;
        for (int eight = part; eight < eights; eight += PARTS) {
            for (; column >= width; column -= width)
                pixels += (length - width) * STRIDE;
            const float *g = own + 8 * eight;
            const float a[4] = {g[0], g[8 * dy_plane], g[4], g[8 * dy_plane + 4]};
#pragma unroll
            for (int tap = 0; tap < TAPS; tap++) {
                const float *shifted = pixels + tap / 3 * length + tap % 3;
#pragma unroll
                for (int n = 0; n < 2; n++) {
                    const float b[2] = {shifted[8 * n * plane], shifted[8 * n * plane + 4 * STRIDE]};
                    multiply_add(sums[n * TAPS + tap], a, b);
                }
            }
            column += 8 * PARTS;
            pixels += 8 * PARTS * STRIDE;
        }
    }
    add_parts(reinterpret_cast<float(&)[SUMS]>(sums), gradients, part, PARTS, threadIdx.x % (32 * BESIDE), 32 * BESIDE);
    const int sixteens = (of.channels + 15) / 16, all = (outputs + 15) / 16;
    const int output = first_output + of_outputs, input = first_input + of_inputs;
    if (part > 0 || output >= all || input >= sixteens)
        return;
    float *to = partial + (((long long)blockIdx.x * all + output) * sixteens + input) * (SUMS * 32) + lane;
#pragma unroll
    for (int k = 0; k < SUMS; k++)
        to[k * 32] = sums[k / 4][k % 4];
}

// ∂W (O, I, 3, 3), or (O, I) where `taps` is 1, = Σ over pieces of partial, in a fixed order: eight threads for each number.
// Shared: a float for each thread.
template <typename T>
__device__ __forceinline__ void conv_merge(const float *partial, T *dw, int pieces, int inputs, int outputs, int taps) {
    SHARED(float, scratch);
    constexpr int SUMS = 2 * TAPS * 4;
    const int sixteens = (inputs + 15) / 16, count = (outputs + 15) / 16 * sixteens * SUMS * 32;
    const int lane = threadIdx.x % 32, group = threadIdx.x / 32, at = blockIdx.x * 32 + lane;
    float sum = 0.0f;
#pragma unroll 8
    for (int piece = group; piece < pieces; piece += 8)
        sum += partial[(long long)piece * count + at];
    scratch[threadIdx.x] = sum;
    __syncthreads();
    if (group > 0)
        return;
#pragma unroll
    for (int other = 1; other < 8; other++)
        sum += scratch[other * 32 + lane];
    // `at` ends with the lane, since a number of 32 is a block's.
    const int r = blockIdx.x % 4, tap = blockIdx.x / 4 % TAPS, n = blockIdx.x / 4 / TAPS % 2, tile = blockIdx.x / SUMS;
    const int output = tile / sixteens * 16 + lane / 4 + 8 * (r / 2), input = tile % sixteens * 16 + 8 * n + 2 * (lane % 4) + r % 2;
    const int of_w = taps == TAPS ? tap : tap - TAPS / 2;
    if (output < outputs && input < inputs && of_w >= 0 && of_w < taps)
        dw[((long long)output * inputs + input) * taps + of_w] = from_float<T>(sum);
}

#define CONV_FORWARD(type, T, name, M, N, WARPS, PARTS)                                                                    \
    extern "C" __global__ void __launch_bounds__(128 * PARTS, 4 / PARTS) conv_forward_##name##_##type(                     \
        const T *__restrict__ x, const Four *__restrict__ packed, T *__restrict__ y, double2 *sums_of_y, Images of,        \
        int outputs, int chunk, int plane) {                                                                               \
        begin();                                                                                                           \
        conv_forward<T, M, N, WARPS, PARTS>(x, packed, y, sums_of_y, of, outputs, chunk, plane);                           \
    }
#define CONV_WEIGHTS(type, T, name, OUTPUTS, INPUTS, PARTS, STRIDE)                                                        \
    extern "C" __global__ void __launch_bounds__(256, 2) conv_weights_##name##_##type(                                     \
        const T *__restrict__ x, const T *__restrict__ dy, float *__restrict__ partial, Images of, int images,             \
        int outputs, int plane, int dy_plane) {                                                                            \
        begin();                                                                                                           \
        conv_weights<T, OUTPUTS, INPUTS, PARTS, STRIDE>(x, dy, partial, of, images, outputs, plane, dy_plane);             \
    }
#define CONV(type, T)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) conv_pack_##type(const AllPackedWeights all, int count) {            \
        begin();                                                                                                           \
        conv_pack<T>(all, count);                                                                                          \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) conv_merge_##type(const float *__restrict__ partial, T *dw,          \
                                                                        int pieces, int inputs, int outputs, int taps) {   \
        begin();                                                                                                           \
        conv_merge(partial, dw, pieces, inputs, outputs, taps);                                                            \
    }                                                                                                                      \
    CONV_FORWARD(type, T, 16, 1, 8, 1, 1)                                                                                  \
    CONV_FORWARD(type, T, 32, 2, 4, 1, 2)                                                                                  \
    CONV_FORWARD(type, T, 64, 2, 4, 2, 4)                                                                                  \
    CONV_WEIGHTS(type, T, 16, 1, 1, 8, 1)                                                                                  \
    CONV_WEIGHTS(type, T, 16_strided, 1, 1, 8, 2)                                                                          \
    CONV_WEIGHTS(type, T, 32, 2, 2, 2, 1)                                                                                  \
    CONV_WEIGHTS(type, T, 32_strided, 2, 2, 2, 2)
FOR_TYPES(CONV)
