//! Values in another type: weights, which stay f32, enter a layer whose input is bf16, and logits leave it.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};
use ds_core::graph::Graph;

/// x, rounded to a type; ∂x has the type that x had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cast {
    /// The type.
    pub dtype: DType,
}

impl CustomOp1 for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((x.to_dtype(l, self.dtype)?, l.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, l: &Layout) -> Result<(CudaStorage, Shape)> {
        Ok((x.to_dtype(l, self.dtype)?, l.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy.to_dtype(x.dtype())?))
    }
}

/// A value in a type; itself if it has that type.
///
/// # Errors
/// On Candle's errors.
pub fn cast<G: Graph>(graph: &mut G, value: &G::Value, dtype: DType) -> Result<G::Value> {
    if graph.tensor(value).dtype() == dtype { Ok(value.clone()) } else { graph.apply1(Cast { dtype }, value) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tape::Tape;
    use candle_core::{Device, Var};
    use ds_core::graph::Gradients;

    #[test]
    fn values_are_rounded_and_gradients_keep_the_parameters_type() {
        // Halves of the last bit of bf16 go to the even neighbour.
        let values = [1.0f32, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, -3.0e38];
        let weight = Var::from_tensor(&Tensor::new(&values, &Device::Cpu).unwrap()).unwrap();
        let mut tape = Tape::recording();
        let value = tape.parameter(&weight);
        assert_eq!(cast(&mut tape, &value, DType::F32).map(|same| tape.tensor(&same).id()).unwrap(), weight.id());
        let narrow = cast(&mut tape, &value, DType::BF16).unwrap();
        let wide = cast(&mut tape, &narrow, DType::F64).unwrap();
        assert_eq!(tape.tensor(&narrow).dtype(), DType::BF16);
        let rounded = tape.tensor(&wide).to_vec1::<f64>().unwrap();
        assert_eq!(rounded[..3], [1.0, 1.0, 1.0 + 1.0 / 64.0]);
        assert!((rounded[3] / -3.0e38 - 1.0).abs() <= 1.0 / 256.0, "{rounded:?}");
        let first = tape.apply1(First, &wide).unwrap();
        let gradients = tape.backward(&first).unwrap();
        let gradient = gradients.gradient(&weight).unwrap();
        assert_eq!(gradient.dtype(), DType::F32);
        assert_eq!(gradient.to_vec1::<f32>().unwrap(), [1.0, 0.0, 0.0, 0.0]);
    }

    /// The first number of a vector in f64.
    struct First;

    impl CustomOp1 for First {
        fn name(&self) -> &'static str {
            "first"
        }
        fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
            Ok((CpuStorage::F64(vec![x.as_slice::<f64>()?[l.start_offset()]]), Shape::from(())))
        }
        fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
            let mut dx = vec![0.0; x.elem_count()];
            dx[0] = dy.to_scalar::<f64>()?;
            Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
        }
    }
}
