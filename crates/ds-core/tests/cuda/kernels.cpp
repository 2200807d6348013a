// The kernels of ds-core's ops on an emulated device.
#include "device.h"

#include "../../src/backend/gpu/kernels.cu"
#include "../../src/regularization/proximal/solver.cuh"

// Takes each row of u (C, K) to its proximal point, a block for each function, from slope changes that are 0. It is for the tests:
// ds-nn has the kernel that trains.
extern "C" __global__ void trend_filter(double *u, const double *scale, double *work, int size, double mu) {
    begin();
    SHARED(int, last);
    const TrendFilter filter(work + (long long)blockIdx.x * TrendFilter::ARRAYS * size, last, size, mu);
    u += blockIdx.x * size, scale += blockIdx.x * size;
    for (int k = threadIdx.x; k < size; k += blockDim.x) {
        filter.u[k] = u[k];
        filter.w[k] = scale[k];
        if (k < size - 2)
            filter.side[k] = 0.0;
    }
    filter.solve();
    for (int k = threadIdx.x; k < size; k += blockDim.x)
        u[k] = filter.primal(k);
}

int main() {
    KERNEL_TYPES(rectifier_forward);
    KERNEL_TYPES(rectifier_backward);
    KERNEL_MAPPINGS(channel_rectifier);
    KERNEL_MAPPINGS(channel_rectifier_gradient);
    KERNEL_MAPPINGS(hinges);
    KERNEL_MAPPINGS(hinges_gradient);
    KERNEL(merge);
    KERNEL(add_linear_term);
    KERNEL(linear_term_gradient);
    KERNEL(sum_of_relus);
    KERNEL(sum_of_relus_gradient);
    KERNEL(norm_gradient);
    KERNEL(trend_filter);
    KERNEL_MAPPINGS(max_min);
    KERNEL_MAPPINGS(max_min_gradient);
    KERNEL_MAPPINGS(householder);
    KERNEL_MAPPINGS(householder_gradient);
    KERNEL(slope_projection);
    KERNEL(slope_projection_gradient);
    KERNEL_TYPES(shift);
    KERNEL_MAPPINGS(channel_affine);
    KERNEL_MAPPINGS(channel_affine_gradient);
    KERNEL(unit_clip_f32);
    KERNEL(unit_clip_gradient_f32);
    KERNEL(lipschitz_norm_gradient);
    KERNEL_MAPPINGS(spline_forward);
    KERNEL_MAPPINGS(spline_backward);
    KERNEL_TYPES(spline_forward_columns);
    KERNEL_TYPES(spline_backward_columns);
    KERNEL(spline_merge);
    // The linear spline is the only op that takes f16.
    KERNEL(spline_forward_vectors_f16);
    KERNEL(spline_forward_scalars_f16);
    KERNEL(spline_forward_columns_f16);
    KERNEL(spline_backward_vectors_f16);
    KERNEL(spline_backward_scalars_f16);
    KERNEL(spline_backward_columns_f16);
    return device::serve();
}
