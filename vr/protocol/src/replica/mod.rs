//! One replica: its state, its doors, its invariants.

mod busy;
mod checkpoint;
mod fetching;
mod formation;
mod normal;
mod paging;
mod preparing;
mod reads;
mod recovery;
mod serving;
mod state_transfer;
mod status;
mod view_change;
mod walk_ins;

pub use checkpoint::CheckpointCounts;
pub use formation::WaitingReason;
pub use reads::{Answerable, ReadCounters};
pub use status::{Role, Status};

use crate::bug::Bug;
use crate::client_table::ClientTable;
use crate::configuration::{Configuration, Options};
use crate::counters::{Counters, Ignored};
use crate::effects::{Durable, Effects, Persist, Progress};
use crate::ids::{
    Checksum, ClientId, Incarnation, Nonce, OpNumber, ReplicaId, RequestNumber, View,
};
use crate::in_flight::InFlight;
use crate::log::{Entry, Kind, Log};
use crate::message::{Message, Outcome, Reply, Request};
use crate::quorum::{Acks, ReplicaSet, Votes};
use crate::record::Record;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use busy::Busy;
use checkpoint::Checkpoints;
use fetching::Fetching;
use formation::Formation;
use paging::Paging;
use preparing::Prepared;
use reads::Reads;
use recovery::Asking;
use serving::Serving;
use state_transfer::{Front, Nonces, Transfer};
use view_change::Brought;

/// One replica of the group.
///
/// Its doors are [`on_message`](Self::on_message), [`on_request`](Self::on_request),
/// [`on_read`](Self::on_read), [`on_durable`](Self::on_durable), [`applied`](Self::applied),
/// [`flush`](Self::flush), [`next_read`](Self::next_read) and one method per timeout; the crate's
/// page tells the order.
///
/// | timeout | of | meaning |
/// |---|---|---|
/// | [`resend_prepares`](Self::resend_prepares) | primary | nothing was committed for a while |
/// | [`tell_others`](Self::tell_others) | primary | [kept back](Self::first_kept_back) for long |
/// | [`heartbeat`](Self::heartbeat) | primary | nothing was prepared for a while |
/// | [`abdicate`](Self::abdicate) | primary | no quorum was heard for a long while |
/// | [`suspect_primary`](Self::suspect_primary) | backup | the primary was silent |
/// | [`resend_view_change`](Self::resend_view_change) | view change | the view has not started |
/// | [`give_up_view`](Self::give_up_view) | view change, catching up | … for a long while |
/// | [`resend_get_state`](Self::resend_get_state) | catching up, backup, recovering | no page |
/// | [`renew_vote`](Self::renew_vote) | catching up | periodic, more often than the silence |
/// | [`refill`](Self::refill) | any | periodic, often |
/// | [`expire_votes`](Self::expire_votes) | members | periodic, twice the silence or more |
/// | [`ease`](Self::ease) | primary | periodic, some ten times a second or more |
/// | [`announce`](Self::announce) | outside, recovering | periodic |
/// | [`begin_recovery`](Self::begin_recovery) | recovering | at once, and when nothing comes |
/// | [`renew_round`](Self::renew_round) | primary | periodic |
#[derive(Debug)]
pub struct Replica {
    id: ReplicaId,
    group: Configuration,
    options: Options,
    incarnation: Incarnation,
    counters: Counters,

    status: Status,
    view: View,
    /// That of `view`. Kept, as who it is is asked many times a request, and takes a division.
    primary: ReplicaId,
    /// The view whose log `log` is a part of; rises only when a log is installed.
    log_view: View,
    log: Log,
    commit: OpNumber,
    /// The highest commit-number heard of in views whose log we have; may be ahead of the log.
    commit_heard: OpNumber,
    applied: OpNumber,
    table: ClientTable,
    in_flight: InFlight,

    /// Up to where the log is durable as the log of `log_view`.
    durable: OpNumber,
    /// Up to where it was given to the journal.
    persisted: OpNumber,
    /// A log was installed and the journal was not told.
    persist_due: bool,

    prepared: Prepared,
    acks: Acks,
    busy: Busy,
    /// Who has answered since a quorum was last heard.
    heard: ReplicaSet,
    abdicating: bool,
    /// Who is still on its way into our view, to be sent a StartView.
    late: ReplicaSet,

    /// Backup: the primary is to be told how far we are.
    ack_due: bool,
    /// Entries of our view that came too early.
    early: BTreeMap<OpNumber, Entry>,
    /// What was heard to be committed in our view while its log was not here.
    commit_early: OpNumber,

    votes: Votes,
    /// New primary: what each replica brings into the view.
    brought: BTreeMap<ReplicaId, Brought>,
    /// Between views: the primary of ours has said that it has lost its memory.
    primary_recovers: bool,
    /// The primary of our view was asked for a StartView.
    start_view_asked: bool,
    nonces: Nonces,
    transfer: Option<Transfer>,
    fetching: Fetching,
    paging: Paging,
    serving: Serving,
    checkpoints: Checkpoints,

    reads: Reads,

    formation: Formation,
    /// A member that has lost its memory: what it has heard of it.
    recovery: Option<Asking>,
    /// Normal: who has lost its memory and asks for it.
    asked_by: BTreeMap<ReplicaId, Nonce>,
    /// What must be remembered has changed and the caller was not told.
    remember_due: bool,

    /// Always none, but in tests of tests.
    bug: Option<Bug>,
}

impl Replica {
    /// A replica that starts with nothing and forms a group with the others. `incarnation` must
    /// never have been used by this replica before. What it must not forget it tells from now on
    /// ([`Effect::Remember`](crate::Effect::Remember)); if that is not kept, it must never be
    /// started again but in this way.
    ///
    /// # Panics
    ///
    /// Panics if `id` is not of the group.
    pub fn new(
        id: ReplicaId,
        group: Configuration,
        options: Options,
        incarnation: Incarnation,
    ) -> Self {
        assert!(group.contains(id), "the replica is of the group");
        Self {
            id,
            group,
            options,
            incarnation,
            counters: Counters::default(),
            status: Status::Recovering,
            view: View::ZERO,
            primary: group.primary(View::ZERO),
            log_view: View::ZERO,
            log: Log::new(Checksum(0)),
            commit: OpNumber::ZERO,
            commit_heard: OpNumber::ZERO,
            applied: OpNumber::ZERO,
            table: ClientTable::new(&group, incarnation),
            in_flight: InFlight::new(incarnation),
            durable: OpNumber::ZERO,
            persisted: OpNumber::ZERO,
            persist_due: false,
            prepared: Prepared::default(),
            acks: Acks::default(),
            busy: Busy::default(),
            heard: ReplicaSet::EMPTY,
            abdicating: false,
            late: ReplicaSet::EMPTY,
            ack_due: false,
            early: BTreeMap::new(),
            commit_early: OpNumber::ZERO,
            votes: Votes::default(),
            brought: BTreeMap::new(),
            primary_recovers: false,
            start_view_asked: false,
            nonces: Nonces::new(incarnation),
            transfer: None,
            fetching: Fetching::default(),
            paging: Paging::new(),
            serving: Serving::new(options.transfer_budget_bytes),
            checkpoints: Checkpoints::default(),
            reads: Reads::new(incarnation, options.lease_us > 0),
            formation: Formation::new(id, &group, incarnation),
            recovery: None,
            asked_by: BTreeMap::new(),
            remember_due: true,
            bug: None,
        }
    }

    /// A later life of a replica, which begins with what it has [told](crate::Effect::Remember)
    /// to be remembered last. If it was a member of a group, it recovers: see
    /// [`begin_recovery`](Self::begin_recovery). Else it goes on to form one. `incarnation` must
    /// never have been used by this replica before.
    ///
    /// # Panics
    ///
    /// Panics if `id` is not of the group, or the record [not of the replica](Record::is_of).
    pub fn returning(
        id: ReplicaId,
        group: Configuration,
        options: Options,
        incarnation: Incarnation,
        record: Record,
    ) -> Self {
        assert!(record.is_of(id, &group), "the record is of this replica");
        let mut replica = Self::new(id, group, options, incarnation);
        replica.formation = Formation::new(id, &group, record.incarnation);
        replica.set_view(record.view);
        replica.remember_due = false;
        match record.founders {
            Some(founders) if record.member => {
                replica.name_group(founders);
                replica.recovery = Some(Asking::new(replica.nonces.fresh()));
            }
            Some(founders) => replica.formation.promise(founders),
            None => {}
        }
        replica.invariants();
        replica
    }

    /// A member of a group that runs in view 0 with an empty log: for tests and simulations.
    /// A replica must never be started twice in this way within one group. To be flushed before
    /// anything else.
    ///
    /// # Panics
    ///
    /// Panics if `id` is not of the group.
    pub fn founding_member(id: ReplicaId, group: Configuration, options: Options) -> Self {
        let mut replica = Self::new(id, group, options, Incarnation(u64::from(id.0)));
        let founders = group
            .replicas()
            .map(|id| Incarnation(u64::from(id.0)))
            .collect();
        replica.form(founders);
        replica
    }

    /// Makes the replica err: see [`Bug`].
    pub fn plant(&mut self, bug: Bug) {
        self.bug = Some(bug);
        self.table.plant(bug, self.id);
    }

    /// From now on this is the view.
    fn set_view(&mut self, view: View) {
        self.view = view;
        self.primary = self.group.primary(view);
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Whether a message is of a group of these replicas that has died, or not even that.
    fn is_of_other_group(&self, message: &Message) -> bool {
        message.root().is_some_and(|root| root != self.root()) && !self.has(Bug::DeadGroupBelieved)
    }

    /// A message of another replica has arrived. Whatever it says, this does not panic.
    pub fn on_message(
        &mut self,
        from: ReplicaId,
        message: Message,
        effects: &mut Effects,
    ) -> Progress {
        let progress = if !self.group.contains(from) || from == self.id {
            self.ignore(Ignored::UnknownSender)
        } else if let Message::Hello(hello) = message {
            self.on_hello(from, hello, effects)
        } else if self.role() == Role::Outside {
            self.ignore(Ignored::NotMember)
        } else if self.is_of_other_group(&message) {
            self.ignore(Ignored::OtherGroup)
        } else if self.role() == Role::Recovering {
            self.on_message_recovering(from, message, effects)
        } else if self.must_stay() && message.leads_to().is_some_and(|view| view > self.view) {
            self.ignore(Ignored::Promised)
        } else {
            self.on_member_message(from, message, effects)
        };
        self.invariants();
        progress
    }

    fn on_member_message(
        &mut self,
        from: ReplicaId,
        message: Message,
        effects: &mut Effects,
    ) -> Progress {
        match message {
            Message::Prepare(prepare) => self.on_prepare(from, prepare, effects),
            Message::PrepareOk(ok) => self.on_prepare_ok(from, ok, effects),
            Message::Commit(commit) => self.on_commit(from, commit, effects),
            Message::StartViewChange(wish) => self.on_start_view_change(from, wish, effects),
            Message::DoViewChange(brought) => self.on_do_view_change(from, brought, effects),
            Message::StartView(start) => self.on_start_view(from, start, effects),
            Message::GetState(get) => self.on_get_state(from, get, effects),
            Message::NewState(new) => self.on_new_state(from, new, effects),
            Message::GetCheckpoint(get) => self.on_get_checkpoint(from, get, effects),
            Message::CheckpointChunk(chunk) => self.on_checkpoint_chunk(from, chunk, effects),
            Message::Round(round) => self.on_round(from, round, effects),
            Message::RoundOk(ok) => self.on_round_ok(from, ok, effects),
            Message::Recovery(recovery) => self.on_recovery(from, recovery, effects),
            Message::RecoveryResponse(_) => self.ignore(Ignored::StaleNonce),
            Message::Request(_) | Message::Reply(_) | Message::Hello(_) => {
                self.ignore(Ignored::NotForReplicas)
            }
            Message::Read(_) | Message::ReadReply(_) => self.ignore(Ignored::NotForReplicas),
            Message::GetView(_) | Message::NormalView(_) => self.ignore(Ignored::NotForReplicas),
        }
    }

    /// Emits what the turn has collected: call it once all that had arrived was handed in, and
    /// after each timeout.
    pub fn flush(&mut self, effects: &mut Effects) -> Progress {
        self.remember(effects);
        self.trim();
        self.drop_useless();
        self.flush_refused_reads(effects);
        let ordered = self.flush_persist(effects);
        let progress = match self.role() {
            Role::Primary => {
                self.flush_start_views(effects);
                let prepared = self.flush_prepares(effects);
                prepared | self.flush_round(!prepared.is_empty(), effects)
            }
            // What was just given to the journal is acknowledged once it is durable.
            Role::Backup if ordered => self.flush_round_ok(effects),
            Role::Backup => self.flush_prepare_ok(effects) | self.flush_round_ok(effects),
            Role::ViewChange | Role::CatchingUp => Progress::NONE,
            Role::Recovering | Role::Outside => Progress::NONE,
        };
        self.flush_recovery_responses(effects);
        self.flush_hello(effects);
        self.invariants();
        progress
    }

    /// Orders the journal to write what it was not given yet; whether there was anything.
    fn flush_persist(&mut self, effects: &mut Effects) -> bool {
        let last = self.log.op();
        // Who recovers has a part of a log, of no view.
        let whole = self.status != Status::Recovering;
        if !whole || (last == self.persisted && !self.persist_due) {
            return false;
        }
        let first = self.persisted.next();
        self.persisted = last;
        self.persist_due = false;
        let owner = (self.id, self.incarnation);
        effects.persist(Persist {
            owner,
            first,
            last,
            log_view: self.log_view,
        });
        true
    }

    /// Entries are durable: the only way to acknowledge them.
    pub fn on_durable(&mut self, durable: Durable, effects: &mut Effects) -> Progress {
        let mine = durable.owner == (self.id, self.incarnation);
        let progress = if mine && durable.log_view == self.log_view {
            self.on_own_durable(&durable, effects)
        } else {
            self.ignore(Ignored::StaleDurable)
        };
        self.invariants();
        progress
    }

    fn on_own_durable(&mut self, durable: &Durable, effects: &mut Effects) -> Progress {
        assert!(
            durable.last <= self.persisted,
            "the journal was given what it has written"
        );
        self.durable = self.durable.max(durable.last);
        match self.role() {
            Role::Primary => {
                self.acks.acknowledge(self.id, self.durable);
                self.advance_commit(effects)
            }
            Role::Backup => {
                self.ack_due = true;
                self.flush_prepare_ok(effects)
            }
            // The log is kept through a view change, but nothing is acknowledged in one.
            Role::ViewChange | Role::CatchingUp => Progress::NONE,
            Role::Recovering | Role::Outside => Progress::NONE,
        }
    }

    /// The next committed entry that the state machine must execute. None, too, while a
    /// checkpoint was ordered and not begun.
    pub fn next_to_apply(&self) -> Option<&Entry> {
        if self.applied == self.commit || self.checkpoints.is_ordered() {
            None
        } else {
            self.log.get(self.applied.next())
        }
    }

    /// The entry of [`next_to_apply`](Self::next_to_apply) was executed with this result
    /// (VRR §4.1, step 5).
    ///
    /// # Panics
    ///
    /// Panics if there was no entry to execute.
    pub fn applied(&mut self, result: &[u8], effects: &mut Effects) {
        let entry = self
            .next_to_apply()
            .expect("an entry was to be executed")
            .clone();
        if entry.kind() == Kind::WalkIn {
            self.walk_in_applied(&entry, result, effects);
            self.finish(&entry, None, effects);
            self.apply_own(effects);
            return self.invariants();
        }
        let outcome = self.table.record(&entry, result);
        self.finish(&entry, Some(outcome), effects);
        self.apply_own(effects);
        self.invariants();
    }

    /// Executes what is the protocol's own, up to the next operation of the state machine.
    fn apply_own(&mut self, effects: &mut Effects) {
        while let Some(entry) = self.next_to_apply() {
            if self.table.is_to_execute(entry) {
                return;
            }
            let entry = entry.clone();
            if self.has(Bug::EvictedExecuted) && self.table.revive(&entry) {
                return;
            }
            let outcome = match entry.kind() {
                Kind::Register => Some(self.table.register(&entry)),
                Kind::Close => self.table.close(&entry),
                Kind::Operation => self.table.answer_unexecuted(&entry),
                Kind::WalkIn => {
                    self.walk_in_skipped(&entry, effects);
                    None
                }
                Kind::Query => None,
            };
            self.finish(&entry, outcome, effects);
        }
    }

    fn finish(&mut self, entry: &Entry, outcome: Option<Outcome>, effects: &mut Effects) {
        self.in_flight.remove(entry);
        self.applied = entry.op();
        if let Some(outcome) = outcome
            && self.role() == Role::Primary
        {
            let (client, session, number) = (entry.client(), entry.session(), entry.number());
            self.reply((client, session, number), outcome, effects);
        }
        self.order_checkpoint_if_due(entry, effects);
    }

    fn reply(
        &self,
        (client, session, number): (ClientId, OpNumber, RequestNumber),
        outcome: Outcome,
        effects: &mut Effects,
    ) {
        effects.reply(Reply {
            view: self.view,
            client,
            session,
            number,
            outcome,
        });
    }

    /// Raises the commit-number to what was heard, as far as the log reaches. It never falls.
    /// Only for a log that is of the present view.
    fn raise_commit(&mut self, heard: OpNumber, effects: &mut Effects) -> Progress {
        assert_eq!(
            self.log_view, self.view,
            "what is committed is known of the view's log only"
        );
        self.commit_heard = self.commit_heard.max(heard);
        let mut commit = self.commit_heard.min(self.log.op());
        if self.has(Bug::CommitSetToHeard) {
            commit = heard.min(self.log.op());
            self.commit = self.commit.min(commit);
        }
        if commit <= self.commit {
            return Progress::NONE;
        }
        self.commit = commit;
        self.apply_own(effects);
        Progress::COMMITTED
    }

    /// Replaces everything behind `front` by the log of the present view, and is normal.
    fn install(&mut self, front: Front, suffix: Vec<Entry>, commit: OpNumber) {
        let recovers = self.status == Status::Recovering && self.recovery.is_some();
        assert!(recovers || self.status == Status::ViewChange);
        let common = match front {
            Front::Common(common) => common,
            Front::Checkpoint => self.begin_behind_fetched(),
        };
        assert!(common >= self.commit, "what is committed is never replaced");
        assert!(
            recovers || self.log_view < self.view,
            "a life installs a view's log once"
        );
        let keeps_tail = self.has(Bug::TailAckedUnproven) && suffix.is_empty();
        let was_in_flight =
            core::mem::replace(&mut self.in_flight, InFlight::new(self.incarnation));
        if !keeps_tail {
            self.log.replace_above(common, suffix);
        }
        self.log_view = self.view;
        self.status = Status::Normal;
        assert!(
            commit <= self.log.op(),
            "everything committed is in the new log"
        );
        self.commit = self.commit.max(commit);
        // What was heard to be committed in earlier views is in this log.
        self.commit_heard = self.commit_heard.min(self.log.op()).max(self.commit);
        self.in_flight = self.flying();
        if self.has(Bug::TableUpdatedOnAccept) {
            self.in_flight.merge(&was_in_flight);
        }
        self.durable = OpNumber::ZERO;
        self.persisted = self.persisted.min(common).max(self.log.base());
        self.persist_due = true;
        self.prepared = Prepared::begin(self.log.op());
        self.acks = Acks::default();
        self.busy = Busy::default();
        self.heard = ReplicaSet::EMPTY;
        self.abdicating = false;
        self.transfer = None;
        self.brought.clear();
        self.start_view_asked = false;
        self.reads.begin_view(self.log.op());
        self.recovery = None;
    }

    /// Tells what must be remembered, if that has changed: before anything that rests on it.
    fn remember(&mut self, effects: &mut Effects) {
        if core::mem::take(&mut self.remember_due) {
            effects.remember(self.record());
        }
    }

    /// The index of what is in the log and not executed.
    fn flying(&self) -> InFlight {
        let unexecuted = self.applied.0..self.log.op().0;
        let entries = unexecuted.filter_map(|op| self.log.get(OpNumber(op).next()));
        InFlight::of(self.incarnation, entries)
    }

    fn ignore(&mut self, reason: Ignored) -> Progress {
        self.counters.count(reason);
        Progress::NONE
    }

    /// What must hold between any two calls. Constant time. Every door that changes anything asks
    /// for it as it closes, so that the next one need not as it opens.
    fn invariants(&self) {
        let op = self.log.op();
        assert!(self.primary == self.group.primary(self.view));
        assert!(
            self.applied <= self.commit,
            "only what is committed is executed"
        );
        assert!(self.commit <= op, "what is committed is in the log");
        assert!(self.commit <= self.commit_heard);
        assert!(
            self.log.base() <= self.applied,
            "what is cut off was executed"
        );
        assert!(
            self.log_view <= self.view,
            "a log is of a view that was joined"
        );
        assert!(self.durable <= self.persisted && self.persisted <= op);
        self.prepared.invariants(op);
        assert!(
            self.acks.of(self.id) <= self.durable,
            "we count our copy once it is durable"
        );
        self.reads.invariants(self.role() == Role::Primary);
        let own_vote = self.votes.of(self.id);
        assert!(
            own_vote.is_none_or(|view| view > self.view),
            "one votes to go forward"
        );
        match self.status {
            Status::Normal => {
                assert_eq!(
                    self.log_view, self.view,
                    "a normal replica has its view's log"
                );
                assert!(self.brought.is_empty());
                assert!(self.transfer.as_ref().is_none_or(Transfer::is_gap));
            }
            Status::ViewChange => {
                assert!(
                    self.log_view < self.view,
                    "between views the old log is kept"
                );
                assert!(
                    self.transfer
                        .as_ref()
                        .is_none_or(|transfer| !transfer.is_gap())
                );
                assert!(!self.abdicating && !self.ack_due && self.late.is_empty());
            }
            Status::Recovering => {
                let is_outside = self.recovery.is_none();
                assert!(
                    !is_outside || (self.view, op) == (View::ZERO, OpNumber::ZERO),
                    "nothing was learned"
                );
                assert!(
                    self.transfer
                        .as_ref()
                        .is_none_or(|t| !is_outside && !t.is_gap())
                );
                assert!(self.commit == op, "what is fetched in vain is committed");
                assert!(own_vote.is_none() && self.brought.is_empty() && !self.ack_due);
            }
        }
    }
}

/// Requests arrive here, whatever the role.
impl Replica {
    /// A request of a client has arrived (VRR §4.1, step 2). Whatever it says, this does not
    /// panic.
    pub fn on_request(&mut self, request: Request, effects: &mut Effects) -> Progress {
        let is_walk_in = request.kind == Kind::WalkIn;
        match self.role() {
            Role::Primary if is_walk_in => self.on_walk_in_as_primary(&request, effects),
            Role::Primary => self.on_request_as_primary(request, effects),
            Role::Backup | Role::ViewChange | Role::CatchingUp => {
                self.counters.count(Ignored::NotPrimary);
                if !is_walk_in {
                    self.reply(request.id(), Outcome::NotPrimary, effects);
                }
            }
            Role::Recovering => self.counters.count(Ignored::Recovering),
            Role::Outside => self.counters.count(Ignored::NotMember),
        }
        self.invariants();
        Progress::NONE
    }
}
