//! What the elements of one channel give to ∂c, added up by segment.

use crate::backend::real::Real;

/// Neighbouring elements go to different copies of the sums by segment, so that one addition need not wait for the last.
pub(super) const COPIES: usize = 8;

/// More segments than this have too many pairs for the first-level cache.
const MAX_FOR_PAIRS: usize = 64;

/// Σ ∂y and Σ ∂y·t over the elements of each segment.
///
/// To add an element to its segment takes a load and a store, most of what the backward pass costs. Two neighbours need one
/// load and one store together where there is a place for every pair of segments that they may be in.
#[derive(Debug, Clone, Default)]
pub struct Sums<T> {
    segments: usize,
    /// (Σ ∂y, Σ ∂y·t) of each segment, in `COPIES` copies.
    by_segment: Vec<T>,
    /// For every segment of the first of two neighbours a row: for every segment of the second (Σ ∂y, Σ ∂y·t) of the first and
    /// the same of the second. Empty where there are too few elements for it to pay.
    by_pair: Vec<T>,
}

/// Where a kernel adds.
pub(super) enum Place<'a, T> {
    /// [`COPIES`] copies of two sums for each segment.
    BySegment(&'a mut [T]),
    /// Rows of four sums for each pair, and one copy of two sums for each segment for elements without a neighbour.
    ByPair { pairs: &'a mut [T], row: usize, single: &'a mut [T] },
}

/// The numbers in a row of pairs, a multiple of 16.
fn row_of(segments: usize) -> usize {
    (4 * segments).next_multiple_of(16)
}

impl<T: Real> Sums<T> {
    pub(super) fn new(segments: usize, elements: usize) -> Self {
        let pays = segments <= MAX_FOR_PAIRS && elements >= 2 * segments * segments;
        Self {
            segments,
            by_segment: vec![T::ZERO; 2 * segments * if pays { 1 } else { COPIES }],
            by_pair: vec![T::ZERO; if pays { segments * row_of(segments) } else { 0 }],
        }
    }

    pub(super) fn place(&mut self, segments: usize) -> Place<'_, T> {
        assert_eq!(segments, self.segments, "sums of another grid");
        if self.by_pair.is_empty() {
            return Place::BySegment(&mut self.by_segment);
        }
        Place::ByPair { pairs: &mut self.by_pair, row: row_of(segments), single: &mut self.by_segment }
    }

    /// ∂c (K) += what the sums hold: ∂c_i takes Σ ∂y·(1−t) of segment i and ∂c_{i+1} takes Σ ∂y·t.
    pub fn merge_into(mut self, dc: &mut [T]) {
        assert_eq!(self.segments + 1, dc.len(), "sums of another grid");
        if !self.by_pair.is_empty() {
            add_pairs_to_segments(&self.by_pair, &mut self.by_segment);
        }
        for copy in self.by_segment.chunks_exact(2 * self.segments) {
            for (i, pair) in copy.as_chunks::<2>().0.iter().enumerate() {
                dc[i] += pair[0] - pair[1];
                dc[i + 1] += pair[1];
            }
        }
    }
}

crate::vectorized! {
    /// Rows of pairs to sums by segment (S, 2).
    fn add_pairs_to_segments<T>(by_pair: &[T], by_segment: &mut [T]) {
        /// Rows that are read side by side, so that sums over columns are stored once for all of them.
        const ROWS: usize = 4;
        let row = by_pair.len() / (by_segment.len() / 2);
        let mut columns = [[T::ZERO; 16]; MAX_FOR_PAIRS / 4];
        let (segments, _) = by_segment.as_chunks_mut::<2>();
        for (rows, firsts) in by_pair.chunks(ROWS * row).zip(segments.chunks_mut(ROWS)) {
            if let [a, b, c, d] = firsts {
                let (left, right) = rows.split_at(2 * row);
                let ((of_a, of_b), (of_c, of_d)) = (left.split_at(row), right.split_at(row));
                let [mut sum_a, mut sum_b, mut sum_c, mut sum_d] = [[T::ZERO; 16]; ROWS];
                let chunks = of_a.as_chunks::<16>().0.iter().zip(of_b.as_chunks::<16>().0);
                let chunks = chunks.zip(of_c.as_chunks::<16>().0.iter().zip(of_d.as_chunks::<16>().0));
                for (((a, b), (c, d)), column) in chunks.zip(&mut columns) {
                    for lane in 0..16 {
                        sum_a[lane] += a[lane];
                        sum_b[lane] += b[lane];
                        sum_c[lane] += c[lane];
                        sum_d[lane] += d[lane];
                        column[lane] += (a[lane] + b[lane]) + (c[lane] + d[lane]);
                    }
                }
                add_firsts(a, &sum_a);
                add_firsts(b, &sum_b);
                add_firsts(c, &sum_c);
                add_firsts(d, &sum_d);
            } else {
                for (first, row) in firsts.iter_mut().zip(rows.chunks(row)) {
                    for (chunk, column) in row.as_chunks::<16>().0.iter().zip(&mut columns) {
                        add_firsts(first, chunk);
                        for lane in 0..16 {
                            column[lane] += chunk[lane];
                        }
                    }
                }
            }
        }
        for (segment, pair) in segments.iter_mut().zip(columns.as_flattened().as_chunks::<4>().0) {
            segment[0] += pair[2];
            segment[1] += pair[3];
        }
    }
}

/// Adds what four pairs hold of their first neighbours.
#[inline(always)]
fn add_firsts<T: Real>(segment: &mut [T; 2], pairs: &[T; 16]) {
    for half in 0..2 {
        segment[half] += (pairs[half] + pairs[4 + half]) + (pairs[8 + half] + pairs[12 + half]);
    }
}
