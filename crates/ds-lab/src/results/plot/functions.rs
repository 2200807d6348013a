//! The functions of a spline layer as they are drawn: values at the knots, and which knots are active.

use anyhow::Result;
use candle_core::DType;
use ds_core::Grid;
use ds_core::activation::Spline;
use ds_core::regularization::significant_knot_indices;

/// The functions of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// The knots.
    pub grid: Grid,
    /// The values at the knots, K a function.
    pub values: Vec<Vec<f64>>,
    /// The indices of the knots with a slope change, for each function.
    pub active: Vec<Vec<usize>>,
}

impl Layer {
    /// The functions of a spline as they are now. A knot is active if its slope change is above the rounding of the stored parameters.
    pub fn of(spline: &Spline) -> Result<Self> {
        let values = spline.coefficients()?.to_dtype(DType::F64)?.to_vec2()?;
        Ok(Self { grid: spline.grid(), values, active: significant_knot_indices(spline)? })
    }

    /// Function `channel` at `x`.
    pub fn value(&self, channel: usize, x: f64) -> f64 {
        let (k, t) = self.grid.locate(x);
        let c = &self.values[channel];
        c[k] + t * (c[k + 1] - c[k])
    }

    /// The end of the knots.
    pub fn range(&self) -> f64 {
        self.grid.knot(self.grid.size() - 1)
    }

    /// The function on [−end, end] as a line through all its knots.
    pub fn path(&self, channel: usize, end: f64) -> Vec<(f64, f64)> {
        let knots = self.grid.knots().filter(|x| x.abs() < end);
        std::iter::once(-end).chain(knots).chain([end]).map(|x| (x, self.value(channel, x))).collect()
    }

    /// The active knots of a function, with its values there.
    pub fn knots(&self, channel: usize) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.active[channel].iter().map(move |&k| (self.grid.knot(k), self.values[channel][k]))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use candle_core::Device;
    use ds_core::activation::Init;

    #[test]
    fn the_knot_of_a_relu_is_active_in_all_forms() {
        let grid = Grid::from_step(7, 0.5).unwrap();
        let (dtype, device) = (DType::F32, &Device::Cpu);
        let splines = [
            Spline::bspline(2, grid, Init::Relu, dtype, device).unwrap(),
            Spline::explicit_linear(2, grid, Init::Relu, false, dtype, device).unwrap(),
            Spline::relu_spline(2, grid, Init::Relu, false, dtype, device).unwrap(),
        ];
        for spline in &splines {
            let layer = Layer::of(spline).unwrap();
            assert_eq!(layer.active, [[3], [3]]);
            assert_eq!((layer.range(), layer.value(1, 2.0), layer.value(1, -2.0)), (1.5, 2.0, 0.0));
            assert_eq!(layer.knots(0).collect::<Vec<_>>(), [(0.0, 0.0)]);
            assert_eq!(layer.path(0, 1.8).len(), 9);
        }
    }

    #[test]
    fn the_rounding_of_a_straight_line_is_no_knot() {
        let grid = Grid::from_step(21, 0.1).unwrap();
        let spline = Spline::bspline(1, grid, Init::Identity, DType::F32, &Device::Cpu).unwrap();
        let line: Vec<f64> = spline.coefficients().unwrap().to_dtype(DType::F64).unwrap().to_vec2().unwrap().remove(0);
        assert!(line.windows(3).any(|c| (c[2] - c[1]) - (c[1] - c[0]) != 0.0));
        assert_eq!(Layer::of(&spline).unwrap().active, [Vec::<usize>::new()]);
    }
}
