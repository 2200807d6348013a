//! Exact Lipschitz constants: of networks with one or two inputs from all their linear pieces ([`constant`]), of small networks with
//! more inputs by branch and bound ([`branch_and_bound`]).
//!
//! The polygon of the inputs is cut by the kinks of each neuron in turn: in a piece of all neurons before it a pre-activation is
//! affine, and its knots are parallel lines (as in Hanin & Rolnick 2019, who count the pieces). On which side of a line a corner
//! lies is decided in f64 where rounding leaves no doubt, and in exact arithmetic elsewhere. So a piece is there if and only if
//! it has inner points, however thin it is and however many kinks meet in a point.

mod arrangement;
mod branch;
mod domain;
mod dyadic;
mod lines;
mod norm;
mod pieces;
mod polygon;
mod witness;

pub use branch::{Bracket, Limits, branch_and_bound};
pub use domain::Domain;
pub use pieces::{Corner, Piece, pieces};

use super::bv2::Exponent;
use super::piecewise_linear::PiecewiseLinear;
use candle_core::{Result, bail};
use witness::Pair;

/// The Lipschitz constant of a network: lower ≤ truth ≤ upper, and as a rule upper ≤ lower·(1 + 1e-6).
#[derive(Debug, Clone, PartialEq)]
pub struct Exact {
    /// ‖f(x) − f(y)‖/‖x − y‖ of the pair, rounded down.
    pub lower: f64,
    /// At least the largest norm of a Jacobian.
    pub upper: f64,
    /// A point inside the steepest piece.
    pub x: Vec<f64>,
    /// Another one, in the direction in which the piece is steepest.
    pub y: Vec<f64>,
    /// The number of linear pieces.
    pub pieces: u64,
}

/// The Lipschitz constant of a network of one or two inputs, from ℓp to ℓp: the largest operator norm of the Jacobians of its
/// linear pieces.
///
/// A piece is a set of inputs, with inner points, in which every function of the network stays in one of its linear pieces; so
/// two pieces that lie side by side may have the same Jacobian. A pre-activation that is constant on a knot is in the piece left
/// of it. Functions that jump at their knots by rounding errors are taken as if they did not.
///
/// The bounds are apart only where the steepest piece is too thin for two points in f64: where many kinks meet in a point but for
/// the rounding of biases, for example, there are triangles of that size between them.
///
/// # Errors
/// As for [`pieces`], or if no piece holds two points in f64.
pub fn constant(network: &PiecewiseLinear, p: Exponent, domain: &Domain) -> Result<Exact> {
    constant_unless(network, p, domain, |_| Ok(()))
}

/// [`constant`], with a look at the number of each piece that may end it.
///
/// # Errors
/// As for [`constant`], or if `check` fails.
pub fn constant_unless(
    network: &PiecewiseLinear,
    p: Exponent,
    domain: &Domain,
    mut check: impl FnMut(u64) -> Result<()>,
) -> Result<Exact> {
    let (mut count, mut upper, mut best) = (0, 0.0, None::<Pair>);
    let pieces = pieces::enumerate(network, domain, &mut |arrangement, polygon| {
        count += 1;
        check(count)?;
        let (mut norm, mut error) = norm::norm(arrangement.rows(), p);
        let found = best.as_ref().map_or(-1.0, |pair| pair.quotient);
        // The norm of most pieces is far below the largest, and its error of no concern.
        if norm + error <= found {
            return Ok(());
        }
        let mut rows = None;
        if error > 1e-9 * norm {
            let exact = arrangement.exact_rows();
            (norm, error) = norm::norm(exact.iter().copied(), p);
            rows = Some(exact);
        }
        // Infinite where it is no number.
        upper = if norm + error <= upper { upper } else { (norm + error).min(f64::INFINITY) };
        if norm > found * (1.0 + 1e-9) {
            let rows = rows.unwrap_or_else(|| arrangement.rows().collect());
            let pair = witness::pair(arrangement, polygon, &rows, p, network.inputs);
            if let Some(pair) = pair.filter(|pair| pair.quotient > found) {
                best = Some(pair);
            }
        }
        Ok(())
    })?;
    let Some(Pair { quotient, x, y }) = best else { bail!("exact constant: no piece holds two points in f64") };
    // All pieces that were passed over are below the quotient.
    Ok(Exact { lower: quotient.max(0.0), upper: f64::max(upper, quotient), x, y, pieces })
}
