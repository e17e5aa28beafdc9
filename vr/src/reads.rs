//! Reading: questions to the group that change nothing.
//!
//! | | answers with | costs | survives |
//! |---|---|---|---|
//! | [`Log`](ReadConsistency::Log) | all that was acknowledged before | what a write costs | |
//! | [`ReadIndex`](ReadConsistency::ReadIndex) | the same | a question to f backups, shared | |
//! | [`Lease`](ReadConsistency::Lease) | the same | nothing, of the primary | good clocks |
//! | [`Local`](ReadConsistency::Local) | an earlier state | nothing, of any replica | |

mod places;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use viewring_protocol::{
    Bug, ClientId, Configuration, Confirming, GetView, NormalView, Read, ReadAnswer,
    ReadConsistency, ReadReply, Reading as Core, ReplicaId, RequestNumber, RoundNumber, wire,
};
use viewring_runtime::random;
use viewring_runtime::time::{Instant, sleep, timeout_at};

use self::places::Places;
use crate::client::{CallError, Client, INBOX_MAX, Session, Shared};

/// What a read was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The state machine's answer.
    pub result: Rc<[u8]>,
    /// How many operations the state had executed that it was read from, registrations and the like
    /// included: what one reading holds that another with a lower number does not.
    pub as_of: u64,
    /// Whether operations may be missing that had been acknowledged before the read was asked: so
    /// of every [`Local`](ReadConsistency::Local) read.
    pub stale: bool,
}

/// Who asks the backups, for a [`ReadIndex`](ReadConsistency::ReadIndex) read, whether the primary
/// leads still. The answers are as good either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConfirmedBy {
    /// The primary, once for all reads of all clients that wait: two round trips, and the least
    /// work for a group that is read by many.
    Primary,
    /// The reader, while the primary answers: one round trip. It is one question for all reads of
    /// a [`Client`] that are asked in one turn; a lone one costs as much again as the read.
    Reader,
    /// The reader if more reads of the client are under way, and the primary for a lone one.
    #[default]
    Cheaper,
}

/// How long a read waits that the primary was too busy to take.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

impl Client {
    /// Has [`StateMachine::query`](crate::StateMachine::query) answer a question. It needs no
    /// session, and any number may be under way.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing, anywhere.
    ///
    /// # Errors
    /// [`CallError::NoAnswer`] when the deadline passes; [`CallError::TooLarge`];
    /// [`CallError::Socket`].
    pub async fn query(
        &self,
        query: &[u8],
        consistency: ReadConsistency,
    ) -> Result<Reading, CallError> {
        let shared = &*self.shared;
        let waiting = shared.reads.begin();
        let read = Read {
            client: shared.reads.id,
            number: waiting.number,
            consistency,
            confirms: consistency == ReadConsistency::ReadIndex && shared.confirms(),
            body: query,
        };
        let mut core = Core::new(read, shared.group, shared.view.get());
        let mut now = Instant::now();
        let give_up_at = now + shared.config.deadline;
        let mut retry_at = now + shared.config.retry;
        shared.send_read(&core);
        loop {
            if now >= give_up_at {
                return Err(CallError::NoAnswer);
            }
            if now >= retry_at {
                retry_at = now + shared.config.retry;
                if core.read().confirms {
                    shared.reads.confirming.borrow_mut().doubt();
                }
                core.retry();
                shared.send_read(&core);
            }
            let until = retry_at.min(give_up_at);
            let Ok(reply) = timeout_at(until, waiting.reply(shared)).await else {
                now = Instant::now();
                continue;
            };
            let reply = reply?;
            shared.view.set(shared.view.get().max(reply.view));
            match core.on_reply(reply) {
                ReadAnswer::Result { as_of, stale, body } => {
                    return Ok(Reading {
                        result: body,
                        as_of: as_of.0,
                        stale,
                    });
                }
                ReadAnswer::Redirected(_) => shared.send_read(&core),
                ReadAnswer::Busy => {
                    sleep(BUSY_PAUSE.min(give_up_at - Instant::now())).await;
                    shared.send_read(&core);
                }
                ReadAnswer::TooLarge => return Err(CallError::TooLarge),
                ReadAnswer::Ignored => {}
            }
            now = Instant::now();
        }
    }
}

impl Session {
    /// As [`Client::query`]. A linearizable read sees every call of this session that was answered;
    /// a call whose outcome is unknown need not be settled first.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing, anywhere.
    ///
    /// # Errors
    /// As for [`Client::query`].
    pub async fn query(
        &self,
        query: &[u8],
        consistency: ReadConsistency,
    ) -> Result<Reading, CallError> {
        self.client().query(query, consistency).await
    }
}

impl Shared {
    /// Whether a read that begins asks the backups itself.
    fn confirms(&self) -> bool {
        match self.config.confirmed_by {
            ConfirmedBy::Primary => false,
            ConfirmedBy::Reader => true,
            ConfirmedBy::Cheaper => self.reads.waiting.borrow().len() > 1,
        }
    }

    /// Queues a read; the pump asks the backups, if need be, and flushes.
    fn send_read(&self, core: &Core<&[u8]>) {
        self.send(core.target(), wire::kind::READ, |out| {
            wire::encode_read(core.read(), out);
        });
        if core.read().confirms {
            self.reads.is_to_ask.set(true);
        }
        self.wake_pump();
    }

    /// Asks the backups in which view they are, once for all reads that were queued since it did.
    pub(crate) fn ask_backups(&self) {
        if !self.reads.is_to_ask.take() {
            return;
        }
        let (number, backups) = self.reads.confirming.borrow_mut().ask(self.view.get());
        let client = self.reads.id;
        let address = |backup: ReplicaId| self.config.replicas[usize::from(backup.0)];
        let to = backups.iter().map(address);
        self.send_to(to, wire::kind::GET_VIEW, |out| {
            wire::encode_get_view(&GetView { client, number }, out);
        });
    }
}

/// The reads of one client that are under way.
pub(crate) struct Reads {
    /// Unique to the client, and registered nowhere.
    id: ClientId,
    count: Cell<u64>,
    waiting: RefCell<Places<Slot>>,
    confirming: RefCell<Confirming>,
    /// A read was queued that waits for the next question to the backups.
    is_to_ask: Cell<bool>,
    /// Empty; kept for its capacity.
    wakers: Cell<Vec<Waker>>,
}

struct Slot {
    /// The question to the backups that was the next one when the read was asked.
    asked: RoundNumber,
    /// An answer that is true if they say so: the latest view's.
    unconfirmed: Option<ReadReply>,
    /// The first reply that the read has not acted on.
    first: Option<ReadReply>,
    /// Those behind it, which are rare. At most a few in all: the oldest is dropped, which is a
    /// stale one.
    others: Vec<ReadReply>,
    waker: Option<Waker>,
}

impl Slot {
    /// A reply for the read to act on. Whom to wake.
    fn put(&mut self, reply: ReadReply) -> Option<Waker> {
        if self.others.len() + 1 == INBOX_MAX {
            let _stale = self.next();
        }
        if self.first.is_none() {
            self.first = Some(reply);
        } else {
            self.others.push(reply);
        }
        self.waker.take()
    }

    /// The next reply for the read to act on.
    fn next(&mut self) -> Option<ReadReply> {
        let next = self.first.take();
        if !self.others.is_empty() {
            self.first = Some(self.others.remove(0));
        }
        next
    }

    /// A reply has come, or what there is may be confirmed by now.
    fn consider(&mut self, reply: ReadReply, confirming: &Confirming) -> Option<Waker> {
        match confirming.confirm(self.asked, reply) {
            Ok(reply) => return self.put(reply),
            Err(unconfirmed) => {
                let held = self
                    .unconfirmed
                    .take()
                    .filter(|held| held.view > unconfirmed.view);
                self.unconfirmed = held.or(Some(unconfirmed));
            }
        }
        None
    }
}

impl Reads {
    pub(crate) fn new(group: Configuration) -> Self {
        Self {
            id: ClientId(random()),
            count: Cell::new(0),
            waiting: RefCell::new(Places::new()),
            confirming: RefCell::new(Confirming::new(group, RoundNumber(random() >> 1))),
            is_to_ask: Cell::new(false),
            wakers: Cell::default(),
        }
    }

    pub(crate) fn plant(&self, bug: Bug) {
        self.confirming.borrow_mut().plant(bug);
    }

    /// A read begins, under a number that no other has.
    fn begin(&self) -> Waiting<'_> {
        self.count.set(self.count.get() + 1);
        let number = RequestNumber(self.count.get());
        let slot = Slot {
            asked: self.confirming.borrow().next(),
            unconfirmed: None,
            first: None,
            others: Vec::new(),
            waker: None,
        };
        self.waiting.borrow_mut().push(number, slot);
        Waiting {
            reads: self,
            number,
        }
    }

    /// A reply has come: of a read that has ended, perhaps.
    pub(crate) fn deliver(&self, reply: ReadReply) {
        if reply.client != self.id {
            return;
        }
        let waker = match self.waiting.borrow_mut().get_mut(reply.number) {
            Some(slot) => slot.consider(reply, &self.confirming.borrow()),
            None => None,
        };
        waker.into_iter().for_each(Waker::wake);
    }

    /// A replica says in which view it is: answers may be confirmed by that.
    pub(crate) fn hear(&self, from: ReplicaId, told: &NormalView) {
        if told.client != self.id || !self.confirming.borrow_mut().on_normal_view(from, told) {
            return;
        }
        let mut wakers = self.wakers.take();
        let confirming = self.confirming.borrow();
        for slot in self.waiting.borrow_mut().values_mut() {
            if let Some(reply) = slot.unconfirmed.take() {
                wakers.extend(slot.consider(reply, &confirming));
            }
        }
        drop(confirming);
        wakers.drain(..).for_each(Waker::wake);
        self.wakers.set(wakers);
    }

    /// The socket has failed: all who wait look.
    pub(crate) fn wake_all(&self) {
        let slots = self.waiting.borrow_mut();
        let wakers: Vec<Waker> = { slots }
            .values_mut()
            .filter_map(|slot| slot.waker.take())
            .collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// A read's place; dropping it gives the place up.
struct Waiting<'a> {
    reads: &'a Reads,
    number: RequestNumber,
}

impl Waiting<'_> {
    /// The next reply. Dropping the wait loses none.
    async fn reply(&self, shared: &Shared) -> Result<ReadReply, CallError> {
        poll_fn(|cx| {
            let mut waiting = self.reads.waiting.borrow_mut();
            let slot = waiting.get_mut(self.number).expect("it has a place");
            if let Some(reply) = slot.next() {
                return Poll::Ready(Ok(reply));
            }
            if let Some(failed) = shared.failure() {
                return Poll::Ready(Err(failed));
            }
            slot.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let slot = self.reads.waiting.borrow_mut().remove(self.number);
        drop(slot); // a waker may run code that comes back here
    }
}
