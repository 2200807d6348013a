#pragma once

// 3×3 convolutions of stride 1 and padding 1 with few channels, all three directions, as products on tensor cores: factors are
// TF32 (bf16 is exact in it), sums f32.
//
// A tile is some rows of one image. It lies in shared memory channel by channel with a border of zeros, so that a tap is an
// offset: nothing is unfolded. Rows begin at multiples of 16 bytes, and the zeros left of a row are those right of the one
// above; planes are as long as keeps the threads of a warp out of each other's banks.
//
// mma.m16n8k8, by thread of the warp ("lane"): A[lane/4 + 8·(r%2)][lane%4 + 4·(r/2)] is a_r, B[lane%4 + 4·r][lane/4] is b_r,
// and C[lane/4 + 8·(r/2)][2·(lane%4) + r%2] is c_r.

constexpr int TAPS = 9;
// Zeros left of a row.
constexpr int MARGIN = 4;
constexpr int CONV_THREADS = 128;

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

// Images (N, channels, height, width), of which a tile is `rows` rows.
struct Images {
    int channels, height, width, rows;
};

__device__ __forceinline__ int tiles_of(const Images &of) { return (of.height + of.rows - 1) / of.rows; }
__device__ __forceinline__ int row_length(const Images &of) { return of.width + MARGIN; }

// Where the top left tap of a tile's pixel lies in its plane.
__device__ __forceinline__ int place_of(int pixel, const Images &of) {
    const int row = pixel / of.width;
    return row * row_length(of) + (pixel - row * of.width) + MARGIN - 1;
}

// `count` channels of a tile from `first` on with their borders, planes of `plane` numbers; what is outside the images is 0.
template <typename T>
__device__ __forceinline__ void load_with_border(const T *x, float *to, const Images &of, int tile, int first, int count, int plane) {
    const int tiles = tiles_of(of), image = tile / tiles, top = (tile - image * tiles) * of.rows - 1;
    const int rows = of.rows + 2, vectors = of.width / Vector<T>::COUNT, length = row_length(of);
    const T *from = x + (long long)image * of.channels * of.height * of.width;
    const int column = threadIdx.x % vectors, others = CONV_THREADS / vectors;
    if (threadIdx.x >= others * vectors)
        return;
    const Four zeros = {{0.0f, 0.0f, 0.0f, 0.0f}};
#pragma unroll 4
    for (int line = threadIdx.x / vectors; line < count * rows; line += others) {
        const int channel = line / rows, row = line - channel * rows;
        const int at = top + row;
        float *start = to + channel * plane + row * length;
        Vector<T> vector;
        const bool inside = at >= 0 && at < of.height && first + channel < of.channels;
        if (inside)
            vector = *reinterpret_cast<const Vector<T> *>(from + ((long long)(first + channel) * of.height + at) * of.width
                                                          + column * Vector<T>::COUNT);
#pragma unroll
        for (int k = 0; k < Vector<T>::COUNT; k += 4) {
            Four four;
#pragma unroll
            for (int j = 0; j < 4; j++)
                four.values[j] = inside ? to_tf32(to_float(vector.values[k + j])) : 0.0f;
            *reinterpret_cast<Four *>(start + MARGIN + column * Vector<T>::COUNT + k) = four;
        }
        if (column == 0) {
            *reinterpret_cast<Four *>(start) = zeros;
            if (row == rows - 1)
                *reinterpret_cast<Four *>(start + length) = zeros;
        }
    }
}

// The same without borders.
template <typename T>
__device__ __forceinline__ void load_plain(const T *x, float *to, const Images &of, int tile, int first, int count, int plane) {
    const int tiles = tiles_of(of), image = tile / tiles, top = (tile - image * tiles) * of.rows;
    const int vectors = of.rows * of.width / Vector<T>::COUNT, inside = min(of.rows, of.height - top) * of.width;
    const T *from = x + ((long long)image * of.channels * of.height + top) * of.width;
#pragma unroll 4
    for (int k = threadIdx.x; k < count * vectors; k += CONV_THREADS) {
        const int channel = k / vectors, pixel = (k - channel * vectors) * Vector<T>::COUNT;
        Vector<T> vector;
        const bool exists = first + channel < of.channels && pixel < inside;
        if (exists)
            vector = *reinterpret_cast<const Vector<T> *>(from + (long long)(first + channel) * of.height * of.width + pixel);
#pragma unroll
        for (int v = 0; v < Vector<T>::COUNT; v += 4) {
            Four four;
#pragma unroll
            for (int j = 0; j < 4; j++)
                four.values[j] = exists ? to_tf32(to_float(vector.values[v + j])) : 0.0f;
            *reinterpret_cast<Four *>(to + channel * plane + pixel + v) = four;
        }
    }
}

// W (O, I, 3, 3) in the order in which products take it: (inputs/8, 9, outputs/16, lane, 4), 0 where there is no channel. What is
// computed from x has `outputs` channels; for ∂x (`turned`) those are I, and the taps are turned round.
template <typename T>
__device__ __forceinline__ void conv_pack(const T *w, Four *packed, int inputs, int outputs, int turned) {
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    const int sixteens = (outputs + 15) / 16, eights = (inputs + 7) / 8;
    if (at >= eights * TAPS * sixteens * 32)
        return;
    const int lane = at % 32, of_outputs = at / 32 % sixteens, tap = at / 32 / sixteens % TAPS, of_inputs = at / 32 / sixteens / TAPS;
    Four four;
#pragma unroll
    for (int r = 0; r < 4; r++) {
        const int o = of_outputs * 16 + lane / 4 + 8 * (r % 2), i = of_inputs * 8 + lane % 4 + 4 * (r / 2);
        float value = 0.0f;
        if (o < outputs && i < inputs)
            value = to_float(turned ? w[(i * outputs + o) * TAPS + TAPS - 1 - tap] : w[(o * inputs + i) * TAPS + tap]);
        four.values[r] = to_tf32(value);
    }
    packed[at] = four;
}

// y (N, O, H, W) = x (N, I, H, W) * packed weights. Grid: (tiles, O over those of a block). A warp has 16·M outputs of 8·N pixels,
// WARPS of them are beside each other for other outputs, the rest for other pixels. Shared: `chunk` channels of a tile.
template <typename T, int M, int N, int WARPS>
__device__ __forceinline__ void conv_forward(const T *x, const Four *packed, T *y, const Images &of, int outputs, int chunk, int plane) {
    SHARED(float, tile);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first_output = (blockIdx.y * WARPS + warp % WARPS) * M;
    const int sixteens = (outputs + 15) / 16;
    const int tiles = tiles_of(of), image = blockIdx.x / tiles, top = (blockIdx.x - image * tiles) * of.rows;
    const int pixels = min(of.rows, of.height - top) * of.width;
    const int first_pixel = warp / WARPS * (8 * N);
    int places[N];
#pragma unroll
    for (int n = 0; n < N; n++) {
        const int pixel = first_pixel + 8 * n + lane / 4;
        places[n] = (pixel < pixels ? place_of(pixel, of) : 0) + lane % 4 * plane;
    }
    float sums[M][N][4];
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int r = 0; r < 4; r++)
                sums[m][n][r] = 0.0f;
    const int length = row_length(of);
    for (int first = 0; first < of.channels; first += chunk) {
        const int count = min(chunk, (of.channels - first + 7) / 8 * 8);
        if (first > 0)
            __syncthreads();
        load_with_border(x, tile, of, blockIdx.x, first, count, plane);
        __syncthreads();
        for (int eight = 0; eight < count / 8; eight++) {
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
                        multiply_add(sums[m][n], a[m].values, b);
                }
            }
        }
    }
    T *to = y + ((long long)image * outputs * of.height + top) * of.width;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++) {
            const int pixel = first_pixel + 8 * n + lane % 4 * 2;
#pragma unroll
            for (int r = 0; r < 4; r += 2) {
                const int output = (first_output + m) * 16 + lane / 4 + 4 * r;
                if (output < outputs && pixel < pixels) {
                    Two<T> two = {{from_float<T>(sums[m][n][r]), from_float<T>(sums[m][n][r + 1])}};
                    *reinterpret_cast<Two<T> *>(to + (long long)output * of.height * of.width + pixel) = two;
                }
            }
        }
}

// Σ over the block's tiles of ∂y·x for each tap: partial (pieces, O/16, I/16, 2, 9, 4, lane), in the order of the products' sums.
// Grid: (pieces, O and I over those of a block, I fastest). Warps have 16·16 weights each: OUTPUTS·INPUTS of them are beside each
// other, and the rest has other pixels. Shared: OUTPUTS·16 planes of ∂y, INPUTS·16 of x; where pixels are shared, at least a sum
// for each thread of all warps.
template <typename T, int OUTPUTS, int INPUTS>
__device__ __forceinline__ void conv_weights(const T *x, const T *dy, float *partial, const Images &of, int images, int outputs,
                                             int plane, int dy_plane) {
    constexpr int SHARING = CONV_THREADS / 32 / (OUTPUTS * INPUTS), SUMS = 2 * TAPS * 4;
    SHARED(float, gradients);
    float *tile = gradients + OUTPUTS * 16 * dy_plane;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int of_outputs = warp % OUTPUTS, of_inputs = warp / OUTPUTS % INPUTS, share = warp / (OUTPUTS * INPUTS);
    const int across = (of.channels + 16 * INPUTS - 1) / (16 * INPUTS);
    const int first_output = blockIdx.y / across * OUTPUTS, first_input = blockIdx.y % across * INPUTS;
    float sums[2][TAPS][4];
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int tap = 0; tap < TAPS; tap++)
#pragma unroll
            for (int r = 0; r < 4; r++)
                sums[n][tap][r] = 0.0f;
    const int tiles = tiles_of(of), length = row_length(of), eights = of.rows * of.width / 8;
    const float *own = gradients + (of_outputs * 16 + lane / 4) * dy_plane + lane % 4;
    const float *channels = tile + (of_inputs * 16 + lane / 4) * plane + lane % 4;
    for (int at = blockIdx.x; at < images * tiles; at += gridDim.x) {
        if (at != blockIdx.x)
            __syncthreads();
        load_with_border(x, tile, of, at, first_input * 16, INPUTS * 16, plane);
        load_plain(dy, gradients, {outputs, of.height, of.width, of.rows}, at, first_output * 16, OUTPUTS * 16, dy_plane);
        __syncthreads();
        int column = 8 * share;
        const float *pixels = channels + MARGIN - 1 + column;
        for (int eight = share; eight < eights; eight += SHARING) {
            for (; column >= of.width; column -= of.width)
                pixels += MARGIN;
            const float *g = own + 8 * eight;
            const float a[4] = {g[0], g[8 * dy_plane], g[4], g[8 * dy_plane + 4]};
#pragma unroll
            for (int tap = 0; tap < TAPS; tap++) {
                const float *shifted = pixels + tap / 3 * length + tap % 3;
#pragma unroll
                for (int n = 0; n < 2; n++) {
                    const float b[2] = {shifted[8 * n * plane], shifted[8 * n * plane + 4]};
                    multiply_add(sums[n][tap], a, b);
                }
            }
            column += 8 * SHARING;
            pixels += 8 * SHARING;
        }
    }
    const int sixteens = (of.channels + 15) / 16, all = (outputs + 15) / 16;
    const int output = first_output + of_outputs, input = first_input + of_inputs;
    float *to = partial + (((long long)blockIdx.x * all + output) * sixteens + input) * (SUMS * 32);
    if (SHARING > 1) {
        __syncthreads();
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int tap = 0; tap < TAPS; tap++)
#pragma unroll
                for (int r = 0; r < 4; r++)
                    gradients[(warp * SUMS + (n * TAPS + tap) * 4 + r) * 32 + lane] = sums[n][tap][r];
        __syncthreads();
        for (int k = threadIdx.x; k < SUMS * 32; k += CONV_THREADS) {
            float sum = gradients[k];
#pragma unroll
            for (int other = 1; other < SHARING; other++)
                sum += gradients[other * SUMS * 32 + k];
            to[k] = sum;
        }
    } else if (output < all && input < sixteens) {
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int tap = 0; tap < TAPS; tap++)
#pragma unroll
                for (int r = 0; r < 4; r++)
                    to[((n * TAPS + tap) * 4 + r) * 32 + lane] = sums[n][tap][r];
    }
}

// ∂W (O, I, 3, 3) = Σ over pieces of partial, in a fixed order: eight threads for each number. Shared: a float for each thread.
template <typename T>
__device__ __forceinline__ void conv_merge(const float *partial, T *dw, int pieces, int inputs, int outputs) {
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
    if (output < outputs && input < inputs)
        dw[((long long)output * inputs + input) * TAPS + tap] = from_float<T>(sum);
}

#define CONV_FORWARD(type, T, name, M, N, WARPS)                                                                           \
    extern "C" __global__ void __launch_bounds__(CONV_THREADS, 4) conv_forward_##name##_##type(                            \
        const T *__restrict__ x, const Four *__restrict__ packed, T *__restrict__ y, Images of, int outputs, int chunk,    \
        int plane) {                                                                                                       \
        conv_forward<T, M, N, WARPS>(x, packed, y, of, outputs, chunk, plane);                                             \
    }
#define CONV_WEIGHTS(type, T, name, OUTPUTS, INPUTS)                                                                       \
    extern "C" __global__ void __launch_bounds__(CONV_THREADS, 4) conv_weights_##name##_##type(                            \
        const T *__restrict__ x, const T *__restrict__ dy, float *__restrict__ partial, Images of, int images,             \
        int outputs, int plane, int dy_plane) {                                                                            \
        conv_weights<T, OUTPUTS, INPUTS>(x, dy, partial, of, images, outputs, plane, dy_plane);                            \
    }
#define CONV(type, T)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) conv_pack_##type(const T *__restrict__ w, Four *packed, int inputs,  \
                                                                       int outputs, int turned) {                          \
        conv_pack(w, packed, inputs, outputs, turned);                                                                     \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) conv_merge_##type(const float *__restrict__ partial, T *dw,          \
                                                                        int pieces, int inputs, int outputs) {             \
        conv_merge(partial, dw, pieces, inputs, outputs);                                                                  \
    }                                                                                                                      \
    CONV_FORWARD(type, T, 16, 1, 8, 1)                                                                                     \
    CONV_FORWARD(type, T, 32, 2, 4, 1)                                                                                     \
    CONV_FORWARD(type, T, 64, 2, 4, 2)                                                                                     \
    CONV_WEIGHTS(type, T, 16, 1, 1)                                                                                        \
    CONV_WEIGHTS(type, T, 32, 2, 2)
FOR_TYPES(CONV)
