//! The fit of a function of one variable, its knots, and its error.

use super::axes::{Axis, Entry, LARGE, Mark, Panel, legend};
use super::canvas::{Anchor, Canvas, Figure};
use super::functions::Layer;
use super::palette::GREY;
use crate::data::Target;
use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use ds_core::graph::CandleGraph;
use ds_nn::Network;
use ds_nn::layers::Mode;
use plotters::backend::DrawingBackend;
use plotters::style::RGBColor;

/// A fit on [−1, 1].
#[derive(Debug, Clone)]
pub struct Fit {
    /// What is shown.
    pub title: String,
    /// The colour of the activation.
    pub colour: RGBColor,
    /// (x, value of the function, value of the fit), ascending in x.
    samples: Vec<(f64, f64, f64)>,
    /// The active knots, and the values there; none if the network has no spline.
    knots: Vec<(f64, f64)>,
}

const SAMPLES: usize = 601;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 682.0;

impl Fit {
    /// What the network makes of the target.
    ///
    /// # Errors
    /// If the network does not take numbers.
    pub fn of(title: String, colour: RGBColor, target: Target, network: &Network) -> Result<Self> {
        let x: Vec<f64> = (0..SAMPLES).map(|k| 2.0 * k as f64 / (SAMPLES - 1) as f64 - 1.0).collect();
        let inputs = Tensor::new(x.as_slice(), &Device::Cpu)?.to_dtype(DType::F32)?.unsqueeze(1)?;
        let output = network.forward_in(&mut CandleGraph, &inputs, Mode::Evaluation)?;
        let output: Vec<f64> = output.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?;
        let samples = x.iter().zip(output).map(|(&x, y)| (x, target.value(x), y)).collect();
        let knots = match network.splines().first() {
            Some(spline) => Layer::of(spline)?.knots(0).filter(|(x, _)| x.abs() <= 1.0).collect(),
            None => Vec::new(),
        };
        Ok(Self { title, colour, samples, knots })
    }

    /// The largest and the root of the mean squared distance from the function.
    pub fn errors(&self) -> (f64, f64) {
        let errors = || self.samples.iter().map(|(_, target, fit)| (fit - target).abs());
        let squares: f64 = errors().map(|e| e * e).sum();
        (errors().fold(0.0, f64::max), (squares / self.samples.len() as f64).sqrt())
    }
}

impl Figure for Fit {
    fn size(&self) -> (u32, u32) {
        (700, 500)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &mut Canvas<B>) -> Result<()> {
        canvas.text(&self.title, (16.0, 18.0), LARGE, Anchor::Left)?;
        let mut entries: Vec<Entry> = vec![
            ("function".to_owned(), super::palette::tint(GREY, 0.5), Mark::Line(5.0)),
            ("fit".to_owned(), self.colour, Mark::Line(1.75)),
        ];
        if !self.knots.is_empty() {
            entries.push((format!("{} active knots", self.knots.len()), self.colour, Mark::Dot));
        }
        legend(canvas, &entries, (16.0, RIGHT), 32.0)?;
        let values = self.samples.iter().flat_map(|(_, target, fit)| [*target, *fit]);
        let everything = (f64::NEG_INFINITY, f64::INFINITY);
        let mut x = Axis::linear("", (-1.0, 1.0), 10);
        let upper =
            Panel { area: [LEFT, 62.0, RIGHT, 302.0], x: x.clone(), y: Axis::around("value", values, everything, 5) };
        upper.draw_grid(canvas)?;
        let target = upper.all(self.samples.iter().map(|(x, target, _)| (*x, *target)));
        canvas.line(&target, super::palette::tint(GREY, 0.5), 5.0)?;
        canvas.line(&upper.all(self.samples.iter().map(|(x, _, fit)| (*x, *fit))), self.colour, 1.75)?;
        for place in upper.all(self.knots.iter().copied()) {
            canvas.dot(place, 3.0, self.colour)?;
        }
        upper.draw_frame(canvas)?;
        x.label = "x".to_owned();
        let errors = || self.samples.iter().map(|(x, target, fit)| (*x, fit - target));
        let y = Axis::around("fit − function", errors().map(|(_, e)| e).chain([0.0]), everything, 4);
        let lower = Panel { area: [LEFT, 330.0, RIGHT, 450.0], x, y };
        lower.draw_grid(canvas)?;
        canvas.line(&lower.all([(-1.0, 0.0), (1.0, 0.0)]), GREY, 1.0)?;
        canvas.line(&lower.all(errors()), self.colour, 1.5)?;
        lower.draw_frame(canvas)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::results::plot::to_svg;
    use ds_core::activation::{ActivationConfig, ActivationKind, Init};

    #[test]
    fn a_relu_is_half_of_the_absolute_value() {
        let network =
            ds_nn::networks::scalar(ActivationConfig::spline(ActivationKind::BSpline, 5, 1.0, Init::Relu)).unwrap();
        let colour = super::super::palette::activation("bspline");
        let fit = Fit::of("made up".to_owned(), colour, Target::Absolute, &network).unwrap();
        let (largest, mean) = fit.errors();
        // |x| − max(0, x) is −x on the left half: its mean square is 1/6.
        assert!((largest - 1.0).abs() < 1e-6 && (mean - (1.0f64 / 6.0).sqrt()).abs() < 1e-3, "{largest} {mean}");
        assert_eq!(fit.knots, [(0.0, 0.0)]);
        let svg = to_svg(&fit).unwrap();
        assert_eq!(svg.matches("<circle").count(), 2);
        // The fit in the legend, the fit, and its error.
        assert_eq!(svg.matches("stroke=\"#0072B2\"").count(), 3);
        assert!(svg.contains("1 active knots"));
    }
}
