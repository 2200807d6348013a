//! How fast a run trains.

use std::time::Instant;

/// Samples a second since the run was started or resumed.
pub(super) struct Rate {
    start: Instant,
    samples: usize,
}

impl Rate {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), samples: 0 }
    }
    pub(super) fn count(&mut self, samples: usize) {
        self.samples += samples;
    }
    pub(super) fn per_second(&self) -> f64 {
        self.samples as f64 / self.start.elapsed().as_secs_f64().max(1e-9)
    }
}
