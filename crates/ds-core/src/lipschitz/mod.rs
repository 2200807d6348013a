//! Bounds of the Lipschitz constant of a network, composed from what its layers tell.

pub mod architecture;
pub mod bv2;
pub mod certified;
