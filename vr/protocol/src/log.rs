//! The log: entries in op-number order, no gaps, chained by their checksums (VRR §4).

use crate::blocks::Blocks;
use crate::ids::{Checksum, ClientId, OpNumber, RequestNumber, View};
use crate::message::Request;
use alloc::rc::Rc;
use alloc::vec::Vec;
use xxhash_rust::xxh3::xxh3_64;

/// What an entry asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Make the client known; executed by the protocol itself.
    Register,
    /// An operation of the state machine.
    Operation,
    /// End the session; executed by the protocol itself.
    Close,
    /// An operation of a client that never registers.
    WalkIn,
    /// A read's place in the log: nothing is executed, and only who was asked knows the question.
    Query,
}

impl Kind {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Register => 0,
            Self::Operation => 1,
            Self::Close => 2,
            Self::WalkIn => 4,
            Self::Query => 5,
        }
    }
}

/// A request with its place in the log. Immutable; cloning it is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    op: OpNumber,
    view: View,
    client: ClientId,
    session: OpNumber,
    number: RequestNumber,
    kind: Kind,
    body: Rc<[u8]>,
    parent: Checksum,
    checksum: Checksum,
}

impl Entry {
    /// The entry that `request` becomes at `op`, prepared in `view`, after the entry with
    /// checksum `parent`.
    pub fn new(op: OpNumber, view: View, parent: Checksum, request: &Request) -> Self {
        let &Request {
            client,
            session,
            number,
            kind,
            ..
        } = request;
        let body = Rc::clone(&request.body);
        let fields = [
            parent.0,
            op.0,
            view.0,
            client.0,
            session.0,
            number.0,
            u64::from(kind.code()),
        ];
        let mut bytes = [0; 8 * 9];
        let lengths = [
            u64::try_from(body.len()).unwrap_or(u64::MAX),
            xxh3_64(&body),
        ];
        for (place, field) in bytes.chunks_exact_mut(8).zip(fields.iter().chain(&lengths)) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        let checksum = Checksum(xxh3_64(&bytes));
        Self {
            op,
            view,
            client,
            session,
            number,
            kind,
            body,
            parent,
            checksum,
        }
    }

    /// Its position.
    pub fn op(&self) -> OpNumber {
        self.op
    }

    /// The view in which it was first prepared. Never used to choose a log.
    pub fn view(&self) -> View {
        self.view
    }

    /// Whose request it is.
    pub fn client(&self) -> ClientId {
        self.client
    }

    /// The session under which it was sent; of a registration, the life that registers.
    pub fn session(&self) -> OpNumber {
        self.session
    }

    /// The client's number for it.
    pub fn number(&self) -> RequestNumber {
        self.number
    }

    /// What it asks for.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The operation.
    pub fn body(&self) -> &Rc<[u8]> {
        &self.body
    }

    /// The checksum of the entry before it.
    pub fn parent(&self) -> Checksum {
        self.parent
    }

    /// The hash of its parent's checksum, its fields and its body. Equal checksums at one
    /// op-number prove equal logs up to there.
    pub fn checksum(&self) -> Checksum {
        self.checksum
    }

    /// View and checksum.
    pub fn header(&self) -> Header {
        Header {
            view: self.view,
            checksum: self.checksum,
        }
    }

    /// About how many bytes it takes in memory. The same everywhere: checkpoints are due by it.
    pub(crate) fn weight(&self) -> u64 {
        const FIXED: u64 = 128;
        u64::try_from(self.body.len()).map_or(u64::MAX, |len| len.saturating_add(FIXED))
    }

    /// About how many bytes it takes on the wire.
    pub(crate) fn size(&self) -> usize {
        crate::wire::ENTRY_MIN_BYTES + self.body.len()
    }
}

/// Whether entries follow one another without a gap, each naming its predecessor as parent.
pub(crate) fn is_chained(entries: &[Entry]) -> bool {
    entries.windows(2).all(|pair| {
        pair[0].op.0.checked_add(1) == Some(pair[1].op.0) && pair[0].checksum == pair[1].parent
    })
}

/// What identifies an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The view in which it was first prepared.
    pub view: View,
    /// Its checksum.
    pub checksum: Checksum,
}

/// The end of a log in brief: the headers from the commit-number up to the op-number, both
/// included. Never empty, and its op-number is a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    commit: OpNumber,
    op: OpNumber,
    headers: Vec<Header>,
}

impl Tail {
    /// A tail whose first header is that of `commit`; none if there are no headers, or more
    /// than op-numbers.
    pub fn new(commit: OpNumber, headers: Vec<Header>) -> Option<Self> {
        let behind = u64::try_from(headers.len()).ok()?.checked_sub(1)?;
        let op = OpNumber(commit.0.checked_add(behind)?);
        Some(Self {
            commit,
            op,
            headers,
        })
    }

    /// The commit-number.
    pub fn commit(&self) -> OpNumber {
        self.commit
    }

    /// The op-number.
    pub fn op(&self) -> OpNumber {
        self.op
    }

    /// The headers, from that of the commit-number to that of the op-number.
    pub fn headers(&self) -> &[Header] {
        &self.headers
    }

    /// The checksum at `op`, if the tail reaches it.
    pub fn checksum(&self, op: OpNumber) -> Option<Checksum> {
        let index = usize::try_from(op.0.checked_sub(self.commit.0)?).ok()?;
        self.headers.get(index).map(|header| header.checksum)
    }
}

/// The entries of one replica: contiguous, chained, `base` being the last one cut off in front.
#[derive(Debug)]
pub(crate) struct Log {
    base: OpNumber,
    base_header: Header,
    entries: Blocks<Entry>,
    /// That of all entries.
    weight: u64,
}

impl Log {
    /// An empty log. The root stands for the group: logs of two groups never match.
    pub(crate) fn new(root: Checksum) -> Self {
        let base_header = Header {
            view: View::ZERO,
            checksum: root,
        };
        Self {
            base: OpNumber::ZERO,
            base_header,
            entries: Blocks::new(),
            weight: 0,
        }
    }

    /// The last entry that was cut off in front.
    pub(crate) fn base(&self) -> OpNumber {
        self.base
    }

    /// About how many bytes the entries take in memory.
    pub(crate) fn weight(&self) -> u64 {
        self.weight
    }

    /// The last entry's op-number.
    pub(crate) fn op(&self) -> OpNumber {
        let len = u64::try_from(self.entries.len()).expect("a length");
        OpNumber(
            self.base
                .0
                .checked_add(len)
                .expect("a log never holds 2^64 entries"),
        )
    }

    /// The header at `op`, which may be the base.
    pub(crate) fn header(&self, op: OpNumber) -> Option<Header> {
        if op == self.base {
            return Some(self.base_header);
        }
        self.get(op).map(Entry::header)
    }

    /// The checksum at `op`, which may be the base.
    pub(crate) fn checksum(&self, op: OpNumber) -> Option<Checksum> {
        self.header(op).map(|header| header.checksum)
    }

    /// The checksum of the last entry.
    pub(crate) fn head(&self) -> Checksum {
        let last = self.entries.back().map(Entry::checksum);
        last.unwrap_or(self.base_header.checksum)
    }

    /// The entry at `op`.
    pub(crate) fn get(&self, op: OpNumber) -> Option<&Entry> {
        let index = op.0.checked_sub(self.base.0)?.checked_sub(1)?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    /// The entries after `after`, as long as they fit into `budget` bytes up to `last`; at
    /// least one if there is one.
    pub(crate) fn page(&self, after: OpNumber, last: OpNumber, budget: usize) -> Vec<Entry> {
        let wanted = usize::try_from(last.0.saturating_sub(after.0)).unwrap_or(usize::MAX);
        let fitting = budget / crate::wire::ENTRY_MIN_BYTES + 1;
        let mut page = Vec::with_capacity(wanted.min(fitting).min(self.entries.len()));
        let mut bytes = 0_usize;
        let mut op = after;
        while op < last
            && let Some(entry) = self.get(op.next())
        {
            bytes = bytes.saturating_add(entry.size());
            if bytes > budget && !page.is_empty() {
                break;
            }
            page.push(entry.clone());
            op = entry.op;
        }
        page
    }

    /// How many bytes the entries after `after` take, up to `last`.
    pub(crate) fn bytes(&self, after: OpNumber, last: OpNumber) -> usize {
        let ops = (after.0..last.0).map(|op| OpNumber(op).next());
        ops.filter_map(|op| self.get(op)).map(Entry::size).sum()
    }

    /// The headers from `commit` to the end.
    pub(crate) fn tail(&self, commit: OpNumber) -> Tail {
        let mut headers = Vec::new();
        let mut op = commit;
        while let Some(header) = self.header(op) {
            headers.push(header);
            op = op.next();
        }
        Tail::new(commit, headers).expect("the commit-number is within the log")
    }

    /// Appends one entry.
    pub(crate) fn append(&mut self, entry: Entry) {
        assert_eq!(entry.op, self.op().next(), "the log has no gaps");
        assert_eq!(entry.parent, self.head(), "the log is a chain");
        self.weight += entry.weight();
        self.entries.push_back(entry);
    }

    /// Cuts off the first entry.
    pub(crate) fn cut_first(&mut self) {
        let first = self.entries.pop_front().expect("there is an entry");
        self.weight -= first.weight();
        self.base = first.op;
        self.base_header = first.header();
    }

    /// Begins behind the entry at `op`, which has this header: keeps what follows it, if it is
    /// here, and nothing otherwise.
    pub(crate) fn begin_behind(&mut self, op: OpNumber, header: Header) {
        if self.header(op) == Some(header) {
            while self.base < op {
                self.cut_first();
            }
        } else {
            self.base = op;
            self.base_header = header;
            self.entries.clear();
            self.weight = 0;
        }
    }

    /// Replaces everything above `common` at once.
    pub(crate) fn replace_above(&mut self, common: OpNumber, suffix: Vec<Entry>) {
        assert!(
            self.base <= common && common <= self.op(),
            "the common prefix is within the log"
        );
        let keep = usize::try_from(common.distance_from(self.base)).expect("within the log");
        while self.entries.len() > keep {
            let cut = self.entries.pop_back().expect("there are more");
            self.weight -= cut.weight();
        }
        for entry in suffix {
            self.append(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(number: u64, body: &[u8]) -> Request {
        Request {
            client: ClientId(1),
            session: OpNumber(1),
            number: RequestNumber(number),
            kind: Kind::Operation,
            body: body.into(),
        }
    }

    fn log(bodies: &[&[u8]]) -> Log {
        let mut log = Log::new(Checksum(7));
        for body in bodies {
            let entry = Entry::new(log.op().next(), View(3), log.head(), &request(1, body));
            log.append(entry);
        }
        log
    }

    #[test]
    fn a_checksum_covers_everything_before_it() {
        let a = log(&[b"a", b"b", b"c"]);
        let b = log(&[b"x", b"b", b"c"]);
        assert_ne!(a.head(), b.head());
        assert_eq!(a.head(), log(&[b"a", b"b", b"c"]).head());
    }

    #[test]
    fn the_same_entries_in_another_group_do_not_match() {
        let mut other = Log::new(Checksum(8));
        other.append(Entry::new(
            OpNumber(1),
            View(3),
            Checksum(8),
            &request(1, b"a"),
        ));
        assert_ne!(other.head(), log(&[b"a"]).head());
    }

    #[test]
    fn a_page_keeps_its_budget_but_is_never_empty() {
        let log = log(&[b"a", b"b", b"c"]);
        let one = log.get(OpNumber(1)).expect("there").size();
        assert_eq!(log.page(OpNumber(0), log.op(), 0).len(), 1);
        assert_eq!(log.page(OpNumber(0), log.op(), one * 2).len(), 2);
        assert_eq!(log.page(OpNumber(1), OpNumber(2), usize::MAX).len(), 1);
        assert!(log.page(OpNumber(3), log.op(), one).is_empty());
    }

    #[test]
    fn a_tail_is_never_empty_and_never_overflows() {
        let header = Header {
            view: View(0),
            checksum: Checksum(0),
        };
        assert!(Tail::new(OpNumber(0), Vec::new()).is_none());
        assert!(Tail::new(OpNumber(u64::MAX), [header, header].to_vec()).is_none());
        let tail = log(&[b"a", b"b"]).tail(OpNumber(1));
        assert_eq!((tail.commit(), tail.op()), (OpNumber(1), OpNumber(2)));
        assert!(tail.checksum(OpNumber(0)).is_none() && tail.checksum(OpNumber(3)).is_none());
    }

    #[test]
    fn replacing_keeps_the_common_prefix() {
        let mut mine = log(&[b"a", b"b", b"c"]);
        let theirs = log(&[b"a", b"x"]);
        let suffix = theirs.page(OpNumber(1), theirs.op(), usize::MAX);
        mine.replace_above(OpNumber(1), suffix);
        assert_eq!(mine.head(), theirs.head());
    }

    #[test]
    fn what_was_cut_off_in_front_is_known_by_the_last_header() {
        let mut cut = log(&[b"a", b"b", b"c"]);
        let before = cut.weight();
        cut.cut_first();
        assert_eq!(cut.base(), OpNumber(1));
        assert!(cut.get(OpNumber(1)).is_none() && cut.checksum(OpNumber(1)).is_some());
        assert!(cut.checksum(OpNumber(0)).is_none());
        assert_eq!(cut.head(), log(&[b"a", b"b", b"c"]).head());
        assert!(cut.weight() < before);
        assert_eq!(cut.page(OpNumber(0), cut.op(), usize::MAX), []);
        cut.cut_first();
        cut.cut_first();
        assert_eq!((cut.op(), cut.weight()), (OpNumber(3), 0));
    }

    #[test]
    fn a_log_that_begins_behind_another_entry_keeps_nothing() {
        let whole = log(&[b"a", b"b", b"c"]);
        let header = whole.header(OpNumber(2)).expect("there");
        let mut same = log(&[b"a", b"b", b"c"]);
        same.begin_behind(OpNumber(2), header);
        assert_eq!((same.base(), same.op()), (OpNumber(2), OpNumber(3)));
        let mut other = log(&[b"a", b"x", b"c"]);
        other.begin_behind(OpNumber(2), header);
        assert_eq!((other.base(), other.op()), (OpNumber(2), OpNumber(2)));
        let mut short = log(&[]);
        short.begin_behind(OpNumber(2), header);
        assert_eq!(short.head(), header.checksum);
    }

    #[test]
    #[should_panic(expected = "the log is a chain")]
    fn an_entry_with_another_parent_is_not_appended() {
        let mut log = log(&[b"a"]);
        log.append(Entry::new(
            OpNumber(2),
            View(3),
            Checksum(9),
            &request(2, b"b"),
        ));
    }
}
