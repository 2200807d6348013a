//! A run by several processes, each on a device of its own.

use super::Setup;
use super::run::{Found, RunOptions, found, summarise, train};
use crate::config::Config;
use crate::data::Source;
use crate::device;
use crate::metrics::SummaryRow;
use crate::train::Trainer;
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
) -> Result<Option<SummaryRow>> {
    let rank = communicator.rank();
    let found = found(config, options)?;
    let setup =
        if rank == 0 && matches!(found, Found::Unfinished(_)) { Some(Setup::new(config, source)?) } else { None };
    // From here on the others read data that the first may have fetched, and the first may write where all have read.
    agree(&found, options, &*communicator)?;
    let checkpoint = match found {
        Found::Finished(row) => {
            communicator.finish()?;
            return Ok((rank == 0).then_some(*row));
        }
        Found::Unfinished(checkpoint) => checkpoint,
    };
    let Some(setup) = setup else {
        let setup = Setup::new(config, source)?;
        Trainer::new(config, &setup, &options.directory, checkpoint.as_deref(), Some(&*communicator))?.run(true)?;
        communicator.finish()?;
        return Ok(None);
    };
    let trained = train(config, &setup, options, checkpoint.as_deref(), Some(&*communicator))?;
    communicator.finish()?;
    summarise(config, &setup, options, trained).map(Some)
}

/// Waits until all are here, and refuses to go on if they did not find the same.
fn agree(found: &Found, options: &RunOptions, communicator: &dyn Communicator) -> Result<()> {
    let mine = match found {
        Found::Finished(_) => [1.0, 0.0, 0.0],
        Found::Unfinished(None) => [2.0, 0.0, 0.0],
        Found::Unfinished(Some(checkpoint)) => [3.0, checkpoint.position.step as f64, checkpoint.position.batch as f64],
    };
    let sums = Tensor::new(&mine, &device::current())?;
    communicator.sum(&sums)?;
    if sums.to_vec1::<f64>()? != mine.map(|value| value * communicator.size() as f64) {
        bail!("{} was written to while the processes of a run started; try again", options.directory.display());
    }
    Ok(())
}
