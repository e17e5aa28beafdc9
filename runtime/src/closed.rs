//! What is left in the place of its reactor when a runtime is gone: it refuses everything.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use crate::buf::BufPool;
use crate::handle::Gone;
use crate::net::UdpOptions;
use crate::reactor::{Completion, FileId, Op, OpKey, Reactor, SocketId, Unpark, Wait};
use crate::time::{BootInstant, Instant};

#[derive(Debug)]
pub(crate) struct Closed {
    /// Its clock stands still.
    pub(crate) now: Instant,
}

#[derive(Debug)]
struct NoUnpark;

impl Unpark for NoUnpark {
    fn unpark(&self) {}
}

impl Reactor for Closed {
    fn now(&self) -> Instant {
        self.now
    }

    fn boot_now(&self) -> BootInstant {
        BootInstant::from_nanos(self.now.as_nanos())
    }

    fn random(&mut self) -> u64 {
        0
    }

    fn datagram_overhead(&self) -> usize {
        0
    }

    fn bind_udp(
        &mut self,
        _: SocketAddr,
        _: &UdpOptions,
        _: &BufPool,
    ) -> io::Result<(SocketId, SocketAddr)> {
        Err(io::Error::other(Gone))
    }

    fn connect_udp(&mut self, _: SocketId, _: SocketAddr) -> io::Result<()> {
        Err(io::Error::other(Gone))
    }

    fn close(&mut self, _: SocketId) {}

    fn new_file(&mut self) -> FileId {
        FileId(0) // it means nothing: nothing can be done with it
    }

    fn close_file(&mut self, _: FileId) {}

    fn lock_file(&mut self, _: FileId) -> io::Result<()> {
        Err(io::Error::other(Gone))
    }

    fn make_directory(&mut self, _: &Path) -> io::Result<()> {
        Err(io::Error::other(Gone))
    }

    fn start(&mut self, _: OpKey, op: Op) {
        drop(op); // it never completes: whoever waits for it is told that the runtime is gone
    }

    fn cancel(&mut self, _: OpKey) {}

    fn is_idle(&mut self) -> bool {
        true
    }

    fn turn(&mut self, _: Wait, _: &mut Vec<Completion>) -> io::Result<()> {
        Err(io::Error::other(Gone))
    }

    fn unparker(&self) -> Arc<dyn Unpark> {
        Arc::new(NoUnpark)
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}
