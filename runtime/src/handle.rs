//! How other threads reach a runtime: handing over work, and waking its tasks.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use crate::current;
use crate::reactor::Unpark;
use crate::remote::{Duty, Remote};
use crate::runtime::spawn;

/// Spawns tasks on a runtime from any thread.
///
/// Cheap to clone. It does not keep the runtime alive.
#[derive(Clone)]
pub struct Handle {
    remote: Arc<RemoteTasks>,
}

impl Handle {
    pub(crate) fn new(remote: &Arc<RemoteTasks>) -> Self {
        Self {
            remote: Arc::clone(remote),
        }
    }

    /// Has the runtime's thread call `make` and run the future that it returns, as a detached
    /// task. Only `make` has to be `Send`, not the future. A panic in either is the task's.
    ///
    /// A runtime that sleeps is woken. If this thread runs a runtime on io_uring itself, its ring
    /// does that with its next submission: in this turn of its loop, or when its `block_on`
    /// returns. So do not block this thread on the outcome. What other threads hand over meanwhile
    /// does not wait for that.
    ///
    /// # Errors
    /// [`Gone`] when the runtime has shut down; `make` is dropped here. If it shuts down before it
    /// has got there, `make` is dropped on its thread instead of called.
    pub fn spawn_on<M, F>(&self, make: M) -> Result<(), Gone>
    where
        M: FnOnce() -> F + Send + 'static,
        F: Future<Output = ()> + 'static,
    {
        let call = Box::new(move || spawn(async move { make().await }).detach());
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

/// What other threads hand over.
pub(crate) enum Item {
    Task(Runnable),
    /// Run on the runtime's own thread. It only spawns, and does not panic.
    Call(Box<dyn FnOnce() + Send>),
}

/// The part of a runtime that every thread may touch; it outlives the rest.
pub(crate) struct RemoteTasks {
    pub(crate) runtime: u64,
    pub(crate) remote: Remote<Item>,
    pub(crate) unparker: Arc<dyn Unpark>,
}

impl RemoteTasks {
    /// Gives the item back if the runtime is gone.
    fn hand_over(&self, item: Item) -> Option<Item> {
        match self.remote.hand_over(item, current::id()) {
            Ok(duty) => {
                self.unpark(duty);
                None
            }
            Err(item) => Some(item),
        }
    }

    fn notify(&self) {
        self.unpark(self.remote.notify(current::id()));
    }

    /// Ends the owner's sleep: through this thread's own ring if it has one and may take its time,
    /// else by itself.
    fn unpark(&self, duty: Duty) {
        match duty {
            Duty::Nothing => {}
            Duty::Unpark if current::unpark_by_current(&self.unparker) => {}
            Duty::Unpark | Duty::UnparkNow => self.unparker.unpark(),
        }
    }
}

/// A task that is ready. It knows its runtime by its metadata and not by what a closure captured,
/// so that `async-task` need not guard that closure with a reference while it schedules.
pub(crate) type Runnable = async_task::Runnable<Arc<RemoteTasks>>;

/// Puts a woken task on its runtime's queue. On its own thread that is a push; from another one, or
/// while another runtime runs on this thread, it is handed over.
pub(crate) fn schedule(runnable: Runnable) {
    if let Some(runnable) = current::push_to_current(runnable) {
        hand_over_task(runnable);
    }
}

#[cold]
fn hand_over_task(runnable: Runnable) {
    let remote = Arc::clone(runnable.metadata());
    if let Some(Item::Task(runnable)) = remote.hand_over(Item::Task(runnable)) {
        // The runtime is gone. Its future must not be dropped on this thread: leak the task.
        std::mem::forget(runnable);
    }
}

/// The waker of the future that `block_on` runs.
pub(crate) struct RootWake {
    /// Woken by this thread. Only this thread writes it, so it needs no read-modify-write: a future
    /// that yields pays for none.
    here: AtomicBool,
    /// Woken by another thread, or while another runtime ran on this one.
    elsewhere: AtomicBool,
    remote: Arc<RemoteTasks>,
}

impl RootWake {
    /// Ready from the start.
    pub(crate) fn new(remote: &Arc<RemoteTasks>) -> Self {
        Self {
            here: AtomicBool::new(true),
            elsewhere: AtomicBool::new(false),
            remote: Arc::clone(remote),
        }
    }

    /// Whether the future was woken since the last [`take`](Self::take).
    pub(crate) fn is_ready(&self) -> bool {
        self.here.load(Ordering::Relaxed) || self.elsewhere.load(Ordering::Relaxed)
    }

    /// Whether the future was woken; from now on it was not. Call it before the poll: what wakes it
    /// meanwhile is for the next one.
    pub(crate) fn take(&self) -> bool {
        let here = self.here.load(Ordering::Relaxed);
        self.here.store(false, Ordering::Relaxed);
        // The exchange acquires what the waking thread has written before.
        let elsewhere =
            self.elsewhere.load(Ordering::Relaxed) && self.elsewhere.swap(false, Ordering::AcqRel);
        here || elsewhere
    }
}

impl Wake for RootWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if current::is_current(self.remote.runtime) {
            self.here.store(true, Ordering::Relaxed);
        } else {
            self.elsewhere.store(true, Ordering::Release);
            self.remote.notify();
        }
    }
}
