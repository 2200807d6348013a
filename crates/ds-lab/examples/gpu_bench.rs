//! The rows of benches/pytorch_gpu.py for this project, on a GPU: `just gpu-bench [--json FILE] [--only TEXT]`, all of them or
//! those that have TEXT in their names; steps as training makes them, or with `--no-cuda-graphs` without graphs. `--steps N` makes N
//! steps of the first such row and measures nothing, for a profiler (benches/gpu_kernels.py).
//!
//! Times are the best of some rounds, each of as many repetitions as take a tenth of a second between two synchronisations with
//! the host; the host's part of a step is the median time until all of it has been handed to an idle GPU. Memory is the most that
//! tensors held at a time. Without a GPU it says so and measures nothing.
//!
//! The floor of a row is the larger of two times. One is that of its bytes at the rate of a copy: those that a layer must read and
//! write, and for a step eleven passes over the outputs of all layers, which is what is left where norms and activations are computed
//! with the convolutions before and after them. The other is that of a step's multiplications, three times those of the forward pass,
//! at the rate of a matrix product by cuBLAS.

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let (mut json, mut only, mut graphs, mut steps) = (None, String::new(), true, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().context("usage: gpu_bench [--json FILE] [--only TEXT] [--no-cuda-graphs]");
        match name.as_str() {
            "--json" => json = Some(value()?),
            "--only" => only = value()?,
            "--no-cuda-graphs" => graphs = false,
            "--steps" => steps = Some(value()?.parse().context("--steps: a number of steps")?),
            other => anyhow::bail!("gpu_bench: unknown argument {other}"),
        }
    }
    if let Some(steps) = steps {
        return bench::steps(&only, graphs, steps);
    }
    let rows = bench::rows(&only, graphs)?;
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
    host_milliseconds: Option<f64>,
    peak_megabytes: Option<f64>,
    /// The least that the card takes for it.
    floor_milliseconds: Option<f64>,
    revision: String,
}

#[cfg(not(feature = "cuda"))]
mod bench {
    use super::Row;
    use anyhow::Result;

    pub fn rows(_only: &str, _graphs: bool) -> Result<Vec<Row>> {
        println!(
            "no CUDA device: this build computes on the CPU only (build with --features cuda); nothing was measured"
        );
        Ok(Vec::new())
    }

    pub fn steps(only: &str, graphs: bool, _steps: usize) -> Result<()> {
        rows(only, graphs).map(drop)
    }
}

#[cfg(feature = "cuda")]
mod bench {
    use super::Row;
    use anyhow::{Context, Result};
    use candle_core::{DType, Device, Tensor};
    use ds_core::Grid;
    use ds_core::activation::{Init, Spline};
    use ds_core::backend::gpu::cuda;
    use ds_core::backend::op::{backward, forward};
    use ds_core::ops::linear_spline::LinearSpline;
    use ds_core::ops::rectifier::Rectifier;
    use ds_lab::config::{Config, Precision};
    use ds_lab::data::{ImageSet, Normalization, Samples};
    use ds_lab::files::revision;
    use ds_lab::run::penalty::SplinePenalty;
    use ds_lab::run::{At, Model, Optimizers, execution, memory, network};
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

    /// The first GPU; without one it says so.
    fn device() -> Option<Device> {
        let reason = match cuda::open(0) {
            Ok(device) => return Some(device),
            Err(error) => error.to_string(),
        };
        println!("no CUDA device, nothing was measured: {}", reason.lines().next().unwrap_or_default());
        None
    }

    /// Of a row with a training step.
    #[derive(Clone, Copy)]
    struct StepCase {
        network: &'static str,
        activation: &'static str,
        /// Of the splines.
        optimizer: &'static str,
        precision: Precision,
    }

    const PRECISIONS: [(Precision, &str); 2] = [(Precision::F32, ""), (Precision::Bf16, ", bf16")];

    impl StepCase {
        /// All of them, in the order of the table.
        fn all() -> Vec<Self> {
            let kinds = [("relu", "adam"), ("bspline", "adam"), ("bspline", "prox_adam")];
            let lipschitz = ["max_min", "absolute", "lipschitz_spline"].map(|kind| ("lipschitz_conv", kind, "adam"));
            let of = |network| kinds.map(|(activation, optimizer)| (network, activation, optimizer));
            let rows = [of("resnet32"), of("nin"), lipschitz].concat().into_iter();
            rows.flat_map(|(network, activation, optimizer)| {
                PRECISIONS.map(|(precision, _)| Self { network, activation, optimizer, precision })
            })
            .collect()
        }

        fn name(&self) -> String {
            let proximal = if self.optimizer == "adam" { "" } else { ", prox_adam" };
            let suffix = if self.precision == Precision::Bf16 { ", bf16" } else { "" };
            format!("{} step, batch 128, {}{proximal}{suffix}", self.network, self.activation)
        }
    }

    /// Makes steps of the first row whose name contains `only`.
    pub fn steps(only: &str, graphs: bool, count: usize) -> Result<()> {
        let Some(device) = device() else { return Ok(()) };
        let case = StepCase::all().into_iter().find(|case| case.name().contains(only));
        let case = case.with_context(|| format!("gpu_bench: no step has {only:?} in its name"))?;
        println!("{count} steps: {}", case.name());
        training(&device, graphs, case, |run| {
            (0..count).try_for_each(|_| run())?;
            Ok(device.synchronize()?)
        })
    }

    pub fn rows(only: &str, graphs: bool) -> Result<Vec<Row>> {
        let Some(device) = device() else { return Ok(Vec::new()) };
        println!("{}", cuda::name(device.as_cuda_device()?)?);
        let rates = [Rates::of(&device, DType::F32)?, Rates::of(&device, DType::BF16)?];
        for (Rates { copy, products }, what) in rates.iter().zip(["f32, products in TF32", "bf16"]) {
            println!(
                "{what}: a copy moves {:.2} TB/s, a matrix product makes {:.0} TFLOP/s",
                copy / 1e12,
                products / 1e12
            );
        }
        println!(
            "{:<50} {:>10} {:>8} {:>10} {:>10} {:>10} {:>8}",
            "", "ms", "GB/s", "host ms", "peak MB", "floor ms", "share"
        );
        let mut rows = Vec::new();
        let mut measure = |name: String, run: &dyn Fn() -> Result<Measured>| -> Result<()> {
            if !name.contains(only) {
                return Ok(());
            }
            let Measured { ms, bytes, host, peak, step_floor } = run()?;
            let rate = bytes.map(|bytes| bytes / ms / 1e6);
            let of_precision = &rates[usize::from(name.contains("bf16"))];
            let floor =
                bytes.map(|bytes| 1e3 * bytes / of_precision.copy).or(step_floor.map(|of| of.floor(of_precision)));
            let of_floor = floor.map_or(("-".to_owned(), "-".to_owned()), |floor| {
                (format!("{floor:.3}"), format!("{:.0} %", 100.0 * floor / ms))
            });
            let shown = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
            let of_host = host.map_or("-".to_owned(), |host| format!("{host:.3}"));
            println!(
                "{name:<50} {ms:>10.4} {:>8} {of_host:>10} {:>10} {:>10} {:>8}",
                shown(rate),
                shown(peak),
                of_floor.0,
                of_floor.1
            );
            rows.push(Row {
                name,
                milliseconds: ms,
                gigabytes_per_second: rate,
                host_milliseconds: host,
                peak_megabytes: peak,
                floor_milliseconds: floor,
                revision: revision(),
            });
            Ok(())
        };
        for (precision, suffix) in PRECISIONS {
            let dtype = precision.dtype();
            measure(format!("copy (1024, 64, 32, 32){suffix}"), &|| copy(&device, dtype))?;
            measure(format!("relu, forward and backward{suffix}"), &|| relu(&device, dtype))?;
            measure(format!("spline (51 knots), forward and backward{suffix}"), &|| spline(&device, dtype))?;
        }
        for case in StepCase::all() {
            measure(case.name(), &|| step(&device, graphs, case))?;
        }
        Ok(rows)
    }

    /// Three convolutions of 64, 128 and 256 channels each, and splines without a scaling.
    const LIPSCHITZ_CONV: &str = "network.hidden = [64]\nnetwork.stages = 3\nnetwork.depth = 3\nactivation.size = 5\n\
        activation.init = \"max_min\"\nregularization.lambda = 0.0\n";

    /// What is measured of one row.
    struct Measured {
        ms: f64,
        /// What must be read and written at least.
        bytes: Option<f64>,
        host: Option<f64>,
        /// MB.
        peak: Option<f64>,
        /// Of a training step.
        step_floor: Option<StepWork>,
    }

    /// What the card can do, each second.
    struct Rates {
        /// Bytes that a copy reads and writes.
        copy: f64,
        /// Floating-point operations of a matrix product on tensor cores.
        products: f64,
    }

    impl Rates {
        fn of(device: &Device, dtype: DType) -> Result<Self> {
            let Measured { ms, bytes, .. } = copy(device, dtype)?;
            let side = 8192;
            let random = || -> Result<Tensor> { Ok(Tensor::randn(0f32, 1.0, (side, side), device)?.to_dtype(dtype)?) };
            let (a, b) = (random()?, random()?);
            let was = candle_core::cuda::gemm_reduced_precision_f32();
            candle_core::cuda::set_gemm_reduced_precision_f32(true);
            let of_product = timed(device, || {
                a.matmul(&b)?;
                Ok(())
            });
            candle_core::cuda::set_gemm_reduced_precision_f32(was);
            let operations = 2.0 * (side as f64).powi(3);
            Ok(Self { copy: 1e3 * bytes.unwrap_or(0.0) / ms, products: 1e3 * operations / of_product? })
        }
    }

    /// What a training step must do at least.
    struct StepWork {
        bytes: f64,
        operations: f64,
    }

    /// Passes of a step over the outputs of all layers.
    const PASSES_OF_STEP: f64 = 11.0;

    impl StepWork {
        fn of(config: &Config, dtype: DType, batch: usize) -> Self {
            let (batch, size) = (batch as f64, dtype.size_in_bytes() as f64);
            let bytes = PASSES_OF_STEP * batch * size * memory::outputs(config);
            // Forward, and the gradients of inputs and of weights.
            Self { bytes, operations: 3.0 * 2.0 * batch * memory::multiplications(config) }
        }

        /// In milliseconds.
        fn floor(&self, rates: &Rates) -> f64 {
            1e3 * (self.bytes / rates.copy).max(self.operations / rates.products)
        }
    }

    /// x and ∂y.
    fn arrays(device: &Device, dtype: DType) -> Result<[Tensor; 2]> {
        let random = || -> Result<Tensor> { Ok(Tensor::randn(0f32, 1.0, &SHAPE, device)?.to_dtype(dtype)?) };
        Ok([random()?, random()?])
    }

    /// Of a layer that goes `passes` times over its data.
    fn of_layer(x: &Tensor, passes: usize, run: impl FnMut() -> Result<()>) -> Result<Measured> {
        let bytes = (passes * x.dtype().size_in_bytes() * x.elem_count()) as f64;
        Ok(Measured { ms: timed(x.device(), run)?, bytes: Some(bytes), host: None, peak: None, step_floor: None })
    }

    fn copy(device: &Device, dtype: DType) -> Result<Measured> {
        let [x, _] = arrays(device, dtype)?;
        of_layer(&x, 2, || {
            x.copy()?;
            Ok(())
        })
    }

    // Forward reads one tensor and writes one, backward reads two and writes one.
    const PASSES: usize = 5;

    fn relu(device: &Device, dtype: DType) -> Result<Measured> {
        let [x, dy] = arrays(device, dtype)?;
        let op = Rectifier { slope: 0.0 };
        of_layer(&x, PASSES, || {
            let y = forward(&op, [&x])?;
            backward(&op, [&x], &y, &dy)?;
            Ok(())
        })
    }

    fn spline(device: &Device, dtype: DType) -> Result<Measured> {
        let [x, dy] = arrays(device, dtype)?;
        let grid = Grid::from_range(51, 4.0)?;
        let spline = Spline::bspline(SHAPE[1], grid, Init::LeakyRelu, DType::F32, device)?;
        let (op, coefficients) = (LinearSpline::new(grid), spline.coefficients()?.detach());
        of_layer(&x, PASSES, || {
            op.forward(&x, &coefficients)?;
            op.backward(&x, &coefficients, &dy)?;
            Ok(())
        })
    }

    fn config(case: StepCase) -> Result<Config> {
        let StepCase { network, activation, optimizer, .. } = case;
        let more = if network == "lipschitz_conv" { LIPSCHITZ_CONV } else { "" };
        let scaling = if activation == "lipschitz_spline" { "activation.scaling = false\n" } else { "" };
        Ok(Config::from_toml(&format!(
            "experiment = \"cifar10\"\nnetwork.kind = \"{network}\"\nactivation.kind = \"{activation}\"\n\
             optimizer.splines.kind = \"{optimizer}\"\n{more}{scaling}"
        ))?)
    }

    /// Hands on what makes a training step, its batch cut on the device included.
    fn training<T>(
        device: &Device,
        graphs: bool,
        case: StepCase,
        with: impl FnOnce(&mut dyn FnMut() -> Result<()>) -> Result<T>,
    ) -> Result<T> {
        let config = config(case)?;
        let network = network(&config, 10)?.to(DType::F32, device)?;
        let penalty = SplinePenalty::new(&config, &network)?;
        let mut optimizers = Optimizers::new(&config, &network, penalty.as_ref())?;
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let count = 2000;
        let pixels = (0..count * 3 * 32 * 32).map(|_| rng.random()).collect();
        let set = ImageSet::new(pixels, (0..count).map(|k| (k % 10) as u8).collect(), (3, 32, 32), 10)?;
        let samples = Samples::images(&set, &Normalization { mean: vec![0.5; 3], deviation: vec![0.25; 3] })?;
        let samples = samples.to(case.precision.dtype(), device)?;
        let totals = Model::totals_on(device)?;
        let model = Model { network: &network, penalty: penalty.as_ref(), totals: &totals };
        let mut execution = execution(&network, None, graphs.then_some(128))?;
        let mut done = 0;
        with(&mut || {
            done += 1;
            let indices: Vec<usize> = (0..128).map(|k| (k + 128 * done) % count).collect();
            let batch = samples.batch(&indices, Some(&mut rng))?;
            // Far beyond the last milestone: random images shall not make the loss diverge.
            let at = At { epoch: 100_000, dropout: done as u64 };
            Ok(execution.step(&model, batch, 128, &mut optimizers, at)?)
        })
    }

    fn step(device: &Device, graphs: bool, case: StepCase) -> Result<Measured> {
        let step_floor = Some(StepWork::of(&config(case)?, case.precision.dtype(), 128));
        training(device, graphs, case, |run| {
            // With graphs, one has been captured after these.
            for _ in 0..5 {
                run()?;
            }
            device.synchronize()?;
            cuda::reset_peak_memory(device.as_cuda_device()?)?;
            let ms = timed(device, &mut *run)?;
            let peak = Some(cuda::peak_memory(device.as_cuda_device()?)? as f64 / 1e6);
            let mut of_host = Vec::new();
            for _ in 0..3 * ROUNDS {
                device.synchronize()?;
                let start = Instant::now();
                run()?;
                of_host.push(1e3 * start.elapsed().as_secs_f64());
            }
            of_host.sort_by(f64::total_cmp);
            let host = Some(of_host[of_host.len() / 2]);
            Ok(Measured { ms, bytes: None, host, peak, step_floor })
        })
    }
}
