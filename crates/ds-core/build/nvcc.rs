//! Compiles GPU kernels with nvcc, for the build scripts of all crates that have some.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Machine code for these; PTX for the oldest, the newest and the first with TF32 and bf16, which a driver compiles for everything
/// else.
const CODE: [&str; 7] = [
    "-gencode=arch=compute_75,code=compute_75",
    "-gencode=arch=compute_80,code=compute_80",
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_86,code=sm_86",
    "-gencode=arch=compute_89,code=sm_89",
    "-gencode=arch=compute_90,code=sm_90",
    "-gencode=arch=compute_90,code=compute_90",
];

/// `NVCC`, or the one of the toolkit that the usual variables name, or the one on the path.
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

/// Compiles the kernels (source, what it becomes) of a crate where the feature `cuda` is on.
pub fn compile_kernels(kernels: &[(&str, &str)], headers: &[&str]) {
    println!("cargo::rerun-if-changed=build.rs");
    for file in kernels.iter().map(|(source, _)| source).chain(headers) {
        println!("cargo::rerun-if-changed={file}");
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let nvcc = nvcc();
    for (source, out) in kernels {
        compile(&nvcc, source, out);
    }
}

fn compile(nvcc: &Path, source: &str, out: &str) {
    let out = env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default().join(out);
    let mut command = Command::new(nvcc);
    command.args(["-fatbin", "-O3", "-std=c++17"]).args(CODE).arg("-o").arg(&out).arg(Path::new(source));
    match command.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => fail(&format!("{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => fail(&format!(
            "the feature `cuda` needs nvcc 11.8 or newer, and {} could not be run ({error}); install the CUDA toolkit and set \
             CUDA_HOME to it, or build without the feature (docs/cuda.md)",
            nvcc.display()
        )),
    }
}

fn fail(message: &str) -> ! {
    eprintln!("error: {message}");
    std::process::exit(1);
}
