//! Matrix products through cuBLAS.

use crate::ops::dense::Dense;
use candle_core::{Result, Tensor};

impl Dense {
    /// (∂x if wanted, ∂W, ∂b).
    pub(in crate::ops) fn cuda_gradients(
        &self,
        x: &Tensor,
        w: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Tensor, Tensor)> {
        let (x, w, dy) = (x.detach(), w.detach(), dy.detach().contiguous()?);
        let dx = self.input_gradient.then(|| dy.matmul(&w)).transpose()?;
        let dw = dy.t()?.matmul(&x)?;
        Ok((dx, dw, crate::ops::channel_totals(&dy)?))
    }
}
