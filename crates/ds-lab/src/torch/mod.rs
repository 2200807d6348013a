//! Networks of PyTorch: files that the original's program (DeepSplines) saves become runs, and networks of runs become files that its
//! classes load.

mod archive;
mod export;
mod import;
mod names;
mod params;

pub use export::write_state_dict;
pub use import::{Given, Imported, import};

/// The parser of `torch.save`'s files as a function from bytes, for tests with damaged input: the number of tensors of the network.
///
/// # Errors
/// If the bytes are no such file.
#[doc(hidden)]
pub fn parse_archive(bytes: &[u8]) -> Result<usize, String> {
    archive::parse(bytes).map(|file| file.state.len())
}
