//! What outlives a replica's memory, and the replica's next life.

use super::world::{Node, World};
use viewring_protocol::{
    Effect, Effects, Incarnation, Message, Progress, Record, Replica, Role, View,
};

/// A record that is being written, and what waits for it.
#[derive(Debug)]
pub(crate) struct Barrier {
    due: u64,
    record: Record,
    held: Vec<Effect>,
}

/// What a founding member must not forget.
pub(crate) fn first_record(replica: &mut Replica) -> Record {
    let mut effects = Effects::new();
    assert!(replica.flush(&mut effects).is_empty());
    let records = effects.drain().filter_map(|effect| match effect {
        Effect::Remember(record) => Some(record),
        Effect::Send { .. } | Effect::Broadcast(_) | Effect::Persist(_) => None,
        Effect::Reply(_) | Effect::ReplyWalkIn(_) | Effect::ReadReply(_) => None,
        Effect::NormalView(_) => None,
        Effect::Checkpoint(_) | Effect::Restore(_) => None,
    });
    records.last().expect("it is told what to remember")
}

/// What one who is outside may do.
pub(crate) fn is_greeting(effect: &Effect) -> bool {
    match effect {
        Effect::Broadcast(Message::Hello(_)) => true,
        Effect::Send { message, .. } => matches!(message, Message::Hello(_)),
        Effect::Remember(_) => true,
        Effect::Broadcast(_) | Effect::Persist(_) => false,
        Effect::Reply(_) | Effect::ReplyWalkIn(_) | Effect::ReadReply(_) => false,
        Effect::NormalView(_) => false,
        Effect::Checkpoint(_) | Effect::Restore(_) => false,
    }
}

impl Node {
    /// What was written of the record that was being written when the power went.
    fn lose_power(&mut self, written: bool) {
        if let Some(barrier) = self.barrier.take().filter(|_| written) {
            self.record = Some(barrier.record);
        }
    }
}

impl World {
    /// Writes the record, which takes a while; what comes after it waits.
    pub(crate) fn write_record(&mut self, which: usize, record: Record, held: Vec<Effect>) {
        let due = self.now + self.chance.below(self.faults.disk + 1);
        self.nodes[which].barrier = Some(Barrier { due, record, held });
        self.finish_record(which);
    }

    /// If the record is durable, goes on with what waited for it.
    pub(crate) fn finish_record(&mut self, which: usize) {
        let now = self.now;
        let is_due = |barrier: &mut Barrier| barrier.due <= now;
        let Some(barrier) = self.nodes[which].barrier.take_if(is_due) else {
            return;
        };
        self.checker
            .remembers(self.nodes[which].replica.id(), &barrier.record);
        self.nodes[which].record = Some(barrier.record);
        self.perform_all(which, barrier.held.into_iter());
    }

    /// Puts what waits for a record behind what waits already.
    pub(crate) fn hold(&mut self, which: usize, effect: Effect) -> Option<Effect> {
        let Some(barrier) = &mut self.nodes[which].barrier else {
            return Some(effect);
        };
        barrier.held.push(effect);
        None
    }

    /// Nothing is said of a view that may be forgotten.
    pub(crate) fn is_remembered(&self, which: usize, message: &Message) -> bool {
        let view = message.remembered_view().unwrap_or(View::ZERO);
        let record = self.nodes[which].record.as_ref();
        record.is_some_and(|record| view <= record.view)
    }

    /// Who recovers asks, and no more.
    pub(crate) fn check_said(&mut self, which: usize, message: &Message) {
        let replica = &self.nodes[which].replica;
        assert!(
            self.is_remembered(which, message),
            "{} says {message:?} and may forget it",
            replica.id()
        );
        assert!(
            message.asks_for_memory() || replica.role() != Role::Recovering,
            "{} has lost its memory and says {message:?}",
            replica.id()
        );
        if let Message::PrepareOk(ok) = message {
            self.checker.acknowledges(replica.id(), ok);
        }
    }

    /// Stops a replica, which will come back with its record and nothing else.
    pub(crate) fn forget_all(&mut self, which: usize) {
        self.reached.amnesias += 1;
        self.forgetful = Some(which);
        let written = self.chance.hit(500);
        let away = self.chance.pick(&[5, 20, 200]);
        let back_at = self.now + self.chance.range(1, away);
        let node = &mut self.nodes[which];
        node.lose_power(written);
        node.up = false;
        node.back_at = Some(back_at);
    }

    /// Those come back whose time it is, or all.
    pub(crate) fn bring_back(&mut self, all: bool) {
        for which in 0..self.nodes.len() {
            let is_due = |at: &mut u64| all || *at <= self.now;
            if self.nodes[which].back_at.take_if(is_due).is_some() {
                self.return_one(which);
            }
        }
    }

    fn return_one(&mut self, which: usize) {
        let life = Incarnation(20_000 + self.now * 8 + u64::try_from(which).expect("small"));
        let old = &self.nodes[which].replica;
        let (id, options) = (old.id(), *old.options());
        let fresh = match self.nodes[which].record.clone() {
            Some(record) => Replica::returning(id, self.group, options, life, record),
            // It had not said anything yet.
            None => Replica::new(id, self.group, options, life),
        };
        self.checker.returned(&fresh);
        self.take_over(which, fresh);
        self.nodes[which].up = true;
        let mut effects = Effects::new();
        let progress = self.nodes[which].replica.announce(&mut effects);
        self.restart_timeouts(which, progress | Progress::ROLE_CHANGED);
        self.perform(which, &mut effects);
    }
}
