//! Activations of pairs of channels on a GPU.

use crate::backend::gpu::launch::Mapping;
use crate::backend::gpu::{Address, Argument, Gpu, LaunchDims, OfChannels, in_vector, int, kernel_of, mapping};
use crate::backend::planes::Planes;
use candle_core::{DType, Result};

/// The planes of one channel of each pair.
fn halves(pairs: Planes) -> Planes {
    Planes { inner: pairs.inner / 2, ..pairs }
}

/// y of [`MaxMin`](super::MaxMin) from x, with the kernel `max_min`; ∂x from x and ∂y, with `max_min_gradient`.
pub(super) fn max_min<G: Gpu>(
    gpu: &G,
    kernel: &str,
    pairs: Planes,
    dtype: DType,
    inputs: &[Address],
) -> Result<G::Buffer> {
    let (out, planes) = (gpu.alloc(dtype, pairs.elements())?, halves(pairs));
    let arrays = [inputs, &[gpu.address(&out)?]].concat();
    let mapping = mapping(planes, dtype, arrays.iter().all(|array| array.is_aligned()));
    let width = if mapping == Mapping::Vectors { in_vector(dtype) } else { 1 };
    let count = planes.elements() / width;
    let mut arguments: Vec<Argument<'_>> = arrays.iter().map(|&array| array.into()).collect();
    arguments.extend([int(planes.inner / width)?, int(count)?]);
    let kernel = kernel_of(&format!("{kernel}_{}", mapping.name()), dtype)?;
    // SAFETY: the kernel's arguments; it stays below the number of pairs of vectors.
    unsafe { gpu.launch(&kernel, LaunchDims::for_each(count), &arguments)? };
    Ok(out)
}

fn of_pairs(pairs: Planes, dtype: DType, x: Address, angles: Address) -> OfChannels<'static> {
    let (planes, elements) = (halves(pairs), pairs.elements());
    OfChannels { kernel: "householder", planes, elements, dtype, x, parameters: angles }
}

/// y of [`Householder`](super::Householder).
pub(super) fn householder<G: Gpu>(
    gpu: &G,
    pairs: Planes,
    dtype: DType,
    x: Address,
    angles: Address,
) -> Result<G::Buffer> {
    // SAFETY: the kernel's arguments; it takes the planes of one channel of each pair, and reads both.
    unsafe { of_pairs(pairs, dtype, x, angles).forward(gpu, &[]) }
}

/// Its (∂x, ∂θ).
pub(super) fn householder_gradient<G: Gpu>(
    gpu: &G,
    pairs: Planes,
    dtype: DType,
    x: Address,
    angles: Address,
    dy: Address,
) -> Result<(G::Buffer, G::Buffer)> {
    // SAFETY: as in the forward pass.
    unsafe { of_pairs(pairs, dtype, x, angles).backward(gpu, dy) }
}
