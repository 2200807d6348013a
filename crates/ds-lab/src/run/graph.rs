//! Training steps as CUDA graphs. The host needs longer to launch the kernels of a step than they take, so that one step is captured
//! and replayed as a whole from then on.

use super::optimizers::Optimizers;
use super::step::{At, Model, Step};
use crate::data::Batch;
use candle_core::{Device, Result, TensorId, bail};
use ds_core::backend::gpu::cuda::{Graph, warm_up};
use ds_nn::ops::dropout::{Key, StepKey};
use ds_nn::tape::{ParameterOps, Tape};

/// Steps before one is captured: kernels are loaded and algorithms chosen in the first of them.
const WARM_UP: usize = 3;

/// Steps on a GPU, captured for full batches.
pub(super) struct GraphStep {
    /// The samples of a batch whose step is captured; `None` once a capture has failed.
    size: Option<usize>,
    warmed_up: usize,
    captured: Option<Captured>,
    /// The dropout key of the step, on the device.
    key: StepKey,
    /// What is computed for all layers together.
    parameter_ops: ParameterOps,
}

struct Captured {
    graph: Graph,
    /// What the graph reads.
    batch: Batch,
    optimizers: [Option<TensorId>; 3],
}

impl GraphStep {
    pub(super) fn new(size: usize, device: &Device) -> Result<Self> {
        Ok(Self {
            size: Some(size),
            warmed_up: 0,
            captured: None,
            key: StepKey::new(device)?,
            parameter_ops: ParameterOps::default(),
        })
    }
}

impl Step for GraphStep {
    fn step(&mut self, model: &Model<'_>, batch: Batch, _: usize, optimizers: &mut Optimizers, at: At) -> Result<()> {
        // What differs from step to step is put on the device; all else is launched alike.
        optimizers.prepare(at.epoch)?;
        self.key.put(at.dropout)?;
        let optimizers = &*optimizers;
        let launch = |batch: &Batch| {
            let tape = Tape::recording_with(&self.parameter_ops)?;
            model.launch(tape, batch, Key::OnDevice(&self.key), optimizers)
        };
        let Device::Cuda(device) = model.totals.device() else { return launch(&batch) };
        if self.size != Some(batch.len()) {
            return launch(&batch);
        }
        if let Some(captured) = &self.captured {
            captured.batch.replace(&batch)?;
            return captured.replay(optimizers);
        }
        if self.warmed_up < WARM_UP {
            self.warmed_up += 1;
            return warm_up(device, || launch(&batch));
        }
        // SAFETY: this thread alone uses the stream of `device`: runs at once have one each (`Context::of_concurrent_run`).
        match unsafe { Graph::capture(device, || launch(&batch)) } {
            Ok(graph) => {
                let captured = Captured { graph, batch, optimizers: optimizers.schedules() };
                self.captured.insert(captured).replay(optimizers)
            }
            Err(error) => {
                let reason = error.to_string();
                crate::note!("training goes on without CUDA graphs: {}", reason.lines().next().unwrap_or_default());
                self.size = None;
                launch(&batch)
            }
        }
    }

    fn is_captured(&self) -> bool {
        self.captured.is_some()
    }
}

impl Captured {
    fn replay(&self, optimizers: &Optimizers) -> Result<()> {
        if optimizers.schedules() != self.optimizers {
            bail!("a step was captured with other optimisers");
        }
        // SAFETY: network and totals are those of the captured step and live as long as it, as does its batch; so do the states
        // of the optimisers, which are the same ones. All of them are changed in place only.
        unsafe { self.graph.launch() }
    }
}
