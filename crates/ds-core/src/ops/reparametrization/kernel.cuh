// Coefficients of splines from other parameters, in f32; sums are f64.
#pragma once
#include "../../backend/gpu/common.cuh"

// Coefficients (C, K), a linear term (C each), and their sum (C, K).
struct LinearTerm {
    const float *c, *b1, *b0;
    float *out;
    int channels, size;
    double step;
};
// As many as the arguments of a kernel have room for. Blocks first[k]..first[k + 1] work on term k, 256 coefficients each.
struct LinearTerms {
    int first[78];
    LinearTerm terms[76];
};

// c_k + b1·x_k + b0, a thread for each coefficient.
extern "C" __global__ void add_linear_term(const LinearTerms all, int count) {
    begin();
    const int low = array_of_block(all.first, count);
    const LinearTerm &of = all.terms[low];
    const int k = (blockIdx.x - all.first[low]) * 256 + threadIdx.x;
    if (k < of.channels * of.size)
        of.out[k] = (float)(of.c[k] + of.b1[k / of.size] * knot_at(k % of.size, of.size, of.step) + of.b0[k / of.size]);
}

// ∂c (C, K) and the gradients of a linear term (C each).
struct LinearTermGradient {
    const float *dc;
    float *db1, *db0;
    int channels, size;
    double step;
};
// Blocks first[k]..first[k + 1] work on term k, 8 channels each.
struct LinearTermGradients {
    int first[92];
    LinearTermGradient terms[90];
};

// ∂b1 and ∂b0 from ∂c, 32 threads for each channel. Shared: a double2 for each thread.
extern "C" __global__ void linear_term_gradient(const LinearTermGradients all, int count) {
    begin();
    SHARED(double2, scratch);
    const int low = array_of_block(all.first, count);
    const LinearTermGradient &of = all.terms[low];
    const int channel = (blockIdx.x - all.first[low]) * 8 + threadIdx.x / 32;
    double2 sum = make_double2(0.0, 0.0);
    if (channel < of.channels)
        for (int k = threadIdx.x % 32; k < of.size; k += 32) {
            const double g = of.dc[channel * of.size + k];
            sum.x += g * knot_at(k, of.size, of.step);
            sum.y += g;
        }
    scratch[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x % 32 == 0 && channel < of.channels) {
        sum = strided_sum(scratch + threadIdx.x, 32, 1, make_double2(0.0, 0.0));
        of.db1[channel] = (float)sum.x;
        of.db0[channel] = (float)sum.y;
    }
}

// The coefficients of b1·x + b0 + Σ_k a_k·max(0, x − x_k), a thread for each channel.
extern "C" __global__ void sum_of_relus(const float *a, const float *b1, const float *b0, float *out, int channels, int size,
                                        double step) {
    begin();
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
    begin();
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

