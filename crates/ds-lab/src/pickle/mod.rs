//! Pickles as values: Python's serialisation, of which NumPy's arrays and PyTorch's checkpoints are made.
//!
//! Nothing is executed. The instructions of protocols 0 to 4 are read into values; a call or an object is kept as what it calls and
//! with which arguments. Names of functions and classes that a caller does not know are an error, wherever they stand.

mod machine;
mod value;

pub(crate) use value::{Pickle, Value, text};

/// Reads a pickle; the functions and classes in it must be among `known`, given as `module.name`.
///
/// # Errors
/// If the bytes are no such pickle, as a text.
pub(crate) fn parse<'a>(bytes: &'a [u8], known: &[&str]) -> Result<Pickle<'a>, String> {
    let pickle = machine::run(bytes)?;
    pickle.check_names(known)?;
    Ok(pickle)
}
