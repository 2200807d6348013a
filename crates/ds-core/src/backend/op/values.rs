//! What the passes of an op are given, and what they give back.

use crate::backend::real::elements;
use candle_core::{CpuStorage, Layout, Result, Shape, Storage, WithDType, bail};

/// The most inputs of an op: Candle's custom ops have no more.
pub const MAX_INPUTS: usize = 3;

/// The only element of what an op computes for one list of inputs by its form for many.
///
/// # Errors
/// If there is none.
pub fn only<T>(all: Vec<T>) -> Result<T> {
    match all.into_iter().next() {
        Some(one) => Ok(one),
        None => bail!("an op gave no result"),
    }
}

/// What a backward pass is given.
pub struct Backward<'a, I> {
    /// The inputs of the forward pass.
    pub inputs: &'a [I],
    /// Its result.
    pub y: I,
    /// The gradient of the result.
    pub dy: I,
    /// What is to be added to it, for ops that take two (`Op::TAKES_TWO_GRADIENTS`).
    pub more: Option<I>,
}

impl<I: Copy> Clone for Backward<'_, I> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<I: Copy> Copy for Backward<'_, I> {}

/// The gradient of one input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gradient<V> {
    /// The input takes no gradient.
    #[default]
    None,
    /// The gradient, in the input's shape.
    Value(V),
    /// The gradient of the result itself.
    Output,
}

impl<V> Gradient<V> {
    pub(super) fn map<W>(self, f: impl FnOnce(V) -> W) -> Gradient<W> {
        match self {
            Self::None => Gradient::None,
            Self::Value(value) => Gradient::Value(f(value)),
            Self::Output => Gradient::Output,
        }
    }
}

impl<V> From<Option<V>> for Gradient<V> {
    fn from(value: Option<V>) -> Self {
        value.map_or(Self::None, Self::Value)
    }
}

/// The gradients of the inputs, in their order.
pub type Gradients<V> = [Gradient<V>; MAX_INPUTS];

/// The gradient of an op's only input, or of its first one.
pub fn gradient<V>(dx: V) -> Gradients<V> {
    [Gradient::Value(dx), Gradient::None, Gradient::None]
}

/// The gradients of two inputs.
pub fn gradients2<V>(a: V, b: V) -> Gradients<V> {
    [Gradient::Value(a), Gradient::Value(b), Gradient::None]
}

/// The gradients of three inputs.
pub fn gradients3<V>(a: V, b: V, c: V) -> Gradients<V> {
    [Gradient::Value(a), Gradient::Value(b), Gradient::Value(c)]
}

/// An input on the CPU.
#[derive(Clone, Copy)]
pub struct CpuInput<'a> {
    /// `None` for a tensor on another device.
    storage: Option<&'a CpuStorage>,
    layout: &'a Layout,
}

impl<'a> CpuInput<'a> {
    pub(super) fn new(storage: &'a Storage, layout: &'a Layout) -> Self {
        let storage = if let Storage::Cpu(storage) = storage { Some(storage) } else { None };
        Self { storage, layout }
    }

    pub(super) fn of_cpu(storage: &'a CpuStorage, layout: &'a Layout) -> Self {
        Self { storage: Some(storage), layout }
    }

    /// The shape.
    pub fn shape(&self) -> &'a Shape {
        self.layout.shape()
    }

    pub(super) fn storage(&self) -> Result<&'a CpuStorage> {
        match self.storage {
            Some(storage) => Ok(storage),
            None => bail!("a tensor of shape {:?} is on a GPU, others are on the CPU", self.shape()),
        }
    }

    /// The elements, row by row.
    ///
    /// # Errors
    /// If the tensor is strided, has another type or is on another device.
    pub fn elements<T: WithDType>(&self) -> Result<&'a [T]> {
        elements(self.storage()?, self.layout)
    }
}
