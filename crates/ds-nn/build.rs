//! Compiles the GPU kernels as `ds-core`'s build script says, and leaves an empty module without the feature `cuda`.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() -> Result<(), String> {
    let variable = |name: &str| env::var(name).map_err(|error| format!("{name}: {error}"));
    let (source, out) = (Path::new(&variable("CARGO_MANIFEST_DIR")?).join("src"), variable("OUT_DIR")?);
    println!("cargo::rerun-if-changed=build.rs");
    watch_kernels(&source)?;
    let image = Path::new(&out).join("kernels.fatbin");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return std::fs::write(&image, []).map_err(|error| format!("{}: {error}", image.display()));
    }
    let core = |name: &str| variable(&format!("DEP_DS_CORE_KERNELS_{name}"));
    let mut command = Command::new(core("NVCC")?);
    command.args(core("FLAGS")?.split(' ')).arg("-I").arg(core("INCLUDE")?);
    command.arg("-o").arg(&image).arg(source.join("backend/kernels.cu"));
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => Err(format!("{command:?}: {error}")),
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
