//! The kinds of values that keys have.

/// What values a key takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// true or false.
    Bool,
    /// Free text that is not empty.
    Text,
    /// One of these names.
    Choice(&'static [&'static str]),
    /// A whole number from the first to the second.
    Integer(u64, u64),
    /// A number from the first to the second.
    Number(f64, f64),
    /// A number above 0 and up to this.
    Positive(f64),
    /// A number above 0 and up to this, or `auto`.
    PositiveOrAuto(f64),
    /// A list of whole numbers from the first to the second.
    Integers(u64, u64),
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bool => f.write_str("true or false"),
            Self::Text => f.write_str("a text that is not empty"),
            Self::Choice(names) => write!(f, "one of {}", names.join(", ")),
            Self::Integer(low, high) => write!(f, "a whole number from {low} to {high}"),
            Self::Number(low, high) => write!(f, "a number from {low} to {high}"),
            Self::Positive(high) => write!(f, "a number above 0 and up to {high}"),
            Self::PositiveOrAuto(high) => write!(f, "a number above 0 and up to {high}, or \"auto\""),
            Self::Integers(low, high) => write!(f, "a list of whole numbers from {low} to {high}"),
        }
    }
}
