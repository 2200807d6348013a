// Almost-orthogonal kernels in f32; sums of absolute values are f64. A kernel (O, I, k, k) is seen as the matrix of its phases
// (O, channels·side²), channels = I·stride², side = ⌈k/stride⌉; gram (columns, columns) is MᵀM of that matrix.
#pragma once
#include <backend/gpu/common.cuh>

// Where an element of the matrix lies in its row of the kernel; −1 where a phase ends before the others.
__device__ __forceinline__ int aol_source(int column, int kernel, int stride, int side) {
    const int taps = side * side, tap = column % taps, channel = column / taps;
    const int phase = channel % (stride * stride), input = channel / (stride * stride);
    const int y = tap / side * stride + phase / stride, x = tap % side * stride + phase % stride;
    return y < kernel && x < kernel ? (input * kernel + y) * kernel + x : -1;
}

// The column of the matrix that an element of a row of the kernel stands in.
__device__ __forceinline__ int aol_column(int source, int kernel, int stride, int side) {
    const int x = source % kernel, y = source / kernel % kernel, input = source / (kernel * kernel);
    const int channel = input * stride * stride + y % stride * stride + x % stride;
    return channel * side * side + y / stride * side + x / stride;
}

// The matrix of the phases, a thread for each of its elements.
extern "C" __global__ void aol_phases(const float *__restrict__ weight, float *__restrict__ matrix, int elements, int columns,
                                      int in_row, int kernel, int stride, int side) {
    begin();
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= elements)
        return;
    const int source = aol_source(k % columns, kernel, stride, side);
    matrix[k] = source < 0 ? 0.0f : weight[k / columns * in_row + source];
}

// (K⋆K)_{ij}(p), and f(row, column) for each product in it: p counts (2·side−1)² shifts.
template <typename F> __device__ __forceinline__ void aol_products(int i, int j, int p, int side, F f) {
    const int span = 2 * side - 1, taps = side * side, dy = p / span - (side - 1), dx = p % span - (side - 1);
    for (int y = max(0, -dy); y < min(side, side - dy); y++)
        for (int x = max(0, -dx); x < min(side, side - dx); x++)
            f(i * taps + y * side + x, j * taps + (y + dy) * side + x + dx);
}
__device__ __forceinline__ float aol_correlation(const float *gram, int columns, int i, int j, int p, int side) {
    float sum = 0.0f;
    aol_products(i, j, p, side, [&](int row, int column) { sum += gram[(long long)row * columns + column]; });
    return sum;
}

// d_i = total_i^{−1/2}, a block for each channel; with the gradient of the scaled matrix also ∂total_i, else there is none. Shared: a
// double for each thread.
extern "C" __global__ void aol_scales(const float *__restrict__ gram, const float *matrix, const float *gradient,
                                      float *__restrict__ scales, float *of_totals, int channels, int outputs, int side) {
    begin();
    SHARED(double, scratch);
    const int i = blockIdx.x, taps = side * side, columns = channels * taps, shifts = (2 * side - 1) * (2 * side - 1);
    double sum = 0.0;
    for (int k = threadIdx.x; k < channels * shifts; k += blockDim.x)
        sum += fabsf(aol_correlation(gram, columns, i, k / shifts, k % shifts, side));
    const double total = block_sum(sum, scratch), scale = total > 0.0 ? 1.0 / sqrt(total) : 0.0;
    if (threadIdx.x == 0)
        scales[i] = (float)scale;
    if (!gradient)
        return;
    sum = 0.0;
    for (int k = threadIdx.x; k < outputs * taps; k += blockDim.x) {
        const long long at = (long long)(k / taps) * columns + i * taps + k % taps;
        sum += (double)gradient[at] * matrix[at];
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0)
        of_totals[i] = total > 0.0 ? (float)(-0.5 * scale / total * sum) : 0.0f;
}

// The kernel with each channel scaled, a thread for each element.
extern "C" __global__ void aol_forward(const float *__restrict__ weight, const float *__restrict__ scales,
                                       float *__restrict__ out, int elements, int in_row, int kernel, int stride, int side) {
    begin();
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k < elements)
        out[k] = weight[k] * scales[aol_column(k % in_row, kernel, stride, side) / (side * side)];
}

// What each product takes of the totals' gradients: it counts in total_i and, from the other side, in total_j. A thread for each
// (i, j, p).
extern "C" __global__ void aol_signs(const float *__restrict__ gram, const float *__restrict__ of_totals,
                                     float *__restrict__ signs, int channels, int side) {
    begin();
    const int shifts = (2 * side - 1) * (2 * side - 1), columns = channels * side * side;
    const int k = blockIdx.x * blockDim.x + threadIdx.x, p = k % shifts, i = k / shifts / channels, j = k / shifts % channels;
    if (i >= channels)
        return;
    const float sum = aol_correlation(gram, columns, i, j, p, side);
    const float sign = sum > 0.0f ? 1.0f : sum < 0.0f ? -1.0f : 0.0f, value = sign * (of_totals[i] + of_totals[j]);
    aol_products(i, j, p, side, [&](int row, int column) { signs[(long long)row * columns + column] = value; });
}

// The gradient of the kernel: directly and by way of the totals.
extern "C" __global__ void aol_backward(const float *__restrict__ gradient, const float *__restrict__ scales,
                                        const float *__restrict__ through, float *__restrict__ out, int elements, int columns,
                                        int in_row, int kernel, int stride, int side) {
    begin();
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= elements)
        return;
    const int column = aol_column(k % in_row, kernel, stride, side);
    out[k] = gradient[k] * scales[column / (side * side)] + through[(long long)(k / in_row) * columns + column];
}
