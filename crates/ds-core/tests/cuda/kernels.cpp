// The kernels of ds-core's ops on an emulated device.
#include "device.h"

#include "../../src/ops/gpu/kernels.cu"
#include "../../src/ops/linear_spline/kernel.cu"

int main() {
    KERNEL(rectifier_forward);
    KERNEL(rectifier_backward);
    KERNEL_BOTH(channel_rectifier);
    KERNEL_BOTH(channel_rectifier_gradient);
    KERNEL_BOTH(hinges);
    KERNEL_BOTH(hinges_gradient);
    KERNEL(merge);
    KERNEL(add_linear_term);
    KERNEL(linear_term_gradient);
    KERNEL(sum_of_relus);
    KERNEL(sum_of_relus_gradient);
    KERNEL(norm_gradient);
    KERNEL(spline_forward_vectors_f32);
    KERNEL(spline_backward_vectors_f32);
    KERNEL(spline_forward_scalars_f32);
    KERNEL(spline_backward_scalars_f32);
    KERNEL(spline_forward_columns_f32);
    KERNEL(spline_backward_columns_f32);
    KERNEL(spline_merge);
    return device::serve();
}
