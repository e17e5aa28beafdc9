//! Which runtime this thread is running.
//!
//! Set for a scope, by [`Entered`]; there may be several runtimes on a thread, one at a time.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::handle::Runnable;
use crate::inner::Inner;
use crate::reactor::Unpark;
use crate::remote::NO_RUNTIME;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Inner>>> = const { RefCell::new(None) };
}

/// Calls `f` with the runtime that this thread is running. `f` must run no foreign code.
///
/// # Panics
/// Outside a runtime.
pub(crate) fn with_current<R>(f: impl FnOnce(&Rc<Inner>) -> R) -> R {
    try_with_current(f).expect("this needs a Viewring runtime: call it inside `block_on`")
}

/// The runtime that this thread is running.
///
/// # Panics
/// Outside a runtime.
pub(crate) fn current() -> Rc<Inner> {
    with_current(Rc::clone)
}

/// Its id, or [`NO_RUNTIME`].
pub(crate) fn id() -> u64 {
    try_with_current(|inner| inner.id()).unwrap_or(NO_RUNTIME)
}

/// Submits what the current runtime has started, such as the wakes of peers: this thread is about
/// to wait for others. Call it when nothing is borrowed.
pub(crate) fn flush() {
    if let Some(inner) = try_with_current(Rc::clone) {
        inner.flush();
    }
}

/// Whether it is the one of this id.
pub(crate) fn is_current(id: u64) -> bool {
    try_with_current(|inner| inner.id() == id).unwrap_or(false)
}

/// Puts a task on the run queue if its runtime is the current one, and gives it back if not.
pub(crate) fn push_to_current(runnable: Runnable) -> Option<Runnable> {
    let mut runnable = Some(runnable);
    try_with_current(|inner| {
        if let Some(runnable) = runnable.take_if(|task| task.metadata().runtime == inner.id()) {
            inner.executor().push(runnable);
        }
    });
    runnable
}

/// Has the current runtime's reactor end a peer's sleep. False if there is none, if it cannot, or
/// if it is busy.
pub(crate) fn unpark_by_current(peer: &Arc<dyn Unpark>) -> bool {
    try_with_current(|inner| inner.unpark_peer(peer)).unwrap_or(false)
}

/// None outside a runtime, and while the thread ends.
pub(crate) fn try_with_current<R>(f: impl FnOnce(&Rc<Inner>) -> R) -> Option<R> {
    let called = CURRENT.try_with(|current| current.borrow().as_ref().map(f));
    called.ok().flatten()
}

/// Marks a runtime as the current one, for a scope.
pub(crate) struct Entered {
    before: Option<Rc<Inner>>,
}

impl Entered {
    /// While the thread ends there is no current runtime, and this changes nothing.
    pub(crate) fn enter(inner: &Rc<Inner>) -> Self {
        let replaced = CURRENT.try_with(|current| current.replace(Some(Rc::clone(inner))));
        Self {
            before: replaced.ok().flatten(),
        }
    }

    /// Whether this thread was running no runtime.
    pub(crate) fn is_outermost(&self) -> bool {
        self.before.is_none()
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let inner = CURRENT.try_with(|current| current.replace(self.before.take()));
        drop(inner); // `current` is no longer borrowed
    }
}
