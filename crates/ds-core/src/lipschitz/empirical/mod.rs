//! Lower bounds of the Lipschitz constant in ℓ2, each with the pair of inputs that shows it.
//!
//! At every point the Jacobian is taken row by row, its top singular vector v gives the pair (x, x + h·v), and the pairs with
//! the largest quotients climb: they move to where the quotient grows, and turn towards Jᵀ(f(y) − f(x)). What is returned is
//! always a quotient ‖f(x) − f(y)‖₂/‖x − y‖₂, so it is below the truth but for rounding; f64 keeps that small.

mod ball;

pub use ball::lower_bound_in_ball;

use crate::backend::real::in_double_precision;
use crate::lipschitz::certified::TopSingular;
use candle_core::{Result, Tensor, Var, bail};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How long to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Search {
    /// Points whose Jacobian is taken at once.
    pub batch: usize,
    /// Pairs that climb.
    pub climbers: usize,
    /// Steps that each takes.
    pub steps: usize,
    /// Of the random moves.
    pub seed: u64,
}

impl Default for Search {
    fn default() -> Self {
        Self { batch: 64, climbers: 16, steps: 100, seed: 0 }
    }
}

/// A pair of inputs with a large quotient.
#[derive(Debug, Clone, PartialEq)]
pub struct Witness {
    /// ‖f(x) − f(y)‖₂/‖x − y‖₂.
    pub quotient: f64,
    /// x, flat.
    pub x: Vec<f64>,
    /// y, flat.
    pub y: Vec<f64>,
}

/// ‖x − y‖ of the pairs that start at a point: small, so that they stay where the function is linear, and large enough for
/// quotients in f64.
const DISTANCE: f64 = 1e-4;

/// The largest quotient that is found from these points (N, …) on. `f` maps inputs to outputs (N, O) in Candle's graph, each
/// input for itself; with f64 points and parameters the quotients are exact to about 1e-9.
///
/// # Errors
/// If there are no points, the outputs are not (N, O), or `f` fails.
pub fn lower_bound(f: impl Fn(&Tensor) -> Result<Tensor>, points: &Tensor, search: Search) -> Result<Witness> {
    let count = points.dims().first().copied().unwrap_or(0);
    if count == 0 {
        bail!("lower bound of the Lipschitz constant: there are no points to start from");
    }
    let mut pairs = Vec::with_capacity(count);
    for start in (0..count).step_by(search.batch.max(1)) {
        let points = points.narrow(0, start, search.batch.max(1).min(count - start))?;
        pairs.extend(steepest_pairs(&f, &points)?);
    }
    pairs.sort_by(|a, b| b.quotient.total_cmp(&a.quotient));
    pairs.truncate(search.climbers.max(1));
    climb(&f, points, &mut pairs, search)?;
    pairs.into_iter().max_by(|a, b| a.quotient.total_cmp(&b.quotient)).ok_or_else(|| candle_core::Error::msg("no pair"))
}

/// The pair (x, x + h·v) of each point, v the top right singular vector of the Jacobian there.
fn steepest_pairs(f: &impl Fn(&Tensor) -> Result<Tensor>, points: &Tensor) -> Result<Vec<Witness>> {
    let x = Var::from_tensor(points)?;
    let outputs = f(x.as_tensor())?;
    let (count, width) = outputs.dims2()?;
    let size = points.elem_count() / count;
    // Row o of all Jacobians at once: no input has a part in the outputs of another.
    let mut jacobians = vec![Vec::with_capacity(width * size); count];
    for o in 0..width {
        let gradients = outputs.narrow(1, o, 1)?.sum_all()?.backward()?;
        match gradients.get(x.as_tensor()) {
            Some(gradient) => {
                let gradient = in_double_precision(gradient)?;
                jacobians.iter_mut().zip(gradient.chunks_exact(size)).for_each(|(j, row)| j.extend_from_slice(row));
            }
            None => jacobians.iter_mut().for_each(|j| j.resize(j.len() + size, 0.0)),
        }
    }
    let direction = |jacobian: &Vec<f64>| {
        let mut v = TopSingular::new(width, size, jacobian).right;
        // Where nothing changes, every direction is as good.
        if v.iter().all(|v| *v == 0.0) {
            v[0] = 1.0;
        }
        v
    };
    let directions: Vec<f64> = jacobians.iter().flat_map(direction).collect();
    let from = in_double_precision(points)?;
    let to: Vec<f64> = from.iter().zip(&directions).map(|(x, v)| x + DISTANCE * v).collect();
    let quotients = quotients(f, points, &from, &to)?;
    let pair = |((x, y), quotient): ((&[f64], &[f64]), f64)| Witness { quotient, x: x.to_vec(), y: y.to_vec() };
    Ok(from.chunks_exact(size).zip(to.chunks_exact(size)).zip(quotients).map(pair).collect())
}

/// Inputs of the shape, type and device of `like`.
fn inputs(like: &Tensor, flat: &[f64]) -> Result<Tensor> {
    let size: usize = like.dims()[1..].iter().product();
    let mut shape = like.dims().to_vec();
    shape[0] = flat.len() / size.max(1);
    Tensor::from_slice(flat, shape, like.device())?.to_dtype(like.dtype())
}

fn norm(v: &[f64]) -> f64 {
    v.iter().map(|v| v * v).sum::<f64>().sqrt()
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// ‖f(x) − f(y)‖/‖x − y‖ of each pair, of the inputs as they are rounded to the type of `like`; 0 for x = y.
fn quotients(f: &impl Fn(&Tensor) -> Result<Tensor>, like: &Tensor, x: &[f64], y: &[f64]) -> Result<Vec<f64>> {
    let size: usize = like.dims()[1..].iter().product();
    let (x, y) = (inputs(like, x)?, inputs(like, y)?);
    let (fx, fy) = (f(&x)?, f(&y)?);
    let width = fx.elem_count() / fx.dims()[0];
    let rows = |a: &Tensor, b: &Tensor, size: usize| -> Result<Vec<f64>> {
        let difference = difference(&in_double_precision(a)?, &in_double_precision(b)?);
        Ok(difference.chunks_exact(size).map(norm).collect())
    };
    let quotient = |(output, input): (f64, f64)| if input > 0.0 && output.is_finite() { output / input } else { 0.0 };
    Ok(rows(&fx, &fy, width)?.into_iter().zip(rows(&x, &y, size)?).map(quotient).collect())
}

/// Moves the pairs to larger quotients, and keeps a move only where it is one.
fn climb(f: &impl Fn(&Tensor) -> Result<Tensor>, points: &Tensor, pairs: &mut [Witness], search: Search) -> Result<()> {
    let size: usize = points.dims()[1..].iter().product();
    let rng = &mut ChaCha8Rng::seed_from_u64(search.seed);
    let spread = norm(&in_double_precision(points)?) / (points.elem_count() as f64).sqrt();
    for step in 0..search.steps {
        // Far moves find other pieces of the function, near ones the edges of this one.
        let reach = spread * [1.0, 0.3, 0.1, 0.03, 0.01][step % 5];
        let flat = |part: fn(&Witness) -> &[f64]| pairs.iter().flat_map(part).copied().collect::<Vec<f64>>();
        let (x, y) = (flat(|pair| &pair.x), flat(|pair| &pair.y));
        let moves: Vec<f64> = (0..x.len()).map(|_| reach * rng.random_range(-1.0..1.0)).collect();
        let centre: Vec<f64> = x.iter().zip(&y).zip(&moves).map(|((x, y), m)| 0.5 * (x + y) + m).collect();
        // One step of power iteration with JᵀJ at the new place.
        let ahead: Vec<f64> = centre.iter().zip(difference(&y, &x)).map(|(c, d)| c + d).collect();
        let turned = pulled_back(f, points, &centre, &ahead)?;
        let (mut from, mut to) = (Vec::with_capacity(x.len()), Vec::with_capacity(x.len()));
        for (centre, v) in centre.chunks_exact(size).zip(turned.chunks_exact(size)) {
            let length = norm(v);
            let scale = if length > 0.0 { 0.5 * DISTANCE / length } else { 0.0 };
            from.extend(centre.iter().zip(v).map(|(c, v)| c - scale * v));
            to.extend(centre.iter().zip(v).map(|(c, v)| c + scale * v));
        }
        let found = quotients(f, points, &from, &to)?;
        for (pair, ((x, y), quotient)) in
            pairs.iter_mut().zip(from.chunks_exact(size).zip(to.chunks_exact(size)).zip(found))
        {
            if quotient > pair.quotient {
                *pair = Witness { quotient, x: x.to_vec(), y: y.to_vec() };
            }
        }
    }
    Ok(())
}

/// Jᵀ(f(y) − f(x)) with the Jacobian at x.
fn pulled_back(f: &impl Fn(&Tensor) -> Result<Tensor>, like: &Tensor, x: &[f64], y: &[f64]) -> Result<Vec<f64>> {
    let x = Var::from_tensor(&inputs(like, x)?)?;
    let outputs = f(x.as_tensor())?;
    let change = (f(&inputs(like, y)?)?.detach() - outputs.detach())?;
    let gradients = (&outputs * change)?.sum_all()?.backward()?;
    match gradients.get(x.as_tensor()) {
        Some(gradient) => in_double_precision(gradient),
        None => Ok(vec![0.0; x.elem_count()]),
    }
}
