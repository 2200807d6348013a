//! Loss, accuracy and knots of a network as it is.

use super::replica::Replica;
use super::step::Model;
use crate::data::Samples;
use crate::interrupt;
use candle_core::{DType, Result, Tensor};
use ds_core::activation::Activation;
use ds_core::graph::Graph;
use ds_core::regularization::significant_knots;
use ds_nn::Network;
use ds_nn::layers::Mode;
use ds_nn::ops::loss::take_totals;
use ds_nn::tape::Tape;

/// Loss and accuracy over a data set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Mean loss.
    pub loss: f64,
    /// Correct predictions in percent, where that has a meaning.
    pub accuracy: Option<f64>,
}

/// (Σ loss, correct predictions) of all replicas; the totals start again from 0, in place.
pub(super) fn fetch(totals: &Tensor, replica: Option<&Replica<'_>>) -> Result<(f64, usize)> {
    if let Some(replica) = replica {
        replica.communicator.sum(totals)?;
    }
    let [loss, correct] = take_totals(totals)?;
    Ok((loss, correct as usize))
}

/// Loss and accuracy of the network over samples, in evaluation mode and f32.
///
/// # Errors
/// If the samples do not fit the network, the device fails, or a signal was received.
pub fn evaluate(network: &Network, samples: &Samples) -> Result<Evaluation> {
    evaluate_share(network, samples, None)
}

/// The evaluation of all replicas, each of which takes a share of the samples.
pub(super) fn evaluate_share(
    network: &Network,
    samples: &Samples,
    replica: Option<&Replica<'_>>,
) -> Result<Evaluation> {
    let device = network.device();
    let samples = samples.to(DType::F32, &device)?;
    let totals = Model::totals_on(&device)?;
    let all = 0..samples.len();
    let indices: Vec<usize> = replica.map_or(all, |replica| replica.share(samples.len())).collect();
    let batch_size = match (device.is_cpu(), samples.are_images()) {
        (true, true) => 256,
        (true, false) => 4096,
        (false, _) => 1000,
    };
    for indices in indices.chunks(batch_size) {
        if replica.is_none() {
            interrupt::check().map_err(candle_core::Error::wrap)?;
        }
        let batch = samples.batch(indices, None)?;
        let mut tape = Tape::inference();
        let x = tape.constant(&batch.inputs);
        let output = network.forward_in(&mut tape, &x, Mode::Evaluation)?;
        batch.loss_in(&mut tape, &output, &totals)?;
    }
    let (loss_sum, correct) = fetch(&totals, replica)?;
    let n = samples.len().max(1) as f64;
    let accuracy = samples.has_accuracy().then(|| 100.0 * correct as f64 / n);
    Ok(Evaluation { loss: loss_sum / n, accuracy })
}

/// The knots with a slope change above the rounding of the parameters, over all splines of the network; `None` if it has none.
pub fn count_active_knots(network: &Network) -> Result<Option<usize>> {
    let mut count = None;
    for activation in network.activations() {
        let active = match activation {
            Activation::Spline(spline) => significant_knots(spline)?,
            Activation::Lipschitz(spline) => spline.significant_knots()?,
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
