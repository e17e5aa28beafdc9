//! SIGINT and SIGTERM as something to read.
//!
//! The handler adds to an eventfd in semaphore mode, enough for every reader there will be: once
//! shutdown was asked for, every wait for it completes, also a later one. A second signal, or one
//! for which nobody waits, does what it would have done without us: it ends the process.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{SigId, low_level};

static EVENT: OnceLock<File> = OnceLock::new();
static INSTALLED: Mutex<bool> = Mutex::new(false);
static WAITING: AtomicUsize = AtomicUsize::new(0);
static ASKED: AtomicBool = AtomicBool::new(false);

/// Counts one wait for the signal, while it lives.
#[derive(Debug)]
pub(super) struct Waiting;

impl Waiting {
    /// Installs the handler, if it is not, and counts.
    pub(super) fn begin() -> io::Result<(Self, RawFd)> {
        WAITING.fetch_add(1, Ordering::SeqCst);
        let waiting = Self;
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        if !*installed {
            install()?;
            *installed = true;
        }
        let event = EVENT.get().expect("installed");
        Ok((waiting, event.as_raw_fd()))
    }
}

/// Makes the eventfd, unless an attempt that failed later did so, and registers the handler.
fn install() -> io::Result<()> {
    if EVENT.get().is_none() {
        // SAFETY: eventfd(2) takes no pointer.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_SEMAPHORE) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `from_raw_fd` asks for an open descriptor that nobody else owns: it was just
        // made.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        EVENT.get_or_init(|| File::from(event));
    }
    let interrupt = register(SIGINT)?;
    register(SIGTERM).inspect_err(|_| {
        low_level::unregister(interrupt);
    })?;
    Ok(())
}

fn register(signal: i32) -> io::Result<SigId> {
    // SAFETY: `register` asks for an action that is safe in a signal handler: `handle` uses
    // atomics, write(2) and, by its own word, `emulate_default_handler`.
    unsafe { low_level::register(signal, move || handle(signal)) }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::SeqCst);
    }
}

fn handle(signal: i32) {
    if WAITING.load(Ordering::SeqCst) == 0 || ASKED.swap(true, Ordering::SeqCst) {
        // It fails for signals it does not know; these it does.
        let _known = low_level::emulate_default_handler(signal);
        return;
    }
    let Some(event) = EVENT.get() else { return };
    let enough = (1u64 << 32).to_ne_bytes();
    // SAFETY: write(2) asks for an open descriptor and that many readable bytes: `event` is never
    // closed, `enough` is eight bytes. It is async-signal-safe.
    unsafe { libc::write(event.as_raw_fd(), enough.as_ptr().cast(), enough.len()) };
}
