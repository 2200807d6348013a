//! Linear splines in standard ops: few knots as a sum of ReLUs, many by look-up.

use super::graph::{Attribute, Builder, Name};
use candle_core::{DType, Device, Result, Tensor};
use ds_core::activation::{LipschitzSpline, Spline};
use ds_core::regularization::{significant_indices, significant_knot_indices};

/// The functions of a layer in f64.
pub(super) struct Functions {
    functions: Vec<Function>,
}

/// A function by its values at equally spaced knots; beyond the first and the last it goes on straight.
struct Function {
    first: f64,
    step: f64,
    values: Vec<f64>,
    /// The inner knots where the slope changes.
    kept: Vec<usize>,
}

/// Above so many knots of a function a look-up is faster in onnxruntime (docs/exchange.md).
const MOST_RELUS: usize = 24;

impl Functions {
    /// Splines without a constraint.
    pub fn of_spline(spline: &Spline) -> ds_core::Result<Self> {
        let grid = spline.grid();
        // In f64, where the linear term is added without rounding.
        let values = in_f64(&spline.to(DType::F64, &Device::Cpu)?.coefficients()?)?;
        let rows = values.chunks_exact(grid.size()).zip(significant_knot_indices(spline)?);
        let function = |(values, kept): (&[f64], Vec<usize>)| Function {
            first: grid.knot(0),
            step: grid.step(),
            values: values.to_vec(),
            kept,
        };
        Ok(Self { functions: rows.map(function).collect() })
    }

    /// 1-Lipschitz splines, as they are evaluated: projected and scaled.
    pub fn of_lipschitz(spline: &LipschitzSpline) -> Result<Self> {
        let (values, knots) = (in_f64(&spline.projected_coefficients()?)?, spline.knots().collect::<Vec<f64>>());
        let rows = values.chunks_exact(spline.size()).zip(spline.scaling()?);
        let function = |(values, alpha): (&[f64], f64)| Function {
            first: knots[0] / alpha,
            step: spline.step() / alpha,
            values: values.to_vec(),
            kept: significant_indices(values, f64::from(f32::EPSILON)),
        };
        Ok(Self { functions: rows.map(function).collect() })
    }

    /// Adds the functions of `x` (N, C, …), of so many dimensions.
    pub fn add(&self, graph: &mut Builder, x: &Name, rank: usize) -> Name {
        let most = self.functions.iter().map(|function| function.kept.len()).max().unwrap_or(0);
        if most <= MOST_RELUS { self.add_relus(graph, x, rank, most) } else { self.add_look_up(graph, x, rank) }
    }

    /// b1·x + b0 + Σ_k a_k·max(0, ±(x − x_k)): the line is that of the segment at 0, so that nothing large cancels there, and each
    /// knot bends it on its side.
    fn add_relus(&self, graph: &mut Builder, x: &Name, rank: usize, most: usize) -> Name {
        let bent: Vec<Bent> = self.functions.iter().map(Function::bent).collect();
        let row = |f: &dyn Fn(&Bent) -> f64| bent.iter().map(f).collect::<Vec<f64>>();
        let mut y = affine(graph, x, rank, &row(&|of| of.line.0), &row(&|of| of.line.1), None);
        for k in 0..most {
            let hinge = |of: &Bent| of.hinges.get(k).copied().unwrap_or(Hinge { sign: 0.0, knot: 0.0, change: 0.0 });
            let (signs, offsets) = (row(&|of| hinge(of).sign), row(&|of| -hinge(of).sign * hinge(of).knot));
            let z = affine(graph, x, rank, &signs, &offsets, None);
            let z = graph.node("Relu", &[&z], Vec::new());
            y = affine(graph, &z, rank, &row(&|of| hinge(of).change), &[], Some(&y));
        }
        y
    }

    /// Slope and offset of each segment, by its number.
    fn add_look_up(&self, graph: &mut Builder, x: &Name, rank: usize) -> Name {
        let dims = per_channel(self.functions.len(), rank);
        let segments = self.functions.first().map_or(0, |function| function.values.len() - 1);
        let row = |f: &dyn Fn(&Function) -> f64| self.functions.iter().map(f).collect::<Vec<f64>>();
        let factors = graph.constant("factor", &row(&|of| 1.0 / of.step), &dims);
        let offsets = graph.constant("offset", &row(&|of| -of.first / of.step), &dims);
        let u = graph.node("Mul", &[x, &factors], Vec::new());
        let u = graph.node("Add", &[&u, &offsets], Vec::new());
        let ends = [0.0, (segments - 1) as f64].map(|end| graph.constant("end", &[end], &[]));
        let u = graph.node("Clip", &[&u, &ends[0], &ends[1]], Vec::new());
        // What is not below 0 is rounded down.
        let segment =
            graph.node("Cast", &[&u], vec![Attribute::Int("to", i64::from(super::proto::TensorProto::INT32))]);
        let rows: Vec<i32> = (0..self.functions.len()).map(|channel| (channel * segments) as i32).collect();
        let rows = graph.integers("row", &rows, &dims);
        let index = graph.node("Add", &[&segment, &rows], Vec::new());
        let lines = self.functions.iter().flat_map(|of| (0..segments).map(move |k| of.line(k, k + 1)));
        let (slopes, offsets): (Vec<f64>, Vec<f64>) = lines.unzip();
        let [slope, offset] = [("slopes", slopes), ("offsets", offsets)].map(|(name, values)| {
            let table = graph.constant(name, &values, &[values.len()]);
            graph.node("Gather", &[&table, &index], Vec::new())
        });
        let y = graph.node("Mul", &[x, &slope], Vec::new());
        graph.node("Add", &[&y, &offset], Vec::new())
    }
}

/// A function as a line and its bends.
struct Bent {
    /// (b1, b0).
    line: (f64, f64),
    hinges: Vec<Hinge>,
}

/// change·max(0, sign·(x − knot)).
#[derive(Clone, Copy)]
struct Hinge {
    sign: f64,
    knot: f64,
    change: f64,
}

impl Function {
    fn knot(&self, k: usize) -> f64 {
        self.first + self.step * k as f64
    }

    /// (slope, offset) of the line through two knots.
    fn line(&self, i: usize, j: usize) -> (f64, f64) {
        let slope = (self.values[j] - self.values[i]) / (self.step * (j - i) as f64);
        (slope, self.values[i] - slope * self.knot(i))
    }

    fn bent(&self) -> Bent {
        let last = self.values.len() - 1;
        let ends: Vec<usize> = [0].into_iter().chain(self.kept.iter().copied()).chain([last]).collect();
        let lines: Vec<(f64, f64)> = ends.windows(2).map(|ends| self.line(ends[0], ends[1])).collect();
        // The segment at 0.
        let middle = self.kept.iter().filter(|&&k| self.knot(k) < 0.0).count();
        let hinge = |(k, &knot): (usize, &usize)| {
            let change = lines[k + 1].0 - lines[k].0;
            Hinge { sign: if k < middle { -1.0 } else { 1.0 }, knot: self.knot(knot), change }
        };
        Bent { line: lines[middle], hinges: self.kept.iter().enumerate().map(hinge).collect() }
    }
}

fn in_f64(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// The shape (C, 1, …) that a number per channel has beside x (N, C, …).
pub(super) fn per_channel(channels: usize, rank: usize) -> Vec<usize> {
    [channels].into_iter().chain(std::iter::repeat_n(1, rank - 2)).collect()
}

/// factors·x + offsets + other, by channel; for images as a depthwise 1×1 convolution, which runtimes keep in their own layout and
/// fuse with the sum or ReLU behind it.
fn affine(graph: &mut Builder, x: &Name, rank: usize, factors: &[f64], offsets: &[f64], other: Option<&Name>) -> Name {
    let channels = factors.len();
    let mut y = if rank == 4 {
        let weight = graph.constant("factors", factors, &[channels, 1, 1, 1]);
        let attributes = vec![Attribute::Ints("kernel_shape", vec![1, 1]), Attribute::Int("group", channels as i64)];
        if offsets.is_empty() {
            graph.node("Conv", &[x, &weight], attributes)
        } else {
            let bias = graph.constant("offsets", offsets, &[channels]);
            graph.node("Conv", &[x, &weight, &bias], attributes)
        }
    } else {
        let dims = per_channel(channels, rank);
        let factors = graph.constant("factors", factors, &dims);
        let y = graph.node("Mul", &[x, &factors], Vec::new());
        if offsets.is_empty() {
            y
        } else {
            let offsets = graph.constant("offsets", offsets, &dims);
            graph.node("Add", &[&y, &offsets], Vec::new())
        }
    };
    if let Some(other) = other {
        y = graph.node("Add", &[&y, other], Vec::new());
    }
    y
}
