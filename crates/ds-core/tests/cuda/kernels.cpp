// The kernels of ds-core's ops on an emulated device.
#include "device.h"

#include "../../src/backend/gpu/kernels.cu"

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
