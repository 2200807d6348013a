//! The gradients of the norms of all spline layers in one launch.

use crate::Grid;
use crate::activation::{Kind, Spline};
use crate::backend::gpu::launch::MAX_GRID_Y;
use crate::backend::gpu::{Address, Argument, Gpu, LaunchDims, int};
use crate::graph::Gradients;
use crate::regularization::norm::Terms;
use candle_core::{DType, Result, Tensor};

/// The name of the op.
pub(super) const NAME: &str = "spline-norm-gradient";

/// The parametrisation, as the kernel counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parametrization {
    /// Coefficients.
    Coefficients = 0,
    /// Coefficients and a linear term.
    ExplicitLinear = 1,
    /// Slope changes and a linear term.
    SlopeChanges = 2,
}

/// A layer whose norm is penalised.
#[derive(Debug, Clone, Copy)]
struct NormLayer {
    /// Its parametrisation.
    parametrization: Parametrization,
    /// Its grid.
    grid: Grid,
    /// Its functions.
    channels: usize,
    /// The weight of the norm.
    weight: f64,
    /// Coefficients (C, K) or slope changes (C, K−2).
    knots: Address,
    /// Their gradient, to be added to.
    gradient: Address,
    /// b1 and b0, if there is a linear term.
    linear: [Address; 2],
    /// Their gradients, if wanted.
    linear_gradient: [Address; 2],
}

impl NormLayer {
    /// As the kernel has it.
    fn words(&self) -> [u64; 13] {
        let [(i0, t0), (i1, t1)] = [0.0, 1.0].map(|x| self.grid.locate(x));
        let pair = |low: usize, high: usize| low as u64 | (high as u64) << 32;
        let ([b1, b0], [db1, db0]) = (self.linear, self.linear_gradient);
        [
            self.knots.0,
            self.gradient.0,
            b1.0,
            b0.0,
            db1.0,
            db0.0,
            self.weight.to_bits(),
            self.grid.step().to_bits(),
            t0.to_bits(),
            t1.to_bits(),
            pair(i0, i1),
            pair(self.channels, self.grid.size()),
            self.parametrization as u64,
        ]
    }
}

/// Layers of a launch.
const LAYERS: usize = 36;

/// Where the gradient of a parameter is, to be added to in place: zeros if none came, a contiguous copy where it cannot be added to.
pub(crate) fn address_to_add_to<G: Gpu>(
    gpu: &G,
    parameter: &Tensor,
    gradients: &mut impl Gradients,
    op: &str,
) -> Result<Address> {
    let gradient = match gradients.gradient(parameter) {
        Some(gradient) if gradient.is_contiguous() => return gpu.address_of(gradient, DType::F32, op),
        Some(gradient) => gradient.contiguous()?,
        None => parameter.zeros_like()?,
    };
    let address = gpu.address_of(&gradient, DType::F32, op)?;
    gradients.set_gradient(parameter, gradient);
    Ok(address)
}

/// Adds λ times the gradient of the norm's terms for layers with a λ each.
pub(super) fn add_gradients<G: Gpu>(
    gpu: &G,
    terms: Terms,
    layers: &[(&Spline, f64)],
    gradients: &mut impl Gradients,
) -> Result<()> {
    let mut of = |parameter: &Tensor| address_to_add_to(gpu, parameter, gradients, NAME);
    let of_parameter = |parameter: &Tensor| gpu.address_of(parameter, DType::F32, NAME);
    let mut all = Vec::with_capacity(layers.len());
    for &(spline, weight) in layers {
        let knots = spline.knot_parameters();
        let mut layer = NormLayer {
            parametrization: match spline.kind() {
                Kind::BSpline { .. } => Parametrization::Coefficients,
                Kind::ExplicitLinear { .. } => Parametrization::ExplicitLinear,
                Kind::ReluSpline { .. } => Parametrization::SlopeChanges,
            },
            grid: spline.grid(),
            channels: spline.channels(),
            weight,
            knots: of_parameter(knots)?,
            gradient: of(knots)?,
            linear: [Address::NONE; 2],
            linear_gradient: [Address::NONE; 2],
        };
        if let Some(linear) = spline.linear_term() {
            layer.linear = [of_parameter(&linear.weight)?, of_parameter(&linear.bias)?];
            if terms.values {
                layer.linear_gradient[0] = of(&linear.weight)?;
                if !linear.fixed_bias {
                    layer.linear_gradient[1] = of(&linear.bias)?;
                }
            }
        }
        all.push(layer);
    }
    for some in all.chunks(LAYERS) {
        let mut words: Vec<u64> = some.iter().flat_map(NormLayer::words).collect();
        words.resize(LAYERS * 13, 0);
        let most = some.iter().map(|layer| layer.channels * layer.grid.size()).max().unwrap_or(0);
        // Beyond that, threads take several numbers.
        let pieces = most.div_ceil(LaunchDims::THREADS).clamp(1, MAX_GRID_Y);
        // They count in `int`, up to one step past the last number.
        int(most + pieces * LaunchDims::THREADS)?;
        let blocks = LaunchDims { grid: (some.len(), pieces), threads: LaunchDims::THREADS, shared: 0 };
        let [tv2, values] = [terms.tv2, terms.values].map(|is_added| Argument::Int(i32::from(is_added)));
        let arguments = [Argument::Struct(&words), tv2, values];
        // SAFETY: the kernel's arguments: parameters and gradients of the same shapes, which live until the launch has run.
        unsafe { gpu.launch("norm_gradient", blocks, &arguments)? };
    }
    Ok(())
}
