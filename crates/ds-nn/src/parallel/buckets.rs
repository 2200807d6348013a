//! Tensors of parameters packed into a few flat ones, so that a sum over replicas takes a call a bucket and not one a parameter:
//! the buckets of PyTorch's `DistributedDataParallel` (Li et al. 2020).

use super::Communicator;
use crate::ops::pack::{ALIGNMENT, Piece, packed};
use candle_core::{DType, Result, Tensor, TensorId, Var, bail};
use std::collections::HashMap;

/// Bytes of a bucket: the networks of the papers have gradients of 2 to 4 MB, and the last bucket's sum is the one that nothing is
/// left to go on beside.
pub const BYTES: usize = 1 << 20;

/// Which parameters go into which bucket, and where.
pub struct Buckets {
    buckets: Vec<Bucket>,
    /// Bucket, and index in it.
    places: HashMap<TensorId, (usize, usize)>,
}

#[derive(Default)]
struct Bucket {
    /// With the place of their first number.
    parameters: Vec<(Var, usize)>,
    len: usize,
}

impl Buckets {
    /// Buckets of at most `bytes` (or of one parameter) for f32 parameters in the order in which a backward pass comes to
    /// them: from the last to the first.
    ///
    /// # Errors
    /// If a parameter is not f32.
    pub fn new(parameters: &[Var], bytes: usize) -> Result<Self> {
        let mut buckets = vec![Bucket::default()];
        let mut places = HashMap::new();
        for var in parameters.iter().rev() {
            if var.dtype() != DType::F32 {
                bail!("buckets: a parameter of {:?} is {:?}, expected F32", var.shape(), var.dtype());
            }
            let len = var.elem_count().next_multiple_of(ALIGNMENT);
            if buckets.last().is_some_and(|last| last.len > 0 && 4 * (last.len + len) > bytes) {
                buckets.push(Bucket::default());
            }
            let bucket = buckets.len() - 1;
            if let Some(last) = buckets.last_mut() {
                places.insert(var.as_tensor().id(), (bucket, last.parameters.len()));
                last.parameters.push((var.clone(), last.len));
                last.len += len;
            }
        }
        buckets.retain(|bucket| bucket.len > 0);
        Ok(Self { buckets, places })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Whether there are none: there was no parameter.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// The parameters, from the last to the first.
    pub fn parameters(&self) -> impl Iterator<Item = &Var> {
        self.buckets.iter().flat_map(|bucket| &bucket.parameters).map(|(var, _)| var)
    }

    /// Sums over the replicas of a tensor for each parameter; this replica's are multiplied with `weight`.
    pub fn sums<'a>(&'a self, weight: f32, communicator: &'a dyn Communicator) -> Sums<'a> {
        let tensors = self.buckets.iter().map(|bucket| vec![None; bucket.parameters.len()]).collect();
        Sums { buckets: &self.buckets, places: &self.places, weight, communicator, tensors, started: Vec::new() }
    }
}

/// Sums that are on their way.
pub struct Sums<'a> {
    buckets: &'a [Bucket],
    places: &'a HashMap<TensorId, (usize, usize)>,
    weight: f32,
    communicator: &'a dyn Communicator,
    /// What is there already, by bucket.
    tensors: Vec<Vec<Option<Tensor>>>,
    /// The buckets whose sum was started: always the first ones, because the order must be the same on all replicas.
    started: Vec<Tensor>,
}

impl Sums<'_> {
    /// The tensor of a parameter, of its shape; starts the sums of all buckets that are complete.
    ///
    /// # Errors
    /// If the parameter is none of the buckets', or a sum cannot be started.
    pub fn add(&mut self, parameter: &Var, tensor: &Tensor) -> Result<()> {
        let Some(&(bucket, index)) = self.places.get(&parameter.as_tensor().id()) else {
            bail!("buckets: a gradient {:?} of a parameter that is in none of them", tensor.shape());
        };
        if tensor.shape() != parameter.shape() {
            bail!("buckets: a gradient {:?} of a parameter {:?}", tensor.shape(), parameter.shape());
        }
        self.tensors[bucket][index] = Some(tensor.clone());
        while self.tensors.get(self.started.len()).is_some_and(|next| next.iter().all(Option::is_some)) {
            self.start()?;
        }
        Ok(())
    }

    /// Starts the next bucket; what it lacks counts as 0.
    fn start(&mut self) -> Result<()> {
        let k = self.started.len();
        let Bucket { parameters, len } = &self.buckets[k];
        let tensors = std::mem::take(&mut self.tensors[k]);
        let piece = |((var, start), from): (&(Var, usize), Option<Tensor>)| Piece {
            from,
            start: *start,
            len: var.elem_count(),
        };
        let pieces: Vec<Piece> = parameters.iter().zip(tensors).map(piece).collect();
        let device = parameters[0].0.device();
        let flat = packed(&pieces, *len, self.weight, device)?;
        self.communicator.start_sum(&flat)?;
        self.started.push(flat);
        Ok(())
    }

    /// Starts what is left and returns the sums of all parameters, in the shapes of these.
    ///
    /// # Errors
    /// If a sum fails.
    pub fn finish(mut self) -> Result<Vec<(Var, Tensor)>> {
        while self.started.len() < self.buckets.len() {
            self.start()?;
        }
        self.communicator.join()?;
        let mut sums = Vec::with_capacity(self.places.len());
        for (bucket, flat) in self.buckets.iter().zip(&self.started) {
            for (var, start) in &bucket.parameters {
                sums.push((var.clone(), flat.narrow(0, *start, var.elem_count())?.reshape(var.shape())?));
            }
        }
        Ok(sums)
    }
}
