//! The proximal operator of λ·TV², which gives slope changes that are 0, where steps along a subgradient leave small ones.

mod interior_point;
mod solver;

use crate::activation::{Kind, Spline};
use crate::backend::pointwise::real_dtype;
use crate::backend::real::{Real, elements, elements_mut};
use crate::dispatch_real;
use crate::parameter::variable;
use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, TensorId, bail};

/// λ·TV² of a layer, for proximal steps in a diagonal metric.
#[derive(Debug, Clone, PartialEq)]
pub struct ProximalTv2 {
    parameter: TensorId,
    channels: usize,
    size: usize,
    /// λ where the parameters are slope changes; λ/T where they are coefficients, for their second differences.
    weight: f64,
    of_slope_changes: bool,
}

impl ProximalTv2 {
    /// The penalty `lambda`·TV² of a layer.
    ///
    /// The distance T of its knots is read here: after `resample`, `set_grid` or `VarMap::load` the penalty is to be made anew.
    pub fn new(spline: &Spline, lambda: f64) -> Self {
        let of_slope_changes = matches!(spline.kind(), Kind::ReluSpline { .. });
        Self {
            parameter: spline.knot_parameters().id(),
            channels: spline.channels(),
            size: spline.grid().size(),
            weight: if of_slope_changes { lambda } else { lambda / spline.grid().step() },
            of_slope_changes,
        }
    }

    /// The variable that it is about: [`Spline::knot_parameters`].
    pub fn parameter(&self) -> TensorId {
        self.parameter
    }

    /// The functions C and their knots K.
    pub fn shape(&self) -> (usize, usize) {
        (self.channels, self.size)
    }

    /// μ in μ·‖D·c‖₁ with the second differences D·c, or in μ·‖a‖₁ with the slope changes a.
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// Whether the parameters are slope changes (C, K−2), not coefficients (C, K).
    pub fn of_slope_changes(&self) -> bool {
        self.of_slope_changes
    }
}

/// What [`ProximalTv2::solve`] works in.
#[derive(Debug, Clone, Default)]
pub struct Workspace<T> {
    solver: solver::Workspace,
    signs: Vec<T>,
}

impl ProximalTv2 {
    /// Remembers which slope changes of the parameters are 0, from where the next [`solve`](Self::solve) starts.
    pub fn start<T: Real>(&self, workspace: &mut Workspace<T>, parameters: &[T]) {
        if !self.of_slope_changes {
            workspace.signs.resize(self.channels * (self.size - 2), T::ZERO);
            solver::signs(self.size, parameters, &mut workspace.signs);
        }
    }

    /// Takes the parameters u to argmin ½ Σ (θ − u)²/`scale` + λ·TV²(θ). Where `scale` is 0, θ stays u. A workspace that did not
    /// [`start`](Self::start) starts from slope changes that are all 0.
    pub fn solve<T: Real>(&self, workspace: &mut Workspace<T>, parameters: &mut [T], scale: &[T]) {
        if self.of_slope_changes {
            solver::soft_threshold(T::from_f64(self.weight), parameters, scale);
        } else if self.weight > 0.0 {
            let (Workspace { solver, signs }, changes) = (workspace, self.channels * (self.size - 2));
            if signs.len() != changes {
                signs.clear();
                signs.resize(changes, T::ZERO);
            }
            solver::solve(solver, (self.size, self.weight), parameters, scale, signs);
        }
    }
}

/// Takes the coefficients or slope changes u of a layer, in place, to the proximal point of `lambda`·TV² in a diagonal metric:
/// argmin ½ Σ (θ − u)²/`scale` + `lambda`·TV²(θ). With `scale` the step size of each parameter, this is the second half of a step
/// of proximal gradient descent; the first half is the step along the gradient of all other terms. Where it is 0, θ stays u.
///
/// For slope changes it is soft thresholding. For coefficients it is ℓ1 trend filtering (Kim et al. 2009), solved exactly. Slope
/// changes that are 0 there are 0 but for the rounding of f32 coefficients; [`significant_knots`](super::significant_knots) counts
/// the others. Coefficients in f64 have the rounding of the solver, some 1e-12 of their size, in them: count with
/// [`active_knots`](super::active_knots) and a threshold.
///
/// # Errors
/// If `lambda` is not a number from 0 on, `scale` has not the shape and type of [`Spline::knot_parameters`] or a negative number, the
/// layer is frozen, or the parameters are not f32 or f64 on the CPU.
pub fn proximal_step(spline: &Spline, lambda: f64, scale: &Tensor) -> Result<()> {
    let parameters = spline.knot_parameters();
    if !(lambda.is_finite() && lambda >= 0.0) {
        bail!("proximal step: λ is {lambda}, it must be finite and not negative");
    }
    if scale.dtype() != parameters.dtype() {
        bail!("proximal step: a scale in {:?} for parameters in {:?}", scale.dtype(), parameters.dtype());
    }
    let scale = &scale.contiguous()?;
    variable(spline.knot_parameters_name(), spline.knot_parameters())?
        .inplace_op2(scale, &Step(&ProximalTv2::new(spline, lambda)))
}

struct Step<'a>(&'a ProximalTv2);

impl InplaceOp2 for Step<'_> {
    fn name(&self) -> &'static str {
        "proximal-tv2"
    }

    fn cpu_fwd(&self, parameters: &mut CpuStorage, pl: &Layout, scale: &CpuStorage, sl: &Layout) -> Result<()> {
        if pl.shape() != sl.shape() {
            bail!("{}: scale {:?} for parameters {:?}", self.name(), sl.shape(), pl.shape());
        }
        dispatch_real!(real_dtype(scale, self.name())?, self.name(), T => {
            let (parameters, scale) = (elements_mut::<T>(parameters, pl)?, elements::<T>(scale, sl)?);
            if let Some(size) = scale.iter().find(|size| **size < T::ZERO) {
                bail!("{}: a scale of {}, it must not be negative", self.name(), size.to_f64());
            }
            let mut workspace = Workspace::default();
            self.0.start(&mut workspace, parameters);
            self.0.solve(&mut workspace, parameters, scale);
            Ok(())
        })
    }
}
