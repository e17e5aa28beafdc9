//! What a file shares with operations that outlive their futures, and who may write when.
//!
//! **Order invariant.** No write and no sync starts while one is in flight whose future was
//! dropped, and no sync while another sync is in flight. The first keeps an old write from landing
//! on a newer one. The second is needed because the kernel tells of a loss once per open file, to
//! one sync: with two in flight, the other would say that all is well, and might say it first.
//!
//! Who waits to sync stands in a line. A task that syncs again and again would otherwise be first
//! every time: it runs when its sync ends, and the others are woken after that.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use thiserror::Error;

use super::is_cancelled;
use crate::handle::Gone;
use crate::inner::Inner;
use crate::operation::Operation;
use crate::ops::Sink;
use crate::reactor::{FileId, Op, Outcome};
use crate::waiters::{Place, Waiters};

/// A sync of a file has failed: see the [module](super) for what that means.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "a sync of {} has failed ({cause}): what was written since the last good one may be lost, and \
     no later sync can mend that", path.display()
)]
pub struct SyncFailed {
    path: PathBuf,
    cause: String,
    kind: io::ErrorKind,
}

impl SyncFailed {
    /// The file, as it was called when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

pub(super) struct Shared {
    runtime: Rc<Inner>,
    pub(super) id: FileId,
    path: PathBuf,
    /// Writes and syncs in flight whose futures were dropped.
    abandoned: Cell<usize>,
    /// A sync is in flight, or about to be.
    taken: Cell<bool>,
    /// The tickets of those who wait to sync, ascending. Each is also what its waker wants.
    line: RefCell<VecDeque<usize>>,
    /// The last ticket. 0 is none: a write that waits wants that.
    tickets: Cell<usize>,
    /// Where the next append begins, once it was asked.
    end: Cell<Option<u64>>,
    failed: RefCell<Option<SyncFailed>>,
    waiting: Waiters,
}

impl Shared {
    pub(super) fn new(runtime: &Rc<Inner>, id: FileId, path: &Path) -> Rc<Self> {
        Rc::new(Self {
            runtime: Rc::clone(runtime),
            id,
            path: path.to_owned(),
            abandoned: Cell::new(0),
            taken: Cell::new(false),
            line: RefCell::default(),
            tickets: Cell::new(0),
            end: Cell::new(None),
            failed: RefCell::new(None),
            waiting: Waiters::default(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn try_lock(&self) -> io::Result<()> {
        self.runtime.reactor().lock_file(self.id)
    }

    /// Waits until a write may start.
    pub(super) fn admit(&self) -> Admission<'_> {
        self.admission(false)
    }

    /// Waits until a sync may start, and keeps others from starting until the guard is dropped.
    pub(super) async fn admit_alone(&self) -> io::Result<Alone<'_>> {
        self.admission(true).await?;
        Ok(Alone { shared: self })
    }

    fn admission(&self, alone: bool) -> Admission<'_> {
        Admission {
            shared: self,
            alone,
            ticket: 0,
            place: Place::default(),
        }
    }

    /// The end of the line.
    fn line_up(&self) -> usize {
        let ticket = self.tickets.get() + 1;
        self.tickets.set(ticket);
        self.line.borrow_mut().push_back(ticket);
        ticket
    }

    fn leave_line(&self, ticket: usize) {
        let mut line = self.line.borrow_mut();
        if let Ok(place) = line.binary_search(&ticket) {
            line.remove(place);
        }
    }

    fn is_next(&self, ticket: usize) -> bool {
        !self.taken.get() && self.line.borrow().front() == Some(&ticket)
    }

    /// Has those woken who may start now: writes, and the first in the line.
    fn wake_next(&self) {
        let next = match self.line.borrow().front() {
            _ if self.runtime.is_closed() => usize::MAX, // all are to be told
            _ if self.abandoned.get() > 0 => return,
            Some(&first) if !self.taken.get() => first,
            Some(_) | None => 0,
        };
        self.runtime.wake_soon(&self.waiting, next);
    }

    /// Something was written up to there, and not by an append: the next append begins behind it.
    pub(super) fn reached(&self, end: u64) {
        let longer = |known: u64| known.max(end);
        self.end.set(self.end.get().map(longer));
    }

    /// Starts an operation, when it was admitted if it is one that has to be.
    pub(super) fn start<'a>(self: &'a Rc<Self>, op: Op) -> Running<'a> {
        let is_ordered = matches!(
            op,
            Op::Write { .. } | Op::WriteSync { .. } | Op::Sync { .. }
        );
        Running {
            heir: is_ordered.then_some(self),
            operation: Some(Operation::start(&self.runtime, op)),
        }
    }

    /// Takes note of how a sync went.
    pub(super) fn judge(&self, sync: io::Result<()>) -> io::Result<()> {
        let Err(error) = sync else { return Ok(()) };
        if is_cancelled(&error) {
            return Err(error); // it was not done
        }
        let mut kind = error.kind();
        if kind == io::ErrorKind::Interrupted {
            kind = io::ErrorKind::Other; // that one asks to try again
        }
        let failed = SyncFailed {
            path: self.path.clone(),
            cause: error.to_string(),
            kind,
        };
        tracing::error!(%failed, "a file is poisoned");
        // The first failure is the one to be told.
        self.failed.borrow_mut().get_or_insert(failed);
        self.check()
    }

    pub(super) fn sync_failed(&self) -> Option<SyncFailed> {
        self.failed.borrow().clone()
    }

    fn check(&self) -> io::Result<()> {
        match self.sync_failed() {
            Some(failed) => Err(io::Error::new(failed.kind, failed)),
            None => Ok(()),
        }
    }

    pub(super) fn close(&self) {
        self.runtime.reactor().close_file(self.id);
    }
}

/// It hears of operations whose futures were dropped.
impl Sink for Shared {
    fn complete(self: Rc<Self>, result: io::Result<Outcome>, _more: bool) {
        self.abandoned.set(self.abandoned.get() - 1);
        if let Ok(Outcome::Synced { sync, .. }) = result {
            let _kept = self.judge(sync); // nobody is there to hear it, but the file knows
        }
        self.wake_next();
    }
}

/// Ready when a write, or a sync, may start.
pub(super) struct Admission<'a> {
    shared: &'a Shared,
    alone: bool,
    /// Its place in the line, if it has one.
    ticket: usize,
    place: Place,
}

impl Future for Admission<'_> {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shared = this.shared;
        if shared.runtime.is_closed() {
            return Poll::Ready(Err(io::Error::other(Gone)));
        }
        if this.alone && this.ticket == 0 {
            this.ticket = shared.line_up();
        }
        if shared.abandoned.get() > 0 || this.alone && !shared.is_next(this.ticket) {
            shared.waiting.wait(&mut this.place, this.ticket, cx);
            return Poll::Pending;
        }
        shared.check()?;
        if this.alone {
            shared.leave_line(mem::take(&mut this.ticket));
            shared.taken.set(true);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        self.shared.waiting.leave(&mut self.place);
        if self.ticket > 0 {
            self.shared.leave_line(self.ticket);
            self.shared.wake_next();
        }
    }
}

/// The right to sync. It is given back when this is dropped; if a sync is in flight then, that one
/// is abandoned, and keeps others from starting by that.
pub(super) struct Alone<'a> {
    shared: &'a Shared,
}

impl Alone<'_> {
    /// Where the next append begins; `None` if nobody has asked yet.
    pub(super) fn end(&self) -> Option<u64> {
        self.shared.end.get()
    }

    pub(super) fn set_end(&self, end: u64) {
        self.shared.end.set(Some(end));
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.shared.taken.set(false);
        self.shared.wake_next();
    }
}

/// An operation on a file. If it is a write or a sync, and dropped, the file hears how it ended.
pub(super) struct Running<'a> {
    heir: Option<&'a Rc<Shared>>,
    /// None once it was left to the heir.
    operation: Option<Operation>,
}

impl Future for Running<'_> {
    type Output = io::Result<Outcome>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let operation = self.operation.as_mut();
        let operation = operation.expect("it is left to its heir by the drop only");
        Pin::new(operation).poll(cx)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let Some(heir) = self.heir else { return };
        let operation = self.operation.take();
        if let Some(operation) = operation.filter(Operation::is_pending) {
            heir.abandoned.set(heir.abandoned.get() + 1);
            operation.leave_to(Rc::clone(heir) as Rc<dyn Sink>);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::current::current;
    use crate::fs::File;

    #[test]
    fn a_sync_that_was_interrupted_poisons_and_is_not_to_be_tried_again() {
        let written = crate::block_on(async {
            let runtime = current();
            let id = runtime.reactor().new_file();
            let file = File {
                shared: Shared::new(&runtime, id, Path::new("log")),
            };
            let interrupted = io::Error::from_raw_os_error(libc::EINTR);
            let judged = file.shared.judge(Err(interrupted));
            let kind = judged.expect_err("it failed").kind();
            assert_ne!(kind, io::ErrorKind::Interrupted);
            file.write_all_at(b"x", 0).await
        });
        let error = written.expect("a runtime").expect_err("poisoned");
        assert!(error.downcast::<SyncFailed>().is_ok());
    }
}
