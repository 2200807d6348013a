//! The GPU kernels of the linear spline, compiled as C++ and run on the CPU by an emulation of blocks and barriers, with the
//! launches that devices would get, against the CPU's op. What only a GPU can show (speed, real rounding of its units) is left
//! to `just gpu-test`.
#![allow(clippy::unwrap_used)]
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use candle_core::{DType, Device, Tensor};
use ds_core::Grid;
use ds_core::ops::linear_spline::LinearSpline;
use ds_core::ops::linear_spline::geometry::{Launch, Limits, Mapping};
use ds_core::ops::planes::Planes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// Devices with much and with little shared memory.
const DEVICES: [Limits; 2] = [
    Limits { multiprocessors: 132, shared_per_block: 227 << 10, shared_per_multiprocessor: 228 << 10 },
    Limits { multiprocessors: 3, shared_per_block: 64 << 10, shared_per_multiprocessor: 64 << 10 },
];

/// The emulation, ready for cases; `None` where there is no compiler.
fn emulation() -> Option<Child> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let program = PROGRAM.get_or_init(compiled).as_ref()?;
    Some(Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
}

fn compiled() -> Option<PathBuf> {
    if Command::new("c++").arg("--version").output().is_err() {
        println!("no C++ compiler: the GPU kernels are not tested");
        return None;
    }
    let name = format!("linear-spline-emulation-{}", std::process::id());
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda/run.cpp");
    let output = Command::new("c++")
        .args(["-std=c++20", "-O1", "-mf16c", "-mfma", "-ffp-contract=off", "-Wall", "-Wno-unknown-pragmas"])
        .arg("-o")
        .arg(&program)
        .arg(source)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(program)
}

/// Ends it; numbers around a result that were written have ended it before.
fn end(mut program: Child) {
    program.stdin.take().unwrap().write_all(&0i32.to_le_bytes()).unwrap();
    assert!(program.wait().unwrap().success());
}

struct Case {
    planes: Planes,
    grid: Grid,
    device: Limits,
    dtype: DType,
    aligned: bool,
}

impl Case {
    fn random(rng: &mut ChaCha8Rng) -> Self {
        let inner = [1, 3, 9, 31, 32, 49, 64, 100, 256, 1000][rng.random_range(0..10)];
        let size = [3, 5, 21, 51, 53, 201][rng.random_range(0..6)];
        Self {
            planes: Planes {
                outer: [1, 2, 7, 33, 130][rng.random_range(0..if inner > 100 { 3 } else { 5 })],
                channels: [1, 2, 5, 40][rng.random_range(0..if inner > 100 { 3 } else { 4 })],
                inner,
            },
            grid: Grid::from_step(size, rng.random_range(0.05..0.5)).unwrap(),
            device: DEVICES[rng.random_range(0..2)],
            dtype: [DType::F32, DType::F32, DType::F16, DType::BF16][rng.random_range(0..4)],
            aligned: rng.random_bool(0.8),
        }
    }

    fn launches(&self) -> [Launch; 2] {
        let (segments, bytes) = (self.grid.size() - 1, self.dtype.size_in_bytes());
        [
            Launch::forward(self.planes, segments, bytes, self.aligned, self.device).unwrap(),
            Launch::backward(self.planes, segments, bytes, self.aligned, self.device).unwrap(),
        ]
    }
}

fn send(program: &mut Child, case: &Case, x: &[f32], c: &[f32], dy: &[f32]) -> [Vec<f32>; 3] {
    let kind = match case.dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        _ => 2,
    };
    let Planes { outer, channels, inner } = case.planes;
    let mut bytes = Vec::new();
    let mut integer = |value: usize| bytes.extend(i32::try_from(value).unwrap().to_le_bytes());
    [1, kind, outer, channels, inner, case.grid.size() - 1].into_iter().for_each(&mut integer);
    bytes.extend((case.grid.step() as f32).to_le_bytes());
    for launch in case.launches() {
        let mapping = match launch.mapping {
            Mapping::Vectors => 0,
            Mapping::Scalars => 1,
            Mapping::Columns => 2,
        };
        let Launch { threads, pieces, across, rows_per_block, shared, copies, .. } = launch;
        for value in [mapping, threads, pieces, across, rows_per_block, shared, copies] {
            bytes.extend(i32::try_from(value).unwrap().to_le_bytes());
        }
    }
    bytes.extend([x, c, dy].into_iter().flatten().flat_map(|value| value.to_le_bytes()));
    program.stdin.as_mut().unwrap().write_all(&bytes).unwrap();
    program.stdin.as_mut().unwrap().flush().unwrap();
    [x.len(), x.len(), c.len()].map(|count| {
        let mut bytes = vec![0; 4 * count];
        program.stdout.as_mut().unwrap().read_exact(&mut bytes).unwrap();
        bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    })
}

fn assert_close(what: &str, ours: &[f32], expected: &Tensor, tolerance: f32) {
    let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(ours.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-12f32, |m, v| m.max(v.abs()));
    for (k, (a, b)) in ours.iter().zip(&expected).enumerate() {
        assert!((a - b).abs() <= tolerance * scale, "{what}: element {k} is {a} for {b} (scale {scale})");
    }
}

#[test]
fn kernels_agree_with_the_cpu() {
    let Some(mut program) = emulation() else { return };
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    let (mut mappings, mut copies) = (Vec::new(), Vec::new());
    for round in 0..150 {
        let case = Case::random(rng);
        let Planes { outer, channels, inner } = case.planes;
        let shape = (outer, channels, inner);
        let reach = 1.4 * case.grid.knot(case.grid.size() - 1);
        let mut random = |reach: f64, shape: &[usize]| {
            let values =
                (0..shape.iter().product()).map(|_| rng.random_range(-reach..reach) as f32).collect::<Vec<_>>();
            // What the type can hold, for both sides alike.
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
            tensor.to_dtype(case.dtype).unwrap().to_dtype(DType::F32).unwrap()
        };
        let (x, dy) = (random(reach, &[outer, channels, inner]), random(1.0, &[outer, channels, inner]));
        let c = random(1.0, &[channels, case.grid.size()]);
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let [y, dx, dc] = send(&mut program, &case, &flat(&x), &flat(&c), &flat(&dy));
        let op = LinearSpline::new(case.grid);
        let expected_y = op.forward(&x, &c).unwrap();
        let (expected_dx, expected_dc) = op.backward(&x, &c, &dy).unwrap();
        let what = format!("round {round}, {shape:?}, K={}, {:?}, {:?}", case.grid.size(), case.dtype, case.launches());
        // Results are rounded to the type; sums are in f32 whatever that is.
        let tolerance = match case.dtype {
            DType::F32 => 1e-5,
            DType::F16 => 1e-3,
            _ => 8e-3,
        };
        assert_close(&format!("{what}: y"), &y, &expected_y, tolerance);
        assert_close(&format!("{what}: ∂x"), &dx, &expected_dx, tolerance);
        assert_close(&format!("{what}: ∂c"), &dc, &expected_dc, 1e-5);
        mappings.push(case.launches()[1].mapping);
        copies.push(case.launches()[0].copies);
    }
    assert!(copies.contains(&1) && copies.contains(&16), "tables of one copy and of many");
    for mapping in [Mapping::Vectors, Mapping::Scalars, Mapping::Columns] {
        assert!(mappings.contains(&mapping), "no case for {mapping:?}");
    }
    end(program);
}

#[test]
fn what_is_no_number_stays_where_it_is() {
    let Some(mut program) = emulation() else { return };
    let grid = Grid::from_step(51, 0.16).unwrap();
    let case = Case {
        planes: Planes { outer: 1, channels: 1, inner: 64 },
        grid,
        device: DEVICES[0],
        dtype: DType::F32,
        aligned: true,
    };
    let step = grid.step() as f32;
    // Knots, the numbers just left of them, and what has no segment.
    let mut x: Vec<f32> = (0..64).map(|k| (k / 2 - 15) as f32 * step).collect();
    x.iter_mut().step_by(2).for_each(|x| *x = x.next_down());
    (x[0], x[2], x[4], x[6]) = (f32::NAN, f32::INFINITY, -1e30, f32::NEG_INFINITY);
    let c: Vec<f32> = (0..51).map(|k| (k * k) as f32).collect();
    let [y, dx, _] = send(&mut program, &case, &x, &c, &[1.0; 64]);
    assert!(y[0].is_nan() && y[2] == f32::INFINITY && y[4] < -1e28 && y[6] == f32::NEG_INFINITY, "{:?}", &y[..8]);
    for (k, (x, dx)) in x.iter().zip(&dx).enumerate().filter(|(k, _)| *k > 6 || k % 2 == 1) {
        // The quotient as a division rounds it.
        let i = ((x / step).floor() + 25.0) as usize;
        assert!((dx - (c[i + 1] - c[i]) / step).abs() < 1e-2, "{k}: {dx} at {x}");
    }
    end(program);
}
