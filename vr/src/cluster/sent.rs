//! What replicas say must be true: the checker reads their datagrams as they are sent.

use viewring_protocol::wire::{self, kind};
use viewring_protocol::{
    DoViewChange, Message, OpNumber, Outcome, PrepareOk, ReplicaId, Reply, StartView, View,
};
use viewring_transport::HEADER_LEN;

use super::checker::{Checker, hash_of};
use super::sometimes::Mark;

/// The frames of a datagram that was just sent, kind and body; see the transport's `WIRE.md`. A
/// piece of a long message is a frame too, of a kind that is no message's.
pub(super) fn frames(datagram: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    const KIND_AT: usize = 7;
    const LENGTH_AT: usize = 24;
    const MAGIC: &[u8] = b"Vw";
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let (header, behind) = rest.split_at_checked(HEADER_LEN)?;
        // Of another format: what clients that never register are told.
        if header[4..6] != *MAGIC {
            return None;
        }
        let length = u32::from_le_bytes(*header[LENGTH_AT..].first_chunk()?);
        let (body, next) = behind.split_at_checked(usize::try_from(length).ok()?)?;
        rest = next;
        Some((header[KIND_AT], body))
    })
}

impl Checker {
    /// A replica sends a datagram. If it does not tell the truth, the next turn of anyone fails.
    ///
    /// What it says may have been written a while ago: a full queue delays it. So nothing here
    /// depends on what the replica has become since.
    pub(super) fn sent(&mut self, from: ReplicaId, datagram: &[u8]) {
        for (kind, body) in frames(datagram) {
            if let Err(lie) = self.said(from, kind, body) {
                self.lie.get_or_insert(lie);
            }
        }
    }

    fn said(&mut self, from: ReplicaId, kind: u8, body: &[u8]) -> Result<(), String> {
        if self.outside.contains(from) && kind != kind::HELLO && kind < FIRST_OTHER_KIND {
            return Err(format!(
                "{from:?} has lost its memory and sends a message of kind {kind}"
            ));
        }
        if kind == kind::REQUEST || kind > kind::NORMAL_VIEW {
            return Ok(()); // no replica's, or a piece of one
        }
        let message = wire::decode(kind, body);
        let message = message.map_err(|error| format!("{from:?} sends nonsense: {error}"))?;
        self.is_remembered(from, &message)?;
        self.is_allowed(from, &message)?;
        match message {
            Message::PrepareOk(ok) => self.prepare_ok(from, ok),
            Message::DoViewChange(brought) => self.do_view_change(from, &brought),
            Message::StartView(start) => self.start_view(from, &start),
            Message::Reply(reply) => self.reply(&reply),
            Message::Request(_) | Message::Prepare(_) | Message::Commit(_) => Ok(()),
            Message::StartViewChange(_) | Message::GetState(_) | Message::NewState(_) => Ok(()),
            Message::GetCheckpoint(_) | Message::CheckpointChunk(_) => Ok(()),
            Message::Hello(_) | Message::Recovery(_) | Message::RecoveryResponse(_) => Ok(()),
            Message::Round(_) | Message::RoundOk(_) => Ok(()),
            Message::Read(_) | Message::ReadReply(_) => Ok(()),
            Message::GetView(_) | Message::NormalView(_) => Ok(()),
        }
    }

    /// Nobody speaks of a view that it may forget.
    fn is_remembered(&self, from: ReplicaId, message: &Message) -> Result<(), String> {
        let view = message.remembered_view().unwrap_or(View::ZERO);
        let durable = self.durable_views[usize::from(from.0)];
        if view <= durable {
            return Ok(());
        }
        let name = message.name();
        Err(format!(
            "{from:?} says {name} in {view:?}, and remembers {durable:?}"
        ))
    }

    /// Who has lost its memory asks for it, and does nothing else.
    fn is_allowed(&self, from: ReplicaId, message: &Message) -> Result<(), String> {
        if message.asks_for_memory() || !self.forgetful.contains(from) {
            return Ok(());
        }
        let name = message.name();
        Err(format!("{from:?} has lost its memory and says {name}"))
    }

    /// What is acknowledged is of the view's log.
    fn prepare_ok(&mut self, from: ReplicaId, ok: PrepareOk) -> Result<(), String> {
        let PrepareOk { view, op, checksum } = ok;
        if op > OpNumber::ZERO && self.entry_of(view, op) != Some(checksum) {
            return Err(format!(
                "{from:?} acknowledges {op:?} of another log than that of {view:?}"
            ));
        }
        let acknowledged = &mut self.acknowledged[usize::from(from.0)];
        let up_to = acknowledged.entry(view).or_default();
        *up_to = op.max(*up_to);
        Ok(())
    }

    /// What its sender acknowledged in earlier views it brings into the next one.
    fn do_view_change(&self, from: ReplicaId, brought: &DoViewChange) -> Result<(), String> {
        let acknowledged = &self.acknowledged[usize::from(from.0)];
        let Some((&view, &up_to)) = acknowledged.range(..brought.view).next_back() else {
            return Ok(());
        };
        let (log_view, op) = (brought.log_view, brought.tail.op());
        if log_view > view || (log_view == view && op >= up_to) {
            return Ok(());
        }
        Err(format!(
            "{from:?} acknowledged {up_to:?} in {view:?} and brings a log of {log_view:?} up to \
             {op:?}"
        ))
    }

    /// One log a view: whatever is said of it later is what was said first.
    fn start_view(&mut self, from: ReplicaId, start: &StartView) -> Result<(), String> {
        let StartView { view, tail, .. } = start;
        if view.0 % self.acknowledged.len() as u64 != u64::from(from.0) {
            return Err(format!("{from:?} starts {view:?}, which is not its own"));
        }
        let log = self.logs.entry(*view).or_default();
        for op in (tail.commit().0.max(1)..=tail.op().0).map(OpNumber) {
            let checksum = tail.checksum(op).expect("a tail has no gaps");
            if *log.entry(op).or_insert(checksum) != checksum {
                return Err(format!(
                    "{from:?} starts {view:?} with two logs, which differ at {op:?}"
                ));
            }
        }
        Ok(())
    }

    /// Whether who answers must know of the session: a primary that was replaced before it began
    /// need not.
    fn knows(&self, reply: &Reply) -> bool {
        let index = usize::try_from(reply.session.0).ok();
        let began_in = index.and_then(|index| self.committed.get(index.checked_sub(1)?));
        !self.is_of_second_group && began_in.is_some_and(|(_, view)| *view <= reply.view)
    }

    /// All replies to a request are the same, and its result. A session ends once it has begun,
    /// and was never there only if it has not begun.
    fn reply(&mut self, reply: &Reply) -> Result<(), String> {
        let request = (reply.client, reply.session, reply.number);
        let begun =
            self.is_of_second_group || self.sessions.get(&reply.session) == Some(&reply.client);
        let result = match &reply.outcome {
            Outcome::Result(result) => result,
            Outcome::Evicted if !begun => {
                return Err(format!(
                    "{request:?} is told that a session ended that never was"
                ));
            }
            Outcome::Evicted => {
                self.marks.hit(Mark::ToldEvicted);
                return Ok(());
            }
            Outcome::NoSession if begun && self.knows(reply) => {
                return Err(format!("{request:?} is told that its session never was"));
            }
            Outcome::Registered { .. } | Outcome::ResultTooLarge => return Ok(()),
            Outcome::NotPrimary | Outcome::Busy { .. } => return Ok(()),
            Outcome::NoSession | Outcome::TooLarge => return Ok(()),
        };
        let op = self.executed.get(&request);
        let known = op.and_then(|op| self.results.get(op)).copied();
        if known == Some(hash_of(result)) {
            return Ok(());
        }
        Err(format!(
            "{request:?} is answered with something else than its result"
        ))
    }
}

/// Kinds from here on are not the protocol's.
const FIRST_OTHER_KIND: u8 = 0xE0;
