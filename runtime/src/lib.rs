//! A thread-per-core async runtime for Linux whose reactor is io_uring.
//!
//! ```
//! use std::time::Duration;
//! use viewring_runtime::net::UdpSocket;
//! use viewring_runtime::spawn;
//! use viewring_runtime::time::timeout;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! viewring_runtime::block_on(async {
//!     let any = "127.0.0.1:0".parse().expect("an address");
//!     let echo = UdpSocket::bind(any)?;
//!     let to = echo.local_addr();
//!     // A task on this thread. It need not be `Send`, and it ends with the runtime.
//!     spawn(async move {
//!         let mut buf = [0; 1500];
//!         while let Ok((len, from)) = echo.recv_from(&mut buf).await {
//!             let _sent = echo.send_to(&buf[..len], from).await;
//!         }
//!     })
//!     .detach();
//!
//!     let socket = UdpSocket::bind(any)?;
//!     let mut buf = [0; 1500];
//!     loop {
//!         socket.send_to(b"hello", to).await?;
//!         // UDP may lose either datagram. Then the wait ends here, and we ask again.
//!         let answer = timeout(Duration::from_millis(100), socket.recv_from(&mut buf)).await;
//!         if let Ok(received) = answer {
//!             let (len, from) = received?;
//!             assert_eq!((&buf[..len], from), (&b"hello"[..], to));
//!             return Ok::<(), std::io::Error>(());
//!         }
//!     }
//! })??;
//! # Ok(())
//! # }
//! ```
//!
//! # How it differs
//!
//! - **One thread, one runtime, one ring.** Nothing is stolen, nothing is locked, futures need not
//!   be `Send`. For several cores there are several runtimes: [`cores`]. What crosses between them
//!   is handed over explicitly: [`Handle::spawn_on`].
//! - **Receiving belongs to the socket, not to the future.** One operation of the kernel brings
//!   datagrams into the socket's queue for as long as the socket lives. A receive that is dropped,
//!   a thousand times a second in a `select` loop, costs no system call and loses no datagram.
//! - **Timers are in user space**, in a wheel; the kernel keeps one, for the earliest. To drop a
//!   timeout and make another one costs no system call either.
//! - **The outside world is one trait**, [`reactor::Reactor`]. The program that runs on
//!   [`Uring`] runs on a simulated network and clock without a change, a `cfg` or a type parameter.
//! - **No `unsafe` outside one folder.** Whatever a user does with futures, also
//!   [`forget`](std::mem::forget) them, the kernel writes only to memory that the reactor owns.
//!
//! # What dropping a future does
//!
//! Every async function says so under *Cancel safety*. The best verdict is **strict**: to drop the
//! future before it is ready, and to call the function again, has the same visible effect as never
//! to have dropped it. No datagram, no tick and no place in the world is lost by it. So it is for
//! all that waits: receiving, sleeping, ticking, joining a task. What *acts* cannot be strict: a
//! send that is dropped in flight may or may not go out, and the text says that.
//!
//! Memory is never in question. An operation in flight owns its buffers; they are set free when the
//! kernel has let go of them, whatever became of the future.
//!
//! Dropping a [`JoinHandle`] lets its task go on. Dropping a [`Runtime`] drops all its tasks, while
//! their sockets still work, then cancels what is in flight and waits for the kernel to let go.
//!
//! # The modules
//!
//! - [`net`]: UDP sockets. [`fs`]: files, and making durable what is in them. [`buf`]: pooled
//!   buffers, shared without a copy.
//! - [`time`]: instants, timers, timeouts, intervals. [`signal`]: being asked to stop.
//! - [`cores`]: one runtime per core.
//! - [`reactor`]: the seam between a runtime and its world. [`uring`]: the real world. [`sim`]: a
//!   simulated one.
//!
//! Channels, locks, `join!` and `select!` come from the `futures` crate: nothing in them depends on
//! a runtime, so there is no second set of them here.

pub mod buf;
mod closed;
pub mod cores;
mod current;
mod executor;
pub mod fs;
mod handle;
mod inner;
mod metrics;
pub mod net;
mod operation;
mod ops;
pub mod reactor;
mod remote;
mod runtime;
pub mod signal;
pub mod sim;
mod spin;
pub mod time;
mod timers;
pub mod uring;
mod waiters;

pub use executor::{JoinError, JoinHandle};
pub use handle::{Gone, Handle};
pub use metrics::Metrics;
pub use runtime::{Config, Runtime, metrics, nop, random, spawn, yield_now};
pub use uring::{Capabilities, SetupError, Uring, UringConfig};

use std::future::Future;

/// Runs `future` on a new runtime on io_uring, with defaults.
///
/// # Errors
/// [`SetupError`] when there can be no ring: it names the cause and the cure.
///
/// # Panics
/// As for [`Runtime::block_on`]: inside a runtime, or when `future` panics.
pub fn block_on<F: Future>(future: F) -> Result<F::Output, SetupError> {
    Ok(Runtime::new(Uring::new()?, Config::default()).block_on(future))
}
