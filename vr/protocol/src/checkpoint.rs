//! A checkpoint (VRR §5.1): all that a log up to some operation comes to.
//!
//! It is the header of the last entry that it covers, the client table after that entry, and the
//! state machine's state, as bytes: first the table, then the state. It depends on the log alone,
//! so that it is the same, byte for byte, wherever it is taken.

use crate::client_table::{ClientTable, Frozen};
use crate::configuration::Configuration;
use crate::ids::{Incarnation, Nonce, OpNumber, ReplicaId};
use crate::log::Header;
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::fmt;
use xxhash_rust::xxh3::Xxh3;

/// The hash of a whole checkpoint: of its op-number, header, bytes and their length.
///
/// It finds accidents, as all checksums here. It has 128 bits, unlike those of the log, since it
/// alone stands between a mistake and a state that nobody compares any more: with 64 a group that
/// takes a checkpoint every second would, in a long life, get near to where two that differ look
/// the same. XXH3 gives as many in one pass over the bytes, at memory speed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest(pub u128);

/// What a checkpoint is, without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The last operation that it covers.
    pub op: OpNumber,
    /// The header of that entry.
    pub header: Header,
    /// The hash of everything.
    pub digest: Digest,
    /// How many bytes it has.
    pub len: u64,
}

/// A whole checkpoint. Its bytes are shared by all who send or read them, never copied.
#[derive(PartialEq, Eq)]
pub struct Checkpoint {
    summary: Summary,
    /// Where the state begins.
    state_at: u64,
    bytes: Pieces,
}

impl Checkpoint {
    /// What it is.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// The last operation that it covers.
    pub fn op(&self) -> OpNumber {
        self.summary.op
    }

    /// How many bytes of it are the state machine's.
    pub fn state_len(&self) -> u64 {
        self.summary.len - self.state_at
    }

    /// Bytes of the state machine's from `offset` on: at least one if there are any, at most
    /// `most`.
    pub fn state(&self, offset: u64, most: usize) -> &[u8] {
        self.bytes
            .read(self.state_at.saturating_add(offset), most.max(1))
    }

    /// All its bytes, from `offset` on, likewise.
    pub fn bytes(&self, offset: u64, most: usize) -> &[u8] {
        self.bytes.read(offset, most.max(1))
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.summary, f)
    }
}

/// Bytes that grow, in pieces: growing moves nothing that is there.
#[derive(Default)]
struct Pieces {
    /// Each with its offset. None is empty.
    pieces: Vec<(u64, Rc<[u8]>)>,
    len: u64,
}

impl Pieces {
    fn push(&mut self, piece: Rc<[u8]>) {
        if !piece.is_empty() {
            let len = u64::try_from(piece.len()).expect("a length");
            self.pieces.push((self.len, piece));
            self.len += len;
        }
    }

    fn read(&self, offset: u64, most: usize) -> &[u8] {
        let after = self.pieces.partition_point(|(at, _)| *at <= offset);
        let Some((at, piece)) = after.checked_sub(1).map(|index| &self.pieces[index]) else {
            return &[];
        };
        let skip = usize::try_from(offset - at).unwrap_or(usize::MAX);
        let rest = piece.get(skip..).unwrap_or_default();
        &rest[..rest.len().min(most)]
    }

    fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        self.pieces
            .iter()
            .flat_map(|(_, piece)| piece.iter().copied())
    }
}

impl PartialEq for Pieces {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl Eq for Pieces {}

/// The hash of what begins like this.
fn hasher(op: OpNumber, header: Header) -> Box<Xxh3> {
    let mut hasher = Box::new(Xxh3::new());
    for number in [op.0, header.view.0, header.checksum.0] {
        hasher.update(&number.to_le_bytes());
    }
    hasher
}

fn digest(mut hasher: Box<Xxh3>, len: u64) -> Digest {
    hasher.update(&len.to_le_bytes());
    Digest(hasher.digest128())
}

/// An order to take a checkpoint, and the checkpoint as far as it is written.
///
/// The client table was frozen when the order was given. The state machine must be frozen before
/// another operation is executed: nothing is given out to be executed until
/// [`Replica::checkpoint_begun`](crate::Replica::checkpoint_begun) is told. Then the table and the
/// state are written, in that order and in pieces, while operations go on; and when all is
/// written, [`Replica::on_checkpoint`](crate::Replica::on_checkpoint) gets it.
#[must_use = "nothing is executed until the checkpoint is begun"]
pub struct Draft {
    pub(crate) owner: (ReplicaId, Incarnation),
    op: OpNumber,
    header: Header,
    /// Elsewhere: an order travels among effects, which are to be small.
    table: Box<Frozen>,
    state_at: u64,
    hasher: Box<Xxh3>,
    bytes: Pieces,
    last: Vec<u8>,
}

/// The length of a piece that is written.
const PIECE_BYTES: usize = 64 * 1024;

impl Draft {
    pub(crate) fn new(
        owner: (ReplicaId, Incarnation),
        op: OpNumber,
        header: Header,
        table: Frozen,
    ) -> Self {
        Self {
            owner,
            op,
            header,
            table: Box::new(table),
            state_at: 0,
            hasher: hasher(op, header),
            bytes: Pieces::default(),
            last: Vec::new(),
        }
    }

    /// The last operation that it is to cover: the state is to be frozen after it.
    pub fn op(&self) -> OpNumber {
        self.op
    }

    /// Writes about so many bytes of the client table; whether there are more. False ever after:
    /// the state is next.
    pub fn write_clients(&mut self, budget_bytes: usize) -> bool {
        if self.state_at > 0 {
            return false;
        }
        let mut out = Vec::new();
        let more = self.table.write(budget_bytes, &mut out);
        self.append(&out);
        if !more {
            self.state_at = self.len();
        }
        more
    }

    /// Appends bytes of the state.
    ///
    /// # Panics
    ///
    /// Panics if the client table is not written.
    pub fn write_state(&mut self, bytes: &[u8]) {
        assert!(self.state_at > 0, "the state follows the client table");
        self.append(bytes);
    }

    fn len(&self) -> u64 {
        self.bytes.len + u64::try_from(self.last.len()).expect("a length")
    }

    fn append(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.last.extend_from_slice(bytes);
        if self.last.len() >= PIECE_BYTES {
            self.bytes.push(self.last.as_slice().into());
            self.last.clear();
        }
    }

    /// All is written.
    pub(crate) fn finish(mut self) -> Checkpoint {
        assert!(self.state_at > 0, "the client table is written");
        self.bytes.push(self.last.as_slice().into());
        let len = self.bytes.len;
        let summary = Summary {
            op: self.op,
            header: self.header,
            digest: digest(self.hasher, len),
            len,
        };
        Checkpoint {
            summary,
            state_at: self.state_at,
            bytes: self.bytes,
        }
    }
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft")
            .field("op", &self.op)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// A checkpoint of which a part is here.
pub(crate) struct Incoming {
    summary: Summary,
    /// Who gave the last piece.
    giver: Option<ReplicaId>,
    /// How often it was asked for since then, of one after the other, and did not come.
    in_vain: u32,
    hasher: Box<Xxh3>,
    bytes: Pieces,
}

/// Why bytes are not the checkpoint that was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAsPromised;

impl Incoming {
    pub(crate) fn new(summary: Summary) -> Self {
        Self {
            summary,
            giver: None,
            in_vain: 0,
            hasher: hasher(summary.op, summary.header),
            bytes: Pieces::default(),
        }
    }

    /// A piece is of this replica; whether the one before it was of another.
    pub(crate) fn is_of_another(&mut self, giver: ReplicaId) -> bool {
        self.in_vain = 0;
        self.giver.replace(giver).is_some_and(|last| last != giver)
    }

    /// No piece has come for a while.
    pub(crate) fn asked_in_vain(&mut self) {
        self.in_vain = self.in_vain.saturating_add(1);
    }

    /// Whether to go on with it although this replica has another one, which would be begun from
    /// its first byte: as long as each of so many `others` may have this one.
    ///
    /// Who gives it may be slow, and be asked again when the others have been.
    pub(crate) fn is_preferred_to_that_of(&self, offerer: ReplicaId, others: u32) -> bool {
        let is_withdrawn = self.giver == Some(offerer);
        self.bytes.len > 0 && !is_withdrawn && self.in_vain <= others
    }

    pub(crate) fn summary(&self) -> Summary {
        self.summary
    }

    /// How much of it is here: what follows is to be asked for.
    pub(crate) fn len(&self) -> u64 {
        self.bytes.len
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.bytes.len == self.summary.len
    }

    /// Takes the bytes at `offset`; whether they are what follows.
    pub(crate) fn push(&mut self, offset: u64, bytes: &Rc<[u8]>) -> bool {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let fits = offset == self.bytes.len && len > 0;
        if !fits || len > self.summary.len - self.bytes.len {
            return false;
        }
        self.hasher.update(bytes);
        self.bytes.push(Rc::clone(bytes));
        true
    }

    /// The checkpoint with its client table, now that all is here. Nothing of it is used unless
    /// the whole has the digest that was promised.
    pub(crate) fn finish(
        self,
        group: &Configuration,
        life: Incarnation,
        trusting: bool,
    ) -> Result<(Checkpoint, ClientTable), NotAsPromised> {
        assert!(self.is_whole(), "all of it is here");
        let found = digest(self.hasher, self.summary.len);
        if found != self.summary.digest && !trusting {
            return Err(NotAsPromised);
        }
        let read = |at, most| self.bytes.read(at, most);
        let (table, state_at) =
            ClientTable::thaw(read, group, life, self.summary.op).ok_or(NotAsPromised)?;
        let checkpoint = Checkpoint {
            summary: self.summary,
            state_at,
            bytes: self.bytes,
        };
        Ok((checkpoint, table))
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("summary", &self.summary)
            .field("len", &self.bytes.len)
            .finish_non_exhaustive()
    }
}

/// An order to read a checkpoint into the state machine: [`Checkpoint::state`], from the first
/// byte to the last, in one turn or over many.
///
/// What the state machine was must stay in force until the last byte is read. With that, in the
/// same turn, [`Replica::restored`](crate::Replica::restored) is told. Meanwhile the order may
/// become void, as [`Replica::is_wanted`](crate::Replica::is_wanted) says.
#[derive(Debug)]
#[must_use = "the log waits for the state"]
pub struct Restore {
    pub(crate) checkpoint: Rc<Checkpoint>,
    pub(crate) nonce: Nonce,
}

impl Restore {
    /// What is to be read.
    pub fn checkpoint(&self) -> &Rc<Checkpoint> {
        &self.checkpoint
    }
}
