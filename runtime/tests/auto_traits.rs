//! What may leave its thread, and what may not: checked by the compiler.

use viewring_runtime::buf::{Buf, BufPool, SharedBuf};
use viewring_runtime::cores::{Cores, Peers};
use viewring_runtime::net::{Datagram, UdpSocket};
use viewring_runtime::time::{Instant, Timer};
use viewring_runtime::{Handle, JoinHandle, Metrics, Runtime, Uring};

/// Ambiguous, and so an error, if `T` is `Send`.
trait StaysHere<A> {
    fn check() {}
}

struct Sends;

impl<T: ?Sized> StaysHere<()> for T {}
impl<T: ?Sized + Send> StaysHere<Sends> for T {}

fn travels<T: Send>() {}

#[test]
fn what_belongs_to_a_thread_stays_there() {
    <Runtime as StaysHere<_>>::check();
    <Uring as StaysHere<_>>::check();
    <UdpSocket as StaysHere<_>>::check();
    <Datagram as StaysHere<_>>::check();
    <Timer as StaysHere<_>>::check();
    <JoinHandle<()> as StaysHere<_>>::check();
    <Buf as StaysHere<_>>::check();
    <SharedBuf as StaysHere<_>>::check();
    <BufPool as StaysHere<_>>::check();
}

#[test]
fn what_is_for_others_travels() {
    travels::<Handle>();
    travels::<Instant>();
    travels::<Metrics>();
    travels::<Peers>();
    travels::<Cores>();
}
