//! The rows of benches/pytorch_gpu.py for this project, on a GPU: `just gpu-bench [--json FILE]`.
//!
//! Times are the best of some rounds, each of as many repetitions as take a tenth of a second between two synchronisations with
//! the host. Memory is the most that tensors held at a time. Without a GPU it says so and measures nothing.

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let json = match (arguments.next().as_deref(), arguments.next()) {
        (Some("--json"), Some(path)) => Some(path),
        (None, _) => None,
        _ => anyhow::bail!("usage: gpu_bench [--json FILE]"),
    };
    let rows = bench::rows()?;
    if let Some(path) = json {
        std::fs::write(&path, serde_json::to_string_pretty(&rows)?).with_context(|| format!("writing {path}"))?;
    }
    Ok(())
}

/// A line of the table.
#[derive(serde::Serialize)]
struct Row {
    name: String,
    milliseconds: f64,
    /// Of what must be read and written at least.
    gigabytes_per_second: Option<f64>,
    peak_megabytes: Option<f64>,
}

#[cfg(not(feature = "cuda"))]
mod bench {
    use super::Row;
    use anyhow::Result;

    pub fn rows() -> Result<Vec<Row>> {
        println!(
            "no CUDA device: this build computes on the CPU only (build with --features cuda); nothing was measured"
        );
        Ok(Vec::new())
    }
}

#[cfg(feature = "cuda")]
mod bench {
    use super::Row;
    use anyhow::Result;
    use candle_core::{CustomOp1, DType, Device, Tensor};
    use ds_core::Grid;
    use ds_core::activation::{Init, Spline};
    use ds_core::ops::gpu::cuda;
    use ds_core::ops::linear_spline::LinearSpline;
    use ds_core::ops::rectifier::Rectifier;
    use ds_lab::config::{Config, Precision};
    use ds_lab::data::ImageSet;
    use ds_lab::experiment::network;
    use ds_lab::penalty::SplinePenalty;
    use ds_lab::samples::{Normalization, Samples};
    use ds_lab::samples_on_device::SamplesOnDevice;
    use ds_lab::train::{Optimizers, step_on_device};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use std::time::Instant;

    const ROUNDS: usize = 7;
    const SECONDS: f64 = 0.1;
    const SHAPE: [usize; 4] = [1024, 64, 32, 32];

    /// The shortest time of one repetition, in milliseconds.
    fn timed(device: &Device, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
        let mut repeat = |count: usize| -> Result<f64> {
            device.synchronize()?;
            let start = Instant::now();
            for _ in 0..count {
                run()?;
            }
            device.synchronize()?;
            Ok(start.elapsed().as_secs_f64())
        };
        // The first ones load kernels and measure algorithms.
        repeat(3)?;
        let count = (SECONDS / (repeat(3)? / 3.0)).ceil().clamp(3.0, 10_000.0) as usize;
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            best = best.min(repeat(count)? / count as f64);
        }
        Ok(1e3 * best)
    }

    pub fn rows() -> Result<Vec<Row>> {
        let device = match cuda::open(0) {
            Ok(device) => device,
            Err(error) => {
                let reason = error.to_string();
                println!("no CUDA device, nothing was measured: {}", reason.lines().next().unwrap_or_default());
                return Ok(Vec::new());
            }
        };
        println!("{}", cuda::name(device.as_cuda_device()?)?);
        println!("{:<44} {:>10} {:>8} {:>10}", "", "ms", "GB/s", "peak MB");
        let mut rows = Vec::new();
        let mut add = |name: &str, ms: f64, bytes: Option<f64>, peak: Option<f64>| {
            let rate = bytes.map(|bytes| bytes / ms / 1e6);
            let shown = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
            println!("{name:<44} {ms:>10.4} {:>8} {:>10}", shown(rate), shown(peak));
            rows.push(Row {
                name: name.to_owned(),
                milliseconds: ms,
                gigabytes_per_second: rate,
                peak_megabytes: peak,
            });
        };
        const PRECISIONS: [(Precision, &str); 2] = [(Precision::F32, ""), (Precision::Bf16, ", bf16")];
        for (precision, suffix) in PRECISIONS {
            activations(&device, precision.dtype(), suffix, &mut add)?;
        }
        for name in ["resnet32", "nin"] {
            for kind in ["relu", "bspline"] {
                for (precision, suffix) in PRECISIONS {
                    let (ms, peak) = step(&device, name, kind, precision)?;
                    add(&format!("{name} step, batch 128, {kind}{suffix}"), ms, None, Some(peak));
                }
            }
        }
        Ok(rows)
    }

    fn activations(
        device: &Device,
        dtype: DType,
        suffix: &str,
        add: &mut impl FnMut(&str, f64, Option<f64>, Option<f64>),
    ) -> Result<()> {
        let random = || Tensor::randn(0f32, 1.0, &SHAPE, device)?.to_dtype(dtype);
        let (x, dy) = (random()?, random()?);
        let bytes = (dtype.size_in_bytes() * x.elem_count()) as f64;
        let copy = timed(device, || {
            x.copy()?;
            Ok(())
        })?;
        add(&format!("copy (1024, 64, 32, 32){suffix}"), copy, Some(2.0 * bytes), None);
        let op = Rectifier { slope: 0.0 };
        let relu = timed(device, || {
            let y = x.apply_op1_no_bwd(&op)?;
            op.bwd(&x, &y, &dy)?;
            Ok(())
        })?;
        // Forward reads one tensor and writes one, backward reads two and writes one.
        add(&format!("relu, forward and backward{suffix}"), relu, Some(5.0 * bytes), None);
        let grid = Grid::from_range(51, 4.0)?;
        let spline = Spline::bspline(SHAPE[1], grid, Init::LeakyRelu, DType::F32, device)?;
        let (op, coefficients) = (LinearSpline::new(grid), spline.coefficients()?.detach());
        let ms = timed(device, || {
            op.forward(&x, &coefficients)?;
            op.backward(&x, &coefficients, &dy)?;
            Ok(())
        })?;
        add(&format!("spline (51 knots), forward and backward{suffix}"), ms, Some(5.0 * bytes), None);
        Ok(())
    }

    /// (milliseconds, peak MB) of a training step, its batch cut on the device included.
    fn step(device: &Device, name: &str, kind: &str, precision: Precision) -> Result<(f64, f64)> {
        let text = format!("experiment = \"cifar10\"\nnetwork.kind = \"{name}\"\nactivation.kind = \"{kind}\"\n");
        let config = Config::from_toml(&text)?;
        let network = network(&config, 10)?.copied(DType::F32, device)?;
        let mut optimizers = Optimizers::new(&config, &network)?;
        let penalty = SplinePenalty::new(&config, &network)?;
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let count = 2000;
        let set = ImageSet {
            images: (0..count * 3 * 32 * 32).map(|_| rng.random()).collect(),
            labels: (0..count).map(|k| (k % 10) as u8).collect(),
            channels: 3,
            height: 32,
            width: 32,
            classes: 10,
        };
        let samples = Samples::images(set, &Normalization { mean: vec![0.5; 3], deviation: vec![0.25; 3] });
        let samples = SamplesOnDevice::new(&samples, precision.dtype(), device)?;
        let totals = Tensor::zeros(2, DType::F64, device)?;
        let mut steps = 0;
        let mut run = || -> Result<()> {
            steps += 1;
            let indices: Vec<usize> = (0..128).map(|k| (k + 128 * steps) % count).collect();
            let batch = samples.batch(&indices, Some(&mut rng))?;
            // Far beyond the last milestone: random images shall not make the loss diverge.
            let at = (100_000, steps as u64);
            step_on_device(&network, &batch, penalty.as_ref(), &mut optimizers, at, &totals)?;
            Ok(())
        };
        run()?;
        device.synchronize()?;
        cuda::reset_peak_memory(device.as_cuda_device()?)?;
        let ms = timed(device, run)?;
        Ok((ms, cuda::peak_memory(device.as_cuda_device()?)? as f64 / 1e6))
    }
}
