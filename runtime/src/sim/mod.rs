//! A deterministic simulated world, for programs on this runtime.
//!
//! A [`World`] is many nodes, a network between them and a clock for all, in one thread, and a
//! *seed* that decides everything that is left to chance. Each node runs your program on a
//! [`Runtime`](crate::Runtime) of its own, the same compiled code as on io_uring: executor, timers,
//! operation table and sockets stand above the [`Reactor`](crate::reactor::Reactor), and only that
//! is another one here. So a test can lose packets, cut links and crash nodes by the thousand,
//! faster than real time, and whatever goes wrong goes wrong again with the same seed.
//!
//! # A world in one minute
//!
//! ```
//! use std::time::Duration;
//! use viewring_runtime::net::UdpSocket;
//! use viewring_runtime::sim::World;
//!
//! let mut world = World::new(42);
//! let (server, client) = (world.add_node(), world.add_node());
//! let at = world.socket_addr(server, 7000);
//!
//! world.start(server, move || async move {
//!     let socket = UdpSocket::bind(at).expect("the port is free");
//!     loop {
//!         let datagram = socket.recv_datagram().await.expect("no error");
//!         let (payload, from) = (datagram.payload().to_vec(), datagram.from());
//!         socket.send_to(&payload, from).await.expect("sent");
//!     }
//! });
//! world.start(client, move || async move {
//!     let socket = UdpSocket::bind("0.0.0.0:0".parse().unwrap()).expect("there are ports");
//!     socket.send_to(b"hello", at).await.expect("sent");
//!     assert_eq!(socket.recv_datagram().await.expect("echoed").payload(), b"hello");
//! });
//!
//! // A node whose main future has ended is no longer up.
//! let answered = world.run_until(|world| !world.is_up(client), Duration::from_secs(1));
//! assert_eq!(answered, Ok(()));
//! assert!(world.now().as_nanos() < 1_000_000, "virtual time: two trips through the network");
//! ```
//!
//! # Time
//!
//! Virtual time stands still while a node has its turn, and passes between turns: a turn costs
//! [`NodeConfig::turn_cost`], and [`NodeConfig::poll_cost`] for each task polled; the node is busy
//! for so long. When no node can run, time jumps to the next packet, completion or timer. A program
//! that spins until the clock moves, without awaiting, spins for ever.
//!
//! Each node has a clock of its own ([`World::set_drift`], [`World::advance_clock`]); the world's
//! is [`World::now`].
//!
//! # Faults
//!
//! Nothing fails by default. What can be switched on, and off, while the world runs:
//!
//! - [`World::update_link`]: loss, duplicates, delay, disorder, bit flips, truncation, capacity,
//!   for each direction of each link. The knobs are those of [`Link`].
//! - [`World::cut`], [`World::partition`], [`World::bridge`], [`World::isolate`],
//!   [`World::set_deaf`], [`World::set_mute`], and [`World::heal_all`].
//! - [`World::rule`]: anything, for packets that you choose; see [`Verdict`]. The guard removes the
//!   rule when it is dropped. [`World::release`] lets held packets go on.
//! - [`World::crash`], [`World::kill`], [`World::pause`], [`World::slow_down`],
//!   [`World::signal_shutdown`], [`World::set_drift`], [`World::advance_clock`].
//! - [`World::update_ring`]: receives that end, buffers that run out, late cancellation, full
//!   queues, failing sends. The knobs are those of [`RingFaults`].
//! - [`World::with_disk`]: slow, short, torn and lost writes, failed and lying syncs, rot; see
//!   [`Disk`]. A program reaches it through [`fs`](crate::fs). [`World::replace_disk`].
//!
//! [`Link::draw`], [`RingFaults::draw`] and [`DiskFaults::draw`] choose them at random.
//!
//! # Crash and restart
//!
//! [`World::crash`] drops the node's runtime: every future is dropped and every drop path runs, but
//! nothing that it does then leaves the node. [`World::start`] gives the node a new runtime. What
//! was sent before may arrive afterwards, at either end. The disk keeps what was synced, and a part
//! of the rest. State that
//! must not survive must not be shared with the outside, for instance by an `Rc`; what a checker
//! wants to know may be.
//!
//! # Determinism
//!
//! [`World::event_hash`] is a hash of every event; [`twice`] runs a scenario two times and
//! compares.
//! To stay deterministic a program must not ask the wall clock, must not iterate a randomly seeded
//! map, and must take its random numbers from [`random`](crate::random()). Each kind of fault, each
//! link and each node has a [`Random`] stream of its own, so that one fault more does not reshuffle
//! the rest.
//!
//! A world belongs to its thread and has no globals: run as many as you have cores.

mod clock;
mod core;
mod disk;
mod faults;
mod files;
mod link;
mod network;
mod node;
mod operations;
mod random;
mod reactor;
mod ring;
mod rule;
mod socket;
mod timeline;
mod trace;
mod world;

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

pub use disk::{Disk, DiskDone, DiskFaults, DiskOp, OpenFile, Ticket};
pub use link::{Delay, Link};
pub use network::NetworkStats;
pub use random::Random;
pub use ring::RingFaults;
pub use rule::{Packet, RuleGuard, Verdict};
pub use trace::{Cause, DropReason, EndReason, Event, EventKind, Keep};
pub use world::World;

use crate::Config;

/// A node of one [`World`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

impl NodeId {
    pub(super) fn new(index: usize) -> Self {
        Self(u32::try_from(index).expect("fewer than 2^32 nodes"))
    }

    /// Its place in the order of their making, from zero.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// What may be chosen about a node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Its address; `None` for the next one of 10.0.0.0/16.
    pub address: Option<Ipv4Addr>,
    /// How its runtimes are made.
    pub runtime: Config,
    /// How long a turn of its loop takes.
    pub turn_cost: Duration,
    /// How much longer for each task that is polled in it.
    pub poll_cost: Duration,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            address: None,
            runtime: Config::default(),
            turn_cost: Duration::from_micros(1),
            poll_cost: Duration::from_nanos(500),
        }
    }
}

/// What a panic in a node's task means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnPanic {
    /// A bug: the world panics too, with the seed and the last events. Also when somebody would
    /// have awaited the task's handle and heard of it.
    #[default]
    Report,
    /// The end of the process, which is [killed](World::kill): for programs that stop by panic.
    Kill,
}

/// Runs `future` on the only node of a world of its own, and gives its output: for a test or an
/// example that wants virtual time and no network.
///
/// ```
/// use std::time::Duration;
/// use viewring_runtime::{sim, time};
///
/// let begun = sim::block_on(1, async {
///     let begun = time::Instant::now();
///     time::sleep(Duration::from_secs(3_600)).await; // which costs no time at all
///     assert!(begun.elapsed() >= Duration::from_secs(3_600));
///     begun
/// });
/// assert_eq!(begun, time::Instant::from_nanos(0), "a world begins at zero");
/// ```
///
/// # Panics
/// When the future panics, or when it waits for something that will never be.
pub fn block_on<F: Future + 'static>(seed: u64, future: F) -> F::Output {
    let output = Rc::new(RefCell::new(None));
    let put = Rc::clone(&output);
    let mut world = World::new(seed);
    let node = world.add_node();
    world.start(node, move || async move {
        let output = future.await;
        *put.borrow_mut() = Some(output);
    });
    while world.is_up(node) && world.step() {}
    drop(world);
    let output = output.borrow_mut().take();
    output.expect("the future waits for something that will never be")
}

/// Runs a scenario twice in worlds of the same seed. Returns the hash of their events.
///
/// ```
/// let hash = viewring_runtime::sim::twice(7, |world| {
///     let node = world.add_node();
///     world.start(node, || async {
///         viewring_runtime::random();
///     });
///     world.run_for(std::time::Duration::from_secs(1));
/// });
/// assert_ne!(hash, 0);
/// ```
///
/// # Panics
/// When the two runs differ: something in the scenario does not depend on the seed alone.
pub fn twice(seed: u64, scenario: impl Fn(&mut World)) -> u64 {
    let run = || {
        let mut world = World::new(seed);
        scenario(&mut world);
        (world.event_hash(), world.event_count())
    };
    let (first, second) = (run(), run());
    assert_eq!(
        first, second,
        "two runs of seed {seed} differ: (hash, events)"
    );
    first.0
}
