// Pools: a thread for each pixel that is written.
#pragma once
#include <backend/gpu/common.cuh>

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
        begin();                                                                                                           \
        pool_forward(x, y, p);                                                                                             \
    }                                                                                                                      \
    extern "C" __global__ void pool_backward_##type(const T *__restrict__ x, const T *__restrict__ y,                      \
                                                    const T *__restrict__ dy, T *__restrict__ dx, Pool p) {                \
        begin();                                                                                                           \
        pool_backward(x, y, dy, dx, p);                                                                                    \
    }
FOR_TYPES(POOL)
