//! Numbers m·2^e without rounding, for signs that floating point leaves open.

use std::cmp::Ordering;

/// ±m·2^e with a natural number m of any length. Sums and products are exact.
#[derive(Debug, Clone, Default)]
pub(super) struct Dyadic {
    negative: bool,
    /// m, the lowest limb first, without zeros above; none for 0.
    limbs: Vec<u64>,
    exponent: i64,
}

impl Dyadic {
    /// A finite number.
    pub(super) fn new(x: f64) -> Self {
        if x == 0.0 {
            return Self::default();
        }
        let bits = x.to_bits();
        let (stored, fraction) = ((bits >> 52) & 0x7ff, bits & ((1 << 52) - 1));
        let (mantissa, exponent) =
            if stored == 0 { (fraction, -1074) } else { (fraction | 1 << 52, stored as i64 - 1075) };
        let zeros = mantissa.trailing_zeros();
        Self { negative: x < 0.0, limbs: vec![mantissa >> zeros], exponent: exponent + i64::from(zeros) }
    }

    /// The sign, as the order of the number and 0.
    pub(super) fn sign(&self) -> Ordering {
        match (self.limbs.is_empty(), self.negative) {
            (true, _) => Ordering::Equal,
            (false, true) => Ordering::Less,
            (false, false) => Ordering::Greater,
        }
    }

    /// −self.
    pub(super) fn negated(mut self) -> Self {
        self.negative = !self.negative;
        self
    }

    /// self·other.
    pub(super) fn times(&self, other: &Self) -> Self {
        let mut limbs = vec![0; self.limbs.len() + other.limbs.len()];
        for (i, &a) in self.limbs.iter().enumerate() {
            let mut carry = 0u128;
            for (j, &b) in other.limbs.iter().enumerate() {
                let sum = u128::from(a) * u128::from(b) + u128::from(limbs[i + j]) + carry;
                limbs[i + j] = sum as u64;
                carry = sum >> 64;
            }
            limbs[i + other.limbs.len()] = carry as u64;
        }
        Self { negative: self.negative != other.negative, limbs, exponent: self.exponent + other.exponent }.trimmed()
    }

    /// self + other.
    pub(super) fn plus(&self, other: &Self) -> Self {
        if self.limbs.is_empty() || other.limbs.is_empty() {
            return if self.limbs.is_empty() { other.clone() } else { self.clone() };
        }
        let exponent = self.exponent.min(other.exponent);
        let (a, b) = (self.shifted_to(exponent), other.shifted_to(exponent));
        let (limbs, negative) = if self.negative == other.negative {
            (sum(&a, &b), self.negative)
        } else if compare(&a, &b) == Ordering::Less {
            (difference(&b, &a), other.negative)
        } else {
            (difference(&a, &b), self.negative)
        };
        Self { negative, limbs, exponent }.trimmed()
    }

    /// self − other.
    pub(super) fn minus(&self, other: &Self) -> Self {
        self.plus(&other.clone().negated())
    }

    /// The power of two above |self|; `None` for 0.
    pub(super) fn size(&self) -> Option<i64> {
        let last = self.limbs.last()?;
        Some(self.exponent + 64 * self.limbs.len() as i64 - i64::from(last.leading_zeros()))
    }

    /// self·2^−exponent to within a relative 2⁻⁵¹, or 2⁻¹⁰⁰⁰ where that is more.
    pub(super) fn rounded(&self, exponent: i64) -> f64 {
        let Some(size) = self.size() else { return 0.0 };
        let last = self.limbs.len() - 1;
        let zeros = self.limbs[last].leading_zeros();
        let below = if last == 0 { 0 } else { self.limbs[last - 1] };
        let top = ((u128::from(self.limbs[last]) << 64 | u128::from(below)) << zeros >> 64) as u64;
        // In two steps, since a power of two alone can be outside the range of numbers.
        let shift = (size - 64 - exponent).clamp(-2000, 2000) as i32;
        let value = top as f64 * 2f64.powi(shift / 2) * 2f64.powi(shift - shift / 2);
        if self.negative { -value } else { value }
    }

    fn shifted_to(&self, exponent: i64) -> Vec<u64> {
        let bits = (self.exponent - exponent) as usize;
        let mut limbs = vec![0; bits / 64];
        match bits % 64 {
            0 => limbs.extend_from_slice(&self.limbs),
            bits => {
                let mut carry = 0;
                for &limb in &self.limbs {
                    limbs.push(limb << bits | carry);
                    carry = limb >> (64 - bits);
                }
                limbs.push(carry);
            }
        }
        while limbs.last() == Some(&0) {
            limbs.pop();
        }
        limbs
    }

    fn trimmed(mut self) -> Self {
        while self.limbs.last() == Some(&0) {
            self.limbs.pop();
        }
        // Sums of products have many zeros below.
        let zeros = self.limbs.iter().take_while(|&&limb| limb == 0).count();
        if zeros > 0 {
            self.limbs.drain(..zeros);
            self.exponent += 64 * zeros as i64;
        }
        if self.limbs.is_empty() { Self::default() } else { self }
    }
}

fn compare(a: &[u64], b: &[u64]) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.iter().rev().cmp(b.iter().rev()))
}

fn sum(a: &[u64], b: &[u64]) -> Vec<u64> {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let mut carry = false;
    let mut out: Vec<u64> = long
        .iter()
        .enumerate()
        .map(|(k, &limb)| {
            let (sum, first) = limb.overflowing_add(short.get(k).copied().unwrap_or(0));
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            carry = first || second;
            sum
        })
        .collect();
    out.push(u64::from(carry));
    out
}

/// a − b for a ≥ b.
fn difference(a: &[u64], b: &[u64]) -> Vec<u64> {
    let mut borrow = false;
    a.iter()
        .enumerate()
        .map(|(k, &limb)| {
            let (rest, first) = limb.overflowing_sub(b.get(k).copied().unwrap_or(0));
            let (rest, second) = rest.overflowing_sub(u64::from(borrow));
            borrow = first || second;
            rest
        })
        .collect()
}

/// a₁·b₂ − a₂·b₁ and so on: the point in which two lines meet, in homogeneous coordinates.
pub(super) fn cross(a: &[Dyadic; 3], b: &[Dyadic; 3]) -> [Dyadic; 3] {
    let minor = |i: usize, j: usize| a[i].times(&b[j]).minus(&a[j].times(&b[i]));
    [minor(1, 2), minor(2, 0), minor(0, 1)]
}

/// Σ aᵢ·bᵢ.
pub(super) fn dot(a: &[Dyadic; 3], b: &[Dyadic; 3]) -> Dyadic {
    a[0].times(&b[0]).plus(&a[1].times(&b[1])).plus(&a[2].times(&b[2]))
}

/// Far above what the smallest numbers lose, for a network that is tame.
pub(super) const FLOOR: f64 = 1e-200;

/// Numbers·2^−exponent, and their errors.
pub(super) fn rounded(exact: &[Dyadic; 3], exponent: i64) -> ([f64; 3], [f64; 3]) {
    let at = exact.each_ref().map(|x| match (x.rounded(exponent), x.sign()) {
        // Too small beside the others, but its sign counts.
        (0.0, Ordering::Less) => -f64::MIN_POSITIVE,
        (0.0, Ordering::Greater) => f64::MIN_POSITIVE,
        (rounded, _) => rounded,
    });
    let error = |k: usize| if exact[k].sign() == Ordering::Equal { 0.0 } else { 1e-15 * at[k].abs() + FLOOR };
    (at, [error(0), error(1), error(2)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};

    #[test]
    fn sums_and_products_are_exact() {
        let rng = &mut rand_chacha::ChaCha8Rng::seed_from_u64(1);
        for _ in 0..2000 {
            let mut integer = || i128::from(rng.random_range(-1i64 << 50..1 << 50) >> rng.random_range(0..50));
            let (a, b, c) = (integer(), integer(), integer());
            let (x, y, z) = (Dyadic::new(a as f64), Dyadic::new(b as f64), Dyadic::new(c as f64));
            let expected = a * b + c;
            let found = x.times(&y).plus(&z);
            assert_eq!(found.sign(), expected.cmp(&0), "{a}·{b} + {c}");
            let (high, low) = (expected >> 52 << 52, expected & ((1 << 52) - 1));
            let rest = found.minus(&Dyadic::new(high as f64)).minus(&Dyadic::new(low as f64));
            assert_eq!(rest.sign(), Ordering::Equal, "{a}·{b} + {c}");
            assert!((found.rounded(0) - expected as f64).abs() <= 1e-15 * (expected as f64).abs());
        }
        // (1 + 2⁻⁵²)² − 1 − 2⁻⁵¹ = 2⁻¹⁰⁴, and numbers far apart.
        let x = Dyadic::new(1.0 + f64::EPSILON);
        let rest = x.times(&x).minus(&Dyadic::new(1.0 + 2.0 * f64::EPSILON));
        assert_eq!(rest.rounded(0), 2f64.powi(-104));
        let (large, small) = (Dyadic::new(1e300), Dyadic::new(-5e-324));
        assert_eq!(large.plus(&small).minus(&large).rounded(-1074), -1.0);
        assert_eq!(small.plus(&Dyadic::new(5e-324)).sign(), Ordering::Equal);
        assert_eq!(Dyadic::new(0.75).size(), Some(0));
    }
}
