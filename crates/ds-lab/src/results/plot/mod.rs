//! Pictures of results, as SVG and PNG: what was learned, how training went, and what sweeps say.

pub mod activations;
pub mod axes;
pub mod basis;
pub mod bounds;
pub mod canvas;
mod contour;
pub mod curves;
pub mod decision;
pub mod fit;
pub mod functions;
pub mod grouping;
pub mod lambda;
pub mod palette;
pub mod parameters;
pub mod pieces;
pub mod pruning;
pub mod size;
pub mod spread;
mod square;

pub use canvas::{Canvas, Figure, to_png, to_svg};
