// Björck's iteration and the gradient of the polar factor: what is done between the products, for matrices (n, n) in f32.
#pragma once
#include <backend/gpu/common.cuh>

// ‖E‖ up to which the iteration converges without a scaling, for E = I − G.
#define BJORCK_CONVERGES 0.9

// Σ g² and Σ |g| of each row of G and of I − G, a block for each row: sums (n, 4). Shared: a double for each thread.
extern "C" __global__ void bjorck_rows(const float *__restrict__ gram, double *__restrict__ sums, int n) {
    begin();
    SHARED(double, scratch);
    const float *row = gram + (long long)blockIdx.x * n;
    double sum[4] = {0.0, 0.0, 0.0, 0.0};
    for (int k = threadIdx.x; k < n; k += blockDim.x) {
        const double g = row[k], e = (k == blockIdx.x ? 1.0 : 0.0) - g;
        sum[0] += g * g;
        sum[1] += fabs(g);
        sum[2] += e * e;
        sum[3] += fabs(e);
    }
    for (int j = 0; j < 4; j++) {
        const double total = block_sum(sum[j], scratch);
        if (threadIdx.x == 0)
            sums[4 * blockIdx.x + j] = total;
    }
}

// The smaller of the Frobenius norm and the largest sum of a row of absolute values, whichever bounds the spectral norm better.
__device__ __forceinline__ double spectral_bound(const double *sums, int n, double *scratch) {
    double squares = 0.0, largest = 0.0;
    for (int k = threadIdx.x; k < n; k += blockDim.x) {
        squares += sums[4 * k];
        largest = fmax(largest, sums[4 * k + 1]);
    }
    squares = block_sum(squares, scratch);
    scratch[threadIdx.x] = largest;
    __syncthreads();
    for (int k = 0; k < blockDim.x; k++)
        largest = fmax(largest, scratch[k]);
    __syncthreads();
    return fmin(sqrt(squares), largest);
}

// scale = 1 where ‖I − G‖ is small, else what makes the largest singular value at most 1; E = I − scale²·G. Each block finds the
// scale for itself. Shared: a double for each thread.
extern "C" __global__ void bjorck_start(const float *__restrict__ gram, const double *__restrict__ sums, float *__restrict__ e,
                                        float *__restrict__ scale, int n) {
    begin();
    SHARED(double, scratch);
    const double of_gram = spectral_bound(sums, n, scratch), of_difference = spectral_bound(sums + 2, n, scratch);
    const double squared = of_difference > BJORCK_CONVERGES && of_gram > 0.0 ? 1.0 / of_gram : 1.0;
    if (blockIdx.x == 0 && threadIdx.x == 0)
        *scale = (float)sqrt(squared);
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k < n * n)
        e[k] = (float)((k / n == k % n ? 1.0 : 0.0) - squared * gram[k]);
}

// E = I − G.
extern "C" __global__ void from_identity(const float *__restrict__ gram, float *__restrict__ e, int n) {
    begin();
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k < n * n)
        e[k] = (k / n == k % n ? 1.0f : 0.0f) - gram[k];
}

// scale·(I + E/2 + 3·E²/8); `scale` may be none, for 1.
extern "C" __global__ void bjorck_factor(const float *__restrict__ e, const float *__restrict__ square, const float *scale,
                                         float *__restrict__ out, int n) {
    begin();
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= n * n)
        return;
    const float factor = (k / n == k % n ? 1.0f : 0.0f) + (0.5f * e[k] + 0.375f * square[k]);
    out[k] = scale ? *scale * factor : factor;
}

// (S + Sᵀ)/2.
extern "C" __global__ void symmetric_part(const float *__restrict__ s, float *__restrict__ out, int n) {
    begin();
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k < n * n)
        out[k] = 0.5f * (s[k] + s[k % n * n + k / n]);
}

// a − b.
extern "C" __global__ void difference_f32(const float *__restrict__ a, const float *__restrict__ b, float *__restrict__ out, int n,
                                          int aligned) {
    begin();
    pointwise<float>(a, b, out, n, aligned, [&](float a, float b, long long) { return a - b; });
}
