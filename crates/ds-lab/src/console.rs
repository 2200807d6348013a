//! Lines on standard error and standard output. What cannot be written there (a closed pipe, a full device) is dropped: it never
//! ends a training, as `eprintln!` and `println!` would.

use std::fmt;
use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

static QUIET: AtomicBool = AtomicBool::new(false);

/// Why standard output could not be written, unless its reader is gone.
static OUTPUT_ERROR: Mutex<Option<io::Error>> = Mutex::new(None);

/// Whether [`status!`](crate::status) prints nothing (`--quiet`).
pub fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Enables or disables [`status!`](crate::status) for the process.
pub fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

/// Writes a line to standard error.
pub fn write_error(line: fmt::Arguments<'_>) {
    // One write, so that lines of several threads do not mix.
    let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}

/// Writes text to standard output.
pub fn write_output(text: fmt::Arguments<'_>) {
    keep(io::stdout().lock().write_fmt(text));
}

/// Flushes standard output and returns its first error, if there was one. A reader that has gone (`| head`) is none.
pub fn output_error() -> Option<io::Error> {
    keep(io::stdout().lock().flush());
    OUTPUT_ERROR.lock().ok()?.take()
}

fn keep(result: io::Result<()>) {
    if let (Err(error), Ok(mut first)) = (result, OUTPUT_ERROR.lock())
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        first.get_or_insert(error);
    }
}

/// Prints a line to standard error, also with `--quiet`: warnings and errors.
#[doc(hidden)]
#[macro_export]
macro_rules! note {
    ($($text:tt)*) => { $crate::console::write_error(format_args!($($text)*)) };
}

/// Prints a line to standard error, unless `--quiet` was given: progress and information.
#[doc(hidden)]
#[macro_export]
macro_rules! status {
    ($($text:tt)*) => { if !$crate::console::is_quiet() { $crate::note!($($text)*) } };
}

/// Prints to standard output, as `print!` does.
#[doc(hidden)]
#[macro_export]
macro_rules! out {
    ($($text:tt)*) => { $crate::console::write_output(format_args!($($text)*)) };
}

/// Prints a line to standard output, as `println!` does.
#[doc(hidden)]
#[macro_export]
macro_rules! outln {
    ($($text:tt)*) => { $crate::out!("{}\n", format_args!($($text)*)) };
}
