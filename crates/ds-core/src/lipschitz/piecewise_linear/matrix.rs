//! Dense matrices of f64, row by row.

/// A matrix (rows, columns).
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    rows: usize,
    columns: usize,
    data: Vec<f64>,
}

impl Matrix {
    /// From its elements, row by row.
    ///
    /// # Panics
    /// If there are not rows·columns elements.
    pub fn new(rows: usize, columns: usize, data: Vec<f64>) -> Self {
        assert_eq!(data.len(), rows * columns, "a matrix of {rows} × {columns}");
        Self { rows, columns, data }
    }

    /// All elements 0.
    pub fn zeros(rows: usize, columns: usize) -> Self {
        Self { rows, columns, data: vec![0.0; rows * columns] }
    }

    /// Ones on the diagonal.
    pub fn identity(n: usize) -> Self {
        let mut identity = Self::zeros(n, n);
        (0..n).for_each(|k| identity.data[k * (n + 1)] = 1.0);
        identity
    }

    /// Rows and columns.
    pub fn dims(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// The elements, row by row.
    pub fn data(&self) -> &[f64] {
        &self.data
    }

    /// The same, to be changed.
    pub fn data_mut(&mut self) -> &mut [f64] {
        &mut self.data
    }

    /// A row.
    pub fn row(&self, row: usize) -> &[f64] {
        &self.data[row * self.columns..(row + 1) * self.columns]
    }

    /// A row, to be changed.
    pub fn row_mut(&mut self, row: usize) -> &mut [f64] {
        &mut self.data[row * self.columns..(row + 1) * self.columns]
    }

    /// All rows; they are empty for a matrix without columns.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f64]> {
        (0..self.rows).map(|row| self.row(row))
    }

    /// The transposed matrix.
    pub fn transposed(&self) -> Self {
        let mut out = Self::zeros(self.columns, self.rows);
        for (i, row) in self.rows().enumerate() {
            row.iter().enumerate().for_each(|(j, &value)| out.data[j * self.rows + i] = value);
        }
        out
    }

    /// Every row times its factor.
    pub fn scale_rows(&mut self, factors: &[f64]) {
        for (row, factor) in factors.iter().enumerate().take(self.rows) {
            self.row_mut(row).iter_mut().for_each(|value| *value *= factor);
        }
    }

    /// Every column times its factor.
    pub fn scale_columns(&mut self, factors: &[f64]) {
        for row in 0..self.rows {
            self.row_mut(row).iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
        }
    }

    /// self·other.
    ///
    /// # Panics
    /// If the inner dimensions differ.
    pub fn times(&self, other: &Self) -> Self {
        assert_eq!(self.columns, other.rows, "inner dimensions of a product");
        product((self, false), (other, false))
    }

    /// self·x.
    pub fn times_vector(&self, x: &[f64]) -> Vec<f64> {
        self.rows().map(|row| row.iter().zip(x).map(|(a, x)| a * x).sum()).collect()
    }

    /// selfᵀ·other.
    ///
    /// # Panics
    /// If they do not have as many rows.
    pub fn transposed_times(&self, other: &Self) -> Self {
        assert_eq!(self.rows, other.rows, "inner dimensions of a product");
        product((self, true), (other, false))
    }

    /// self·otherᵀ.
    ///
    /// # Panics
    /// If they do not have as many columns.
    pub fn times_transposed(&self, other: &Self) -> Self {
        assert_eq!(self.columns, other.columns, "inner dimensions of a product");
        product((self, false), (other, true))
    }
}

/// The product of two matrices, each transposed or not.
fn product((a, a_transposed): (&Matrix, bool), (b, b_transposed): (&Matrix, bool)) -> Matrix {
    // Strides from row to row and from column to column.
    let view = |m: &Matrix, transposed: bool| {
        let (columns, one) = (m.columns as isize, 1isize);
        if transposed { (m.columns, m.rows, one, columns) } else { (m.rows, m.columns, columns, one) }
    };
    let (rows, inner, a_row, a_column) = view(a, a_transposed);
    let (_, columns, b_row, b_column) = view(b, b_transposed);
    let mut out = Matrix::zeros(rows, columns);
    if rows * columns * inner == 0 {
        return out;
    }
    // SAFETY: `out` has rows·columns elements, and the strides stay inside the data of both factors, whose length is that
    // of their dimensions.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            out.data.as_mut_ptr(),
            1,
            columns as isize,
            false,
            a.data.as_ptr(),
            a_column,
            a_row,
            b.data.as_ptr(),
            b_column,
            b_row,
            0.0,
            1.0,
            false,
            false,
            false,
            // Each element is summed by one thread, so that threads change no bit.
            if rows * columns * inner > 1 << 22 { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None },
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_sums_of_products() {
        let a = Matrix::new(2, 3, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let b = Matrix::new(3, 2, vec![1.0, 0.0, 2.0, 1.0, 0.0, 3.0]);
        let ab = Matrix::new(2, 2, vec![5.0, 11.0, 14.0, 23.0]);
        assert_eq!(a.times(&b), ab);
        assert_eq!(a.transposed().transposed_times(&b), ab);
        assert_eq!(a.times_transposed(&b.transposed()), ab);
        assert_eq!(a.times(&Matrix::identity(3)), a);
    }
}
