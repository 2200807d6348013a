//! The three kinds of linear-spline activations.

use super::init::Init;
use super::linear_term::LinearTerm;
use crate::backend::real::in_double_precision;
use crate::graph::{CandleGraph, Graph};
use crate::ops::linear_spline::LinearSpline;
use crate::ops::reparametrization::{AddLinearTerm, SumOfRelus};
use crate::parameter::{GRID_STEP, Group, L2, Parameter, check_is_real, new_variable, variable};
use crate::{Error, Grid, Result};
use candle_core::{DType, Device, Tensor};

/// How the functions σ of a layer are parametrised. All of them are linear splines on one grid, evaluated by one op.
#[derive(Debug, Clone)]
pub enum Kind {
    /// σ(x) = Σ_k c_k·β¹(x/T − k): coefficients are the values at the knots (Bohra-Campos2020, section III-A).
    BSpline {
        /// c (C, K).
        coefficients: Tensor,
    },
    /// σ(x) = b1·x + b0 + Σ_k c_k·β¹(x/T − k). Weight decay acts on b1 and b0, and TV² on the coefficients. These can hold any line at
    /// no penalty, so that weight decay can take b1 and b0 to 0 and leave σ as it is.
    ExplicitLinear {
        /// c (C, K).
        coefficients: Tensor,
        /// b1·x + b0.
        linear: LinearTerm,
    },
    /// σ(x) = b1·x + b0 + Σ_k a_k·max(0, x − x_k) over the inner knots.
    ReluSpline {
        /// a (C, K−2); `slopes` in checkpoints.
        slope_changes: Tensor,
        /// b1·x + b0.
        linear: LinearTerm,
    },
}

/// A layer of learnable linear-spline activations: one function per channel of (N, C, H, W), or per unit of (N, C).
///
/// As a `candle_nn::Module` it works in any Candle network. Inputs have the type of the parameters; f16 and bf16 go with those in f32.
/// [`ChannelsLast`](super::ChannelsLast) is for channels in the last dimension.
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::Module;
/// use ds_core::{Grid, activation::{Init, Spline}};
/// let spline = Spline::bspline(16, Grid::from_range(51, 4.0)?, Init::LeakyRelu, DType::F32, &Device::Cpu)?;
/// let x = Tensor::randn(0f32, 1.0, (8, 16, 32, 32), &Device::Cpu)?;
/// let y = spline.forward(&x)?;
/// let gradients = y.sqr()?.mean_all()?.backward()?;
/// assert!(gradients.get(spline.knot_parameters()).is_some());
/// # Ok::<(), ds_core::Error>(())
/// ```
///
/// The distance of the knots is a tensor of the layer as its parameters are, shared by clones and `grid_step` in a `VarMap`. What is
/// loaded into the map moves the knots with their coefficients, and so does [`resample`](Self::resample) in the map.
#[derive(Debug, Clone)]
pub struct Spline {
    size: usize,
    /// The distance of the knots: one f64 on the CPU.
    step: Tensor,
    channels: usize,
    kind: Kind,
}

impl Spline {
    /// Splines given by their values at the knots.
    ///
    /// # Errors
    /// If there are no channels.
    pub fn bspline(channels: usize, grid: Grid, init: Init, dtype: DType, device: &Device) -> Result<Self> {
        check_channels(channels)?;
        let rows = init.coefficients(grid, channels, |_| (0.0, 0.0));
        let coefficients = new_variable(rows, &[channels, grid.size()], dtype, device)?;
        Self::from_parameters(grid, Kind::BSpline { coefficients })
    }

    /// Splines with a linear term of their own; with `fixed_bias` the offset b0 is not trained.
    ///
    /// # Errors
    /// If there are no channels.
    pub fn explicit_linear(
        channels: usize,
        grid: Grid,
        init: Init,
        fixed_bias: bool,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        check_channels(channels)?;
        let rows = init.coefficients(grid, channels, |channel| init.left_line(grid, channel, channels));
        let coefficients = new_variable(rows, &[channels, grid.size()], dtype, device)?;
        let linear = linear_term(channels, grid, init, fixed_bias, dtype, device)?;
        Self::from_parameters(grid, Kind::ExplicitLinear { coefficients, linear })
    }

    /// Splines given by their slope changes at the inner knots.
    ///
    /// # Errors
    /// If there are no channels, for shapes that a single slope change cannot give.
    pub fn relu_spline(
        channels: usize,
        grid: Grid,
        init: Init,
        fixed_bias: bool,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        check_channels(channels)?;
        let change = init.middle_slope_change()?;
        let (inner, middle) = (grid.size() - 2, grid.size() / 2 - 1);
        let rows = (0..channels * inner).map(|k| if k % inner == middle { change } else { 0.0 }).collect();
        let slope_changes = new_variable(rows, &[channels, inner], dtype, device)?;
        let linear = linear_term(channels, grid, init, fixed_bias, dtype, device)?;
        Self::from_parameters(grid, Kind::ReluSpline { slope_changes, linear })
    }

    /// Splines from parameters that are there already, such as those of a checkpoint.
    ///
    /// # Errors
    /// If the shapes do not fit the grid or each other.
    pub fn from_parameters(grid: Grid, kind: Kind) -> Result<Self> {
        let (rows, width, what) = match &kind {
            Kind::BSpline { coefficients } | Kind::ExplicitLinear { coefficients, .. } => {
                (coefficients, grid.size(), "coefficients")
            }
            Kind::ReluSpline { slope_changes, .. } => (slope_changes, grid.size() - 2, "slopes"),
        };
        let channels = rows.dims().first().copied().unwrap_or(0);
        check_channels(channels)?;
        check_shape(what, rows, &[channels, width])?;
        if let Kind::ExplicitLinear { linear, .. } | Kind::ReluSpline { linear, .. } = &kind {
            check_shape("b1", &linear.weight, &[channels])?;
            check_shape("b0", &linear.bias, &[channels])?;
            check_dtype("b1", linear.weight.dtype(), rows.dtype())?;
            check_dtype("b0", linear.bias.dtype(), rows.dtype())?;
        }
        check_is_real(what, rows.dtype())?;
        let step = new_variable(vec![grid.step()], &[], DType::F64, &Device::Cpu)?;
        Ok(Self { size: grid.size(), step, channels, kind })
    }

    /// The grid that all functions of the layer share.
    pub fn grid(&self) -> Grid {
        // One f64 on the CPU, as the constructors have it.
        Grid::unchecked(self.size, self.step.to_scalar().unwrap_or(f64::NAN))
    }

    /// The distance of the knots, as it stands in a map.
    pub(super) fn step(&self) -> &Tensor {
        &self.step
    }

    /// The same splines with another tensor for the distance of the knots.
    pub(super) fn with_step(self, step: &Tensor) -> Result<Self> {
        let step = step.to_dtype(DType::F64)?.to_device(&Device::Cpu)?;
        Grid::from_step(self.size, step.to_scalar()?)?;
        Ok(Self { step, ..self })
    }

    /// Moves the knots to `grid`, for this layer and its clones, and interpolates the coefficients there, in place: σ keeps its values
    /// at the new knots, and changes by the error of interpolation between them. Beyond them it goes on with its new last slopes. The
    /// linear term stays as it is.
    ///
    /// # Errors
    /// If `grid` has another number of knots, for a `ReluSpline`, which has no coefficients, for a frozen layer, or if the device
    /// fails.
    pub fn resample(&self, grid: Grid) -> Result<()> {
        if let Kind::ReluSpline { .. } = self.kind {
            return Err(Error::NoCoefficients("relu_spline"));
        }
        let (old, var) = (self.grid(), variable("coefficients", self.knot_parameters())?);
        let rows = in_double_precision(&var)?;
        let at = |c: &[f64], x: f64| {
            let (i, t) = old.locate(x);
            c[i] + t * (c[i + 1] - c[i])
        };
        let new: Vec<f64> = rows.chunks_exact(old.size()).flat_map(|c| grid.knots().map(|x| at(c, x))).collect();
        self.set_grid(grid)?;
        let new = Tensor::from_vec(new, var.shape(), &Device::Cpu)?;
        Ok(var.set(&new.to_dtype(var.dtype())?.to_device(var.device())?)?)
    }

    /// Moves the knots to `grid`, for this layer and its clones, and leaves the parameters as they are: for those of a file.
    ///
    /// # Errors
    /// If `grid` has another number of knots, or the layer is frozen.
    pub fn set_grid(&self, grid: Grid) -> Result<()> {
        if grid.size() != self.size {
            return Err(Error::KnotCount { got: grid.size(), expected: self.size });
        }
        Ok(variable(GRID_STEP, &self.step)?.set(&Tensor::new(grid.step(), &Device::Cpu)?)?)
    }

    /// The number of functions.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The parametrisation.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The parameters that belong to knots: coefficients (C, K), or slopes (C, K−2) of a `ReluSpline`.
    pub fn knot_parameters(&self) -> &Tensor {
        match &self.kind {
            Kind::BSpline { coefficients } | Kind::ExplicitLinear { coefficients, .. } => coefficients,
            Kind::ReluSpline { slope_changes, .. } => slope_changes,
        }
    }

    /// The name of [`knot_parameters`](Self::knot_parameters) in checkpoints, below that of the layer.
    pub fn knot_parameters_name(&self) -> &'static str {
        match &self.kind {
            Kind::BSpline { .. } | Kind::ExplicitLinear { .. } => "coefficients",
            Kind::ReluSpline { .. } => "slopes",
        }
    }

    /// The linear term, if the parametrisation has one.
    pub fn linear_term(&self) -> Option<&LinearTerm> {
        match &self.kind {
            Kind::BSpline { .. } => None,
            Kind::ExplicitLinear { linear, .. } | Kind::ReluSpline { linear, .. } => Some(linear),
        }
    }

    /// The trainable parameters, all in the group of the splines.
    pub fn parameters(&self, prefix: &str) -> Vec<Parameter> {
        let name = format!("{prefix}.{}", self.knot_parameters_name());
        let knots = Parameter::of(name, self.knot_parameters(), Group::Splines, L2::Exempt);
        knots.into_iter().chain(self.linear_term().into_iter().flat_map(|linear| linear.parameters(prefix))).collect()
    }

    /// The values at the knots (C, K) of the whole function, the linear term included, in a graph.
    ///
    /// # Errors
    /// If the distance of the knots, which may have been loaded, is not a positive finite number.
    pub fn coefficients_in<G: Graph>(&self, graph: &mut G) -> candle_core::Result<G::Value> {
        let grid = Grid::from_step(self.size, self.grid().step())?;
        match &self.kind {
            Kind::BSpline { coefficients } => Ok(graph.parameter(coefficients)),
            Kind::ExplicitLinear { coefficients, linear } => {
                let (b1, b0) = linear.values(graph);
                let c = graph.parameter(coefficients);
                graph.apply(AddLinearTerm { grid }, [&c, &b1, &b0])
            }
            Kind::ReluSpline { slope_changes, linear } => {
                let (b1, b0) = linear.values(graph);
                let a = graph.parameter(slope_changes);
                graph.apply(SumOfRelus { grid }, [&a, &b1, &b0])
            }
        }
    }

    /// The values at the knots (C, K) of the whole function.
    pub fn coefficients(&self) -> candle_core::Result<Tensor> {
        self.coefficients_in(&mut CandleGraph)
    }

    /// σ(x) for x (N, C, …), in a graph.
    ///
    /// # Errors
    /// If x does not have this layer's channels.
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value) -> candle_core::Result<G::Value> {
        let c = self.coefficients_in(graph)?;
        let y = graph.apply(LinearSpline::new(self.grid()), [x, &c])?;
        graph.forward_hook(self.grid(), x, y)
    }
}

fn check_channels(channels: usize) -> Result<()> {
    if channels == 0 { Err(Error::Empty("the number of channels")) } else { Ok(()) }
}

fn check_shape(what: &'static str, tensor: &Tensor, expected: &[usize]) -> Result<()> {
    if tensor.dims() == expected {
        return Ok(());
    }
    Err(Error::Shape { what, got: tensor.shape().clone(), expected: expected.into() })
}

fn check_dtype(what: &str, got: DType, expected: DType) -> candle_core::Result<()> {
    if got != expected {
        candle_core::bail!("{what} in {}, but the knots' parameters are in {}", got.as_str(), expected.as_str());
    }
    Ok(())
}

fn linear_term(
    channels: usize,
    grid: Grid,
    init: Init,
    fixed_bias: bool,
    dtype: DType,
    device: &Device,
) -> Result<LinearTerm> {
    let (b1, b0) = (0..channels).map(|channel| init.left_line(grid, channel, channels)).unzip();
    Ok(LinearTerm {
        weight: new_variable(b1, &[channels], dtype, device)?,
        bias: new_variable(b0, &[channels], dtype, device)?,
        fixed_bias,
    })
}
