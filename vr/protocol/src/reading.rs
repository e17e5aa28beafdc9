//! A client's side of a read, without I/O and without a clock.

use crate::client::Target;
use crate::configuration::Configuration;
use crate::ids::{OpNumber, ReplicaId, View};
use crate::message::{Read, ReadConsistency, ReadOutcome, ReadReply};
use alloc::rc::Rc;

/// One read, until it is answered.
///
/// Send [`read`](Self::read) to [`target`](Self::target); hand each reply to
/// [`on_reply`](Self::on_reply); when no answer has come for a while, [`retry`](Self::retry) and
/// send it again. It changes nothing, so it may be given up at any time.
///
/// A read that [`confirms`](Read::confirms) needs a [`Confirming`](crate::Confirming), too, which
/// gives each reply back confirmed, or not yet. If that takes too long, the next attempt leaves the
/// asking to the primary.
#[derive(Debug)]
pub struct Reading<B = Rc<[u8]>> {
    read: Read<B>,
    group: Configuration,
    view: View,
    attempts: u64,
    ask_all: bool,
}

/// What a reply means to the reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadAnswer {
    /// The state machine's answer.
    Result {
        /// The last operation that the state it was read from had executed.
        as_of: OpNumber,
        /// Whether later operations may have been acknowledged before the read was asked.
        stale: bool,
        /// What the state machine said.
        body: Rc<[u8]>,
    },
    /// Another replica is primary: send the read there now.
    Redirected(ReplicaId),
    /// Too many reads wait: retry after a pause.
    Busy,
    /// The question is too large.
    TooLarge,
    /// Not an answer to this read, or nothing to act on.
    Ignored,
}

impl<B> Reading<B> {
    /// A read of a client that has heard of `view`.
    pub fn new(read: Read<B>, group: Configuration, view: View) -> Self {
        Self {
            read,
            group,
            view,
            attempts: 0,
            ask_all: false,
        }
    }

    /// What is asked.
    pub fn read(&self) -> &Read<B> {
        &self.read
    }

    /// The highest view heard of.
    pub fn view(&self) -> View {
        self.view
    }

    /// Whom to ask: the presumed primary, after a retry everyone. A local read is for one replica:
    /// always the same of a client, so that time does not go back for it, until that one is silent.
    pub fn target(&self) -> Target {
        if self.read.consistency == ReadConsistency::Local {
            let count = u64::from(self.group.replica_count());
            let one = (self.read.client.0 % count + self.attempts) % count;
            return Target::Primary(ReplicaId(u8::try_from(one).expect("a group is small")));
        }
        if self.ask_all {
            return Target::All;
        }
        Target::Primary(self.group.primary(self.view))
    }

    /// No answer has come.
    pub fn retry(&mut self) {
        self.attempts += 1;
        self.ask_all = true;
        self.read.confirms = false;
    }

    /// A reply has arrived.
    pub fn on_reply(&mut self, reply: ReadReply) -> ReadAnswer {
        if (reply.client, reply.number) != (self.read.client, self.read.number) {
            return ReadAnswer::Ignored;
        }
        let (is_newer, is_older) = (reply.view > self.view, reply.view < self.view);
        self.view = self.view.max(reply.view);
        match reply.outcome {
            // Whoever answers had the right to, whatever has happened since.
            ReadOutcome::Result { as_of, stale, body } => ReadAnswer::Result { as_of, stale, body },
            ReadOutcome::NotPrimary if is_newer => {
                self.ask_all = false;
                ReadAnswer::Redirected(self.group.primary(self.view))
            }
            // What a deposed primary says of itself means nothing.
            ReadOutcome::NotPrimary | ReadOutcome::Unconfirmed { .. } => ReadAnswer::Ignored,
            ReadOutcome::Busy if is_older => ReadAnswer::Ignored,
            ReadOutcome::Busy => ReadAnswer::Busy,
            ReadOutcome::TooLarge => ReadAnswer::TooLarge,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ClientId, RequestNumber};

    fn reading(consistency: ReadConsistency) -> Reading<[u8; 0]> {
        let read = Read {
            client: ClientId(7),
            number: RequestNumber(1),
            consistency,
            confirms: true,
            body: [],
        };
        let group = Configuration::new(3).expect("odd");
        Reading::new(read, group, View(0))
    }

    fn reply(view: u64, number: u64, outcome: ReadOutcome) -> ReadReply {
        ReadReply {
            view: View(view),
            client: ClientId(7),
            number: RequestNumber(number),
            outcome,
        }
    }

    #[test]
    fn a_reader_follows_the_view_and_asks_all_when_nobody_answers() {
        let mut reading = reading(ReadConsistency::ReadIndex);
        assert_eq!(reading.target(), Target::Primary(ReplicaId(0)));
        let moved = reading.on_reply(reply(4, 1, ReadOutcome::NotPrimary));
        assert_eq!(moved, ReadAnswer::Redirected(ReplicaId(1)));
        let again = reading.on_reply(reply(4, 1, ReadOutcome::NotPrimary));
        assert_eq!(again, ReadAnswer::Ignored, "no loop");
        assert_eq!(
            reading.on_reply(reply(3, 1, ReadOutcome::Busy)),
            ReadAnswer::Ignored
        );
        assert_eq!(
            reading.on_reply(reply(4, 1, ReadOutcome::Busy)),
            ReadAnswer::Busy
        );
        reading.retry();
        assert_eq!(reading.target(), Target::All);
    }

    #[test]
    fn a_local_read_asks_one_after_the_other() {
        let mut reading = reading(ReadConsistency::Local);
        let mut asked = std::vec::Vec::new();
        for _ in 0..4 {
            asked.push(reading.target());
            reading.retry();
        }
        let expected = [1, 2, 0, 1].map(|id| Target::Primary(ReplicaId(id)));
        assert_eq!(asked, expected);
    }

    #[test]
    fn an_unconfirmed_answer_is_none_and_a_retry_asks_for_a_confirmed_one() {
        let mut reading = reading(ReadConsistency::ReadIndex);
        let unconfirmed = ReadOutcome::Unconfirmed {
            as_of: OpNumber(1),
            root: crate::ids::Checksum(1),
            body: [].into(),
        };
        assert_eq!(
            reading.on_reply(reply(0, 1, unconfirmed)),
            ReadAnswer::Ignored
        );
        assert!(reading.read().confirms);
        reading.retry();
        assert!(!reading.read().confirms);
    }

    #[test]
    fn an_answer_to_another_read_is_none() {
        let mut reading = reading(ReadConsistency::ReadIndex);
        assert_eq!(
            reading.on_reply(reply(0, 2, ReadOutcome::TooLarge)),
            ReadAnswer::Ignored
        );
        assert_eq!(
            reading.on_reply(reply(0, 1, ReadOutcome::TooLarge)),
            ReadAnswer::TooLarge
        );
    }
}
