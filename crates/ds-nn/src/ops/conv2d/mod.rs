//! 2D convolution: forward, input gradient and weight gradient.
//!
//! 3×3 and 5×5 kernels with stride 1 that keep the size of the image are computed directly. For all others each image is
//! unfolded into columns (one row per weight, one column per output pixel), and the three directions are matrix products with
//! them. The columns live in a buffer per thread and are made again for the backward pass.

mod direct;
mod same;

use self::direct::Direct;
use self::same::{backward_direct, forward_direct};
use super::window::{Planes, Window};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use ds_core::dispatch_real;
use ds_core::ops::parallel::{SharedSlice, filled};
use ds_core::ops::pointwise::{real_dtype, tensor_of};
use ds_core::ops::real::{Real, elements, with_elements};
use ds_core::ops::simd::instructions;
use rayon::prelude::*;

/// x (N, I, H, W), W (O, I, k, k) and, as the op of three arguments, b (O) → (N, O, H', W').
#[derive(Debug, Clone, Copy)]
pub struct Conv2d {
    /// The sliding window.
    pub window: Window,
    /// Whether ∂x is wanted; the first layer of a network does without.
    pub input_gradient: bool,
}

/// Images are summed in at most this many pieces for the weight gradient, so that it does not depend on the threads.
const GRADIENT_PIECES: usize = 16;

/// `out` (m, n) = (or += with `add`) a (m, k) · b (k, n); matrices as (data, row stride, column stride), `out` row-major.
pub(crate) fn product<T: Real>(
    m: usize,
    n: usize,
    k: usize,
    out: &mut [T],
    add: bool,
    (a, a_row, a_column): (&[T], usize, usize),
    (b, b_row, b_column): (&[T], usize, usize),
) {
    if m == 0 || n == 0 {
        return;
    }
    let last = |rows: usize, row: usize, columns: usize, column: usize| (rows - 1) * row + (columns - 1) * column;
    assert!(out.len() >= m * n);
    assert!(k == 0 || (a.len() > last(m, a_row, k, a_column) && b.len() > last(k, b_row, n, b_column)));
    // SAFETY: all elements that the strides reach are inside the slices, as just checked.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            add,
            a.as_ptr(),
            a_column as isize,
            a_row as isize,
            b.as_ptr(),
            b_column as isize,
            b_row as isize,
            T::ONE,
            T::ONE,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

struct Sizes {
    planes: Planes,
    outputs: usize,
    /// Inputs of one output: I·k·k.
    taps: usize,
    window: Window,
}

impl Sizes {
    fn pixels(&self) -> usize {
        self.planes.out_height * self.planes.out_width
    }
    fn input(&self) -> usize {
        self.planes.channels * self.planes.height * self.planes.width
    }
    /// Whether the image is its own unfolding.
    fn is_pointwise(&self) -> bool {
        self.window == Window { kernel: 1, stride: 1, padding: 0 }
    }

    /// The direct convolution, where this is one.
    fn direct(&self) -> Option<Direct> {
        let (p, w) = (&self.planes, &self.window);
        let same = w.stride == 1 && matches!(w.kernel, 3 | 5) && w.padding == w.kernel / 2;
        let some = p.images > 0 && p.channels > 0 && self.outputs > 0 && p.height > 0 && p.width > 0;
        (same && some).then(|| Direct::new(p.channels, self.outputs, p.height, p.width, w.kernel, p.images))
    }

    /// Columns (taps, pixels) of one image.
    fn unfold<T: Real>(&self, image: &[T], columns: &mut [T]) {
        let (p, w) = (&self.planes, &self.window);
        for (tap, row) in columns.chunks_exact_mut(self.pixels()).enumerate() {
            let (channel, ky, kx) = (tap / (w.kernel * w.kernel), tap / w.kernel % w.kernel, tap % w.kernel);
            let plane = &image[channel * p.height * p.width..(channel + 1) * p.height * p.width];
            for (oy, row) in row.chunks_exact_mut(p.out_width).enumerate() {
                let y = (oy * w.stride + ky).wrapping_sub(w.padding);
                if y >= p.height {
                    row.fill(T::ZERO);
                    continue;
                }
                let line = &plane[y * p.width..(y + 1) * p.width];
                if w.stride == 1 {
                    // Output ox reads input ox + kx − padding.
                    let first = w.padding.saturating_sub(kx).min(row.len());
                    let end = (p.width + w.padding).saturating_sub(kx).min(row.len()).max(first);
                    row[..first].fill(T::ZERO);
                    if end > first {
                        let from = first + kx - w.padding;
                        row[first..end].copy_from_slice(&line[from..from + end - first]);
                    }
                    row[end..].fill(T::ZERO);
                } else {
                    for (ox, value) in row.iter_mut().enumerate() {
                        let x = (ox * w.stride + kx).wrapping_sub(w.padding);
                        *value = if x < p.width { line[x] } else { T::ZERO };
                    }
                }
            }
        }
    }

    /// Adds columns (taps, pixels) back into an image of zeros.
    fn fold<T: Real>(&self, columns: &[T], image: &mut [T]) {
        let (p, w) = (&self.planes, &self.window);
        for (tap, row) in columns.chunks_exact(self.pixels()).enumerate() {
            let (channel, ky, kx) = (tap / (w.kernel * w.kernel), tap / w.kernel % w.kernel, tap % w.kernel);
            let plane = &mut image[channel * p.height * p.width..(channel + 1) * p.height * p.width];
            for (oy, row) in row.chunks_exact(p.out_width).enumerate() {
                let y = (oy * w.stride + ky).wrapping_sub(w.padding);
                if y >= p.height {
                    continue;
                }
                let line = &mut plane[y * p.width..(y + 1) * p.width];
                for (ox, &value) in row.iter().enumerate() {
                    let x = (ox * w.stride + kx).wrapping_sub(w.padding);
                    if x < p.width {
                        line[x] += value;
                    }
                }
            }
        }
    }
}

impl Conv2d {
    const NAME: &'static str = "conv2d";

    fn sizes(&self, x: &Shape, w: &Shape, b: Option<&Shape>) -> Result<Sizes> {
        let planes = self.window.planes(x, Self::NAME)?;
        match w.dims() {
            &[outputs, inputs, ky, kx]
                if inputs == planes.channels
                    && ky == self.window.kernel
                    && kx == ky
                    && b.is_none_or(|b| b.dims() == [outputs]) =>
            {
                Ok(Sizes { planes, outputs, taps: inputs * ky * kx, window: self.window })
            }
            _ => bail!("{}: input {x:?}, weight {w:?}, bias {b:?} and {:?} do not fit", Self::NAME, self.window),
        }
    }

    fn output_shape(s: &Sizes) -> Shape {
        Shape::from((s.planes.images, s.outputs, s.planes.out_height, s.planes.out_width))
    }

    fn forward<T: Real>(s: &Sizes, x: &[T], w: &[T], b: Option<&[T]>) -> Result<Vec<T>> {
        if let Some(direct) = s.direct() {
            return forward_direct(instructions(), direct, s, x, w, b);
        }
        let (pixels, image) = (s.pixels(), s.input());
        let fill = |y: &mut [T]| {
            y.par_chunks_mut((s.outputs * pixels).max(1)).zip(x.par_chunks(image.max(1))).for_each_init(
                || vec![T::ZERO; if s.is_pointwise() { 0 } else { s.taps * pixels }],
                |columns, (y, x)| {
                    let columns: &[T] = if s.is_pointwise() {
                        x
                    } else {
                        s.unfold(x, columns);
                        columns
                    };
                    if let Some(b) = b {
                        for (y, &b) in y.chunks_exact_mut(pixels).zip(b) {
                            y.fill(b);
                        }
                    }
                    product(s.outputs, pixels, s.taps, y, b.is_some(), (w, s.taps, 1), (columns, pixels, 1));
                },
            );
            Ok(())
        };
        // SAFETY: the product writes every element of each image's output, or adds to the bias written before.
        unsafe { filled(s.planes.images * s.outputs * pixels, fill) }
    }

    fn backward<T: Real>(&self, s: &Sizes, x: &[T], w: &[T], dy: &[T]) -> Result<(Option<Vec<T>>, Vec<T>)> {
        if let Some(direct) = s.direct() {
            return backward_direct(instructions(), direct, s, x, w, dy, self.input_gradient);
        }
        let (pixels, image, images) = (s.pixels(), s.input(), s.planes.images);
        let pieces = GRADIENT_PIECES.min(images).max(1);
        let mut partial = vec![T::ZERO; pieces * s.outputs * s.taps];
        let mut run = |dx: Option<&mut [T]>| {
            let dx = dx.map(SharedSlice::new);
            partial.par_chunks_mut((s.outputs * s.taps).max(1)).enumerate().for_each_init(
                || vec![T::ZERO; if s.is_pointwise() { 0 } else { s.taps * pixels }],
                |columns, (piece, dw)| {
                    for n in piece * images / pieces..(piece + 1) * images / pieces {
                        let x = &x[n * image..(n + 1) * image];
                        let dy = &dy[n * s.outputs * pixels..(n + 1) * s.outputs * pixels];
                        let unfolded: &[T] = if s.is_pointwise() {
                            x
                        } else {
                            s.unfold(x, columns);
                            columns
                        };
                        product(s.outputs, s.taps, pixels, dw, true, (dy, pixels, 1), (unfolded, 1, pixels));
                        let Some(dx) = &dx else { continue };
                        // SAFETY: every image belongs to one piece only.
                        let dx = unsafe { dx.part(n * image, image) };
                        if s.is_pointwise() {
                            product(s.taps, pixels, s.outputs, dx, false, (w, 1, s.taps), (dy, pixels, 1));
                        } else {
                            product(s.taps, pixels, s.outputs, columns, false, (w, 1, s.taps), (dy, pixels, 1));
                            dx.fill(T::ZERO);
                            s.fold(columns, dx);
                        }
                    }
                },
            );
        };
        let dx = if self.input_gradient {
            // SAFETY: the pieces cover all images, and each image is written before it is read.
            Some(unsafe {
                filled(images * image, |dx| {
                    run(Some(dx));
                    Ok(())
                })?
            })
        } else {
            run(None);
            None
        };
        Ok((dx, merged(&partial, s.outputs * s.taps)))
    }

    fn gradients(&self, x: &Tensor, w: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Tensor)> {
        let s = self.sizes(x.shape(), w.shape(), None)?;
        if dy.shape() != &Self::output_shape(&s) {
            bail!("{}: gradient {:?} does not fit the output", Self::NAME, dy.shape());
        }
        dispatch_real!(x.dtype(), Self::NAME, T => {
            let (dx, dw) = with_elements::<T, _>(x, |xs| with_elements::<T, _>(w, |w| {
                with_elements::<T, _>(dy, |dy| self.backward(&s, xs, w, dy))
            }))?;
            Ok((dx.map(|dx| tensor_of(dx, x.shape())), tensor_of(dw, w.shape())))
        })
    }
}

/// The sum of the pieces, in their order.
fn merged<T: Real>(partial: &[T], size: usize) -> Vec<T> {
    let mut total = vec![T::ZERO; size];
    for piece in partial.chunks_exact(size.max(1)) {
        for (total, &p) in total.iter_mut().zip(piece) {
            *total += p;
        }
    }
    total
}

impl CustomOp2 for Conv2d {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        let s = self.sizes(xl.shape(), wl.shape(), None)?;
        let y = dispatch_real!(real_dtype(x, Self::NAME)?, Self::NAME, T => {
            Ok(T::to_cpu_storage_owned(Self::forward::<T>(&s, elements(x, xl)?, elements(w, wl)?, None)?))
        })?;
        Ok((y, Self::output_shape(&s)))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = self.gradients(x, w, dy)?;
        Ok((dx, Some(dw)))
    }
}

impl CustomOp3 for Conv2d {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let s = self.sizes(xl.shape(), wl.shape(), Some(bl.shape()))?;
        let y = dispatch_real!(real_dtype(x, Self::NAME)?, Self::NAME, T => {
            let b = Some(elements(b, bl)?);
            Ok(T::to_cpu_storage_owned(Self::forward::<T>(&s, elements(x, xl)?, elements(w, wl)?, b)?))
        })?;
        Ok((y, Self::output_shape(&s)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = self.gradients(x, w, dy)?;
        let db = super::channel_totals(dy)?.reshape(b.shape())?;
        Ok((dx, Some(dw), Some(db)))
    }
}

#[cfg(test)]
mod tests;
