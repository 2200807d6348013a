// The projection of free coefficients on those of 1-Lipschitz splines, a thread for each channel. Coefficients and ln α are f32; sums
// are f64, in the order of the CPU's.
#pragma once
#include "../../backend/gpu/common.cuh"

// The difference of coefficients j and j+1, clipped to [−T, T]; NaN stays.
__device__ __forceinline__ double clipped(const float *c, int j, double step) {
    const double difference = (double)c[j + 1] - (double)c[j];
    return difference < -step ? -step : difference > step ? step : difference;
}

// Calls f(k, p_k) for the columns of the projection p of a row c of `size` coefficients.
template <typename F>
__device__ __forceinline__ void over_projection(const float *c, int size, int width, double step, F f) {
    double sum = 0.0, of_free = c[0], of_projected = 0.0;
#pragma unroll 8
    for (int k = 1; k < size; k++) {
        sum += clipped(c, k - 1, step);
        of_free += c[k];
        of_projected += sum;
    }
    const double shift = (of_free - of_projected) / size;
    sum = 0.0;
    f(0, shift);
    for (int k = 1; k < width; k++) {
        // A column after the last goes on with the last slope.
        sum += clipped(c, min(k, size - 1) - 1, step);
        f(k, sum + shift);
    }
}

// Calls f(k, ∂c_k) for a row c, from the last coefficient to the first. of_projection(k): the gradient of the projection's column k.
// of_difference(j): what more flows to the clipped difference of coefficients j and j+1.
template <typename P, typename D, typename F>
__device__ __forceinline__ void pull_back(const float *c, int size, int width, double step, P of_projection, D of_difference,
                                          F f) {
    double largest = 0.0, mean = 0.0;
#pragma unroll 8
    for (int k = 0; k < size; k++) {
        largest = fmax(largest, fabs((double)c[k]));
        mean += of_projection(k);
    }
    // The column after the last is its neighbour and one more difference.
    const double of_last = width > size ? of_projection(size) : 0.0;
    mean = (mean + of_last) / size;
    // A slope that is 1 but for the rounding of f32 is free.
    const double limit = step + 4.0 / (1 << 23) * largest;
    double sum = of_last, right = 0.0;
    for (int j = size - 2; j >= 0; j--) {
        sum += of_projection(j + 1) - mean;
        const bool is_free = fabs((double)c[j + 1] - (double)c[j]) <= limit;
        const double left = is_free ? (j == size - 2 ? sum + of_last : sum) + of_difference(j) : 0.0;
        f(j + 1, left - right + mean);
        right = left;
    }
    f(0, mean - right);
}

// log_alpha is null where α is 1.
extern "C" __global__ void slope_projection(const float *__restrict__ c, const float *__restrict__ log_alpha,
                                            float *__restrict__ out, int channels, int size, int width, double step) {
    begin();
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= channels)
        return;
    const double alpha = log_alpha ? exp((double)log_alpha[channel]) : 1.0;
    float *row = out + channel * width;
    over_projection(c + channel * size, size, width, step, [&](int k, double p) { row[k] = (float)(p / alpha); });
}

// ∂c, and ∂ln α where there is one, from the result y of the forward pass and its gradient.
extern "C" __global__ void slope_projection_gradient(const float *__restrict__ c, const float *__restrict__ log_alpha,
                                                     const float *__restrict__ y, const float *__restrict__ dy,
                                                     float *__restrict__ dc, float *__restrict__ d_log_alpha, int channels,
                                                     int size, int width, double step) {
    begin();
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= channels)
        return;
    double alpha = 1.0;
    const float *gradient = dy + channel * width;
    if (log_alpha) {
        double of_scale = 0.0;
#pragma unroll 8
        for (int k = 0; k < width; k++)
            of_scale += (double)y[channel * width + k] * gradient[k];
        d_log_alpha[channel] = (float)-of_scale;
        alpha = exp((double)log_alpha[channel]);
    }
    float *row = dc + channel * size;
    pull_back(
        c + channel * size, size, width, step, [&](int k) { return gradient[k] / alpha; }, [](int) { return 0.0; },
        [&](int k, double g) { row[k] = (float)g; });
}
