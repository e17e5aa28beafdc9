//! What happens to a replica, as a stream for those who run it.
//!
//! Events are numbered. The last ones are kept, so many and no more: a reader that falls behind
//! them is told how many it has missed, and slows nobody.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use thiserror::Error;
use viewring_protocol::{OpNumber, Replica, Role, View};

/// Something that happened to a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Counts the events of this life of the replica, from 0.
    pub sequence: u64,
    /// What it was.
    pub what: Happening,
}

/// What can happen to a replica. What passes within one turn, as views may, is not told; where it
/// stands at the end of the turn is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// It takes part in its group, from now on.
    Recovered {
        /// The view it is in.
        view: u64,
    },
    /// It has joined a view, which need not have begun.
    View {
        /// The view.
        view: u64,
    },
    /// Its view has begun here: it leads or follows.
    Primary {
        /// The view.
        view: u64,
        /// The replica that leads it.
        id: u8,
    },
    /// It knows that everything up to here is committed.
    Commit {
        /// The commit-number.
        op: u64,
    },
    /// Another replica of the configuration belongs to another group or cluster, or has another
    /// configuration, and takes no part with us: [`Status::strangers`](crate::Status) says more.
    /// Told again each minute while it goes on.
    Stranger {
        /// That replica.
        id: u8,
    },
    /// It has a checkpoint of everything up to here.
    Checkpoint {
        /// The last operation that the checkpoint covers.
        op: u64,
    },
}

/// A reader was too slow: so many events are gone, and the next one is that after them.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{0} events were missed")]
pub struct Missed(pub u64);

/// The events of one replica, from when this was asked for.
#[derive(Debug)]
pub struct Events {
    kept: Rc<RefCell<Kept>>,
    id: u64,
    next: u64,
}

impl Events {
    /// The next event, or how many were missed before it; `None` when the replica is gone and all
    /// was told.
    ///
    /// # Cancel safety
    /// Strict: dropping the wait loses no event.
    pub async fn next(&mut self) -> Option<Result<Event, Missed>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, Missed>>> {
        let mut kept = self.kept.borrow_mut();
        let first = kept.next - kept.events.len() as u64;
        if self.next < first {
            let missed = Missed(first - self.next);
            self.next = first;
            return Poll::Ready(Some(Err(missed)));
        }
        if let Some(&event) = kept.events.get((self.next - first) as usize) {
            self.next += 1;
            return Poll::Ready(Some(Ok(event)));
        }
        if kept.ended {
            return Poll::Ready(None);
        }
        kept.waiting.insert(self.id, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.kept.borrow_mut().waiting.remove(&self.id);
    }
}

/// The last events, and who waits for the next: one waker a reader.
#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Event>,
    /// The number of the next event.
    next: u64,
    readers: u64,
    waiting: BTreeMap<u64, Waker>,
    ended: bool,
}

/// So many events are kept.
const KEPT_MAX: usize = 1024;

/// Where the replica stood at the end of its last turn, and what became of that.
#[derive(Debug)]
pub(super) struct Happenings {
    kept: Rc<RefCell<Kept>>,
    role: Role,
    view: View,
    /// The latest view that has begun here.
    begun: Option<View>,
    commit: OpNumber,
    checkpoint: OpNumber,
}

impl Happenings {
    pub(super) fn new() -> Self {
        Self {
            kept: Rc::default(),
            role: Role::Outside,
            view: View::ZERO,
            begun: None,
            commit: OpNumber::ZERO,
            checkpoint: OpNumber::ZERO,
        }
    }

    /// A reader of what happens from now on.
    pub(super) fn reader(&self) -> Events {
        let mut kept = self.kept.borrow_mut();
        kept.readers += 1;
        Events {
            kept: Rc::clone(&self.kept),
            id: kept.readers,
            next: kept.next,
        }
    }

    /// A turn has ended: tells what is different.
    pub(super) fn look_at(&mut self, replica: &Replica) {
        let (role, view) = (replica.role(), replica.view());
        let id = replica.id().0;
        let takes_part = |role| !matches!(role, Role::Outside | Role::Recovering);
        if !takes_part(self.role) && takes_part(role) {
            let (op, commit) = (replica.op().0, replica.commit().0);
            tracing::info!(replica = id, view = view.0, ?role, op, commit, "a member");
            self.tell(Happening::Recovered { view: view.0 });
        }
        if view != self.view {
            let (op, commit) = (replica.op().0, replica.commit().0);
            tracing::info!(
                replica = id,
                view = view.0,
                ?role,
                op,
                commit,
                "view joined"
            );
            self.tell(Happening::View { view: view.0 });
        }
        let is_normal = matches!(role, Role::Primary | Role::Backup);
        if is_normal && self.begun != Some(view) {
            self.begun = Some(view);
            let (view, primary) = (view.0, replica.primary().0);
            let (op, commit) = (replica.op().0, replica.commit().0);
            tracing::info!(replica = id, view, ?role, op, commit, primary, "view begun");
            self.tell(Happening::Primary { view, id: primary });
        }
        (self.role, self.view) = (role, view);
        if replica.commit() != self.commit {
            self.commit = replica.commit();
            let op = self.commit.0;
            self.tell(Happening::Commit { op });
        }
        let checkpoint = replica
            .checkpoint()
            .map(|checkpoint| checkpoint.summary().op);
        if let Some(op) = checkpoint.filter(|op| *op > self.checkpoint) {
            self.checkpoint = op;
            let (commit, checkpoint) = (replica.commit().0, op.0);
            tracing::info!(
                replica = id,
                view = view.0,
                ?role,
                commit,
                checkpoint,
                "checkpoint"
            );
            self.tell(Happening::Checkpoint { op: op.0 });
        }
    }

    pub(super) fn tell(&mut self, what: Happening) {
        let mut kept = self.kept.borrow_mut();
        let sequence = kept.next;
        kept.next += 1;
        if kept.events.len() == KEPT_MAX {
            kept.events.pop_front();
        }
        kept.events.push_back(Event { sequence, what });
        let waiting = std::mem::take(&mut kept.waiting);
        // A waker may run anything, and nothing of ours is borrowed then.
        drop(kept);
        waiting.into_values().for_each(Waker::wake);
    }
}

impl Drop for Happenings {
    fn drop(&mut self) {
        let mut kept = self.kept.borrow_mut();
        kept.ended = true;
        let waiting = std::mem::take(&mut kept.waiting);
        drop(kept);
        waiting.into_values().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(events: &mut Events) -> Poll<Option<Result<Event, Missed>>> {
        events.poll_next(&mut Context::from_waker(Waker::noop()))
    }

    fn commit(sequence: u64) -> Event {
        let what = Happening::Commit { op: sequence };
        Event { sequence, what }
    }

    #[test]
    fn a_reader_is_told_what_happens_from_when_it_asked() {
        let mut happenings = Happenings::new();
        happenings.tell(Happening::Commit { op: 0 });
        let mut events = happenings.reader();
        assert_eq!(read(&mut events), Poll::Pending);
        happenings.tell(Happening::Commit { op: 1 });
        assert_eq!(read(&mut events), Poll::Ready(Some(Ok(commit(1)))));
        happenings.tell(Happening::Commit { op: 2 });
        drop(happenings);
        assert_eq!(read(&mut events), Poll::Ready(Some(Ok(commit(2)))));
        assert_eq!(read(&mut events), Poll::Ready(None));
    }

    #[test]
    fn a_slow_reader_is_told_how_much_it_has_missed() {
        let mut happenings = Happenings::new();
        let (mut slow, mut quick) = (happenings.reader(), happenings.reader());
        for op in 0..KEPT_MAX as u64 + 7 {
            happenings.tell(Happening::Commit { op });
            assert_eq!(read(&mut quick), Poll::Ready(Some(Ok(commit(op)))));
        }
        assert_eq!(happenings.kept.borrow().events.len(), KEPT_MAX);
        assert_eq!(read(&mut slow), Poll::Ready(Some(Err(Missed(7)))));
        assert_eq!(read(&mut slow), Poll::Ready(Some(Ok(commit(7)))));
    }

    #[test]
    fn who_polls_often_waits_once() {
        let happenings = Happenings::new();
        let mut events = happenings.reader();
        for _ in 0..100 {
            assert_eq!(read(&mut events), Poll::Pending);
        }
        assert_eq!(happenings.kept.borrow().waiting.len(), 1);
        drop(events);
        assert!(happenings.kept.borrow().waiting.is_empty());
    }
}
