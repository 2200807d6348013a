//! What follows a batch norm in its op.

use ds_core::Grid;

/// What follows the normalisation.
#[derive(Debug, Clone, Copy)]
pub enum Function {
    /// y = z.
    Identity,
    /// y = z where z > 0, slope·z elsewhere.
    Rectifier {
        /// 0 for ReLU.
        slope: f64,
    },
    /// The linear spline of each channel on this grid.
    Spline(Grid),
}

impl Function {
    /// Parameters of a channel: γ, β and the coefficients.
    pub(super) fn width(self) -> usize {
        match self {
            Self::Spline(grid) => 2 + grid.size(),
            Self::Identity | Self::Rectifier { .. } => 2,
        }
    }
}
