//! A weight as a matrix that is at least as high as wide.

use crate::ops::product::shared_product;
use candle_core::{Result, Shape, bail};

/// The name of the op.
pub(super) const NAME: &str = "polar-factor";

/// The weight as a matrix with at least as many rows as columns: (rows, columns, whether it is the transpose).
#[derive(Debug, Clone, Copy)]
pub(super) struct Tall {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) transposed: bool,
}

impl Tall {
    /// A weight (O, …) has O rows.
    pub(super) fn of(weight: &Shape) -> Result<Self> {
        match weight.dims() {
            [outputs, rest @ ..] if !rest.is_empty() && weight.elem_count() > 0 => {
                let (outputs, inputs) = (*outputs, rest.iter().product::<usize>());
                let transposed = inputs > outputs;
                let (rows, columns) = if transposed { (inputs, outputs) } else { (outputs, inputs) };
                Ok(Self { rows, columns, transposed })
            }
            _ => bail!("{NAME}: a weight must be (outputs, …) and not empty, got {weight:?}"),
        }
    }

    /// (data, row stride, column stride) of this matrix, or of its transpose.
    fn view<'a>(&self, w: &'a [f64], transposed: bool) -> (&'a [f64], usize, usize) {
        let (row, column) = if self.transposed { (1, self.rows) } else { (self.columns, 1) };
        if transposed { (w, column, row) } else { (w, row, column) }
    }

    /// AᵀB (columns, columns) of two such matrices.
    pub(super) fn inner(&self, a: &[f64], b: &[f64]) -> Vec<f64> {
        let sizes = (self.columns, self.columns, self.rows);
        shared_product(sizes, self.view(a, true), self.view(b, false))
    }

    /// A·S for a symmetric S (columns, columns), laid out as A is.
    pub(super) fn times(&self, a: &[f64], s: &[f64]) -> Vec<f64> {
        let n = self.columns;
        if self.transposed {
            // The data are Aᵀ, and (A·S)ᵀ = S·Aᵀ.
            shared_product((n, self.rows, n), (s, n, 1), (a, self.rows, 1))
        } else {
            shared_product((self.rows, n, n), (a, n, 1), (s, n, 1))
        }
    }
}
