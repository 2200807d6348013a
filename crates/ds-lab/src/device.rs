//! The device that a process computes on, chosen once by its command line; the CPU where nothing was chosen.

use crate::cli::DeviceChoice;
use crate::config::Precision;
use anyhow::{Result, bail};
use candle_core::Device;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static CHOSEN: OnceLock<Device> = OnceLock::new();

static WITHOUT_GRAPHS: AtomicBool = AtomicBool::new(false);

/// Whether training on one GPU replays its steps as CUDA graphs.
pub fn uses_graphs() -> bool {
    !WITHOUT_GRAPHS.load(Ordering::Relaxed)
}

/// Chooses that for this process; without a choice it does.
pub fn use_graphs(graphs: bool) {
    WITHOUT_GRAPHS.store(!graphs, Ordering::Relaxed);
}

/// The device of this process.
pub fn current() -> Device {
    CHOSEN.get().cloned().unwrap_or(Device::Cpu)
}

/// Between the descriptions of devices that a run was trained on one after the other.
pub const THEN: &str = ", then ";

/// As it stands in summaries: `cpu`, or `cuda` with the card's name; with the number of devices, if it is not one.
pub fn description(devices: usize) -> String {
    let one = description_of_one();
    if devices == 1 { one } else { format!("{devices} × {one}") }
}

fn description_of_one() -> String {
    match CHOSEN.get() {
        #[cfg(feature = "cuda")]
        Some(Device::Cuda(device)) => {
            let name = ds_core::ops::gpu::cuda::name(device);
            name.map_or_else(|_| "cuda".to_owned(), |name| format!("cuda ({name})"))
        }
        _ => "cpu".to_owned(),
    }
}

/// The most memory that was in use on the device, or by the process where that is the CPU, in MB.
pub fn peak_memory_mb() -> Option<f64> {
    #[cfg(feature = "cuda")]
    if let Some(Device::Cuda(device)) = CHOSEN.get() {
        let bytes = ds_core::ops::gpu::cuda::peak_memory(device).ok()?;
        return Some((bytes as f64 / 1e3).round() / 1e3);
    }
    crate::files::peak_memory_mb()
}

/// Refuses a precision that the device does not train in.
///
/// # Errors
/// If that is so, with what to do.
pub fn check_precision(precision: Precision) -> Result<()> {
    match (precision, current()) {
        (Precision::F32, _) => Ok(()),
        #[cfg(feature = "cuda")]
        (Precision::Bf16, Device::Cuda(device)) => match ds_core::ops::gpu::cuda::compute_capability(&device)? {
            (8.., _) => Ok(()),
            (major, minor) => bail!(
                "train.precision = \"bf16\": {} has compute capability {major}.{minor}, and bf16 needs 8.0 or newer; set \
                 train.precision = \"f32\"",
                description(1)
            ),
        },
        (Precision::Bf16, _) => bail!(
            "train.precision = \"bf16\" needs an NVIDIA GPU, and this run is on the CPU: use --device cuda (docs/cuda.md), or \
             set train.precision = \"f32\""
        ),
    }
}

/// Chooses it, before anything is computed; of several GPUs the one with this number.
///
/// # Errors
/// If a GPU is asked for and cannot be had.
pub fn choose(choice: DeviceChoice, ordinal: usize) -> Result<()> {
    let device = match choice {
        DeviceChoice::Cpu => Device::Cpu,
        DeviceChoice::Cuda => match gpu(ordinal)? {
            Ok(device) => device,
            Err(reason) => bail!(
                "--device cuda: there is no usable NVIDIA GPU: {reason}; check with `nvidia-smi` that there are a card and a \
                 driver for CUDA 13 or newer, and that CUDA_VISIBLE_DEVICES hides neither, or use --device cpu"
            ),
        },
        DeviceChoice::Auto => match gpu(ordinal) {
            Ok(Ok(device)) => device,
            _ => Device::Cpu,
        },
    };
    if CHOSEN.get_or_init(|| device.clone()).location() != device.location() {
        bail!("the device was chosen already: {}", description(1));
    }
    Ok(())
}

/// A GPU, or why there is none.
#[cfg(feature = "cuda")]
fn gpu(ordinal: usize) -> Result<Result<Device, String>> {
    if let Some(device @ Device::Cuda(_)) = CHOSEN.get() {
        return Ok(Ok(device.clone()));
    }
    Ok(asked(|| ds_core::ops::gpu::cuda::open(ordinal)))
}

/// How many GPUs there are, or why there are none.
///
/// # Errors
/// If the driver does not tell.
#[cfg(feature = "cuda")]
pub fn gpus() -> Result<usize, String> {
    asked(ds_core::ops::gpu::cuda::count)
}

/// What the driver answers, or its reason in a line.
#[cfg(feature = "cuda")]
fn asked<T>(question: impl FnOnce() -> candle_core::Result<T> + std::panic::UnwindSafe) -> Result<T, String> {
    // The libraries end in a panic where they find no driver at all.
    match std::panic::catch_unwind(question) {
        Ok(Ok(answer)) => Ok(answer),
        // Without the backtrace that may follow.
        Ok(Err(error)) => Err(error.to_string().lines().next().unwrap_or_default().to_owned()),
        Err(_) => Err("the driver could not be used".to_owned()),
    }
}

#[cfg(not(feature = "cuda"))]
fn gpu(_ordinal: usize) -> Result<Result<Device, String>> {
    bail!(
        "--device cuda: this build computes on the CPU only; build with `--features cuda` (docs/cuda.md), or use --device cpu"
    )
}

#[cfg(all(test, not(feature = "cuda")))]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_gpus_says_how_to_make_one_with() {
        let error = choose(DeviceChoice::Cuda, 0).expect_err("this build has no GPUs").to_string();
        assert!(error.contains("--features cuda") && error.contains("--device cpu"), "{error}");
        choose(DeviceChoice::Auto, 0).expect("the CPU is always there");
        assert_eq!((description(1), description(2)), ("cpu".to_owned(), "2 × cpu".to_owned()));
    }
}
