//! Constants of small networks with more inputs, by branch and bound over the pieces of their neurons.
//!
//! A subproblem allows each neuron some pieces of its function. Multipliers bound the Jacobians of their slopes, subproblems
//! whose inputs are proven to have no inner points are dropped, and points inside give constants from below. The search ends
//! when both are as near as is asked for. ExLipBaB (arXiv 2602.15499) bounds by products of norms.

mod cone;
mod elimination;
mod patterns;

use super::super::certified::multipliers::subproblem::{Subproblem, subproblem};
use super::super::piecewise_linear::PiecewiseLinear;
use candle_core::{Result, bail};
use cone::Inner;
use patterns::{Inputs, Pattern, Side};
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// upper ≤ lower·(1 + gap).
    pub gap: f64,
    /// Or so many subproblems were bounded.
    pub subproblems: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { gap: 1e-6, subproblems: 1_000_000 }
    }
}

/// lower ≤ Lipschitz constant in ℓ2 ≤ upper.
#[derive(Debug, Clone, PartialEq)]
pub struct Bracket {
    /// ‖J‖₂ of the Jacobian at `x`, rounded down; 0 if no point inside a piece was found.
    pub lower: f64,
    /// No Jacobian has a larger norm.
    pub upper: f64,
    /// A point inside the steepest piece that was found, if one was.
    pub x: Option<Vec<f64>>,
    /// The direction in which the network is that steep there.
    pub direction: Vec<f64>,
    /// The number of subproblems that were bounded.
    pub subproblems: u64,
}

/// The Lipschitz constant in ℓ2 over all inputs, between two bounds that meet unless a limit ends the search. Networks of some
/// tens of neurons take seconds; the number of subproblems can grow exponentially with that of neurons.
///
/// `check` is called for each subproblem, and may end the search with an error, or with `false` and the bounds so far: a limit of
/// time, for example.
///
/// ```
/// use ds_core::lipschitz::exact::{Limits, branch_and_bound};
/// use ds_core::lipschitz::piecewise_linear::{Affine, Function, Layer, Matrix, PiecewiseLinear};
/// // |x₁| + |x₂| + |x₃| has gradients (±1, ±1, ±1).
/// let network = PiecewiseLinear {
///     inputs: 3,
///     layers: vec![Layer {
///         affine: Affine { weight: Matrix::identity(3), bias: vec![0.0; 3] },
///         functions: (0..3).map(|_| Function::absolute().into()).collect(),
///     }],
///     output: Affine { weight: Matrix::new(1, 3, vec![1.0; 3]), bias: vec![0.0] },
/// };
/// let bracket = branch_and_bound(&network, Limits::default(), |_| Ok(true))?;
/// assert!(bracket.lower <= 3f64.sqrt() && 3f64.sqrt() <= bracket.upper);
/// assert!(bracket.upper <= bracket.lower * (1.0 + 1e-6));
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If a parameter is not finite, or `check` fails.
pub fn branch_and_bound(
    network: &PiecewiseLinear,
    limits: Limits,
    mut check: impl FnMut(u64) -> Result<bool>,
) -> Result<Bracket> {
    if !network.is_finite() {
        bail!("branch and bound: not all parameters of the network are finite");
    }
    let mut search = Search::new(network);
    search.look_around();
    let all = patterns::all(network);
    let mut open = BinaryHeap::new();
    // The largest bound of a subproblem that needs no further splitting.
    let mut closed = 0.0f64;
    let mut count = 0;
    let mut children = vec![(all, None::<Node>)];
    let mut ended = false;
    loop {
        for (pattern, parent) in children.drain(..) {
            count += 1;
            ended |= !check(count)? || count > limits.subproblems;
            match search.bounded(pattern, parent.as_ref(), limits.gap) {
                None => {}
                Some(node) if node.bound <= search.lower * (1.0 + limits.gap) || node.subproblem.open.is_empty() => {
                    closed = closed.max(node.bound);
                }
                Some(node) => open.push(node),
            }
        }
        let Some(node) = open.peek() else { break };
        if ended || node.bound <= search.lower * (1.0 + limits.gap) {
            closed = closed.max(node.bound);
            break;
        }
        let Some(node) = open.pop() else { break };
        children = search.split(&node).map(|pattern| (pattern, Some(node.clone()))).collect();
    }
    let Search { lower, x, direction, .. } = search;
    Ok(Bracket { lower, upper: closed.max(lower), x, direction, subproblems: count })
}

/// A subproblem with its bound.
#[derive(Debug, Clone)]
struct Node {
    pattern: Pattern,
    bound: f64,
    subproblem: Subproblem,
    /// Whether the inputs of each neuron's pieces are bounded by hyperplanes.
    affine: Vec<Vec<bool>>,
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Node {}

impl PartialOrd for Node {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Node {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bound.total_cmp(&other.bound)
    }
}

struct Search<'a> {
    network: &'a PiecewiseLinear,
    lower: f64,
    x: Option<Vec<f64>>,
    direction: Vec<f64>,
}

impl<'a> Search<'a> {
    fn new(network: &'a PiecewiseLinear) -> Self {
        Self { network, lower: 0.0, x: None, direction: vec![0.0; network.inputs] }
    }

    /// Raises the lower bound with the Jacobian at a point.
    fn try_point(&mut self, x: &[f64]) {
        if let Some(pattern) = patterns::at(self.network, x) {
            let (norm, direction) = patterns::norm(self.network, &pattern);
            if norm > self.lower {
                (self.lower, self.x, self.direction) = (norm, Some(x.to_vec()), direction);
            }
        }
    }

    /// Points at and round 0, for a start.
    fn look_around(&mut self) {
        let n = self.network.inputs;
        for k in 0..4 * n {
            let mut x: Vec<f64> = (0..n).map(|i| 1e-3 * (i as f64 + 1.0)).collect();
            x[k % n] += if k < 2 * n { 1.0 } else { 10.0 } * if (k / n).is_multiple_of(2) { 1.0 } else { -1.0 };
            self.try_point(&x);
        }
    }

    /// The bound of a subproblem; `None` if it has no inner points.
    fn bounded(&mut self, pattern: Pattern, parent: Option<&Node>, gap: f64) -> Option<Node> {
        let Inputs { cone, sides, affine } = patterns::inputs(self.network, &pattern);
        match cone.inner() {
            Inner::Empty => return None,
            Inner::Point(y) => self.try_homogeneous(&y),
            Inner::Unknown(support) => {
                let sides: Vec<Side> = support.into_iter().map(|k| sides[k]).collect();
                if elimination::is_empty(self.network, &pattern, &sides) {
                    return None;
                }
            }
        }
        let slopes = patterns::slopes(self.network, &pattern);
        let cutoff = (self.lower * (1.0 + 0.9 * gap)).powi(2);
        let subproblem = subproblem(self.network, &slopes, parent.map(|node| &node.subproblem), cutoff);
        let bound = subproblem.bound.min(parent.map_or(f64::INFINITY, |node| node.bound));
        // The slopes of the worst case may be those of inputs.
        if bound > self.lower * (1.0 + gap) && !subproblem.open.is_empty() {
            let worst = self.worst(&pattern, &subproblem);
            if let Inner::Point(y) = patterns::inputs(self.network, &worst).cone.inner() {
                self.try_homogeneous(&y);
            }
        }
        Some(Node { pattern, bound, subproblem, affine })
    }

    fn try_homogeneous(&mut self, y: &[f64]) {
        if let Some((&scale, x)) = y.split_last().filter(|(scale, _)| **scale > 0.0) {
            self.try_point(&x.iter().map(|x| x / scale).collect::<Vec<_>>());
        }
    }

    /// One piece for each neuron: that of the slope which the worst case comes nearest to.
    fn worst(&self, pattern: &Pattern, subproblem: &Subproblem) -> Pattern {
        let mut worst = pattern.clone();
        for (&(layer, neuron), side) in subproblem.neurons.iter().zip(&subproblem.worst) {
            let (first, last) = pattern[layer][neuron];
            let slopes = self.network.layers[layer].functions[neuron].slopes();
            let signed = |piece: &usize| if *side > 0.0 { slopes[*piece] } else { -slopes[*piece] };
            let piece = (first..=last).max_by(|a, b| signed(a).total_cmp(&signed(b))).unwrap_or(first);
            worst[layer][neuron] = (piece, piece);
        }
        worst
    }

    /// Two subproblems that have the pieces of one neuron between them.
    fn split(&self, node: &Node) -> impl Iterator<Item = Pattern> + use<> {
        // Where hyperplanes bound the pieces, a half may be empty.
        let gain = |layer: usize, neuron: usize, open: f64| if node.affine[layer][neuron] { open } else { 0.1 * open };
        let open = node.subproblem.neurons.iter().zip(&node.subproblem.open);
        let chosen = open
            .map(|(&(layer, neuron), &open)| ((layer, neuron), gain(layer, neuron, open)))
            .max_by(|a, b| a.1.total_cmp(&b.1));
        let halves = chosen.map(|((layer, neuron), _)| {
            let (first, last) = node.pattern[layer][neuron];
            let middle = first + (last - first) / 2;
            [(first, middle), (middle + 1, last)].map(|pieces| {
                let mut pattern = node.pattern.clone();
                pattern[layer][neuron] = pieces;
                pattern
            })
        });
        halves.into_iter().flatten()
    }
}
