//! Histograms of the inputs of all splines over the training samples.

use crate::data::Samples;
use crate::interrupt;
use crate::run::step::Model;
use candle_core::{DType, Result};
use ds_core::graph::Graph;
use ds_nn::layers::Mode;
use ds_nn::{InputHistograms, Network};

/// Samples of a batch. Batches of other sizes are left out, for the gradients of a mean loss depend on the size.
const BATCH: usize = 256;

/// The most samples: 10 000 images have inputs enough for every function, and a pass with gradients takes as long as some evaluations.
const MOST: usize = 10_000;

/// One pass over the samples, or evenly spaced ones of many, in evaluation mode and f32; with `gradients` the squared gradients of the
/// loss are counted, too.
///
/// # Errors
/// If the samples do not fit the network, the device fails, or a signal was received.
pub fn input_histograms(network: &Network, samples: &Samples, gradients: bool) -> Result<InputHistograms> {
    let device = network.device();
    let samples = samples.to(DType::F32, &device)?;
    let totals = Model::totals_on(&device)?;
    let mut histograms = InputHistograms::new(network).map_err(candle_core::Error::from)?;
    let indices: Vec<usize> = (0..samples.len()).step_by(samples.len().div_ceil(MOST).max(1)).collect();
    let size = if samples.are_images() { BATCH } else { 16 * BATCH };
    for indices in indices.chunks_exact(size.min(indices.len()).max(1)) {
        interrupt::check().map_err(candle_core::Error::wrap)?;
        let batch = samples.batch(indices, None)?;
        histograms.add(gradients, |graph| {
            let x = graph.constant(&batch.inputs);
            let output = network.forward_in(graph, &x, Mode::Evaluation)?;
            batch.loss_in(graph, &output, &totals)
        })?;
    }
    Ok(histograms)
}
