//! A run by several processes, each on a device of its own.

use super::directory::{RunDirectory, RunOptions, RunState};
use super::driver::{say_finished, summarise, train};
use super::setup::Setup;
use super::trainer::Trainer;
use crate::config::Config;
use crate::data::Source;
use crate::device::Context;
use crate::results::metrics::SummaryRow;
use anyhow::{Result, bail};
use candle_core::Tensor;
use ds_nn::parallel::Communicator;

/// The part of one process in a run that several make together: [`run`](super::run), trained on shares of the batches. Only that of
/// rank 0 writes, prints, evaluates what was trained and returns the summary.
///
/// # Errors
/// As for [`run`](super::run), and if another process fails.
pub fn run_replica(
    config: &Config,
    source: &Source,
    options: &RunOptions,
    communicator: Box<dyn Communicator>,
    context: &Context,
) -> Result<Option<SummaryRow>> {
    let rank = communicator.rank();
    let mut directory = RunDirectory::new(config, options, rank == 0);
    let state = directory.inspect()?;
    context.check_precision(config.train.precision)?;
    let setup = if rank == 0 && matches!(state, RunState::Unfinished(_)) {
        Some(Setup::new(config, source, context)?)
    } else {
        None
    };
    // From here on the others read data that the first may have fetched, and the first may write where all have read.
    agree(&state, options, &*communicator, context)?;
    let checkpoint = match state {
        RunState::Finished(row) => {
            communicator.finish()?;
            return Ok((rank == 0).then(|| say_finished(*row, options)));
        }
        RunState::Unfinished(checkpoint) => checkpoint,
    };
    if rank == 0 && directory.claim(checkpoint.is_some())?.is_some() {
        bail!("{} was written to while the processes of a run started; try again", options.directory.display());
    }
    let Some(setup) = setup else {
        let setup = Setup::new(config, source, context)?;
        Trainer::new(config, &setup, &options.directory, checkpoint.as_deref(), Some(&*communicator))?.run(true)?;
        communicator.finish()?;
        return Ok(None);
    };
    let trained = train(config, &setup, &directory, options, checkpoint.as_deref(), Some(&*communicator))?;
    communicator.finish()?;
    summarise(config, &setup, options, trained).map(Some)
}

/// Waits until all are here, and refuses to go on if they did not find the same.
fn agree(state: &RunState, options: &RunOptions, communicator: &dyn Communicator, context: &Context) -> Result<()> {
    let mine = match state {
        RunState::Finished(_) => [1.0, 0.0, 0.0],
        RunState::Unfinished(None) => [2.0, 0.0, 0.0],
        RunState::Unfinished(Some(checkpoint)) => {
            [3.0, checkpoint.position.step as f64, checkpoint.position.batch as f64]
        }
    };
    let sums = Tensor::new(&mine, &context.device)?;
    communicator.sum(&sums)?;
    if sums.to_vec1::<f64>()? != mine.map(|value| value * communicator.size() as f64) {
        bail!("{} was written to while the processes of a run started; try again", options.directory.display());
    }
    Ok(())
}
