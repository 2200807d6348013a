//! Sixteen images side by side: (N, C, H, W) as (N/16, C, H, W, 16).
//!
//! A vector then holds one pixel of sixteen images, so that windows of any size and stride read whole, aligned vectors and
//! no lane is spent on padding. Ops that go channel by channel see (N/16, C, …) and need not know.

use candle_core::{Result, Shape, bail};
use ds_core::backend::op::{Backward, CpuInput, Gradients, Op, dyn_op, gradient};
use ds_core::backend::parallel::{SharedSlice, filled, for_each_piece};
use ds_core::backend::real::Real;
use ds_core::graph::Graph;
use std::ops::Range;

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

/// The features of an image, if a shape is that of images in blocks, (N/16, C, H, W, 16).
pub(crate) fn features_in_blocks(shape: &Shape) -> Option<usize> {
    match *shape.dims() {
        [_, channels, height, width, LANES] => Some(channels * height * width),
        _ => None,
    }
}

/// (images, features) of a shape (N, …).
fn image_features(plain: &Shape) -> (usize, usize) {
    let dims = plain.dims();
    (dims[0], dims[1..].iter().product())
}

impl Op for ToBlocks {
    const NAME: &'static str = "to-blocks";
    const INPUTS: Range<usize> = 1..2;

    dyn_op!();

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        blocked_shape(inputs[0])
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        let (images, features) = image_features(inputs[0].shape());
        to_blocks(inputs[0].elements::<T>()?, images, features)
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        let (images, features) = image_features(pass.inputs[0].shape());
        Ok(gradient(from_blocks(pass.dy.elements::<T>()?, images, features)?))
    }
}

impl Op for FromBlocks {
    const NAME: &'static str = "from-blocks";
    const INPUTS: Range<usize> = 1..2;

    dyn_op!();

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        plain_shape(inputs[0])
    }

    fn cpu<T: Real>(&self, inputs: &[CpuInput<'_>]) -> Result<Vec<T>> {
        let (images, features) = image_features(&plain_shape(inputs[0].shape())?);
        from_blocks(inputs[0].elements::<T>()?, images, features)
    }

    fn cpu_backward<T: Real>(&self, pass: &Backward<'_, CpuInput<'_>>) -> Result<Gradients<Vec<T>>> {
        let (images, features) = image_features(&plain_shape(pass.inputs[0].shape())?);
        Ok(gradient(to_blocks(pass.dy.elements::<T>()?, images, features)?))
    }
}

/// Images in blocks if their number allows it and they are on the CPU, else as they are; convolutions and pools take both.
pub fn to_blocked_layout<G: Graph>(graph: &mut G, x: &G::Value) -> Result<G::Value> {
    match graph.tensor(x).dims() {
        // A GPU has no use for blocks.
        &[images, _, _, _] if images > 0 && images.is_multiple_of(LANES) && graph.tensor(x).device().is_cpu() => {
            graph.apply(ToBlocks, [x])
        }
        _ => Ok(x.clone()),
    }
}

/// Features (N, F) of what is in blocks or not, (N/16, …, 16) or (N, …).
pub fn flatten_features<G: Graph>(graph: &mut G, x: &G::Value) -> Result<G::Value> {
    let x = if graph.tensor(x).rank() == 5 { graph.apply(FromBlocks, [x])? } else { x.clone() };
    let dims = graph.tensor(&x).dims();
    let (images, features) = (dims[0], dims[1..].iter().product());
    graph.reshape(&x, &[images, features])
}
