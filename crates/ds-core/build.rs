//! Compiles the GPU kernels with nvcc where the feature `cuda` is on, and leaves an empty module otherwise. Tells the build scripts
//! of other crates, through the metadata of `links`, how to compile theirs: `DEP_DS_CORE_KERNELS_{INCLUDE,NVCC,FLAGS}`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Machine code for these architectures; PTX for the oldest, the newest and the first with TF32 and bf16, which a driver compiles
/// for all others.
const FLAGS: [&str; 10] = [
    "-fatbin",
    "-O3",
    "-std=c++17",
    "-gencode=arch=compute_75,code=compute_75",
    "-gencode=arch=compute_80,code=compute_80",
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_86,code=sm_86",
    "-gencode=arch=compute_89,code=sm_89",
    "-gencode=arch=compute_90,code=sm_90",
    "-gencode=arch=compute_90,code=compute_90",
];

/// `NVCC`, or nvcc of the toolkit that the usual variables name, or nvcc on the path.
fn nvcc() -> PathBuf {
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    if let Some(nvcc) = env::var_os("NVCC") {
        return nvcc.into();
    }
    let toolkits = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    let usual = [PathBuf::from("/usr/local/cuda")];
    toolkits.chain(usual).map(|home| home.join("bin/nvcc")).find(|nvcc| nvcc.exists()).unwrap_or_else(|| "nvcc".into())
}

fn main() -> Result<(), String> {
    let variable = |name: &str| env::var(name).map_err(|error| format!("{name}: {error}"));
    let (source, out) = (Path::new(&variable("CARGO_MANIFEST_DIR")?).join("src"), variable("OUT_DIR")?);
    println!("cargo::rerun-if-changed=build.rs");
    watch_kernels(&source)?;
    println!("cargo::metadata=include={}", source.display());
    let image = Path::new(&out).join("kernels.fatbin");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return std::fs::write(&image, []).map_err(|error| format!("{}: {error}", image.display()));
    }
    let nvcc = nvcc();
    println!("cargo::metadata=nvcc={}", nvcc.display());
    println!("cargo::metadata=flags={}", FLAGS.join(" "));
    let mut command = Command::new(&nvcc);
    command.args(FLAGS).arg("-o").arg(&image).arg(source.join("backend/gpu/kernels.cu"));
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => Err(format!(
            "the feature `cuda` needs nvcc 11.8 or newer, and {} could not be run ({error}); install the CUDA toolkit and set \
             CUDA_HOME to it, or build without the feature (docs/cuda.md)",
            nvcc.display()
        )),
    }
}

/// Kernels stand beside the Rust code of their ops, which they must not be compiled again for.
fn watch_kernels(folder: &Path) -> Result<(), String> {
    let failed = |error| format!("{}: {error}", folder.display());
    for entry in folder.read_dir().map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            watch_kernels(&path)?;
        } else if path.extension().is_some_and(|extension| extension == "cu" || extension == "cuh") {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    Ok(())
}
