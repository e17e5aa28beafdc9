//! Sentences of *Viewstamped Replication Revisited* (Liskov and Cowling, 2012), each a test.

use viewring_protocol::{
    Checksum, ClientId, Commit, Configuration, DoViewChange, Durable, Effect, Effects, Entry,
    Header, Hello, Ignored, Incarnation, Kind, Message, NewState, Nonce, OpNumber, Options,
    Outcome, Prepare, PrepareOk, Progress, Replica, ReplicaId, Reply, Request, RequestNumber, Role,
    StartView, StartViewChange, Status, Tail, View, WaitingReason,
};

/// What no timeout of this test waits for.
fn skip(_: Progress) {}

/// A replica with what it said, and a journal that writes when it is told to.
struct Bench {
    replica: Replica,
    sent: Vec<(Option<ReplicaId>, Message)>,
    replies: Vec<Reply>,
    journal: Vec<Durable>,
}

impl Bench {
    fn of(id: u8, count: u8) -> Self {
        let group = Configuration::new(count).expect("odd");
        let options = Options {
            window: 8,
            max_body_bytes: 64,
            ..Options::default()
        };
        let replica = Replica::founding_member(ReplicaId(id), group, options);
        let mut bench = Self::with(replica);
        skip(bench.flush());
        bench.sent.clear();
        bench
    }

    fn with(replica: Replica) -> Self {
        Self {
            replica,
            sent: Vec::new(),
            replies: Vec::new(),
            journal: Vec::new(),
        }
    }

    fn root(&self) -> Checksum {
        self.replica.group_checksum().unwrap_or_default()
    }

    fn perform(&mut self, mut effects: Effects) {
        for effect in effects.drain() {
            match effect {
                Effect::Send { to, message } => {
                    let message = fit(message, self.root(), FITTED);
                    self.sent.push((Some(to), message));
                }
                Effect::Broadcast(message) => {
                    let message = fit(message, self.root(), FITTED);
                    self.sent.push((None, message));
                }
                Effect::Reply(reply) => self.replies.push(reply),
                Effect::Persist(persist) => self.journal.push(persist.written()),
            }
        }
    }

    fn flush(&mut self) -> Progress {
        let mut effects = Effects::new();
        let progress = self.replica.flush(&mut effects);
        self.perform(effects);
        progress
    }

    fn write(&mut self) -> Progress {
        let mut effects = Effects::new();
        let mut progress = Progress::NONE;
        for durable in std::mem::take(&mut self.journal) {
            progress |= self.replica.on_durable(durable, &mut effects);
        }
        self.perform(effects);
        progress
    }

    fn execute(&mut self, result: &[u8]) -> usize {
        let mut effects = Effects::new();
        let mut executed = 0;
        while self.replica.next_to_apply().is_some() {
            self.replica.applied(result, &mut effects);
            executed += 1;
        }
        self.perform(effects);
        executed
    }

    /// A turn with one message; the journal writes at once.
    fn hear(&mut self, from: u8, message: Message) -> Progress {
        let mut effects = Effects::new();
        let message = fit(message, FITTED, self.root());
        let progress = self
            .replica
            .on_message(ReplicaId(from), message, &mut effects);
        self.perform(effects);
        progress | self.flush() | self.write()
    }

    fn ask(&mut self, client: u64, session: u64, number: u64, body: &[u8]) {
        let mut effects = Effects::new();
        let progress = self
            .replica
            .on_request(request(client, session, number, body), &mut effects);
        assert!(progress.is_empty());
        self.perform(effects);
        skip(self.flush() | self.write());
    }

    fn expire(&mut self, timeout: fn(&mut Replica, &mut Effects) -> Progress) -> Progress {
        let mut effects = Effects::new();
        let progress = timeout(&mut self.replica, &mut effects);
        self.perform(effects);
        progress | self.flush() | self.write()
    }

    fn said(&mut self) -> Vec<(Option<ReplicaId>, Message)> {
        std::mem::take(&mut self.sent)
    }

    fn prepared(&mut self) -> Vec<Prepare> {
        let prepares = self.said().into_iter().filter_map(|(_, message)| {
            if let Message::Prepare(prepare) = message {
                Some(prepare)
            } else {
                None
            }
        });
        prepares.collect()
    }

    fn ok(&self, op: u64) -> Message {
        let op = OpNumber(op);
        let checksum = self.replica.entry(op).expect("in the log").checksum();
        Message::PrepareOk(PrepareOk {
            view: self.replica.view(),
            op,
            checksum,
        })
    }

    fn outcome(&mut self) -> Option<Outcome> {
        self.replies.pop().map(|reply| reply.outcome)
    }

    fn ignored(&self, reason: Ignored) -> u64 {
        self.replica.counters().ignored(reason)
    }
}

fn request(client: u64, session: u64, number: u64, body: &[u8]) -> Request {
    Request {
        client: ClientId(client),
        session: OpNumber(session),
        number: RequestNumber(number),
        kind: if number == 0 {
            Kind::Register
        } else {
            Kind::Operation
        },
        body: body.into(),
    }
}

/// Entries from `first` on the chain that ends in `parent`.
fn chain(first: u64, view: u64, parent: Checksum, count: u64) -> Vec<Entry> {
    let mut parent = parent;
    let entries = (first..first + count).map(|op| {
        let entry = Entry::new(OpNumber(op), View(view), parent, &request(op, 0, 0, b""));
        parent = entry.checksum();
        entry
    });
    entries.collect()
}

fn prepare(view: u64, entries: &[Entry], commit: u64) -> Message {
    let (view, entries, commit) = (View(view), entries.to_vec(), OpNumber(commit));
    let root = FITTED;
    Message::Prepare(Prepare {
        view,
        root,
        entries,
        commit,
    })
}

fn root(bench: &Bench) -> Checksum {
    bench.replica.group_checksum().expect("a member")
}

fn tail(root: Checksum, commit: u64, entries: &[Entry]) -> Tail {
    let base = Header {
        view: View(0),
        checksum: root,
    };
    let headers: Vec<_> = std::iter::once(base)
        .chain(entries.iter().map(Entry::header))
        .collect();
    let from = usize::try_from(commit).expect("small");
    Tail::new(OpNumber(commit), headers[from..].to_vec()).expect("not empty")
}

fn wish(view: u64, joined: bool) -> Message {
    let (view, root) = (View(view), FITTED);
    Message::StartViewChange(StartViewChange { view, root, joined })
}

fn commit(view: u64, commit: u64) -> Message {
    let (view, root, commit) = (View(view), FITTED, OpNumber(commit));
    Message::Commit(Commit { view, root, commit })
}

fn start(view: u64, tail: Tail) -> Message {
    let (view, root) = (View(view), FITTED);
    Message::StartView(StartView { view, root, tail })
}

/// Stands for the root of the replica that hears the message, or has said it.
const FITTED: Checksum = Checksum(0xf1_77ed);

/// The message with the root of the group where it says `FITTED`, or the other way round.
fn fit(message: Message, from: Checksum, to: Checksum) -> Message {
    let fitted = |root| if root == from { to } else { root };
    match message {
        Message::Prepare(m) => Message::Prepare(Prepare {
            root: fitted(m.root),
            ..m
        }),
        Message::Commit(m) => Message::Commit(Commit {
            root: fitted(m.root),
            ..m
        }),
        Message::StartViewChange(m) => Message::StartViewChange(StartViewChange {
            root: fitted(m.root),
            ..m
        }),
        Message::StartView(m) => Message::StartView(StartView {
            root: fitted(m.root),
            ..m
        }),
        Message::DoViewChange(_) | Message::PrepareOk(_) | Message::GetState(_) => message,
        Message::NewState(_) | Message::Hello(_) => message,
        Message::Request(_) | Message::Reply(_) => message,
    }
}

fn brings(view: u64, log_view: u64, root: Checksum, tail: Tail) -> Message {
    Message::DoViewChange(DoViewChange {
        view: View(view),
        log_view: View(log_view),
        root,
        tail,
    })
}

/// §4.1, step 2: "If the request-number s isn't bigger than the information in the table it drops
/// the request, but it will re-send the response if the request is the most recent one from this
/// client and it has already been executed."
#[test]
fn s4_1_2_a_request_that_is_not_newer_is_dropped_or_answered_again() {
    let mut primary = Bench::of(0, 1);
    primary.ask(7, 0, 0, b"");
    assert_eq!(
        primary.outcome(),
        Some(Outcome::Registered {
            session: OpNumber(1)
        })
    );
    primary.ask(7, 1, 1, b"a");
    assert_eq!(primary.execute(b"A"), 1);
    primary.ask(7, 1, 2, b"b");
    assert_eq!(primary.execute(b"B"), 1);
    primary.replies.clear();
    primary.ask(7, 1, 2, b"b");
    assert_eq!(primary.outcome(), Some(Outcome::Result((*b"B").into())));
    primary.ask(7, 1, 1, b"a");
    assert_eq!(
        (primary.outcome(), primary.ignored(Ignored::OldRequest)),
        (None, 1)
    );
    assert_eq!(
        (primary.replica.op(), primary.execute(b"")),
        (OpNumber(3), 0)
    );
}

/// §4.1, step 3: "The primary advances op-number, adds the request to the end of the log … Then
/// it sends a ⟨PREPARE v, m, n, k⟩ message to the other replicas."
#[test]
fn s4_1_3_the_primary_prepares() {
    let mut primary = Bench::of(0, 3);
    primary.ask(7, 0, 0, b"");
    let prepares = primary.prepared();
    assert_eq!(prepares.len(), 1);
    assert_eq!(
        (prepares[0].view, prepares[0].commit),
        (View(0), OpNumber(0))
    );
    assert_eq!(prepares[0].entries[0].op(), OpNumber(1));
}

/// §6.2: "the primary can … bundle them together", here by nature: all of a turn.
#[test]
fn s6_2_a_turn_is_one_prepare() {
    let mut primary = Bench::of(0, 3);
    let mut effects = Effects::new();
    for client in 1..=5 {
        let progress = primary
            .replica
            .on_request(request(client, 0, 0, b""), &mut effects);
        assert!(progress.is_empty() && effects.is_empty());
    }
    assert_eq!(primary.flush(), Progress::PREPARED);
    let prepares = primary.prepared();
    assert_eq!((prepares.len(), prepares[0].entries.len()), (1, 5));
}

/// §4.1, step 4: "Backups process PREPARE messages in order: a backup won't accept a prepare with
/// op-number n until it has entries for all earlier requests in its log."
#[test]
fn s4_1_4_backups_prepare_in_order() {
    let mut backup = Bench::of(1, 3);
    let entries = chain(1, 0, root(&backup), 2);
    let progress = backup.hear(0, prepare(0, &entries[1..], 0));
    assert!(progress.contains(Progress::HEARD_PRIMARY));
    assert_eq!(backup.replica.op(), OpNumber(0));
    assert!(
        backup
            .said()
            .iter()
            .any(|(_, message)| message.name() == "GetState")
    );
    let progress = backup.hear(0, prepare(0, &entries[..1], 0));
    assert!(progress.contains(Progress::HEARD_PRIMARY));
    assert_eq!(backup.replica.op(), OpNumber(2), "what came early is used");
}

/// §4.1, step 4: "… sends a ⟨PREPAREOK v, n, i⟩ message to the primary to indicate that this
/// operation and all earlier ones have prepared locally": durable first, one for the turn.
#[test]
fn s4_1_4_a_prepare_ok_is_cumulative_and_durable() {
    let mut backup = Bench::of(1, 3);
    let entries = chain(1, 0, root(&backup), 3);
    let mut effects = Effects::new();
    for entry in &entries {
        let message = prepare(0, std::slice::from_ref(entry), 0);
        let message = fit(message, FITTED, backup.root());
        skip(
            backup
                .replica
                .on_message(ReplicaId(0), message, &mut effects),
        );
    }
    backup.perform(effects);
    assert!(backup.flush().is_empty());
    assert!(
        backup.said().is_empty(),
        "nothing is acknowledged before it is durable"
    );
    assert!(backup.write().is_empty());
    let ok = PrepareOk {
        view: View(0),
        op: OpNumber(3),
        checksum: entries[2].checksum(),
    };
    assert_eq!(
        backup.said(),
        [(Some(ReplicaId(0)), Message::PrepareOk(ok))]
    );
}

/// §4.1, step 5: "The primary waits for f PREPAREOK messages from different backups."
#[test]
fn s4_1_5_backups_are_counted_once() {
    let mut primary = Bench::of(0, 5);
    primary.ask(7, 0, 0, b"");
    for _ in 0..3 {
        let ok = primary.ok(1);
        assert!(!primary.hear(1, ok).contains(Progress::COMMITTED));
    }
    let ok = primary.ok(1);
    let progress = primary.hear(2, ok);
    assert!(progress.contains(Progress::COMMITTED | Progress::HEARD_QUORUM));
    assert_eq!(primary.replica.commit(), OpNumber(1));
}

/// §4.1, step 5, with a disk: the primary's own copy counts when it is durable, as any other.
#[test]
fn s4_1_5_the_primarys_own_copy_is_counted_when_durable() {
    let mut primary = Bench::of(0, 3);
    let mut effects = Effects::new();
    let progress = primary
        .replica
        .on_request(request(7, 0, 0, b""), &mut effects);
    assert!(progress.is_empty());
    assert_eq!(primary.flush(), Progress::PREPARED);
    let ok = primary.ok(1);
    let progress = primary.replica.on_message(ReplicaId(1), ok, &mut effects);
    assert!(
        !progress.contains(Progress::COMMITTED),
        "one durable copy of three"
    );
    assert!(primary.write().contains(Progress::COMMITTED));
}

/// §4.1, step 6: "if the primary does not receive a new client request in a timely way, it instead
/// informs the backups of the latest commit by sending them a ⟨COMMIT v, k⟩ message".
#[test]
fn s4_1_6_an_idle_primary_tells_the_commit_number() {
    let mut primary = Bench::of(0, 3);
    assert!(primary.expire(Replica::heartbeat).is_empty());
    assert_eq!(primary.said(), [(None, commit(0, 0))]);
}

/// §4.1, step 7: "When a backup learns of a commit, it waits until it has the request in its log
/// and until it has executed all earlier operations. Then it executes … but does not send the
/// reply to the client."
#[test]
fn s4_1_7_backups_execute_and_do_not_reply() {
    let mut backup = Bench::of(1, 3);
    let entries = chain(1, 0, root(&backup), 1);
    assert!(!backup.hear(0, commit(0, 1)).contains(Progress::COMMITTED));
    assert!(
        backup
            .hear(0, prepare(0, &entries, 0))
            .contains(Progress::COMMITTED)
    );
    assert_eq!(backup.replica.executed(), OpNumber(1));
    assert!(backup.replies.is_empty());
}

/// §4.1: "replicas … only process normal protocol messages containing a view-number that matches
/// the view-number they know. If the sender is behind, the receiver drops the message."
#[test]
fn s4_1_messages_of_old_views_are_dropped() {
    let mut backup = Bench::of(1, 3);
    assert!(
        backup
            .hear(2, wish(2, true))
            .contains(Progress::ROLE_CHANGED)
    );
    let entries = chain(1, 0, root(&backup), 1);
    assert!(backup.hear(0, prepare(0, &entries, 0)).is_empty());
    assert_eq!(
        (backup.ignored(Ignored::OldView), backup.replica.op()),
        (1, OpNumber(0))
    );
}

/// §4.2, step 1, corrected: a replica leaves its view when a quorum wants to, not alone.
#[test]
fn s4_2_1_a_quorum_leaves_a_view() {
    let mut backup = Bench::of(1, 3);
    assert!(backup.expire(Replica::suspect_primary).is_empty());
    assert_eq!(backup.said(), [(None, wish(1, false))]);
    assert_eq!(
        (backup.replica.role(), backup.replica.view()),
        (Role::Backup, View(0))
    );
    assert!(
        backup
            .hear(2, wish(1, false))
            .contains(Progress::ROLE_CHANGED)
    );
    assert_eq!(backup.replica.status(), Status::ViewChange);
    assert_eq!(backup.said(), [(None, wish(1, true))]);
}

/// §4.2, step 1: the suspicion ends when the primary is heard.
#[test]
fn s4_2_1_a_suspicion_is_withdrawn() {
    let mut backup = Bench::of(1, 3);
    assert!(backup.expire(Replica::suspect_primary).is_empty());
    assert_eq!(backup.hear(0, commit(0, 0)), Progress::HEARD_PRIMARY);
    assert!(backup.hear(2, wish(1, false)).is_empty());
    assert_eq!(backup.replica.view(), View(0));
}

/// §4.2, step 3: "selects as the new log the one contained in the message with the largest v';
/// if several messages have the same v' it selects the one among them with the largest n. It
/// sets its op-number to that of the topmost entry in the new log, sets its commit-number to the
/// largest such number it received."
#[test]
fn s4_2_3_the_log_of_the_highest_last_normal_view_is_chosen() {
    let mut primary = Bench::of(4, 5);
    let root = root(&primary);
    let long = chain(1, 0, root, 3);
    let short = chain(1, 2, root, 1);
    assert!(
        primary
            .hear(0, wish(4, true))
            .contains(Progress::ROLE_CHANGED)
    );
    assert!(
        primary
            .hear(0, brings(4, 0, root, tail(root, 0, &long)))
            .is_empty()
    );
    primary.said();
    let progress = primary.hear(1, brings(4, 2, root, tail(root, 0, &short)));
    assert!(progress.contains(Progress::ROLE_CHANGED));
    assert_eq!(primary.replica.role(), Role::CatchingUp);
    let said = primary.said();
    let [(Some(ReplicaId(1)), Message::GetState(get))] = said.as_slice() else {
        panic!("the shorter log is fetched: {said:?}");
    };
    let new = NewState {
        view: View(4),
        nonce: get.nonce,
        entries: short.clone(),
        op: OpNumber(1),
        commit: OpNumber(0),
    };
    let progress = primary.hear(1, Message::NewState(new));
    assert!(progress.contains(Progress::ROLE_CHANGED | Progress::TRANSFERRED));
    assert_eq!(primary.replica.role(), Role::Primary);
    assert_eq!(primary.replica.entry(OpNumber(1)), short.first());
    let start = start(4, tail(root, 0, &short));
    assert_eq!(primary.said(), [(None, start)]);
}

/// §4.2, step 3: "When the new primary receives f + 1 DOVIEWCHANGE messages from different
/// replicas (including itself)".
#[test]
fn s4_2_3_a_replica_is_counted_once() {
    let mut primary = Bench::of(4, 5);
    let root = root(&primary);
    let nothing = || brings(4, 0, root, tail(root, 0, &[]));
    assert!(primary.hear(0, nothing()).contains(Progress::ROLE_CHANGED));
    assert!(primary.hear(0, nothing()).is_empty());
    assert_eq!(primary.replica.role(), Role::ViewChange);
    assert!(primary.hear(1, nothing()).contains(Progress::ROLE_CHANGED));
    assert_eq!(primary.replica.role(), Role::Primary);
}

/// §4.2, step 5: "When other replicas receive the STARTVIEW message, they replace their log with
/// the one in the message … If there are non-committed operations in the log, they send a
/// ⟨PREPAREOK v, n, i⟩ message to the primary."
#[test]
fn s4_2_5_backups_adopt_the_log_and_acknowledge() {
    let mut backup = Bench::of(2, 3);
    let root = root(&backup);
    let entries = chain(1, 0, root, 2);
    assert!(!backup.hear(0, prepare(0, &entries, 0)).is_empty());
    backup.said();
    let start = start(1, tail(root, 0, &entries[..1]));
    assert!(backup.hear(1, start).contains(Progress::ROLE_CHANGED));
    assert_eq!(
        (backup.replica.op(), backup.replica.log_view()),
        (OpNumber(1), View(1))
    );
    let ok = PrepareOk {
        view: View(1),
        op: OpNumber(1),
        checksum: entries[0].checksum(),
    };
    assert_eq!(
        backup.said(),
        [(Some(ReplicaId(1)), Message::PrepareOk(ok))]
    );
}

/// A token for the log of an old view acknowledges nothing of the new one.
#[test]
fn a_late_token_does_not_acknowledge_a_newer_log() {
    let mut backup = Bench::of(2, 3);
    let root = root(&backup);
    let entries = chain(1, 0, root, 2);
    let mut effects = Effects::new();
    let message = fit(prepare(0, &entries, 0), FITTED, root);
    skip(
        backup
            .replica
            .on_message(ReplicaId(0), message, &mut effects),
    );
    assert!(backup.flush().is_empty());
    let late = std::mem::take(&mut backup.journal);
    let start = fit(start(1, tail(root, 0, &entries)), FITTED, root);
    skip(backup.replica.on_message(ReplicaId(1), start, &mut effects));
    assert!(backup.flush().is_empty());
    for durable in late {
        assert!(backup.replica.on_durable(durable, &mut effects).is_empty());
    }
    backup.perform(effects);
    assert_eq!(
        (backup.said().len(), backup.ignored(Ignored::StaleDurable)),
        (0, 1)
    );
    assert!(backup.write().is_empty());
    assert_eq!(backup.said().len(), 1);
}

/// §4.3: "While a replica's status is recovering it does not participate in either the request
/// processing protocol or the view change protocol."
#[test]
fn s4_3_a_recovering_replica_does_not_participate() {
    let group = Configuration::new(3).expect("odd");
    let replica = Replica::new(ReplicaId(1), group, Options::default(), Incarnation(9));
    let mut restarted = Bench::with(replica);
    let entries = chain(1, 0, Checksum(0), 1);
    for message in [
        prepare(0, &entries, 0),
        wish(1, true),
        brings(1, 0, Checksum(0), tail(Checksum(0), 0, &[])),
        start(3, tail(Checksum(0), 0, &[])),
    ] {
        assert!(restarted.hear(0, message).is_empty());
    }
    restarted.ask(7, 0, 0, b"");
    assert!(restarted.said().is_empty() && restarted.replies.is_empty());
    assert_eq!(restarted.ignored(Ignored::NotMember), 5);
}

/// Formation: a group is a set of incarnations that all have promised; who was restarted stays
/// outside, and says so.
#[test]
fn a_restarted_replica_stays_outside() {
    let group = Configuration::new(3).expect("odd");
    let new = |id: u8, life| {
        Bench::with(Replica::new(
            ReplicaId(id),
            group,
            Options::default(),
            Incarnation(life),
        ))
    };
    let mut all = [new(0, 10), new(1, 11), new(2, 12)];
    let waiting = all[0].replica.waiting_reason();
    assert!(matches!(waiting, Some(WaitingReason::WaitingFor(ids)) if ids.len() == 2));
    for bench in &mut all {
        assert!(bench.expire(Replica::announce).is_empty());
    }
    while let Some(from) = all.iter().position(|bench| !bench.sent.is_empty()) {
        for (to, message) in all[from].said() {
            let id = u8::try_from(from).expect("small");
            for one in (0..3).filter(|&one| one != id && to.is_none_or(|to| to.0 == one)) {
                let progress = all[usize::from(one)].hear(id, message.clone());
                skip(progress);
            }
        }
    }
    assert!(
        all.iter()
            .all(|bench| bench.replica.status() == Status::Normal)
    );
    assert_eq!(
        all[0].replica.group_checksum(),
        all[2].replica.group_checksum()
    );

    all[1] = new(1, 21);
    assert!(all[1].expire(Replica::announce).is_empty());
    let hello = all[1].said().remove(0).1;
    assert!(all[0].hear(1, hello).is_empty());
    let (to, answer) = all[0].said().remove(0);
    assert_eq!(to, Some(ReplicaId(1)));
    assert!(all[1].hear(0, answer).is_empty());
    let reason = all[1].replica.waiting_reason();
    assert_eq!(
        reason,
        Some(WaitingReason::GroupRunsWithoutMe { view: View(0) })
    );
    let stale = Hello {
        incarnation: Incarnation(12),
        locked: None,
        member: false,
        view: View(0),
    };
    assert!(all[1].hear(2, Message::Hello(stale)).is_empty());
    assert_eq!(all[1].replica.status(), Status::Recovering);
}

/// §5.2: "The replica will respond to a GETSTATE message only if its status is normal and it is
/// currently in view v"; and an answer is used only if it was asked for.
#[test]
fn s5_2_an_answer_that_nobody_asked_for_is_ignored() {
    let mut backup = Bench::of(1, 3);
    let entries = chain(1, 0, root(&backup), 2);
    let new = NewState {
        view: View(0),
        nonce: Nonce(0),
        entries,
        op: OpNumber(2),
        commit: OpNumber(2),
    };
    assert!(backup.hear(0, Message::NewState(new)).is_empty());
    assert_eq!(
        (backup.replica.op(), backup.ignored(Ignored::StaleNonce)),
        (OpNumber(0), 1)
    );
}

/// What a primary does not take, it says so.
#[test]
fn refusals() {
    let mut primary = Bench::of(0, 3);
    primary.ask(7, 4, 1, b"a");
    assert_eq!(primary.outcome(), Some(Outcome::NoSession));
    primary.ask(7, 0, 0, &[0; 65]);
    assert_eq!(primary.outcome(), Some(Outcome::TooLarge));
    for client in 0..8 {
        primary.ask(client, 0, 0, b"");
        assert_eq!(primary.outcome(), None);
    }
    primary.ask(9, 0, 0, b"");
    assert_eq!(primary.outcome(), Some(Outcome::Busy));
    let mut backup = Bench::of(1, 3);
    backup.ask(7, 0, 0, b"");
    assert_eq!(backup.outcome(), Some(Outcome::NotPrimary));
}

/// An acknowledgement of what the primary does not have, or has otherwise, is not counted (S3).
#[test]
fn s3_an_acknowledgement_must_match_the_log() {
    let mut primary = Bench::of(0, 3);
    primary.ask(7, 0, 0, b"");
    let lie = |op, checksum| {
        Message::PrepareOk(PrepareOk {
            view: View(0),
            op,
            checksum,
        })
    };
    assert!(primary.hear(1, lie(OpNumber(10), Checksum(1))).is_empty());
    assert!(primary.hear(1, lie(OpNumber(1), Checksum(1))).is_empty());
    assert_eq!(primary.replica.commit(), OpNumber(0));
    assert_eq!(primary.ignored(Ignored::BeyondLog), 1);
    assert_eq!(primary.ignored(Ignored::Diverged), 1);
}

/// "Messages of a group that died whole fit nowhere in the next": neither entries nor what was
/// committed there, nor its views.
#[test]
fn a_dead_group_is_not_believed() {
    let mut backup = Bench::of(1, 3);
    let dead = Checksum(13);
    let entries = chain(1, 0, dead, 2);
    for message in [
        commit(0, 1000),
        prepare(0, &entries, 1),
        wish(36, true),
        start(36, tail(dead, 0, &entries)),
        brings(37, 0, dead, tail(dead, 0, &entries)),
    ] {
        let from = if matches!(message, Message::DoViewChange(_)) {
            2
        } else {
            0
        };
        assert!(backup.hear(from, fit(message, FITTED, dead)).is_empty());
    }
    assert_eq!(backup.ignored(Ignored::OtherGroup), 5);
    assert_eq!((backup.said().len(), backup.replica.view()), (0, View(0)));
    let entries = chain(1, 0, root(&backup), 1);
    let progress = backup.hear(0, prepare(0, &entries, 0));
    assert!(
        !progress.contains(Progress::COMMITTED),
        "one copy commits nothing"
    );
}

/// Two that have given their view up at different times meet nevertheless: a vote is renewed until
/// the view starts.
#[test]
fn s13_who_has_given_up_says_so_until_the_view_starts() {
    let mut waiting = Bench::of(0, 3);
    skip(waiting.hear(2, wish(1, true)));
    assert!(waiting.expire(Replica::give_up_view).is_empty());
    waiting.said();
    for _ in 0..9 {
        assert!(waiting.expire(Replica::resend_view_change).is_empty());
        assert!(waiting.said().contains(&(None, wish(2, false))));
        waiting.replica.expire_votes();
    }
    let progress = waiting.hear(2, wish(2, false));
    assert!(progress.contains(Progress::ROLE_CHANGED));
    assert_eq!(waiting.replica.view(), View(2));
}

/// However often a late replica says that it is on its way, a turn answers it once.
#[test]
fn a_late_comer_is_answered_once_a_turn() {
    let mut primary = Bench::of(1, 3);
    let root = root(&primary);
    skip(primary.hear(2, brings(1, 0, root, tail(root, 0, &[]))));
    assert_eq!(primary.replica.role(), Role::Primary);
    primary.said();
    let mut effects = Effects::new();
    for _ in 0..100 {
        let wish = fit(wish(1, true), FITTED, root);
        let progress = primary.replica.on_message(ReplicaId(0), wish, &mut effects);
        assert!(progress.is_empty() && effects.is_empty());
        let brought = brings(1, 0, root, tail(root, 0, &[]));
        let progress = primary
            .replica
            .on_message(ReplicaId(0), brought, &mut effects);
        assert!(progress.is_empty() && effects.is_empty());
    }
    assert!(primary.flush().is_empty());
    let start = start(1, tail(root, 0, &[]));
    assert_eq!(primary.said(), [(Some(ReplicaId(0)), start)]);
}
