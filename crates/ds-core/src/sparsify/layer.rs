//! The functions of a layer by index, and how functions of few knots are written into its parameters.

use super::exact::{Polyline, second_difference, unit_of, write};
use crate::activation::{Activation, Kind, LipschitzSpline, Spline};
use crate::backend::pointwise::tensor_of;
use crate::backend::real::{Real, in_double_precision};
use crate::parameter::variable;
use crate::{Grid, Result, dispatch_real};
use candle_core::{DType, Device, Tensor, Var};

/// A spline layer, with its parameters as they were.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub grid: Grid,
    pub channels: usize,
    kind: LayerKind,
    /// The parameter with a row of K values, or K − 2 slope changes, for each function.
    pub knots: Var,
    saved: Vec<(Var, Tensor)>,
}

#[derive(Debug, Clone)]
enum LayerKind {
    Spline(Spline),
    Lipschitz(LipschitzSpline),
}

impl Layer {
    /// The layer of an activation; `None` if that is no spline. A frozen one is an error.
    pub fn of(activation: &Activation) -> Result<Option<Self>> {
        let (kind, grid, channels, knots) = match activation {
            Activation::Spline(spline) => {
                let knots = variable(spline.knot_parameters_name(), spline.knot_parameters())?;
                (LayerKind::Spline(spline.clone()), spline.grid(), spline.channels(), knots)
            }
            Activation::Lipschitz(spline) => {
                let knots = variable("coefficients", spline.coefficients())?;
                (LayerKind::Lipschitz(spline.clone()), spline.grid(), spline.channels(), knots)
            }
            _ => return Ok(None),
        };
        let mut saved = Vec::new();
        activation.map_tensors(&mut |name, tensor| {
            saved.push((variable(name, tensor)?, tensor.detach().copy()?));
            Ok(tensor.clone())
        })?;
        Ok(Some(Self { grid, channels, kind, knots, saved }))
    }

    /// Puts back the parameters.
    pub fn restore(&self) -> Result<()> {
        Ok(self.saved.iter().try_for_each(|(var, saved)| var.set(saved))?)
    }

    /// The values of each function at its knots, and what they are multiplied with in the layer's output.
    pub fn functions(&self) -> Result<Vec<(Vec<f64>, f64)>> {
        let rows = |values: Vec<f64>, width: usize| values.chunks_exact(width).map(<[f64]>::to_vec).collect::<Vec<_>>();
        Ok(match &self.kind {
            LayerKind::Spline(spline) => {
                let values = in_double_precision(&spline.to(DType::F64, &Device::Cpu)?.coefficients()?)?;
                rows(values, self.grid.size()).into_iter().map(|row| (row, 1.0)).collect()
            }
            LayerKind::Lipschitz(spline) => {
                let values = in_double_precision(&spline.to(DType::F64, &Device::Cpu)?.projected_coefficients()?)?;
                let rows = rows(values, spline.size()).into_iter().zip(spline.scaling()?);
                rows.map(|(row, alpha)| (row.into_iter().map(|c| alpha * c).collect(), 1.0 / alpha)).collect()
            }
        })
    }

    /// The most by which a function may rise or fall from one index to the next.
    pub fn limit(&self) -> Option<f64> {
        match &self.kind {
            LayerKind::Spline(_) => None,
            LayerKind::Lipschitz(spline) => Some(spline.step()),
        }
    }

    /// Whether rows are slope changes, and no values.
    pub fn has_slope_changes(&self) -> bool {
        matches!(&self.kind, LayerKind::Spline(spline) if matches!(spline.kind(), Kind::ReluSpline { .. }))
    }

    /// Writes functions by their nodes and the values there; returns the nodes that still bend after rounding.
    pub fn write(&self, functions: &[(Vec<usize>, Vec<f64>)]) -> Result<Vec<Vec<usize>>> {
        match &self.kind {
            LayerKind::Lipschitz(spline) => self.write_values(spline.size(), functions, |_| (0.0, 0.0)),
            LayerKind::Spline(spline) => match spline.kind() {
                Kind::BSpline { .. } => self.write_values(self.grid.size(), functions, |_| (0.0, 0.0)),
                Kind::ExplicitLinear { linear, .. } => {
                    // The coefficients are beside the line, which stays as it is.
                    let (b1, b0) = (in_double_precision(&linear.weight)?, in_double_precision(&linear.bias)?);
                    self.write_values(self.grid.size(), functions, |channel| (b1[channel], b0[channel]))
                }
                Kind::ReluSpline { linear, .. } => self.write_slope_changes(&linear.weight, &linear.bias, functions),
            },
        }
    }

    /// Writes the functions less a line each, in multiples of a power of two.
    fn write_values(
        &self,
        size: usize,
        functions: &[(Vec<usize>, Vec<f64>)],
        line: impl Fn(usize) -> (f64, f64),
    ) -> Result<Vec<Vec<usize>>> {
        let var = &self.knots;
        let (rows, kept) = dispatch_real!(var.dtype(), "prune", T => {
            let mut rows = vec![T::ZERO; self.channels * size];
            let mut kept = Vec::with_capacity(functions.len());
            for (channel, (row, (nodes, values))) in rows.chunks_exact_mut(size).zip(functions).enumerate() {
                let (b1, b0) = line(channel);
                let of_line = |node: usize| b1 * self.grid.knot(node) + b0;
                let values: Vec<f64> = nodes.iter().zip(values).map(|(&node, value)| value - of_line(node)).collect();
                write_row(row, nodes, &values, self.limit());
                let is_knot = |&node: &usize| {
                    let around: Vec<f64> = row[node - 1..=node + 1].iter().map(|c| c.to_f64()).collect();
                    second_difference(&around) != 0.0
                };
                kept.push(nodes[1..nodes.len() - 1].iter().copied().filter(is_knot).collect());
            }
            Ok::<_, candle_core::Error>((tensor_of(rows, var.shape()), kept))
        })?;
        var.set(&rows.to_device(var.device())?)?;
        Ok(kept)
    }

    /// Writes the functions as a line and slope changes.
    fn write_slope_changes(
        &self,
        b1: &Tensor,
        b0: &Tensor,
        functions: &[(Vec<usize>, Vec<f64>)],
    ) -> Result<Vec<Vec<usize>>> {
        // In f64 the fit loses some digits.
        let epsilon = if self.knots.dtype() == DType::F32 { f64::from(f32::EPSILON) } else { 1e-10 };
        let inner = self.grid.size() - 2;
        let (mut changes, mut weights, mut biases) = (vec![0.0; self.channels * inner], Vec::new(), Vec::new());
        for (row, (nodes, values)) in changes.chunks_exact_mut(inner).zip(functions) {
            let slopes: Vec<f64> = nodes
                .windows(2)
                .zip(values.windows(2))
                .map(|(n, v)| (v[1] - v[0]) / ((n[1] - n[0]) as f64 * self.grid.step()))
                .collect();
            // The rounding of the values that were fitted is no knot.
            let largest = values.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
            let rounding = epsilon * largest / self.grid.step();
            for (&node, slopes) in nodes[1..].iter().zip(slopes.windows(2)) {
                let change = slopes[1] - slopes[0];
                row[node - 1] = if change.abs() <= rounding { 0.0 } else { change };
            }
            weights.push(slopes[0]);
            biases.push(values[0] - slopes[0] * self.grid.knot(0));
        }
        let set = |var: &Var, values: Vec<f64>| -> candle_core::Result<()> {
            var.set(
                &Tensor::from_vec(values, var.shape(), &Device::Cpu)?.to_dtype(var.dtype())?.to_device(var.device())?,
            )
        };
        let is_knot = |row: &[f64], node: usize| row[node - 1] != 0.0;
        let kept = changes.chunks_exact(inner).zip(functions).map(|(row, (nodes, _))| {
            nodes[1..nodes.len() - 1].iter().copied().filter(|&node| is_knot(row, node)).collect()
        });
        let kept = kept.collect();
        set(&self.knots, changes)?;
        set(&variable("b1", b1)?, weights)?;
        set(&variable("b0", b0)?, biases)?;
        Ok(kept)
    }
}

/// Writes a row of values that is straight between nodes.
fn write_row<T: Real>(row: &mut [T], nodes: &[usize], values: &[f64], limit: Option<f64>) {
    // A function that has diverged stays so, as with thresholds.
    if values.iter().any(|value| !value.is_finite()) {
        return row.fill(T::from_f64(f64::NAN));
    }
    let Some(unit) = unit_of::<T>(values) else { return row.fill(T::ZERO) };
    let (mut all, mut rises) = (vec![values[0]], Vec::new());
    for (nodes, values) in nodes.windows(2).zip(values.windows(2)) {
        let rise = (values[1] - values[0]) / (nodes[1] - nodes[0]) as f64;
        for k in nodes[0]..nodes[1] {
            rises.push(rise);
            all.push(values[0] + rise * (k + 1 - nodes[0]) as f64);
        }
    }
    let most = limit.map_or(f64::INFINITY, |limit| (limit / unit).floor());
    let function = Polyline { values: &all, rises: &rises, knots: &nodes[1..nodes.len() - 1] };
    write(row, &function, unit, |_, wanted, _| wanted.round().clamp(-most, most));
}
