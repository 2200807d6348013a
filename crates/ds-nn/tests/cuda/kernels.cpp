// The kernels of ds-nn's ops on an emulated device.
#include "../../../ds-core/tests/cuda/device.h"

#include "../../src/ops/gpu/kernels.cu"

int main() {
    KERNEL_BOTH(norm_statistics);
    KERNEL_BOTH(norm_forward_spline);
    KERNEL_BOTH(norm_forward_rectifier);
    KERNEL_BOTH(norm_sums_spline);
    KERNEL_BOTH(norm_sums_rectifier);
    KERNEL_BOTH(norm_input_spline);
    KERNEL_BOTH(norm_input_rectifier);
    KERNEL(pack_parameters);
    KERNEL(add);
    KERNEL(add_bias);
    KERNEL_BOTH(channel_sums);
    KERNEL(merge);
    KERNEL(pool_forward);
    KERNEL(pool_backward);
    KERNEL(dropout);
    KERNEL(loss_forward);
    KERNEL(loss_backward);
    KERNEL(tally);
    KERNEL(sgd);
    KERNEL(adam);
    KERNEL(pack_pieces);
    KERNEL(place_images);
    return device::serve();
}
