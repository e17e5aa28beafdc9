//! What may leave its thread, and what may not: checked by the compiler.

use viewring_runtime::buf::{Buf, BufPool, SharedBuf};
use viewring_runtime::cores::{Builder, Cores, CoresError, Peers};
use viewring_runtime::net::{Datagram, Multicast, SentMany, UdpOptions, UdpSocket, UdpStats};
use viewring_runtime::reactor::{Completion, Op, OpKey, Outcome, Reactor, SocketId, Unpark, Wait};
use viewring_runtime::sim::World;
use viewring_runtime::time::{Elapsed, Instant, Interval, MissedTicks, Timeout, Timer};
use viewring_runtime::{
    Capabilities, Config, Gone, Handle, JoinError, JoinHandle, Metrics, Runtime, SetupError, Uring,
    UringConfig,
};

/// Ambiguous, and so an error, if `T` is `Send`.
trait StaysHere<A> {
    fn check() {}
}

/// Ambiguous, and so an error, if `T` is `Sync`.
trait IsSeenHereOnly<A> {
    fn look() {}
}

struct Sends;

impl<T: ?Sized> StaysHere<()> for T {}
impl<T: ?Sized + Send> StaysHere<Sends> for T {}
impl<T: ?Sized> IsSeenHereOnly<()> for T {}
impl<T: ?Sized + Sync> IsSeenHereOnly<Sends> for T {}

fn travels<T: Send + Sync>() {}

macro_rules! stay {
    ($($kind:ty),* $(,)?) => {
        $(
            <$kind as StaysHere<_>>::check();
            <$kind as IsSeenHereOnly<_>>::look();
        )*
    };
}

#[test]
fn what_belongs_to_a_thread_stays_there() {
    stay!(Runtime, Uring, World, dyn Reactor);
    stay!(UdpSocket, Datagram, Op, Outcome, Completion);
    stay!(Timer, Timeout<()>, Interval);
    stay!(JoinHandle<()>);
    stay!(Buf, SharedBuf, BufPool);
}

#[test]
fn what_is_for_others_travels() {
    travels::<(Handle, Gone, Metrics, Config)>();
    travels::<(Capabilities, SetupError, UringConfig)>();
    travels::<(Instant, Elapsed, MissedTicks)>();
    travels::<(UdpOptions, Multicast, UdpStats, SentMany)>();
    travels::<(OpKey, SocketId, Wait, Box<dyn Unpark>)>();
    travels::<(Peers, Cores, Builder, CoresError)>();
}

#[test]
fn a_panic_of_a_task_may_be_told_elsewhere() {
    fn sends<T: Send>() {}
    sends::<JoinError>();
}
