//! The inner loops: tiles of outputs × pixels that stay in registers, a vector being one pixel of several images.

use crate::ops::blocks::LANES;
use ds_core::backend::lanes::Lanes;
use ds_core::backend::real::Real;
use ds_core::backend::simd::Instructions;
use std::any::TypeId;

/// Channels of the target that share a load of a pixel.
pub(super) const BLOCK: usize = 4;

/// One weight of the window: where its pixel lies from the tile's first one, and where its weights begin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tap {
    pub pixel: usize,
    pub weight: usize,
}

/// A row of pixels of all target channels.
pub(super) struct Row<'a, T> {
    /// The first pixel's source, in packed rows.
    pub source: *const T,
    /// Elements between channels of the source.
    pub source_channel: usize,
    /// Elements between sources of neighbouring pixels.
    pub source_step: usize,
    pub source_channels: usize,
    pub taps: &'a [Tap],
    /// (block of targets, source channel, all taps of the window, target of the block).
    pub weights: &'a [T],
    /// Taps of the whole window.
    pub window: usize,
    pub bias: Option<&'a [T]>,
    /// The first pixel of channel 0 of the target.
    pub target: *mut T,
    pub target_channel: usize,
    pub target_step: usize,
    pub target_channels: usize,
    pub pixels: usize,
}

/// # Safety
/// The machine must have the instructions of L; source, taps and target must describe readable and writable vectors of
/// `LANES` for every pixel and channel.
#[inline(always)]
unsafe fn tile<L: Lanes, const OUT: usize, const PIXELS: usize>(
    row: &Row<'_, L::Element>,
    first_target: usize,
    first_pixel: usize,
    lane: usize,
) {
    // SAFETY: by the caller's promise; weights and bias are indexed within what `Row` describes.
    unsafe {
        let mut sums = [[L::splat(L::Element::ZERO); PIXELS]; OUT];
        if let Some(bias) = row.bias {
            for (o, sums) in sums.iter_mut().enumerate() {
                *sums = [L::splat(*bias.get_unchecked(first_target + o)); PIXELS];
            }
        }
        let mut source = row.source.add(first_pixel * row.source_step + lane);
        let mut weights = row.weights.as_ptr().add(first_target * row.source_channels * row.window);
        for _ in 0..row.source_channels {
            for tap in row.taps {
                let pixels = source.add(tap.pixel);
                let weights = weights.add(tap.weight * OUT);
                let values: [L; PIXELS] = std::array::from_fn(|p| L::load(pixels.add(p * row.source_step)));
                for (o, sums) in sums.iter_mut().enumerate() {
                    let weight = L::splat(*weights.add(o));
                    for (sum, value) in sums.iter_mut().zip(values) {
                        *sum = value.mul_add(weight, *sum);
                    }
                }
            }
            // Behind the last channel this may be outside the rows, and is not read.
            source = source.wrapping_add(row.source_channel);
            weights = weights.add(row.window * OUT);
        }
        for (o, sums) in sums.into_iter().enumerate() {
            let target = row.target.add((first_target + o) * row.target_channel + first_pixel * row.target_step + lane);
            for (p, sum) in sums.into_iter().enumerate() {
                sum.store(target.add(p * row.target_step));
            }
        }
    }
}

/// # Safety
/// As for [`tile`]; PIXELS is at most 4.
#[inline(always)]
unsafe fn row<L: Lanes, const PIXELS: usize>(row: &Row<'_, L::Element>) {
    let mut pixel = 0;
    while pixel < row.pixels {
        let count = PIXELS.min(row.pixels - pixel);
        let mut target = 0;
        while target < row.target_channels {
            let outputs = BLOCK.min(row.target_channels - target);
            for lane in (0..LANES).step_by(L::COUNT) {
                macro_rules! with_pixels {
                    ($out:literal) => {
                        match count {
                            1 => tile::<L, $out, 1>(row, target, pixel, lane),
                            2 => tile::<L, $out, 2>(row, target, pixel, lane),
                            3 if PIXELS > 2 => tile::<L, $out, 3>(row, target, pixel, lane),
                            _ => tile::<L, $out, PIXELS>(row, target, pixel, lane),
                        }
                    };
                }
                // SAFETY: by the caller's promise; `count` pixels and `outputs` channels are left.
                unsafe {
                    match outputs {
                        1 => with_pixels!(1),
                        2 => with_pixels!(2),
                        3 => with_pixels!(3),
                        _ => with_pixels!(4),
                    }
                }
            }
            target += outputs;
        }
        pixel += count;
    }
}

/// Products of a rectangle of output gradients with the inputs that each weight sees.
pub(super) struct Products<'a, T> {
    /// The first input of weight 0, in packed rows.
    pub source: *const T,
    /// For each weight (input channel, ky, kx) where its first input lies from there.
    pub weights: &'a [usize],
    pub source_row: usize,
    pub source_step: usize,
    /// The first output gradient of channel 0.
    pub gradient: *const T,
    pub gradient_channel: usize,
    pub gradient_row: usize,
    pub outputs: usize,
    pub rows: usize,
    pub pixels: usize,
}

/// Adds Σ over the rectangle and the lanes to dw[output][weight] for OUT outputs and WEIGHTS weights.
///
/// # Safety
/// The machine must have the instructions of L, and `p` must describe readable vectors of `LANES`.
#[inline(always)]
unsafe fn products<L: Lanes, const OUT: usize, const WEIGHTS: usize>(
    p: &Products<'_, L::Element>,
    output: usize,
    weight: usize,
    dw: &mut [L::Element],
) {
    let offsets: [usize; WEIGHTS] = std::array::from_fn(|k| p.weights[weight + k]);
    // SAFETY: by the caller's promise.
    unsafe {
        let mut sums = [[L::splat(L::Element::ZERO); WEIGHTS]; OUT];
        for lane in (0..LANES).step_by(L::COUNT) {
            for row in 0..p.rows {
                let mut source = p.source.add(row * p.source_row + lane);
                let mut gradient = p.gradient.add(output * p.gradient_channel + row * p.gradient_row + lane);
                for _ in 0..p.pixels {
                    let inputs: [L; WEIGHTS] = std::array::from_fn(|k| L::load(source.add(offsets[k])));
                    for (o, sums) in sums.iter_mut().enumerate() {
                        let gradient = L::load(gradient.add(o * p.gradient_channel));
                        for (sum, input) in sums.iter_mut().zip(inputs) {
                            *sum = input.mul_add(gradient, *sum);
                        }
                    }
                    // Behind the last pixel these may be outside their arrays, and are not read.
                    source = source.wrapping_add(p.source_step);
                    gradient = gradient.wrapping_add(LANES);
                }
            }
        }
        for (o, sums) in sums.into_iter().enumerate() {
            let dw = &mut dw[(output + o) * p.weights.len() + weight..][..WEIGHTS];
            for (dw, sum) in dw.iter_mut().zip(sums) {
                *dw += sum.reduce_add();
            }
        }
    }
}

/// # Safety
/// As for [`products`]; WEIGHTS is at most 6.
#[inline(always)]
unsafe fn all_products<L: Lanes, const WEIGHTS: usize>(p: &Products<'_, L::Element>, dw: &mut [L::Element]) {
    let mut output = 0;
    while output < p.outputs {
        let outputs = BLOCK.min(p.outputs - output);
        let mut weight = 0;
        while weight < p.weights.len() {
            let count = WEIGHTS.min(p.weights.len() - weight);
            macro_rules! with_weights {
                ($out:literal) => {
                    match count {
                        1 => products::<L, $out, 1>(p, output, weight, dw),
                        2 => products::<L, $out, 2>(p, output, weight, dw),
                        3 if WEIGHTS > 3 => products::<L, $out, 3>(p, output, weight, dw),
                        4 if WEIGHTS > 4 => products::<L, $out, 4>(p, output, weight, dw),
                        5 if WEIGHTS > 5 => products::<L, $out, 5>(p, output, weight, dw),
                        _ => products::<L, $out, WEIGHTS>(p, output, weight, dw),
                    }
                };
            }
            // SAFETY: by the caller's promise; `count` weights and `outputs` channels are left.
            unsafe {
                match outputs {
                    1 => with_weights!(1),
                    2 => with_weights!(2),
                    3 => with_weights!(3),
                    _ => with_weights!(4),
                }
            }
            weight += count;
        }
        output += outputs;
    }
}

/// Kernels with vectors of one element type, for machines with their instructions.
#[cfg(target_arch = "x86_64")]
macro_rules! with_vectors {
    ($module:ident, $element:ty, $wide:ty, $narrow:ty) => {
        mod $module {
            use super::{Products, Row, all_products, row};

            #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
            pub(super) unsafe fn row_avx512(r: &Row<'_, $element>) {
                // SAFETY: by the caller's promise, here and below.
                unsafe { row::<$wide, 4>(r) }
            }
            #[target_feature(enable = "avx2,fma")]
            pub(super) unsafe fn row_avx2(r: &Row<'_, $element>) {
                // SAFETY: as above.
                unsafe { row::<$narrow, 2>(r) }
            }
            #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
            pub(super) unsafe fn products_avx512(p: &Products<'_, $element>, dw: &mut [$element]) {
                // SAFETY: as above.
                unsafe { all_products::<$wide, 6>(p, dw) }
            }
            #[target_feature(enable = "avx2,fma")]
            pub(super) unsafe fn products_avx2(p: &Products<'_, $element>, dw: &mut [$element]) {
                // SAFETY: as above.
                unsafe { all_products::<$narrow, 2>(p, dw) }
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
with_vectors!(single, f32, std::arch::x86_64::__m512, std::arch::x86_64::__m256);
#[cfg(target_arch = "x86_64")]
with_vectors!(double, f64, std::arch::x86_64::__m512d, std::arch::x86_64::__m256d);

/// Computes all target channels of a row.
///
/// # Safety
/// `r` must describe readable and writable vectors of `LANES` for every pixel and channel, and the machine must have the
/// instructions.
pub(super) unsafe fn convolve_row<T: Real>(with: Instructions, r: &Row<'_, T>) {
    #[cfg(target_arch = "x86_64")]
    if TypeId::of::<T>() == TypeId::of::<f32>() {
        let r = std::ptr::from_ref(r).cast::<Row<'_, f32>>();
        // SAFETY: T is f32, and the machine has the instructions.
        match with {
            Instructions::Avx512 => return unsafe { single::row_avx512(&*r) },
            Instructions::Avx2 => return unsafe { single::row_avx2(&*r) },
            Instructions::Portable => {}
        }
    } else if TypeId::of::<T>() == TypeId::of::<f64>() {
        let r = std::ptr::from_ref(r).cast::<Row<'_, f64>>();
        // SAFETY: T is f64, and the machine has the instructions.
        match with {
            Instructions::Avx512 => return unsafe { double::row_avx512(&*r) },
            Instructions::Avx2 => return unsafe { double::row_avx2(&*r) },
            Instructions::Portable => {}
        }
    }
    // SAFETY: by the caller's promise.
    unsafe { row::<[T; 4], 2>(r) }
}

/// dw (outputs, weights) += the products summed over rectangle and lanes.
///
/// # Safety
/// `p` must describe readable vectors of `LANES`, and the machine must have the instructions.
pub(super) unsafe fn add_products<T: Real>(with: Instructions, p: &Products<'_, T>, dw: &mut [T]) {
    assert!(dw.len() >= p.outputs * p.weights.len());
    #[cfg(target_arch = "x86_64")]
    if TypeId::of::<T>() == TypeId::of::<f32>() {
        let (p, dw) = (std::ptr::from_ref(p).cast::<Products<'_, f32>>(), std::ptr::from_mut(dw) as *mut [f32]);
        // SAFETY: T is f32, and the machine has the instructions.
        match with {
            Instructions::Avx512 => return unsafe { single::products_avx512(&*p, &mut *dw) },
            Instructions::Avx2 => return unsafe { single::products_avx2(&*p, &mut *dw) },
            Instructions::Portable => {}
        }
    } else if TypeId::of::<T>() == TypeId::of::<f64>() {
        let (p, dw) = (std::ptr::from_ref(p).cast::<Products<'_, f64>>(), std::ptr::from_mut(dw) as *mut [f64]);
        // SAFETY: T is f64, and the machine has the instructions.
        match with {
            Instructions::Avx512 => return unsafe { double::products_avx512(&*p, &mut *dw) },
            Instructions::Avx2 => return unsafe { double::products_avx2(&*p, &mut *dw) },
            Instructions::Portable => {}
        }
    }
    // SAFETY: by the caller's promise.
    unsafe { all_products::<[T; 4], 2>(p, dw) }
}
