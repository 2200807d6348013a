//! Units (N, C), and planes too small for vectors: neighbouring elements belong to different splines.

use super::block::{BLOCK, locate_block};
use super::kernel::Knots;
use crate::backend::parallel::{PIECE, SharedSlice, filled, for_each_piece};
use crate::backend::planes::Planes;
use crate::backend::pointwise::sum_of_blocks;
use crate::backend::real::Real;
use candle_core::Result;
use std::ops::Range;

/// Below this many elements a plane is no work for the kernels of planes.
pub(super) const SMALL: usize = 8;

/// Pieces of rows and channels, cut by shape: about `PIECE` elements each.
#[derive(Clone, Copy)]
struct Pieces {
    planes: Planes,
    rows: usize,
    channels: usize,
}

impl Pieces {
    /// Whole rows.
    fn of_rows(planes: Planes) -> Self {
        let rows = (PIECE / (planes.channels * planes.inner).max(1)).clamp(1, planes.outer.max(1));
        Self { planes, rows, channels: planes.channels }
    }

    /// A part of the channels, whose gradients belong to that piece alone, and of the rows only where these have more elements than
    /// ∂c, of which every block of rows has one.
    fn of_channels(planes: Planes, size: usize) -> Self {
        let rows = (4 * PIECE / (planes.channels * planes.inner).max(1)).max(8 * size).clamp(1, planes.outer.max(1));
        // At least a cache line a row.
        let channels = (PIECE / (rows * planes.inner).max(1)).max(64).clamp(1, planes.channels.max(1));
        Self { planes, rows, channels }
    }

    fn blocks(&self) -> usize {
        self.planes.outer.div_ceil(self.rows)
    }

    fn across(&self) -> usize {
        self.planes.channels.div_ceil(self.channels)
    }

    fn count(&self) -> usize {
        self.blocks() * self.across()
    }

    /// The rows and the channels of a piece.
    fn of(&self, piece: usize) -> (Range<usize>, Range<usize>) {
        let (block, part) = (piece / self.across(), piece % self.across());
        let rows = block * self.rows..self.planes.outer.min((block + 1) * self.rows);
        (rows, part * self.channels..self.planes.channels.min((part + 1) * self.channels))
    }

    /// The elements of a piece, in as few spans as they lie in: whole rows are one.
    fn spans(&self, rows: Range<usize>, channels: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let (planes, first) = (self.planes, channels.start);
        let at_once = if channels.len() == planes.channels { rows.len().max(1) } else { 1 };
        let length = at_once * channels.len() * planes.inner;
        rows.step_by(at_once).map(move |row| {
            let start = planes.offset(row, first);
            start..start + length
        })
    }
}

pub(super) fn forward<T: Real>(size: usize, planes: Planes, knots: Knots<T>, x: &[T], c: &[T]) -> Result<Vec<T>> {
    let (pieces, of) = (Pieces::of_rows(planes), Units { size, inner: planes.inner, knots });
    let fill = |y: &mut [T]| {
        let y = SharedSlice::new(y);
        for_each_piece(pieces.count(), x.len(), |piece| {
            let (rows, channels) = pieces.of(piece);
            for elements in pieces.spans(rows, &channels) {
                // SAFETY: every row belongs to one piece only.
                let y = unsafe { y.part(elements.start, elements.len()) };
                forward_span(of, &x[elements], c, y);
            }
        });
        Ok(())
    };
    // SAFETY: the rows cover all elements, which are written only.
    unsafe { filled(x.len(), fill) }
}

/// (∂x, ∂c).
pub(super) fn backward<T: Real>(
    size: usize,
    planes: Planes,
    knots: Knots<T>,
    x: &[T],
    c: &[T],
    dy: &[T],
) -> Result<(Vec<T>, Vec<T>)> {
    let (pieces, of) = (Pieces::of_channels(planes, size), Units { size, inner: planes.inner, knots });
    let mut partial = vec![T::ZERO; pieces.blocks() * c.len()];
    let partials = SharedSlice::new(&mut partial);
    let fill = |dx: &mut [T]| {
        let dx = SharedSlice::new(dx);
        for_each_piece(pieces.count(), x.len(), |piece| {
            let (rows, channels) = pieces.of(piece);
            let coefficients = channels.start * size..channels.end * size;
            let first = rows.start / pieces.rows * c.len() + coefficients.start;
            // SAFETY: every block of rows has its own sums, of which a piece has those of its channels.
            let dc = unsafe { partials.part(first, coefficients.len()) };
            let c = &c[coefficients];
            for elements in pieces.spans(rows, &channels) {
                // SAFETY: every element belongs to one piece only.
                let dx = unsafe { dx.part(elements.start, elements.len()) };
                let (x, dy) = (&x[elements.clone()], &dy[elements]);
                backward_span(of, x, c, dy, dx, dc);
            }
        });
        Ok(())
    };
    // SAFETY: the pieces cover all elements, which are written only.
    let dx = unsafe { filled(x.len(), fill)? };
    Ok((dx, sum_of_blocks(partial, c.len())))
}

/// What elements are evaluated with.
#[derive(Clone, Copy)]
struct Units<T> {
    /// The knots of a channel.
    size: usize,
    /// The elements of a channel.
    inner: usize,
    knots: Knots<T>,
}

/// Calls `f` with each element's place, segment and position in it. There is one call, so that it is inlined, and with it compiled for
/// the instructions of the function around it.
#[inline(always)]
fn for_each_element<T: Real>(knots: Knots<T>, x: &[T], mut f: impl FnMut(usize, usize, T)) {
    let (mut block, mut index, mut t) = ([T::ZERO; BLOCK], [0i32; BLOCK], [T::ZERO; BLOCK]);
    for (k, x) in x.chunks(BLOCK).enumerate() {
        block[..x.len()].copy_from_slice(x);
        locate_block(knots, &block, &mut index, &mut t);
        for j in 0..x.len() {
            f(k * BLOCK + j, index[j] as usize, t[j]);
        }
    }
}

crate::vectorized! {
    fn forward_span<T>(of: Units<T>, x: &[T], c: &[T], y: &mut [T]) {
        let (channels, mut channel, mut pixel) = (c.len() / of.size, 0, 0);
        for_each_element(of.knots, x, |j, i, t| {
            let c = &c[channel * of.size + i..][..2];
            y[j] = t.mul_add(c[1] - c[0], c[0]);
            pixel += 1;
            if pixel == of.inner {
                (channel, pixel) = (if channel + 1 == channels { 0 } else { channel + 1 }, 0);
            }
        });
    }
}

crate::vectorized! {
    fn backward_span<T>(
        of: Units<T>,
        x: &[T],
        c: &[T],
        dy: &[T],
        dx: &mut [T],
        dc: &mut [T],
    ) {
        let (channels, mut channel, mut pixel) = (c.len() / of.size, 0, 0);
        for_each_element(of.knots, x, |j, i, t| {
            let first = channel * of.size + i;
            let (c, dc, dy) = (&c[first..][..2], &mut dc[first..][..2], dy[j]);
            dx[j] = dy * ((c[1] - c[0]) / of.knots.step);
            dc[0] += dy * (T::ONE - t);
            dc[1] += dy * t;
            pixel += 1;
            if pixel == of.inner {
                (channel, pixel) = (if channel + 1 == channels { 0 } else { channel + 1 }, 0);
            }
        });
    }
}
