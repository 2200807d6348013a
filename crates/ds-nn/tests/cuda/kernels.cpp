// The kernels of ds-nn's ops on an emulated device.
#include "../../../ds-core/tests/cuda/device.h"

#include "../../src/backend/kernels.cu"

int main() {
    KERNEL_MAPPINGS(norm_statistics);
    KERNEL_MAPPINGS(norm_forward_spline);
    KERNEL_MAPPINGS(norm_forward_rectifier);
    KERNEL_MAPPINGS(norm_sums_spline);
    KERNEL_MAPPINGS(norm_sums_rectifier);
    KERNEL_MAPPINGS(norm_input_spline);
    KERNEL_MAPPINGS(norm_input_rectifier);
    KERNEL(pack_parameters);
    KERNEL_TYPES(conv_pack);
    KERNEL_TYPES(conv_forward_16);
    KERNEL_TYPES(conv_forward_32);
    KERNEL_TYPES(conv_forward_64);
    KERNEL_TYPES(conv_weights_16);
    KERNEL_TYPES(conv_weights_16_strided);
    KERNEL_TYPES(conv_weights_32);
    KERNEL_TYPES(conv_weights_32_strided);
    KERNEL_TYPES(conv_merge);
    KERNEL_TYPES(add);
    KERNEL_TYPES(add_bias);
    KERNEL_MAPPINGS(channel_sums);
    KERNEL(merge);
    KERNEL_TYPES(pool_forward);
    KERNEL_TYPES(pool_backward);
    KERNEL_TYPES(scale);
    KERNEL(bjorck_rows);
    KERNEL(bjorck_start);
    KERNEL(from_identity);
    KERNEL(bjorck_factor);
    KERNEL(symmetric_part);
    KERNEL(difference_f32);
    KERNEL(aol_phases);
    KERNEL(aol_scales);
    KERNEL(aol_forward);
    KERNEL(aol_signs);
    KERNEL(aol_backward);
    KERNEL(row_squares);
    KERNEL(gram_normalised);
    KERNEL(top_vector);
    KERNEL(unit_vector);
    KERNEL(spectral_forward);
    KERNEL(inner_product);
    KERNEL(spectral_backward);
    KERNEL(put_word);
    KERNEL_TYPES(dropout);
    KERNEL(loss_forward);
    KERNEL(loss_backward);
    KERNEL(sgd);
    KERNEL(adam);
    KERNEL(proximal_adam);
    KERNEL(pack_pieces);
    KERNEL_TYPES(gather_images);
    return device::serve();
}
