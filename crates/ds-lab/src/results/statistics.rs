//! Quantiles and paired differences of few values, such as those of a run's seeds.

/// The value below which a share of the sorted values lies, interpolated; `None` without values.
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let position = share * sorted.len().checked_sub(1)? as f64;
    let (below, t) = (position.floor() as usize, position.fract());
    let above = sorted.get(below + 1).unwrap_or(&sorted[below]);
    Some(sorted[below] + t * (above - sorted[below]))
}

/// The middle value, or the mean of the two in the middle; NaN of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    quantile(&values, 0.5).unwrap_or(f64::NAN)
}

/// Median, least and largest of some values, in `digits` decimals: `98.5 [98.1, 98.7]`.
pub(crate) fn spread(values: &[f64], show: impl Fn(f64) -> String) -> String {
    let (least, largest) =
        values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(*v), high.max(*v)));
    let median = show(median(values.to_vec()));
    if values.len() < 2 { median } else { format!("{median} [{}, {}]", show(least), show(largest)) }
}

/// The mean of paired differences and half the width of its interval with this confidence by Student's t; `None` for less than two.
pub(crate) fn paired(differences: &[f64], confidence: f64) -> Option<(f64, f64)> {
    let n = differences.len();
    if n < 2 {
        return None;
    }
    let mean = differences.iter().sum::<f64>() / n as f64;
    let squares: f64 = differences.iter().map(|d| (d - mean).powi(2)).sum();
    let error = (squares / (n - 1) as f64 / n as f64).sqrt();
    Some((mean, student_quantile(0.5 + 0.5 * confidence, n - 1) * error))
}

/// What paired differences say of equivalence within a margin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Both one-sided tests reject a difference as large as the margin, at 5 % (Schuirmann 1987): the interval of 90 % lies inside.
    Equivalent,
    /// The interval of 95 % excludes 0, and the difference may be as large as the margin.
    Different,
    /// Neither: there are too few pairs for their spread.
    Undecided,
}

impl Verdict {
    /// Of at least two differences; fewer decide nothing.
    pub fn of(differences: &[f64], margin: f64) -> Self {
        let interval = |confidence| paired(differences, confidence);
        match (interval(0.90), interval(0.95)) {
            (Some((mean, half)), _) if mean.abs() + half < margin => Self::Equivalent,
            (_, Some((mean, half))) if mean.abs() > half => Self::Different,
            _ => Self::Undecided,
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Equivalent => "equivalent",
            Self::Different => "different",
            Self::Undecided => "undecided",
        })
    }
}

/// P(−t ≤ T ≤ t) for Student's distribution (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4).
fn student_within(t: f64, degrees: usize) -> f64 {
    let nu = degrees as f64;
    let theta = (t / nu.sqrt()).atan();
    let (sine, cosine) = theta.sin_cos();
    // The terms cos^k·(2·4…)/(3·5…) of odd degrees, or cos^k·(1·3…)/(2·4…) of even ones.
    let first = if degrees % 2 == 1 { cosine } else { 1.0 };
    let (mut term, mut sum) = (first, 0.0);
    let mut k = if degrees % 2 == 1 { 2.0 } else { 1.0 };
    while k < nu {
        sum += term;
        term *= cosine * cosine * k / (k + 1.0);
        k += 2.0;
    }
    match degrees % 2 {
        1 => (theta + sine * sum) * std::f64::consts::FRAC_2_PI,
        _ => sine * sum,
    }
}

/// The t below which Student's variable lies with this probability, above 1/2.
fn student_quantile(probability: f64, degrees: usize) -> f64 {
    let within = 2.0 * probability - 1.0;
    let (mut low, mut high) = (0.0, 1.0);
    while student_within(high, degrees) < within {
        high *= 2.0;
    }
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if student_within(middle, degrees) < within {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn students_quantiles_are_those_of_scipy() {
        // scipy.stats.t.ppf(0.975, n)
        let expected = [
            (1, 12.706204736174694),
            (2, 4.302652729749462),
            (3, 3.182446305283708),
            (4, 2.776445105197793),
            (8, 2.306004135204166),
            (9, 2.262157162798205),
            (39, 2.022690920036761),
            (40, 2.021075390306273),
        ];
        for (degrees, quantile) in expected {
            let difference = student_quantile(0.975, degrees) - quantile;
            assert!(difference.abs() < 1e-9, "{degrees}: {difference}");
        }
    }

    #[test]
    fn paired_intervals_are_those_of_scipy() {
        // scipy.stats.ttest_1samp(d, 0).confidence_interval(0.95)
        let differences = [0.12, -0.31, 0.05, 0.22, -0.07];
        let (mean, half) = paired(&differences, 0.95).unwrap_or_default();
        assert!((mean - 0.002).abs() < 1e-12);
        assert!(
            (mean - half + 0.25115942539826125).abs() < 1e-9 && (mean + half - 0.25515942539826125).abs() < 1e-9,
            "{half}"
        );
        assert!(paired(&[1.0], 0.95).is_none());
        // scipy.stats.ttest_1samp(d, m, alternative="less" and d, −m, alternative="greater"): p = 0.0478 for m = 0.2, 0.0541 for 0.19
        assert_eq!(Verdict::of(&differences, 0.2), Verdict::Equivalent);
        assert_eq!(Verdict::of(&differences, 0.19), Verdict::Undecided);
        assert_eq!(Verdict::of(&[1.0, 1.1, 0.9], 0.2), Verdict::Different);
        assert_eq!(Verdict::of(&[0.0], 0.2), Verdict::Undecided);
    }

    #[test]
    fn medians_of_odd_even_and_no_values() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
        assert_eq!(quantile(&[0.0, 10.0, 20.0], 0.25), Some(5.0));
        assert_eq!(quantile(&[7.0], 0.75), Some(7.0));
    }
}
