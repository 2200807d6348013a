//! Points of the plane, inside or outside an area: the classification problems of the papers of 2020.

use super::{DataError, Source, content};
use crate::files::md5;
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

    /// The MD5 of the original's training points: all x1, x2, label as little-endian 32-bit floats.
    fn original_md5(self) -> &'static str {
        match self {
            Self::Circle => "7837ab21d065998a76afffe9c1e468be",
            Self::SShape => "8e0e735fc3bc37eef560ed37bbd57a53",
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

/// Bytes that a file of points may have.
const LARGEST_FILE: usize = 1 << 26;

const COLUMNS: [&str; 3] = ["x1", "x2", "label"];

/// Points from a CSV file with the columns x1, x2, label.
///
/// # Errors
/// If the file cannot be read or a line is wrong; the error names the line.
pub fn area_csv(path: &Path) -> Result<PointSet, DataError> {
    let remedy = "expected a CSV file with the header x1,x2,label and numbers, label 0 or 1";
    let bytes = content::read(path, LARGEST_FILE, remedy)?;
    parse(&bytes).map_err(|problem| DataError::content(path, problem, remedy))
}

/// The points of a CSV file.
pub(super) fn parse(bytes: &[u8]) -> Result<PointSet, String> {
    let mut reader = csv::Reader::from_reader(bytes);
    let header = reader.headers().map_err(|error| content::problem(bytes, error.to_string()))?;
    if header != COLUMNS.as_slice() {
        return Err(content::problem(bytes, format!("its header is {header:?}")));
    }
    let mut set = PointSet { points: Vec::new(), labels: Vec::new() };
    for record in reader.records() {
        let record = record.map_err(|error| error.to_string())?;
        let line = record.position().map_or(0, csv::Position::line);
        let fields: Vec<Option<f32>> = record.iter().map(|field| field.trim().parse().ok()).collect();
        match fields.as_slice() {
            [Some(x1), Some(x2), Some(label @ (0.0 | 1.0))] if x1.is_finite() && x2.is_finite() => {
                set.points.push([*x1, *x2]);
                set.labels.push(*label);
            }
            _ => return Err(format!("line {line}: {}", record.iter().collect::<Vec<_>>().join(","))),
        }
    }
    if set.points.is_empty() { Err("it has no points".to_owned()) } else { Ok(set) }
}

/// Points of each of the original's training files.
const ORIGINAL_POINTS: usize = 1500;

/// The original's training points, from `area2d/SHAPE_train.csv` in the data directory, with the path; `None` if the file is not there.
///
/// # Errors
/// If the data directory is not there, or the file is there and its points are not the original's.
pub fn area_points(shape: AreaShape, source: &Source) -> Result<Option<(PointSet, PathBuf)>, DataError> {
    let path = source.root()?.join("area2d").join(format!("{}_train.csv", shape.name()));
    if !path.exists() {
        return Ok(None);
    }
    let set = area_csv(&path)?;
    let numbers = set.points.iter().zip(&set.labels).flat_map(|([x1, x2], label)| [*x1, *x2, *label]);
    let found = md5(&numbers.flat_map(f32::to_le_bytes).collect::<Vec<u8>>());
    let expected = shape.original_md5();
    if (set.points.len(), found.as_str()) != (ORIGINAL_POINTS, expected) {
        let problem = format!(
            "it has {} points with MD5 {found}, the original's has {ORIGINAL_POINTS} with {expected}",
            set.points.len()
        );
        let remedy = "get the whole file again, or train with data.points = \"generated\", which needs no file";
        return Err(DataError::content(path, problem, remedy));
    }
    Ok(Some((set, path)))
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
