//! The parts of a runtime, and the loop that turns them.
//!
//! A turn: take what other threads handed over; poll ready tasks, within a budget; one trip to the
//! reactor, which submits and reaps in one system call, or in none when there is nothing to do;
//! fire what is due. It sleeps in the reactor when nothing is ready.
//!
//! **Borrow rule.** No part of [`Inner`] is borrowed while a waker is woken or dropped, a future is
//! polled or dropped, or a sink is told: any of these may run code that comes back here. Buffers
//! may be dropped at any time: their pools wake nobody, but leave that to the loop (see `buf.rs`).
//!
//! **Panics.** A waker may panic. What is still to be delivered or woken then stays where it is,
//! for the next turn.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::buf::{self, BufPool};
use crate::closed::Closed;
use crate::executor::{Executor, JoinHandle};
use crate::handle::{Gone, Item, RemoteTasks};
use crate::metrics::Metrics;
use crate::ops::{Bequest, Delivery, Ops, Sink, State};
use crate::reactor::{Completion, Op, OpKey, Outcome, Reactor, Unpark, Wait};
use crate::remote::Remote;
use crate::runtime::Config;
use crate::spin::Spin;
use crate::time::{BootInstant, Instant};
use crate::timers::Timers;
use crate::waiters::Waiters;

pub(crate) struct Inner {
    id: u64,
    config: Config,
    executor: Rc<Executor>,
    remote: Arc<RemoteTasks>,
    timers: RefCell<Timers>,
    ops: RefCell<Ops>,
    reactor: RefCell<Box<dyn Reactor>>,
    send_bufs: BufPool,
    /// For runs of datagrams: few, and long.
    run_bufs: BufPool,
    /// The clock as of the last time that the loop read it.
    loop_time: Cell<Instant>,
    turns: Cell<u64>,
    /// Turns since the clock was read; a busy loop reads it seldom.
    turns_unclocked: Cell<u32>,
    spin: Spin,
    /// What arrived and was not delivered: empty between turns unless a panic came between.
    arrived: RefCell<VecDeque<Completion>>,
    /// Who is to be woken and was not: likewise.
    due: RefCell<VecDeque<Waker>>,
    /// Kept between turns for its capacity.
    completions: RefCell<Vec<Completion>>,
    /// The runtime was dropped; some socket or timer keeps this alive.
    closed: Cell<bool>,
}

/// A busy loop reads the clock, and so fires timers, at least once in so many turns.
const TURNS_PER_CLOCK_READ: u32 = 32;
/// A run of datagrams takes so many bytes at most, well below what one message may have.
const RUN_LEN: usize = 16 * 1024;
/// So many runs may be in flight. Whoever has more sends them as single datagrams.
const RUNS_IN_FLIGHT: usize = 256;
/// The sends that wait on one socket hold such a part of all send buffers.
const LINE_PART: usize = 4;
/// How long a dropped runtime waits for operations in flight.
const SHUTDOWN_BOUND: Duration = Duration::from_secs(1);
/// How often it looks for tasks that other threads are about to hand over, a tenth of a
/// millisecond apart.
const SHUTDOWN_LOOKS: u32 = 10_000;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Inner {
    /// A socket whose runs wait for room keeps no more of their buffers from others.
    pub(crate) const RUNS_OF_A_SOCKET: usize = RUNS_IN_FLIGHT / LINE_PART;

    pub(crate) fn new(reactor: impl Reactor + 'static, mut config: Config) -> Rc<Self> {
        config.poll_budget = config.poll_budget.max(1);
        config.send_buffers = config.send_buffers.max(1);
        let spin = if reactor.shows_work() {
            config.spin
        } else {
            Duration::ZERO
        };
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let remote = RemoteTasks {
            runtime: id,
            remote: Remote::new(),
            unparker: reactor.unparker(),
        };
        Rc::new(Self {
            id,
            executor: Rc::default(),
            remote: Arc::new(remote),
            timers: RefCell::new(Timers::new()),
            ops: RefCell::new(Ops::new()),
            loop_time: Cell::new(reactor.now()),
            reactor: RefCell::new(Box::new(reactor)),
            send_bufs: BufPool::new(config.send_buffer_len, config.send_buffers),
            run_bufs: BufPool::new(RUN_LEN, RUNS_IN_FLIGHT),
            turns: Cell::new(0),
            turns_unclocked: Cell::new(0),
            spin: Spin::new(spin),
            arrived: RefCell::default(),
            due: RefCell::default(),
            completions: RefCell::default(),
            closed: Cell::new(false),
            config,
        })
    }

    pub(crate) fn spawn<F: Future + 'static>(&self, future: F) -> JoinHandle<F::Output> {
        self.executor.spawn(future, &self.remote)
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn executor(&self) -> &Executor {
        &self.executor
    }

    pub(crate) fn remote(&self) -> &Arc<RemoteTasks> {
        &self.remote
    }

    pub(crate) fn now(self: &Rc<Self>) -> Instant {
        self.reactor.borrow().now()
    }

    pub(crate) fn boot_now(self: &Rc<Self>) -> BootInstant {
        self.reactor.borrow().boot_now()
    }

    pub(crate) fn loop_time(&self) -> Instant {
        self.loop_time.get()
    }

    pub(crate) fn timers(&self) -> RefMut<'_, Timers> {
        self.timers.borrow_mut()
    }

    pub(crate) fn reactor(&self) -> RefMut<'_, Box<dyn Reactor>> {
        self.reactor.borrow_mut()
    }

    pub(crate) fn send_bufs(&self) -> &BufPool {
        &self.send_bufs
    }

    pub(crate) fn run_bufs(&self) -> &BufPool {
        &self.run_bufs
    }

    /// When so many sends of a socket wait for room, one that is posted does not: those that wait
    /// hold buffers that others need, and are late.
    pub(crate) fn line_max(&self) -> usize {
        self.config.send_buffers.div_ceil(LINE_PART)
    }

    /// Whether the runtime was dropped.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// False if the reactor is busy, or cannot.
    pub(crate) fn unpark_peer(&self, peer: &Arc<dyn Unpark>) -> bool {
        let reactor = self.reactor.try_borrow_mut();
        reactor.is_ok_and(|mut reactor| reactor.unpark_peer(peer))
    }

    /// Has those who wait there for no more than `there` woken in this turn, once the sink that
    /// says so is done. At once if there are no more turns; call it when nothing is borrowed.
    pub(crate) fn wake_soon(&self, waiters: &Waiters, there: usize) {
        waiters.take(there, &mut *self.due.borrow_mut());
        if self.is_closed() {
            self.wake_due();
        }
    }

    /// Starts an operation that a future will poll.
    pub(crate) fn start(&self, op: Op) -> OpKey {
        let key = self.ops.borrow_mut().insert();
        self.reactor.borrow_mut().start(key, op);
        key
    }

    pub(crate) fn poll_operation(&self, key: OpKey, cx: &Context<'_>) -> Poll<io::Result<Outcome>> {
        let mut replaced = None;
        let polled = self.ops.borrow_mut().poll(key, cx, &mut replaced);
        drop(replaced); // the table is no longer borrowed
        polled
    }

    /// Starts an operation of which `sink` hears, once.
    pub(crate) fn post(&self, op: Op, sink: Rc<dyn Sink>) {
        let key = self.ops.borrow_mut().insert_posted(sink);
        self.reactor.borrow_mut().start(key, op);
    }

    /// Starts an operation of many completions, all for `sink`.
    pub(crate) fn start_stream(&self, op: Op, sink: Rc<dyn Sink>) -> OpKey {
        let key = self.ops.borrow_mut().insert_stream(sink);
        self.reactor.borrow_mut().start(key, op);
        key
    }

    /// Nobody is interested in `key` any more.
    pub(crate) fn orphan(&self, key: OpKey) {
        let interested = self.cancel(key);
        drop(interested); // nothing is borrowed
    }

    /// Has an operation end whose future is gone and of which `heir` will hear.
    pub(crate) fn bequeath(&self, key: OpKey, heir: Rc<dyn Sink>) {
        if self.is_closed() {
            self.orphan(key);
            return heir.complete(Err(io::Error::other(Gone)), false);
        }
        let bequest = self.ops.borrow_mut().bequeath(key, Rc::clone(&heir));
        match bequest {
            Bequest::InFlight(before) => {
                self.reactor.borrow_mut().cancel(key);
                drop(before); // nothing is borrowed
            }
            Bequest::Completed(result) => heir.complete(result, false),
            Bequest::Lost => heir.complete(Err(io::Error::other(Gone)), false),
        }
    }

    /// Has an operation end of which nobody will hear. Gives who was interested.
    fn cancel(&self, key: OpKey) -> Option<State> {
        let orphan = self.ops.borrow_mut().orphan(key);
        if orphan.in_flight {
            self.reactor.borrow_mut().cancel(key);
        }
        orphan.held
    }

    /// One round of the loop. `more` says whether the caller has something to do afterwards, so
    /// that it must not sleep.
    pub(crate) fn turn(&self, more: impl Fn() -> bool) -> io::Result<()> {
        self.turns.set(self.turns.get() + 1);
        if self.remote.remote.is_notified() {
            self.collect_remote();
        }
        self.executor.run(self.config.poll_budget);
        self.wake_for_buffers();
        if more() || self.is_ready() {
            return self.poll_reactor();
        }
        if self.spin.is_worth_it() && self.is_found() {
            return self.poll_reactor();
        }
        // Who waits for a send buffer waits for sends, whose end ends no sleep.
        if self.send_bufs.is_awaited() && !self.reactor.borrow_mut().is_idle() {
            return self.poll_reactor();
        }
        let wait = match self.timers.borrow().earliest() {
            Some(earliest) => Wait::Until(earliest + self.config.timer_slack),
            None => Wait::Forever,
        };
        if !self.remote.remote.prepare_sleep() {
            return self.poll_reactor();
        }
        let before = self.loop_time.get();
        let turned = self.turn_reactor(wait);
        let is_for_work = more() || self.is_ready();
        self.spin.slept(self.loop_time.get() - before, is_for_work);
        turned
    }

    /// Looks for work instead of sleeping. What was started is handed over first, so that it gets
    /// done meanwhile.
    fn is_found(&self) -> bool {
        if !self.reactor.borrow_mut().is_idle() {
            return true;
        }
        let earliest = self.timers.borrow().earliest();
        let now = || self.reactor.borrow().now();
        let found = self.spin.look(now, |now| {
            self.remote.remote.is_notified()
                || earliest.is_some_and(|earliest| earliest <= now)
                || !self.reactor.borrow_mut().is_idle()
        });
        if found {
            self.turns_unclocked.set(TURNS_PER_CLOCK_READ); // it may be a timer
        } else {
            self.loop_time.set(self.reactor.borrow().now());
        }
        found
    }

    /// Submits what was started and wakes peers, without delivering anything: the caller leaves
    /// the loop, and nobody knows when it will turn again.
    pub(crate) fn flush(&self) {
        let mut reactor = self.reactor.borrow_mut();
        if reactor.is_idle() {
            return;
        }
        let mut completions = Vec::new();
        let _shows_again = reactor.turn(Wait::Poll, &mut completions);
        self.arrived.borrow_mut().extend(completions);
    }

    /// Whether there is something to do before the next sleep.
    pub(crate) fn is_ready(&self) -> bool {
        self.executor.ready() > 0
            || self.remote.remote.is_notified()
            || self.is_interrupted()
            || buf::is_due()
    }

    /// Whether the last turn was cut short.
    fn is_interrupted(&self) -> bool {
        !self.arrived.borrow().is_empty() || !self.due.borrow().is_empty()
    }

    /// One trip to the reactor that does not sleep, and none if there is nothing to do there.
    fn poll_reactor(&self) -> io::Result<()> {
        if !self.reactor.borrow_mut().is_idle() || self.is_interrupted() {
            return self.turn_reactor(Wait::Poll);
        }
        let unclocked = self.turns_unclocked.get() + 1;
        self.turns_unclocked.set(unclocked);
        if unclocked >= TURNS_PER_CLOCK_READ {
            self.fire_timers();
            self.wake_due();
        }
        Ok(())
    }

    fn turn_reactor(&self, wait: Wait) -> io::Result<()> {
        let mut completions = self.completions.take();
        let turned = self.reactor.borrow_mut().turn(wait, &mut completions);
        if wait != Wait::Poll {
            self.remote.remote.awake();
        }
        self.arrived.borrow_mut().extend(completions.drain(..));
        self.completions.replace(completions);
        self.deliver();
        self.fire_timers();
        self.wake_for_buffers();
        turned
    }

    fn deliver(&self) {
        while let Some(completion) = { self.arrived.borrow_mut().pop_front() } {
            let delivery = self.ops.borrow_mut().complete(completion);
            match delivery {
                Delivery::Wake(waker) => self.due.borrow_mut().push_back(waker),
                Delivery::Tell(sink, result, more) => sink.complete(result, more),
                Delivery::Drop(result) => drop(result),
                Delivery::Nothing => {}
            }
        }
    }

    fn fire_timers(&self) {
        self.turns_unclocked.set(0);
        let now = self.reactor.borrow().now();
        self.loop_time.set(now);
        let mut due = self.due.borrow_mut();
        self.timers.borrow_mut().fire(now, &mut *due);
    }

    fn wake_due(&self) {
        while let Some(waker) = { self.due.borrow_mut().pop_front() } {
            waker.wake();
        }
    }

    /// Wakes those for whom a buffer was dropped since the last turn.
    fn wake_for_buffers(&self) {
        buf::take_due(&mut *self.due.borrow_mut());
        self.wake_due();
    }

    #[cold]
    fn collect_remote(&self) {
        let mut handed = VecDeque::new();
        self.remote.remote.collect(&mut handed);
        for item in handed {
            match item {
                Item::Task(runnable) => self.executor.push(runnable),
                Item::Call(call) => call(),
            }
        }
    }

    pub(crate) fn metrics(&self) -> Metrics {
        let ops = self.ops.borrow();
        Metrics {
            turns: self.turns.get(),
            polls: self.executor.polls.get(),
            tasks_spawned: self.executor.spawned.get(),
            tasks_alive: self.executor.tasks(),
            task_panics: self.executor.panics.get(),
            spins_hit: self.spin.hits.get(),
            spins_missed: self.spin.misses.get(),
            operations_in_flight: ops.len(),
            operations_orphaned: ops.orphaned,
            completions_stale: ops.stale,
            reactor: self.reactor.borrow().counters(),
        }
    }

    /// Drops every task while the reactor lives, cancels what is in flight, and turns the reactor
    /// until the world has let go of it or the bound has passed.
    pub(crate) fn shut_down(self: &Rc<Self>) {
        self.drop_tasks();
        // What came with the last turn is told as it went.
        self.deliver();
        let mut interested = self.cancel_all();
        let bound = self.now() + SHUTDOWN_BOUND;
        while self.reactor.borrow().in_flight() > 0 && self.now() < bound {
            if self.turn_reactor(Wait::Until(bound)).is_err() {
                break;
            }
        }
        self.deliver();
        self.closed.set(true);
        // Sockets that outlive the runtime find a reactor that refuses.
        let reactor = self.reactor.replace(Box::new(Closed { now: self.now() }));
        drop(reactor);
        let unended = self.ops.borrow().keys();
        interested.extend(unended.into_iter().filter_map(|key| self.cancel(key)));
        // Who still waits does so on another runtime.
        for state in interested {
            match state {
                State::Waiting(waker) => self.due.borrow_mut().push_back(waker),
                State::Posted(sink) | State::Stream(sink) => {
                    sink.complete(Err(io::Error::other(Gone)), false);
                }
                State::Submitted | State::Completed(_) | State::Orphaned => {}
            }
        }
        self.wake_for_buffers();
    }

    /// Has all operations end. Sinks hear yet how those went that were posted; gives who else was
    /// interested.
    fn cancel_all(&self) -> Vec<State> {
        let keys = self.ops.borrow().keys();
        let mut interested = Vec::new();
        for key in keys {
            if self.ops.borrow().is_posted(key) {
                self.reactor.borrow_mut().cancel(key);
            } else {
                interested.extend(self.cancel(key));
            }
        }
        interested
    }

    /// Drops the futures of all tasks, and those that their drops spawn.
    fn drop_tasks(&self) {
        self.executor.close();
        let mut handed = VecDeque::new();
        for _ in 0..SHUTDOWN_LOOKS {
            self.executor.wake_all();
            self.remote.remote.collect(&mut handed);
            let found = !handed.is_empty() | self.executor.drop_ready();
            handed.drain(..).for_each(drop);
            if self.executor.tasks() == 0 {
                break;
            }
            // What is neither suspended nor here was woken by another thread, which is just about
            // to hand it over.
            if !found {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        if self.executor.tasks() > 0 {
            let tasks = self.executor.tasks();
            tracing::error!(tasks, "tasks on their way to a dropped runtime are leaked");
        }
        self.remote.remote.close(&mut handed);
        drop(handed);
    }
}
