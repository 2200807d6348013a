//! Exported graphs: each node is evaluated in f64 as ONNX defines its operator, and the output is that of the network.
//!
//! `benches/exchange.py` does the same with onnxruntime.
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Tensor};
use ds_core::activation::{ActivationConfig, ActivationKind};
use ds_core::graph::Graph;
use ds_core::{Group, Result};
use ds_lab::onnx::model;
use ds_lab::onnx::proto::{ModelProto, NodeProto, TensorProto};
use ds_nn::Network;
use ds_nn::layers::{Constraint, Mode};
use ds_nn::networks::{Images, LipschitzConv, area, convnet, lipschitz, lipschitz_conv, nin, resnet32};
use ds_nn::rng::{Purpose, Seed};
use ds_nn::tape::Tape;
use prost::Message;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeSet, HashMap};

/// A constant in f64; integers are exact there.
fn constant(tensor: &TensorProto) -> Tensor {
    let dims: Vec<usize> = tensor.dims.iter().map(|&dim| dim as usize).collect();
    let values: Vec<f64> = match tensor.data_type {
        TensorProto::FLOAT => tensor.raw_data.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
        TensorProto::INT32 => tensor.raw_data.as_chunks().0.iter().map(|b| f64::from(i32::from_le_bytes(*b))).collect(),
        TensorProto::INT64 => tensor.raw_data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
        other => panic!("type {other}"),
    };
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

fn ints(node: &NodeProto, name: &str) -> Vec<usize> {
    let attribute = node.attribute.iter().find(|attribute| attribute.name == name);
    attribute.map(|attribute| attribute.ints.iter().map(|&i| i as usize).collect()).unwrap_or_default()
}

fn int(node: &NodeProto, name: &str, usual: i64) -> i64 {
    node.attribute.iter().find(|attribute| attribute.name == name).map_or(usual, |attribute| attribute.i.unwrap())
}

fn float(node: &NodeProto, name: &str) -> f64 {
    f64::from(node.attribute.iter().find(|attribute| attribute.name == name).unwrap().f.unwrap())
}

/// Largest values or means of windows.
fn pool(x: &Tensor, node: &NodeProto, is_max: bool) -> Tensor {
    let (kernel, stride, pad) = (ints(node, "kernel_shape")[0], ints(node, "strides")[0], ints(node, "pads")[0]);
    assert!(is_max || int(node, "count_include_pad", 0) == 1);
    let (n, c, h, w) = x.dims4().unwrap();
    let planes = x.reshape((n * c, h, w)).unwrap().to_vec3::<f64>().unwrap();
    let size = |side: usize| (side + 2 * pad - kernel) / stride + 1;
    let mut y = Vec::new();
    for plane in &planes {
        for (i, j) in (0..size(h)).flat_map(|i| (0..size(w)).map(move |j| (i, j))) {
            let inside = |at: usize, k: usize, side: usize| (at * stride + k).checked_sub(pad).filter(|&at| at < side);
            let window = (0..kernel).flat_map(|a| (0..kernel).map(move |b| (a, b)));
            let values = window.filter_map(|(a, b)| Some(plane[inside(i, a, h)?][inside(j, b, w)?]));
            y.push(if is_max {
                values.fold(f64::MIN, f64::max)
            } else {
                values.sum::<f64>() / (kernel * kernel) as f64
            });
        }
    }
    Tensor::from_vec(y, (n, c, size(h), size(w)), &Device::Cpu).unwrap()
}

fn evaluate(node: &NodeProto, inputs: &[&Tensor]) -> candle_core::Result<Tensor> {
    let x = inputs[0];
    match node.op_type.as_str() {
        "Conv" => {
            let (stride, pad) = (ints(node, "strides"), ints(node, "pads"));
            let (stride, pad) = (stride.first().copied().unwrap_or(1), pad.first().copied().unwrap_or(0));
            let y = x.conv2d(inputs[1], pad, stride, 1, int(node, "group", 1) as usize)?;
            match inputs.get(2) {
                Some(bias) => y.broadcast_add(&bias.reshape(((), 1, 1))?),
                None => Ok(y),
            }
        }
        "Gemm" => {
            assert_eq!(int(node, "transB", 0), 1);
            let y = x.matmul(&inputs[1].t()?)?;
            inputs.get(2).map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))
        }
        "Add" => x.broadcast_add(inputs[1]),
        "Sub" => x.broadcast_sub(inputs[1]),
        "Mul" => x.broadcast_mul(inputs[1]),
        "Relu" => x.relu(),
        "Abs" => x.abs(),
        "LeakyRelu" => x.maximum(&(x * float(node, "alpha"))?),
        "PRelu" => x.relu()? - x.neg()?.relu()?.broadcast_mul(inputs[1])?,
        "Clip" => x.broadcast_maximum(inputs[1])?.broadcast_minimum(inputs[2]),
        // To integers: towards 0.
        "Cast" => x.to_dtype(DType::I64)?.to_dtype(DType::F64),
        "Gather" => {
            let axis = int(node, "axis", 0) as usize;
            let indices = inputs[1].to_dtype(DType::U32)?;
            let picked = x.contiguous()?.index_select(&indices.flatten_all()?, axis)?;
            let dims = [&x.dims()[..axis], indices.dims(), &x.dims()[axis + 1..]].concat();
            picked.reshape(dims)
        }
        "Concat" => Tensor::cat(inputs, int(node, "axis", 0) as usize),
        "Flatten" => x.flatten_from(1),
        "GlobalAveragePool" => x.mean_keepdim((2, 3)),
        "MaxPool" => Ok(pool(x, node, true)),
        "AveragePool" => Ok(pool(x, node, false)),
        other => panic!("operator {other}"),
    }
}

fn run(model: &ModelProto, x: &Tensor) -> Tensor {
    let graph = model.graph.as_ref().unwrap();
    assert_eq!((graph.input.len(), graph.output.len()), (1, 1));
    let mut values: HashMap<&str, Tensor> = graph.initializer.iter().map(|t| (t.name.as_str(), constant(t))).collect();
    values.insert(&graph.input[0].name, x.to_dtype(DType::F64).unwrap());
    let mut names = BTreeSet::new();
    for node in &graph.node {
        assert!(names.insert(&node.name), "{} is there twice", node.name);
        let inputs: Vec<&Tensor> = node.input.iter().map(|name| &values[name.as_str()]).collect();
        let y = evaluate(node, &inputs).unwrap();
        assert!(values.insert(&node.output[0], y).is_none(), "{} is computed twice", node.output[0]);
    }
    values[graph.output[0].name.as_str()].clone()
}

/// Splines with a kink at every so many knots, and other parameters that are not those of the start.
fn disturb(network: &Network, rng: &mut ChaCha8Rng, every: usize) {
    for parameter in network.parameters() {
        let (var, name) = (&parameter.var, &parameter.name);
        let mut values = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        match (parameter.group, *var.dims().last().unwrap()) {
            (Group::Splines, size) if name.ends_with("coefficients") => {
                for row in values.chunks_mut(size) {
                    let (mut slope, mut value) = (rng.random_range(-0.1..0.1f32), rng.random_range(-0.3..0.3));
                    for (k, c) in row.iter_mut().enumerate() {
                        *c = value;
                        value += slope;
                        if k % every == 1 {
                            slope = rng.random_range(-0.1..0.1);
                        }
                    }
                }
            }
            (Group::Splines, _) if name.ends_with("slopes") => {
                for (k, a) in values.iter_mut().enumerate() {
                    *a = if k % every == 1 { rng.random_range(-0.5..0.5) } else { 0.0 };
                }
            }
            (Group::Scalings, _) => values.iter_mut().for_each(|v| *v = rng.random_range(-0.3..0.3)),
            _ => values.iter_mut().for_each(|v| *v *= rng.random_range(0.8..1.2)),
        }
        var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
    }
    for (name, tensor) in network.buffers() {
        let var = ds_core::variable(&name, &tensor).unwrap();
        let shift = if name.ends_with("mean") { -0.2..0.2f32 } else { 0.0..0.5 };
        let values: Vec<f32> = (0..var.elem_count()).map(|_| rng.random_range(shift.clone())).collect();
        var.set(&(var.as_tensor() + Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap()).unwrap();
    }
}

/// Compares the graph of a network with the network.
fn check(what: &str, network: &Network, sample: &[usize], every: usize) {
    let rng = &mut Seed(5).generator(Purpose::Data, 1);
    disturb(network, rng, every);
    let dims: Vec<usize> = [3].into_iter().chain(sample.iter().copied()).collect();
    let x: Vec<f32> = (0..dims.iter().product()).map(|_| rng.random_range(-2.0..2.0)).collect();
    let x = Tensor::from_vec(x, dims, &Device::Cpu).unwrap();
    let bytes = model(network, sample, HashMap::from([("seed".into(), "5".into())])).unwrap().encode_to_vec();
    let read = ModelProto::decode(bytes.as_slice()).unwrap();
    assert_eq!((read.opset_import[0].version, read.metadata_props[0].value.as_str()), (17, "5"));
    let ours = {
        let mut tape = Tape::inference();
        let x = tape.constant(&x);
        let y = network.forward_in(&mut tape, &x, Mode::Evaluation).unwrap();
        tape.tensor(&y).to_dtype(DType::F64).unwrap()
    };
    let theirs = run(&read, &x);
    assert_eq!(ours.dims(), theirs.dims(), "{what}");
    let largest = |t: &Tensor| t.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f64>().unwrap();
    let difference = largest(&(&ours - &theirs).unwrap());
    println!("{what}: {difference:.1e} of {:.1e}", largest(&ours));
    assert!(difference <= 1e-5 * largest(&ours).max(1.0), "{what}: {difference} of {}", largest(&ours));
}

const KINDS: [ActivationKind; 12] = [
    ActivationKind::BSpline,
    ActivationKind::ExplicitLinear,
    ActivationKind::ReluSpline,
    ActivationKind::Relu,
    ActivationKind::LeakyRelu,
    ActivationKind::PRelu,
    ActivationKind::Apl,
    ActivationKind::LipschitzSpline,
    ActivationKind::Absolute,
    ActivationKind::MaxMin,
    ActivationKind::Householder,
    ActivationKind::ClippedPRelu,
];

#[test]
fn every_activation_is_exported_for_vectors_and_images() -> Result<()> {
    for kind in KINDS {
        for (every, size) in [(20, 51), (1, 51), (3, 20)] {
            if kind.is_spline() && size % 2 == 0 {
                continue;
            }
            let config = ActivationConfig { size, range: 2.0, hinges: 2, ..kind.into() };
            let rng = &mut Seed(3).generator(Purpose::Weights, 0);
            let what = format!("{kind} of {size} knots, one in {every} bent");
            let vectors = lipschitz(rng, (6, &[8, 4], 3), Constraint::Orthonormal, config, 2.0)?;
            check(&format!("dense, {what}"), &vectors, &[6], every);
            let convolutions = LipschitzConv { hidden: &[8], weights: Constraint::Spectral, ..LipschitzConv::new(2) };
            let images = lipschitz_conv(rng, Images { channels: 2, side: 8 }, 3, convolutions, config)?;
            check(&format!("convolutions, {what}"), &images, &[2, 8, 8], every);
        }
    }
    Ok(())
}

#[test]
fn the_networks_of_the_papers_are_exported() -> Result<()> {
    for kind in
        [ActivationKind::BSpline, ActivationKind::ExplicitLinear, ActivationKind::ReluSpline, ActivationKind::Relu]
    {
        let rng = &mut Seed(4).generator(Purpose::Weights, 0);
        let config = |size| ActivationConfig { size, range: 3.0, ..kind.into() };
        for every in [1, 12] {
            check(&format!("area, {kind}, {every}"), &area(rng, &[4, 4], config(21))?, &[2], every);
            check(&format!("convnet, {kind}, {every}"), &convnet(rng, 10, config(41))?, &[1, 28, 28], every);
        }
        check(&format!("resnet32, {kind}"), &resnet32(rng, 10, config(51))?, &[3, 32, 32], 10);
    }
    let rng = &mut Seed(4).generator(Purpose::Weights, 0);
    let config = ActivationConfig { kind: ActivationKind::BSpline, ..Default::default() };
    check("nin", &nin(rng, 10, 0.5, config)?, &[3, 32, 32], 12);
    Ok(())
}
