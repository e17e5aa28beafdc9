//! A thread-per-core async runtime for Linux whose reactor is io_uring.
pub mod buf;
mod executor;
pub mod net;
mod ops;
pub mod reactor;
mod remote;
mod runtime;
pub mod signal;
pub mod time;
mod timers;
pub mod uring;

pub use executor::{JoinError, JoinHandle};
pub use runtime::{Config, Gone, Handle, Metrics, Runtime, metrics, nop, random, spawn, yield_now};
pub use uring::{Capabilities, SetupError, Uring, UringConfig};

use std::future::Future;

/// Runs `future` on a new runtime on io_uring, with defaults.
///
/// # Errors
/// [`SetupError`] when there can be no ring: it names the cause and the cure.
///
/// # Panics
/// As for [`Runtime::block_on`].
pub fn block_on<F: Future>(future: F) -> Result<F::Output, SetupError> {
    Ok(Runtime::new(Uring::new()?, Config::default()).block_on(future))
}
