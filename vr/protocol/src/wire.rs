//! Messages as bytes: little-endian, strict, no reflection.
//!
//! The kind of a message is not among its bytes: the transport's frame header carries it. A run
//! of entries is written without op-numbers, parents and checksums but the first: decoding
//! computes them, so that what comes out is chained.

use crate::checkpoint::{Digest, Summary};
use crate::ids::{Checksum, ClientId, Incarnation, Nonce, OpNumber, RequestNumber, View};
use crate::log::{Entry, Header, Kind, Tail};
use crate::message::{
    CheckpointChunk, Commit, DoViewChange, GetCheckpoint, GetState, Hello, Message, NewState,
    Outcome, Prepare, PrepareOk, Reply, Request, Standing, StartView, StartViewChange,
};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::fmt;
use reads::{get_of_reads, put_round, put_round_ok};
use recovery::{get_of_recovery, put_recovery, put_recovery_response};

mod reads;
mod recovery;

pub use reads::{
    encode_get_view, encode_normal_view, encode_read, encode_read_reply, encode_read_result,
};

/// The kind bytes.
pub mod kind {
    /// [`Request`](crate::Request).
    pub const REQUEST: u8 = 1;
    /// [`Reply`](crate::Reply).
    pub const REPLY: u8 = 2;
    /// [`Prepare`](crate::Prepare).
    pub const PREPARE: u8 = 3;
    /// [`PrepareOk`](crate::PrepareOk).
    pub const PREPARE_OK: u8 = 4;
    /// [`Commit`](crate::Commit).
    pub const COMMIT: u8 = 5;
    /// [`StartViewChange`](crate::StartViewChange).
    pub const START_VIEW_CHANGE: u8 = 6;
    /// [`DoViewChange`](crate::DoViewChange).
    pub const DO_VIEW_CHANGE: u8 = 7;
    /// [`StartView`](crate::StartView).
    pub const START_VIEW: u8 = 8;
    /// [`GetState`](crate::GetState).
    pub const GET_STATE: u8 = 9;
    /// [`NewState`](crate::NewState).
    pub const NEW_STATE: u8 = 10;
    /// [`Hello`](crate::Hello).
    pub const HELLO: u8 = 11;
    /// [`GetCheckpoint`](crate::GetCheckpoint).
    pub const GET_CHECKPOINT: u8 = 14;
    /// [`CheckpointChunk`](crate::CheckpointChunk).
    pub const CHECKPOINT_CHUNK: u8 = 15;
    /// [`Read`](crate::Read).
    pub const READ: u8 = 16;
    /// [`ReadReply`](crate::ReadReply).
    pub const READ_REPLY: u8 = 17;
    /// [`Round`](crate::Round).
    pub const ROUND: u8 = 18;
    /// [`RoundOk`](crate::RoundOk).
    pub const ROUND_OK: u8 = 19;
    /// [`GetView`](crate::GetView).
    pub const GET_VIEW: u8 = 20;
    /// [`NormalView`](crate::NormalView).
    pub const NORMAL_VIEW: u8 = 21;
    /// [`Recovery`](crate::Recovery).
    pub const RECOVERY: u8 = 12;
    /// [`RecoveryResponse`](crate::RecoveryResponse).
    pub const RECOVERY_RESPONSE: u8 = 13;
}

/// An entry in a run: view, client, session, number, kind, length, body.
pub(crate) const ENTRY_MIN_BYTES: usize = 4 * 8 + 1 + 4;
const HEADER_BYTES: usize = 2 * 8;

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// No message has this kind byte.
    UnknownKind(u8),
    /// The bytes end too early, or a count promises more than there is.
    Truncated,
    /// Bytes are left over.
    Trailing,
    /// A byte that must be one of a few is none of them.
    BadTag(u8),
    /// Numbers would run over, or an empty run is not written as one.
    BadNumber,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKind(kind) => write!(f, "no message of kind {kind}"),
            Self::Truncated => write!(f, "the message ends too early"),
            Self::Trailing => write!(f, "bytes are left after the message"),
            Self::BadTag(tag) => write!(f, "{tag} is no tag that belongs here"),
            Self::BadNumber => write!(f, "a number is out of range"),
        }
    }
}

impl core::error::Error for WireError {}

impl Message {
    /// The kind byte for the frame header.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Request(_) => kind::REQUEST,
            Self::Reply(_) => kind::REPLY,
            Self::Prepare(_) => kind::PREPARE,
            Self::PrepareOk(_) => kind::PREPARE_OK,
            Self::Commit(_) => kind::COMMIT,
            Self::StartViewChange(_) => kind::START_VIEW_CHANGE,
            Self::DoViewChange(_) => kind::DO_VIEW_CHANGE,
            Self::StartView(_) => kind::START_VIEW,
            Self::GetState(_) => kind::GET_STATE,
            Self::NewState(_) => kind::NEW_STATE,
            Self::Hello(_) => kind::HELLO,
            Self::GetCheckpoint(_) => kind::GET_CHECKPOINT,
            Self::CheckpointChunk(_) => kind::CHECKPOINT_CHUNK,
            Self::Read(_) => kind::READ,
            Self::ReadReply(_) => kind::READ_REPLY,
            Self::Round(_) => kind::ROUND,
            Self::RoundOk(_) => kind::ROUND_OK,
            Self::GetView(_) => kind::GET_VIEW,
            Self::NormalView(_) => kind::NORMAL_VIEW,
            Self::Recovery(_) => kind::RECOVERY,
            Self::RecoveryResponse(_) => kind::RECOVERY_RESPONSE,
        }
    }
}

/// Appends the bytes of a message.
pub fn encode(message: &Message, out: &mut Vec<u8>) {
    match message {
        Message::Request(request) => encode_request(request, out),
        Message::Reply(reply) => encode_reply(reply, out),
        Message::Prepare(prepare) => {
            put_numbers(out, &[prepare.view.0, prepare.root.0, prepare.commit.0]);
            put_entries(out, &prepare.entries);
        }
        Message::PrepareOk(PrepareOk { view, op, checksum }) => {
            put_numbers(out, &[view.0, op.0, checksum.0]);
        }
        Message::Commit(Commit { view, root, commit }) => {
            put_numbers(out, &[view.0, root.0, commit.0]);
        }
        Message::StartViewChange(StartViewChange { view, root, joined }) => {
            put_numbers(out, &[view.0, root.0]);
            out.push(u8::from(*joined));
        }
        Message::DoViewChange(DoViewChange {
            view,
            root,
            log_view,
            tail,
        }) => {
            put_numbers(out, &[view.0, root.0, log_view.0]);
            put_tail(out, tail);
        }
        Message::StartView(StartView { view, root, tail }) => {
            put_numbers(out, &[view.0, root.0]);
            put_tail(out, tail);
        }
        Message::GetState(get) => {
            put_numbers(out, &[get.view.0, get.after.0]);
            put_numbers(out, &[get.checksum.0, get.nonce.0]);
            out.push(get.pages);
        }
        Message::NewState(NewState {
            view,
            nonce,
            entries,
            op,
            commit,
        }) => {
            put_numbers(out, &[view.0, nonce.0, op.0, commit.0]);
            put_entries(out, entries);
        }
        Message::Hello(hello) => put_hello(out, hello),
        Message::GetCheckpoint(get) => {
            put_numbers(out, &[get.view.0, get.nonce.0]);
            put_summary(out, &get.summary);
            put_numbers(out, &[get.offset]);
            out.push(get.pages);
        }
        Message::CheckpointChunk(chunk) => {
            put_numbers(out, &[chunk.view.0, chunk.nonce.0]);
            put_summary(out, &chunk.summary);
            put_numbers(out, &[chunk.offset]);
            put_bytes(out, &chunk.bytes);
        }
        Message::Read(read) => encode_read(read, out),
        Message::ReadReply(reply) => encode_read_reply(reply, out),
        Message::Round(round) => put_round(out, *round),
        Message::RoundOk(ok) => put_round_ok(out, *ok),
        Message::GetView(get) => encode_get_view(get, out),
        Message::NormalView(told) => encode_normal_view(told, out),
        Message::Recovery(recovery) => put_recovery(out, *recovery),
        Message::RecoveryResponse(response) => put_recovery_response(out, response),
    }
}

/// Appends the bytes of a request.
pub fn encode_request(request: &Request, out: &mut Vec<u8>) {
    put_numbers(
        out,
        &[request.client.0, request.session.0, request.number.0],
    );
    out.push(request.kind.code());
    put_bytes(out, &request.body);
}

/// Appends the bytes of a reply.
pub fn encode_reply(reply: &Reply, out: &mut Vec<u8>) {
    let Reply {
        view,
        client,
        session,
        number,
        ..
    } = reply;
    put_numbers(out, &[view.0, client.0, session.0, number.0]);
    put_outcome(out, &reply.outcome);
}

pub(crate) fn put_outcome(out: &mut Vec<u8>, outcome: &Outcome) {
    match outcome {
        Outcome::Registered { session } => {
            out.push(0);
            put_numbers(out, &[session.0]);
        }
        Outcome::Result(result) => {
            out.push(1);
            put_bytes(out, result);
        }
        Outcome::NotPrimary => out.push(2),
        Outcome::Busy { retry_after_ms } => {
            out.push(3);
            out.extend_from_slice(&retry_after_ms.to_le_bytes());
        }
        Outcome::NoSession => out.push(4),
        Outcome::TooLarge => out.push(5),
        Outcome::Evicted => out.push(6),
        Outcome::ResultTooLarge => out.push(7),
    }
}

/// Reads the message of this kind that the bytes are.
///
/// # Errors
///
/// If the bytes are not exactly one such message. Nothing is allocated beyond what the bytes
/// that are there can fill.
pub fn decode(kind: u8, bytes: &[u8]) -> Result<Message, WireError> {
    let mut input = Input(bytes);
    let message = decode_one(kind, &mut input)?;
    if input.0.is_empty() {
        Ok(message)
    } else {
        Err(WireError::Trailing)
    }
}

fn decode_one(kind: u8, input: &mut Input<'_>) -> Result<Message, WireError> {
    Ok(match kind {
        kind::REQUEST => Message::Request(get_request(input)?),
        kind::REPLY => Message::Reply(get_reply(input)?),
        kind::PREPARE => {
            let (view, root, commit) = (input.view()?, input.checksum()?, input.op()?);
            Message::Prepare(Prepare {
                view,
                root,
                entries: get_entries(input)?,
                commit,
            })
        }
        kind::PREPARE_OK => Message::PrepareOk(PrepareOk {
            view: input.view()?,
            op: input.op()?,
            checksum: input.checksum()?,
        }),
        kind::COMMIT => Message::Commit(Commit {
            view: input.view()?,
            root: input.checksum()?,
            commit: input.op()?,
        }),
        kind::START_VIEW_CHANGE => Message::StartViewChange(StartViewChange {
            view: input.view()?,
            root: input.checksum()?,
            joined: input.flag()?,
        }),
        kind::DO_VIEW_CHANGE => Message::DoViewChange(DoViewChange {
            view: input.view()?,
            root: input.checksum()?,
            log_view: input.view()?,
            tail: get_tail(input)?,
        }),
        kind::START_VIEW => Message::StartView(StartView {
            view: input.view()?,
            root: input.checksum()?,
            tail: get_tail(input)?,
        }),
        kind::GET_STATE => Message::GetState(GetState {
            view: input.view()?,
            after: input.op()?,
            checksum: input.checksum()?,
            nonce: Nonce(input.number()?),
            pages: input.byte()?,
        }),
        kind::NEW_STATE => {
            let (view, nonce) = (input.view()?, Nonce(input.number()?));
            let (op, commit) = (input.op()?, input.op()?);
            Message::NewState(NewState {
                view,
                nonce,
                entries: get_entries(input)?,
                op,
                commit,
            })
        }
        kind::HELLO => Message::Hello(get_hello(input)?),
        kind::GET_CHECKPOINT => Message::GetCheckpoint(get_get_checkpoint(input)?),
        kind::CHECKPOINT_CHUNK => Message::CheckpointChunk(get_checkpoint_chunk(input)?),
        kind::READ..=kind::NORMAL_VIEW => get_of_reads(kind, input)?,
        kind::RECOVERY | kind::RECOVERY_RESPONSE => get_of_recovery(kind, input)?,
        unknown => return Err(WireError::UnknownKind(unknown)),
    })
}

pub(crate) fn put_numbers<const N: usize>(out: &mut Vec<u8>, numbers: &[u64; N]) {
    out.extend_from_slice(numbers.map(u64::to_le_bytes).as_flattened());
}

pub(crate) fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("our own messages are far smaller than 4 GiB");
    out.extend_from_slice(&count.to_le_bytes());
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_summary(out: &mut Vec<u8>, summary: &Summary) {
    let Summary {
        op,
        header,
        digest,
        len,
    } = summary;
    put_numbers(out, &[op.0, header.view.0, header.checksum.0]);
    out.extend_from_slice(&digest.0.to_le_bytes());
    put_numbers(out, &[*len]);
}

fn put_tail(out: &mut Vec<u8>, tail: &Tail) {
    put_numbers(out, &[tail.commit().0]);
    put_count(out, tail.headers().len());
    for header in tail.headers() {
        put_numbers(out, &[header.view.0, header.checksum.0]);
    }
}

fn put_entries(out: &mut Vec<u8>, entries: &[Entry]) {
    let (op, parent) = entries
        .first()
        .map_or((0, 0), |first| (first.op().0, first.parent().0));
    put_numbers(out, &[op, parent]);
    put_count(out, entries.len());
    for entry in entries {
        let (view, client) = (entry.view().0, entry.client().0);
        let (session, number) = (entry.session().0, entry.number().0);
        put_numbers(out, &[view, client, session, number]);
        out.push(entry.kind().code());
        put_bytes(out, entry.body());
    }
}

fn put_hello(out: &mut Vec<u8>, hello: &Hello) {
    put_numbers(out, &[hello.incarnation.0, hello.view.0]);
    out.push(match hello.standing {
        Standing::Forming => 0,
        Standing::Member => 1,
        Standing::Recovering => 2,
    });
    out.push(u8::from(hello.locked.is_some()));
    if let Some(locked) = &hello.locked {
        put_count(out, locked.len());
        for incarnation in locked {
            put_numbers(out, &[incarnation.0]);
        }
    }
}

/// The bytes not read yet.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Result<bool, WireError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(WireError::BadTag(tag)),
        }
    }

    pub(crate) fn number(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn view(&mut self) -> Result<View, WireError> {
        self.number().map(View)
    }

    pub(crate) fn op(&mut self) -> Result<OpNumber, WireError> {
        self.number().map(OpNumber)
    }

    fn checksum(&mut self) -> Result<Checksum, WireError> {
        self.number().map(Checksum)
    }

    /// A count of things that need not be here yet.
    pub(crate) fn plain_count(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes).ok()
    }

    /// A count of things that take at least `each` bytes: no more than there can be.
    fn count(&mut self, each: usize) -> Result<usize, WireError> {
        let count = u32::from_le_bytes(self.array()?);
        let count = usize::try_from(count).map_err(|_| WireError::Truncated)?;
        let bytes = count.checked_mul(each).ok_or(WireError::Truncated)?;
        if bytes <= self.0.len() {
            Ok(count)
        } else {
            Err(WireError::Truncated)
        }
    }

    pub(crate) fn bytes(&mut self) -> Result<Rc<[u8]>, WireError> {
        let len = self.count(1)?;
        self.take(len).map(Rc::from)
    }
}

fn get_kind(input: &mut Input<'_>) -> Result<Kind, WireError> {
    match input.byte()? {
        0 => Ok(Kind::Register),
        1 => Ok(Kind::Operation),
        2 => Ok(Kind::Close),
        4 => Ok(Kind::WalkIn),
        5 => Ok(Kind::Query),
        tag => Err(WireError::BadTag(tag)),
    }
}

fn get_request(input: &mut Input<'_>) -> Result<Request, WireError> {
    Ok(Request {
        client: ClientId(input.number()?),
        session: input.op()?,
        number: RequestNumber(input.number()?),
        kind: get_kind(input)?,
        body: input.bytes()?,
    })
}

fn get_reply(input: &mut Input<'_>) -> Result<Reply, WireError> {
    Ok(Reply {
        view: input.view()?,
        client: ClientId(input.number()?),
        session: input.op()?,
        number: RequestNumber(input.number()?),
        outcome: get_outcome(input)?,
    })
}

pub(crate) fn get_outcome(input: &mut Input<'_>) -> Result<Outcome, WireError> {
    Ok(match input.byte()? {
        0 => Outcome::Registered {
            session: input.op()?,
        },
        1 => Outcome::Result(input.bytes()?),
        2 => Outcome::NotPrimary,
        3 => Outcome::Busy {
            retry_after_ms: u32::from_le_bytes(input.array()?),
        },
        4 => Outcome::NoSession,
        5 => Outcome::TooLarge,
        6 => Outcome::Evicted,
        7 => Outcome::ResultTooLarge,
        tag => return Err(WireError::BadTag(tag)),
    })
}

fn get_summary(input: &mut Input<'_>) -> Result<Summary, WireError> {
    Ok(Summary {
        op: input.op()?,
        header: Header {
            view: input.view()?,
            checksum: input.checksum()?,
        },
        digest: Digest(u128::from_le_bytes(input.array()?)),
        len: input.number()?,
    })
}

fn get_get_checkpoint(input: &mut Input<'_>) -> Result<GetCheckpoint, WireError> {
    Ok(GetCheckpoint {
        view: input.view()?,
        nonce: Nonce(input.number()?),
        summary: get_summary(input)?,
        offset: input.number()?,
        pages: input.byte()?,
    })
}

fn get_checkpoint_chunk(input: &mut Input<'_>) -> Result<CheckpointChunk, WireError> {
    Ok(CheckpointChunk {
        view: input.view()?,
        nonce: Nonce(input.number()?),
        summary: get_summary(input)?,
        offset: input.number()?,
        bytes: input.bytes()?,
    })
}

fn get_tail(input: &mut Input<'_>) -> Result<Tail, WireError> {
    let commit = input.op()?;
    let count = input.count(HEADER_BYTES)?;
    let mut headers = Vec::with_capacity(count);
    for _ in 0..count {
        headers.push(Header {
            view: input.view()?,
            checksum: input.checksum()?,
        });
    }
    Tail::new(commit, headers).ok_or(WireError::BadNumber)
}

fn get_entries(input: &mut Input<'_>) -> Result<Vec<Entry>, WireError> {
    let (mut op, mut parent) = (input.op()?, input.checksum()?);
    let count = input.count(ENTRY_MIN_BYTES)?;
    let entries_behind = u64::try_from(count.saturating_sub(1)).unwrap_or(u64::MAX);
    if op.0.checked_add(entries_behind).is_none() || (count == 0 && (op.0, parent.0) != (0, 0)) {
        return Err(WireError::BadNumber);
    }
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let view = input.view()?;
        let entry = Entry::new(op, view, parent, &get_request(input)?);
        parent = entry.checksum();
        op = OpNumber(op.0.wrapping_add(1));
        entries.push(entry);
    }
    Ok(entries)
}

fn get_hello(input: &mut Input<'_>) -> Result<Hello, WireError> {
    let (incarnation, view) = (Incarnation(input.number()?), input.view()?);
    let standing = match input.byte()? {
        0 => Standing::Forming,
        1 => Standing::Member,
        2 => Standing::Recovering,
        tag => return Err(WireError::BadTag(tag)),
    };
    let is_locked = input.flag()?;
    let locked = if is_locked {
        let count = input.count(8)?;
        let lives = (0..count).map(|_| input.number().map(Incarnation));
        Some(lives.collect::<Result<Vec<_>, _>>()?)
    } else {
        None
    };
    Ok(Hello {
        incarnation,
        locked,
        standing,
        view,
    })
}
