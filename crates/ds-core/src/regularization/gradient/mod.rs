//! The gradients of TV² and BV² in closed form, added to gradients in place: layer by layer on the CPU, in one launch on a GPU.

mod gpu;

pub(crate) use gpu::address_to_add_to;

use super::measures::{bv2, slope_changes_of, tv2, values_at_0_and_1};
use super::norm::{Norm, Terms, sign};
use crate::activation::{Activation, Kind, Spline};
use crate::backend::gpu::cuda::CudaGpu;
use crate::backend::gpu::{Gpu, KERNELS};
use crate::backend::pointwise::real_dtype;
use crate::backend::real::{Real, elements, elements_mut};
use crate::dispatch_real;
use crate::graph::Gradients;
use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, bail};

impl Norm {
    /// The norm of learned splines, summed over the functions of the layer; `None` for other activations.
    pub fn value_of(self, activation: &Activation) -> Result<Option<f64>> {
        match activation {
            Activation::Spline(spline) => self.value(spline).map(Some),
            Activation::Lipschitz(spline) => Ok(Some(spline.norms(self)?.iter().sum())),
            _ => Ok(None),
        }
    }

    /// Adds `weight` times the norm's gradient to the gradients of learned splines, and nothing to those of other
    /// activations.
    pub fn add_gradient_of(self, activation: &Activation, weight: f64, gradients: &mut impl Gradients) -> Result<()> {
        match activation {
            Activation::Spline(spline) => self.add_gradient(spline, weight, gradients),
            Activation::Lipschitz(spline) => spline.add_norm_gradient(self, weight, gradients),
            _ => Ok(()),
        }
    }

    /// The norm, summed over the functions of the layer.
    pub fn value(self, spline: &Spline) -> Result<f64> {
        let of_each = match self {
            Self::Tv2 => tv2(spline)?,
            Self::Bv2 => bv2(spline)?,
        };
        Ok(of_each.iter().sum())
    }

    /// Adds λ times the norm's gradient for some layers with a λ each; on a GPU in one launch.
    ///
    /// # Errors
    /// If the parameters are not f32, or f64 on the CPU.
    pub fn add_gradients(self, layers: &[(&Spline, f64)], gradients: &mut impl Gradients) -> Result<()> {
        Terms::of(self).add_gradients(layers, gradients)
    }

    /// [`add_gradients`](Self::add_gradients) without that of TV², which a [proximal step](super::ProximalTv2) takes care of: for
    /// BV² the gradient of |σ(0)| + |σ(1)|.
    ///
    /// # Errors
    /// If the parameters are not f32, or f64 on the CPU.
    pub fn add_gradients_without_tv2(self, layers: &[(&Spline, f64)], gradients: &mut impl Gradients) -> Result<()> {
        match self {
            Self::Tv2 => Ok(()),
            Self::Bv2 => Terms { tv2: false, values: true }.add_gradients(layers, gradients),
        }
    }

    /// [`add_gradients`](Self::add_gradients), or that without TV², for layers on a GPU.
    ///
    /// # Errors
    /// If a parameter is elsewhere or not f32, or the launch fails.
    #[doc(hidden)]
    pub fn add_gradients_on<G: Gpu>(
        self,
        gpu: &G,
        with_tv2: bool,
        layers: &[(&Spline, f64)],
        gradients: &mut impl Gradients,
    ) -> Result<()> {
        gpu::add_gradients(gpu, Terms { tv2: with_tv2, ..Terms::of(self) }, layers, gradients)
    }

    /// Adds `weight` times the norm's gradient to the gradients of the layer's parameters, in place.
    ///
    /// # Errors
    /// If the parameters are not f32, or f64 on the CPU.
    pub fn add_gradient(self, spline: &Spline, weight: f64, gradients: &mut impl Gradients) -> Result<()> {
        self.add_gradients(&[(spline, weight)], gradients)
    }
}

impl Terms {
    fn add_gradients(self, layers: &[(&Spline, f64)], gradients: &mut impl Gradients) -> Result<()> {
        let Some((first, _)) = layers.first() else { return Ok(()) };
        match CudaGpu::of(first.knot_parameters(), &KERNELS)? {
            Some(gpu) => gpu::add_gradients(&gpu, self, layers, gradients),
            None => layers.iter().try_for_each(|&(spline, weight)| self.add_on_cpu(spline, weight, gradients)),
        }
    }

    fn add_on_cpu(self, spline: &Spline, weight: f64, gradients: &mut impl Gradients) -> Result<()> {
        let signs = match self.values {
            false => Vec::new(),
            true => values_at_0_and_1(spline)?.into_iter().map(|(a, b)| (sign(a), sign(b))).collect(),
        };
        let knots = spline.knot_parameters();
        if gradients.gradient(knots).is_none() {
            gradients.set_gradient(knots, knots.zeros_like()?);
        }
        if let Some(gradient) = gradients.gradient(knots) {
            gradient.inplace_op2(&knots.detach(), &NormGradient { spline, weight, tv2: self.tv2, signs: &signs })?;
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

/// gradient += weight·∂norm/∂knot parameters, with the signs of σ(0) and σ(1) if their sizes belong to the norm.
struct NormGradient<'a> {
    spline: &'a Spline,
    weight: f64,
    tv2: bool,
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
            if of_relus && self.tv2 {
                for (g, &a) in g.iter_mut().zip(c) {
                    *g += signed(a);
                }
            } else if self.tv2 {
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
        gpu::NAME
    }

    fn cpu_fwd(&self, gradient: &mut CpuStorage, gl: &Layout, c: &CpuStorage, cl: &Layout) -> Result<()> {
        dispatch_real!(real_dtype(c, self.name())?, self.name(), T => {
            let c = elements::<T>(c, cl)?;
            match elements_mut::<T>(gradient, gl)? {
                gradient if gradient.len() == c.len() => self.run(gradient, c),
                _ => bail!("{}: gradient and parameter do not fit each other", self.name()),
            }
            Ok(())
        })
    }
}
