//! Batch norm, the sum with a residual and the activation, with μ and σ² left on the device.

use super::function::Function;
use crate::ops::batch_sums::Partial;
use candle_core::{DType, Result};
use ds_core::backend::gpu::launch::Launch;
use ds_core::backend::gpu::{
    Address, Argument, Gpu, LaunchDims, by_channel, int, kernel_of_mapping, knots, launch_foreach, mapping, rows_of,
};
use ds_core::backend::planes::Planes;

/// Momentum and ε of a layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Constants {
    /// What the batch counts in the running statistics.
    pub(super) momentum: f64,
    /// ε.
    pub(super) epsilon: f64,
}

/// The inputs of the op.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inputs {
    /// The type of x, the residual, y and their gradients.
    pub(super) dtype: DType,
    /// x (N, C, …).
    pub(super) x: Address,
    /// Like x, or none.
    pub(super) residual: Address,
    /// γ, β and coefficients (C, 2 + K).
    pub(super) parameters: Address,
}

/// What kernels know of the function.
struct Kind {
    name: &'static str,
    knots: [u64; 3],
    slope: f32,
    segments: usize,
    width: usize,
}

impl Kind {
    fn of(function: Function) -> Self {
        match function {
            // The rectifier with slope 1.
            Function::Identity => Self { name: "rectifier", knots: [0; 3], slope: 1.0, segments: 0, width: 2 },
            Function::Rectifier { slope } => {
                Self { name: "rectifier", knots: [0; 3], slope: slope as f32, segments: 0, width: 2 }
            }
            Function::Spline(grid) => {
                let segments = grid.size() - 1;
                Self { name: "spline", knots: knots(grid), slope: 0.0, segments, width: 2 + grid.size() }
            }
        }
    }
}

/// Shared memory of the kernels in bytes: a double2 for each thread, a channel's line, and what merges pieces.
const OF_THREAD: usize = 16;
const LINE: usize = 64;
const PARTS_OF_PIECES: usize = 128;
const MERGED: usize = 16 * PARTS_OF_PIECES + LINE;

fn count(planes: Planes) -> Argument<'static> {
    Argument::Double((planes.outer * planes.inner) as f64)
}

fn named(kernel: &str, kind: &Kind, launch: &Launch, dtype: DType) -> Result<String> {
    kernel_of_mapping(&format!("{kernel}_{}", kind.name), launch, dtype)
}

/// (y, moments (C, 2) in f64). In training the statistics are those of the batch and go into the running ones, which are
/// (mean, variance); otherwise they are the running ones. The batch's come from the partial sums that were left for them, if any were.
///
/// # Safety
/// Nobody else may write the running statistics.
pub(super) unsafe fn forward<G: Gpu>(
    gpu: &G,
    planes: Planes,
    function: Function,
    inputs: Inputs,
    running: (Address, Address),
    (training, left): (bool, Option<Partial<G::Buffer>>),
    constants: Constants,
) -> Result<(G::Buffer, G::Buffer)> {
    let kind = Kind::of(function);
    let Inputs { dtype, x, residual, parameters } = inputs;
    let y = gpu.alloc(dtype, planes.elements())?;
    let moments = gpu.alloc(DType::F64, 2 * planes.channels)?;
    let (limits, to) = (gpu.limits()?, gpu.address(&y)?);
    let partial = if let Some(left) = left.filter(|_| training) {
        Some(left)
    } else if training {
        let launch = by_channel(limits, planes, dtype, x.is_aligned(), OF_THREAD * LaunchDims::THREADS)?;
        let partial = gpu.alloc(DType::F64, 2 * launch.pieces * planes.channels)?;
        let mut arguments: Vec<Argument<'_>> = vec![x.into(), gpu.address(&partial)?.into()];
        arguments.extend(rows_of(planes, &launch)?);
        let kernel = kernel_of_mapping("norm_statistics", &launch, dtype)?;
        // SAFETY: the kernel's arguments; the launch covers the rows and no more, and has two sums of each piece and channel.
        unsafe { gpu.launch(&kernel, launch.into(), &arguments)? };
        Some((partial, launch.pieces))
    } else {
        None
    };
    let pieces = partial.as_ref().map_or(0, |(_, pieces)| *pieces);
    let of_pieces = partial.as_ref().map_or(Ok(Address::NONE), |(partial, _)| gpu.address(partial))?;
    let aligned = [x, residual, to].iter().all(|a| a.is_aligned());
    let launch = Launch::with_lines(planes, mapping(planes, dtype, aligned), MERGED, kind.segments, limits)?;
    let mut arguments: Vec<Argument<'_>> = vec![
        x.into(),
        residual.into(),
        parameters.into(),
        of_pieces.into(),
        running.0.into(),
        running.1.into(),
        gpu.address(&moments)?.into(),
        to.into(),
        Argument::Struct(&kind.knots),
        kind.slope.into(),
        int(kind.width)?,
        int(pieces)?,
        count(planes),
        constants.epsilon.into(),
        constants.momentum.into(),
        int(launch.row_bytes())?,
    ];
    arguments.extend(rows_of(planes, &launch)?);
    // SAFETY: the kernel's arguments; the launch covers the rows and no more.
    unsafe { gpu.launch(&named("norm_forward", &kind, &launch, dtype)?, launch.into(), &arguments)? };
    Ok((y, moments))
}

/// What [`backward`] gives.
pub(super) struct Gradients<B> {
    /// ∂x.
    pub(super) x: B,
    /// ∂residual, if there is one.
    pub(super) residual: Option<B>,
    /// ∂parameters (C, 2 + K).
    pub(super) parameters: B,
}

/// The gradients from the moments that [`forward`] left, and from ∂y and what is to be added to it, if anything is.
pub(super) fn backward<G: Gpu>(
    gpu: &G,
    planes: Planes,
    function: Function,
    inputs: Inputs,
    (moments, dy, more): (Address, Address, Address),
    training: bool,
    epsilon: f64,
) -> Result<Gradients<G::Buffer>> {
    let kind = Kind::of(function);
    let Inputs { dtype, x, residual, parameters } = inputs;
    let (limits, n) = (gpu.limits()?, planes.elements());
    // A sum of two gradients is not made twice.
    let has_dz = residual != Address::NONE || more != Address::NONE;
    let of_z = if has_dz { Some(gpu.alloc(dtype, n)?) } else { None };
    let dz = of_z.as_ref().map_or(Ok(Address::NONE), |of_z| gpu.address(of_z))?;
    let dx = gpu.alloc(dtype, n)?;
    let to = gpu.address(&dx)?;
    let aligned = [x, residual, dy, more, dz, to].iter().all(|a| a.is_aligned());
    let mapping = mapping(planes, dtype, aligned);
    let sums = if kind.segments == 0 {
        Launch::by_channel(planes, mapping, OF_THREAD * LaunchDims::THREADS + LINE, limits)
    } else {
        let tables = |threads: usize| OF_THREAD * threads + LINE + 8 * threads * kind.segments + 4 * kind.segments;
        Launch::with_sums(planes, mapping, kind.segments, tables, limits)
    }?;
    let products = gpu.alloc(DType::F64, 2 * sums.pieces * planes.channels)?;
    let coefficients = gpu.alloc(DType::F32, sums.pieces * planes.channels * (kind.width - 2))?;
    let (of_products, of_coefficients) = (gpu.address(&products)?, gpu.address(&coefficients)?);
    let mut arguments: Vec<Argument<'_>> = vec![
        x.into(),
        residual.into(),
        parameters.into(),
        moments.into(),
        dy.into(),
        more.into(),
        dz.into(),
        of_products.into(),
        of_coefficients.into(),
        Argument::Struct(&kind.knots),
        kind.slope.into(),
        int(kind.width)?,
        epsilon.into(),
    ];
    arguments.extend(rows_of(planes, &sums)?);
    // SAFETY: the kernel's arguments; the launch covers the rows and no more, and has sums of each piece and channel.
    unsafe { gpu.launch(&named("norm_sums", &kind, &sums, dtype)?, sums.into(), &arguments)? };
    let launch = Launch::apart(planes, mapping, MERGED + 4 * kind.segments, limits)?;
    let dp = gpu.alloc(DType::F32, planes.channels * kind.width)?;
    let mut arguments: Vec<Argument<'_>> = vec![
        x.into(),
        parameters.into(),
        moments.into(),
        if has_dz { dz.into() } else { dy.into() },
        of_products.into(),
        of_coefficients.into(),
        to.into(),
        gpu.address(&dp)?.into(),
        Argument::Struct(&kind.knots),
        kind.slope.into(),
        int(kind.width)?,
        int(sums.pieces)?,
        count(planes),
        epsilon.into(),
        Argument::Int(i32::from(training)),
        Argument::Int(i32::from(has_dz)),
    ];
    arguments.extend(rows_of(planes, &launch)?);
    // SAFETY: the kernel's arguments; the launch covers the rows and no more.
    unsafe { gpu.launch(&named("norm_input", &kind, &launch, dtype)?, launch.into(), &arguments)? };
    Ok(Gradients { x: dx, residual: of_z.filter(|_| residual != Address::NONE), parameters: dp })
}

/// The channels of a layer, what each has in all, and its γ, β (C) and coefficients (C, K).
pub(super) type Parameters = (usize, usize, [Address; 3]);

/// Layers of a launch, and numbers of a block.
const LAYERS: usize = 90;
const NUMBERS: usize = LaunchDims::THREADS;

/// The parameters of each layer side by side: (C, 2 + K).
pub(super) fn packed<G: Gpu>(gpu: &G, layers: &[Parameters]) -> Result<Vec<G::Buffer>> {
    let out = layers.iter().map(|(channels, width, _)| gpu.alloc(DType::F32, channels * width));
    let out = out.collect::<Result<Vec<_>>>()?;
    let packed = out.iter().map(|out| gpu.address(out)).collect::<Result<Vec<_>>>()?;
    pack(gpu, layers, &packed, false)?;
    Ok(out)
}

/// The three parts of each layer's (C, 2 + K) again; the last of them is of no use without coefficients.
pub(super) fn unpacked<G: Gpu>(gpu: &G, layers: &[(usize, usize, Address)]) -> Result<Vec<[G::Buffer; 3]>> {
    let part = |channels: usize, width: usize| gpu.alloc(DType::F32, channels * width);
    let parts = layers.iter().map(|&(c, width, _)| Ok([part(c, 1)?, part(c, 1)?, part(c, width - 2)?]));
    let parts = parts.collect::<Result<Vec<_>>>()?;
    let of = |(&(channels, width, _), [g, b, c]): (&_, &[G::Buffer; 3])| {
        Ok((channels, width, [gpu.address(g)?, gpu.address(b)?, gpu.address(c)?]))
    };
    let of = layers.iter().zip(&parts).map(of).collect::<Result<Vec<_>>>()?;
    pack(gpu, &of, &layers.iter().map(|&(.., packed)| packed).collect::<Vec<_>>(), true)?;
    Ok(parts)
}

fn pack<G: Gpu>(gpu: &G, layers: &[Parameters], packed: &[Address], apart: bool) -> Result<()> {
    let row = |(&(channels, width, [gamma, beta, coefficients]), packed): (&Parameters, &Address)| {
        int(channels * width)?;
        let shape = channels as u64 | (width as u64) << 32;
        Ok((channels * width, [gamma.0, beta.0, coefficients.0, packed.0, shape]))
    };
    let rows = layers.iter().zip(packed).map(row).collect::<Result<Vec<_>>>()?;
    let apart = [Argument::Int(i32::from(apart))];
    // SAFETY: the kernel's arguments; every block stays in its layer.
    unsafe { launch_foreach(gpu, "pack_parameters", (LAYERS, NUMBERS), &rows, &apart, 0) }
}
