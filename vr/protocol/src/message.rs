//! What replicas and clients say to each other.
//!
//! The sender's id (the paper's `i`) is not in a message: the transport knows it, and hands it
//! to [`Replica::on_message`](crate::Replica::on_message).

use crate::checkpoint::Summary;
use crate::ids::{
    Checksum, ClientId, Incarnation, Nonce, OpNumber, RequestNumber, RoundNumber, View,
};
use crate::log::{Entry, Kind, Tail};
use alloc::rc::Rc;
use alloc::vec::Vec;

/// Any message of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Client to primary.
    Request(Request),
    /// Primary to client.
    Reply(Reply),
    /// Primary to backups.
    Prepare(Prepare),
    /// Backup to primary.
    PrepareOk(PrepareOk),
    /// Idle primary to backups.
    Commit(Commit),
    /// Replica to all.
    StartViewChange(StartViewChange),
    /// Replica to the new primary.
    DoViewChange(DoViewChange),
    /// New primary to all others.
    StartView(StartView),
    /// A replica that lacks entries to another.
    GetState(GetState),
    /// The answer to `GetState`.
    NewState(NewState),
    /// Replica to all, while a group forms.
    Hello(Hello),
    /// A replica that fetches a checkpoint to another.
    GetCheckpoint(GetCheckpoint),
    /// The answer to `GetCheckpoint`, and to a `GetState` for what is behind a checkpoint.
    CheckpointChunk(CheckpointChunk),
    /// Client to a replica: a question that changes nothing.
    Read(Read),
    /// The answer to `Read`.
    ReadReply(ReadReply),
    /// Primary to backups: does it lead still?
    Round(Round),
    /// Backup to primary: it does.
    RoundOk(RoundOk),
    /// Reader to backups: in which view are they?
    GetView(GetView),
    /// The answer to `GetView`.
    NormalView(NormalView),
    /// A member that has lost its memory to all.
    Recovery(Recovery),
    /// The answer to `Recovery`.
    RecoveryResponse(RecoveryResponse),
}

/// A client asks for an operation, or to be registered (VRR §4.1, step 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asks.
    pub client: ClientId,
    /// The op-number of its registration. When it registers: the client's life, a number that
    /// tells this registration from others under the same id.
    pub session: OpNumber,
    /// The client's count of its requests, from 1; zero when it registers.
    pub number: RequestNumber,
    /// What is asked.
    pub kind: Kind,
    /// The operation, for the state machine to understand. Of a registration: where replies go,
    /// for the replicas' callers to understand, at most
    /// [`RETURN_ADDRESS_BYTES_MAX`](crate::RETURN_ADDRESS_BYTES_MAX); they write it, the client
    /// does not know it.
    pub body: Rc<[u8]>,
}

/// A replica answers a client (VRR §4.1, step 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The view of the replica that answers: tells the client who is primary.
    pub view: View,
    /// Whom it is for.
    pub client: ClientId,
    /// The session of the request that it answers: a client's lives are not mixed up.
    pub session: OpNumber,
    /// Which request it answers.
    pub number: RequestNumber,
    /// The answer.
    pub outcome: Outcome,
}

/// How a request ended, or why it was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client is registered: committed.
    Registered {
        /// What its operations must carry.
        session: OpNumber,
    },
    /// The operation was executed: committed.
    Result(Rc<[u8]>),
    /// The operation was executed: committed. Its result is longer than the group keeps, and is
    /// not told, now or later.
    ResultTooLarge,
    /// The session has ended: committed. It was closed, or its client was silent longest when
    /// there was no room, or has registered again.
    Evicted,
    /// Not taken: ask the primary of the reply's view.
    NotPrimary,
    /// Not taken: too much is in flight; ask again later.
    Busy {
        /// How much later, in milliseconds: the more are refused, the longer.
        retry_after_ms: u32,
    },
    /// Not taken: this session has never existed.
    NoSession,
    /// Not taken: the body is larger than the replica allows.
    TooLarge,
}

/// The primary proposes entries (VRR §4.1, step 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepare {
    /// The primary's view.
    pub view: View,
    /// The root of the sender's log, which names the group; so in all messages that have it.
    pub root: Checksum,
    /// Consecutive entries, at least one.
    pub entries: Vec<Entry>,
    /// The primary's commit-number.
    pub commit: OpNumber,
}

/// A backup has everything up to `op` (VRR §4.1, step 4). Cumulative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrepareOk {
    /// The view in which it is acknowledged.
    pub view: View,
    /// The last entry of the durable prefix.
    pub op: OpNumber,
    /// The checksum of that entry: proves the prefix to be the primary's.
    pub checksum: Checksum,
}

/// An idle primary's heartbeat (VRR §4.1, step 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The primary's view.
    pub view: View,
    /// The root of the sender's log.
    pub root: Checksum,
    /// The primary's commit-number.
    pub commit: OpNumber,
}

/// A wish to leave for `view`, or word that the sender has left (VRR §4.2, step 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartViewChange {
    /// Where to.
    pub view: View,
    /// The root of the sender's log.
    pub root: Checksum,
    /// False: a vote; the sender still serves its present view. True: the sender is in `view`,
    /// which proves that a quorum voted.
    pub joined: bool,
}

/// What a replica brings into a view (VRR §4.2, step 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoViewChange {
    /// The view to be started.
    pub view: View,
    /// The root of the sender's log.
    pub root: Checksum,
    /// The view whose log the sender's log is a part of (VRR: v', last normal view).
    pub log_view: View,
    /// Commit-number, op-number and the headers between.
    pub tail: Tail,
}

/// The new primary's log (VRR §4.2, step 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartView {
    /// The view that has started.
    pub view: View,
    /// The root of the sender's log.
    pub root: Checksum,
    /// Commit-number, op-number and the headers between.
    pub tail: Tail,
}

/// Asks for the entries after `after` (VRR §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetState {
    /// The sender's view.
    pub view: View,
    /// The last entry that the sender has.
    pub after: OpNumber,
    /// The checksum of that entry.
    pub checksum: Checksum,
    /// To be repeated in the answer.
    pub nonce: Nonce,
    /// As long as how many pages the answer may be.
    pub pages: u8,
}

/// A page of entries (VRR §5.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewState {
    /// The sender's view.
    pub view: View,
    /// That of the question.
    pub nonce: Nonce,
    /// Consecutive entries, from the one that was asked for.
    pub entries: Vec<Entry>,
    /// The sender's op-number.
    pub op: OpNumber,
    /// The sender's commit-number.
    pub commit: OpNumber,
}

/// A replica introduces itself while a group forms. Not in the paper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// As which life the sender forms a group.
    pub incarnation: Incarnation,
    /// The lives, one a replica in order, with which it has promised to form a group.
    pub locked: Option<Vec<Incarnation>>,
    /// What the sender is to that group.
    pub standing: Standing,
    /// The sender's view: a hint for humans.
    pub view: View,
}

/// Asks for a piece of a checkpoint. Not in the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetCheckpoint {
    /// The sender's view.
    pub view: View,
    /// To be repeated in the answer.
    pub nonce: Nonce,
    /// Of which checkpoint.
    pub summary: Summary,
    /// Where the piece begins: how much of it the sender has.
    pub offset: u64,
    /// As long as how many pages it may be.
    pub pages: u8,
}

/// A piece of a checkpoint; or the offer of one, if it has no bytes. Not in the paper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointChunk {
    /// The sender's view.
    pub view: View,
    /// That of the question.
    pub nonce: Nonce,
    /// Of which checkpoint.
    pub summary: Summary,
    /// Where the piece begins.
    pub offset: u64,
    /// The piece.
    pub bytes: Rc<[u8]>,
}

impl Request {
    /// What tells it from all others.
    pub(crate) fn id(&self) -> (ClientId, OpNumber, RequestNumber) {
        (self.client, self.session, self.number)
    }
}

/// How fresh the answer to a read must be, and what it costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReadConsistency {
    /// Linearizable: the read waits for an entry of its own in the log. Costs what a write costs.
    Log,
    /// Linearizable: f backups are asked whether the primary leads still, by the reader itself
    /// while the primary answers, or by the primary, once for all reads that wait. Costs no entry.
    #[default]
    ReadIndex,
    /// Linearizable while clocks drift no faster than they may: a primary to whom f backups have
    /// promised to elect no other answers alone. Where leases are off, or none holds at the
    /// moment, it is a `ReadIndex`.
    Lease,
    /// Any replica answers from what it has executed: a state that was committed, perhaps a while
    /// ago. The answer says which.
    Local,
}

/// A client asks something that changes nothing (VRR §6.3). Whoever asks need only lend the bytes
/// of the question; who is asked shares them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read<B = Rc<[u8]>> {
    /// Who asks: an id of its own, which need not be registered.
    pub client: ClientId,
    /// The client's count of its reads.
    pub number: RequestNumber,
    /// How fresh the answer must be.
    pub consistency: ReadConsistency,
    /// Of a [`ReadIndex`](ReadConsistency::ReadIndex) read: the reader asks the backups itself
    /// whether the primary leads still ([`GetView`]), so the primary does not, and answers with
    /// [`Unconfirmed`](ReadOutcome::Unconfirmed). Of others it means nothing.
    pub confirms: bool,
    /// The question, for the state machine to understand.
    pub body: B,
}

impl<B> Read<B> {
    /// Whether the reader asks f backups itself whether the primary leads still.
    pub(crate) fn is_left_to_reader(&self) -> bool {
        self.confirms && self.consistency == ReadConsistency::ReadIndex
    }
}

/// A replica answers a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadReply {
    /// The view of the replica that answers: tells the client who is primary.
    pub view: View,
    /// Whom it is for.
    pub client: ClientId,
    /// Which read it answers.
    pub number: RequestNumber,
    /// The answer.
    pub outcome: ReadOutcome,
}

/// How a read ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// The state machine's answer.
    Result {
        /// The last operation that the state it was read from had executed.
        as_of: OpNumber,
        /// Whether later operations may have been acknowledged before the read was asked: so of
        /// every [`Local`](ReadConsistency::Local) read.
        stale: bool,
        /// What the state machine said.
        body: Rc<[u8]>,
    },
    /// The same, of the primary of the reply's view, if it leads that still: it has not asked. See
    /// [`Confirming`](crate::Confirming).
    Unconfirmed {
        /// The last operation that the state it was read from had executed.
        as_of: OpNumber,
        /// The root of the primary's log, which names the group.
        root: Checksum,
        /// What the state machine said.
        body: Rc<[u8]>,
    },
    /// Not taken: ask the primary of the reply's view.
    NotPrimary,
    /// Not taken: too many reads wait; ask again later.
    Busy,
    /// Not taken: the question is larger than the replica allows.
    TooLarge,
}

/// A primary asks whether it leads its view still. Not in the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// The primary's view.
    pub view: View,
    /// The root of the sender's log.
    pub root: Checksum,
    /// Which round.
    pub number: RoundNumber,
}

/// A backup is normal in the view and has heard the round. It has heard earlier ones, too, or
/// might have: cumulative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundOk {
    /// The view in which it is said.
    pub view: View,
    /// The latest round that was heard.
    pub number: RoundNumber,
    /// For so many microseconds from now on the backup takes part in no other view; zero: no
    /// promise.
    pub promise_us: u32,
}

/// A reader asks a replica in which view it is. Not in the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetView {
    /// Who asks: the client of its reads.
    pub client: ClientId,
    /// To be repeated in the answer: that of no other question of this client.
    pub number: RoundNumber,
}

/// The sender was a backup of this view, normal, after it was asked. Not in the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NormalView {
    /// In which view.
    pub view: View,
    /// The root of the sender's log.
    pub root: Checksum,
    /// Whom it is for.
    pub client: ClientId,
    /// That of the question.
    pub number: RoundNumber,
}

/// What a replica is to the group that it has promised to form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does not know of it that it has formed.
    Forming,
    /// The group has formed, and the sender is of it.
    Member,
    /// The same, and it has lost its memory.
    Recovering,
}

/// A member that has lost its memory asks for it (VRR §4.3, step 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// The highest view that the sender has joined, in any life.
    pub view: View,
    /// The root of the sender's log.
    pub root: Checksum,
    /// To be repeated in the answer.
    pub nonce: Nonce,
}

/// A normal replica answers who has lost its memory (VRR §4.3, step 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryResponse {
    /// The sender's view.
    pub view: View,
    /// The root of the sender's log.
    pub root: Checksum,
    /// That of the question.
    pub nonce: Nonce,
    /// From the primary of the view, and from nobody else: commit-number, op-number and the
    /// headers between.
    pub tail: Option<Tail>,
}

impl Message {
    /// The group whose messages it belongs to, as the root of its logs. None: what else it
    /// carries, a checksum of the log, a digest or a nonce, fits in one group only.
    pub fn root(&self) -> Option<Checksum> {
        match self {
            Self::Prepare(Prepare { root, .. })
            | Self::Commit(Commit { root, .. })
            | Self::StartViewChange(StartViewChange { root, .. })
            | Self::DoViewChange(DoViewChange { root, .. })
            | Self::StartView(StartView { root, .. })
            | Self::Round(Round { root, .. })
            | Self::Recovery(Recovery { root, .. })
            | Self::RecoveryResponse(RecoveryResponse { root, .. }) => Some(*root),
            Self::PrepareOk(_) | Self::GetState(_) | Self::NewState(_) => None,
            Self::GetCheckpoint(_) | Self::CheckpointChunk(_) => None,
            Self::Request(_) | Self::Reply(_) | Self::Hello(_) => None,
            Self::Read(_) | Self::ReadReply(_) | Self::RoundOk(_) => None,
            Self::GetView(_) | Self::NormalView(_) => None,
        }
    }

    /// The view that its sender must not be able to forget: who says this in a view has made its
    /// number durable. None: a vote promises nothing, and the view in a greeting is for humans.
    pub fn remembered_view(&self) -> Option<View> {
        match self {
            Self::Prepare(Prepare { view, .. })
            | Self::PrepareOk(PrepareOk { view, .. })
            | Self::Commit(Commit { view, .. })
            | Self::DoViewChange(DoViewChange { view, .. })
            | Self::StartView(StartView { view, .. })
            | Self::GetState(GetState { view, .. })
            | Self::NewState(NewState { view, .. })
            | Self::GetCheckpoint(GetCheckpoint { view, .. })
            | Self::CheckpointChunk(CheckpointChunk { view, .. })
            | Self::Round(Round { view, .. })
            | Self::RoundOk(RoundOk { view, .. })
            | Self::Recovery(Recovery { view, .. })
            | Self::RecoveryResponse(RecoveryResponse { view, .. })
            | Self::Reply(Reply { view, .. })
            | Self::ReadReply(ReadReply { view, .. })
            | Self::NormalView(NormalView { view, .. }) => Some(*view),
            Self::StartViewChange(wish) => wish.joined.then_some(wish.view),
            Self::Hello(_) | Self::Request(_) | Self::Read(_) | Self::GetView(_) => None,
        }
    }

    /// Whether a replica that has lost its memory may say it: it asks for that, and does nothing
    /// else (VRR §4.3).
    pub fn asks_for_memory(&self) -> bool {
        match self {
            Self::Recovery(_) | Self::GetState(_) | Self::GetCheckpoint(_) => true,
            Self::Hello(_) => true,
            Self::Prepare(_) | Self::PrepareOk(_) | Self::Commit(_) => false,
            Self::StartViewChange(_) | Self::DoViewChange(_) | Self::StartView(_) => false,
            Self::NewState(_) | Self::CheckpointChunk(_) | Self::RecoveryResponse(_) => false,
            Self::Round(_) | Self::RoundOk(_) | Self::Read(_) | Self::ReadReply(_) => false,
            Self::Request(_) | Self::Reply(_) => false,
            Self::GetView(_) | Self::NormalView(_) => false,
        }
    }

    /// The view that its sender is in, if that can take a replica of an earlier view along.
    pub(crate) fn leads_to(&self) -> Option<View> {
        match self {
            Self::Prepare(Prepare { view, .. })
            | Self::Commit(Commit { view, .. })
            | Self::DoViewChange(DoViewChange { view, .. })
            | Self::StartView(StartView { view, .. })
            | Self::Round(Round { view, .. })
            | Self::Recovery(Recovery { view, .. }) => Some(*view),
            Self::StartViewChange(wish) => wish.joined.then_some(wish.view),
            Self::PrepareOk(_) | Self::GetState(_) | Self::NewState(_) => None,
            Self::GetCheckpoint(_) | Self::CheckpointChunk(_) => None,
            Self::Request(_) | Self::Reply(_) | Self::Hello(_) => None,
            Self::RecoveryResponse(_) => None,
            Self::Read(_) | Self::ReadReply(_) | Self::RoundOk(_) => None,
            Self::GetView(_) | Self::NormalView(_) => None,
        }
    }

    /// The message's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Request(_) => "Request",
            Self::Reply(_) => "Reply",
            Self::Prepare(_) => "Prepare",
            Self::PrepareOk(_) => "PrepareOk",
            Self::Commit(_) => "Commit",
            Self::StartViewChange(_) => "StartViewChange",
            Self::DoViewChange(_) => "DoViewChange",
            Self::StartView(_) => "StartView",
            Self::GetState(_) => "GetState",
            Self::NewState(_) => "NewState",
            Self::Hello(_) => "Hello",
            Self::GetCheckpoint(_) => "GetCheckpoint",
            Self::CheckpointChunk(_) => "CheckpointChunk",
            Self::Read(_) => "Read",
            Self::ReadReply(_) => "ReadReply",
            Self::Round(_) => "Round",
            Self::RoundOk(_) => "RoundOk",
            Self::GetView(_) => "GetView",
            Self::NormalView(_) => "NormalView",
            Self::Recovery(_) => "Recovery",
            Self::RecoveryResponse(_) => "RecoveryResponse",
        }
    }
}
