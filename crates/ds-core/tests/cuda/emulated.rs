//! A [`Gpu`] whose kernels are compiled as C++ and run on the CPU (device.h), so that the host code of ops is tested with its
//! launches and arguments.
#![allow(dead_code, clippy::unwrap_used)]

use candle_core::{DType, Device, Result, Tensor, bail};
use ds_core::ops::gpu::{Address, Argument, Blocks, Gpu};
use ds_core::ops::linear_spline::geometry::Limits;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::cell::RefCell;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// Devices with much and with little shared memory.
pub const DEVICES: [Limits; 2] = [
    Limits { multiprocessors: 132, shared_per_block: 227 << 10, shared_per_multiprocessor: 228 << 10 },
    Limits { multiprocessors: 3, shared_per_block: 64 << 10, shared_per_multiprocessor: 64 << 10 },
];

/// Half of the last place of bf16, which has eight bits, relative to the number.
const BF16_ROUNDING: f64 = 1.0 / 256.0;

/// The types of what flows between layers.
pub const TYPES: [DType; 2] = [DType::F32, DType::BF16];

/// The device; its arrays live as long as it.
pub struct Emulated {
    child: RefCell<Child>,
    limits: Limits,
}

/// An array of numbers of one type.
#[derive(Debug, Clone, Copy)]
pub struct Array {
    address: u64,
    dtype: DType,
    len: usize,
}

impl Array {
    pub fn address(&self) -> Address {
        Address(self.address)
    }
}

/// `source` compiled; `None` where there is no compiler.
pub fn compiled(source: &Path, out: &Path) -> Option<PathBuf> {
    if Command::new("c++").arg("--version").output().is_err() {
        println!("no C++ compiler: the GPU kernels are not tested");
        return None;
    }
    let program = out.join(format!("kernels-emulation-{}", std::process::id()));
    let output = Command::new("c++")
        .args(["-std=c++20", "-O1", "-mf16c", "-mfma", "-ffp-contract=off", "-Wno-unknown-pragmas", "-o"])
        .arg(&program)
        .arg(source)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(program)
}

impl Emulated {
    pub fn start(program: &Path, limits: Limits) -> Self {
        let child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        Self { child: RefCell::new(child), limits }
    }

    fn send(&self, bytes: &[u8]) {
        self.child.borrow_mut().stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    fn receive(&self, count: usize) -> Vec<u8> {
        let mut child = self.child.borrow_mut();
        child.stdin.as_mut().unwrap().flush().unwrap();
        let mut bytes = vec![0; count];
        child.stdout.as_mut().unwrap().read_exact(&mut bytes).expect("the device has ended: see its message");
        bytes
    }

    fn put_bytes(&self, bytes: &[u8], dtype: DType, len: usize, offset: usize) -> Array {
        let array = self.alloc(DType::U8, bytes.len() + offset).unwrap();
        let address = array.address + offset as u64;
        self.send(&[&b"W"[..], &address.to_le_bytes(), &(bytes.len() as u64).to_le_bytes(), bytes].concat());
        Array { address, dtype, len }
    }

    pub fn put(&self, values: &[f32]) -> Array {
        self.put_as(values, DType::F32, 0)
    }

    /// Numbers of [`TYPES`], which the type can hold, after so many bytes of something else.
    pub fn put_as(&self, values: &[f32], dtype: DType, offset: usize) -> Array {
        let bytes: Vec<u8> = match dtype {
            DType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            _ => {
                assert!(values.iter().all(|v| v.to_bits() & 0xffff == 0), "not rounded to {dtype:?}");
                values.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect()
            }
        };
        self.put_bytes(&bytes, dtype, values.len(), offset)
    }

    pub fn put_tensor(&self, tensor: &Tensor) -> Array {
        self.put(&tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap())
    }

    pub fn put_f64(&self, values: &[f64]) -> Array {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.put_bytes(&bytes, DType::F64, values.len(), 0)
    }

    pub fn put_u8(&self, values: &[u8]) -> Array {
        self.put_bytes(values, DType::U8, values.len(), 0)
    }

    pub fn put_u32(&self, values: &[u32]) -> Array {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.put_bytes(&bytes, DType::U32, values.len(), 0)
    }

    fn get_bytes(&self, array: &Array) -> Vec<u8> {
        let bytes = array.len * array.dtype.size_in_bytes();
        self.send(&[&b"R"[..], &array.address.to_le_bytes(), &(bytes as u64).to_le_bytes()].concat());
        self.receive(bytes)
    }

    /// The numbers of an array of [`TYPES`].
    pub fn get(&self, array: &Array) -> Vec<f32> {
        let bytes = self.get_bytes(array);
        match array.dtype {
            DType::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            DType::BF16 => {
                let wide = |b: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
                bytes.as_chunks::<2>().0.iter().map(wide).collect()
            }
            other => panic!("an array of {other:?}"),
        }
    }

    pub fn get_f64(&self, array: &Array) -> Vec<f64> {
        assert_eq!(array.dtype, DType::F64);
        self.get_bytes(array).as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect()
    }

    /// |difference| must be at most `tolerance`·max|expected|, and half of the last place of what is expected where the array is
    /// bf16, since kernels compute in f32 and round once; but for `outliers` of a thousand numbers: an input next to a knot or to
    /// 0 may fall to either side.
    pub fn assert_close(&self, what: &str, array: &Array, expected: &Tensor, tolerance: f64, outliers: usize) {
        let ours = self.get(array);
        let expected = expected.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert_eq!(ours.len(), expected.len(), "{what}: number of values");
        let scale = expected.iter().fold(1e-12f64, |m, v| m.max(v.abs()));
        let half_place = if array.dtype == DType::BF16 { BF16_ROUNDING } else { 0.0 };
        let off = |(a, b): &(&f32, &f64)| {
            (f64::from(**a) - **b).abs() > tolerance * scale + half_place * b.abs() || a.is_nan() != b.is_nan()
        };
        let wrong: Vec<_> = ours.iter().zip(&expected).enumerate().filter(|(_, pair)| off(pair)).collect();
        let allowed = if outliers == 0 { 0 } else { outliers * ours.len() / 1000 + 1 };
        assert!(wrong.len() <= allowed, "{what}: {} of {} are off, first {:?}", wrong.len(), ours.len(), wrong.first());
    }

    /// Ends it; what was written around an array fails here.
    pub fn end(self) {
        self.send(b"Q");
        assert!(self.child.into_inner().wait().unwrap().success());
    }
}

impl Gpu for Emulated {
    type Buffer = Array;

    fn limits(&self) -> Result<Limits> {
        Ok(self.limits)
    }

    fn alloc(&self, dtype: DType, len: usize) -> Result<Array> {
        let bytes = (len * dtype.size_in_bytes()) as u64;
        self.send(&[&b"A"[..], &bytes.to_le_bytes()].concat());
        let address = u64::from_le_bytes(self.receive(8).try_into().unwrap());
        Ok(Array { address, dtype, len })
    }

    fn address(&self, buffer: &Array) -> Result<Address> {
        Ok(buffer.address())
    }

    unsafe fn launch(&self, kernel: &str, blocks: Blocks, arguments: &[Argument<'_>]) -> Result<()> {
        assert!(blocks.shared <= self.limits.shared_per_block, "{kernel}: {blocks:?}");
        assert!(blocks.threads <= 1024 && blocks.grid.1 <= 65535, "{kernel}: {blocks:?}");
        let mut request = vec![b'L'];
        let number = |request: &mut Vec<u8>, n: usize| request.extend((n as u32).to_le_bytes());
        number(&mut request, kernel.len());
        request.extend(kernel.bytes());
        for n in [blocks.grid.0, blocks.grid.1, blocks.threads, blocks.shared, arguments.len()] {
            number(&mut request, n);
        }
        let mut all = 0;
        for argument in arguments {
            let (kind, bytes) = match argument {
                Argument::Array(Address(address)) => (b'p', address.to_le_bytes().to_vec()),
                Argument::Int(value) => (b'i', value.to_le_bytes().to_vec()),
                Argument::Long(value) => (b'l', value.to_le_bytes().to_vec()),
                Argument::Float(value) => (b'f', value.to_le_bytes().to_vec()),
                Argument::Double(value) => (b'd', value.to_le_bytes().to_vec()),
                Argument::Struct(words) => (b's', words.iter().flat_map(|w| w.to_le_bytes()).collect()),
            };
            request.push(kind);
            number(&mut request, bytes.len());
            all += bytes.len().next_multiple_of(8);
            request.extend(bytes);
        }
        assert!(all <= 4096, "{kernel}: {all} bytes of arguments");
        self.send(&request);
        match u32::from_le_bytes(self.receive(4).try_into().unwrap()) {
            0 => Ok(()),
            1 => bail!("no kernel {kernel}"),
            2 => bail!("{kernel}: {} arguments", arguments.len()),
            k => bail!("{kernel}: argument {} is {:?}", k - 3, arguments[k as usize - 3]),
        }
    }
}

/// On the CPU.
pub fn tensor(values: Vec<f32>, shape: &[usize]) -> Tensor {
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// A device with some of [`DEVICES`]' limits that has the kernels of tests/cuda/kernels.cpp of the crate under test; `None`
/// where there is no C++ compiler, which is said.
pub fn device(limits: usize) -> Option<Emulated> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda/kernels.cpp");
    let program = PROGRAM.get_or_init(|| compiled(&source, Path::new(env!("CARGO_TARGET_TMPDIR")))).as_ref()?;
    Some(Emulated::start(program, DEVICES[limits]))
}

pub fn random(rng: &mut ChaCha8Rng, shape: &[usize]) -> Tensor {
    tensor((0..shape.iter().product()).map(|_| rng.random_range(-2.0..2.0)).collect(), shape)
}

/// What the type can hold, in f32: for both sides alike.
pub fn rounded(tensor: &Tensor, dtype: DType) -> Tensor {
    tensor.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap()
}

/// Random numbers that the type can hold.
pub fn random_of(rng: &mut ChaCha8Rng, shape: &[usize], dtype: DType) -> Tensor {
    rounded(&random(rng, shape), dtype)
}

/// On the device in a type that can hold it, sometimes at an address that is no multiple of 16.
pub fn put(rng: &mut ChaCha8Rng, gpu: &Emulated, tensor: &Tensor, dtype: DType) -> Array {
    let offset = if rng.random_bool(0.8) { 0 } else { dtype.size_in_bytes() };
    gpu.put_as(&tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap(), dtype, offset)
}

/// (N, C) or (N, C, …) with at least so many rows N.
pub fn random_shape(rng: &mut ChaCha8Rng, least: usize) -> Vec<usize> {
    // Planes of no vectors, of vectors of one type, and of both.
    let planes = [vec![], vec![3], vec![4, 4], vec![6, 6], vec![7, 9], vec![8, 8], vec![20, 20]];
    let inner = planes[rng.random_range(0..planes.len())].clone();
    [vec![rng.random_range(least..40), rng.random_range(1..7)], inner].concat()
}
