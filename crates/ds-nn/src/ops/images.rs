//! Batches of a set of images that stays where it is, as bytes: cropped, flipped and normalised in one op.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, WithDType, bail};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, DType};
#[cfg(feature = "cuda")]
use ds_core::ops::gpu::cuda::{CudaGpu, address};

/// Which image of the set, and what of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    /// Its index.
    pub index: u32,
    /// How far the crop is shifted down, in −128..=127.
    pub dy: i8,
    /// How far it is shifted to the right.
    pub dx: i8,
    /// Whether it is mirrored afterwards.
    pub flip: bool,
}

impl Pick {
    /// An image as it is.
    pub fn whole(index: u32) -> Self {
        Self { index, dy: 0, dx: 0, flip: false }
    }

    /// As [`PlaceImages`] takes it.
    pub fn words(self) -> [u32; 2] {
        let byte = |shift: i8| (i32::from(shift) + 128) as u32;
        [self.index, byte(self.dy) | byte(self.dx) << 8 | u32::from(self.flip) << 16]
    }
}

/// Images (n, C, H, W) of bytes, a table (C, 256) of the values that bytes stand for and picks (N, 2) as [`Pick::words`] → (N, C,
/// H, W) in the type of the table, f32 or bf16. What a crop takes from outside is black, byte 0.
#[derive(Debug, Clone, Copy)]
pub struct PlaceImages;

impl PlaceImages {
    /// ([n, C, H, W], N).
    fn sizes(&self, images: &Shape, table: &Shape, picks: &Shape) -> Result<([usize; 4], usize)> {
        match (images.dims(), table.dims(), picks.dims()) {
            (&[n, c, h, w], &[of_table, 256], &[count, 2]) if of_table == c => Ok(([n, c, h, w], count)),
            _ => bail!(
                "{}: images {images:?}, table {table:?} and picks {picks:?} must be (n, C, H, W), (C, 256), (N, 2)",
                self.name()
            ),
        }
    }

    fn placed<T: WithDType>(
        &self,
        [n, channels, height, width]: [usize; 4],
        images: &[u8],
        table: &[T],
        picks: &[u32],
    ) -> Result<Vec<T>> {
        let mut out = Vec::with_capacity(picks.len() / 2 * channels * height * width);
        for pick in picks.as_chunks::<2>().0 {
            let (index, shift) = (pick[0] as usize, |byte: u32| (byte & 255) as isize - 128);
            if index >= n {
                bail!("{}: image {index} of {n}", self.name());
            }
            let (dy, dx, flip) = (shift(pick[1]), shift(pick[1] >> 8), pick[1] >> 16 & 1 == 1);
            for channel in 0..channels {
                let plane = &images[(index * channels + channel) * height * width..][..height * width];
                for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
                    let y = y as isize + dy;
                    let x = (if flip { width - 1 - x } else { x }) as isize + dx;
                    let inside = (0..height as isize).contains(&y) && (0..width as isize).contains(&x);
                    let byte = if inside { plane[y as usize * width + x as usize] } else { 0 };
                    out.push(table[channel * 256 + usize::from(byte)]);
                }
            }
        }
        Ok(out)
    }
}

fn contiguous<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => bail!("place-images: the op needs contiguous tensors, got strides {:?}", layout.stride()),
    }
}

impl CustomOp3 for PlaceImages {
    fn name(&self) -> &'static str {
        "place-images"
    }

    fn cpu_fwd(
        &self,
        images: &CpuStorage,
        il: &Layout,
        table: &CpuStorage,
        tl: &Layout,
        picks: &CpuStorage,
        pl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (sizes, count) = self.sizes(il.shape(), tl.shape(), pl.shape())?;
        let [_, channels, height, width] = sizes;
        let (images, picks) = (contiguous::<u8>(images, il)?, contiguous::<u32>(picks, pl)?);
        let out = match table {
            CpuStorage::F32(_) => CpuStorage::F32(self.placed(sizes, images, contiguous(table, tl)?, picks)?),
            CpuStorage::BF16(_) => CpuStorage::BF16(self.placed(sizes, images, contiguous(table, tl)?, picks)?),
            _ => bail!("{}: the table must be f32 or bf16, got {:?}", self.name(), table.dtype()),
        };
        Ok((out, Shape::from((count, channels, height, width))))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        images: &CudaStorage,
        il: &Layout,
        table: &CudaStorage,
        tl: &Layout,
        picks: &CudaStorage,
        pl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let ([n, channels, height, width], count) = self.sizes(il.shape(), tl.shape(), pl.shape())?;
        let gpu = CudaGpu::new(&images.device, &super::gpu::KERNELS)?;
        let images = address(images, il, DType::U8, self.name())?;
        let dtype = table.dtype();
        let table = address(table, tl, dtype, self.name())?;
        let picks = address(picks, pl, DType::U32, self.name())?;
        let sizes = [channels, height, width];
        let out = super::gpu::images::place(&gpu, dtype, (images, table, picks), (n, count), sizes)?;
        Ok((out, Shape::from((count, channels, height, width))))
    }
}
