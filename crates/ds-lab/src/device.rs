//! The device that a run computes on, and how.

use crate::config::Precision;
use crate::note;
use anyhow::{Result, bail};
use candle_core::Device;
use ds_core::backend::gpu::cuda;
use ds_nn::ops::conv2d;

/// The device to compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum DeviceChoice {
    /// GPU if available, else CPU; the choice is printed.
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// The device of a process and its options: made from the command line and passed down.
#[derive(Debug, Clone)]
pub struct Context {
    /// The device.
    pub device: Device,
    /// Whether training steps on a GPU are replayed as CUDA graphs.
    pub cuda_graphs: bool,
    /// The arithmetic of convolutions on a GPU.
    pub convolutions: conv2d::Options,
}

impl Context {
    /// The CPU.
    pub fn cpu() -> Self {
        Self::on(Device::Cpu)
    }

    /// A device that was opened before.
    pub fn on(device: Device) -> Self {
        let convolutions = conv2d::Options::default();
        Self { device, cuda_graphs: true, convolutions }
    }

    /// The device of a choice; of several GPUs the one with this number.
    ///
    /// # Errors
    /// If a GPU is asked for and there is none.
    pub fn new(choice: DeviceChoice, ordinal: usize) -> Result<Self> {
        let (device, note) = match choice {
            DeviceChoice::Cpu => (Device::Cpu, None),
            DeviceChoice::Auto | DeviceChoice::Cuda => chosen(choice, gpu(ordinal))?,
        };
        if let Some(note) = note {
            note!("{note}");
        }
        Ok(Self::on(device))
    }

    /// The same for one of several runs at once: on a GPU with a stream of its own, so that its steps are captured apart from those
    /// of the others.
    ///
    /// # Errors
    /// If the driver gives no other stream.
    pub fn of_concurrent_run(&self) -> Result<Self> {
        let device = match &self.device {
            Device::Cuda(device) => cuda::with_another_stream(device)?,
            other => other.clone(),
        };
        Ok(Self { device, ..self.clone() })
    }

    /// Refuses a precision that the device does not train in.
    ///
    /// # Errors
    /// If that is so, with what to do.
    pub fn check_precision(&self, precision: Precision) -> Result<()> {
        match (precision, &self.device) {
            (Precision::F32, _) => Ok(()),
            (Precision::Bf16, Device::Cuda(device)) => match cuda::compute_capability(device)? {
                (8.., _) => Ok(()),
                (major, minor) => bail!(
                    "train.precision = \"bf16\": {} has compute capability {major}.{minor}, and bf16 needs 8.0 or newer; set \
                     train.precision = \"f32\"",
                    description(&self.device, 1)
                ),
            },
            (Precision::Bf16, _) => bail!(
                "train.precision = \"bf16\" needs an NVIDIA GPU, and this run is on the CPU: use --device cuda (docs/cuda.md), or \
                 set train.precision = \"f32\""
            ),
        }
    }
}

/// Between the descriptions of devices that a run was trained on one after the other, and between the origins of its data.
pub const DEVICE_SEPARATOR: &str = ", then ";

/// The description of a number of devices in summaries: `cpu`, or `cuda` with the card's name; with the number, if it is not one.
pub fn description(device: &Device, count: usize) -> String {
    let one = match device {
        Device::Cuda(device) => {
            let name = cuda::name(device);
            name.map_or_else(|_| "cuda".to_owned(), |name| format!("cuda ({name})"))
        }
        _ => "cpu".to_owned(),
    };
    if count == 1 { one } else { format!("{count} × {one}") }
}

/// The most memory that was in use on the device, or by the process where that is the CPU, in MB.
pub fn peak_memory_mb(device: &Device) -> Option<f64> {
    if let Device::Cuda(device) = device {
        let bytes = cuda::peak_memory(device).ok()?;
        return Some((bytes as f64 / 1e3).round() / 1e3);
    }
    crate::files::peak_memory_mb()
}

/// Why there is no GPU.
enum NoGpu {
    /// The build has no CUDA support.
    NotBuilt,
    /// No GPU can be used, for this reason.
    Unusable(String),
}

/// The device, and a note where a build with GPUs takes the CPU.
fn chosen(choice: DeviceChoice, gpu: Result<Device, NoGpu>) -> Result<(Device, Option<String>)> {
    let check = "check with `nvidia-smi` that there are a card and a driver for CUDA 13 or newer, and that \
                 CUDA_VISIBLE_DEVICES hides neither";
    match (choice, gpu) {
        (_, Ok(device)) => Ok((device, None)),
        (DeviceChoice::Cuda, Err(NoGpu::NotBuilt)) => bail!(
            "--device cuda: this build computes on the CPU only; build with `--features cuda` (docs/cuda.md), or use \
             --device cpu"
        ),
        (DeviceChoice::Cuda, Err(NoGpu::Unusable(reason))) => {
            bail!("--device cuda: there is no usable NVIDIA GPU: {reason}; {check}, or use --device cpu")
        }
        (_, Err(NoGpu::NotBuilt)) => Ok((Device::Cpu, None)),
        (_, Err(NoGpu::Unusable(reason))) => {
            let note = format!("NOTE: the CPU is used, for there is no usable NVIDIA GPU: {reason}; {check}");
            Ok((Device::Cpu, Some(note)))
        }
    }
}

/// A GPU, or why there is none.
fn gpu(ordinal: usize) -> Result<Device, NoGpu> {
    query_driver(|| cuda::open(ordinal))
}

/// The number of GPUs.
///
/// # Errors
/// The reason in a line, if there are none.
pub fn gpus() -> Result<usize, String> {
    query_driver(cuda::count).map_err(|error| match error {
        NoGpu::NotBuilt => "this build computes on the CPU only".to_owned(),
        NoGpu::Unusable(reason) => reason,
    })
}

/// The driver's answer, or why there is none.
fn query_driver<T>(query: impl FnOnce() -> candle_core::Result<T> + std::panic::UnwindSafe) -> Result<T, NoGpu> {
    // The libraries end in a panic where they find no driver at all.
    match std::panic::catch_unwind(query) {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(candle_core::Error::NotCompiledWithCudaSupport)) => Err(NoGpu::NotBuilt),
        // Without the backtrace that may follow.
        Ok(Err(error)) => Err(NoGpu::Unusable(error.to_string().lines().next().unwrap_or_default().to_owned())),
        Err(_) => Err(NoGpu::Unusable("the driver could not be used".to_owned())),
    }
}

/// The CPUs that this process may use: those that the system lets it run on and, in a Slurm job, no more than the job asked for,
/// where nothing confines it to these.
pub fn cores() -> usize {
    let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let asked = std::env::var("SLURM_CPUS_PER_TASK").ok().and_then(|text| text.parse().ok());
    asked.map_or(all, |asked: usize| asked.clamp(1, all))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn without_a_gpu_the_reason_and_the_cure_are_said() {
        let error = chosen(DeviceChoice::Cuda, Err(NoGpu::NotBuilt)).unwrap_err().to_string();
        assert!(error.contains("--features cuda") && error.contains("--device cpu"), "{error}");
        let (device, note) = chosen(DeviceChoice::Auto, Err(NoGpu::NotBuilt)).unwrap();
        assert!(device.is_cpu() && note.is_none());
        let unusable = || Err(NoGpu::Unusable("no driver".to_owned()));
        let (device, note) = chosen(DeviceChoice::Auto, unusable()).unwrap();
        assert!(device.is_cpu() && note.is_some_and(|note| note.contains("no driver") && note.contains("nvidia-smi")));
        let error = chosen(DeviceChoice::Cuda, unusable()).unwrap_err().to_string();
        assert!(error.contains("no driver") && error.contains("--device cpu"), "{error}");
        assert_eq!(description(&Device::Cpu, 1), "cpu");
        assert_eq!(description(&Device::Cpu, 2), "2 × cpu");
        assert!(Context::cpu().check_precision(Precision::Bf16).is_err());
    }
}
