//! Sixteen images side by side: (N, C, H, W) as (N/16, C, H, W, 16).
//!
//! A vector then holds one pixel of sixteen images, so that windows of any size and stride read whole, aligned vectors and
//! no lane is spent on padding. Ops that go channel by channel see (N/16, C, …) and need not know.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use ds_core::dispatch_real;
use ds_core::graph::Graph;
use ds_core::ops::parallel::{SharedSlice, filled, for_each_piece};
use ds_core::ops::pointwise::{real_dtype, tensor_of};
use ds_core::ops::real::{Real, elements, with_elements};

/// Images of a block.
pub const LANES: usize = 16;

/// Features that go from one layout to the other at a time.
const TILE: usize = 256;

/// (N, F) → (⌈N/16⌉, F, 16); images that are missing from the last block are zeros.
pub(crate) fn to_blocks<T: Real>(x: &[T], images: usize, features: usize) -> Result<Vec<T>> {
    let (blocks, tiles) = (images.div_ceil(LANES), features.div_ceil(TILE));
    let fill = |y: &mut [T]| {
        let y = SharedSlice::new(y);
        for_each_piece(blocks * tiles, x.len(), |piece| {
            let (block, first) = (piece / tiles, piece % tiles * TILE);
            let end = features.min(first + TILE);
            // SAFETY: every tile of every block is visited once.
            let y = unsafe { y.part((block * features + first) * LANES, (end - first) * LANES) };
            if images < (block + 1) * LANES {
                y.fill(T::ZERO);
            }
            for (lane, image) in (block * LANES..images.min((block + 1) * LANES)).enumerate() {
                let row = &x[image * features + first..image * features + end];
                for (y, &x) in y.chunks_exact_mut(LANES).zip(row) {
                    y[lane] = x;
                }
            }
        });
        Ok(())
    };
    // SAFETY: the tiles cover all elements, and lanes without an image are zeroed first.
    unsafe { filled(blocks * features * LANES, fill) }
}

/// (⌈N/16⌉, F, 16) → (N, F).
pub(crate) fn from_blocks<T: Real>(x: &[T], images: usize, features: usize) -> Result<Vec<T>> {
    let tiles = features.div_ceil(TILE);
    let fill = |y: &mut [T]| {
        let y = SharedSlice::new(y);
        for_each_piece(images.div_ceil(LANES) * tiles, x.len(), |piece| {
            let (block, first) = (piece / tiles, piece % tiles * TILE);
            let end = features.min(first + TILE);
            let x = &x[(block * features + first) * LANES..(block * features + end) * LANES];
            for (lane, image) in (block * LANES..images.min((block + 1) * LANES)).enumerate() {
                // SAFETY: every tile of every image is visited once.
                let row = unsafe { y.part(image * features + first, end - first) };
                for (y, x) in row.iter_mut().zip(x.chunks_exact(LANES)) {
                    *y = x[lane];
                }
            }
        });
        Ok(())
    };
    // SAFETY: the tiles cover all rows.
    unsafe { filled(images * features, fill) }
}

/// (N, C, H, W) → (N/16, C, H, W, 16), for N a multiple of 16.
#[derive(Debug, Clone, Copy)]
pub struct ToBlocks;

/// (B, …, 16) → (16·B, …).
#[derive(Debug, Clone, Copy)]
pub struct FromBlocks;

fn blocked_shape(plain: &Shape) -> Result<Shape> {
    match plain.dims() {
        [images, features @ ..] if images.is_multiple_of(LANES) => {
            Ok(Shape::from([&[images / LANES], features, &[LANES]].concat()))
        }
        dims => bail!("to-blocks: {dims:?} is no multiple of {LANES} images"),
    }
}

fn plain_shape(blocked: &Shape) -> Result<Shape> {
    match blocked.dims() {
        [blocks, features @ .., LANES] => Ok(Shape::from([&[blocks * LANES], features].concat())),
        dims => bail!("from-blocks: expected (B, …, {LANES}), got {dims:?}"),
    }
}

/// (images, features) of a shape (N, …).
fn image_features(plain: &Shape) -> (usize, usize) {
    let dims = plain.dims();
    (dims[0], dims[1..].iter().product())
}

impl CustomOp1 for ToBlocks {
    fn name(&self) -> &'static str {
        "to-blocks"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let (shape, (images, features)) = (blocked_shape(l.shape())?, image_features(l.shape()));
        let y = dispatch_real!(real_dtype(x, self.name())?, self.name(), T => {
            Ok(T::to_cpu_storage_owned(to_blocks(elements::<T>(x, l)?, images, features)?))
        })?;
        Ok((y, shape))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (images, features) = image_features(x.shape());
        dispatch_real!(x.dtype(), self.name(), T => {
            let dx = with_elements::<T, _>(dy, |dy| from_blocks(dy, images, features))?;
            Ok(Some(tensor_of(dx, x.shape())))
        })
    }
}

impl CustomOp1 for FromBlocks {
    fn name(&self) -> &'static str {
        "from-blocks"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let shape = plain_shape(l.shape())?;
        let (images, features) = image_features(&shape);
        let y = dispatch_real!(real_dtype(x, self.name())?, self.name(), T => {
            Ok(T::to_cpu_storage_owned(from_blocks(elements::<T>(x, l)?, images, features)?))
        })?;
        Ok((y, shape))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (images, features) = image_features(&plain_shape(x.shape())?);
        dispatch_real!(x.dtype(), self.name(), T => {
            let dx = with_elements::<T, _>(dy, |dy| to_blocks(dy, images, features))?;
            Ok(Some(tensor_of(dx, x.shape())))
        })
    }
}

/// Images in blocks if their number allows it and they are on the CPU, else as they are; convolutions and pools take both.
///
/// # Errors
/// On Candle's errors.
pub fn enter<G: Graph>(graph: &mut G, x: &G::Value) -> Result<G::Value> {
    match graph.tensor(x).dims() {
        // A GPU has no use for blocks.
        &[images, _, _, _] if images > 0 && images.is_multiple_of(LANES) && graph.tensor(x).device().is_cpu() => {
            graph.apply1(ToBlocks, x)
        }
        _ => Ok(x.clone()),
    }
}

/// Features (N, F) of what is in blocks or not, (N/16, …, 16) or (N, …).
///
/// # Errors
/// On Candle's errors.
pub fn leave<G: Graph>(graph: &mut G, x: &G::Value) -> Result<G::Value> {
    let x = if graph.tensor(x).rank() == 5 { graph.apply1(FromBlocks, x)? } else { x.clone() };
    let dims = graph.tensor(&x).dims();
    let (images, features) = (dims[0], dims[1..].iter().product());
    graph.reshape(&x, &[images, features])
}
