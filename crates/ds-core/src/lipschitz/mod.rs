//! The Lipschitz constant of a network: exact for small ones ([`exact`]), certified from above ([`certified`]), from below with the
//! pair of inputs that shows it ([`empirical`]), and the papers' bound ([`bv2`]). A network is given as its layers ([`architecture`]),
//! or unrolled into matrices and functions of single numbers ([`piecewise_linear`]).

pub mod architecture;
pub mod bv2;
pub mod certified;
pub mod empirical;
pub mod exact;
pub mod piecewise_linear;

/// The larger of two numbers. NaN stays, so that no bound of a diverged run is finite.
pub(crate) fn larger(largest: f64, value: f64) -> f64 {
    if value <= largest || largest.is_nan() { largest } else { value }
}
