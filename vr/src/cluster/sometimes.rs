//! What ought to happen now and then: a search that never sees one of these is blind there.

use std::fmt;

macro_rules! marks {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Something that a batch of seeds must have seen at least once.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mark {
            $($(#[$doc])* $name,)*
        }

        impl Mark {
            /// All of them, in order.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// A name for reports.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

marks! {
    /// A view after the first began.
    ViewChange = "view change",
    /// A view began with entries that were not committed.
    UncommittedTailKept = "uncommitted tail kept",
    /// A replica's uncommitted entries were replaced by those of a newer view.
    UncommittedTailCut = "uncommitted tail cut",
    /// A view began from a log while another, of an older view, was longer than what was committed.
    OlderLogViewLost = "log of an older view lost",
    /// A backup fetched the log of a view that it had missed.
    CaughtUpIntoNewerView = "state transfer into a newer view",
    /// A new primary had to fetch entries before its view could begin.
    NewPrimaryLagged = "new primary lagging",
    /// A primary that no quorum answered stopped leading.
    Abdication = "primary abdicated",
    /// A primary that was heard and answered, but for its entries, stopped leading.
    MadeWay = "a primary whose entries got to nobody made way",
    /// A replica joined a view more than one above its own.
    ViewSkipped = "view skipped",
    /// A call was asked again that had been executed, and was answered.
    AnsweredAgain = "duplicate request answered from the table",
    /// A call's outcome was unknown at its deadline.
    OutcomeUnknown = "outcome unknown",
    /// A client that never registers was answered.
    WalkInAnswered = "walk-in answered",
    /// Such a client had to ask again.
    WalkInAskedAgain = "walk-in asked again",
    /// A client was forgotten to make room for another.
    ClientEvicted = "client evicted",
    /// A client ended its session.
    SessionClosed = "session closed",
    /// A client learned that its session had ended.
    ToldEvicted = "client told that its session has ended",
    /// A primary told a client to come back later.
    ToldBusy = "client told to come back later",
    /// A replica that had lost its memory had it again.
    Recovered = "memory recovered",
    /// It was so while others were between views.
    RecoveryDuringViewChange = "recovery during a view change",
    /// What was recovered had entries that were not committed.
    UncommittedTailRecovered = "uncommitted tail recovered",
    /// A recovery began again, with what it had that was committed.
    PartOfMemoryKept = "part of a recovery kept",
    /// An answer to an earlier question, or life, came to who had lost its memory.
    StaleMemoryIgnored = "stale answer ignored while recovering",
    /// A primary lost its memory and came back.
    PrimaryRestarted = "primary restarted",
    /// Who had lost its memory was stopped before it had it back, and came back.
    RestartedWhileRecovering = "restarted while recovering",
    /// A replica could not write what it must remember, and ended.
    EndedByDisk = "a disk that failed ended a replica",
    /// A replica could not read what it must remember, or make it durable, and did not start.
    NotStartedByDisk = "a disk that failed kept a replica out",
    /// Who had lost its memory knew of more such than the group survives, at least for a while.
    MemoryLost = "too many have lost their memory",
    /// A replica that had lost its view file waited.
    RestartedReplicaWaits = "restarted replica waits",
    /// A message of a group that had died whole came to the next one.
    DeadGroupIgnored = "message of a dead group ignored",
    /// Entries came for which nobody asked any more.
    StaleAnswerIgnored = "stale answer ignored",
    /// Entries, or an acknowledgement, of another log came.
    OtherLogIgnored = "message about another log ignored",
    /// A minority was still broken when everything else was well.
    MinorityStaysBroken = "minority stays broken",
    /// The healed links were long.
    FarApart = "replicas far apart",
    /// A checkpoint was taken.
    CheckpointTaken = "checkpoint taken",
    /// A checkpoint was complete in a later view than that of the last entry that it covers.
    CheckpointAcrossViews = "checkpoint during a view change",
    /// A replica was so far behind that it fetched a checkpoint.
    CaughtUpByCheckpoint = "caught up by checkpoint",
    /// And that was the way into a view that it had missed.
    CheckpointOfNewerView = "checkpoint and log of a newer view",
    /// It was the next primary.
    NewPrimaryRestored = "new primary restored from a checkpoint",
    /// It went on fetching a checkpoint that it had a part of, in another view or from another.
    CheckpointResumed = "transfer of a checkpoint resumed",
    /// A socket's receive ended for want of buffers and began again.
    ReceiveStarved = "receive starved and re-armed",
    /// A socket's receive ended on an empty datagram, an overflow or an error, and began again.
    ReceiveEnded = "receive ended and re-armed",
    /// A frame with a wrong checksum was dropped.
    FrameGarbled = "garbled frame dropped",
    /// A message was cut up and put together.
    MessageReassembled = "message reassembled",
    /// A message of which a fragment was missing was given up.
    FragmentLost = "fragment lost",
    /// A read was confirmed by a round that left with a Prepare.
    ReadRodeOnPrepare = "read confirmed by a round with a Prepare",
    /// A read was left to its reader to confirm.
    ReadLeftToReader = "read confirmed by its reader",
    /// A read was answered under a lease.
    LeaseRead = "lease read",
    /// A promise kept a replica in its view that would have left it.
    PromiseKeptView = "promise blocks a view change",
    /// A primary lost its view before it could answer a read.
    ReadRefusedDeposed = "read refused by a deposed primary",
    /// A local read did not show what had been acknowledged before.
    LocalReadBehind = "local read behind",
    /// A plot: a quorum had suspected a primary, one after the other.
    SuspicionsScattered = "suspicions of different times",
    /// A plot: a suspicion had waited for one that stood still, and had one of its own.
    SuspicionsWaited = "suspicions waited for a pause to end",
    /// A plot: no view had started for a while, and all that were left were needed for one.
    AllWereNeeded = "all that were left had to vote",
    /// A plot: an entry came later than those behind it, and nobody could be asked for it.
    EntryOvertaken = "entry overtaken",
    /// A plot: a primary whose last entries were cut off led again.
    PrimaryLedAgain = "primary led again without its tail",
    /// A plot: a replica was told its memory, and restarted before the copies came.
    RestartedBeforeCopies = "restarted before copies of old answers",
    /// A plot: a replica was restarted while the others were between views.
    RestartedBetweenViews = "restarted while all were between views",
    /// A plot: a client was back when a request of its last life was heard.
    RequestOfLastLife = "request of a client's last life",
    /// A plot: the others had another primary while one with a lease was alone with readers.
    AloneWithReaders = "deposed primary alone with readers",
    /// A plot: a primary was asked to read when word of the next view waited already.
    ReadAndLeft = "read asked in the turn in which its view is left",
    /// A plot: a primary began that could not know that its log was committed.
    PrimaryKnewLess = "new primary knew less than was committed",
    /// A plot: a view began although none is given enough time at first.
    BeganFarApart = "view began beyond what timeouts are scaled for",
}

/// How often each has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    counts: [u64; Mark::ALL.len()],
}

impl Default for Marks {
    fn default() -> Self {
        Self {
            counts: [0; Mark::ALL.len()],
        }
    }
}

impl Marks {
    /// It has happened.
    pub fn hit(&mut self, mark: Mark) {
        self.add(mark, 1);
    }

    /// It has happened so often.
    pub fn add(&mut self, mark: Mark, times: u64) {
        self.counts[mark as usize] += times;
    }

    /// Adds what happened elsewhere.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
    }

    /// How often it has happened.
    pub fn count(&self, mark: Mark) -> u64 {
        self.counts[mark as usize]
    }

    /// Each with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Mark, u64)> + '_ {
        Mark::ALL
            .iter()
            .map(|&mark| (mark, self.counts[mark as usize]))
    }

    /// Those that never happened.
    pub fn missing(&self) -> Vec<Mark> {
        self.iter()
            .filter(|(_, count)| *count == 0)
            .map(|(mark, _)| mark)
            .collect()
    }
}

impl fmt::Display for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Mark::ALL.iter().map(|mark| mark.name().chars().count());
        let width = names.max().unwrap_or(0);
        for (mark, count) in self.iter() {
            writeln!(f, "{:<width$} {count:>10}", mark.name())?;
        }
        Ok(())
    }
}
