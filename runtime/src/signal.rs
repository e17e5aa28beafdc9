//! Shutdown signals.

use std::io;

use crate::current::current;
use crate::operation::Operation;
use crate::reactor::Op;

/// Waits until the process is asked to stop, by `SIGINT` (ctrl-c) or `SIGTERM`.
///
/// Once that has happened every call completes at once. A second signal, or one that comes while
/// nobody waits, ends the process as if nobody had ever asked.
///
/// # Cancel safety
/// Strict: dropping it withdraws the interest.
///
/// # Errors
/// When the handler cannot be installed.
///
/// # Panics
/// Outside a runtime.
pub async fn shutdown() -> io::Result<()> {
    Operation::start(&current(), Op::ShutdownSignal)
        .await
        .map(drop)
}
