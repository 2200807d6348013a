//! Batches of a set of images that stays in memory as bytes: gathered, cropped, flipped and normalised in one op.

mod gpu;

use crate::backend::KERNELS;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, WithDType, bail};
use ds_core::backend::gpu::GpuInput;
use ds_core::backend::gpu::cuda::CudaGpu;
use ds_core::backend::real::elements;

/// An image of the set, and how it is augmented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop {
    /// The index of the image.
    pub index: u32,
    /// The shift of the crop downwards.
    pub dy: i8,
    /// The shift of the crop to the right.
    pub dx: i8,
    /// Whether the crop is mirrored afterwards.
    pub flip: bool,
}

impl Crop {
    /// An image as it is.
    pub fn whole(index: u32) -> Self {
        Self { index, dy: 0, dx: 0, flip: false }
    }

    /// The crop as [`GatherImages`] takes it.
    pub fn words(self) -> [u32; 2] {
        let byte = |shift: i8| (i32::from(shift) + 128) as u32;
        [self.index, byte(self.dy) | byte(self.dx) << 8 | u32::from(self.flip) << 16]
    }
}

/// Images (n, C, H, W) of bytes, a table (C, 256) of the normalised values of bytes, and crops (N, 2) as [`Crop::words`] → (N, C,
/// H, W) in the type of the table, f32 or bf16. What a crop takes from outside is black (byte 0), as in torchvision.
#[derive(Debug, Clone, Copy)]
pub struct GatherImages;

/// [`GatherImages`] outside any graph.
///
/// # Errors
/// If shapes, types or devices do not fit, or an index is too large.
pub fn gather(images: &Tensor, table: &Tensor, crops: &[Crop]) -> Result<Tensor> {
    let words: Vec<u32> = crops.iter().copied().flat_map(Crop::words).collect();
    images.apply_op3_no_bwd(table, &Tensor::from_vec(words, (crops.len(), 2), images.device())?, &GatherImages)
}

impl GatherImages {
    const NAME: &'static str = "gather-images";

    /// ([n, C, H, W], N).
    fn sizes(images: &Shape, table: &Shape, crops: &Shape) -> Result<([usize; 4], usize)> {
        match (images.dims(), table.dims(), crops.dims()) {
            (&[n, c, h, w], &[of_table, 256], &[count, 2]) if of_table == c => Ok(([n, c, h, w], count)),
            _ => bail!(
                "{}: images {images:?}, table {table:?} and crops {crops:?} must be (n, C, H, W), (C, 256), (N, 2)",
                Self::NAME
            ),
        }
    }

    fn gathered<T: WithDType>(
        [n, channels, height, width]: [usize; 4],
        images: &[u8],
        table: &[T],
        crops: &[u32],
    ) -> Result<Vec<T>> {
        let mut out = Vec::with_capacity(crops.len() / 2 * channels * height * width);
        for &[index, place] in crops.as_chunks::<2>().0 {
            let (index, shift) = (index as usize, |byte: u32| (byte & 255) as isize - 128);
            if index >= n {
                bail!("{}: image {index} of {n}", Self::NAME);
            }
            let (dy, dx, flip) = (shift(place), shift(place >> 8), place >> 16 & 1 == 1);
            for channel in 0..channels {
                let plane = &images[(index * channels + channel) * height * width..][..height * width];
                let values = &table[channel * 256..(channel + 1) * 256];
                if (dy, dx, flip) == (0, 0, false) {
                    out.extend(plane.iter().map(|&v| values[usize::from(v)]));
                    continue;
                }
                for y in 0..height {
                    let start = out.len();
                    let Some(y) = y.checked_add_signed(dy).filter(|&y| y < height) else {
                        out.resize(start + width, values[0]);
                        continue;
                    };
                    let row = &plane[y * width..(y + 1) * width];
                    out.extend((0..width).map(|x| {
                        let inside = x.checked_add_signed(dx).and_then(|x| row.get(x));
                        values[inside.map_or(0, |&v| usize::from(v))]
                    }));
                    if flip {
                        out[start..].reverse();
                    }
                }
            }
        }
        Ok(out)
    }
}

impl CustomOp3 for GatherImages {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(
        &self,
        images: &CpuStorage,
        il: &Layout,
        table: &CpuStorage,
        tl: &Layout,
        crops: &CpuStorage,
        cl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (sizes, count) = Self::sizes(il.shape(), tl.shape(), cl.shape())?;
        let [_, channels, height, width] = sizes;
        let (images, crops) = (elements::<u8>(images, il)?, elements::<u32>(crops, cl)?);
        let out = match table {
            CpuStorage::F32(_) => CpuStorage::F32(Self::gathered(sizes, images, elements(table, tl)?, crops)?),
            CpuStorage::BF16(_) => CpuStorage::BF16(Self::gathered(sizes, images, elements(table, tl)?, crops)?),
            _ => bail!("{}: the table must be f32 or bf16, got {:?}", Self::NAME, table.dtype()),
        };
        Ok((out, Shape::from((count, channels, height, width))))
    }

    fn cuda_fwd(
        &self,
        images: &CudaStorage,
        il: &Layout,
        table: &CudaStorage,
        tl: &Layout,
        crops: &CudaStorage,
        cl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let ([_, channels, height, width], count) = Self::sizes(il.shape(), tl.shape(), cl.shape())?;
        let gpu = CudaGpu::new(images.device(), &KERNELS)?;
        let of = |storage: &'_ CudaStorage, layout, dtype| {
            GpuInput::new(&gpu, storage, layout, storage.dtype(), Self::NAME)?.of_type(dtype, Self::NAME)
        };
        let dtype = table.dtype();
        let inputs = (of(images, il, DType::U8)?, of(table, tl, dtype)?, of(crops, cl, DType::U32)?);
        let out = gpu::gather(&gpu, dtype, inputs, il.dims()[0], [count, channels, height, width])?;
        Ok((out, Shape::from((count, channels, height, width))))
    }
}

pub use gpu::gather as gather_on;
