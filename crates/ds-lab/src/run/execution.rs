//! How the steps of a network are executed.

use super::graph::GraphStep;
use super::replica::Replica;
use super::step::{Eager, Step};
use candle_core::Result;
use ds_nn::Network;
use std::rc::Rc;

/// The execution of a network's steps: by a replica, on a GPU as CUDA graphs of batches of that many samples, else eagerly.
///
/// # Errors
/// If the device is out of memory.
pub fn execution<'a>(
    network: &Network,
    replica: Option<Rc<Replica<'a>>>,
    graphs: Option<usize>,
) -> Result<Box<dyn Step + 'a>> {
    let device = network.device();
    Ok(match (replica, graphs) {
        (Some(replica), _) => Box::new(replica),
        // Sums over replicas go on beside a step, on a stream of their own.
        (None, Some(size)) if device.is_cuda() => Box::new(GraphStep::new(size, &device)?),
        (None, _) => Box::new(Eager),
    })
}
