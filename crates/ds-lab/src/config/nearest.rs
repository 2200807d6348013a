//! The nearest name to a wrong one.

/// The most bytes of a path that is compared with others to find the nearest.
const LONGEST: usize = 200;

/// The nearest of some paths to a wrong one, if any is near.
pub(crate) fn nearest_of<'a>(path: &str, paths: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if path.len() > LONGEST {
        return None;
    }
    let last = |path: &str| path.rsplit('.').next().unwrap_or(path).to_owned();
    let distance = |other: &str| {
        let whole = edit_distance(path, other);
        let tail = edit_distance(&last(path), &last(other)) + 1;
        whole.min(tail)
    };
    let (near, other) = paths.map(|other| (distance(other), other)).min_by_key(|(distance, _)| *distance)?;
    (near <= 1 + last(path).chars().count() / 3).then_some(other)
}

/// The least number of insertions, deletions and substitutions.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &b) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
