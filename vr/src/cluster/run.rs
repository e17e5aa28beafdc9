//! One seed: a whole run, from the forming of the group to the last answer.

use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use viewring_protocol::ReplicaId;
use viewring_runtime::sim::{Event, Keep, Random, World};

use super::faults::{Adversary, Faults};
use super::sometimes::Marks;
use super::workload::{Book, Caller, Workload};
use super::{Cluster, ClusterConfig};
use crate::kv::Kv;

/// What a run is made of besides its seed.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// 1, 3, 5 or 7.
    pub replicas: u8,
    /// How many clients call.
    pub clients: u8,
    /// For how long things go wrong.
    pub faults_for: Duration,
    /// Within which every call must be answered once everything is well again.
    pub bound: Duration,
    /// The faults; None: drawn from the seed.
    pub faults: Option<Faults>,
    /// Whether to keep a trace of all events.
    pub trace: bool,
}

impl RunConfig {
    /// Defaults for so many replicas.
    pub fn new(replicas: u8) -> Self {
        Self {
            replicas,
            clients: 4,
            faults_for: Duration::from_secs(8),
            bound: Duration::from_secs(60),
            faults: None,
            trace: false,
        }
    }
}

/// What came of a run in which everything held.
#[derive(Clone, Debug)]
pub struct Report {
    /// A hash of every event.
    pub hash: u64,
    /// How many events.
    pub events: u64,
    /// How long it took, of virtual time.
    pub virtual_time: Duration,
    /// Calls whose answers were checked.
    pub calls: u64,
    /// View changes.
    pub view_changes: u64,
    /// What has occurred.
    pub marks: Marks,
    /// All events, if they were kept.
    pub trace: Vec<Event>,
}

/// What came of a run in which something did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What did not hold, and the last events.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {}", self.seed, self.message)
    }
}

impl std::error::Error for Failure {}

/// Runs one seed.
///
/// # Errors
/// [`Failure`] when an invariant is broken, an answer is impossible, or a healed group does not
/// answer within the bound.
pub fn run_seed(seed: u64, config: &RunConfig) -> Result<Report, Failure> {
    caught(seed, || Run::new(seed, config).go())
}

/// A panic is a failure: an assertion of the protocol, of the checker, or of the run.
pub(super) fn caught(seed: u64, run: impl FnOnce() -> Report) -> Result<Report, Failure> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
            .unwrap_or_else(|| String::from("a panic without words"));
        Failure { seed, message }
    })
}

/// Runs one seed two times, which must give the same.
///
/// # Errors
/// As for [`run_seed`], and when the two runs differ.
pub fn run_seed_twice(seed: u64, config: &RunConfig) -> Result<Report, Failure> {
    let (first, second) = (run_seed(seed, config)?, run_seed(seed, config)?);
    if (first.hash, first.events) == (second.hash, second.events) {
        return Ok(first);
    }
    let message = format!(
        "two runs differ: hash {:x} and {:x}, {} and {} events",
        first.hash, second.hash, first.events, second.events
    );
    Err(Failure { seed, message })
}

struct Run {
    cluster: Cluster,
    config: RunConfig,
    adversary: Adversary,
    book: Rc<RefCell<Book>>,
    random: Random,
}

impl Run {
    fn new(seed: u64, config: &RunConfig) -> Self {
        let random = Random::new(seed).fork(1);
        let mut choices = random.fork(2);
        let faults = config
            .faults
            .clone()
            .unwrap_or_else(|| Faults::draw(&mut choices));
        let mut cluster_config = ClusterConfig::new(config.replicas);
        if choices.chance(0.3) {
            cluster_config.window = choices.between(2..=16);
        }
        let mut cluster = Cluster::new(seed, cluster_config, Kv::default);
        cluster.world.keep_trace(if config.trace {
            Keep::All
        } else {
            Keep::Last(200)
        });
        Self {
            cluster,
            config: config.clone(),
            adversary: Adversary::new(faults, random.fork(3)),
            book: Rc::default(),
            random,
        }
    }

    fn go(mut self) -> Report {
        self.cluster.form();
        self.start_clients();
        self.adversary.begin(&mut self.cluster);
        let end = self.cluster.world.now() + self.config.faults_for;
        while self.cluster.world.now() < end && self.is_busy() {
            let pause = self.adversary.pause();
            self.cluster.world.run_for(pause);
            self.adversary.strike(&mut self.cluster);
        }
        self.adversary.end(&mut self.cluster);
        let clients = usize::from(self.config.clients);
        let stopped = self.adversary.crashed().to_vec();
        finish(
            &mut self.cluster,
            &self.book,
            clients,
            &stopped,
            self.config.bound,
        );
        self.book.borrow().history.check();
        report(&self.cluster, &self.book, self.config.trace)
    }

    fn start_clients(&mut self) {
        let workload = Workload::draw(&mut self.random.fork(4));
        for client in 0..self.config.clients {
            let (book, checker) = (Rc::clone(&self.book), Rc::clone(self.cluster.checker()));
            let random = self.random.fork(100 + u64::from(client));
            let workload = workload.clone();
            self.cluster.start_client(move |client| {
                Caller {
                    client,
                    workload,
                    random,
                    book,
                    checker,
                }
                .run()
            });
        }
    }

    /// Whether a client has calls left to make.
    fn is_busy(&self) -> bool {
        self.book.borrow().paused < usize::from(self.config.clients)
    }
}

/// Everything is well: every call must be answered, all replicas agree, and the view must rest.
///
/// # Panics
/// When that does not come true within `bound`.
pub(super) fn finish(
    cluster: &mut Cluster,
    book: &Rc<RefCell<Book>>,
    clients: usize,
    stopped: &[ReplicaId],
    bound: Duration,
) {
    book.borrow_mut().finish = true;
    let checker = Rc::clone(cluster.checker());
    let table = || checker.borrow().table();
    let answered = cluster
        .world
        .run_until(|_| book.borrow().finished == clients, bound);
    assert!(
        answered.is_ok(),
        "a healed group does not answer:\n{}",
        table()
    );
    let alive: Vec<_> = cluster
        .replica_ids()
        .filter(|id| !stopped.contains(id))
        .collect();
    let agree = |_: &World| checker.borrow().have_converged(alive.iter().copied());
    let converged = cluster.world.run_until(agree, bound);
    assert!(
        converged.is_ok(),
        "a healed group does not agree:\n{}",
        table()
    );
    let view = checker.borrow().view();
    cluster.world.run_for(Duration::from_secs(2));
    assert_eq!(
        checker.borrow().view(),
        view,
        "a live primary was replaced:\n{}",
        table()
    );
}

pub(super) fn report(cluster: &Cluster, book: &Rc<RefCell<Book>>, trace: bool) -> Report {
    let checker = cluster.checker().borrow();
    Report {
        hash: cluster.world.event_hash(),
        events: cluster.world.event_count(),
        virtual_time: Duration::from_nanos(cluster.world.now().as_nanos()),
        calls: book.borrow().history.len() as u64,
        view_changes: checker.view_changes(),
        marks: checker.marks.clone(),
        trace: if trace {
            cluster.world.trace()
        } else {
            Vec::new()
        },
    }
}
