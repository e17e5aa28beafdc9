//! A runtime as its users see it.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::current::{Entered, current, with_current};
use crate::executor::JoinHandle;
use crate::handle::{Handle, RootWake};
use crate::inner::Inner;
use crate::operation::Operation;
use crate::reactor::{Op, Reactor};

pub(crate) use crate::metrics::Metrics;

/// What a user may choose about a runtime.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many tasks are polled before the reactor is asked again. More favours throughput, less
    /// favours latency. At least 1.
    pub poll_budget: usize,
    /// How much later than its deadline a timer may fire, so that one wake-up serves several.
    pub timer_slack: Duration,
    /// How long the loop looks for work before it sleeps, at most. Zero, the default: it sleeps at
    /// once.
    ///
    /// Looking finds in a microsecond what would wake a sleeping core in tens. Between two looks
    /// the core is offered to others (sched_yield(2)), so that runtimes which share one do not keep
    /// it from each other; but the machine never rests while there is work now and then. A runtime
    /// that is idle soon looks less and then not at all; one that gets its core back late, because
    /// others compute there, hardly ever looks. Half the time that a wake-up costs is a good value,
    /// 50 µs on a virtual machine. A reactor that cannot show work without a turn, such as a
    /// simulated one, ignores it.
    pub spin: Duration,
    /// How many pooled send buffers may be in flight at once. At least 1.
    pub send_buffers: usize,
    /// The length of each, in bytes. A longer datagram gets a buffer of its own.
    pub send_buffer_len: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            poll_budget: 128,
            timer_slack: Duration::from_micros(50),
            spin: Duration::ZERO,
            send_buffers: 4096,
            send_buffer_len: 2048,
        }
    }
}

/// A thread-per-core runtime on one [`Reactor`].
///
/// It belongs to the thread that made it. Dropping it drops every task while the reactor still
/// lives, cancels what is in flight and waits until the world has let go of every buffer. What it
/// has not let go of within two seconds is leaked rather than freed.
pub struct Runtime {
    inner: Rc<Inner>,
}

/// Spawns a task on the runtime that this thread is running.
///
/// The future need not be `Send`: it never leaves this thread.
///
/// # Panics
/// Outside a runtime.
pub fn spawn<F: Future + 'static>(future: F) -> JoinHandle<F::Output> {
    current().spawn(future)
}

/// 64 random bits from the runtime that this thread is running: unpredictable on a real one, given
/// by the seed in a simulated world.
///
/// # Panics
/// Outside a runtime.
pub fn random() -> u64 {
    with_current(|inner| inner.reactor().random())
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
    ///
    /// # Panics
    /// When the configured buffer length does not fit an `u32`.
    pub fn new(reactor: impl Reactor + 'static, config: Config) -> Self {
        Self {
            inner: Inner::new(reactor, config),
        }
    }

    /// Runs `future` to its end on this thread, and every spawned task meanwhile.
    ///
    /// When it returns, spawned tasks are suspended until the next `block_on`, or dropped with the
    /// runtime; what they have started or sent is on its way. A send that finds no room in its
    /// socket's buffer waits for the next `block_on`, and is lost if there is none.
    ///
    /// # Panics
    /// When this thread runs a runtime already, when `future` panics, or when the reactor fails.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let entered = Entered::enter(&self.inner);
        assert!(
            entered.is_outermost(),
            "this thread runs a Viewring runtime already"
        );
        let _flush = Flush(&self.inner);
        let mut future = pin!(future);
        let root = Arc::new(RootWake::new(self.inner.remote()));
        let waker = Waker::from(Arc::clone(&root));
        let mut cx = Context::from_waker(&waker);
        loop {
            if root.take()
                && let Poll::Ready(output) = future.as_mut().poll(&mut cx)
            {
                return output;
            }
            self.inner
                .turn(|| root.is_ready())
                .expect("the reactor turns");
        }
    }

    /// Spawns a task from outside `block_on`. It runs with the next one.
    pub fn spawn<F: Future + 'static>(&self, future: F) -> JoinHandle<F::Output> {
        self.inner.spawn(future)
    }

    /// A handle with which other threads spawn tasks here.
    pub fn handle(&self) -> Handle {
        Handle::new(self.inner.remote())
    }

    /// Counters of this runtime.
    pub fn metrics(&self) -> Metrics {
        self.inner.metrics()
    }

    /// One round of the loop, for a world that drives several runtimes on one thread. Its reactor
    /// does not sleep.
    pub(crate) fn turn(&self) {
        let _entered = Entered::enter(&self.inner);
        self.inner.turn(|| false).expect("the reactor turns");
    }

    /// Whether there are tasks to run.
    pub(crate) fn is_ready(&self) -> bool {
        self.inner.is_ready()
    }

    /// As in [`Metrics::polls`].
    pub(crate) fn polls(&self) -> u64 {
        self.inner.executor().polls.get()
    }

    /// As in [`Metrics::task_panics`].
    pub(crate) fn panics(&self) -> u64 {
        self.inner.executor().panics.get()
    }

    /// What the last panic of a task said.
    pub(crate) fn last_panic(&self) -> Option<String> {
        self.inner.executor().last_panic.borrow().clone()
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

/// Leaves `block_on`, by whatever way, with nothing unsubmitted: no send and no peer's wake waits
/// for a turn that may never come.
struct Flush<'a>(&'a Inner);

impl Drop for Flush<'_> {
    fn drop(&mut self) {
        self.0.flush();
    }
}
