//! The layers of a network in evaluation mode as nodes of a graph.

use super::graph::{Attribute, Builder, Name};
use super::spline::{Functions, per_channel};
use candle_core::{DType, Result, Tensor};
use ds_core::activation::{Activation, Apl};
use ds_nn::layers::{BatchNorm, Conv2d, Layer, Residual};
use ds_nn::ops::Window;
use std::f64::consts::FRAC_PI_2;

/// What flows between two layers: a tensor's name, the number of its dimensions, and its channels.
#[derive(Clone)]
pub(super) struct Flow {
    pub name: Name,
    pub rank: usize,
    pub channels: usize,
}

/// Adds layers, one after the other; a batch norm behind a convolution is folded into it.
pub(super) fn add(graph: &mut Builder, path: &str, layers: &[(String, Layer)], x: Flow) -> Result<Flow> {
    let (mut x, mut rest) = (x, layers);
    while let [(name, layer), tail @ ..] = rest {
        graph.layer = format!("{path}{name}");
        (x, rest) = match (layer, tail) {
            (Layer::Conv2d(conv), [(_, Layer::BatchNorm(norm)), after @ ..]) => {
                (convolution(graph, &norm.folded_into(conv)?, x)?, after)
            }
            _ => (add_layer(graph, path, name, layer, x)?, tail),
        };
    }
    Ok(x)
}

fn add_layer(graph: &mut Builder, path: &str, name: &str, layer: &Layer, x: Flow) -> Result<Flow> {
    let same = |name: Name, x: &Flow| Flow { name, ..x.clone() };
    Ok(match layer {
        Layer::Linear(linear) => dense(graph, &linear.weight, linear.bias.as_ref(), x)?,
        Layer::ConstrainedLinear(linear) => dense(graph, &linear.effective_weight()?, Some(&linear.bias), x)?,
        Layer::Conv2d(conv) => convolution(graph, conv, x)?,
        Layer::ConstrainedConv2d(conv) => {
            convolve(graph, &conv.effective_weight()?, Some(&conv.bias), conv.window(), x)?
        }
        Layer::BatchNorm(norm) => batch_norm(graph, norm, x)?,
        Layer::Activation(activation) => same(self::activation(graph, activation, &x)?, &x),
        Layer::MaxPool(window) => same(graph.node("MaxPool", &[&x.name], pool(window)), &x),
        Layer::AveragePool(window) => {
            let mut attributes = pool(window);
            attributes.push(Attribute::Int("count_include_pad", 1));
            same(graph.node("AveragePool", &[&x.name], attributes), &x)
        }
        Layer::GlobalAveragePool => {
            let mean = graph.node("GlobalAveragePool", &[&x.name], Vec::new());
            flattened(graph, mean, x.channels)
        }
        Layer::Dropout { .. } => x,
        Layer::Flatten { features } => flattened(graph, x.name, *features),
        Layer::Scale(factor) if *factor == 1.0 => x,
        Layer::Scale(factor) => {
            let factor = graph.constant("factor", &[*factor], &[]);
            same(graph.node("Mul", &[&x.name, &factor], Vec::new()), &x)
        }
        Layer::Residual(Residual { body, shortcut }) => {
            let inner = format!("{path}{name}.");
            let y = add(graph, &inner, body, x.clone())?;
            let shortcut = add(graph, &inner, shortcut, x)?;
            same(graph.node("Add", &[&y.name, &shortcut.name], Vec::new()), &y)
        }
    })
}

fn flattened(graph: &mut Builder, x: Name, channels: usize) -> Flow {
    Flow { name: graph.node("Flatten", &[&x], vec![Attribute::Int("axis", 1)]), rank: 2, channels }
}

/// x·Wᵀ + b.
fn dense(graph: &mut Builder, weight: &Tensor, bias: Option<&Tensor>, x: Flow) -> Result<Flow> {
    let (transposed, channels) = (vec![Attribute::Int("transB", 1)], weight.dim(0)?);
    let weight = graph.tensor("weight", weight)?;
    let name = match bias {
        None => graph.node("Gemm", &[&x.name, &weight], transposed),
        Some(bias) => {
            let bias = graph.tensor("bias", bias)?;
            graph.node("Gemm", &[&x.name, &weight, &bias], transposed)
        }
    };
    Ok(Flow { name, rank: 2, channels })
}

fn convolution(graph: &mut Builder, conv: &Conv2d, x: Flow) -> Result<Flow> {
    convolve(graph, &conv.weight, conv.bias.as_ref(), conv.window, x)
}

fn convolve(graph: &mut Builder, weight: &Tensor, bias: Option<&Tensor>, window: Window, x: Flow) -> Result<Flow> {
    let channels = weight.dim(0)?;
    let weight = graph.tensor("weight", weight)?;
    let name = match bias {
        None => graph.node("Conv", &[&x.name, &weight], pool(&window)),
        Some(bias) => {
            let bias = graph.tensor("bias", bias)?;
            graph.node("Conv", &[&x.name, &weight, &bias], pool(&window))
        }
    };
    Ok(Flow { name, rank: x.rank, channels })
}

fn pool(&Window { kernel, stride, padding }: &Window) -> Vec<Attribute<'static>> {
    let [kernel, stride, padding] = [kernel, stride, padding].map(|n| n as i64);
    vec![
        Attribute::Ints("kernel_shape", vec![kernel; 2]),
        Attribute::Ints("strides", vec![stride; 2]),
        Attribute::Ints("pads", vec![padding; 4]),
    ]
}

/// One that no convolution stands before.
fn batch_norm(graph: &mut Builder, norm: &BatchNorm, x: Flow) -> Result<Flow> {
    let parameters: [(&str, &Tensor); 4] = [
        ("scale", &norm.scale),
        ("shift", &norm.shift),
        ("mean", &norm.running_mean),
        ("variance", &norm.running_variance),
    ];
    let mut inputs = vec![x.name.clone()];
    for (name, parameter) in parameters {
        inputs.push(graph.tensor(name, parameter)?);
    }
    let inputs: Vec<&Name> = inputs.iter().collect();
    let name = graph.node("BatchNormalization", &inputs, vec![Attribute::Float("epsilon", BatchNorm::EPSILON as f32)]);
    Ok(Flow { name, rank: x.rank, channels: x.channels })
}

fn activation(graph: &mut Builder, activation: &Activation, x: &Flow) -> Result<Name> {
    Ok(match activation {
        Activation::Relu => graph.node("Relu", &[&x.name], Vec::new()),
        Activation::LeakyRelu => {
            let slope = Attribute::Float("alpha", Activation::LEAKY_SLOPE as f32);
            graph.node("LeakyRelu", &[&x.name], vec![slope])
        }
        Activation::Absolute => graph.node("Abs", &[&x.name], Vec::new()),
        Activation::PRelu(prelu) => leaky(graph, &prelu.slopes, x)?,
        Activation::ClippedPRelu(prelu) => leaky(graph, &prelu.slopes.clamp(-1.0, 1.0)?, x)?,
        Activation::Apl(apl) => hinges(graph, apl, x)?,
        Activation::Spline(spline) => Functions::of_spline(spline)?.add(graph, &x.name, x.rank),
        Activation::Lipschitz(spline) => Functions::of_lipschitz(spline)?.add(graph, &x.name, x.rank),
        Activation::MaxMin => reflected(graph, &vec![FRAC_PI_2; x.channels / 2], x),
        Activation::Householder(householder) => {
            let angles = householder.angles.to_dtype(DType::F64)?.to_vec1::<f64>()?;
            reflected(graph, &angles, x)
        }
    })
}

/// x for x > 0, a_c·x elsewhere.
fn leaky(graph: &mut Builder, slopes: &Tensor, x: &Flow) -> Result<Name> {
    let dims = per_channel(slopes.elem_count(), x.rank);
    let slopes = graph.tensor("slopes", &slopes.reshape(dims)?)?;
    Ok(graph.node("PRelu", &[&x.name, &slopes], Vec::new()))
}

/// max(0, x) + Σ_s a_s·max(0, b_s − x).
fn hinges(graph: &mut Builder, apl: &Apl, x: &Flow) -> Result<Name> {
    let (channels, count) = apl.slopes.dims2()?;
    let dims = per_channel(channels, x.rank);
    let mut y = graph.node("Relu", &[&x.name], Vec::new());
    for s in 0..count {
        let [slopes, offsets] = [("slopes", &apl.slopes), ("offsets", &apl.offsets)]
            .map(|(name, of)| graph.tensor(name, &of.narrow(1, s, 1)?.reshape(dims.as_slice())?));
        let hinge = graph.node("Sub", &[&offsets?, &x.name], Vec::new());
        let hinge = graph.node("Relu", &[&hinge], Vec::new());
        let hinge = graph.node("Mul", &[&hinge, &slopes?], Vec::new());
        y = graph.node("Add", &[&y, &hinge], Vec::new());
    }
    Ok(y)
}

/// Each pair z + 2·max(0, −n·z)·n with n = (sin θ/2, −cos θ/2); MaxMin is θ = π/2.
fn reflected(graph: &mut Builder, angles: &[f64], x: &Flow) -> Name {
    let pairs = angles.len();
    let dims = per_channel(pairs, x.rank);
    let along = |first: usize| (0..pairs).map(|pair| (2 * pair + first) as i64).collect::<Vec<_>>();
    let channel_axis = || vec![Attribute::Int("axis", 1)];
    let [a, b] = [0, 1].map(|first| {
        let indices = graph.indices("channels", &along(first));
        graph.node("Gather", &[&x.name, &indices], channel_axis())
    });
    let normals =
        [angles.iter().map(|t| (t / 2.0).sin()).collect::<Vec<_>>(), angles.iter().map(|t| -(t / 2.0).cos()).collect()];
    let dot = [(&a, &normals[0]), (&b, &normals[1])].map(|(z, n)| {
        let n = graph.constant("normal", &n.iter().map(|n| -n).collect::<Vec<_>>(), &dims);
        graph.node("Mul", &[z, &n], Vec::new())
    });
    let dot = graph.node("Add", &[&dot[0], &dot[1]], Vec::new());
    let behind = graph.node("Relu", &[&dot], Vec::new());
    let moved = [(&a, &normals[0]), (&b, &normals[1])].map(|(z, n)| {
        let n = graph.constant("normal", &n.iter().map(|n| 2.0 * n).collect::<Vec<_>>(), &dims);
        let step = graph.node("Mul", &[&behind, &n], Vec::new());
        graph.node("Add", &[z, &step], Vec::new())
    });
    let both = graph.node("Concat", &[&moved[0], &moved[1]], channel_axis());
    let order: Vec<i64> = (0..pairs).flat_map(|pair| [pair as i64, (pairs + pair) as i64]).collect();
    let order = graph.indices("order", &order);
    graph.node("Gather", &[&both, &order], channel_axis())
}
