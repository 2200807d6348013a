//! Pools over the planes of a layer.

use crate::ops::Window;
use crate::ops::blocks::flatten_features;
use crate::ops::pool::AveragePool;
use candle_core::{Result, bail};
use ds_core::graph::Graph;

/// (N, C, H, H), in blocks or not, → (N, C): the mean over each plane.
pub(super) fn average_over_planes<G: Graph>(graph: &mut G, x: &G::Value) -> Result<G::Value> {
    let (height, width) = match *graph.tensor(x).dims() {
        [_, _, height, width] | [_, _, height, width, _] => (height, width),
        _ => bail!("average over planes: expected (N, C, H, W), got {:?}", graph.tensor(x).shape()),
    };
    if height != width {
        bail!("average over planes: expected square planes, got {height}×{width}");
    }
    let mean = graph.apply(AveragePool(Window { kernel: height, stride: height, padding: 0 }), [x])?;
    flatten_features(graph, &mean)
}
