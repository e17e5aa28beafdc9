//! The reactor of one node: the world as its runtime sees it.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use super::NodeId;
use super::core::Core;
use super::node::Released;
use super::trace::{Event, EventKind};
use crate::buf::BufPool;
use crate::net::UdpOptions;
use crate::reactor::{Completion, FileId, Op, OpKey, Reactor, SocketId, Unpark, Wait};
use crate::time::{BootInstant, Instant};

/// It never sleeps: it notes how long the node would, and the world gives the node no turn before.
pub(super) struct SimReactor {
    core: Rc<RefCell<Core>>,
    node: NodeId,
    /// Kept between turns for its capacity.
    released: Released,
}

/// The world looks for itself who was handed something.
#[derive(Debug)]
struct Watched;

impl Unpark for Watched {
    fn unpark(&self) {}
}

impl SimReactor {
    pub(super) fn new(core: Rc<RefCell<Core>>, node: NodeId) -> Self {
        Self {
            core,
            node,
            released: Released::default(),
        }
    }
}

impl Reactor for SimReactor {
    fn now(&self) -> Instant {
        self.core.borrow().local_time(self.node)
    }

    /// No simulated machine is suspended: both clocks are the node's, with its skew and drift.
    fn boot_now(&self) -> BootInstant {
        BootInstant::from_nanos(self.now().as_nanos())
    }

    fn random(&mut self) -> u64 {
        let mut core = self.core.borrow_mut();
        let drawn = core.node(self.node).random.next_u64();
        core.record(Event::of(self.node, EventKind::Random).number(drawn));
        drawn
    }

    fn datagram_overhead(&self) -> usize {
        0
    }

    fn bind_udp(
        &mut self,
        addr: SocketAddr,
        options: &UdpOptions,
        pool: &BufPool,
    ) -> io::Result<(SocketId, SocketAddr)> {
        let mut core = self.core.borrow_mut();
        core.bind(self.node, addr, options, pool)
    }

    fn connect_udp(&mut self, socket: SocketId, peer: SocketAddr) -> io::Result<()> {
        let mut core = self.core.borrow_mut();
        core.node(self.node).sockets.connect(socket, peer)
    }

    fn close(&mut self, socket: SocketId) {
        self.core.borrow_mut().node(self.node).close(socket);
    }

    fn new_file(&mut self) -> FileId {
        self.core.borrow_mut().node(self.node).files.add()
    }

    fn close_file(&mut self, file: FileId) {
        self.core.borrow_mut().node(self.node).files.close(file);
    }

    /// A node's disk is its own: who else might open the file died with the life before.
    fn lock_file(&mut self, _: FileId) -> io::Result<()> {
        Ok(())
    }

    /// A disk has every directory.
    fn make_directory(&mut self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn start(&mut self, key: OpKey, op: Op) {
        let mut core = self.core.borrow_mut();
        let node = core.node(self.node);
        node.ops.start(key, op);
        node.work = true;
        let used = node.ops.held(key).and_then(|held| held.socket());
        if let Some(socket) = used {
            node.sockets.get(socket).operations += 1;
        }
        if let Some(file) = node.ops.held(key).and_then(|held| held.file()) {
            node.files.begin(file);
        }
    }

    fn cancel(&mut self, key: OpKey) {
        let mut core = self.core.borrow_mut();
        let node = core.node(self.node);
        node.ops.cancelled.push_back(key);
        node.work = true;
    }

    fn is_idle(&mut self) -> bool {
        !self.core.borrow_mut().node(self.node).work
    }

    fn turn(&mut self, wait: Wait, completions: &mut Vec<Completion>) -> io::Result<()> {
        let mut core = self.core.borrow_mut();
        core.turn(self.node, wait, completions, &mut self.released);
        drop(core);
        self.released.clear(); // buffers go back to their pools, which may wake tasks
        Ok(())
    }

    fn unparker(&self) -> Arc<dyn Unpark> {
        Arc::new(Watched)
    }

    fn in_flight(&self) -> usize {
        let core = self.core.borrow();
        core.nodes[self.node.index()].ops.in_flight
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let core = self.core.borrow();
        let node = &core.nodes[self.node.index()];
        let counters = node.counters;
        vec![
            ("files_open", node.files.open() as u64),
            ("turns", counters.turns),
            ("submitted", counters.submitted),
            ("completed", counters.completed),
            ("cancels", counters.cancels),
            ("submissions_delayed", counters.delayed),
        ]
    }
}

impl fmt::Debug for SimReactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimReactor")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}
