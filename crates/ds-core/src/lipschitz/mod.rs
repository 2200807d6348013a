//! Bounds of the Lipschitz constant of a network: the papers' ([`bv2`]) and a certified one ([`certified`]) from above, both
//! composed from its layers ([`architecture`]), and one from below with the pair of inputs that shows it ([`empirical`]). With one or
//! two inputs the constant itself ([`exact`]).

pub mod architecture;
pub mod bv2;
pub mod certified;
pub mod empirical;
pub mod exact;
pub mod piecewise_linear;
