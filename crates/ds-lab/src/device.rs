//! The device that a process computes on, chosen once by its command line; the CPU where nothing was chosen.

use crate::cli::DeviceChoice;
use crate::config::{NetworkKind, Precision};
use crate::note;
use anyhow::{Result, bail};
use candle_core::Device;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static CHOSEN: OnceLock<Device> = OnceLock::new();

/// Whether the GPU was asked for by name, so that nothing else may be taken in its place.
static INSISTS: AtomicBool = AtomicBool::new(false);

/// Whether it was said that a network has no kernels for the GPU.
static SAID: AtomicBool = AtomicBool::new(false);

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

/// The device that a network of this kind trains on: that of the process, or the CPU for a network without GPU kernels.
///
/// # Errors
/// If the network has no GPU kernels and `--device cuda` was given.
pub fn for_network(kind: NetworkKind) -> Result<Device> {
    let (device, note) = device_of(kind, current(), INSISTS.load(Ordering::Relaxed))?;
    if let Some(note) = note.filter(|_| !SAID.swap(true, Ordering::Relaxed)) {
        note!("{note}");
    }
    Ok(device)
}

fn device_of(kind: NetworkKind, device: Device, insists: bool) -> Result<(Device, Option<String>)> {
    if device.is_cpu() || !kind.is_lipschitz() {
        return Ok((device, None));
    }
    if insists {
        bail!("--device cuda: {kind} networks have no GPU kernels; use --device cpu");
    }
    Ok((Device::Cpu, Some(format!("NOTE: {kind} networks have no GPU kernels: they are trained on the CPU"))))
}

/// Between the descriptions of devices that a run was trained on one after the other.
pub const THEN: &str = ", then ";

/// The description of a number of devices in summaries: `cpu`, or `cuda` with the card's name; with the number, if it is not one.
pub fn description(device: &Device, count: usize) -> String {
    let one = match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => {
            let name = ds_core::ops::gpu::cuda::name(device);
            name.map_or_else(|_| "cuda".to_owned(), |name| format!("cuda ({name})"))
        }
        _ => "cpu".to_owned(),
    };
    if count == 1 { one } else { format!("{count} × {one}") }
}

/// The most memory that was in use on the device, or by the process where that is the CPU, in MB.
pub fn peak_memory_mb(device: &Device) -> Option<f64> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        let bytes = ds_core::ops::gpu::cuda::peak_memory(device).ok()?;
        return Some((bytes as f64 / 1e3).round() / 1e3);
    }
    #[cfg(not(feature = "cuda"))]
    let _ = device;
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
                description(&current(), 1)
            ),
        },
        (Precision::Bf16, _) => bail!(
            "train.precision = \"bf16\" needs an NVIDIA GPU, and this run is on the CPU: use --device cuda (docs/cuda.md), or \
             set train.precision = \"f32\""
        ),
    }
}

/// Chooses the device of the process, before anything is computed; of several GPUs the one with this number.
///
/// # Errors
/// If a GPU is asked for and cannot be had.
pub fn choose(choice: DeviceChoice, ordinal: usize) -> Result<()> {
    let (device, note) = match choice {
        DeviceChoice::Cpu => (Device::Cpu, None),
        DeviceChoice::Auto | DeviceChoice::Cuda => chosen(choice, gpu(ordinal))?,
    };
    if let Some(note) = note {
        note!("{note}");
    }
    INSISTS.store(choice == DeviceChoice::Cuda, Ordering::Relaxed);
    if CHOSEN.get_or_init(|| device.clone()).location() != device.location() {
        bail!("the device was chosen already: {}", description(&current(), 1));
    }
    Ok(())
}

/// What is wrong with a GPU: there can be none in this build, or there is none that can be used.
enum NoGpu {
    #[cfg_attr(feature = "cuda", allow(dead_code, reason = "for builds without GPUs"))]
    InThisBuild,
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "for builds with GPUs"))]
    Unusable(String),
}

/// The device, and a note where a build with GPUs takes the CPU.
fn chosen(choice: DeviceChoice, gpu: Result<Device, NoGpu>) -> Result<(Device, Option<String>)> {
    let check = "check with `nvidia-smi` that there are a card and a driver for CUDA 13 or newer, and that \
                 CUDA_VISIBLE_DEVICES hides neither";
    match (choice, gpu) {
        (_, Ok(device)) => Ok((device, None)),
        (DeviceChoice::Cuda, Err(NoGpu::InThisBuild)) => bail!(
            "--device cuda: this build computes on the CPU only; build with `--features cuda` (docs/cuda.md), or use \
             --device cpu"
        ),
        (DeviceChoice::Cuda, Err(NoGpu::Unusable(reason))) => {
            bail!("--device cuda: there is no usable NVIDIA GPU: {reason}; {check}, or use --device cpu")
        }
        (_, Err(NoGpu::InThisBuild)) => Ok((Device::Cpu, None)),
        (_, Err(NoGpu::Unusable(reason))) => {
            let note = format!("NOTE: the CPU is used, for there is no usable NVIDIA GPU: {reason}; {check}");
            Ok((Device::Cpu, Some(note)))
        }
    }
}

/// A GPU, or why there is none.
#[cfg(feature = "cuda")]
fn gpu(ordinal: usize) -> Result<Device, NoGpu> {
    if let Some(device @ Device::Cuda(_)) = CHOSEN.get() {
        return Ok(device.clone());
    }
    catch_driver_panic(|| ds_core::ops::gpu::cuda::open(ordinal)).map_err(NoGpu::Unusable)
}

/// How many GPUs there are, or why there are none.
///
/// # Errors
/// If the driver does not tell.
#[cfg(feature = "cuda")]
pub fn gpus() -> Result<usize, String> {
    catch_driver_panic(ds_core::ops::gpu::cuda::count)
}

/// The driver's answer, or its error in a line.
#[cfg(feature = "cuda")]
fn catch_driver_panic<T>(query: impl FnOnce() -> candle_core::Result<T> + std::panic::UnwindSafe) -> Result<T, String> {
    // The libraries end in a panic where they find no driver at all.
    match std::panic::catch_unwind(query) {
        Ok(Ok(answer)) => Ok(answer),
        // Without the backtrace that may follow.
        Ok(Err(error)) => Err(error.to_string().lines().next().unwrap_or_default().to_owned()),
        Err(_) => Err("the driver could not be used".to_owned()),
    }
}

#[cfg(not(feature = "cuda"))]
fn gpu(_ordinal: usize) -> Result<Device, NoGpu> {
    Err(NoGpu::InThisBuild)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_gpus_says_how_to_make_one_with() {
        let error = choose(DeviceChoice::Cuda, 0).expect_err("this build has no GPUs").to_string();
        assert!(error.contains("--features cuda") && error.contains("--device cpu"), "{error}");
        choose(DeviceChoice::Auto, 0).expect("the CPU is always there");
        assert_eq!(description(&current(), 1), "cpu");
        assert_eq!(description(&current(), 2), "2 × cpu");
    }

    #[test]
    fn a_gpu_that_cannot_be_used_is_told_of_with_the_reason() {
        let unusable = || Err(NoGpu::Unusable("no driver".to_owned()));
        let (device, note) = chosen(DeviceChoice::Auto, unusable()).unwrap();
        assert!(device.is_cpu() && note.is_some_and(|note| note.contains("no driver") && note.contains("nvidia-smi")));
        let error = chosen(DeviceChoice::Cuda, unusable()).unwrap_err().to_string();
        assert!(error.contains("no driver") && error.contains("--device cpu"), "{error}");
        let (device, note) = chosen(DeviceChoice::Auto, Err(NoGpu::InThisBuild)).unwrap();
        assert!(device.is_cpu() && note.is_none());
    }

    #[test]
    fn networks_without_gpu_kernels_are_trained_on_the_cpu() {
        let (device, note) = device_of(NetworkKind::Lipschitz, Device::Cpu, false).unwrap();
        assert!(device.is_cpu() && note.is_none());
        #[cfg(feature = "cuda")]
        if let Ok(gpu) = gpu(0) {
            let (device, note) = device_of(NetworkKind::Lipschitz, gpu.clone(), false).unwrap();
            assert!(device.is_cpu() && note.is_some_and(|note| note.contains("lipschitz")));
            assert!(device_of(NetworkKind::LipschitzConv, gpu.clone(), true).is_err());
            assert!(device_of(NetworkKind::Resnet32, gpu, true).unwrap().0.is_cuda());
        }
    }
}
