//! The errors of this crate: what was asked for and what is allowed.

use candle_core::Shape;

/// Why an activation, a grid or a regulariser could not be built or applied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The number of knots is even or below 3.
    #[error("spline size is {0}: it must be odd and at least 3, so that a knot lies at 0")]
    Size(usize),
    /// A grid with more segments than an f32 counts.
    #[error(
        "spline size is {0}: it must be at most 8388609, because kernels in f32 find one of at most 2^23 segments without rounding"
    )]
    TooManyKnots(usize),
    /// The number of knots of a 1-Lipschitz spline is below 3.
    #[error("size of a lipschitz_spline is {0}: it must be at least 3, even or odd; fewer knots make a straight line")]
    LipschitzSize(usize),
    /// An activation of pairs of channels for an odd number of them.
    #[error("{kind} takes pairs of channels, and {channels} is odd: choose an even number of units or channels")]
    OddChannels {
        /// The activation.
        kind: &'static str,
        /// What was given.
        channels: usize,
    },
    /// The grid's range or step is not a positive number in the range of f32.
    #[error("the grid's {what} is {value}: it must be a number above 0 that an f32 can hold")]
    Grid {
        /// `range` or `step`.
        what: &'static str,
        /// What was given.
        value: f64,
    },
    /// A grid whose number of knots is not that of the coefficients.
    #[error("the grid has {got} knots, and there are {expected} coefficients of each function")]
    KnotCount {
        /// The knots of the grid.
        got: usize,
        /// Those that fit.
        expected: usize,
    },
    /// Parameters of a file that belong to knots at other distances.
    #[error(
        "the knots found under this name are {got} apart, those of this layer {expected}: give the range or step that the network was trained with"
    )]
    GridStep {
        /// The distance in the file.
        got: f64,
        /// That of the layer.
        expected: f64,
    },
    /// A tensor that something would change, and that is no variable.
    #[error(
        "`{0}` comes from a file and is no variable, so nothing can change it: build the layer from a `VarMap` and load the file into the map"
    )]
    Frozen(String),
    /// An activation that is no spline without a constraint.
    #[error("{0} is no spline: choose bspline, explicit_linear or relu_spline, or make it with `activation`")]
    NoSpline(&'static str),
    /// A parametrisation without coefficients, which other knots could take over.
    #[error("{0} has no coefficients that could be interpolated: choose bspline or explicit_linear")]
    NoCoefficients(&'static str),
    /// The initial shape is not offered for this kind of activation.
    #[error("initial shape `{init}` is not available for {kind}: choose one of {allowed}")]
    Init {
        /// The initial shape asked for.
        init: &'static str,
        /// The activation.
        kind: &'static str,
        /// The shapes that it has.
        allowed: &'static str,
    },
    /// A threshold is negative or not a number.
    #[error("threshold is {0}: it must be a number that is at least 0")]
    Threshold(f64),
    /// A parameter tensor does not have the shape that the layer needs.
    #[error("{what} has shape {got:?}, expected {expected:?}")]
    Shape {
        /// The tensor.
        what: &'static str,
        /// Its shape.
        got: Shape,
        /// The shape that fits.
        expected: Shape,
    },
    /// An activation without channels, or a hinge activation without hinges.
    #[error("{0} is 0: it must be at least 1")]
    Empty(&'static str),
    /// A name that no value of an enumeration has.
    #[error("`{given}`: expected one of {allowed}")]
    Name {
        /// The name.
        given: String,
        /// The names that there are.
        allowed: String,
    },
    /// The resolution of the images of a network cannot be halved that often.
    #[error(
        "the side of a network's images is {side}: it must be a multiple of 2^{stages} for {stages} stages, and not 0"
    )]
    ImageSide {
        /// H = W.
        side: usize,
        /// How often it is halved.
        stages: usize,
    },
    /// An error of Candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Candle(error) => error,
            other => candle_core::Error::wrap(other),
        }
    }
}

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
