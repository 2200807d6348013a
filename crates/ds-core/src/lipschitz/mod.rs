//! The Lipschitz constant of a network: exact for small ones ([`exact`]), certified from above ([`certified`]), from below with the
//! pair of inputs that shows it ([`empirical`]), and the papers' bound ([`bv2`]). A network is given as its layers ([`architecture`]),
//! or unrolled into matrices and functions of single numbers ([`piecewise_linear`]).

pub mod architecture;
pub mod bv2;
pub mod certified;
pub mod empirical;
pub mod exact;
pub mod piecewise_linear;
