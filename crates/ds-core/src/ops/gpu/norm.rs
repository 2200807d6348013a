//! The gradients of the norms of all spline layers in one launch.

use super::{Address, Argument, Blocks, Gpu};
use crate::Grid;
use candle_core::Result;

/// How a layer is parametrised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parametrization {
    /// Coefficients.
    Coefficients = 0,
    /// Coefficients and a linear term.
    ExplicitLinear = 1,
    /// Slope changes and a linear term.
    SlopeChanges = 2,
}

/// A layer whose norm is penalised.
#[derive(Debug, Clone, Copy)]
pub struct NormLayer {
    /// Its parametrisation.
    pub parametrization: Parametrization,
    /// Its grid.
    pub grid: Grid,
    /// Its functions.
    pub channels: usize,
    /// The weight of the norm.
    pub weight: f64,
    /// Coefficients (C, K) or slope changes (C, K−2).
    pub knots: Address,
    /// Their gradient, to be added to.
    pub gradient: Address,
    /// b1 and b0, if there is a linear term.
    pub linear: [Address; 2],
    /// Their gradients, if wanted.
    pub linear_gradient: [Address; 2],
}

impl NormLayer {
    /// As the kernel has it.
    fn words(&self) -> [u64; 13] {
        let [(i0, t0), (i1, t1)] = [0.0, 1.0].map(|x| self.grid.locate(x));
        let pair = |low: usize, high: usize| low as u64 | (high as u64) << 32;
        let ([b1, b0], [db1, db0]) = (self.linear, self.linear_gradient);
        [
            self.knots.0,
            self.gradient.0,
            b1.0,
            b0.0,
            db1.0,
            db0.0,
            self.weight.to_bits(),
            self.grid.step().to_bits(),
            t0.to_bits(),
            t1.to_bits(),
            pair(i0, i1),
            pair(self.channels, self.grid.size()),
            self.parametrization as u64,
        ]
    }
}

/// Layers of a launch.
const LAYERS: usize = 36;

/// Adds weight·∂TV², or weight·∂BV², to the gradients of all layers.
///
/// # Safety
/// All addresses must be those of arrays of these sizes.
///
/// # Errors
/// Those of the device.
pub unsafe fn add_gradients<G: Gpu>(gpu: &G, layers: &[NormLayer], bv2: bool) -> Result<()> {
    for some in layers.chunks(LAYERS) {
        let mut words: Vec<u64> = some.iter().flat_map(NormLayer::words).collect();
        words.resize(LAYERS * 13, 0);
        let most = some.iter().map(|layer| layer.channels * layer.grid.size()).max().unwrap_or(0);
        let blocks = Blocks { grid: (some.len(), most.div_ceil(Blocks::THREADS)), threads: Blocks::THREADS, shared: 0 };
        // SAFETY: the kernel's arguments; a layer's block stays in its arrays.
        unsafe { gpu.launch("norm_gradient", blocks, &[Argument::Struct(&words), Argument::Int(i32::from(bv2))])? };
    }
    Ok(())
}
