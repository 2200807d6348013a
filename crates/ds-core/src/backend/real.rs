//! The floating-point types that kernels are written for.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, DType, Layout, Result, Tensor, WithDType, bail};
use std::ops::Neg;

/// f32 or f64, with the few functions that kernels need.
pub trait Real: WithDType + Neg<Output = Self> + Default {
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// `self·b + c`, rounded once.
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// The larger of two; the other one where one is NaN.
    fn maximum(self, other: Self) -> Self;
    /// The smaller of two; the other one where one is NaN.
    fn minimum(self, other: Self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;
    /// The integer part.
    ///
    /// # Safety
    /// `self` must be finite and within the range of `i32`.
    unsafe fn trunc_to_i32(self) -> i32;
    /// The number nearest to an integer.
    fn from_i32(value: i32) -> Self;
}

macro_rules! real {
    ($type:ty) => {
        impl Real for $type {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            #[inline(always)]
            fn mul_add(self, b: Self, c: Self) -> Self {
                self.mul_add(b, c)
            }
            #[inline(always)]
            fn maximum(self, other: Self) -> Self {
                self.max(other)
            }
            #[inline(always)]
            fn minimum(self, other: Self) -> Self {
                self.min(other)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                self.sqrt()
            }
            #[inline(always)]
            unsafe fn trunc_to_i32(self) -> i32 {
                // SAFETY: the caller keeps the value within the range of i32.
                unsafe { self.to_int_unchecked() }
            }
            #[inline(always)]
            fn from_i32(value: i32) -> Self {
                value as $type
            }
        }
    };
}
real!(f32);
real!(f64);

/// The elements of a contiguous CPU tensor.
///
/// # Errors
/// If the layout is strided or the type is another.
pub fn elements<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    let data = storage.as_slice::<T>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => bail!("the op needs a contiguous tensor, got strides {:?}", layout.stride()),
    }
}

/// The elements of a contiguous CPU tensor, for writing.
///
/// # Errors
/// If the layout is strided or the type is another.
pub fn elements_mut<'a, T: WithDType>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [T]> {
    let dtype = storage.dtype();
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("the op writes to contiguous tensors, got strides {:?}", layout.stride())
    };
    let any: &mut dyn std::any::Any = match storage {
        CpuStorage::F32(data) => data,
        CpuStorage::F64(data) => data,
        _ => bail!("the op writes to f32 or f64, got {dtype:?}"),
    };
    match any.downcast_mut::<Vec<T>>() {
        Some(data) => Ok(&mut data[start..end]),
        None => bail!("the op writes to {:?}, got {dtype:?}", T::DTYPE),
    }
}

/// Calls `f` with the elements of a tensor, made contiguous first if need be, and fetched if they are on a device.
///
/// # Errors
/// If the tensor has another type, or `f` fails.
pub fn with_elements<T: Real, R>(tensor: &Tensor, f: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let tensor = tensor.to_device(&candle_core::Device::Cpu)?.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cpu(storage) => f(elements(storage, layout)?),
        _ => bail!("the op's CPU kernel got a tensor on {:?}", tensor.device().location()),
    }
}

/// The elements of a tensor of any type and device, row by row, in double precision.
pub fn in_double_precision(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// The elements in double precision.
pub fn to_f64<T: Real>(values: &[T]) -> Vec<f64> {
    values.iter().map(|v| v.to_f64()).collect()
}

/// Runs a generic block for the type of a CPU storage or tensor, f32 or f64; anything else is an error that names the op.
#[doc(hidden)]
#[macro_export]
macro_rules! dispatch_real {
    ($dtype:expr, $op:expr, $T:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                #[allow(unused_imports)]
                use {candle_core::WithDType as _, $crate::backend::real::Real as _};
                type $T = f32;
                $body
            }
            candle_core::DType::F64 => {
                #[allow(unused_imports)]
                use {candle_core::WithDType as _, $crate::backend::real::Real as _};
                type $T = f64;
                $body
            }
            other => Err(candle_core::Error::UnsupportedDTypeForOp(other, $op).bt()),
        }
    };
}
