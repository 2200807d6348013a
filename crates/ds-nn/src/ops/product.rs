//! Matrix products.

use ds_core::backend::parallel::{SharedSlice, for_each_piece};
use ds_core::backend::real::Real;

/// `out` (m, n) = (or += with `add`) a (m, k) · b (k, n); matrices as (data, row stride, column stride), `out` row-major.
pub(super) fn product<T: Real>(
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

/// From so many multiplications on a product is worth a second thread.
const SHARED_FROM: usize = 1 << 22;
/// Strips of rows that a large product is cut into, whatever the number of threads.
const STRIPS: usize = 4;

/// a (m, k) · b (k, n), row-major, with the rows shared out to threads where that is worth it; matrices as for [`product`].
pub(super) fn shared_product(
    (m, n, k): (usize, usize, usize),
    (a, a_row, a_column): (&[f64], usize, usize),
    b: (&[f64], usize, usize),
) -> Vec<f64> {
    let mut out = vec![0.0; m * n];
    let strips = if m * n * k < SHARED_FROM { 1 } else { STRIPS.min(m) };
    let rows = m.div_ceil(strips.max(1)).max(1);
    let shared = SharedSlice::new(&mut out);
    for_each_piece(m.div_ceil(rows), m * n * k, |strip| {
        let first = strip * rows;
        let count = rows.min(m - first);
        // SAFETY: strips do not overlap.
        let out = unsafe { shared.part(first * n, count * n) };
        product(count, n, k, out, false, (&a[(first * a_row).min(a.len())..], a_row, a_column), b);
    });
    out
}
