//! SIGINT, SIGTERM and SIGHUP: training finishes its step, writes a checkpoint and ends; a second signal ends the process at once.
//!
//! Outside of [`Deferred`] sections, and where [`install`] was not called, signals end the process as they always do.

use signal_hook::consts::{SIGINT, SIGTERM};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// The signals that end a training.
#[cfg(unix)]
const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, signal_hook::consts::SIGHUP];
#[cfg(not(unix))]
const SIGNALS: [i32; 2] = [SIGINT, SIGTERM];

/// The signal that was received in a [`Deferred`] section; 0: none.
static RECEIVED: AtomicI32 = AtomicI32::new(0);

/// [`Deferred`] sections that are open.
static SECTIONS: AtomicUsize = AtomicUsize::new(0);

static HANDLERS: OnceLock<Handlers> = OnceLock::new();

struct Handlers {
    /// Whether the next signal ends the process at once.
    ends_at_once: Arc<AtomicBool>,
}

/// The training was ended by a signal, after its checkpoint was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("ended by {}", name(*signal))]
pub struct Interrupted {
    /// The signal's number.
    pub signal: i32,
}

/// Installs the handlers of the process, once. A signal that is ignored stays ignored, as `nohup` wants it.
///
/// # Errors
/// If the system refuses a handler.
pub fn install() -> io::Result<()> {
    if HANDLERS.get().is_some() {
        return Ok(());
    }
    let ends_at_once = Arc::new(AtomicBool::new(true));
    for signal in SIGNALS.into_iter().filter(|&signal| !is_ignored(signal)) {
        // In this order: the first handler sees what the later ones of an earlier signal have set.
        signal_hook::flag::register_conditional_shutdown(signal, exit_status(signal), Arc::clone(&ends_at_once))?;
        let flag = Arc::clone(&ends_at_once);
        let handler = move || {
            flag.store(true, Ordering::SeqCst);
            let _ = RECEIVED.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
        };
        // SAFETY: the handler stores to atomics only, which is allowed at any time.
        unsafe { signal_hook::low_level::register(signal, handler) }?;
    }
    HANDLERS.get_or_init(|| Handlers { ends_at_once });
    Ok(())
}

#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    // SAFETY: without a new action this only writes the present one to `action`, for which all zeros are a value.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(not(unix))]
fn is_ignored(_signal: i32) -> bool {
    false
}

/// A section that looks for signals with [`check`]: within it a first signal does not end the process.
#[derive(Debug)]
#[must_use = "the section ends with the value"]
pub struct Deferred(());

impl Deferred {
    /// Begins the section. Sections may be nested and open in several threads.
    pub fn begin() -> Self {
        if SECTIONS.fetch_add(1, Ordering::SeqCst) == 0
            && received().is_none()
            && let Some(handlers) = HANDLERS.get()
        {
            handlers.ends_at_once.store(false, Ordering::SeqCst);
        }
        Self(())
    }
}

impl Drop for Deferred {
    fn drop(&mut self) {
        if SECTIONS.fetch_sub(1, Ordering::SeqCst) == 1
            && let Some(handlers) = HANDLERS.get()
        {
            handlers.ends_at_once.store(true, Ordering::SeqCst);
        }
    }
}

/// The signal that was received, if any was.
pub fn received() -> Option<i32> {
    Some(RECEIVED.load(Ordering::Relaxed)).filter(|&signal| signal != 0)
}

/// Asks this process to end as a first SIGTERM does.
pub fn request() {
    let _ = RECEIVED.compare_exchange(0, SIGTERM, Ordering::SeqCst, Ordering::SeqCst);
    if SECTIONS.load(Ordering::SeqCst) == 0 {
        std::process::exit(exit_status(SIGTERM));
    }
}

/// Ends this process as a first SIGTERM does when its standard input ends: when the process that holds the other side does.
pub fn end_with_parent() {
    std::thread::spawn(|| {
        // To its end, whatever it is.
        io::copy(&mut io::stdin().lock(), &mut io::sink()).ok();
        request();
    });
}

/// Whether work may go on.
///
/// # Errors
/// If a signal was received.
pub fn check() -> Result<(), Interrupted> {
    received().map_or(Ok(()), |signal| Err(Interrupted { signal }))
}

/// The exit status of a process that a signal ended, as shells have it: 130 for SIGINT, 143 for SIGTERM, 129 for SIGHUP.
pub fn exit_status(signal: i32) -> i32 {
    128 + signal
}

/// The name of a signal.
pub fn name(signal: i32) -> &'static str {
    match signal {
        SIGINT => "SIGINT",
        SIGTERM => "SIGTERM",
        #[cfg(unix)]
        signal_hook::consts::SIGHUP => "SIGHUP",
        _ => "a signal",
    }
}
