//! The client: calls operations of the group, each exactly once.
//!
//! A [`Client`] is one socket and any number of [`Session`]s on it. A session is registered with
//! the group and has one call in flight; the group remembers its last call, so that asking again is
//! always safe. When no answer comes it asks again, and everybody, and so finds the new primary
//! after a view change. When its deadline passes it says so and does not guess: see
//! [`CallError::Unknown`].

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use thiserror::Error;
use viewring_protocol::{
    Answer, ClientId, Configuration, Message, ReplicaId, Reply, Session as Core, SessionError,
    Target, View, wire,
};
use viewring_runtime::net::UdpOptions;
use viewring_runtime::time::{Instant, timeout_at};
use viewring_runtime::{JoinHandle, random, spawn};
use viewring_transport::{Endpoint, EndpointConfig, Message as Datum, Sender};

use crate::node::{ConfigError, Planted, group_of};
use crate::reads::{ConfirmedBy, Reads};
use crate::status::any_port_towards;

/// How a client reaches a group.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Names the group; as the replicas have it.
    pub cluster: u64,
    /// The addresses of all replicas, in the same order everywhere.
    pub replicas: Vec<SocketAddr>,
    /// A call that has no answer after so long is sent again, to all.
    pub retry: Duration,
    /// A call that has no answer after so long is given up, its outcome unknown.
    pub deadline: Duration,
    /// Who asks the backups, for a read-index read, whether the primary leads still.
    pub confirmed_by: ConfirmedBy,
    /// How many bytes a datagram may carry.
    pub datagram_bytes: usize,
    /// How many receive buffers the client's socket has.
    pub recv_buffers: usize,
}

impl ClientConfig {
    /// A client of the group at `replicas`, with defaults.
    pub fn new(cluster: u64, replicas: Vec<SocketAddr>) -> Self {
        Self {
            cluster,
            replicas,
            retry: Duration::from_millis(100),
            deadline: Duration::from_secs(10),
            confirmed_by: ConfirmedBy::default(),
            datagram_bytes: EndpointConfig::DEFAULT_BUDGET,
            recv_buffers: 256,
        }
    }
}

/// Why a call has no result.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CallError {
    /// The deadline passed. The operation was executed, or will be, or never: unknown. The session
    /// still has it in flight: [`Session::settle`] asks again, with the same number.
    #[error("no answer in time: the outcome of request {number} is unknown")]
    Unknown {
        /// Its request-number.
        number: u64,
    },
    /// An earlier call's outcome is unknown: settle it first.
    #[error("the outcome of request {number} is unknown and has to be settled first")]
    Unsettled {
        /// The request-number of the earlier call.
        number: u64,
    },
    /// The deadline of a read passed, or of a registration: no operation was asked for, and nothing
    /// was changed.
    #[error("no answer in time")]
    NoAnswer,
    /// There is no earlier call to settle.
    #[error("no call is in flight")]
    NothingToSettle,
    /// The group does not know the session: it is another group, or the session is over. Whether
    /// the call was executed is unknown and cannot be learned.
    #[error("the group does not know this session")]
    SessionLost,
    /// The group has ended the session: there were too many clients and this one was silent
    /// longest, or another has registered under its id. Whether the call was executed is unknown
    /// and cannot be learned.
    #[error("the group has ended this session")]
    SessionEvicted,
    /// The operation is larger than the replicas take. It was not executed.
    #[error("the operation is larger than the group allows")]
    TooLarge,
    /// The operation was executed, and its result is larger than the group allows. It cannot be
    /// learned; asking again would be answered with the same.
    #[error("the operation was executed, but its result is larger than the group allows")]
    ResultTooLarge,
    /// The session has used all its request-numbers.
    #[error("the session has used all its request-numbers")]
    Exhausted,
    /// The client's socket has failed.
    #[error("the client's socket has failed: {0}")]
    Socket(String),
}

/// A socket towards a group, shared by its sessions. Cloning gives another handle to it.
///
/// When the last handle and the last session are gone the socket is closed.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Rc<Shared>,
    _pump: Rc<AbortOnDrop>,
}

struct AbortOnDrop(Option<JoinHandle<()>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(JoinHandle::abort);
    }
}

pub(crate) struct Shared {
    endpoint: Endpoint,
    pub(crate) group: Configuration,
    pub(crate) config: ClientConfig,
    /// The latest view that any session heard of: new ones begin there.
    pub(crate) view: Cell<View>,
    pub(crate) reads: Reads,
    /// Where replies go: to a client, whichever life of it.
    inboxes: RefCell<BTreeMap<(ClientId, u64), Rc<Inbox>>>,
    pump: RefCell<Option<Waker>>,
    /// Kept between sends for its capacity.
    encoded: RefCell<Vec<u8>>,
    failed: RefCell<Option<String>>,
    replies_dropped: Cell<u64>,
}

/// The replies for one session. At most a few: an answer is taken before the next call.
#[derive(Default)]
struct Inbox {
    replies: RefCell<Vec<Reply>>,
    waker: RefCell<Option<Waker>>,
}

/// More replies than this are stale ones, and the oldest is dropped.
pub(crate) const INBOX_MAX: usize = 8;
/// At most so many messages are handed on before sessions get to run.
const MESSAGES_PER_TURN: usize = 256;

impl Client {
    /// Opens a socket towards the group. Talks to nobody yet.
    ///
    /// # Errors
    /// [`ConfigError`] when the addresses make no group or no socket can be had.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn new(config: ClientConfig) -> Result<Self, ConfigError> {
        let group = group_of(&config.replicas)?;
        let addr = any_port_towards(&config.replicas);
        let default = EndpointConfig::default();
        let endpoint = EndpointConfig {
            cluster: config.cluster,
            sender: Sender(random()),
            budget: config.datagram_bytes,
            socket: UdpOptions {
                recv_buffers: config.recv_buffers,
                ..default.socket
            },
            ..default
        };
        let endpoint =
            Endpoint::bind(addr, endpoint).map_err(|error| ConfigError::Bind(addr, error))?;
        let shared = Rc::new(Shared {
            endpoint,
            group,
            config,
            view: Cell::new(View::ZERO),
            reads: Reads::new(group),
            inboxes: RefCell::default(),
            pump: RefCell::default(),
            encoded: RefCell::default(),
            failed: RefCell::default(),
            replies_dropped: Cell::new(0),
        });
        let pump = spawn(pump(Rc::clone(&shared)));
        Ok(Self {
            shared,
            _pump: Rc::new(AbortOnDrop(Some(pump))),
        })
    }

    /// Registers a new session with the group.
    ///
    /// # Cancel safety
    /// Dropping it may leave a session registered that nobody uses; the group forgets it when it
    /// needs the room.
    ///
    /// # Errors
    /// [`CallError::NoAnswer`] when the group does not answer in time.
    pub async fn session(&self) -> Result<Session, CallError> {
        self.session_as(random()).await
    }

    /// Registers a new session under an id of the caller's choice. A session that is registered
    /// under this id ends: that of an earlier life of the caller, whose late requests are then not
    /// executed; or that of another client that has taken the same id by mistake.
    ///
    /// # Cancel safety
    /// As for [`session`](Self::session).
    ///
    /// # Errors
    /// As for [`session`](Self::session).
    pub async fn session_as(&self, id: u64) -> Result<Session, CallError> {
        let (id, life) = (ClientId(id), random());
        let inbox = Rc::<Inbox>::default();
        self.shared
            .inboxes
            .borrow_mut()
            .insert((id, life), Rc::clone(&inbox));
        let core = Core::new(id, self.shared.group).with_life(life);
        let mut session = Session {
            client: self.clone(),
            id,
            life,
            inbox,
            core,
        };
        session.core.register().map_err(CallError::of)?;
        let registered = session.finish().await;
        if let Err(CallError::Unknown { .. }) = registered {
            return Err(CallError::NoAnswer);
        }
        registered?;
        Ok(session)
    }

    /// Makes it err: for tests of tests.
    #[doc(hidden)]
    pub fn plant(&self, bug: Planted) {
        if let Planted::Decision(bug) = bug {
            self.shared.reads.plant(bug);
        }
    }

    /// Where its socket is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.endpoint.local_addr()
    }

    /// The latest view heard of, which names the presumed primary.
    pub fn view(&self) -> u64 {
        self.shared.view.get().0
    }
}

/// One registered client of the group, with one call in flight at a time.
///
/// The group has room for so many. Who is done [closes](Self::close) its session; a session that is
/// only dropped stays registered until the group needs its room and it was silent longest.
pub struct Session {
    client: Client,
    id: ClientId,
    life: u64,
    inbox: Rc<Inbox>,
    core: Core,
}

impl Session {
    /// Has the group execute `operation` and returns its result.
    ///
    /// # Cancel safety
    /// Dropping it leaves the outcome unknown, as an [`Unknown`](CallError::Unknown) does:
    /// [`settle`](Self::settle) before the next call.
    ///
    /// # Errors
    /// See [`CallError`]; only [`TooLarge`](CallError::TooLarge) says that nothing was executed.
    pub async fn call(&mut self, operation: &[u8]) -> Result<Rc<[u8]>, CallError> {
        if self.core.session().is_none() {
            return Err(CallError::SessionLost);
        }
        if let Some(pending) = self.core.pending() {
            return Err(CallError::Unsettled {
                number: pending.number.0,
            });
        }
        self.core.call(operation.into()).map_err(CallError::of)?;
        self.finish().await
    }

    /// Asks again for the call whose outcome is unknown, and returns its result. If the group never
    /// saw it, it is executed now.
    ///
    /// # Cancel safety
    /// Dropping it leaves the outcome unknown.
    ///
    /// # Errors
    /// [`CallError::NothingToSettle`], and those of [`call`](Self::call).
    pub async fn settle(&mut self) -> Result<Rc<[u8]>, CallError> {
        if self.core.pending().is_none() {
            return Err(CallError::NothingToSettle);
        }
        self.finish().await
    }

    /// Ends the session, which leaves its room in the group to others. A call whose outcome is
    /// unknown is settled first.
    ///
    /// # Cancel safety
    /// Dropping it leaves open whether the session has ended.
    ///
    /// # Errors
    /// [`CallError::Unknown`] when the group does not answer in time.
    pub async fn close(mut self) -> Result<(), CallError> {
        if self.core.pending().is_some()
            && let Err(error @ (CallError::Unknown { .. } | CallError::Socket(_))) =
                self.finish().await
        {
            return Err(error);
        }
        match self.core.close() {
            Ok(_) => self.finish().await.map(|_nothing| ()),
            Err(SessionError::NotRegistered) => Ok(()), // it has ended already
            Err(error) => Err(CallError::of(error)),
        }
    }

    /// The op-number of its registration, which names it: no other session of the group has it.
    /// `None` once the session has ended.
    pub fn registration(&self) -> Option<u64> {
        self.core.session().map(|session| session.0)
    }

    /// The number of the call in flight, or else of the next one.
    pub fn number(&self) -> u64 {
        self.core.number().0
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The client's id.
    pub fn id(&self) -> u64 {
        self.id.0
    }

    /// Sends the request in flight until there is an answer or the deadline passes. A session that
    /// registers or ends is given the empty result.
    async fn finish(&mut self) -> Result<Rc<[u8]>, CallError> {
        let Self {
            client,
            inbox,
            core,
            ..
        } = self;
        let shared = &*client.shared;
        let number = core.number().0;
        let mut now = Instant::now();
        let give_up_at = now + shared.config.deadline;
        let mut again = Again::unless_answered(now, shared.config.retry, 0);
        let (mut retries, mut pauses) = (0, 0_u32);
        inbox.replies.borrow_mut().clear();
        shared.send_pending(core);
        loop {
            // Deadlines, since not every reply is an answer: a stream of others puts off neither.
            if now >= give_up_at {
                return Err(CallError::Unknown { number });
            }
            if now >= again.at {
                if again.is_retry {
                    core.retry();
                    retries += 1;
                }
                again = Again::unless_answered(now, shared.config.retry, retries);
                shared.send_pending(core);
            }
            let until = again.at.min(give_up_at);
            let Ok(reply) = timeout_at(until, inbox.next(shared)).await else {
                now = Instant::now();
                continue;
            };
            let reply = reply?;
            shared.view.set(shared.view.get().max(reply.view));
            match core.on_reply(&reply) {
                Answer::Registered | Answer::Closed => return Ok(Rc::default()),
                Answer::Result(result) => return Ok(result),
                Answer::Redirected(_) => {
                    again = Again::unless_answered(Instant::now(), shared.config.retry, 0);
                    shared.send_pending(core);
                }
                Answer::Busy { retry_after_ms } => {
                    pauses += 1;
                    again = Again::after_pause(Instant::now(), retry_after_ms);
                    // It may have been replaced, and have room never again.
                    again.is_retry = pauses.is_multiple_of(PAUSES);
                }
                Answer::SessionLost => return Err(CallError::SessionLost),
                Answer::Evicted => return Err(CallError::SessionEvicted),
                Answer::ResultTooLarge => return Err(CallError::ResultTooLarge),
                Answer::TooLarge => return Err(CallError::TooLarge),
                Answer::Ignored => {}
            }
            now = Instant::now();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut inboxes = self.client.shared.inboxes.borrow_mut();
        inboxes.remove(&(self.id, self.life));
    }
}

/// When a request is sent again.
struct Again {
    at: Instant,
    /// Since there was no answer: to everybody. Else the group has asked for a pause.
    is_retry: bool,
}

impl Again {
    /// After as long as a client of so many `retries` waits for an answer. The first few follow one
    /// another evenly, since a view change takes about as long; then the waits double, so that many
    /// clients do not keep down a group that is slow because it has many.
    fn unless_answered(now: Instant, retry: Duration, retries: u32) -> Self {
        let doublings = retries.saturating_sub(EVEN_RETRIES).min(DOUBLINGS_MAX);
        Self {
            at: now + jittered(retry * 2u32.pow(doublings)),
            is_retry: true,
        }
    }

    /// After as long as the group has asked for, and not all at once.
    fn after_pause(now: Instant, pause_ms: u32) -> Self {
        let pause = Duration::from_millis(u64::from(pause_ms)).clamp(PAUSE_MIN, PAUSE_MAX);
        Self {
            at: now + jittered(pause),
            is_retry: false,
        }
    }
}

/// So many retries are not slowed down.
const EVEN_RETRIES: u32 = 4;
/// A retry waits at most `2^3` times as long as the first.
const DOUBLINGS_MAX: u32 = 3;
/// After so many pauses a request goes to everybody.
const PAUSES: u32 = 3;
/// No pause is shorter or longer, whoever asks for it.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// `duration`, and up to half as much again by chance, so that clients do not act at once.
fn jittered(duration: Duration) -> Duration {
    let chance = (random() % 1024) as u32;
    duration + duration * chance / 2048
}

impl CallError {
    fn of(error: SessionError) -> Self {
        match error {
            SessionError::Exhausted => Self::Exhausted,
            SessionError::NotRegistered => Self::SessionLost,
            SessionError::InFlight | SessionError::Registered => {
                unreachable!("checked before: {error}")
            }
        }
    }
}

impl Shared {
    /// Queues the request in flight; the pump flushes when all tasks that are ready have queued
    /// theirs, so that requests of one turn share datagrams.
    fn send_pending(&self, core: &Core) {
        let Some(request) = core.pending() else {
            return;
        };
        // A session that has heard nothing yet profits from what its siblings know.
        let target = match core.target() {
            Target::Primary(_) => {
                Target::Primary(self.group.primary(core.view().max(self.view.get())))
            }
            Target::All => Target::All,
        };
        self.send(target, wire::kind::REQUEST, |out| {
            wire::encode_request(request, out);
        });
        self.wake_pump();
    }

    pub(crate) fn wake_pump(&self) {
        let pump = self.pump.borrow_mut().take();
        pump.into_iter().for_each(Waker::wake);
    }

    /// Why nothing can be sent or heard any more, if so.
    pub(crate) fn failure(&self) -> Option<CallError> {
        self.failed.borrow().clone().map(CallError::Socket)
    }

    /// Queues the message that `encode` writes.
    pub(crate) fn send(&self, target: Target, kind: u8, encode: impl FnOnce(&mut Vec<u8>)) {
        let to: &[SocketAddr] = match target {
            Target::Primary(ReplicaId(id)) => {
                std::slice::from_ref(&self.config.replicas[usize::from(id)])
            }
            Target::All => &self.config.replicas,
        };
        self.send_to(to.iter().copied(), kind, encode);
    }

    /// Queues the message that `encode` writes.
    pub(crate) fn send_to(
        &self,
        to: impl IntoIterator<Item = SocketAddr>,
        kind: u8,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        let mut body = self.encoded.borrow_mut();
        body.clear();
        encode(&mut body);
        // Longer than the transport's limit, it is lost, and the call runs into its deadline; the
        // replicas' own limit is far below.
        let _too_long = self.endpoint.send_to_many(to, kind, &body).is_err();
    }

    /// Hands on what a replica says: only replicas answer.
    fn take(&self, message: &Datum) {
        let replicas = &self.config.replicas;
        let Some(from) = replicas.iter().position(|&addr| addr == message.from) else {
            return;
        };
        let from = ReplicaId(u8::try_from(from).expect("a group is small"));
        match wire::decode(message.kind, &message.body) {
            Ok(Message::Reply(reply)) => self.deliver(reply),
            Ok(Message::ReadReply(reply)) => self.reads.deliver(reply),
            // Who counts towards a quorum must be who it says, if the order of addresses differs.
            Ok(Message::NormalView(told)) if message.sender == Sender(u64::from(from.0)) => {
                self.reads.hear(from, &told);
            }
            Ok(_) | Err(_) => {}
        }
    }

    fn deliver(&self, reply: Reply) {
        let lives = (reply.client, 0)..=(reply.client, u64::MAX);
        let inboxes = self.inboxes.borrow();
        let mut inboxes = inboxes.range(lives).map(|(_, inbox)| inbox).peekable();
        if inboxes.peek().is_none() {
            self.replies_dropped.set(self.replies_dropped.get() + 1);
        }
        for inbox in inboxes {
            inbox.put(reply.clone());
        }
    }

    fn fail(&self, error: &io::Error) {
        *self.failed.borrow_mut() = Some(error.to_string());
        let inboxes: Vec<Rc<Inbox>> = self.inboxes.borrow().values().cloned().collect();
        for inbox in inboxes {
            let waker = inbox.waker.borrow_mut().take();
            waker.into_iter().for_each(Waker::wake);
        }
        self.reads.wake_all();
    }
}

impl Inbox {
    fn put(&self, reply: Reply) {
        let mut replies = self.replies.borrow_mut();
        if replies.len() == INBOX_MAX {
            replies.remove(0);
        }
        replies.push(reply);
        drop(replies);
        let waker = self.waker.borrow_mut().take();
        waker.into_iter().for_each(Waker::wake);
    }

    /// The next reply. Dropping the wait loses none.
    async fn next(&self, shared: &Shared) -> Result<Reply, CallError> {
        poll_fn(|cx| {
            if !self.replies.borrow().is_empty() {
                return Poll::Ready(Ok(self.replies.borrow_mut().remove(0)));
            }
            if let Some(failed) = shared.failure() {
                return Poll::Ready(Err(failed));
            }
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// Hands replies to their sessions, and flushes what sessions have queued.
async fn pump(shared: Rc<Shared>) {
    loop {
        let mut received = pin!(shared.endpoint.recv());
        let received = poll_fn(|cx| {
            *shared.pump.borrow_mut() = Some(cx.waker().clone());
            shared.ask_backups();
            shared.endpoint.flush();
            received.as_mut().poll(cx)
        })
        .await;
        let message = match received {
            Ok(message) => message,
            Err(error) => return shared.fail(&error),
        };
        shared.take(&message);
        for _ in 1..MESSAGES_PER_TURN {
            let Some(message) = shared.endpoint.try_recv() else {
                break;
            };
            shared.take(&message);
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("replicas", &self.shared.config.replicas)
            .field("view", &self.view())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id.0)
            .field("core", &self.core)
            .finish()
    }
}
