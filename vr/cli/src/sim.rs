//! `viewring sim`: run whole groups in the simulated world, a seed each, on all cores.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IsTerminal, Write as _};
use std::num::NonZero;
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Once, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use viewring::cluster::{self, Mark, Marks, Report, RunConfig, run_seed, run_seed_twice};
use viewring_runtime::sim::Keep;

use crate::exit::{Exit, Failure};
use crate::output::{self, thousands};

/// Run simulated groups: everything goes wrong, and everything must hold.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  viewring sim --seeds 1000                 three and five replicas by turns, on all cores
  viewring sim --seeds 1000 --first 5000 --replicas 5 --json
  viewring sim --seed 42 --trace            one seed, with all its events
  viewring sim --seed 42 -v                 one seed, with what its replicas log; -vv for more
  viewring sim --script scenario.txt        a scenario, of lines such as `at 200ms crash primary`

A seed decides everything that happens in a run: a seed that fails fails always, and the command
that replays it is printed. Of a batch of 500 seeds or more it is also demanded that all that ought
to happen sometimes has happened.

The language of scenarios is on the page of the module viewring::cluster::script
(cargo doc -p viewring --open).

Columns of a trace: virtual time in seconds, node (replicas first, then clients), event, from, to,
bytes, number. Times in the log (-v) are those of the node that says it: its own clock, which may
drift.

Exit code 0: everything held. Exit code 5: something did not.")]
pub(crate) struct Args {
    /// How many seeds to run.
    #[arg(long, value_name = "N", default_value_t = 100, conflicts_with_all = ["seed", "script"],
          value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first seed.
    #[arg(long, value_name = "S", default_value_t = 0, conflicts_with_all = ["seed", "script"])]
    first: u64,
    /// Run one seed only, two times, which must give the same.
    #[arg(long, value_name = "S", conflicts_with = "script", group = "single")]
    seed: Option<u64>,
    /// Print every event of the seed, or of the scenario.
    #[arg(long, requires = "single", conflicts_with = "json")]
    trace: bool,
    /// How many replicas a group has: 3, 5 or 7; without it 3 and 5 by turns.
    #[arg(long, value_name = "N", value_parser = parse_replicas, conflicts_with = "script")]
    replicas: Option<u8>,
    /// Run a scenario.
    #[arg(long, value_name = "FILE", group = "single")]
    script: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn parse_replicas(text: &str) -> Result<u8, String> {
    match text.parse() {
        Ok(count @ (3 | 5 | 7)) => Ok(count),
        _ => Err("a simulated group has 3, 5 or 7 replicas".into()),
    }
}

pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let began = now();
    let mut batch = Batch::default();
    if let Some(path) = &args.script {
        let result = quietly(|| play(path, args.trace))?;
        if args.trace {
            tell_trace(&result)?;
        }
        batch.add(result);
    } else if let Some(seed) = args.seed {
        let config = RunConfig {
            trace: args.trace,
            ..config_of(args, seed)
        };
        let result = quietly(|| run_seed_twice(seed, &config));
        if args.trace {
            tell_trace(&result)?;
        }
        batch.add(result);
    } else {
        batch = run_batch(args, began);
    }
    let blind = batch.blind_spots();
    if args.json {
        output::json(&Summary::of(&batch, began.elapsed()))?;
    } else if !args.trace {
        output::write(batch.text(began.elapsed()).as_bytes())?;
    }
    for failure in batch.failures.iter().take(FAILURES_TOLD) {
        tell(args, failure);
    }
    for mark in &blind {
        eprintln!(
            "viewring: never happened in {} seeds: {}",
            batch.seeds,
            mark.name()
        );
    }
    let held = batch.failures.is_empty() && blind.is_empty();
    Ok(if held { Exit::Success } else { Exit::Broken })
}

fn config_of(args: &Args, seed: u64) -> RunConfig {
    let config = RunConfig::of_seed(seed);
    RunConfig {
        replicas: args.replicas.unwrap_or(config.replicas),
        ..config
    }
}

fn play(path: &Path, trace: bool) -> Result<Result<Report, cluster::Failure>, Failure> {
    let name = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format_args!("{name}: {error}")))?;
    let keep = if trace {
        Keep::All
    } else {
        Keep::Last(LAST_EVENTS)
    };
    let result = cluster::run_script_with(&text, None, keep);
    result.map_err(|error| Failure::usage(format_args!("{name}: {error}")))
}

/// Runs all seeds, on as many threads as there are cores. A run that fails is run again.
fn run_batch(args: &Args, began: Instant) -> Batch {
    let (next, end) = (
        AtomicU64::new(args.first),
        args.first.saturating_add(args.seeds),
    );
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let (results, finished) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..cores {
            let (results, next) = (results.clone(), &next);
            scope.spawn(move || {
                let take = || next.fetch_add(1, Ordering::Relaxed);
                let mine = std::iter::from_fn(|| Some(take())).take_while(|&seed| seed < end);
                for seed in mine {
                    let result = quietly(|| run_and_repeat(seed, &config_of(args, seed)));
                    if results.send((seed, result)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(results);
        let mut progress = Progress::new(args.seeds, began);
        let mut batch = Batch::default();
        // By the order of the seeds, not by that of their ends: the same batch, the same report.
        let mut waiting = BTreeMap::new();
        for (seed, result) in finished {
            progress.another(result.is_err());
            waiting.insert(seed, result);
            while let Some(result) = waiting.remove(&(args.first + batch.seeds)) {
                batch.add(result);
            }
        }
        progress.end();
        batch
    })
}

/// A failure must repeat, or something in the simulation does not depend on the seed alone.
fn run_and_repeat(seed: u64, config: &RunConfig) -> Result<Report, cluster::Failure> {
    let failure = match run_seed(seed, config) {
        Ok(report) => return Ok(report),
        Err(failure) => failure,
    };
    let message = match run_seed(seed, config) {
        Err(again) if again.message == failure.message => return Err(failure),
        Err(again) => format!("a failure that does not repeat; then: {}", again.headline()),
        Ok(_) => String::from("a failure that does not repeat; then everything held"),
    };
    Err(cluster::Failure {
        message: format!("{message}\nat first: {}", failure.message),
        ..failure
    })
}

/// What came of a batch so far.
#[derive(Default)]
struct Batch {
    seeds: u64,
    failures: Vec<cluster::Failure>,
    virtual_time: Duration,
    calls: u64,
    view_changes: u64,
    /// Of all events of all runs that held.
    hash: u64,
    marks: Marks,
}

impl Batch {
    fn add(&mut self, result: Result<Report, cluster::Failure>) {
        self.seeds += 1;
        match result {
            Ok(report) => {
                self.virtual_time += report.virtual_time;
                self.calls += report.calls;
                self.view_changes += report.view_changes;
                // In the order of the seeds: a multiplication between two makes it count.
                self.hash = (self.hash ^ report.hash).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                self.marks.merge(&report.marks);
            }
            Err(failure) => self.failures.push(failure),
        }
    }

    /// What ought to have happened, in a batch that is large enough to tell.
    fn blind_spots(&self) -> Vec<Mark> {
        if self.seeds < BATCH_MIN {
            return Vec::new();
        }
        self.marks.missing()
    }

    fn text(&self, wall: Duration) -> String {
        let per_second = self.virtual_time.as_secs_f64() / wall.as_secs_f64().max(1e-9);
        format!(
            "{}\n{} seeds, {} failed: {} calls checked, {} view changes, {:.0} virtual seconds in \
             {:.1} s ({per_second:.0} a second)\n",
            self.marks,
            thousands(self.seeds),
            thousands(self.failures.len() as u64),
            thousands(self.calls),
            thousands(self.view_changes),
            self.virtual_time.as_secs_f64(),
            wall.as_secs_f64(),
        )
    }
}

/// As JSON.
#[derive(Debug, Serialize)]
struct Summary {
    seeds: u64,
    failures: u64,
    failed_seeds: Vec<u64>,
    virtual_seconds: f64,
    wall_seconds: f64,
    ops_checked: u64,
    view_changes: u64,
    event_hash: String,
    sometimes: BTreeMap<&'static str, u64>,
}

impl Summary {
    fn of(batch: &Batch, wall: Duration) -> Self {
        Self {
            seeds: batch.seeds,
            failures: batch.failures.len() as u64,
            failed_seeds: batch.failures.iter().map(|failure| failure.seed).collect(),
            virtual_seconds: batch.virtual_time.as_secs_f64(),
            wall_seconds: wall.as_secs_f64(),
            ops_checked: batch.calls,
            view_changes: batch.view_changes,
            event_hash: format!("{:016x}", batch.hash),
            sometimes: batch
                .marks
                .iter()
                .map(|(mark, count)| (mark.name(), count))
                .collect(),
        }
    }
}

/// A failure on stderr: what, the last events, each replica's state, and how to see it again.
fn tell(args: &Args, failure: &cluster::Failure) {
    eprintln!("{failure}");
    if let Some(path) = &args.script {
        eprintln!(
            "to see it again: viewring sim --script {} --trace\n",
            path.display()
        );
        return;
    }
    let replicas = config_of(args, failure.seed).replicas;
    eprintln!(
        "to see it again: viewring sim --seed {} --replicas {replicas} --trace\n",
        failure.seed
    );
}

/// Every event on stdout; of a run that failed those that it has kept.
fn tell_trace(result: &Result<Report, cluster::Failure>) -> Result<(), Failure> {
    let trace = match result {
        Ok(report) => &report.trace,
        Err(failure) => &failure.trace,
    };
    let mut text = String::new();
    for event in trace {
        text.push_str(&event.to_string());
        text.push('\n');
    }
    output::write(text.as_bytes())
}

/// How far a batch is, on stderr; on a terminal again and again.
struct Progress {
    seeds: u64,
    done: u64,
    failed: u64,
    began: Instant,
    told: Instant,
    is_live: bool,
    recent: VecDeque<(Instant, u64)>,
}

impl Progress {
    fn new(seeds: u64, began: Instant) -> Self {
        Self {
            seeds,
            done: 0,
            failed: 0,
            began,
            told: began,
            is_live: io::stderr().is_terminal(),
            recent: VecDeque::new(),
        }
    }

    fn another(&mut self, failed: bool) {
        self.done += 1;
        self.failed += u64::from(failed);
        let now = now();
        if !self.is_live || now - self.told < Duration::from_millis(200) {
            return;
        }
        self.told = now;
        self.recent.push_back((now, self.done));
        if self.recent.len() > 20 {
            self.recent.pop_front();
        }
        let (since, before) = self.recent.front().copied().unwrap_or((self.began, 0));
        let seconds = (now - since).as_secs_f64();
        let speed = (self.done - before) as f64 / seconds.max(0.001);
        self.line('\r', speed, "");
    }

    fn end(&mut self) {
        let speed = self.done as f64 / self.began.elapsed().as_secs_f64().max(0.001);
        self.line(if self.is_live { '\r' } else { ' ' }, speed, "\n");
    }

    fn line(&self, start: char, speed: f64, end: &str) {
        let line = format!(
            "{start}{} of {} seeds, {} failed, {speed:.0} seeds a second   {end}",
            thousands(self.done),
            thousands(self.seeds),
            thousands(self.failed),
        );
        // What cannot be told to stderr cannot be told at all.
        let _closed = io::stderr()
            .write_all(line.trim_start_matches(' ').as_bytes())
            .is_err();
    }
}

thread_local! {
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs what may panic and is caught: its panics are told later, with more.
fn quietly<T>(run: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_QUIET.get() {
                loud(info);
            }
        }));
    });
    IS_QUIET.set(true);
    let result = run();
    IS_QUIET.set(false);
    result
}

#[expect(
    clippy::disallowed_methods,
    reason = "how fast the simulator is, is no part of a simulation"
)]
fn now() -> Instant {
    Instant::now()
}

/// In a smaller batch what is rare may be missing.
const BATCH_MIN: u64 = 500;
/// So many events of a scenario are kept if not all are printed.
const LAST_EVENTS: usize = 40;
/// How many failures are told in full.
const FAILURES_TOLD: usize = 3;
