//! min ½ zᵀAz − bᵀz in the box |z| ≤ μ by a primal-dual interior-point method (Kim et al. 2009, section 5, for these problems), where
//! pivoting takes too many passes. The number of steps hardly depends on A, which may be nearly singular.

/// The share of the last step's barrier that the next one aims at.
const CENTRING: f64 = 0.1;

/// The share of the way to the boundary that a step goes at most.
const OF_THE_WAY: f64 = 0.99;

/// The duality gap at the end, relative to that at the start, which is near the penalty.
const GAP: f64 = 1e-15;

/// Steps, some 20 to 40 of which are enough.
const MOST_STEPS: usize = 200;

/// The dual solution z of K−2 numbers for the step sizes w and the point u, K of each.
pub(super) fn solve(mu: f64, w: &[f64], u: &[f64]) -> Vec<f64> {
    let b: Vec<f64> = u.windows(3).map(|u| u[0] - 2.0 * u[1] + u[2]).collect();
    let n = b.len();
    let mut z = vec![0.0; n];
    let largest = b.iter().fold(0.0f64, |largest, b| largest.max(b.abs()));
    if largest == 0.0 {
        return z;
    }
    // How far z is from both bounds, and their multipliers.
    let (mut above, mut below) = (vec![mu; n], vec![mu; n]);
    let (mut p, mut q) = (vec![largest; n], vec![largest; n]);
    let first = 2.0 * n as f64 * mu * largest;
    for _ in 0..MOST_STEPS {
        let gap: f64 = (0..n).map(|k| p[k] * above[k] + q[k] * below[k]).sum();
        if gap <= GAP * first {
            break;
        }
        let t = CENTRING * gap / (2 * n) as f64;
        let x = second_differences(&z);
        let of_a = |k: usize| w[k] * x[k] - 2.0 * w[k + 1] * x[k + 1] + w[k + 2] * x[k + 2];
        let rest = (0..n).map(|k| b[k] - of_a(k) - t / above[k] + t / below[k]).collect();
        let dz = newton_step(w, |k| p[k] / above[k] + q[k] / below[k], rest);
        let dp: Vec<f64> = (0..n).map(|k| (t + p[k] * dz[k]) / above[k] - p[k]).collect();
        let dq: Vec<f64> = (0..n).map(|k| (t - q[k] * dz[k]) / below[k] - q[k]).collect();
        let until = |x: f64, dx: f64| if dx < 0.0 { -OF_THE_WAY * x / dx } else { 1.0 };
        let length = (0..n)
            .flat_map(|k| [(above[k], -dz[k]), (below[k], dz[k]), (p[k], dp[k]), (q[k], dq[k])])
            .fold(1.0f64, |length, (x, dx)| length.min(until(x, dx)));
        if !length.is_finite() || dz.iter().any(|dz| !dz.is_finite()) {
            break;
        }
        for k in 0..n {
            above[k] -= length * dz[k];
            below[k] += length * dz[k];
            p[k] += length * dp[k];
            q[k] += length * dq[k];
            // The smaller distance has more digits than z.
            z[k] = if above[k] < below[k] { mu - above[k] } else { below[k] - mu };
        }
    }
    z
}

/// (A + diag(`barrier`))⁻¹·`right_side` by LDLᵀ.
fn newton_step(w: &[f64], barrier: impl Fn(usize) -> f64, mut right_side: Vec<f64>) -> Vec<f64> {
    let n = right_side.len();
    // L(k+1, k) and L(k+2, k), and these times the pivot.
    let (mut alpha, mut beta) = (vec![[0.0; 2]; n + 2], vec![[0.0; 2]; n + 2]);
    let mut pivots = vec![0.0; n];
    for k in 0..n {
        // Two places later, so that what is before the first row is 0.
        let (one, two) = (alpha[k + 1], beta[k]);
        let pivot = w[k] + 4.0 * w[k + 1] + w[k + 2] + barrier(k) - one[0] * one[1] - two[0] * two[1];
        let next = -2.0 * (w[k + 1] + w[k + 2]) - one[0] * beta[k + 1][1];
        alpha[k + 2] = [next / pivot, next];
        beta[k + 2] = [w[k + 2] / pivot, w[k + 2]];
        let before = |j: usize| if k >= j { right_side[k - j] } else { 0.0 };
        right_side[k] -= one[0] * before(1) + two[0] * before(2);
        pivots[k] = pivot;
    }
    for k in (0..n).rev() {
        let after = |j: usize| right_side.get(k + j).copied().unwrap_or(0.0);
        right_side[k] = right_side[k] / pivots[k] - alpha[k + 2][0] * after(1) - beta[k + 2][0] * after(2);
    }
    right_side
}

/// Dᵀz: K numbers of K−2.
pub(super) fn second_differences(z: &[f64]) -> Vec<f64> {
    let at = |k: usize, back: usize| k.checked_sub(back).and_then(|k| z.get(k)).copied().unwrap_or(0.0);
    (0..z.len() + 2).map(|k| at(k, 2) - 2.0 * at(k, 1) + at(k, 0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_of_optimality_hold() {
        for (mu, orders, zeros) in [(1e-4, 1, 50), (0.03, 4, 50), (1.0, 8, 5), (0.3, 10, 3)] {
            let u: Vec<f64> = (0..51).map(|k| f64::from(k * k).sin()).collect();
            let size = |k: i32| if k % zeros == 1 { 0.0 } else { 10f64.powi(-(7 * k * k % (orders + 1))) };
            let w: Vec<f64> = (0..51).map(size).collect();
            let z = solve(mu, &w, &u);
            let c: Vec<f64> = second_differences(&z).iter().zip(&w).zip(&u).map(|((x, w), u)| u - w * x).collect();
            for (z, c) in z.iter().zip(c.windows(3)) {
                let change = c[0] - 2.0 * c[1] + c[2];
                assert!(z.abs() <= mu, "μ = {mu}: {z}");
                // A slope change is 0 inside the box, and has the sign of its z at a bound.
                let broken = (change * (mu - z * change.signum()) / mu).abs();
                assert!(broken < 1e-10, "μ = {mu}: slope change {change:e} at z = {z:e}");
            }
        }
    }
}
