//! Bounds of the Lipschitz constant on a region of inputs.

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
    Ok(local_bounds(network, std::slice::from_ref(region))?.into_iter().fold(0.0, f64::max))
}

/// The same for each of several regions.
///
/// # Errors
/// As [`slopes`](super::slopes()).
pub fn local_bounds(network: &PiecewiseLinear, regions: &[Region]) -> Result<Vec<f64>> {
    let everywhere = on_region(network, &Region::All)?;
    // Where few slopes are known, sums of parts can be above what holds everywhere.
    regions.iter().map(|region| Ok(on_region(network, region)?.min(everywhere))).collect()
}

fn on_region(network: &PiecewiseLinear, region: &Region) -> Result<f64> {
    let (slopes, paths) = with_paths(network, region)?;
    let slopes = that_matter(network, &slopes);
    Ok(match (paths, slopes.last()) {
        (Some(mut paths), Some(last)) => {
            paths.pass(last, &network.output.weight);
            paths.norm()
        }
        _ => paths::bound(network, &slopes),
    })
}
