//! A replica with what it said, and the messages that it hears.

use viewring_protocol::{
    Checksum, ClientId, Commit, Configuration, DoViewChange, Draft, Durable, Effect, Effects,
    Entry, Header, Ignored, Kind, Message, OpNumber, Options, Outcome, Prepare, PrepareOk,
    Progress, Record, Recovery, RecoveryResponse, Replica, ReplicaId, Reply, Request,
    RequestNumber, Restore, StartView, StartViewChange, Summary, Tail, View, WalkInReply,
};

/// What no timeout of this test waits for.
pub(crate) fn skip(_: Progress) {}

/// A replica with what it said, and a journal that writes when it is told to.
pub(crate) struct Bench {
    pub(crate) replica: Replica,
    pub(crate) sent: Vec<(Option<ReplicaId>, Message)>,
    pub(crate) replies: Vec<Reply>,
    pub(crate) walked_in: Vec<WalkInReply>,
    pub(crate) journal: Vec<Durable>,
    pub(crate) drafts: Vec<Draft>,
    pub(crate) restores: Vec<Restore>,
    pub(crate) remembered: Option<Record>,
}

impl Bench {
    pub(crate) fn of(id: u8, count: u8) -> Self {
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

    pub(crate) fn with(replica: Replica) -> Self {
        Self {
            replica,
            sent: Vec::new(),
            replies: Vec::new(),
            walked_in: Vec::new(),
            journal: Vec::new(),
            drafts: Vec::new(),
            restores: Vec::new(),
            remembered: None,
        }
    }

    pub(crate) fn root(&self) -> Checksum {
        self.replica.group_checksum().unwrap_or_default()
    }

    pub(crate) fn perform(&mut self, mut effects: Effects) {
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
                Effect::ReplyWalkIn(reply) => self.walked_in.push(reply),
                Effect::ReadReply(_) | Effect::NormalView(_) => panic!("nobody reads"),
                Effect::Persist(persist) => self.journal.push(persist.written()),
                Effect::Checkpoint(draft) => self.drafts.push(draft),
                Effect::Restore(restore) => self.restores.push(restore),
                Effect::Remember(record) => self.remembered = Some(record),
            }
        }
    }

    pub(crate) fn flush(&mut self) -> Progress {
        let mut effects = Effects::new();
        let progress = self.replica.flush(&mut effects);
        self.perform(effects);
        progress
    }

    pub(crate) fn write(&mut self) -> Progress {
        let mut effects = Effects::new();
        let mut progress = Progress::NONE;
        for durable in std::mem::take(&mut self.journal) {
            progress |= self.replica.on_durable(durable, &mut effects);
        }
        self.perform(effects);
        progress
    }

    pub(crate) fn execute(&mut self, result: &[u8]) -> usize {
        let mut effects = Effects::new();
        let mut executed = 0;
        while self.replica.next_to_apply().is_some() {
            self.replica.applied(result, &mut effects);
            executed += 1;
        }
        self.perform(effects);
        executed
    }

    /// Takes the checkpoint that is due, of a state of one byte: the log in front of it goes.
    pub(crate) fn take_checkpoint(&mut self) -> Summary {
        let mut draft = self.drafts.pop().expect("one is due");
        let mut effects = Effects::new();
        self.replica.checkpoint_begun(&draft, &mut effects);
        self.perform(effects);
        while draft.write_clients(1024) {}
        draft.write_state(&[1]);
        let summary = self.replica.on_checkpoint(draft).summary();
        skip(self.flush());
        summary
    }

    /// A turn with one message; the journal writes at once.
    pub(crate) fn hear(&mut self, from: u8, message: Message) -> Progress {
        let mut effects = Effects::new();
        let message = fit(message, FITTED, self.root());
        let progress = self
            .replica
            .on_message(ReplicaId(from), message, &mut effects);
        self.perform(effects);
        progress | self.flush() | self.write()
    }

    pub(crate) fn ask(&mut self, client: u64, session: u64, number: u64, body: &[u8]) {
        self.take(request(client, session, number, body));
    }

    pub(crate) fn take(&mut self, request: Request) {
        let mut effects = Effects::new();
        let progress = self.replica.on_request(request, &mut effects);
        assert!(progress.is_empty());
        self.perform(effects);
        skip(self.flush() | self.write());
    }

    pub(crate) fn expire(
        &mut self,
        timeout: fn(&mut Replica, &mut Effects) -> Progress,
    ) -> Progress {
        let mut effects = Effects::new();
        let progress = timeout(&mut self.replica, &mut effects);
        self.perform(effects);
        progress | self.flush() | self.write()
    }

    pub(crate) fn said(&mut self) -> Vec<(Option<ReplicaId>, Message)> {
        std::mem::take(&mut self.sent)
    }

    pub(crate) fn prepared(&mut self) -> Vec<Prepare> {
        let prepares = self.said().into_iter().filter_map(|(_, message)| {
            if let Message::Prepare(prepare) = message {
                Some(prepare)
            } else {
                None
            }
        });
        prepares.collect()
    }

    pub(crate) fn ok(&self, op: u64) -> Message {
        let op = OpNumber(op);
        let checksum = self.replica.entry(op).expect("in the log").checksum();
        Message::PrepareOk(PrepareOk {
            view: self.replica.view(),
            op,
            checksum,
        })
    }

    pub(crate) fn outcome(&mut self) -> Option<Outcome> {
        self.replies.pop().map(|reply| reply.outcome)
    }

    pub(crate) fn ignored(&self, reason: Ignored) -> u64 {
        self.replica.counters().ignored(reason)
    }
}

pub(crate) fn request(client: u64, session: u64, number: u64, body: &[u8]) -> Request {
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

/// A request of a client that never registers.
pub(crate) fn walk_in(client: u64, number: u64, body: &[u8]) -> Request {
    Request {
        kind: Kind::WalkIn,
        ..request(client, 0, number, body)
    }
}

/// Entries from `first` on the chain that ends in `parent`.
pub(crate) fn chain(first: u64, view: u64, parent: Checksum, count: u64) -> Vec<Entry> {
    let mut parent = parent;
    let entries = (first..first + count).map(|op| {
        let entry = Entry::new(OpNumber(op), View(view), parent, &request(op, 0, 0, b""));
        parent = entry.checksum();
        entry
    });
    entries.collect()
}

pub(crate) fn prepare(view: u64, entries: &[Entry], commit: u64) -> Message {
    let (view, entries, commit) = (View(view), entries.to_vec(), OpNumber(commit));
    let root = FITTED;
    Message::Prepare(Prepare {
        view,
        root,
        entries,
        commit,
    })
}

pub(crate) fn root(bench: &Bench) -> Checksum {
    bench.replica.group_checksum().expect("a member")
}

pub(crate) fn tail(root: Checksum, commit: u64, entries: &[Entry]) -> Tail {
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

pub(crate) fn wish(view: u64, joined: bool) -> Message {
    let (view, root) = (View(view), FITTED);
    Message::StartViewChange(StartViewChange { view, root, joined })
}

pub(crate) fn commit(view: u64, commit: u64) -> Message {
    let (view, root, commit) = (View(view), FITTED, OpNumber(commit));
    Message::Commit(Commit { view, root, commit })
}

pub(crate) fn start(view: u64, tail: Tail) -> Message {
    let (view, root) = (View(view), FITTED);
    Message::StartView(StartView { view, root, tail })
}

/// Stands for the root of the replica that hears the message, or has said it.
pub(crate) const FITTED: Checksum = Checksum(0xf1_77ed);

/// The message with the root of the group where it says `FITTED`, or the other way round.
pub(crate) fn fit(message: Message, from: Checksum, to: Checksum) -> Message {
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
        Message::Recovery(m) => Message::Recovery(Recovery {
            root: fitted(m.root),
            ..m
        }),
        Message::RecoveryResponse(m) => Message::RecoveryResponse(RecoveryResponse {
            root: fitted(m.root),
            ..m
        }),
        Message::DoViewChange(_) | Message::PrepareOk(_) | Message::GetState(_) => message,
        Message::NewState(_) | Message::Hello(_) => message,
        Message::GetCheckpoint(_) | Message::CheckpointChunk(_) => message,
        Message::Request(_) | Message::Reply(_) => message,
        Message::Read(_) | Message::ReadReply(_) => message,
        Message::Round(_) | Message::RoundOk(_) => message,
        Message::GetView(_) | Message::NormalView(_) => message,
    }
}

pub(crate) fn brings(view: u64, log_view: u64, root: Checksum, tail: Tail) -> Message {
    Message::DoViewChange(DoViewChange {
        view: View(view),
        log_view: View(log_view),
        root,
        tail,
    })
}
