// Spectral normalisation in f32: powers of the Gram matrix by repeated squaring bound the largest singular value (the Gram iteration,
// Delattre et al. 2023), and their largest column is near its singular vector. Reductions are f64.
#pragma once
#include <backend/gpu/common.cuh>

// Σ of squares of each row of a matrix (n, n), a block for each row. Shared: a double for each thread.
extern "C" __global__ void row_squares(const float *__restrict__ matrix, double *__restrict__ sums, int n) {
    begin();
    SHARED(double, scratch);
    double sum = 0.0;
    for (int k = threadIdx.x; k < n; k += blockDim.x) {
        const double value = matrix[(long long)blockIdx.x * n + k];
        sum += value * value;
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0)
        sums[blockIdx.x] = sum;
}

// matrix/‖matrix‖_F, and log_bound += ln ‖matrix‖_F/2^power, which is ln σ² from above after squaring `power` times; the first
// time it is set. Shared: a double for each thread.
extern "C" __global__ void gram_normalised(const float *__restrict__ matrix, const double *__restrict__ sums,
                                           float *__restrict__ out, const double *before, double *log_bound, int n, int power) {
    begin();
    SHARED(double, scratch);
    double sum = 0.0;
    for (int k = threadIdx.x; k < n; k += blockDim.x)
        sum += sums[k];
    const double norm = sqrt(block_sum(sum, scratch));
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k == 0)
        *log_bound = (before ? *before : 0.0) + ldexp(log(norm), -power);
    if (k < n * n)
        out[k] = norm > 0.0 ? (float)(matrix[k] / norm) : 0.0f;
}

// The column of a power of the Gram matrix with the largest diagonal element, of norm 1. One block. Shared: a double for each thread.
extern "C" __global__ void top_vector(const float *__restrict__ power, float *__restrict__ v, int n) {
    begin();
    SHARED(double, scratch);
    int best = 0;
    for (int k = 1; k < n; k++)
        best = power[(long long)k * n + k] > power[(long long)best * n + best] ? k : best;
    double sum = 0.0;
    for (int k = threadIdx.x; k < n; k += blockDim.x) {
        const double value = power[(long long)k * n + best];
        sum += value * value;
    }
    const double norm = sqrt(block_sum(sum, scratch));
    for (int k = threadIdx.x; k < n; k += blockDim.x)
        v[k] = norm > 0.0 ? (float)(power[(long long)k * n + best] / norm) : 0.0f;
}

// out = x/‖x‖ of a vector. One block. Shared: a double for each thread.
extern "C" __global__ void unit_vector(const float *__restrict__ x, float *__restrict__ out, int n) {
    begin();
    SHARED(double, scratch);
    double sum = 0.0;
    for (int k = threadIdx.x; k < n; k += blockDim.x)
        sum += (double)x[k] * x[k];
    const double norm = sqrt(block_sum(sum, scratch));
    for (int k = threadIdx.x; k < n; k += blockDim.x)
        out[k] = norm > 0.0 ? (float)(x[k] / norm) : 0.0f;
}

// W/σ; a weight of zeros stays one.
extern "C" __global__ void spectral_forward(const float *__restrict__ weight, const double *log_bound, float *__restrict__ out,
                                            int n) {
    begin();
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    const double scale = exp(-0.5 * *log_bound);
    if (k < n)
        out[k] = scale < INFINITY ? (float)(weight[k] * scale) : weight[k];
}

// Σ a·b over all n elements, by blocks: partial (blocks). Shared: a double for each thread.
extern "C" __global__ void inner_product(const float *__restrict__ a, const float *__restrict__ b, double *__restrict__ partial,
                                         int n) {
    begin();
    SHARED(double, scratch);
    double sum = 0.0;
    for (int k = blockIdx.x * blockDim.x + threadIdx.x; k < n; k += gridDim.x * blockDim.x)
        sum += (double)a[k] * b[k];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0)
        partial[blockIdx.x] = sum;
}

// ∂W/σ − (Σ W·∂W/σ²)·uvᵀ. Shared: a double for each thread.
extern "C" __global__ void spectral_backward(const float *__restrict__ gradient, const double *log_bound,
                                             const double *__restrict__ partial, const float *__restrict__ left,
                                             const float *__restrict__ right, float *__restrict__ out, int rows, int columns,
                                             int pieces) {
    begin();
    SHARED(double, scratch);
    const double sum = block_sum(threadIdx.x < pieces ? partial[threadIdx.x] : 0.0, scratch);
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= rows * columns)
        return;
    const double inverse = exp(-0.5 * *log_bound);
    out[k] = inverse < INFINITY ? (float)(gradient[k] * inverse - sum * inverse * inverse * left[k / columns] * right[k % columns])
                               : gradient[k];
}
