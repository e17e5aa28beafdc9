//! One runtime: executor, timers, operation table and reactor, and the loop that turns them.
//!
//! A turn: take what other threads handed over; poll ready tasks, within a budget; one trip to the
//! reactor, which submits and reaps in one system call, or in none when there is nothing to do;
//! fire what is due. It sleeps in the reactor when nothing is ready.
//!
//! **Borrow rule.** No part of [`Inner`] is borrowed while a waker is woken or dropped, a future is
//! polled or dropped, or a sink is told: any of these may run code that comes back here.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use async_task::Runnable;

use crate::buf::BufPool;
use crate::executor::{Executor, JoinHandle};
use crate::ops::{Delivery, Ops, Sink};
use crate::reactor::{Completion, Op, OpKey, Outcome, Reactor, Unpark, Wait};
use crate::remote::{Handed, Remote};
use crate::time::Instant;
use crate::timers::Timers;

/// What a user may choose about a runtime.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many tasks are polled before the reactor is asked again. More favours throughput, less
    /// favours latency. At least 1.
    pub poll_budget: usize,
    /// How much later than its deadline a timer may fire, so that one wake-up serves several.
    pub timer_slack: Duration,
    /// How many pooled send buffers may be in flight at once.
    pub send_buffers: usize,
    /// The length of each, in bytes. A longer datagram gets a buffer of its own.
    pub send_buffer_len: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            poll_budget: 128,
            timer_slack: Duration::from_micros(50),
            send_buffers: 4096,
            send_buffer_len: 2048,
        }
    }
}

/// A thread-per-core runtime on one [`Reactor`].
///
/// It belongs to the thread that made it. Dropping it drops every task while the reactor still
/// lives, cancels what is in flight and waits until the world has let go of every buffer. What it
/// has not let go of within a second is leaked rather than freed.
pub struct Runtime {
    inner: Rc<Inner>,
}

pub(crate) struct Inner {
    id: u64,
    config: Config,
    executor: Rc<Executor>,
    remote: Arc<RemoteTasks>,
    timers: RefCell<Timers>,
    ops: RefCell<Ops>,
    reactor: RefCell<Box<dyn Reactor>>,
    send_bufs: BufPool,
    /// The clock as of the last time that the loop read it.
    loop_time: Cell<Instant>,
    turns: Cell<u64>,
    /// Turns since the clock was read; a busy loop reads it seldom.
    turns_unclocked: Cell<u32>,
    scratch: RefCell<Scratch>,
}

/// Kept between turns for its capacity.
#[derive(Default)]
struct Scratch {
    completions: Vec<Completion>,
    wakers: Vec<Waker>,
    handed: VecDeque<Item>,
}

/// What other threads hand over.
pub(crate) enum Item {
    Task(Runnable),
    /// Run on the runtime's own thread.
    Call(Box<dyn FnOnce() + Send>),
}

pub(crate) struct RemoteTasks {
    runtime: u64,
    remote: Remote<Item>,
    unparker: Arc<dyn Unpark>,
}

/// A busy loop reads the clock, and so fires timers, at least once in so many turns.
const TURNS_PER_CLOCK_READ: u32 = 32;
/// How long a dropped runtime waits for operations in flight.
const SHUTDOWN_BOUND: Duration = Duration::from_secs(1);

thread_local! {
    static CURRENT: RefCell<Option<Rc<Inner>>> = const { RefCell::new(None) };
}
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Calls `f` with the runtime that this thread is running.
///
/// # Panics
/// Outside a runtime.
pub(crate) fn with_current<R>(f: impl FnOnce(&Rc<Inner>) -> R) -> R {
    CURRENT.with(|current| {
        let current = current.borrow();
        f(current
            .as_ref()
            .expect("this needs a Viewring runtime: call it inside `block_on`"))
    })
}

pub(crate) fn current() -> Rc<Inner> {
    with_current(Rc::clone)
}

/// Spawns a task on the runtime that this thread is running.
///
/// The future need not be `Send`: it never leaves this thread.
///
/// # Panics
/// Outside a runtime.
pub fn spawn<F: Future + 'static>(future: F) -> JoinHandle<F::Output> {
    with_current(|inner| inner.spawn(future))
}

/// 64 random bits from the runtime that this thread is running: unpredictable on a real one, given
/// by the seed in a simulated world.
///
/// # Panics
/// Outside a runtime.
pub fn random() -> u64 {
    with_current(|inner| inner.reactor.borrow_mut().random())
}

/// Lets every other ready task run, and the reactor turn, before going on.
///
/// # Cancel safety
/// Strict: it has no effect but to wait.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// One trip through the reactor that does nothing else.
///
/// # Cancel safety
/// Dropping it lets the trip end unobserved.
///
/// # Errors
/// What the reactor says.
///
/// # Panics
/// Outside a runtime.
pub async fn nop() -> io::Result<()> {
    let op = with_current(|inner| Operation::start(inner, Op::Nop));
    op.await.map(drop)
}

impl Runtime {
    /// A runtime on `reactor`: the only place that chooses between the real and a simulated world.
    pub fn new(reactor: impl Reactor + 'static, config: Config) -> Self {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let unparker = reactor.unparker();
        let remote = RemoteTasks {
            runtime: id,
            remote: Remote::new(),
            unparker,
        };
        let inner = Inner {
            id,
            executor: Rc::default(),
            remote: Arc::new(remote),
            timers: RefCell::new(Timers::new()),
            ops: RefCell::new(Ops::new()),
            loop_time: Cell::new(reactor.now()),
            reactor: RefCell::new(Box::new(reactor)),
            send_bufs: BufPool::new(config.send_buffer_len, config.send_buffers),
            turns: Cell::new(0),
            turns_unclocked: Cell::new(0),
            scratch: RefCell::default(),
            config,
        };
        Self {
            inner: Rc::new(inner),
        }
    }

    /// Runs `future` to its end on this thread, and every spawned task meanwhile.
    ///
    /// When it returns, spawned tasks are suspended until the next `block_on`, or dropped with the
    /// runtime.
    ///
    /// # Panics
    /// When this thread runs a runtime already, when `future` panics, or when the reactor fails.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let entered = Entered::enter(&self.inner);
        assert!(
            entered.before.is_none(),
            "this thread runs a Viewring runtime already"
        );
        let mut future = pin!(future);
        let root = Arc::new(RootWake {
            ready: AtomicBool::new(true),
            remote: Arc::clone(&self.inner.remote),
        });
        let waker = Waker::from(Arc::clone(&root));
        let mut cx = Context::from_waker(&waker);
        loop {
            if root.ready.load(Ordering::Acquire) {
                root.ready.store(false, Ordering::Relaxed);
                if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                    return output;
                }
            }
            let more = || root.ready.load(Ordering::Acquire);
            self.inner.turn(more).expect("the reactor turns");
        }
    }

    /// Spawns a task from outside `block_on`.
    pub fn spawn<F: Future + 'static>(&self, future: F) -> JoinHandle<F::Output> {
        self.inner.spawn(future)
    }

    /// A handle with which other threads spawn tasks here.
    pub fn handle(&self) -> Handle {
        Handle {
            remote: Arc::clone(&self.inner.remote),
        }
    }

    /// Counters of this runtime.
    pub fn metrics(&self) -> Metrics {
        self.inner.metrics()
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("metrics", &self.metrics())
            .finish_non_exhaustive()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _entered = Entered::enter(&self.inner);
        self.inner.shut_down();
    }
}

/// Counters of the runtime that this thread is running.
///
/// # Panics
/// Outside a runtime.
pub fn metrics() -> Metrics {
    with_current(|inner| inner.metrics())
}

/// Counters of one runtime, since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Rounds of the loop.
    pub turns: u64,
    /// Polls of spawned tasks.
    pub polls: u64,
    /// Tasks spawned.
    pub tasks_spawned: u64,
    /// Tasks that are alive now.
    pub tasks_alive: usize,
    /// Tasks that panicked.
    pub task_panics: u64,
    /// Operations that are in flight now.
    pub operations_in_flight: usize,
    /// Futures dropped while their operation was in flight.
    pub operations_orphaned: u64,
    /// Completions of operations that nobody knows: 0 unless something is wrong.
    pub completions_stale: u64,
    /// The reactor's own counters, by name.
    pub reactor: Vec<(&'static str, u64)>,
}

impl Metrics {
    /// The reactor's counter of this name; 0 if it has none.
    pub fn reactor(&self, name: &str) -> u64 {
        self.reactor
            .iter()
            .find(|(n, _)| *n == name)
            .map_or(0, |(_, count)| *count)
    }
}

/// Spawns tasks on a runtime from any thread.
#[derive(Clone)]
pub struct Handle {
    remote: Arc<RemoteTasks>,
}

impl Handle {
    /// Has the runtime's thread call `make` and spawn the future that it returns. Only `make` has
    /// to be `Send`, not the future.
    ///
    /// # Errors
    /// [`Gone`] when the runtime has shut down; `make` is dropped.
    pub fn spawn_on<M, F>(&self, make: M) -> Result<(), Gone>
    where
        M: FnOnce() -> F + Send + 'static,
        F: Future<Output = ()> + 'static,
    {
        let call = Box::new(move || spawn(make()).detach());
        match self.remote.hand_over(Item::Call(call)) {
            Some(_) => Err(Gone),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("runtime", &self.remote.runtime)
            .finish()
    }
}

/// The runtime has shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the runtime has shut down")
    }
}

impl std::error::Error for Gone {}

impl RemoteTasks {
    /// Gives the item back if the runtime is gone.
    fn hand_over(&self, item: Item) -> Option<Item> {
        match self.remote.hand_over(item) {
            Handed::Seen => None,
            Handed::Unpark => {
                self.unpark();
                None
            }
            Handed::Closed(item) => Some(item),
        }
    }

    fn notify(&self) {
        if self.remote.notify() {
            self.unpark();
        }
    }

    /// Ends the owner's sleep: through this thread's own ring if it has one, else by itself.
    fn unpark(&self) {
        let by_ring = CURRENT.try_with(|current| {
            let Ok(current) = current.try_borrow() else {
                return false;
            };
            let Some(inner) = current.as_ref() else {
                return false;
            };
            let Ok(mut reactor) = inner.reactor.try_borrow_mut() else {
                return false;
            };
            reactor.unpark_peer(&self.unparker)
        });
        if !by_ring.unwrap_or(false) {
            self.unparker.unpark();
        }
    }

    /// Puts a woken task on its runtime's queue. On its own thread that is a push; from another
    /// one, or while another runtime runs on this thread, it is handed over.
    fn schedule(&self, runnable: Runnable) {
        let mut runnable = Some(runnable);
        // Fails only while this thread ends: then hand over.
        let _thread_ends = CURRENT.try_with(|current| {
            let Ok(current) = current.try_borrow() else {
                return;
            };
            if let Some(inner) = current.as_ref().filter(|inner| inner.id == self.runtime)
                && let Some(runnable) = runnable.take()
            {
                inner.executor.push(runnable);
            }
        });
        let Some(runnable) = runnable else { return };
        if let Some(Item::Task(runnable)) = self.hand_over(Item::Task(runnable)) {
            // The runtime is gone. Its future must not be dropped on this thread: leak the task.
            std::mem::forget(runnable);
        }
    }
}

struct RootWake {
    ready: AtomicBool,
    remote: Arc<RemoteTasks>,
}

impl Wake for RootWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.store(true, Ordering::Release);
        let here = CURRENT.try_with(|current| {
            let Ok(current) = current.try_borrow() else {
                return false;
            };
            current
                .as_ref()
                .is_some_and(|inner| inner.id == self.remote.runtime)
        });
        if !here.unwrap_or(false) {
            self.remote.notify();
        }
    }
}

/// Marks a runtime as the one that this thread runs, for a scope.
pub(crate) struct Entered {
    before: Option<Rc<Inner>>,
}

impl Entered {
    pub(crate) fn enter(inner: &Rc<Inner>) -> Self {
        Self {
            before: CURRENT.with(|current| current.replace(Some(Rc::clone(inner)))),
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // Fails only while this thread ends.
        let inner = CURRENT.try_with(|current| current.replace(self.before.take()));
        drop(inner); // `current` is no longer borrowed
    }
}

impl Inner {
    pub(crate) fn spawn<F: Future + 'static>(&self, future: F) -> JoinHandle<F::Output> {
        let remote = Arc::clone(&self.remote);
        self.executor
            .spawn(future, move |runnable| remote.schedule(runnable))
    }

    pub(crate) fn now(self: &Rc<Self>) -> Instant {
        self.reactor.borrow().now()
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
        let orphan = self.ops.borrow_mut().orphan(key);
        if orphan.in_flight {
            self.reactor.borrow_mut().cancel(key);
        }
        drop(orphan); // nothing is borrowed
    }

    /// One round of the loop. `more` says whether the caller has something to do afterwards, so
    /// that it must not sleep.
    pub(crate) fn turn(&self, more: impl Fn() -> bool) -> io::Result<()> {
        self.turns.set(self.turns.get() + 1);
        if self.remote.remote.is_notified() {
            self.collect_remote();
        }
        self.executor.run(self.config.poll_budget);
        if self.executor.ready() > 0 || more() || self.remote.remote.is_notified() {
            return self.poll_reactor();
        }
        let wait = match self.timers.borrow().earliest() {
            Some(earliest) => Wait::Until(earliest + self.config.timer_slack),
            None => Wait::Forever,
        };
        if !self.remote.remote.prepare_sleep() {
            return self.poll_reactor();
        }
        let turned = self.turn_reactor(wait);
        self.remote.remote.awake();
        turned
    }

    /// One trip to the reactor that does not sleep, and none if there is nothing to do there.
    fn poll_reactor(&self) -> io::Result<()> {
        if !self.reactor.borrow_mut().is_idle() {
            return self.turn_reactor(Wait::Poll);
        }
        let unclocked = self.turns_unclocked.get() + 1;
        self.turns_unclocked.set(unclocked);
        if unclocked >= TURNS_PER_CLOCK_READ {
            let mut wakers = std::mem::take(&mut self.scratch.borrow_mut().wakers);
            self.fire_timers(&mut wakers);
            self.wake(wakers);
        }
        Ok(())
    }

    fn turn_reactor(&self, wait: Wait) -> io::Result<()> {
        let Scratch {
            mut completions,
            mut wakers,
            ..
        } = self.take_scratch();
        let turned = self.reactor.borrow_mut().turn(wait, &mut completions);
        for completion in completions.drain(..) {
            let delivery = self.ops.borrow_mut().complete(completion);
            match delivery {
                Delivery::Wake(waker) => wakers.push(waker),
                Delivery::Tell(sink, result, more) => sink.complete(result, more),
                Delivery::Drop(result) => drop(result),
                Delivery::Nothing => {}
            }
        }
        self.scratch.borrow_mut().completions = completions;
        self.fire_timers(&mut wakers);
        self.wake(wakers);
        turned
    }

    fn take_scratch(&self) -> Scratch {
        let mut scratch = self.scratch.borrow_mut();
        Scratch {
            completions: std::mem::take(&mut scratch.completions),
            wakers: std::mem::take(&mut scratch.wakers),
            handed: VecDeque::new(),
        }
    }

    fn fire_timers(&self, wakers: &mut Vec<Waker>) {
        self.turns_unclocked.set(0);
        let now = self.reactor.borrow().now();
        self.loop_time.set(now);
        self.timers.borrow_mut().fire(now, wakers);
    }

    fn wake(&self, mut wakers: Vec<Waker>) {
        for waker in wakers.drain(..) {
            waker.wake();
        }
        self.scratch.borrow_mut().wakers = wakers;
    }

    #[cold]
    fn collect_remote(&self) {
        let mut handed = std::mem::take(&mut self.scratch.borrow_mut().handed);
        self.remote.remote.collect(&mut handed);
        for item in handed.drain(..) {
            match item {
                Item::Task(runnable) => self.executor.push(runnable),
                Item::Call(call) => call(),
            }
        }
        self.scratch.borrow_mut().handed = handed;
    }

    fn metrics(&self) -> Metrics {
        let ops = self.ops.borrow();
        Metrics {
            turns: self.turns.get(),
            polls: self.executor.polls.get(),
            tasks_spawned: self.executor.spawned.get(),
            tasks_alive: self.executor.tasks(),
            task_panics: self.executor.panics.get(),
            operations_in_flight: ops.len(),
            operations_orphaned: ops.orphaned,
            completions_stale: ops.stale,
            reactor: self.reactor.borrow().counters(),
        }
    }

    /// Drops every task while the reactor lives, cancels what is in flight, and turns the reactor
    /// until the world has let go of it or the bound has passed.
    fn shut_down(self: &Rc<Self>) {
        self.executor.close(|ready| {
            let mut handed = VecDeque::new();
            self.remote.remote.collect(&mut handed);
            for item in handed {
                if let Item::Task(runnable) = item {
                    ready.push_back(runnable);
                }
            }
        });
        self.remote.remote.close();
        let keys = self.ops.borrow().keys();
        for key in keys {
            self.orphan(key);
        }
        let bound = self.now() + SHUTDOWN_BOUND;
        while self.reactor.borrow().in_flight() > 0 && self.now() < bound {
            if self.turn_reactor(Wait::Until(bound)).is_err() {
                break;
            }
        }
        // Sockets that outlive the runtime find a reactor that refuses.
        let reactor = self.reactor.replace(Box::new(Closed { now: self.now() }));
        drop(reactor);
    }
}

/// What is left when the runtime is gone.
#[derive(Debug)]
struct Closed {
    now: Instant,
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

    fn random(&mut self) -> u64 {
        0
    }

    fn datagram_overhead(&self) -> usize {
        0
    }

    fn bind_udp(
        &mut self,
        _: std::net::SocketAddr,
        _: &crate::net::UdpOptions,
        _: &BufPool,
    ) -> io::Result<(crate::reactor::SocketId, std::net::SocketAddr)> {
        Err(io::Error::other(Gone))
    }

    fn connect_udp(
        &mut self,
        _: crate::reactor::SocketId,
        _: std::net::SocketAddr,
    ) -> io::Result<()> {
        Err(io::Error::other(Gone))
    }

    fn close(&mut self, _: crate::reactor::SocketId) {}

    fn start(&mut self, _: OpKey, op: Op) {
        drop(op); // it never completes: no runtime polls its future either
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

/// An operation with one completion, as a future.
///
/// Dropping it orphans the operation and asks for its cancellation; its buffers stay with the
/// reactor until the world has let go of them.
#[must_use = "futures do nothing unless they are awaited"]
pub(crate) struct Operation {
    runtime: Rc<Inner>,
    /// None once it was ready.
    key: Option<OpKey>,
}

impl Operation {
    pub(crate) fn start(runtime: &Rc<Inner>, op: Op) -> Self {
        let key = runtime.ops.borrow_mut().insert();
        runtime.reactor.borrow_mut().start(key, op);
        Self {
            runtime: Rc::clone(runtime),
            key: Some(key),
        }
    }
}

impl Future for Operation {
    type Output = io::Result<Outcome>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let key = self
            .key
            .expect("an operation is not polled after it was ready");
        let mut replaced = None;
        let polled = self.runtime.ops.borrow_mut().poll(key, cx, &mut replaced);
        drop(replaced); // the table is no longer borrowed
        if polled.is_ready() {
            self.key = None;
        }
        polled
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.runtime.orphan(key);
        }
    }
}
