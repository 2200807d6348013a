//! Bounds of the Lipschitz constant on a region of inputs.

use super::multipliers;
use super::network::by_subproblems;
use super::paths::{self, that_matter};
use super::region::Region;
use super::slopes::with_paths;
use crate::lipschitz::piecewise_linear::PiecewiseLinear;
use candle_core::Result;

/// An upper bound of the Lipschitz constant in ℓ2 of a network on a region: for no two inputs x, y of it is ‖f(x) − f(y)‖₂ larger
/// than that times ‖x − y‖₂.
///
/// The slopes that the functions can have on the region ([`slopes`](super::slopes())) bound the Jacobian, which is never above the bound for
/// all inputs. Small regions leave most slopes known, and in a region where all are, the bound is the norm of the Jacobian.
/// It is of the network as it is given; [`PiecewiseLinear::new`] rounds where it multiplies layers.
///
/// ```
/// use ds_core::lipschitz::certified::{Region, local_bound};
/// use ds_core::lipschitz::piecewise_linear::{Affine, Function, Layer, Matrix, PiecewiseLinear};
/// // |x + 1| − |x − 1| is level outside of [−1, 1].
/// let network = PiecewiseLinear {
///     inputs: 1,
///     layers: vec![Layer {
///         affine: Affine { weight: Matrix::new(2, 1, vec![1.0, 1.0]), bias: vec![1.0, -1.0] },
///         functions: vec![Function::absolute().into(), Function::absolute().into()],
///     }],
///     output: Affine { weight: Matrix::new(1, 2, vec![1.0, -1.0]), bias: vec![0.0] },
/// };
/// let near = |x: f64| local_bound(&network, &Region::Ball { centre: vec![x], radius: 0.5 });
/// assert!((near(0.0)? - 2.0).abs() < 1e-6);
/// assert!(near(3.0)? < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`slopes`](super::slopes()).
pub fn local_bound(network: &PiecewiseLinear, region: &Region) -> Result<f64> {
    LocalBounds::new(network)?.on(region)
}

/// Bounds of one network on several regions ([`local_bound`]).
#[derive(Debug, Clone)]
pub struct LocalBounds<'a> {
    network: &'a PiecewiseLinear,
    everywhere: f64,
}

impl<'a> LocalBounds<'a> {
    /// Computes the bound for all inputs, which no other is above.
    ///
    /// # Errors
    /// If a parameter of the network is not finite.
    pub fn new(network: &'a PiecewiseLinear) -> Result<Self> {
        let of_slopes = bound(network, &Region::All)?;
        Ok(Self { network, everywhere: by_subproblems(network)?.map_or(of_slopes, |bound| bound.min(of_slopes)) })
    }

    /// The bound for all inputs.
    pub fn everywhere(&self) -> f64 {
        self.everywhere
    }

    /// The bound on a region.
    ///
    /// # Errors
    /// As [`local_bound`].
    pub fn on(&self, region: &Region) -> Result<f64> {
        // Where few slopes are known, sums of parts can be above what holds everywhere.
        Ok(bound(self.network, region)?.min(self.everywhere))
    }
}

fn bound(network: &PiecewiseLinear, region: &Region) -> Result<f64> {
    let (slopes, paths) = with_paths(network, region)?;
    let slopes = that_matter(network, &slopes);
    let of_paths = match (paths, slopes.last()) {
        (Some(mut paths), Some(last)) => {
            paths.pass(last, &network.output.weight);
            paths.norm()
        }
        _ => paths::bound(network, &slopes),
    };
    Ok(of_paths.min(multipliers::bound(network, &slopes)))
}
