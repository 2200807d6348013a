//! Launch planning: threads, blocks and shared memory of kernels that go channel by channel, from shapes and device limits.

use crate::backend::planes::Planes;
use crate::grid::MAX_SEGMENTS;

/// What a launch must know of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Its multiprocessors.
    pub multiprocessors: usize,
    /// The most shared memory that a block may ask for, in bytes.
    pub shared_per_block: usize,
    /// The shared memory of a multiprocessor, in bytes.
    pub shared_per_multiprocessor: usize,
}

/// Which elements a block works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// Rows of one channel, 16 bytes at a time.
    Vectors,
    /// Rows of one channel, element by element: planes that are not made of whole vectors.
    Scalars,
    /// Rows of 32 neighbouring columns of (N, C·inner): planes that are too small for the others.
    Columns,
}

impl Mapping {
    /// As it stands in the names of the kernels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vectors => "vectors",
            Self::Scalars => "scalars",
            Self::Columns => "columns",
        }
    }

    /// For planes of elements of so many bytes; `aligned` tells whether all tensors begin at a multiple of 16 bytes.
    pub fn new(planes: Planes, element_bytes: usize, aligned: bool) -> Self {
        if planes.inner < SMALLEST_PLANE {
            Self::Columns
        } else if aligned && planes.inner.is_multiple_of(VECTOR_BYTES / element_bytes) {
            Self::Vectors
        } else {
            Self::Scalars
        }
    }

    /// Into how many columns a channel's ∂c is split until it is merged.
    pub fn columns_of_a_channel(self, planes: Planes) -> usize {
        if self == Self::Columns { planes.inner } else { 1 }
    }

    /// The blocks beside each other for the same rows.
    fn across(self, planes: Planes) -> usize {
        match self {
            Self::Vectors | Self::Scalars => planes.channels,
            Self::Columns => (planes.channels * planes.inner).div_ceil(COLUMNS),
        }
    }
}

/// A launch of a kernel with grid (pieces, across).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Which elements a block works on.
    pub mapping: Mapping,
    /// Threads of a block: a power of two, at least 32.
    pub threads: usize,
    /// Into how many pieces the rows are cut.
    pub pieces: usize,
    /// Channels, or tiles of columns.
    pub across: usize,
    /// The rows of a piece; the last one may have fewer.
    pub rows_per_block: usize,
    /// Bytes of dynamic shared memory.
    pub shared: usize,
    /// How often an entry of the block's table of lines stands in it, side by side.
    pub copies: usize,
}

const VECTOR_BYTES: usize = 16;
/// Columns that a block of [`Mapping::Columns`] works on.
const COLUMNS: usize = 32;
/// Elements of a plane from which on it is worth blocks of its own.
const SMALLEST_PLANE: usize = 32;
/// Threads of a block.
const THREADS: usize = 256;
/// Elements of a thread below which a block is not worth its tables, and those that it has where there are enough of them:
/// blocks that end at different times keep the device busy to the end.
const MIN_ELEMENTS_PER_THREAD: usize = 8;
const TARGET_ELEMENTS_PER_THREAD: usize = 32;
/// Blocks on a multiprocessor that a tensor is cut into, however small it is, if they have their fewest elements.
const MIN_BLOCKS_PER_SM: usize = 4;
/// The same of a large tensor, for kernels whose blocks need not be merged, and for those whose must.
const BLOCKS_PER_SM: usize = 64;
const BLOCKS_PER_SM_WITH_REDUCTION: usize = 8;
/// Elements of a thread from which on two blocks after each other are better than one: their tables are small beside that.
const ELEMENTS_FOR_TWO_WAVES: usize = 512;
/// Copies of an entry of 8 bytes with which half a warp reads from banks of their own. Fewer would part neighbouring segments,
/// which inputs meet most often, no better than one does.
const COPIES: usize = 16;
/// What a system keeps of the shared memory for each block.
const RESERVED: usize = 1024;
/// Limit of the second dimension of a grid.
pub(crate) const MAX_GRID_Y: usize = 65535;

/// Why there is no launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// The tables do not fit.
    #[error(
        "{knots} knots need {needed} bytes of shared memory, the device has {available} for a block: use fewer knots or the CPU"
    )]
    TooManyKnots {
        /// K.
        knots: usize,
        /// For the smallest block.
        needed: usize,
        /// On this device.
        available: usize,
    },
    /// The tables of another kernel do not fit.
    #[error("a channel's tables need {needed} bytes of shared memory, the device has {available} for a block")]
    TablesTooLarge {
        /// For a block.
        needed: usize,
        /// On this device.
        available: usize,
    },
    /// More blocks beside each other than a grid may have.
    #[error("{0} channels exceed the limit of {MAX_GRID_Y}")]
    TooManyChannels(usize),
}

impl Launch {
    /// y = σ(x).
    ///
    /// # Errors
    /// If the device cannot hold the tables or the grid.
    pub fn forward(
        planes: Planes,
        segments: usize,
        element_bytes: usize,
        aligned: bool,
        limits: Limits,
    ) -> Result<Self, LaunchError> {
        match Mapping::new(planes, element_bytes, aligned) {
            mapping @ Mapping::Columns if segments <= MAX_SEGMENTS => {
                Self::new(planes, mapping, THREADS, 0, usual_blocks(planes, BLOCKS_PER_SM, limits))
            }
            Mapping::Columns => Err(too_many(segments, 8 * segments, limits)),
            mapping => Self::with_lines(planes, mapping, 0, segments, limits),
        }
    }

    /// (∂x, ∂c).
    pub fn backward(
        planes: Planes,
        segments: usize,
        element_bytes: usize,
        aligned: bool,
        limits: Limits,
    ) -> Result<Self, LaunchError> {
        let mapping = Mapping::new(planes, element_bytes, aligned);
        let slopes = if mapping == Mapping::Columns { 0 } else { 4 * segments };
        Self::with_sums(planes, mapping, segments, |threads| 8 * segments * threads + slopes, limits)
    }

    /// A kernel whose blocks look up a float2 of each segment, after `other` bytes of shared memory, and need not be merged.
    pub fn with_lines(
        planes: Planes,
        mapping: Mapping,
        other: usize,
        segments: usize,
        limits: Limits,
    ) -> Result<Self, LaunchError> {
        let shared = |copies: usize| other + 8 * copies * segments;
        if shared(1) > limits.shared_per_block {
            return Err(too_many(segments, shared(1), limits));
        }
        let launch = Self::new(planes, mapping, THREADS, shared(1), usual_blocks(planes, BLOCKS_PER_SM, limits))?;
        // More copies take longer to make, and may not take the room of other blocks: eight of 256 threads fill a multiprocessor.
        let elements = launch.rows_per_block * planes.inner / THREADS;
        let room = (limits.shared_per_multiprocessor / 8).saturating_sub(RESERVED).min(limits.shared_per_block);
        let worth = elements >= 2 * MIN_ELEMENTS_PER_THREAD && shared(COPIES) <= room;
        Ok(if worth { Self { copies: COPIES, shared: shared(COPIES), ..launch } } else { launch })
    }

    /// A kernel with sums of each segment for each of its threads, in shared memory that grows with their number: as many as leave
    /// room for two blocks on a multiprocessor, if that does not halve them more than once; and fewer for small tensors.
    pub fn with_sums(
        planes: Planes,
        mapping: Mapping,
        segments: usize,
        shared: impl Fn(usize) -> usize,
        limits: Limits,
    ) -> Result<Self, LaunchError> {
        let sizes = || [256, 128, 64, 32].into_iter();
        // Two blocks on a multiprocessor hide each other's beginning and end.
        let fits_twice = |&threads: &usize| {
            shared(threads) <= limits.shared_per_block
                && 2 * (shared(threads) + RESERVED) <= limits.shared_per_multiprocessor
        };
        let twice = sizes().find(fits_twice);
        let once = sizes().find(|&threads| shared(threads) <= limits.shared_per_block);
        let (most, resident) = match (twice, once) {
            (Some(twice), Some(once)) if 2 * twice >= once => (twice, 2),
            (_, Some(once)) => (once, 1),
            _ => return Err(too_many(segments, shared(32), limits)),
        };
        let blocks = resident * limits.multiprocessors;
        // A segment's sums cost a warp 4 cycles, to clear and to add up; an element that is added costs a thread some 75. For P
        // threads and E elements on a multiprocessor, P/32·4·segments + 75·E/P is least at this number; of the sizes beside it that
        // by a factor nearer to it is the better. Columns wait for each of their elements, which takes all threads there can be.
        let best = (600.0 * planes.elements() as f64 / (blocks * resident * segments.max(1)) as f64).sqrt();
        let threads = sizes()
            .find(|&threads| threads <= most && (threads <= 64 || threads as f64 <= best * std::f64::consts::SQRT_2))
            .filter(|_| mapping != Mapping::Columns)
            .unwrap_or(most);
        let waves = if planes.elements() >= ELEMENTS_FOR_TWO_WAVES * threads * blocks { 2 } else { 1 };
        Self::new(planes, mapping, threads, shared(threads), waves * blocks)
    }

    /// Any other kernel that goes channel by channel, with `shared` bytes for each block, and leaves sums of each.
    pub fn by_channel(planes: Planes, mapping: Mapping, shared: usize, limits: Limits) -> Result<Self, LaunchError> {
        Self::of_tables(planes, mapping, shared, BLOCKS_PER_SM_WITH_REDUCTION, limits)
    }

    /// The same for a kernel whose blocks need not be merged.
    pub fn apart(planes: Planes, mapping: Mapping, shared: usize, limits: Limits) -> Result<Self, LaunchError> {
        Self::of_tables(planes, mapping, shared, BLOCKS_PER_SM, limits)
    }

    fn of_tables(
        planes: Planes,
        mapping: Mapping,
        shared: usize,
        most: usize,
        limits: Limits,
    ) -> Result<Self, LaunchError> {
        if shared > limits.shared_per_block {
            return Err(LaunchError::TablesTooLarge { needed: shared, available: limits.shared_per_block });
        }
        Self::new(planes, mapping, THREADS, shared, usual_blocks(planes, most, limits))
    }

    /// About so many blocks in all.
    fn new(
        planes: Planes,
        mapping: Mapping,
        threads: usize,
        shared: usize,
        blocks: usize,
    ) -> Result<Self, LaunchError> {
        let across = mapping.across(planes);
        if across > MAX_GRID_Y {
            return Err(LaunchError::TooManyChannels(planes.channels));
        }
        let in_row = if mapping == Mapping::Columns { COLUMNS } else { planes.inner };
        let wanted = (blocks / across.max(1)).clamp(1, planes.outer.max(1));
        let rows_per_block = planes
            .outer
            .div_ceil(wanted)
            .max((MIN_ELEMENTS_PER_THREAD * threads).div_ceil(in_row.max(1)))
            .min(planes.outer.max(1));
        let pieces = planes.outer.div_ceil(rows_per_block);
        Ok(Self { mapping, threads, pieces, across, rows_per_block, shared, copies: 1 })
    }

    /// A row of the block's table of lines, in bytes.
    pub fn row_bytes(&self) -> usize {
        8 * self.copies
    }
}

/// Blocks of [`THREADS`] for a tensor, at most so many for each multiprocessor.
fn usual_blocks(planes: Planes, most: usize, limits: Limits) -> usize {
    (planes.elements() / (THREADS * TARGET_ELEMENTS_PER_THREAD))
        .clamp(MIN_BLOCKS_PER_SM * limits.multiprocessors, most * limits.multiprocessors)
}

fn too_many(segments: usize, needed: usize, limits: Limits) -> LaunchError {
    LaunchError::TooManyKnots { knots: segments + 1, needed, available: limits.shared_per_block }
}

impl From<LaunchError> for candle_core::Error {
    fn from(error: LaunchError) -> Self {
        Self::Msg(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const H200: Limits =
        Limits { multiprocessors: 132, shared_per_block: 227 << 10, shared_per_multiprocessor: 228 << 10 };
    const TURING: Limits =
        Limits { multiprocessors: 40, shared_per_block: 64 << 10, shared_per_multiprocessor: 64 << 10 };

    #[test]
    fn all_rows_are_in_one_piece_and_blocks_fit() {
        for limits in [H200, TURING] {
            for outer in [1, 2, 3, 127, 128, 1000, 100_000] {
                for channels in [1, 3, 16, 64, 1000] {
                    for inner in [1, 2, 31, 32, 33, 49, 64, 1024, 50_176] {
                        for segments in [2, 50, 200] {
                            for bytes in [2, 4] {
                                let planes = Planes { outer, channels, inner };
                                let forward = Launch::forward(planes, segments, bytes, true, limits).unwrap();
                                let backward = Launch::backward(planes, segments, bytes, true, limits).unwrap();
                                for launch in [forward, backward] {
                                    let what = format!("{planes:?} {launch:?}");
                                    assert!(launch.pieces * launch.rows_per_block >= outer, "{what}");
                                    assert!((launch.pieces - 1) * launch.rows_per_block < outer, "{what}");
                                    assert!(launch.shared <= limits.shared_per_block, "{what}");
                                    assert!(launch.threads.is_power_of_two() && launch.threads >= 32, "{what}");
                                    let width = 16 / bytes;
                                    assert_eq!(launch.mapping == Mapping::Columns, inner < 32, "{what}");
                                    assert_eq!(launch.mapping == Mapping::Vectors, inner >= 32 && inner % width == 0);
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_papers_networks_fill_the_device() {
        let planes = Planes { outer: 1024, channels: 64, inner: 1024 };
        let launch = Launch::backward(planes, 50, 4, true, H200).unwrap();
        assert_eq!((launch.mapping, launch.threads), (Mapping::Vectors, 256));
        let blocks = launch.pieces * launch.across;
        assert!((500..=528).contains(&blocks), "two waves of two blocks on each of 132 multiprocessors, got {blocks}");
        let launch = Launch::forward(planes, 50, 4, true, H200).unwrap();
        assert_eq!((launch.copies, launch.shared), (16, 16 * 8 * 50));
        let elements = launch.rows_per_block * planes.inner / launch.threads;
        assert_eq!(elements, TARGET_ELEMENTS_PER_THREAD, "blocks that end at different times");
    }

    #[test]
    fn small_tensors_have_small_tables() {
        // ResNet32's three sizes with batches of 128.
        for (channels, inner, threads) in [(16, 1024, 256), (32, 256, 128), (64, 64, 128)] {
            let planes = Planes { outer: 128, channels, inner };
            let launch = Launch::backward(planes, 50, 4, true, H200).unwrap();
            assert_eq!((launch.threads, launch.pieces * launch.across), (threads, 256), "{planes:?}");
            // The sums of every block are of at least two vectors a thread.
            assert!(launch.rows_per_block * inner >= MIN_ELEMENTS_PER_THREAD * threads, "{planes:?}");
            let launch = Launch::forward(planes, 50, 4, true, H200).unwrap();
            let blocks = launch.pieces * launch.across;
            assert!((256..=528).contains(&blocks), "{planes:?}, {blocks} blocks");
        }
        // A table of many segments is not copied.
        let planes = Planes { outer: 1024, channels: 64, inner: 1024 };
        assert_eq!(Launch::forward(planes, 2000, 4, true, H200).unwrap().copies, 1);
    }

    #[test]
    fn empty_planes_have_launches() {
        for (outer, channels, inner) in [(0, 3, 64), (4, 0, 64), (4, 3, 0)] {
            let planes = Planes { outer, channels, inner };
            for mapping in [Mapping::Vectors, Mapping::Scalars, Mapping::Columns] {
                Launch::by_channel(planes, mapping, 16, H200).unwrap();
            }
            Launch::forward(planes, 50, 4, true, H200).unwrap();
            Launch::backward(planes, 50, 4, true, H200).unwrap();
        }
    }

    #[test]
    fn what_does_not_fit_says_so() {
        let planes = Planes { outer: 4, channels: 2, inner: 64 };
        let error = Launch::backward(planes, 5000, 4, true, TURING).unwrap_err().to_string();
        assert!(error.contains("5001 knots") && error.contains("fewer knots"), "{error}");
        let many = Planes { outer: 4, channels: 70_000, inner: 64 };
        let error = Launch::forward(many, 50, 4, true, H200).unwrap_err().to_string();
        assert!(error.contains("70000 channels"), "{error}");
        assert_eq!(Mapping::new(planes, 4, false), Mapping::Scalars);
    }
}
