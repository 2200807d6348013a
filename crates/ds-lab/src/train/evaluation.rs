//! Loss, accuracy and knots of a network as it is.

use super::on_device::evaluate_on_device;
use crate::interrupt;
use crate::samples::Samples;
use crate::samples_on_device::SamplesOnDevice;
use candle_core::DType;
use ds_core::activation::Activation;
use ds_core::graph::Graph;
use ds_core::regularization::active_knots;
use ds_nn::layers::Mode;
use ds_nn::networks::Network;
use ds_nn::tape::Tape;

/// Loss and accuracy over a data set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Mean loss.
    pub loss: f64,
    /// Right answers in percent, where that has a meaning.
    pub accuracy: Option<f64>,
}

pub(super) fn evaluation(samples: &Samples, loss_sum: f64, correct: usize) -> Evaluation {
    let n = samples.len().max(1) as f64;
    let accuracy = samples.has_accuracy().then(|| 100.0 * correct as f64 / n);
    Evaluation { loss: loss_sum / n, accuracy }
}

/// Loss and accuracy of the network over samples, in evaluation mode.
///
/// # Errors
/// On Candle's errors, or if a signal was received.
pub fn evaluate(network: &Network, samples: &Samples) -> candle_core::Result<Evaluation> {
    let device = network.device();
    if !device.is_cpu() {
        let samples_there = SamplesOnDevice::new(samples, DType::F32, &device)?;
        let (loss_sum, correct) = evaluate_on_device(network, &samples_there, None)?;
        return Ok(evaluation(samples, loss_sum, correct));
    }
    let batch_size = if matches!(samples, Samples::Images { .. }) { 256 } else { 4096 };
    let indices: Vec<usize> = (0..samples.len()).collect();
    let (mut loss_sum, mut correct) = (0.0, 0);
    for indices in indices.chunks(batch_size) {
        interrupt::check().map_err(candle_core::Error::wrap)?;
        let batch = samples.batch(indices)?;
        let mut tape = Tape::inference();
        let x = tape.constant(&batch.inputs);
        let output = network.forward_in(&mut tape, &x, Mode::Evaluation)?;
        let loss = batch.targets.loss_in(&mut tape, &output)?;
        loss_sum += tape.tensor(&loss).to_dtype(DType::F64)?.to_scalar::<f64>()? * indices.len() as f64;
        correct += batch.targets.correct(tape.tensor(&output))?;
    }
    Ok(evaluation(samples, loss_sum, correct))
}

/// The knots with a slope change above 0, over all splines of the network; `None` if it has none.
///
/// # Errors
/// On Candle's errors.
pub fn count_active_knots(network: &Network) -> candle_core::Result<Option<usize>> {
    let mut count = None;
    for activation in network.activations() {
        let active = match activation {
            Activation::Spline(spline) => active_knots(spline, 0.0)?,
            Activation::Lipschitz(spline) => spline.active_knots(0.0)?,
            _ => continue,
        };
        *count.get_or_insert(0) += active.iter().sum::<usize>();
    }
    Ok(count)
}

/// The knots that can be active, over all splines of the network.
pub fn count_knots(network: &Network) -> usize {
    let inner = |activation: &Activation| match activation {
        Activation::Spline(spline) => spline.channels() * (spline.grid().size() - 2),
        Activation::Lipschitz(spline) => spline.channels() * (spline.size() - 2),
        _ => 0,
    };
    network.activations().into_iter().map(inner).sum()
}
