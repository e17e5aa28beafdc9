//! One seed: a whole run, from the forming of the group to the last answer.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tracing::subscriber::{NoSubscriber, with_default};
use viewring_protocol::wire;
use viewring_runtime::sim::{Event, Keep, NodeId, Random, Verdict};
use viewring_transport::specpaxos::Dialect;

use super::ClusterConfig;
use super::adversary::Adversary;
use super::faults::Faults;
use super::plots::{Plot, Scene};
use super::sent::frames;
use super::sometimes::Marks;
use super::stage::{Held, Stage};
use super::workload::Workload;
use crate::kv::Operation;
use crate::node::{Checkpoints, Planted};
use crate::reads::ConfirmedBy;

/// What a run is made of besides its seed.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// 1, 3, 5 or 7.
    pub replicas: u8,
    /// How many clients call.
    pub clients: u8,
    /// How many of them never register.
    pub walk_ins: u8,
    /// For how long things go wrong.
    pub faults_for: Duration,
    /// Within which every call must be answered once everything is well again.
    pub bound: Duration,
    /// The faults; None: drawn from the seed.
    pub faults: Option<Faults>,
    /// Whether to keep a trace of all events.
    pub trace: bool,
    /// What every replica does wrong: for tests of tests.
    pub bug: Option<Planted>,
}

impl RunConfig {
    /// Defaults for so many replicas.
    pub fn new(replicas: u8) -> Self {
        Self {
            replicas,
            clients: 4,
            walk_ins: 0,
            faults_for: Duration::from_secs(8),
            bound: Duration::from_secs(30),
            faults: None,
            trace: false,
            bug: None,
        }
    }

    /// The run of a seed in a batch: three or five replicas, by turns; in every fourth, half of the
    /// clients never register.
    pub fn of_seed(seed: u64) -> Self {
        let config = Self::new(if seed.is_multiple_of(2) { 3 } else { 5 });
        let walk_ins = if seed / 2 % 4 == 3 { 2 } else { 0 };
        Self { walk_ins, ..config }
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
    /// Each replica's state, as last seen.
    pub table: String,
    /// The last events, or all.
    pub trace: Vec<Event>,
}

impl Failure {
    /// What did not hold, in a line.
    pub fn headline(&self) -> &str {
        self.message.lines().next().unwrap_or_default()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = self.message.trim_end();
        write!(f, "seed {}: {message}\n{}", self.seed, self.table)
    }
}

impl std::error::Error for Failure {}

/// Runs one seed.
///
/// # Errors
/// [`Failure`] when an invariant is broken, an answer is impossible, or a healed group does not
/// answer within the bound.
pub fn run_seed(seed: u64, config: &RunConfig) -> Result<Report, Failure> {
    caught(seed, || Run::new(seed, config), Run::go)
}

/// Makes a run and lets it go. A panic is a failure: an assertion of the protocol, of the checker,
/// or of the run.
pub(super) fn caught<R: AsRef<Stage>>(
    seed: u64,
    make: impl FnOnce() -> R,
    go: impl FnOnce(&mut R) -> Result<Report, String>,
) -> Result<Report, Failure> {
    let mut run = catch_unwind(AssertUnwindSafe(make)).map_err(|panic| Failure {
        seed,
        message: words_of(&*panic),
        table: String::new(),
        trace: Vec::new(),
    })?;
    let ended = catch_unwind(AssertUnwindSafe(|| go(&mut run)));
    let result = ended.unwrap_or_else(|panic| Err(words_of(&*panic)));
    result.map_err(|message| Failure {
        seed,
        message,
        table: run.as_ref().table(),
        trace: run.as_ref().cluster.world.trace(),
    })
}

fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
    text.unwrap_or_else(|| String::from("a panic without words"))
}

/// Runs one seed two times, which must give the same. What the replicas log is of the first run.
///
/// # Errors
/// As for [`run_seed`], and when the two runs differ.
pub fn run_seed_twice(seed: u64, config: &RunConfig) -> Result<Report, Failure> {
    let first = run_seed(seed, config)?;
    let second = with_default(NoSubscriber::new(), || run_seed(seed, config))?;
    if (first.hash, first.events) == (second.hash, second.events) {
        return Ok(first);
    }
    let message = format!(
        "two runs differ: hash {:x} and {:x}, {} and {} events",
        first.hash, second.hash, first.events, second.events
    );
    Err(Failure {
        seed,
        message,
        table: String::new(),
        trace: first.trace,
    })
}

struct Run {
    stage: Stage,
    config: RunConfig,
    faults: Faults,
    adversary: Adversary,
    /// How many clients come and go.
    visitors: u8,
    /// The clients that only read.
    readers: Vec<NodeId>,
    random: Random,
}

impl Run {
    fn new(seed: u64, config: &RunConfig) -> Self {
        let random = Random::new(seed).fork(1);
        let mut choices = random.fork(2);
        let faults = config.faults.clone();
        let faults = faults.unwrap_or_else(|| Faults::draw(&mut choices));
        let mut group = ClusterConfig::new(config.replicas);
        group.bug = config.bug;
        group.walk_ins = (config.walk_ins > 0).then(|| {
            let electrode = random.fork(6).chance(0.5);
            if electrode {
                Dialect::Electrode
            } else {
                Dialect::Specpaxos
            }
        });
        group.lease = faults.lease_config();
        let mut askers = random.fork(8);
        group.confirmed_by = [(); 2].map(|()| match askers.below(4) {
            0 => ConfirmedBy::Primary,
            1 => ConfirmedBy::Cheaper,
            _ => ConfirmedBy::Reader,
        });
        // A call that a view change does not delay takes four trips.
        let apart = faults.distance.unwrap_or_default();
        group.deadline = group.deadline.max(apart * 8);
        // What a plot demands, it demands of a group with room.
        let has_room = faults.plot.is_some();
        if choices.chance(0.3) && !has_room {
            group.window = choices.between(1..=16);
        }
        if choices.chance(0.2) {
            group.datagram_bytes = choices.between(300..=1_472) as usize;
        }
        let visitors = if choices.chance(0.3) && !has_room {
            limit_clients(&mut group, config.clients + faults.readers, &mut choices);
            choices.below(4) as u8
        } else {
            0
        };
        group.checkpoints = draw_checkpoints(&mut choices, faults.distance.is_some());
        let keep = if config.trace {
            Keep::All
        } else {
            Keep::Last(40)
        };
        let stage = Stage::new(seed, group, keep);
        Self {
            stage,
            config: config.clone(),
            adversary: Adversary::new(faults.clone(), random.fork(3)),
            faults,
            visitors,
            readers: Vec::new(),
            random,
        }
    }

    fn go(&mut self) -> Result<Report, String> {
        self.stage.cluster.form();
        if self.faults.rebirth {
            self.be_reborn();
        }
        self.start_clients();
        self.adversary.begin(&mut self.stage.cluster);
        match self.faults.plot {
            Some(plot) => self.play(plot)?,
            None => self.suffer(),
        }
        self.adversary.end(&mut self.stage.cluster);
        let without = self.adversary.out_of_order();
        let more = self.adversary.late_views();
        // Three trips are a view change, of which several fail at first.
        let apart = self.faults.distance.unwrap_or_default();
        let bound = self.config.bound.max(apart * 150);
        self.stage.finish(&without, bound, more)?;
        self.adversary.mend(&mut self.stage.cluster);
        self.stage.agree(self.adversary.crashed(), bound)?;
        if self.faults.is_none() && self.stage.view() > 0 {
            self.stage
                .failed("a view changed while nothing was wrong")?;
        }
        self.stage.check();
        Ok(self.stage.report(if self.config.trace {
            self.stage.cluster.world.trace()
        } else {
            Vec::new()
        }))
    }

    /// Things go wrong by chance, for as long as they are to.
    fn suffer(&mut self) {
        let end = self.stage.cluster.world.now() + self.config.faults_for;
        while self.stage.cluster.world.now() < end && self.stage.is_busy() {
            self.adversary.wait(&mut self.stage.cluster);
            self.adversary.strike(&mut self.stage.cluster);
        }
    }

    /// Nothing goes wrong, but what the plot has happen.
    fn play(&mut self, plot: Plot) -> Held {
        let random = self.random.fork(7);
        let (stage, faults) = (&mut self.stage, &self.faults);
        plot.play(&mut Scene::new(stage, random, faults, &self.readers))
    }

    /// The group works for a while and dies whole; another one forms. What the first one said is
    /// under way still.
    fn be_reborn(&mut self) {
        let mut random = self.random.fork(5);
        let client = self.stage.cluster.start_client(|client| async move {
            while let Ok(mut session) = client.session().await {
                let put = Operation::Put {
                    key: b"of the first group",
                    value: b"",
                };
                for _ in 0..10 {
                    let _answer = session.call(&put.to_bytes()).await;
                }
            }
        });
        let (share, mut hold) = (random.unit(), random.fork(1));
        let rule = self.stage.cluster.world.rule(move |packet| {
            if is_hello(packet.payload()) || !hold.chance(share) {
                return Verdict::Deliver;
            }
            Verdict::Duplicate(hold.any_magnitude(Duration::from_secs(20)))
        });
        // A Hello of a life that has ended could make the others promise a group with it, which
        // never forms: none may be under way when they die.
        let life = Duration::from_millis(10) + random.any_magnitude(Duration::from_secs(2));
        self.stage.cluster.world.run_for(life);
        drop(rule);
        self.stage.cluster.world.crash(client);
        self.stage.begin_again();
        self.stage.cluster.form();
    }

    /// Some clients call at an even pace through all that happens, some in bursts.
    fn start_clients(&mut self) {
        let mut drawn = self.random.fork(4);
        let workload = if self.faults.plot.is_some() {
            Plot::workload(&mut drawn)
        } else {
            Workload::draw(&mut drawn, self.config.faults_for)
        };
        for client in 0..self.config.clients {
            let random = self.random.fork(100 + u64::from(client));
            if client < self.config.walk_ins {
                self.stage.start_walk_in(&workload, random);
            } else {
                self.stage.start_caller(&workload, random);
            }
        }
        for reader in 0..self.faults.readers {
            let mut random = self.random.fork(300 + u64::from(reader));
            let workload = Workload::of_reader(&workload, &mut random);
            let reader = self.stage.start_caller(&workload, random);
            self.readers.push(reader);
        }
        for visitor in 0..self.visitors {
            let random = self.random.fork(200 + u64::from(visitor));
            self.stage.start_visitor(random);
        }
    }
}

/// About as much room as the clients need who stay: visitors cost them their sessions.
fn limit_clients(group: &mut ClusterConfig, clients: u8, random: &mut Random) {
    let clients = u32::from(clients);
    group.max_clients = random.between(clients.into()..=u64::from(clients) + 2) as u32;
    if random.chance(0.5) {
        // Room for the longest value that a workload has, and not for one a client.
        group.max_reply_bytes = 8_200;
        group.max_kept_reply_bytes = 8_200 * random.between(1..=u64::from(clients));
    }
}

impl AsRef<Stage> for Run {
    fn as_ref(&self) -> &Stage {
        &self.stage
    }
}

/// Small logs, small pieces, and little at a time: as in a group that has run for years.
fn draw_checkpoints(random: &mut Random, far_apart: bool) -> Checkpoints {
    let default = Checkpoints::default();
    if random.chance(0.3) {
        return default;
    }
    let pick = |random: &mut Random, of: &[u64]| of[random.index(of.len())];
    // One piece a round trip: where these are long, pieces are not tiny.
    let smallest = if far_apart { 3_000 } else { 200 };
    let page_bytes = pick(random, &[smallest, 3_000, default.page_bytes as u64]) as usize;
    Checkpoints {
        interval: random.between(1..=60),
        interval_bytes: pick(random, &[2_000, 100_000]),
        keep: pick(random, &[0, 0, 5, 50]),
        page_bytes,
        // At least what lets a group recover within the bound of a run.
        transfer_bytes: 2_000.max(page_bytes * pick(random, &[1, 4, 1_000]) as usize),
    }
}

/// Whether a datagram may keep replicas from forming a group: a word of one that has died.
fn is_hello(datagram: &[u8]) -> bool {
    frames(datagram).any(|(kind, _)| kind == wire::kind::HELLO)
}
