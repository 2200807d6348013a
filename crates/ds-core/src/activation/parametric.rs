//! The parametric activations that splines are compared with, and their 1-Lipschitz relatives.

use crate::graph::Graph;
use crate::ops::clip::UnitClip;
use crate::ops::hinges::Hinges;
use crate::ops::pairs;
use crate::ops::rectifier::ChannelRectifier;
use crate::parameter::{Group, L2, Parameter, new_variable};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};

/// x for x > 0, a_c·x elsewhere, with one learned a_c per channel (He et al. 2015); a starts at 0.25.
#[derive(Debug, Clone)]
pub struct PRelu {
    /// a (C).
    pub slopes: Tensor,
}

impl PRelu {
    /// The slope before training.
    pub const INITIAL_SLOPE: f64 = 0.25;

    /// # Errors
    /// If there are no channels.
    pub fn new(channels: usize, dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self { slopes: one_each(Self::INITIAL_SLOPE, channels, dtype, device)? })
    }

    /// σ(x) for x (N, C, …), in a graph.
    ///
    /// # Errors
    /// If x does not have this layer's channels.
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value) -> candle_core::Result<G::Value> {
        let slopes = graph.parameter(&self.slopes);
        graph.apply(ChannelRectifier, [x, &slopes])
    }

    /// The slopes.
    pub fn parameters(&self, prefix: &str) -> Vec<Parameter> {
        Vec::from_iter(Parameter::of(format!("{prefix}.slopes"), &self.slopes, Group::Weights, L2::Exempt))
    }
}

/// max(0, x) + Σ_s a_s·max(0, b_s − x), with S learned hinges per channel (Agostinelli et al. 2015).
///
/// Before training it is LeakyReLU(0.01) for S = 1; with more hinges the offsets b are spread over [−1, 1], so that the
/// hinges do not all learn the same.
#[derive(Debug, Clone)]
pub struct Apl {
    /// a (C, S).
    pub slopes: Tensor,
    /// b (C, S).
    pub offsets: Tensor,
}

impl Apl {
    /// # Errors
    /// If there are no channels or no hinges.
    pub fn new(channels: usize, hinges: usize, dtype: DType, device: &Device) -> Result<Self> {
        if channels == 0 {
            return Err(Error::Empty("the number of channels"));
        }
        if hinges == 0 {
            return Err(Error::Empty("the number of hinges"));
        }
        let offset = |s: usize| if hinges == 1 { 0.0 } else { 2.0 * s as f64 / (hinges - 1) as f64 - 1.0 };
        let offsets: Vec<f64> = (0..channels * hinges).map(|k| offset(k % hinges)).collect();
        let slopes = vec![-0.01 / hinges as f64; channels * hinges];
        let new = |data| new_variable(data, &[channels, hinges], dtype, device);
        Ok(Self { slopes: new(slopes)?, offsets: new(offsets)? })
    }

    /// σ(x) for x (N, C, …), in a graph.
    ///
    /// # Errors
    /// If x does not have this layer's channels.
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value) -> candle_core::Result<G::Value> {
        let (a, b) = (graph.parameter(&self.slopes), graph.parameter(&self.offsets));
        graph.apply(Hinges, [x, &a, &b])
    }

    /// The slopes and offsets.
    pub fn parameters(&self, prefix: &str) -> Vec<Parameter> {
        let all = [("slopes", &self.slopes), ("offsets", &self.offsets)];
        let of = |(name, tensor)| Parameter::of(format!("{prefix}.{name}"), tensor, Group::Weights, L2::Hinges);
        all.into_iter().filter_map(of).collect()
    }
}

/// PReLU with its slopes clipped to [−1, 1], which makes it 1-Lipschitz; a starts at 0.25.
#[derive(Debug, Clone)]
pub struct ClippedPRelu {
    /// a (C), before clipping.
    pub slopes: Tensor,
}

impl ClippedPRelu {
    /// # Errors
    /// If there are no channels.
    pub fn new(channels: usize, dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self { slopes: one_each(PRelu::INITIAL_SLOPE, channels, dtype, device)? })
    }

    /// σ(x) for x (N, C, …), in a graph.
    ///
    /// # Errors
    /// If x does not have this layer's channels.
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value) -> candle_core::Result<G::Value> {
        let slopes = graph.parameter(&self.slopes);
        let slopes = graph.apply(UnitClip, [&slopes])?;
        graph.apply(ChannelRectifier, [x, &slopes])
    }

    /// The slopes.
    pub fn parameters(&self, prefix: &str) -> Vec<Parameter> {
        Vec::from_iter(Parameter::of(format!("{prefix}.slopes"), &self.slopes, Group::Weights, L2::Exempt))
    }
}

/// Pairs of channels, each reflected on one side of a line through 0 at a learned angle θ/2 (Singla, Singla, Feizi 2021); θ
/// starts at π/2, which is MaxMin.
#[derive(Debug, Clone)]
pub struct Householder {
    /// θ (C/2).
    pub angles: Tensor,
}

impl Householder {
    /// # Errors
    /// If there are no channels or their number is odd.
    pub fn new(channels: usize, dtype: DType, device: &Device) -> Result<Self> {
        if !channels.is_multiple_of(2) {
            return Err(Error::OddChannels { kind: "householder", channels });
        }
        Ok(Self { angles: one_each(std::f64::consts::FRAC_PI_2, channels / 2, dtype, device)? })
    }

    /// σ(x) for x (N, C, …), in a graph.
    ///
    /// # Errors
    /// If x does not have this layer's channels.
    pub fn forward_in<G: Graph>(&self, graph: &mut G, x: &G::Value) -> candle_core::Result<G::Value> {
        let angles = graph.parameter(&self.angles);
        graph.apply(pairs::Householder, [x, &angles])
    }

    /// The angles.
    pub fn parameters(&self, prefix: &str) -> Vec<Parameter> {
        Vec::from_iter(Parameter::of(format!("{prefix}.angles"), &self.angles, Group::Weights, L2::Exempt))
    }
}

fn one_each(value: f64, channels: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    if channels == 0 {
        return Err(Error::Empty("the number of channels"));
    }
    new_variable(vec![value; channels], &[channels], dtype, device)
}
