//! The norms that keep splines simple, TV² and BV², with gradients in closed form, and the explicit L2 term.
//!
//! TV²(σ) = ‖a‖₁ with a the slope changes at the inner knots (Bohra-Campos2020, eq. 10); BV²(σ) = TV²(σ) + |σ(0)| + |σ(1)|
//! (Aziznejad2020, section II). No graph is built for them: their subgradients are added to what the backward pass left,
//! with sign(0) = 0.

use crate::activation::{Activation, Kind, Spline};
use crate::dispatch_real;
use crate::graph::Gradients;
#[cfg(feature = "cuda")]
use crate::ops::gpu::{
    Address,
    cuda::{CudaGpu, KERNELS, address_of},
    norm::{NormLayer, Parametrization},
};
use crate::ops::pointwise::{real_dtype, tensor_of};
use crate::ops::real::{Real, elements, with_elements};
use crate::parameter::{L2, Parameter};
#[cfg(feature = "cuda")]
use candle_core::Var;
use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, bail};

/// Which norm of the splines is penalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// ‖a‖₁, the total variation of the slope.
    Tv2,
    /// TV² + |σ(0)| + |σ(1)|, which also bounds the Lipschitz constant.
    Bv2,
}

/// The slope changes a of one function from its coefficients, in the precision of the coefficients.
///
/// The order of the roundings is that of the original's convolution with [1, −2, 1]/T, so that f32 signs and counts are the
/// same down to the noise of straight lines.
pub(crate) fn slope_changes_of<T: Real>(coefficients: &[T], step: f64) -> impl Iterator<Item = T> + '_ {
    let outer = T::ONE / T::from_f64(step);
    let inner = -(outer + outer);
    coefficients.windows(3).map(move |c| c[2].fused(outer, c[1].fused(inner, c[0] * outer)))
}

/// The slope changes a (C, K−2) at the inner knots. The linear term of a spline has none.
///
/// # Errors
/// If the parameters are not f32 or f64 on the CPU.
pub fn slope_changes(spline: &Spline) -> Result<Tensor> {
    let knots = spline.knot_parameters().as_tensor();
    if let Kind::ReluSpline { .. } = spline.kind() {
        return Ok(knots.detach());
    }
    let grid = spline.grid();
    dispatch_real!(knots.dtype(), "slope-changes", T => {
        let a = with_elements::<T, _>(knots, |c| {
            Ok(c.chunks_exact(grid.size()).flat_map(|c| slope_changes_of(c, grid.step())).collect::<Vec<T>>())
        })?;
        Ok(tensor_of(a, (spline.channels(), grid.size() - 2)))
    })
}

/// TV² of each function of the layer.
///
/// # Errors
/// If the parameters are not f32 or f64 on the CPU.
pub fn tv2(spline: &Spline) -> Result<Vec<f64>> {
    per_channel(spline, |a| a.iter().map(|a| a.abs()).sum())
}

/// How many knots of each function have |a| > `threshold`.
///
/// # Errors
/// If the parameters are not f32 or f64 on the CPU.
pub fn active_knots(spline: &Spline, threshold: f64) -> Result<Vec<usize>> {
    per_channel(spline, |a| a.iter().filter(|a| a.abs() > threshold).count())
}

fn per_channel<R>(spline: &Spline, f: impl Fn(&[f64]) -> R) -> Result<Vec<R>> {
    let a = slope_changes(spline)?;
    dispatch_real!(a.dtype(), "slope-changes", T => {
        with_elements::<T, _>(&a, |a| {
            Ok(a.chunks_exact(spline.grid().size() - 2)
                .map(|a| f(&a.iter().map(|a| a.to_f64()).collect::<Vec<f64>>()))
                .collect())
        })
    })
}

/// (σ(0), σ(1)) of each function of the layer.
///
/// # Errors
/// If the parameters are not f32 or f64 on the CPU.
pub fn values_at_0_and_1(spline: &Spline) -> Result<Vec<(f64, f64)>> {
    let grid = spline.grid();
    let coefficients = spline.coefficients()?;
    dispatch_real!(coefficients.dtype(), "values-at-0-and-1", T => {
        with_elements::<T, _>(&coefficients, |c| {
            let value = |c: &[T], x: f64| {
                let (i, t) = grid.locate(x);
                let (left, right) = (c[i].to_f64(), c[i + 1].to_f64());
                left + t * (right - left)
            };
            Ok(c.chunks_exact(grid.size()).map(|c| (value(c, 0.0), value(c, 1.0))).collect())
        })
    })
}

/// BV² = TV² + |σ(0)| + |σ(1)| of each function of the layer.
///
/// # Errors
/// If the parameters are not f32 or f64 on the CPU.
pub fn bv2(spline: &Spline) -> Result<Vec<f64>> {
    let values = values_at_0_and_1(spline)?;
    Ok(tv2(spline)?.into_iter().zip(values).map(|(tv2, (at_0, at_1))| tv2 + at_0.abs() + at_1.abs()).collect())
}

impl Norm {
    /// The norm of learned splines, summed over the functions of the layer; `None` for other activations.
    ///
    /// # Errors
    /// If the parameters are not f32 or f64 on the CPU.
    pub fn value_of(self, activation: &Activation) -> Result<Option<f64>> {
        match activation {
            Activation::Spline(spline) => self.value(spline).map(Some),
            Activation::Lipschitz(spline) => Ok(Some(spline.norms(self)?.iter().sum())),
            _ => Ok(None),
        }
    }

    /// Adds `weight` times the norm's gradient to the gradients of learned splines, and nothing to those of other
    /// activations.
    ///
    /// # Errors
    /// If the parameters are not f32 or f64 on the CPU.
    pub fn add_gradient_of(self, activation: &Activation, weight: f64, gradients: &mut impl Gradients) -> Result<()> {
        match activation {
            Activation::Spline(spline) => self.add_gradient(spline, weight, gradients),
            Activation::Lipschitz(spline) => spline.add_norm_gradient(self, weight, gradients),
            _ => Ok(()),
        }
    }

    /// The norm, summed over the functions of the layer.
    ///
    /// # Errors
    /// If the parameters are not f32 or f64 on the CPU.
    pub fn value(self, spline: &Spline) -> Result<f64> {
        let of_each = match self {
            Self::Tv2 => tv2(spline)?,
            Self::Bv2 => bv2(spline)?,
        };
        Ok(of_each.iter().sum())
    }

    /// Adds λ times the norm's gradient for some layers with a λ each; on a GPU (feature `cuda`) in one launch.
    ///
    /// # Errors
    /// If the parameters are not f32 or f64.
    pub fn add_gradients(self, layers: &[(&Spline, f64)], gradients: &mut impl Gradients) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Some((first, _)) = layers.first()
            && let Some(gpu) = CudaGpu::of(first.knot_parameters(), &KERNELS)?
        {
            return self.add_gradients_on(&gpu, layers, gradients);
        }
        layers.iter().try_for_each(|&(spline, weight)| self.add_gradient(spline, weight, gradients))
    }

    #[cfg(feature = "cuda")]
    fn add_gradients_on(self, gpu: &CudaGpu, layers: &[(&Spline, f64)], gradients: &mut impl Gradients) -> Result<()> {
        const OP: &str = "spline-norm-gradient";
        let mut of = |parameter: &Var| -> Result<Address> {
            // Zeros where no gradient came; a contiguous copy where it cannot be added to.
            let gradient = match gradients.gradient(parameter) {
                Some(gradient) if gradient.is_contiguous() => return address_of(gradient, OP),
                Some(gradient) => gradient.contiguous()?,
                None => parameter.zeros_like()?,
            };
            let address = address_of(&gradient, OP)?;
            gradients.set_gradient(parameter, gradient);
            Ok(address)
        };
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
                knots: address_of(knots, OP)?,
                gradient: of(knots)?,
                linear: [Address::NONE; 2],
                linear_gradient: [Address::NONE; 2],
            };
            if let Some(linear) = spline.linear_term() {
                layer.linear = [address_of(&linear.weight, OP)?, address_of(&linear.bias, OP)?];
                if self == Self::Bv2 {
                    layer.linear_gradient[0] = of(&linear.weight)?;
                    if !linear.fixed_bias {
                        layer.linear_gradient[1] = of(&linear.bias)?;
                    }
                }
            }
            all.push(layer);
        }
        // SAFETY: the arrays are those of parameters and of gradients of the same shapes, which their layers hold.
        unsafe { crate::ops::gpu::norm::add_gradients(gpu, &all, self == Self::Bv2) }
    }

    /// Adds `weight` times the norm's gradient to the gradients of the layer's parameters, in place.
    ///
    /// # Errors
    /// If the parameters are not f32 or f64 on the CPU.
    pub fn add_gradient(self, spline: &Spline, weight: f64, gradients: &mut impl Gradients) -> Result<()> {
        let signs = match self {
            Self::Tv2 => Vec::new(),
            Self::Bv2 => values_at_0_and_1(spline)?.into_iter().map(|(a, b)| (sign(a), sign(b))).collect(),
        };
        let knots = spline.knot_parameters();
        if gradients.gradient(knots).is_none() {
            gradients.set_gradient(knots, knots.zeros_like()?);
        }
        if let Some(gradient) = gradients.gradient(knots) {
            gradient.inplace_op2(&knots.as_tensor().detach(), &NormGradient { spline, weight, signs: &signs })?;
        }
        let Some(linear) = spline.linear_term().filter(|_| !signs.is_empty()) else { return Ok(()) };
        let dtype = knots.dtype();
        let mut add = |parameter, values: Vec<f64>| -> Result<()> {
            let term = Tensor::from_vec(values, spline.channels(), knots.device())?.to_dtype(dtype)?;
            let sum = match gradients.gradient(parameter) {
                Some(gradient) => gradient.add(&term)?,
                None => term,
            };
            gradients.set_gradient(parameter, sum);
            Ok(())
        };
        add(&linear.weight, signs.iter().map(|&(_, at_1)| weight * at_1).collect())?;
        if !linear.fixed_bias {
            add(&linear.bias, signs.iter().map(|&(at_0, at_1)| weight * (at_0 + at_1)).collect())?;
        }
        Ok(())
    }
}

fn sign(x: f64) -> f64 {
    if x == 0.0 { 0.0 } else { x.signum() }
}

/// gradient += weight·∂norm/∂knot parameters, with the signs of σ(0) and σ(1) for BV² (none for TV²).
struct NormGradient<'a> {
    spline: &'a Spline,
    weight: f64,
    signs: &'a [(f64, f64)],
}

impl NormGradient<'_> {
    fn run<T: Real>(&self, gradient: &mut [T], knots: &[T]) {
        let grid = self.spline.grid();
        let of_relus = matches!(self.spline.kind(), Kind::ReluSpline { .. });
        let width = if of_relus { grid.size() - 2 } else { grid.size() };
        let unit = T::from_f64(if of_relus { self.weight } else { self.weight / grid.step() });
        let signed = |a: T| {
            if a > T::ZERO {
                unit
            } else if a < T::ZERO {
                -unit
            } else {
                T::ZERO
            }
        };
        for (channel, (g, c)) in gradient.chunks_exact_mut(width).zip(knots.chunks_exact(width)).enumerate() {
            if of_relus {
                for (g, &a) in g.iter_mut().zip(c) {
                    *g += signed(a);
                }
            } else {
                for (k, a) in slope_changes_of(c, grid.step()).enumerate() {
                    let s = signed(a);
                    g[k] += s;
                    g[k + 1] -= s + s;
                    g[k + 2] += s;
                }
            }
            let Some(&(at_0, at_1)) = self.signs.get(channel) else { continue };
            if of_relus {
                for (g, x) in g.iter_mut().zip(grid.knots().skip(1)) {
                    *g += T::from_f64(self.weight * (at_0 * (-x).max(0.0) + at_1 * (1.0 - x).max(0.0)));
                }
            } else {
                for (x, sign) in [(0.0, at_0), (1.0, at_1)] {
                    let (i, t) = grid.locate(x);
                    g[i] += T::from_f64(self.weight * sign * (1.0 - t));
                    g[i + 1] += T::from_f64(self.weight * sign * t);
                }
            }
        }
    }
}

impl InplaceOp2 for NormGradient<'_> {
    fn name(&self) -> &'static str {
        "spline-norm-gradient"
    }

    fn cpu_fwd(&self, gradient: &mut CpuStorage, gl: &Layout, c: &CpuStorage, cl: &Layout) -> Result<()> {
        let Some((start, end)) = gl.contiguous_offsets() else {
            bail!("{}: the gradient must be contiguous", self.name())
        };
        dispatch_real!(real_dtype(c, self.name())?, self.name(), T => {
            let c = elements::<T>(c, cl)?;
            let mut failed = true;
            if let Some(gradient) = as_mut_slice::<T>(gradient) {
                failed = end - start != c.len();
                if !failed {
                    self.run(&mut gradient[start..end], c);
                }
            }
            if failed { bail!("{}: gradient and parameter do not fit each other", self.name()) } else { Ok(()) }
        })
    }
}

/// The elements of a CPU storage for writing, if it has this type.
pub(crate) fn as_mut_slice<T: Real>(storage: &mut CpuStorage) -> Option<&mut [T]> {
    let any: &mut dyn std::any::Any = match storage {
        CpuStorage::F32(data) => data,
        CpuStorage::F64(data) => data,
        _ => return None,
    };
    any.downcast_mut::<Vec<T>>().map(Vec::as_mut_slice)
}

/// Σ θ² over the parameters that take part in an L2 term; the term is (weight decay / 2) times this.
///
/// # Errors
/// On Candle's errors.
pub fn sum_of_squares(parameters: &[Parameter], l2: L2) -> Result<f64> {
    let mut sum = 0.0;
    for parameter in parameters.iter().filter(|p| p.l2 == l2) {
        let var = parameter.var.as_tensor();
        sum += dispatch_real!(var.dtype(), "sum-of-squares", T => {
            with_elements::<T, _>(var, |v| Ok(v.iter().map(|v| v.to_f64().powi(2)).sum::<f64>()))
        })?;
    }
    Ok(sum)
}
