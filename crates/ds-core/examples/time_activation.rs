//! Times forward and backward of an activation: reads lines `KIND N C H W`, answers each with milliseconds (the median of
//! some repetitions). `benches/activation.py` drives it in turn with PyTorch.

use candle_core::CustomOp1;
use candle_core::{DType, Device, Result, Tensor};
use ds_core::Grid;
use ds_core::activation::{Activation, Init, Spline};
use ds_core::graph::CandleGraph;
use ds_core::ops::linear_spline::LinearSpline;
use ds_core::ops::rectifier::Rectifier;
use std::io::{BufRead, Write};
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One forward and backward pass with the gradient `dy`, as a training tape runs them.
fn step(activation: &Activation, x: &Tensor, dy: &Tensor) -> Result<()> {
    let Activation::Spline(spline) = activation else {
        let op = Rectifier { slope: 0.0 };
        let y = x.apply_op1_no_bwd(&op)?;
        op.bwd(x, &y, dy)?;
        return Ok(());
    };
    let coefficients = spline.coefficients_in(&mut CandleGraph)?;
    let op = LinearSpline::new(spline.grid());
    op.forward(x, &coefficients)?;
    let (_, dc) = op.backward(x, &coefficients, dy)?;
    // The rest of the way, to the parameters: C·K numbers.
    (&coefficients * &dc)?.sum_all()?.backward()?;
    Ok(())
}

fn time(line: &str) -> Result<f64> {
    let mut words = line.split_whitespace();
    let kind = words.next().unwrap_or_default();
    let shape: Vec<usize> = words.filter_map(|word| word.parse().ok()).collect();
    let channels = shape.get(1).copied().unwrap_or(1);
    let (grid, init, dtype, device) = (Grid::from_range(51, 4.0)?, Init::LeakyRelu, DType::F32, &Device::Cpu);
    let activation = match kind {
        "bspline" => Activation::Spline(Spline::bspline(channels, grid, init, dtype, device)?),
        "explicit_linear" => Activation::Spline(Spline::explicit_linear(channels, grid, init, false, dtype, device)?),
        "relu_spline" => Activation::Spline(Spline::relu_spline(channels, grid, init, false, dtype, device)?),
        "relu" => Activation::Relu,
        other => candle_core::bail!("unknown activation {other}"),
    };
    let x = Tensor::randn(0f32, 1.0, shape.as_slice(), device)?;
    let dy = Tensor::randn(0f32, 1.0, shape.as_slice(), device)?;
    let mut times = Vec::new();
    for _ in 0..15 {
        let start = Instant::now();
        step(&activation, &x, &dy)?;
        times.push(1e3 * start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn main() -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        println!("{}", time(&line?)?);
        std::io::stdout().flush()?;
    }
    Ok(())
}
