//! A [`Communicator`] of replicas that are threads of this process and compute on the CPU.
#![allow(dead_code, clippy::unwrap_used)]

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Tensor, bail};
use ds_nn::parallel::Communicator;
use std::cell::Cell;
use std::sync::{Arc, Condvar, Mutex};

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What each rank brought to the sum that is being made.
    terms: Vec<Option<Vec<f64>>>,
    /// The sum before, for those that did not take it yet.
    sum: Vec<f64>,
    left_to_take: usize,
    /// A replica ended without the others.
    failed: bool,
}

struct Thread {
    rank: usize,
    size: usize,
    shared: Arc<Shared>,
    finished: bool,
}

/// What each of `size` replicas returns, by rank.
pub fn replicas<R: Send>(size: usize, f: impl Fn(Box<dyn Communicator>) -> R + Sync) -> Vec<R> {
    let shared = Arc::new(Shared::default());
    shared.state.lock().unwrap().terms = vec![None; size];
    std::thread::scope(|scope| {
        let start = |rank| {
            let communicator = Thread { rank, size, shared: shared.clone(), finished: false };
            let f = &f;
            scope.spawn(move || f(Box::new(communicator)))
        };
        let threads: Vec<_> = (0..size).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

impl Thread {
    /// The sum of what all ranks bring, in their order.
    fn exchanged(&self, term: Vec<f64>) -> Result<Vec<f64>> {
        let waiting = |done: fn(&State) -> bool, state| {
            self.shared.changed.wait_while(state, |state: &mut State| !done(state) && !state.failed).unwrap()
        };
        let ended = "another replica has ended";
        let mut state = waiting(|state| state.left_to_take == 0, self.shared.state.lock().unwrap());
        if state.left_to_take > 0 {
            bail!("{ended}");
        }
        let len = term.len();
        state.terms[self.rank] = Some(term);
        if state.terms.iter().all(Option::is_some) {
            let terms: Vec<_> = state.terms.iter_mut().filter_map(Option::take).collect();
            if terms.iter().any(|term| term.len() != len) {
                bail!("the ranks sum tensors of different lengths");
            }
            state.sum = (0..len).map(|k| terms.iter().map(|term| term[k]).sum()).collect();
            state.left_to_take = self.size;
            self.shared.changed.notify_all();
        }
        let mut state = waiting(|state| state.left_to_take > 0, state);
        if state.left_to_take == 0 {
            bail!("{ended}");
        }
        state.left_to_take -= 1;
        self.shared.changed.notify_all();
        Ok(state.sum.clone())
    }
}

impl Communicator for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn start_sum(&self, tensor: &Tensor) -> Result<()> {
        let term = tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
        tensor.inplace_op1(&Overwrite(self.exchanged(term)?))
    }

    fn join(&self) -> Result<()> {
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.finished = true;
        Ok(())
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if !self.finished {
            self.shared.state.lock().unwrap().failed = true;
            self.shared.changed.notify_all();
        }
    }
}

/// Counts the sums that a communicator starts; after `most` it fails, as a process that is killed does.
pub struct Counting {
    inner: Box<dyn Communicator>,
    most: usize,
    started: Cell<usize>,
}

impl Counting {
    pub fn new(inner: Box<dyn Communicator>, most: usize) -> Box<Self> {
        Box::new(Self { inner, most, started: Cell::new(0) })
    }

    pub fn started(&self) -> usize {
        self.started.get()
    }
}

impl Communicator for Counting {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn start_sum(&self, tensor: &Tensor) -> Result<()> {
        if self.started.get() == self.most {
            bail!("killed");
        }
        self.started.set(self.started.get() + 1);
        self.inner.start_sum(tensor)
    }

    fn join(&self) -> Result<()> {
        self.inner.join()
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.inner.finish()
    }
}

struct Overwrite(Vec<f64>);

impl InplaceOp1 for Overwrite {
    fn name(&self) -> &'static str {
        "overwrite"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("{}: strided", self.name()) };
        match storage {
            CpuStorage::F32(to) => to[start..end].iter_mut().zip(&self.0).for_each(|(to, v)| *to = *v as f32),
            CpuStorage::F64(to) => to[start..end].copy_from_slice(&self.0),
            other => bail!("{}: {:?}", self.name(), other),
        }
        Ok(())
    }
}
