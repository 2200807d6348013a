//! Training steps on a device. On a GPU the host needs longer to launch the kernels of a step than they take, so that one step
//! is recorded as a CUDA graph and launched as a whole from then on.

use super::on_device::forward;
use super::{Optimizers, update};
use crate::penalty::SplinePenalty;
use crate::samples_on_device::BatchOnDevice;
use candle_core::{DType, Result, Tensor};
use ds_nn::networks::Network;
use ds_nn::ops::dropout::{Key, StepKey};

/// The steps of a run whose samples are on the network's device. Nothing is fetched from there: losses and right answers are added
/// to [`totals`](Self::totals).
pub struct StepsOnDevice<'a> {
    network: &'a Network,
    penalty: Option<SplinePenalty>,
    totals: Tensor,
    /// On a GPU, where kernels find it.
    key: Option<StepKey>,
    #[cfg(feature = "cuda")]
    replay: on_gpu::Replay,
}

impl<'a> StepsOnDevice<'a> {
    /// Those of a network; `graphs`: how many samples the batches have whose steps are recorded and replayed on a GPU. Batches of
    /// other sizes are not, nor anything with `None`.
    ///
    /// # Errors
    /// On Candle's errors.
    pub fn new(network: &'a Network, penalty: Option<SplinePenalty>, graphs: Option<usize>) -> Result<Self> {
        let device = network.device();
        #[cfg(not(feature = "cuda"))]
        let _ = graphs;
        Ok(Self {
            network,
            penalty,
            totals: Tensor::zeros(2, DType::F64, &device)?,
            key: device.is_cuda().then(|| StepKey::new(&device)).transpose()?,
            #[cfg(feature = "cuda")]
            replay: on_gpu::Replay::new(graphs),
        })
    }

    /// The sums of losses and of right answers (2, f64), in place: they are fetched, and start again with `zero_set`.
    pub fn totals(&self) -> &Tensor {
        &self.totals
    }

    /// Whether a step was recorded.
    pub fn is_recorded(&self) -> bool {
        #[cfg(feature = "cuda")]
        return self.replay.is_recorded();
        #[cfg(not(feature = "cuda"))]
        false
    }

    /// A training step with the learning rates of an epoch and the dropout of a key. The optimisers are those of the network, the
    /// same in all steps.
    ///
    /// # Errors
    /// On Candle's errors, or if the optimisers are others.
    pub fn step(
        &mut self,
        batch: BatchOnDevice,
        optimizers: &mut Optimizers,
        (epoch, dropout): (usize, u64),
    ) -> Result<()> {
        // What differs from step to step; all else is launched alike.
        optimizers.prepare(epoch)?;
        if let Some(key) = &self.key {
            key.put(dropout)?;
        }
        let Self {
            network,
            penalty,
            totals,
            key,
            #[cfg(feature = "cuda")]
            replay,
        } = self;
        let optimizers = &*optimizers;
        let key = key.as_ref().map_or(Key::Number(dropout), Key::OnDevice);
        let launches = |batch: &BatchOnDevice| {
            let (tape, loss) = forward(network, batch, key, totals)?;
            update(network, tape.backward(&loss)?, penalty.as_ref(), optimizers)
        };
        #[cfg(feature = "cuda")]
        if let candle_core::Device::Cuda(device) = totals.device() {
            return replay.step(device, batch, optimizers, launches);
        }
        launches(&batch)
    }
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::Optimizers;
    use crate::samples_on_device::BatchOnDevice;
    use candle_core::{CudaDevice, Result, TensorId, bail};
    use ds_core::ops::gpu::cuda::{Graph, rehearse};

    /// Steps before one is recorded: kernels are loaded and algorithms chosen in the first of them.
    const REHEARSALS: usize = 3;

    /// What of steps is recorded.
    pub(super) struct Replay {
        /// How many samples a batch must have for it.
        size: Option<usize>,
        rehearsed: usize,
        recorded: Option<Recorded>,
    }

    struct Recorded {
        graph: Graph,
        /// What the graph reads.
        batch: BatchOnDevice,
        optimizers: [Option<TensorId>; 3],
    }

    impl Replay {
        pub(super) fn new(size: Option<usize>) -> Self {
            Self { size, rehearsed: 0, recorded: None }
        }

        pub(super) fn is_recorded(&self) -> bool {
            self.recorded.is_some()
        }

        /// A step whose numbers are on the device already.
        pub(super) fn step(
            &mut self,
            device: &CudaDevice,
            batch: BatchOnDevice,
            optimizers: &Optimizers,
            launches: impl Fn(&BatchOnDevice) -> Result<()>,
        ) -> Result<()> {
            if self.size != Some(batch.len()) {
                return launches(&batch);
            }
            if let Some(recorded) = &self.recorded {
                recorded.batch.replace(&batch)?;
                return recorded.launch(optimizers);
            }
            if self.rehearsed < REHEARSALS {
                self.rehearsed += 1;
                return rehearse(device, || launches(&batch));
            }
            // SAFETY: a process trains one network at a time on a GPU, or trains without graphs (sweep/run.rs).
            match unsafe { Graph::record(device, || launches(&batch)) } {
                Ok(graph) => {
                    let recorded = self.recorded.insert(Recorded { graph, batch, optimizers: optimizers.schedules() });
                    recorded.launch(optimizers)
                }
                Err(error) => {
                    let reason = error.to_string();
                    crate::note!("training goes on without CUDA graphs: {}", reason.lines().next().unwrap_or_default());
                    self.size = None;
                    launches(&batch)
                }
            }
        }
    }

    impl Recorded {
        fn launch(&self, optimizers: &Optimizers) -> Result<()> {
            if optimizers.schedules() != self.optimizers {
                bail!("a step was recorded with other optimisers");
            }
            // SAFETY: network and totals are those of the recorded step and live as long as it, as does its batch; so do the states
            // of the optimisers, which are the same ones. All of them are changed in place only.
            unsafe { self.graph.launch() }
        }
    }
}
