//! The world: its nodes, and the one loop that drives them.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use super::core::Core;
use super::network::NetworkStats;
use super::node::{Node, Parked, Phase};
use super::random::Random;
use super::reactor::SimReactor;
use super::trace::{Cause, Event, EventKind, Keep};
use super::{NodeConfig, NodeId, OnPanic};
use crate::executor::JoinHandle;
use crate::time::{Elapsed, Instant};
use crate::{Metrics, Runtime};

/// A simulated world; see the [module](super).
///
/// Dropping it while its thread panics tells the seed on standard error.
pub struct World {
    pub(super) core: Rc<RefCell<Core>>,
    machines: Vec<Machine>,
    seed: u64,
    random: Random,
    scheduling: Random,
    on_panic: OnPanic,
    /// Kept between steps for its capacity.
    runnable: Vec<NodeId>,
    reported: bool,
}

struct Machine {
    config: NodeConfig,
    process: Option<Process>,
}

/// What runs on a node.
struct Process {
    runtime: Runtime,
    main: JoinHandle<()>,
    /// Panics of its tasks that were dealt with.
    panics: u64,
}

/// Labels of the world's streams of random numbers.
mod stream {
    pub(super) const SCHEDULING: u64 = 1;
    pub(super) const NETWORK: u64 = 2;
    pub(super) const NODES: u64 = 3;
    pub(super) const USERS: u64 = 4;
}

/// How many events a report shows.
const REPORTED_EVENTS: usize = 30;

impl World {
    /// An empty world in which `seed` decides everything.
    pub fn new(seed: u64) -> Self {
        let random = Random::new(seed);
        let core = Core::new(random.fork(stream::NETWORK));
        Self {
            core: Rc::new(RefCell::new(core)),
            machines: Vec::new(),
            seed,
            scheduling: random.fork(stream::SCHEDULING),
            random,
            on_panic: OnPanic::default(),
            runnable: Vec::new(),
            reported: false,
        }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A stream of random numbers for the one who drives the world: for workloads, for what fails
    /// when. It does not depend on anything else that is drawn.
    pub fn random(&self, label: u64) -> Random {
        self.random.fork(stream::USERS).fork(label)
    }

    /// Virtual time, from zero on. Nodes have clocks of their own: see
    /// [`local_time`](Self::local_time).
    pub fn now(&self) -> Instant {
        self.core.borrow().timeline.now()
    }

    /// What the clock of `node` shows.
    pub fn local_time(&self, node: NodeId) -> Instant {
        self.core.borrow().local_time(node)
    }

    /// Adds a node with defaults, at the next address: 10.0.0.1, 10.0.0.2 … It does not run yet.
    pub fn add_node(&mut self) -> NodeId {
        self.add_node_with(NodeConfig::default())
    }

    /// Adds a node. It does not run yet.
    ///
    /// # Panics
    /// When its address is another node's, or not one that a machine can have.
    pub fn add_node_with(&mut self, config: NodeConfig) -> NodeId {
        let id = NodeId::new(self.machines.len());
        let address = config.address.unwrap_or_else(|| default_address(id));
        let mut core = self.core.borrow_mut();
        core.network.add_host(id, address);
        let random = self.random.fork(stream::NODES).fork(id.index() as u64);
        core.nodes.push(Node::new(id, address, &config, &random));
        self.machines.push(Machine {
            config,
            process: None,
        });
        id
    }

    /// The nodes, in the order of their making.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.machines.len()).map(NodeId::new)
    }

    /// The address of `node`.
    pub fn address(&self, node: NodeId) -> Ipv4Addr {
        self.core.borrow().network.address(node)
    }

    /// The address of `port` on `node`.
    pub fn socket_addr(&self, node: NodeId, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(node).into(), port)
    }

    /// Runs a process on `node`: the future that `make` returns, on a runtime of its own. `make` is
    /// called there, so it may bind sockets. When the future ends the process ends: its other tasks
    /// are dropped.
    ///
    /// # Panics
    /// When a process runs there already.
    pub fn start<M, F>(&mut self, node: NodeId, make: M)
    where
        M: FnOnce() -> F + 'static,
        F: Future<Output = ()> + 'static,
    {
        let machine = &mut self.machines[node.index()];
        assert!(machine.process.is_none(), "{node} runs already");
        {
            let mut core = self.core.borrow_mut();
            let now = core.timeline.now();
            core.node(node).begin(now);
            core.record(Event::of(node, EventKind::Start));
        }
        let reactor = SimReactor::new(Rc::clone(&self.core), node);
        let runtime = Runtime::new(reactor, machine.config.runtime.clone());
        let main = runtime.spawn(async move { make().await });
        machine.process = Some(Process {
            runtime,
            main,
            panics: 0,
        });
    }

    /// Runs one more task in the process on `node`; it begins with the node's next turn.
    ///
    /// # Panics
    /// When none runs there.
    pub fn spawn<M, F>(&mut self, node: NodeId, make: M)
    where
        M: FnOnce() -> F + 'static,
        F: Future<Output = ()> + 'static,
    {
        let process = self.machines[node.index()].process.as_ref();
        let process = process.unwrap_or_else(|| panic!("no process runs on {node}"));
        process.runtime.spawn(async move { make().await }).detach();
    }

    /// Crashes `node`, or starts it anew if it is down: [`crash`](Self::crash), then
    /// [`start`](Self::start).
    pub fn restart<M, F>(&mut self, node: NodeId, make: M)
    where
        M: FnOnce() -> F + 'static,
        F: Future<Output = ()> + 'static,
    {
        self.crash(node);
        self.start(node, make);
    }

    /// Cuts the power of `node`. Its runtime is dropped, and with it every future; nothing that
    /// they do in that moment reaches the world. Packets under way stay under way. Of its disk
    /// stays what was synced, and a part of the rest that the seed decides. Until it is started
    /// again it answers nothing.
    pub fn crash(&mut self, node: NodeId) {
        self.end(node, Phase::Crashing, Phase::Down);
        let mut core = self.core.borrow_mut();
        let lost = core.node(node).disk.crash();
        core.record(Event::of(node, EventKind::DiskLoss).number(lost));
    }

    /// Kills the process on `node`, as `SIGKILL` does. Unlike a [`crash`](Self::crash) that leaves
    /// its disk alone, and its kernel refuses what comes for it. If none runs there, nothing
    /// happens.
    pub fn kill(&mut self, node: NodeId) {
        if !self.is_up(node) {
            return;
        }
        self.end(node, Phase::Crashing, Phase::Finished);
        self.core.borrow_mut().node(node).disk.abandon();
    }

    fn end(&mut self, node: NodeId, leaving: Phase, left: Phase) {
        let process = self.machines[node.index()].process.take();
        {
            let mut core = self.core.borrow_mut();
            core.node(node).phase = leaving;
            let kind = match leaving {
                Phase::Stopping => EventKind::Finish,
                Phase::Crashing | Phase::Down | Phase::Finished | Phase::Up => EventKind::Crash,
            };
            core.record(Event::of(node, kind));
        }
        drop(process); // the core is not borrowed: every drop path runs
        let left = {
            let mut core = self.core.borrow_mut();
            let now = core.timeline.now();
            core.node(node).finish(now, left)
        };
        drop(left);
    }

    /// Whether a process runs on `node`.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.machines[node.index()].process.is_some()
    }

    /// Stops `node` for a while, as `SIGSTOP` does: its clock goes on, what arrives waits in its
    /// sockets. Afterwards its loop finds both: it takes the datagrams first, and then fires the
    /// timers. So a task that waits for either with a timeout gets the datagram.
    pub fn pause(&mut self, node: NodeId, duration: Duration) {
        let mut core = self.core.borrow_mut();
        let until = core.timeline.now() + duration;
        let paused = core.node(node);
        paused.busy_until = paused.busy_until.max(until);
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        core.record(Event::of(node, EventKind::Pause).number(ns));
    }

    /// Makes everything that `node` computes take `factor` times as long.
    ///
    /// # Panics
    /// When `factor` is zero.
    pub fn slow_down(&mut self, node: NodeId, factor: u32) {
        assert!(factor > 0, "no computer takes no time");
        let mut core = self.core.borrow_mut();
        core.node(node).slowdown = factor;
        core.record(Event::of(node, EventKind::Pause).number(factor.into()));
    }

    /// Asks the process on `node` to stop, as `SIGTERM` does. If it does not listen, or was asked
    /// before, that [kills](Self::kill) it.
    pub fn signal_shutdown(&mut self, node: NodeId) {
        if self.is_up(node) && !self.core.borrow_mut().signal(node) {
            self.kill(node);
        }
    }

    /// What happens when a task panics.
    pub fn on_panic(&mut self, on_panic: OnPanic) {
        self.on_panic = on_panic;
    }

    /// Counters of the runtime on `node`; `None` if no process runs there.
    pub fn metrics(&self, node: NodeId) -> Option<Metrics> {
        let process = self.machines[node.index()].process.as_ref();
        process.map(|process| process.runtime.metrics())
    }

    /// What the network did.
    pub fn network_stats(&self) -> NetworkStats {
        self.core.borrow().network.stats
    }

    /// A hash of everything that has happened, in its order. The same seed and the same program
    /// give the same one, in every process.
    pub fn event_hash(&self) -> u64 {
        self.core.borrow().timeline.trace.hash()
    }

    /// How many events there were.
    pub fn event_count(&self) -> u64 {
        self.core.borrow().timeline.trace.count()
    }

    /// Chooses which events are kept for [`trace`](Self::trace).
    pub fn keep_trace(&mut self, keep: Keep) {
        self.core.borrow_mut().timeline.trace.set_keep(keep);
    }

    /// The events that were kept, the oldest first. As a line: [`Event`]'s `Display`.
    pub fn trace(&self) -> Vec<Event> {
        self.core.borrow().timeline.trace.kept().copied().collect()
    }

    /// Gives one runnable node, chosen by the seed, one turn. If none is runnable, time first jumps
    /// to when one is. False if nothing will ever happen again.
    ///
    /// # Panics
    /// When a task of the node panics, unless [`OnPanic`] says otherwise.
    pub fn step(&mut self) -> bool {
        self.step_until(Instant::from_nanos(u64::MAX))
    }

    /// Runs for so much virtual time.
    ///
    /// # Panics
    /// As for [`step`](Self::step).
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now() + duration;
        while self.step_until(end) {}
        self.core.borrow_mut().timeline.jump(end);
    }

    /// Runs until `is_done` says so, which is asked after each turn.
    ///
    /// # Errors
    /// [`Elapsed`] when that has not come within `bound` of virtual time.
    ///
    /// # Panics
    /// As for [`step`](Self::step).
    pub fn run_until(
        &mut self,
        mut is_done: impl FnMut(&Self) -> bool,
        bound: Duration,
    ) -> Result<(), Elapsed> {
        let end = self.now() + bound;
        loop {
            if is_done(self) {
                return Ok(());
            }
            if !self.step_until(end) {
                self.core.borrow_mut().timeline.jump(end);
                return Err(Elapsed);
            }
        }
    }

    /// One turn of one node, no later than `limit`; false if there is none.
    fn step_until(&mut self, limit: Instant) -> bool {
        loop {
            let next = self.find_runnable();
            if !self.runnable.is_empty() {
                let choice = match self.runnable.len() {
                    1 => 0,
                    several => self.scheduling.index(several),
                };
                self.turn(self.runnable[choice]);
                return true;
            }
            match next {
                Some(next) if next <= limit => self.core.borrow_mut().timeline.jump(next),
                _ => return false,
            }
        }
    }

    /// Lets happen what is due, and finds the nodes that can have a turn now. If there are none:
    /// when to look again.
    fn find_runnable(&mut self) -> Option<Instant> {
        let mut core = self.core.borrow_mut();
        core.happen();
        self.runnable.clear();
        let now = core.timeline.now();
        let mut next = core.timeline.next();
        for (index, machine) in self.machines.iter().enumerate() {
            let Some(process) = &machine.process else {
                continue;
            };
            let node = &core.nodes[index];
            match node.runnable_at(process.runtime.is_ready()) {
                Some(at) if at <= now => self.runnable.push(node.life.node),
                Some(at) => next = Some(next.map_or(at, |next| next.min(at))),
                None => {}
            }
        }
        next
    }

    fn turn(&mut self, id: NodeId) {
        let Some(process) = &mut self.machines[id.index()].process else {
            return;
        };
        let is_ready = process.runtime.is_ready();
        let cause = {
            let mut core = self.core.borrow_mut();
            let node = core.node(id);
            node.parked = Parked::No;
            match (is_ready, node.work) {
                (true, _) => Cause::Ready,
                (false, true) => Cause::Completion,
                (false, false) => Cause::Timer,
            }
        };
        let polls_before = process.runtime.polls();
        process.runtime.turn();
        let polls = process.runtime.polls() - polls_before;
        let panics = process.runtime.panics();
        let panicked = panics > std::mem::replace(&mut process.panics, panics);
        let finished = process.main.is_finished();
        {
            let mut core = self.core.borrow_mut();
            let now = core.timeline.now();
            let node = core.node(id);
            let polls_cost = node.poll_cost * u32::try_from(polls).unwrap_or(u32::MAX);
            let cost = (node.turn_cost + polls_cost) * node.slowdown;
            node.busy_until = node.busy_until.max(now + cost);
            core.record(Event::of(id, EventKind::Turn(cause)).number(polls));
        }
        if panicked {
            self.panicked(id);
        } else if finished {
            self.end(id, Phase::Stopping, Phase::Finished);
            self.core.borrow_mut().node(id).disk.abandon();
        }
    }

    #[cold]
    fn panicked(&mut self, id: NodeId) {
        self.core
            .borrow_mut()
            .record(Event::of(id, EventKind::Panic));
        if self.on_panic == OnPanic::Kill {
            return self.kill(id);
        }
        let process = self.machines[id.index()].process.as_ref();
        let message = process.and_then(|process| process.runtime.last_panic());
        self.reported = true;
        panic!(
            "{id} panicked at {:?} in the world of seed {}: {}\nthe last events:\n{}",
            self.now(),
            self.seed,
            message.unwrap_or_default(),
            self.last_events()
        );
    }

    fn last_events(&self) -> String {
        let core = self.core.borrow();
        let kept = core.timeline.trace.kept();
        let skipped = kept.len().saturating_sub(REPORTED_EVENTS);
        kept.skip(skipped).fold(String::new(), |mut lines, event| {
            lines.push_str(&event.to_string());
            lines.push('\n');
            lines
        })
    }
}

fn default_address(id: NodeId) -> Ipv4Addr {
    let (high, low) = (id.index() / 250, id.index() % 250);
    let high = u8::try_from(high).expect("fewer than 64,000 nodes");
    Ipv4Addr::new(10, 0, high, low as u8 + 1)
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.reported {
            let (seed, now) = (self.seed, self.now());
            eprintln!("this world's seed is {seed}; it stood at {now:?}");
        }
        for node in self.nodes() {
            if self.is_up(node) {
                self.kill(node);
            }
        }
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("seed", &self.seed)
            .field("now", &self.now())
            .field("nodes", &self.machines.len())
            .finish_non_exhaustive()
    }
}
