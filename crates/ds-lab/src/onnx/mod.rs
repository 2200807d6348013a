//! Networks in evaluation mode as ONNX files: standard ops of opset 17, any batch size.
//!
//! Batch norms are folded into the convolutions before them, 1-Lipschitz layers have their effective weights, and splines are exact
//! up to the rounding of f32.

mod graph;
mod layers;
pub mod proto;
mod spline;

use crate::files::write_atomically;
use anyhow::{Context, Result};
use ds_nn::Network;
use graph::{Builder, INPUT};
use layers::Flow;
use prost::Message;
use proto::{ModelProto, OperatorSetIdProto, StringStringEntryProto};
use std::collections::HashMap;
use std::path::Path;

/// The version of the operators.
const OPSET: i64 = 17;
/// The version of the file format that came with them.
const IR_VERSION: i64 = 8;

/// The network as a model from `input` (N, …), with samples of this shape, to `output` (N, outputs): logits for classes. Inputs are
/// normalised as in training.
///
/// # Errors
/// If the parameters cannot be read.
pub fn model(network: &Network, sample: &[usize], metadata: HashMap<String, String>) -> Result<ModelProto> {
    let mut graph = Builder::default();
    let channels = sample.first().copied().unwrap_or(1);
    let input = Flow { name: INPUT.to_owned(), rank: 1 + sample.len(), channels };
    let output = layers::add(&mut graph, "", &network.layers, input)?;
    let mut metadata_props: Vec<_> =
        metadata.into_iter().map(|(key, value)| StringStringEntryProto { key, value }).collect();
    metadata_props.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(ModelProto {
        ir_version: IR_VERSION,
        producer_name: "deep-splines".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(graph.finish(sample, &output.name, output.channels)),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        metadata_props,
    })
}

/// Writes [`model`] to a file.
///
/// # Errors
/// As for [`model`], or if the file cannot be written.
pub fn write(path: &Path, network: &Network, sample: &[usize], metadata: HashMap<String, String>) -> Result<()> {
    let bytes = model(network, sample, metadata).context("the network as ONNX")?.encode_to_vec();
    Ok(write_atomically(path, |file| file.write_all(&bytes))?)
}
