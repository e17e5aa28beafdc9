//! What several tests need.

use std::cell::RefCell;
use std::net::SocketAddr;

use viewring_runtime::buf::{Buf, BufPool, SharedBuf};

use crate::outbox::Wire;

pub(crate) fn peer(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// A socket that keeps what is posted, and its buffers, until the test takes it.
pub(crate) struct Line {
    pub(crate) pool: BufPool,
    /// Of runs; there are none by default.
    pub(crate) runs: BufPool,
    pub(crate) in_flight_max: usize,
    pub(crate) posted: RefCell<Vec<(SocketAddr, SharedBuf)>>,
}

impl Line {
    pub(crate) fn new(buffers: usize, in_flight_max: usize) -> Self {
        Self {
            pool: BufPool::new(2048, buffers),
            runs: BufPool::new(4096, 0),
            in_flight_max,
            posted: RefCell::default(),
        }
    }
}

impl Wire for Line {
    fn take(&self, len: usize) -> Option<Buf> {
        self.pool.take_for(len)
    }

    fn post(&self, payload: SharedBuf, to: SocketAddr) -> bool {
        let mut posted = self.posted.borrow_mut();
        let room = posted.len() < self.in_flight_max;
        if room {
            posted.push((to, payload));
        }
        room
    }

    fn take_run(&self, _: SocketAddr) -> Option<Buf> {
        self.runs.take()
    }

    fn post_run(&self, payload: SharedBuf, segment: usize, to: SocketAddr) -> bool {
        assert!(segment < payload.len(), "one datagram is no run");
        let mut posted = self.posted.borrow_mut();
        let room = posted.len() < self.in_flight_max;
        if room {
            let ends = (0..payload.len())
                .step_by(segment)
                .map(|at| (at + segment).min(payload.len()));
            let datagrams = (0..)
                .step_by(segment)
                .zip(ends)
                .map(|(at, end)| payload.slice(at..end));
            posted.extend(datagrams.map(|datagram| (to, datagram)));
        }
        room
    }
}

/// Numbers from a seed (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Less than `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}
