//! Knots that pruning has kept, and training that leaves them where they are.

use super::layer::Layer;
use crate::Result;
use crate::graph::Gradients;
use candle_core::{DType, Device, Tensor, Var};

/// The knots of pruned splines. Training on with them fixed takes two calls around each step of the optimiser:
/// [`restrict`](Self::restrict) the gradients, and [`straighten`](Self::straighten) the functions.
#[derive(Debug)]
pub struct KeptKnots {
    layers: Vec<Kept>,
}

#[derive(Debug)]
struct Kept {
    layer: Layer,
    /// The kept knots of each function.
    knots: Vec<Vec<usize>>,
    between: Between,
}

/// How a row of parameters follows from those of its kept knots.
#[derive(Debug)]
enum Between {
    /// Slope changes: 1 where a knot is kept, 0 elsewhere.
    Mask(Tensor),
    /// Values: (1 − t)·c_left + t·c_right, with the nodes left and right of each index.
    Nodes { left: Tensor, right: Tensor, t: Tensor, rest: Tensor },
}

impl KeptKnots {
    pub(super) fn new(layers: Vec<(Layer, Vec<Vec<usize>>)>) -> Result<Self> {
        let kept = |(layer, knots): (Layer, Vec<Vec<usize>>)| {
            let between = Between::new(&layer.knots, layer.has_slope_changes(), &knots)?;
            Ok(Kept { layer, knots, between })
        };
        Ok(Self { layers: layers.into_iter().map(kept).collect::<Result<_>>()? })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.layers.iter().flat_map(|layer| &layer.knots).map(Vec::len).sum()
    }

    /// How many each function has, layer by layer.
    pub fn counts(&self) -> Vec<Vec<usize>> {
        self.layers.iter().map(|layer| layer.knots.iter().map(Vec::len).collect()).collect()
    }

    /// Turns the gradients of all coefficients into those of functions with these knots: that of a node has a part of the gradients
    /// between it and the next one.
    ///
    /// # Errors
    /// If the device fails.
    pub fn restrict(&self, gradients: &mut impl Gradients) -> Result<()> {
        for Kept { layer, between, .. } in &self.layers {
            let parameter = &layer.knots;
            if let Some(gradient) = gradients.gradient(parameter) {
                let restricted = between.restrict(gradient)?;
                gradients.set_gradient(parameter, restricted);
            }
        }
        Ok(())
    }

    /// Makes the functions straight between their nodes, to rounding.
    ///
    /// # Errors
    /// If the device fails.
    pub fn straighten(&self) -> Result<()> {
        for Kept { layer, between, .. } in &self.layers {
            between.straighten(&layer.knots)?;
        }
        Ok(())
    }

    /// Makes the functions straight between their nodes, exactly; returns how many knots are left where a slope change is 0 now.
    ///
    /// # Errors
    /// If the device fails.
    pub fn write_exactly(&self) -> Result<usize> {
        let mut left = 0;
        for Kept { layer, knots, .. } in &self.layers {
            let values = layer.functions()?;
            let functions: Vec<(Vec<usize>, Vec<f64>)> = knots
                .iter()
                .zip(values)
                .map(|(knots, (values, _))| {
                    let nodes: Vec<usize> =
                        std::iter::once(0).chain(knots.iter().copied()).chain([values.len() - 1]).collect();
                    let of_nodes = nodes.iter().map(|&node| values[node]).collect();
                    (nodes, of_nodes)
                })
                .collect();
            left += layer.write(&functions)?.iter().map(Vec::len).sum::<usize>();
        }
        Ok(left)
    }
}

impl Between {
    fn new(parameter: &Var, of_slope_changes: bool, knots: &[Vec<usize>]) -> Result<Self> {
        let (shape, device) = (parameter.shape(), parameter.device());
        let (_, width) = parameter.dims2()?;
        let tensor = |values: Vec<f64>| -> Result<Tensor> {
            Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(parameter.dtype())?.to_device(device)?)
        };
        if of_slope_changes {
            let mut mask = vec![0.0; shape.elem_count()];
            for (row, knots) in mask.chunks_exact_mut(width).zip(knots) {
                knots.iter().for_each(|&knot| row[knot - 1] = 1.0);
            }
            return Ok(Self::Mask(tensor(mask)?));
        }
        let (mut left, mut right, mut t) = (Vec::new(), Vec::new(), Vec::new());
        for knots in knots {
            let mut from = 0;
            for to in knots.iter().copied().chain([width - 1]) {
                // The last index belongs to the last segment.
                let end = if to == width - 1 { width } else { to };
                for k in from..end {
                    left.push(from as u32);
                    right.push(to as u32);
                    t.push((k - from) as f64 / (to - from) as f64);
                }
                from = to;
            }
        }
        let rest = tensor(t.iter().map(|t| 1.0 - t).collect())?;
        let indices = |values: Vec<u32>| Tensor::from_vec(values, shape, &Device::Cpu)?.to_device(device);
        Ok(Self::Nodes { left: indices(left)?, right: indices(right)?, t: tensor(t)?, rest })
    }

    fn restrict(&self, gradient: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Mask(mask) => gradient.mul(mask)?,
            Self::Nodes { left, right, t, rest } => {
                let of_left = gradient.zeros_like()?.scatter_add(left, &gradient.mul(rest)?, 1)?;
                of_left.scatter_add(right, &gradient.mul(t)?, 1)?
            }
        })
    }

    fn straighten(&self, parameter: &Var) -> Result<()> {
        let values = parameter.as_detached_tensor();
        let straight = match self {
            Self::Mask(mask) => values.mul(mask)?,
            Self::Nodes { left, right, t, rest } => {
                (values.gather(left, 1)?.mul(rest)? + values.gather(right, 1)?.mul(t)?)?
            }
        };
        debug_assert!(matches!(straight.dtype(), DType::F32 | DType::F64));
        Ok(parameter.set(&straight)?)
    }
}
