//! Points of the plane, inside or outside an area: the classification problems of both papers.

use super::{DataError, Source};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::{Path, PathBuf};

/// The area to learn, in [−1, 1]².
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AreaShape {
    /// ‖x‖² < 2/π: half of the square.
    Circle,
    /// |y| < 0.8 and |x − 0.4·sin(−5y)| < 0.3.
    SShape,
}

/// Points with targets.
#[derive(Debug, Clone, PartialEq)]
pub struct PointSet {
    /// (N, 2).
    pub points: Vec<[f32; 2]>,
    /// N targets: 1 inside the area, 0 outside.
    pub labels: Vec<f32>,
}

impl AreaShape {
    /// Whether a point lies inside.
    pub fn contains(self, [x, y]: [f64; 2]) -> bool {
        match self {
            Self::Circle => x * x + y * y < std::f64::consts::FRAC_2_PI,
            Self::SShape => {
                let centre = 0.4 * (-5.0 * y).sin();
                y.abs() < 0.8 && centre - 0.3 < x && x < centre + 0.3
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Circle => "circle",
            Self::SShape => "s_shape",
        }
    }

    fn labelled(self, points: impl Iterator<Item = [f32; 2]>) -> PointSet {
        let points: Vec<[f32; 2]> = points.collect();
        let inside = |point: &[f32; 2]| self.contains(point.map(f64::from));
        let labels = points.iter().map(|point| if inside(point) { 1.0 } else { 0.0 }).collect();
        PointSet { points, labels }
    }
}

/// The centres of `side`×`side` cells of [−1, 1]², row by row.
pub fn area_grid(shape: AreaShape, side: usize) -> PointSet {
    let centre = move |k: usize| ((2 * k + 1) as f64 / side as f64 - 1.0) as f32;
    shape.labelled((0..side * side).map(|k| [centre(k % side), centre(k / side)]))
}

/// `n` points, uniform in [−1, 1]².
pub fn area_random(shape: AreaShape, n: usize, seed: u64) -> PointSet {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    shape.labelled((0..n).map(|_| [rng.random_range(-1.0..1.0), rng.random_range(-1.0..1.0)]))
}

/// Points from a CSV file with the columns x1, x2, label.
///
/// # Errors
/// If the file cannot be read or a line is wrong; the error names the line.
pub fn area_csv(path: &Path) -> Result<PointSet, DataError> {
    let wrong = |problem: String| {
        DataError::content(path, problem, "expected a CSV file with the header x1,x2,label and numbers, label 0 or 1")
    };
    let text = std::fs::read_to_string(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().map_err(|error| wrong(error.to_string()))?;
    if header != vec!["x1", "x2", "label"] {
        return Err(wrong(format!("its header is {header:?}")));
    }
    let (mut points, mut labels) = (Vec::new(), Vec::new());
    for (i, row) in reader.deserialize::<(f32, f32, f32)>().enumerate() {
        let (x1, x2, label) = row.map_err(|error| wrong(format!("line {}: {error}", i + 2)))?;
        if !(x1.is_finite() && x2.is_finite() && (label == 0.0 || label == 1.0)) {
            return Err(wrong(format!("line {}: {x1},{x2},{label}", i + 2)));
        }
        points.push([x1, x2]);
        labels.push(label);
    }
    if points.is_empty() {
        return Err(wrong("it has no points".to_owned()));
    }
    Ok(PointSet { points, labels })
}

/// The original's points of a split (`train` or `valid`), from `area2d/SHAPE_SPLIT.csv` in the data directory, with the
/// path; `None` if the file is not there.
///
/// # Errors
/// If the file is there and wrong.
pub fn area_points(shape: AreaShape, split: &str, source: &Source) -> Result<Option<(PointSet, PathBuf)>, DataError> {
    let path = source.root().join("area2d").join(format!("{}_{split}.csv", shape.name()));
    if path.exists() { Ok(Some((area_csv(&path)?, path))) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn share(shape: AreaShape) -> f32 {
        let set = area_grid(shape, 200);
        set.labels.iter().sum::<f32>() / set.labels.len() as f32
    }

    #[test]
    fn areas_are_what_the_formulas_say() {
        // The circle is half the square; the S-shape is a band 0.6 wide and 1.6 high of area 4.
        assert!((share(AreaShape::Circle) - 0.5).abs() < 2e-3);
        assert!((share(AreaShape::SShape) - 0.24).abs() < 2e-3);
    }

    #[test]
    fn the_grid_has_cell_centres() {
        let set = area_grid(AreaShape::Circle, 2);
        assert_eq!(set.points, [[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]]);
    }

    #[test]
    fn a_wrong_line_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("points.csv");
        for (text, problem) in
            [("x1,x2,label\n0,0,1\n0,zero,1\n", "line 3"), ("a,b\n", "header"), ("x1,x2,label\n0,0,2\n", "line 2")]
        {
            std::fs::write(&path, text).unwrap();
            let error = area_csv(&path).unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("points.csv"), "{error}");
        }
    }
}
