//! An operation with one completion, as a future.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::handle::Gone;
use crate::inner::Inner;
use crate::ops::Sink;
use crate::reactor::{Op, OpKey, Outcome};

/// An operation that was started.
///
/// Dropping it orphans the operation and asks for its cancellation; its buffers stay with the
/// reactor until the world has let go of them. If its runtime is dropped before it has completed,
/// it gives [`Gone`] as an error.
#[must_use = "futures do nothing unless they are awaited"]
pub(crate) struct Operation {
    runtime: Rc<Inner>,
    /// None once it was ready.
    key: Option<OpKey>,
}

impl Operation {
    pub(crate) fn start(runtime: &Rc<Inner>, op: Op) -> Self {
        Self {
            runtime: Rc::clone(runtime),
            key: Some(runtime.start(op)),
        }
    }
}

impl Operation {
    /// Drops it, and has `heir` hear how it ended, in any case: with [`Gone`] if that will never be
    /// known. A future that was ready has nothing to leave.
    pub(crate) fn leave_to(mut self, heir: Rc<dyn Sink>) {
        if let Some(key) = self.key.take() {
            self.runtime.bequeath(key, heir);
        }
    }

    /// Whether its result was not taken yet.
    pub(crate) fn is_pending(&self) -> bool {
        self.key.is_some()
    }
}

impl Future for Operation {
    type Output = io::Result<Outcome>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let key = self
            .key
            .expect("an operation is not polled after it was ready");
        let polled = self.runtime.poll_operation(key, cx);
        if polled.is_ready() {
            self.key = None;
        } else if self.runtime.is_closed() {
            return Poll::Ready(Err(io::Error::other(Gone))); // `drop` forgets the entry
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
