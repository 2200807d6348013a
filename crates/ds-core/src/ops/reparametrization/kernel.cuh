// Coefficients of splines from other parameters, in f32; sums are f64.
#pragma once
#include "../../backend/gpu/common.cuh"

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

