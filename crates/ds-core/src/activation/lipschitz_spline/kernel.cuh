// The gradients of TV² and BV² of 1-Lipschitz splines, a thread for each channel.
#pragma once
#include "../../ops/slope_projection/kernel.cuh"

// Where an argument lies among the evaluated coefficients p/α: its segment, the position in it, and the values at its ends.
struct Location {
    int segment;
    double position, left, right;
    // The weight of the norm times the sign of the value there, divided by α.
    double signed_weight;
    // What flows to the column k of the projection.
    __device__ __forceinline__ double at_column(int k) const {
        return (k == segment ? signed_weight * (1.0 - position) : 0.0) +
               (k == segment + 1 ? signed_weight * position : 0.0);
    }
};

// Adds weight·TV², with `values` weight·(TV² + |σ(0)| + |σ(1)|), differentiated by c and ln α. log_alpha is null where α is 1, and
// d_log_alpha where it takes no gradient.
extern "C" __global__ void lipschitz_norm_gradient(const float *__restrict__ c, const float *__restrict__ log_alpha,
                                                   float *__restrict__ dc, float *__restrict__ d_log_alpha, double weight,
                                                   int values, int channels, int size, int width, double step) {
    begin();
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= channels)
        return;
    const float *row = c + channel * size;
    float *gradient = dc + channel * size;
    Location at[2] = {};
    if (values) {
        // As the forward pass multiplies with it.
        const double alpha = log_alpha ? (double)(float)exp((double)log_alpha[channel]) : 1.0;
        // With an even K the op evaluates at α·x − T/2.
        const double shift = width > size ? -0.5 * step : 0.0;
        for (int x = 0; x < 2; x++) {
            const double u = (alpha * x + shift) / step;
            at[x].segment = (int)fmin(fmax(floor(u) + width / 2, 0.0), width - 2.0);
            at[x].position = u - (at[x].segment - width / 2);
        }
        over_projection(row, size, width, step, [&](int k, double p) {
            for (Location &one : at) {
                if (k == one.segment)
                    one.left = p / alpha;
                if (k == one.segment + 1)
                    one.right = p / alpha;
            }
        });
        double of_log_alpha = 0.0;
        for (int x = 0; x < 2; x++) {
            const double difference = at[x].right - at[x].left, value = at[x].left + at[x].position * difference;
            const double signed_weight = weight * sign(value);
            at[x].signed_weight = signed_weight / alpha;
            // α moves the argument, and divides the values.
            of_log_alpha += signed_weight * (difference / step * alpha * x - value);
        }
        if (d_log_alpha)
            d_log_alpha[channel] += (float)of_log_alpha;
    }
    // The slope change at inner knot k+1.
    const auto change = [&](int k) {
        return k >= 0 && k < size - 2 ? weight / step * sign(clipped(row, k + 1, step) - clipped(row, k, step)) : 0.0;
    };
    // A slope takes part in the change on its left and in the one on its right.
    pull_back(
        row, size, width, step, [&](int k) { return at[0].at_column(k) + at[1].at_column(k); },
        [&](int j) { return change(j - 1) - change(j); }, [&](int k, double g) { gradient[k] += (float)g; });
}
