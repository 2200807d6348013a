//! A [`Gpu`] whose kernels are compiled as C++ and run on the CPU (device.h), so that the host code of ops is tested with its
//! launches and arguments.
#![allow(dead_code, clippy::unwrap_used)]

use candle_core::{DType, Device, Layout, Result, Tensor, TensorId, bail};
use ds_core::backend::gpu::launch::Limits;
use ds_core::backend::gpu::{Address, Argument, Gpu, GpuInput, LaunchDims, Matrix};
use ds_core::backend::op::{self, Backward, Gradient, Op};
use half::{bf16, f16};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// Devices with much and with little shared memory.
pub const DEVICES: [Limits; 2] = [
    Limits { multiprocessors: 132, shared_per_block: 227 << 10, shared_per_multiprocessor: 228 << 10 },
    Limits { multiprocessors: 3, shared_per_block: 64 << 10, shared_per_multiprocessor: 64 << 10 },
];

/// Half of the last place of a number, relative to it, where kernels round what they computed in f32.
fn rounding(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 1.0 / 256.0,
        DType::F16 => 1.0 / 2048.0,
        _ => 0.0,
    }
}

/// The types of what flows between layers.
pub const TYPES: [DType; 2] = [DType::F32, DType::BF16];

/// The device; its arrays live as long as it.
pub struct Emulated {
    child: RefCell<Child>,
    limits: Limits,
    /// Tensors that ops hold, by their ids.
    tensors: RefCell<HashMap<TensorId, Array>>,
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
        .args(["-std=c++20", "-O1", "-mf16c", "-mfma", "-ffp-contract=off", "-Wall", "-Wno-unknown-pragmas", "-I"])
        // The headers of ds-core, for the kernels of other crates.
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../ds-core/src"))
        .arg("-o")
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
        Self { child: RefCell::new(child), limits, tensors: RefCell::default() }
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

    /// Numbers that the type can hold, after so many bytes of something else.
    pub fn put_as(&self, values: &[f32], dtype: DType, offset: usize) -> Array {
        let exact = |v: f32, back: f32| assert!(v == back || v.is_nan(), "{v} is not rounded to {dtype:?}");
        let bytes: Vec<u8> = match dtype {
            DType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            DType::BF16 => {
                values.iter().for_each(|&v| exact(v, bf16::from_f32(v).to_f32()));
                values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect()
            }
            DType::F16 => {
                values.iter().for_each(|&v| exact(v, f16::from_f32(v).to_f32()));
                values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect()
            }
            DType::U8 => values.iter().map(|&v| v as u8).collect(),
            other => panic!("an array of {other:?}"),
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

    /// The numbers of an array.
    pub fn get(&self, array: &Array) -> Vec<f32> {
        let bytes = self.get_bytes(array);
        match array.dtype {
            DType::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            DType::BF16 => bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            DType::F16 => bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            other => panic!("an array of {other:?}"),
        }
    }

    /// The array of a tensor that an op holds.
    pub fn array_of(&self, tensor: &Tensor) -> Array {
        self.tensors.borrow()[&tensor.id()]
    }

    pub fn get_f64(&self, array: &Array) -> Vec<f64> {
        assert_eq!(array.dtype, DType::F64);
        self.get_bytes(array).as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect()
    }

    /// |difference| must be at most `tolerance`·max|expected|, and half of the last place of what is expected where the array is
    /// of 16 bits, since kernels compute in f32 and round once; but for `outliers` of a thousand numbers: an input next to a knot or to
    /// 0 may fall to either side.
    pub fn assert_close(&self, what: &str, array: &Array, expected: &Tensor, tolerance: f64, outliers: usize) {
        let ours = self.get(array);
        let expected = expected.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert_eq!(ours.len(), expected.len(), "{what}: number of values");
        let scale = expected.iter().fold(1e-12f64, |m, v| m.max(v.abs()));
        let half_place = rounding(array.dtype);
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

    fn compute_capability(&self) -> Result<(i32, i32)> {
        Ok((9, 0))
    }

    fn address(&self, buffer: &Array) -> Result<Address> {
        Ok(buffer.address())
    }

    /// Tensors that ops hold are on the CPU here, and put on the device when they are first asked for.
    fn address_of(&self, tensor: &Tensor, dtype: DType, op: &str) -> Result<Address> {
        if let Some(array) = self.tensors.borrow().get(&tensor.id()) {
            return Ok(array.address());
        }
        assert_eq!(tensor.dtype(), dtype, "{op}");
        let flat = tensor.flatten_all()?;
        let array = match dtype {
            DType::F64 => self.put_f64(&flat.to_vec1::<f64>()?),
            DType::I64 => {
                let bytes: Vec<u8> = flat.to_vec1::<i64>()?.iter().flat_map(|v| v.to_le_bytes()).collect();
                self.put_bytes(&bytes, dtype, flat.elem_count(), 0)
            }
            _ => self.put(&flat.to_vec1::<f32>()?),
        };
        self.tensors.borrow_mut().insert(tensor.id(), array);
        Ok(array.address())
    }

    fn matmul(&self, _: (usize, usize, usize), a: Matrix<'_, Self>, b: Matrix<'_, Self>) -> Result<Array> {
        let matrix = |matrix: &Matrix<'_, Self>| {
            let tensor = tensor(self.get(matrix.input.buffer), matrix.input.shape().dims());
            if matrix.transposed { tensor.t() } else { Ok(tensor) }
        };
        let product = matrix(&a)?.matmul(&matrix(&b)?)?.to_dtype(a.input.dtype)?.to_dtype(DType::F32)?;
        Ok(self.put_as(&product.flatten_all()?.to_vec1::<f32>()?, a.input.dtype, 0))
    }

    unsafe fn launch(&self, kernel: &str, blocks: LaunchDims, arguments: &[Argument<'_>]) -> Result<()> {
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

/// Whole numbers that are drawn as labels.
pub fn labels(rng: &mut ChaCha8Rng, n: usize, classes: usize) -> Tensor {
    let labels: Vec<u8> = (0..n).map(|_| rng.random_range(0..classes) as u8).collect();
    Tensor::from_vec(labels, n, &Device::Cpu).unwrap()
}

/// An input of an op: a tensor on the CPU in f32 (or of bytes), and its type on the device.
pub type Input<'a> = (&'a Tensor, DType);

/// How close the result and the gradients of the inputs must be, relative to the largest number of each; in the result and the
/// gradients some of a thousand numbers may be off: an input next to a knot or to 0 may fall to either side.
pub struct Tolerances<'a> {
    pub result: f64,
    pub gradients: &'a [f64],
    pub outliers: usize,
}

/// Runs an op forward and backward on the emulated device and on the CPU, with an instance of the op for each, and compares the
/// result and the gradients of all inputs.
pub fn compare<O: Op, const N: usize>(
    rng: &mut ChaCha8Rng,
    gpu: &Emulated,
    what: &str,
    (on_gpu, on_cpu): (&O, &O),
    inputs: [Input<'_>; N],
    tolerances: &Tolerances<'_>,
) {
    let arrays = inputs.map(|(tensor, dtype)| {
        let wide = tensor.to_dtype(DType::F32).unwrap();
        put(rng, gpu, &wide, dtype)
    });
    let layouts = inputs.map(|(tensor, _)| Layout::contiguous(tensor.shape()));
    let of: Vec<_> = arrays
        .iter()
        .zip(&layouts)
        .map(|(array, layout)| GpuInput::new(gpu, array, layout, array.dtype, O::NAME).unwrap())
        .collect();
    let shape = on_gpu.shape(&inputs.map(|(tensor, _)| tensor.shape())).unwrap();
    let y = on_gpu.gpu(gpu, &of).unwrap();
    let tensors = inputs.map(|(tensor, _)| tensor);
    let expected = op::forward(on_cpu, tensors).unwrap();
    assert_eq!((&shape, shape.elem_count()), (expected.shape(), y.len), "{what}");
    gpu.assert_close(&format!("{what}: {}", O::NAME), &y, &expected, tolerances.result, tolerances.outliers);
    if tolerances.gradients.is_empty() {
        return;
    }
    let mut gradient = || {
        let dy = random_of(rng, shape.dims(), y.dtype);
        let array = put(rng, gpu, &dy, y.dtype);
        (dy, array)
    };
    let layout = Layout::contiguous(&shape);
    fn input<'a>(gpu: &Emulated, array: &'a Array, layout: &'a Layout) -> GpuInput<'a, Emulated> {
        GpuInput::new(gpu, array, layout, array.dtype, "∂y").unwrap()
    }
    let check = |dy: &Tensor, on_dy: Array, more: Option<&Array>| {
        let [y, of_dy] = [&y, &on_dy].map(|array| input(gpu, array, &layout));
        let more = more.map(|more| input(gpu, more, &layout));
        let pass = Backward { inputs: &of, y, dy: of_dy, more };
        let ours = on_gpu.gpu_backward(gpu, &pass).unwrap();
        let expected = op::backward(on_cpu, tensors, &expected, dy).unwrap();
        for (k, (ours, expected)) in ours.into_iter().zip(expected).enumerate() {
            let ours = match ours {
                Gradient::None => None,
                Gradient::Value(array) => Some(array),
                Gradient::Output => Some(on_dy),
            };
            assert_eq!(ours.is_some(), expected.is_some(), "{what}: {}, gradient of input {k}", O::NAME);
            let (Some(ours), Some(expected)) = (ours, expected) else { continue };
            assert_eq!(inputs[k].0.shape(), expected.shape());
            let what = format!("{what}: {}, gradient of input {k}, of two: {}", O::NAME, more.is_some());
            gpu.assert_close(&what, &ours, &expected, tolerances.gradients[k], tolerances.outliers);
        }
    };
    let (dy, on_dy) = gradient();
    check(&dy, on_dy, None);
    if O::TAKES_TWO_GRADIENTS {
        let (more, on_more) = gradient();
        check(&rounded(&(dy + more).unwrap(), y.dtype), on_dy, Some(&on_more));
    }
}

/// What an op computes for many lists of inputs of these shapes together, forward and backward, against what it computes for each.
pub fn check_foreach<O: Op, const N: usize>(rng: &mut ChaCha8Rng, gpu: &Emulated, all: &[(O, [Vec<usize>; N])]) {
    let mut on = |shape: &Vec<usize>| (gpu.put_tensor(&random(rng, shape)), Layout::contiguous(shape.as_slice()));
    let arrays: Vec<_> = all.iter().map(|(_, shapes)| shapes.each_ref().map(&mut on)).collect();
    let input = |(array, layout)| GpuInput::new(gpu, array, layout, DType::F32, O::NAME).unwrap();
    let inputs: Vec<_> = arrays.iter().map(|arrays| arrays.each_ref().map(|(a, l)| input((a, l)))).collect();
    let items: Vec<_> = all.iter().zip(&inputs).map(|((op, _), inputs)| (op, &inputs[..])).collect();
    let together = O::gpu_foreach(gpu, &items).unwrap();
    assert_eq!(together.len(), all.len());
    let alone: Vec<_> = items.iter().map(|(op, inputs)| op.gpu(gpu, inputs).unwrap()).collect();
    for (together, alone) in together.iter().zip(&alone) {
        assert!(gpu.get(together) == gpu.get(alone), "{}", O::NAME);
    }
    let shape = |(op, inputs): &(&O, &[GpuInput<'_, Emulated>])| {
        let shapes: Vec<_> = inputs.iter().map(|input| input.shape()).collect();
        Layout::contiguous(op.shape(&shapes).unwrap())
    };
    let layouts: Vec<_> = items.iter().map(shape).collect();
    let pass = |(((op, inputs), y), layout)| {
        let y = input((y, layout));
        (op, Backward { inputs, y, dy: y, more: None })
    };
    let passes: Vec<_> = items.iter().copied().zip(&alone).zip(&layouts).map(pass).collect();
    let together = O::gpu_backward_foreach(gpu, &passes).unwrap();
    assert_eq!(together.len(), all.len());
    for ((op, pass), together) in passes.iter().zip(&together) {
        for (together, alone) in together.iter().zip(&op.gpu_backward(gpu, pass).unwrap()) {
            match (together, alone) {
                (Gradient::Value(together), Gradient::Value(alone)) => {
                    assert!(gpu.get(together) == gpu.get(alone), "{}: gradients", O::NAME);
                }
                (Gradient::None, Gradient::None) | (Gradient::Output, Gradient::Output) => {}
                _ => panic!("{}: not the same gradients", O::NAME),
            }
        }
    }
}

/// Every kernel below a folder begins with `begin()`: one that does not could run before its inputs are there.
pub fn check_beginnings(folder: &Path) -> usize {
    let mut kernels = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            kernels += check_beginnings(&path);
        } else if path.extension().is_some_and(|extension| extension == "cu" || extension == "cuh") {
            for kernel in std::fs::read_to_string(&path).unwrap().split("extern \"C\" __global__").skip(1) {
                let (head, body) = kernel.split_once('{').unwrap();
                let body = body.trim_start_matches(|c: char| c.is_whitespace() || c == '\\');
                assert!(body.starts_with("begin();"), "{}: {head}", path.display());
                kernels += 1;
            }
        }
    }
    kernels
}
