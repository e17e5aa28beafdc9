//! A group, its clients, and what is demanded of it in the end.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use viewring_protocol::ReplicaId;
use viewring_runtime::sim::{Event, Keep, NodeId, Random, World};
use viewring_runtime::time::timeout;

use super::visitor::{Visitor, visit};
use super::workload::{Book, Caller, Workload};
use super::{Cluster, ClusterConfig, Report};
use crate::kv::Kv;
use crate::state_machine::{Piece, RestoreError, StateMachine};

/// A group of key-value stores and its clients.
pub(super) struct Stage {
    pub(super) cluster: Cluster,
    pub(super) book: Rc<RefCell<Book>>,
    copies: Copies,
    clients: usize,
    visits: u64,
}

/// What did not hold, or nothing.
pub(super) type Held = Result<(), String>;

impl Stage {
    pub(super) fn new(seed: u64, config: ClusterConfig, keep: Keep) -> Self {
        let copies = Copies::default();
        let make = copies.clone();
        let mut cluster = Cluster::new(seed, config, move || make.another());
        cluster.world.keep_trace(keep);
        Self {
            cluster,
            book: Rc::default(),
            copies,
            clients: 0,
            visits: 0,
        }
    }

    /// A client that calls as `workload` says.
    pub(super) fn start_caller(&mut self, workload: &Workload, random: Random) -> NodeId {
        let caller = self.caller(workload, random);
        self.cluster
            .start_client(move |client| caller(client).run())
    }

    /// A client that never registers and calls as `workload` says.
    pub(super) fn start_walk_in(&mut self, workload: &Workload, random: Random) -> NodeId {
        let caller = self.caller(workload, random);
        self.cluster
            .start_walk_in(move |client| caller(client).walk_in())
    }

    /// Who calls, once it has a client.
    fn caller<C>(
        &mut self,
        workload: &Workload,
        random: Random,
    ) -> impl FnOnce(C) -> Caller<C> + use<C> {
        let (book, workload) = (Rc::clone(&self.book), workload.clone());
        let checker = Rc::clone(self.cluster.checker());
        self.clients += 1;
        move |client| Caller {
            client,
            workload,
            random,
            book,
            checker,
        }
    }

    /// A client that comes and goes.
    pub(super) fn start_visitor(&mut self, random: Random) -> NodeId {
        let book = Rc::clone(&self.book);
        let checker = Rc::clone(self.cluster.checker());
        self.cluster.start_client(move |client| {
            Visitor {
                client,
                random,
                book,
                checker,
            }
            .run()
        })
    }

    /// A client that registers as `id`, makes so many calls, and is gone after `stay` at most.
    pub(super) fn start_visit(&mut self, id: u64, calls: u32, stay: Duration) -> NodeId {
        let checker = Rc::clone(self.cluster.checker());
        self.visits += 1;
        let life = (id, self.visits);
        self.cluster.start_client(move |client| async move {
            let _gone = timeout(stay, visit(client, life, calls, checker)).await;
        })
    }

    /// Stops the whole group, and starts another one in its place.
    pub(super) fn begin_again(&mut self) {
        self.copies.0.borrow_mut().clear();
        self.cluster.begin_again();
    }

    /// Whether a client has calls left to make before the last ones.
    pub(super) fn is_busy(&self) -> bool {
        self.book.borrow().paused < self.clients
    }

    /// Everything is well but for these replicas: every call must be answered, all others agree,
    /// and the view must rest. Votes that are under way still may end it: so many `more` views may
    /// begin before one rests.
    pub(super) fn finish(&mut self, without: &[ReplicaId], bound: Duration, more: u32) -> Held {
        self.book.borrow_mut().finish = true;
        let (book, clients) = (Rc::clone(&self.book), self.clients);
        let answered = move |_: &World| book.borrow().finished == clients;
        if self.cluster.world.run_until(answered, bound).is_err() {
            return self.failed("a healed group does not answer");
        }
        self.cluster.world.run_for(SETTLE);
        for _ in 0..=more {
            self.agree(without, bound)?;
            let view = self.view();
            self.cluster.world.run_for(REST);
            if self.view() == view {
                return Ok(());
            }
        }
        self.failed("a live primary was replaced")
    }

    /// All but these replicas must come to the same, within `bound`.
    pub(super) fn agree(&mut self, without: &[ReplicaId], bound: Duration) -> Held {
        let ids = self.cluster.replica_ids();
        let others: Vec<_> = ids.filter(|id| !without.contains(id)).collect();
        let checker = Rc::clone(self.cluster.checker());
        let agree = move |_: &World| checker.borrow().have_converged(others.iter().copied());
        if self.cluster.world.run_until(agree, bound).is_err() {
            return self.failed("a healed group does not agree");
        }
        Ok(())
    }

    /// What is checked once, at the end.
    ///
    /// # Panics
    /// When it does not hold.
    pub(super) fn check(&self) {
        self.cluster.checker().borrow().check_truth();
        self.copies.check();
        self.book.borrow().history.check();
    }

    /// The highest view that had a primary.
    pub(super) fn view(&self) -> u64 {
        self.cluster.checker().borrow().view()
    }

    /// What did not hold, and the last events.
    pub(super) fn failed(&self, what: &str) -> Held {
        let now = self.cluster.world.now();
        let trace = self.cluster.world.trace();
        let last = &trace[trace.len().saturating_sub(REPORTED_EVENTS)..];
        let lines: String = last.iter().map(|event| format!("{event}\n")).collect();
        Err(format!("{what}, at {now:?}\nthe last events:\n{lines}"))
    }

    /// Each replica's state, as last seen.
    pub(super) fn table(&self) -> String {
        self.cluster.checker().borrow().table()
    }

    pub(super) fn report(&self, trace: Vec<Event>) -> Report {
        let checker = self.cluster.checker().borrow();
        Report {
            hash: self.cluster.world.event_hash(),
            events: self.cluster.world.event_count(),
            virtual_time: Duration::from_nanos(self.cluster.world.now().as_nanos()),
            calls: self.book.borrow().history.len() as u64,
            view_changes: checker.view_changes(),
            marks: checker.marks.clone(),
            trace,
        }
    }
}

/// The key-value stores of all replicas, to be compared. What the checker compares while the group
/// runs is results; here it is what they hold.
#[derive(Clone, Default)]
struct Copies(Rc<RefCell<Vec<Rc<RefCell<Copied>>>>>);

/// One store, and how many operations it has executed.
#[derive(Default)]
struct Copied {
    store: Kv,
    executed: u64,
    /// The count that is to be written into a checkpoint.
    frozen: Option<u64>,
    /// The count that is being read, as far as it is here.
    count: Vec<u8>,
}

const COUNT_BYTES: usize = 8;

struct Watched(Rc<RefCell<Copied>>);

impl StateMachine for Watched {
    fn apply(&mut self, operation: &[u8], reply: &mut Vec<u8>) {
        let mut copy = self.0.borrow_mut();
        copy.executed += 1;
        copy.store.apply(operation, reply);
    }

    fn query(&self, query: &[u8], reply: &mut Vec<u8>) {
        self.0.borrow().store.query(query, reply);
    }

    /// With the count in front.
    fn freeze(&mut self) -> bool {
        let mut copy = self.0.borrow_mut();
        copy.frozen = Some(copy.executed);
        copy.store.freeze()
    }

    fn write_frozen(&mut self, budget_bytes: usize, out: &mut Vec<u8>) -> bool {
        let mut copy = self.0.borrow_mut();
        if let Some(executed) = copy.frozen.take() {
            out.extend_from_slice(&executed.to_le_bytes());
            return true;
        }
        copy.store.write_frozen(budget_bytes, out)
    }

    fn restore(&mut self, piece: Piece<'_>) -> Result<(), RestoreError> {
        let mut copy = self.0.borrow_mut();
        if piece.is_first {
            copy.count.clear();
        }
        let is_first = copy.count.len() < COUNT_BYTES;
        let lacks = COUNT_BYTES - copy.count.len();
        let (count, bytes) = piece.bytes.split_at(lacks.min(piece.bytes.len()));
        copy.count.extend_from_slice(count);
        if bytes.is_empty() && !piece.is_last {
            return Ok(());
        }
        let is_first = is_first && !bytes.is_empty();
        copy.store.restore(Piece {
            bytes,
            is_first,
            ..piece
        })?;
        if piece.is_last {
            let count = copy.count[..].try_into().map_err(|_| RestoreError)?;
            copy.executed = u64::from_le_bytes(count);
        }
        Ok(())
    }
}

impl Copies {
    fn another(&self) -> Watched {
        let copy = Rc::default();
        self.0.borrow_mut().push(Rc::clone(&copy));
        Watched(copy)
    }

    /// After equally many operations they hold the same.
    fn check(&self) {
        let copies = self.0.borrow();
        for (index, one) in copies.iter().enumerate() {
            for other in &copies[index + 1..] {
                let (one, other) = (one.borrow(), other.borrow());
                assert!(
                    one.executed != other.executed || one.store == other.store,
                    "two stores differ after {} operations",
                    one.executed
                );
            }
        }
    }
}

/// After so long what was said in bad times is forgotten.
const SETTLE: Duration = Duration::from_secs(1);
/// For so long a healed group must keep its view.
const REST: Duration = Duration::from_secs(2);
/// How many events a report shows.
const REPORTED_EVENTS: usize = 30;
