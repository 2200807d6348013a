//! Direct convolution for odd kernels with stride 1 and padding k/2, whose output has the size of the input.
//!
//! A few images are copied into planes with zeros between rows and images, so that one index runs over all of them: tap
//! (ky, kx) of position q lies at q + (ky − k/2)·P + (kx − k/2), P being the padded width. One column of zeros serves the end
//! of a row and the beginning of the next, and so do rows between images. Outputs that fall on padding are computed and
//! thrown away.

use ds_core::ops::lanes::Lanes;
use ds_core::ops::real::Real;
use ds_core::ops::simd::Instructions;
use std::any::TypeId;

/// The sizes of one such convolution.
#[derive(Debug, Clone, Copy)]
pub(super) struct Direct {
    pub inputs: usize,
    pub outputs: usize,
    pub height: usize,
    pub width: usize,
    pub kernel: usize,
    /// Images whose planes are laid out together.
    pub group: usize,
}

/// Positions that a group aims at: rows of eight channels then stay in the first-level cache.
const POSITIONS: usize = 1100;
/// The most lanes of a vector times the most vectors of a tile.
const TILE: usize = 48;
/// Outputs of a tile, whatever the instructions.
pub(super) const BLOCK: usize = 8;

impl Direct {
    pub fn new(inputs: usize, outputs: usize, height: usize, width: usize, kernel: usize, images: usize) -> Self {
        let mut direct = Self { inputs, outputs, height, width, kernel, group: 1 };
        direct.group = (POSITIONS / direct.image()).clamp(1, images.max(1));
        direct
    }

    fn pad(&self) -> usize {
        self.kernel / 2
    }
    fn row(&self) -> usize {
        self.width + self.pad()
    }
    /// Positions of one image.
    fn image(&self) -> usize {
        (self.height + self.pad()) * self.row()
    }
    fn positions(&self) -> usize {
        self.group * self.image()
    }
    fn margin(&self) -> usize {
        self.pad() * self.row() + self.pad()
    }
    /// Elements from one channel's plane to the next, with zeros around for taps and for the last tile.
    fn plane(&self) -> usize {
        (self.positions() + 2 * self.margin() + TILE).next_multiple_of(16) + 16
    }
    fn tap(&self, tap: usize) -> usize {
        tap / self.kernel * self.row() + tap % self.kernel
    }
    fn taps(&self) -> usize {
        self.kernel * self.kernel
    }

    /// Elements of the padded planes of `channels` channels.
    pub fn padded(&self, channels: usize) -> usize {
        channels * self.plane()
    }
    /// Elements of the raw outputs of `channels` channels.
    pub fn raw(&self, channels: usize) -> usize {
        channels.next_multiple_of(BLOCK) * (self.positions() + TILE)
    }
    /// Elements of packed weights from `from` to `to` channels.
    pub fn packed(&self, from: usize, to: usize) -> usize {
        to.next_multiple_of(BLOCK) * from * self.taps()
    }

    /// Copies images (n ≤ group, channels, H, W) into planes of which everything else is, and stays, 0; planes of images
    /// that are missing in the last group are set to 0.
    pub fn pad_images<T: Real>(&self, images: &[T], channels: usize, planes: &mut [T]) {
        let pixels = self.height * self.width;
        let present = images.len() / (channels * pixels);
        for channel in 0..channels {
            let start = channel * self.plane() + self.margin();
            let plane = &mut planes[start..start + self.positions()];
            for (n, target) in plane.chunks_exact_mut(self.image()).enumerate() {
                if n >= present {
                    target.fill(T::ZERO);
                    continue;
                }
                let image = &images[(n * channels + channel) * pixels..][..pixels];
                for (row, target) in image.chunks_exact(self.width).zip(target.chunks_exact_mut(self.row())) {
                    target[..self.width].copy_from_slice(row);
                }
            }
        }
    }

    /// Weights (outputs, inputs, k, k) as (block of outputs, input, tap, output of the block), for the forward pass.
    pub fn pack_forward<T: Real>(&self, weights: &[T], packed: &mut [T]) {
        let (taps, inputs) = (self.taps(), self.inputs);
        self.pack(inputs, self.outputs, packed, |o, i, tap| weights[(o * inputs + i) * taps + tap]);
    }

    /// The same with inputs and outputs exchanged and taps reversed, for the input gradient.
    pub fn pack_backward<T: Real>(&self, weights: &[T], packed: &mut [T]) {
        let (taps, inputs) = (self.taps(), self.inputs);
        self.pack(self.outputs, inputs, packed, |i, o, tap| weights[(o * inputs + i) * taps + taps - 1 - tap]);
    }

    fn pack<T: Real>(&self, from: usize, to: usize, packed: &mut [T], weight: impl Fn(usize, usize, usize) -> T) {
        for (k, packed) in packed.iter_mut().enumerate() {
            let (lane, rest) = (k % BLOCK, k / BLOCK);
            let (tap, rest) = (rest % self.taps(), rest / self.taps());
            let (source, target) = (rest % from, rest / from * BLOCK + lane);
            *packed = if target < to { weight(target, source, tap) } else { T::ZERO };
        }
    }

    /// Convolves padded planes of `from` channels into raw outputs of `to` channels.
    pub fn convolve<T: Real>(
        &self,
        with: Instructions,
        from: usize,
        to: usize,
        padded: &[T],
        packed: &[T],
        raw: &mut [T],
    ) {
        assert!(
            padded.len() >= self.padded(from) && packed.len() >= self.packed(from, to) && raw.len() >= self.raw(to)
        );
        let sizes = Sizes {
            from,
            blocks: to.div_ceil(BLOCK),
            positions: self.positions(),
            plane: self.plane(),
            raw_plane: self.positions() + TILE,
        };
        let taps: Vec<usize> = (0..self.taps()).map(|tap| self.tap(tap)).collect();
        let (padded, packed, raw) = (padded.as_ptr(), packed.as_ptr(), raw.as_mut_ptr());
        #[cfg(target_arch = "x86_64")]
        if TypeId::of::<T>() == TypeId::of::<f32>() {
            // SAFETY: T is f32; the machine has the instructions; sizes were checked above.
            match with {
                Instructions::Avx512 => {
                    return unsafe { convolve_avx512(&sizes, &taps, padded.cast(), packed.cast(), raw.cast()) };
                }
                Instructions::Avx2 => {
                    return unsafe { convolve_avx2(&sizes, &taps, padded.cast(), packed.cast(), raw.cast()) };
                }
                Instructions::Portable => {}
            }
        }
        // SAFETY: sizes were checked above.
        unsafe { convolve::<[T; 4], 2, 2>(&sizes, &taps, padded, packed, raw) }
    }

    /// Copies raw outputs to images (n ≤ group, channels, H, W), with a bias for each channel.
    pub fn unpad<T: Real>(&self, raw: &[T], channels: usize, bias: Option<&[T]>, images: &mut [T]) {
        let pixels = self.height * self.width;
        for (k, image) in images.chunks_exact_mut(pixels).enumerate() {
            let (n, channel) = (k / channels, k % channels);
            let start = channel * (self.positions() + TILE) + n * self.image();
            let rows = raw[start..start + self.image()].chunks_exact(self.row());
            for (target, row) in image.chunks_exact_mut(self.width).zip(rows) {
                target.copy_from_slice(&row[..self.width]);
                if let Some(bias) = bias {
                    for value in target {
                        *value += bias[channel];
                    }
                }
            }
        }
    }

    /// dw (outputs, inputs, k, k) += the gradient of one group, from its padded inputs and padded output gradients.
    pub fn weight_gradient<T: Real>(&self, with: Instructions, x: &[T], dy: &[T], dw: &mut [T]) {
        assert!(x.len() >= self.padded(self.inputs) && dy.len() >= self.padded(self.outputs));
        assert!(dw.len() >= self.outputs * self.inputs * self.taps());
        let (xs, dys, dws) = (x.as_ptr(), dy.as_ptr(), dw.as_mut_ptr());
        #[cfg(target_arch = "x86_64")]
        if TypeId::of::<T>() == TypeId::of::<f32>() {
            // SAFETY: T is f32; the machine has the instructions; sizes were checked above.
            match with {
                Instructions::Avx512 => {
                    return unsafe { gradient_avx512(self, xs.cast(), dys.cast(), dws.cast()) };
                }
                Instructions::Avx2 => return unsafe { gradient_avx2(self, xs.cast(), dys.cast(), dws.cast()) },
                Instructions::Portable => {}
            }
        }
        // SAFETY: sizes were checked above.
        unsafe {
            match self.kernel {
                3 => gradient::<[T; 4], 2, 3>(self, xs, dys, dws),
                _ => gradient::<[T; 4], 1, 5>(self, xs, dys, dws),
            }
        }
    }
}

struct Sizes {
    from: usize,
    blocks: usize,
    positions: usize,
    plane: usize,
    raw_plane: usize,
}

/// Tiles of OUT outputs × VECTORS vectors of positions stay in registers while all inputs and taps go by.
///
/// # Safety
/// The machine must have the instructions of L, OUT must divide BLOCK, VECTORS·COUNT must not exceed TILE, and the buffers
/// must have the sizes that `Direct` gives.
#[inline(always)]
unsafe fn convolve<L: Lanes, const OUT: usize, const VECTORS: usize>(
    s: &Sizes,
    taps: &[usize],
    padded: *const L::Element,
    packed: *const L::Element,
    raw: *mut L::Element,
) {
    // SAFETY: positions end at most a tile after the last; planes and raw outputs have that room.
    unsafe {
        for q in (0..s.positions).step_by(VECTORS * L::COUNT) {
            for block in 0..s.blocks {
                for first in (0..BLOCK).step_by(OUT) {
                    let mut sums = [[L::splat(L::Element::ZERO); VECTORS]; OUT];
                    let mut w = packed.add(block * s.from * taps.len() * BLOCK + first);
                    for input in 0..s.from {
                        let x = padded.add(input * s.plane + q);
                        for &tap in taps {
                            let values: [L; VECTORS] = std::array::from_fn(|v| L::load(x.add(tap + v * L::COUNT)));
                            for (o, sums) in sums.iter_mut().enumerate() {
                                let weight = L::splat(*w.add(o));
                                for (sum, value) in sums.iter_mut().zip(values) {
                                    *sum = value.fused(weight, *sum);
                                }
                            }
                            w = w.add(BLOCK);
                        }
                    }
                    for (o, sums) in sums.into_iter().enumerate() {
                        let to = raw.add((block * BLOCK + first + o) * s.raw_plane + q);
                        for (v, sum) in sums.into_iter().enumerate() {
                            sum.store(to.add(v * L::COUNT));
                        }
                    }
                }
            }
        }
    }
}

/// For one input, one row of taps and OUT outputs, K·OUT sums over all positions stay in registers.
///
/// # Safety
/// The machine must have the instructions of L, K must be the kernel's side, and the buffers must have the sizes that
/// `Direct` gives.
#[inline(always)]
unsafe fn gradient<L: Lanes, const OUT: usize, const K: usize>(
    s: &Direct,
    x: *const L::Element,
    dy: *const L::Element,
    dw: *mut L::Element,
) {
    let (plane, taps) = (s.plane(), s.taps());
    // SAFETY: positions end at most a vector after the last, where the output gradient's plane is 0.
    unsafe {
        for first in (0..s.outputs).step_by(OUT) {
            // The last block overlaps the one before rather than leave the outputs.
            let skip = (first + OUT).saturating_sub(s.outputs).min(first);
            let (first, count) = (first - skip, OUT.min(s.outputs));
            for input in 0..s.inputs {
                for ky in 0..K {
                    let mut sums = [[L::splat(L::Element::ZERO); K]; OUT];
                    let row = x.add(input * plane + ky * s.row());
                    let gradients = dy.add(first * plane + s.margin());
                    for q in (0..s.positions()).step_by(L::COUNT) {
                        let values: [L; K] = std::array::from_fn(|kx| L::load(row.add(q + kx)));
                        for (o, sums) in sums.iter_mut().enumerate() {
                            let o = if count == OUT { o } else { o.min(count - 1) };
                            let gradient = L::load(gradients.add(o * plane + q));
                            for (sum, value) in sums.iter_mut().zip(values) {
                                *sum = value.fused(gradient, *sum);
                            }
                        }
                    }
                    for (o, sums) in sums.into_iter().enumerate().take(count).skip(skip) {
                        let to = dw.add(((first + o) * s.inputs + input) * taps + ky * K);
                        for (kx, sum) in sums.into_iter().enumerate() {
                            *to.add(kx) += sum.total();
                        }
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

/// # Safety
/// As for [`convolve`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
unsafe fn convolve_avx512(s: &Sizes, taps: &[usize], padded: *const f32, packed: *const f32, raw: *mut f32) {
    // SAFETY: by the caller's promise.
    unsafe { convolve::<__m512, 8, 3>(s, taps, padded, packed, raw) }
}

/// # Safety
/// As for [`convolve`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn convolve_avx2(s: &Sizes, taps: &[usize], padded: *const f32, packed: *const f32, raw: *mut f32) {
    // SAFETY: by the caller's promise.
    unsafe { convolve::<__m256, 4, 3>(s, taps, padded, packed, raw) }
}

/// # Safety
/// As for [`gradient`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
unsafe fn gradient_avx512(s: &Direct, x: *const f32, dy: *const f32, dw: *mut f32) {
    // SAFETY: by the caller's promise.
    unsafe {
        match s.kernel {
            3 => gradient::<__m512, 8, 3>(s, x, dy, dw),
            _ => gradient::<__m512, 4, 5>(s, x, dy, dw),
        }
    }
}

/// # Safety
/// As for [`gradient`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn gradient_avx2(s: &Direct, x: *const f32, dy: *const f32, dw: *mut f32) {
    // SAFETY: by the caller's promise.
    unsafe {
        match s.kernel {
            3 => gradient::<__m256, 4, 3>(s, x, dy, dw),
            _ => gradient::<__m256, 2, 5>(s, x, dy, dw),
        }
    }
}
