//! `viewring bench`: load a group, and tell how it bears that.
//!
//! `group.rs` is what is measured and `caller.rs` what reaches it; `workload.rs` says what is
//! called and `pace.rs` when; `driver.rs` is one client that does so, `measure.rs` a run of them
//! and `sweep.rs` many runs; `report.rs` tells what was found, and `plot.rs` draws it.

mod caller;
mod chart;
mod cpu;
mod driver;
mod group;
mod latency_file;
mod measure;
mod pace;
mod plot;
mod report;
mod sweep;
mod workload;

use std::fs;
use std::io::{self, IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt;
use serde::Serialize;
use viewring::kv::{KEY_BYTES_MAX, KvError, VALUE_BYTES_MAX};
use viewring_runtime::{Config, signal};

use self::group::Group;
use self::measure::{Asked, Ending, Measured, Run, Until, measure};
use self::report::Report;
use self::sweep::Sweep;
use self::workload::{Op, Popularity, Workload};
use crate::consistency::{Asker, Consistency};
use crate::duration::{parse, parse_positive};
use crate::exit::{self, Exit, Failure};
use crate::output;
use crate::specpaxos::Wire;

/// Measure a group: each client calls, waits for the answer, and calls again.
///
/// With --rate the clients do not wait for one another's answers: every request has its moment, and
/// its latency counts from there, also when it began late because the group was slow.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  viewring bench --config cluster.toml --clients 1
  viewring bench --config cluster.toml --clients 64 --requests 200000 --op null --json
  viewring bench --config cluster.toml --clients 256 --rate 50000 --duration 30s
  viewring bench --config cluster.toml --sweep 1,2,4,...,256 --duration 3s --svg sweep.svg
  viewring bench --config specpaxos.conf --wire specpaxos --clients 64 --op null
  viewring bench --config cluster.toml --op mix --reads 95 --keys 100000 --popularity zipf

What put, get and mix put stays in the store: keys that begin with bench/.

Ctrl-c ends it early, with the result so far. Exit code 3: the group did not answer, or not at the
end: calls were left unknown.")]
pub(crate) struct Args {
    /// Describes the group.
    #[arg(long, value_name = "FILE", env = "VIEWRING_CONFIG")]
    config: PathBuf,
    /// What the clients speak. Other than viewring, the file has to be one of specpaxos.
    #[arg(long, value_enum, default_value = "viewring")]
    wire: Wire,
    /// How many clients there are: a session each, one operation in flight each. Beyond the group's
    /// window, 1024 unless configured, some are told to wait.
    #[arg(long, value_name = "N", default_value_t = 16,
          value_parser = clap::value_parser!(u32).range(1..=16_384))]
    clients: u32,
    /// Measure with each of these numbers of clients, one after the other.
    #[arg(long, value_name = "1,2,4,...,N", conflicts_with_all = ["clients", "latency_file"])]
    sweep: Option<Sweep>,
    /// All clients share one socket, as those of an application server would.
    #[arg(long)]
    shared_socket: bool,
    /// Requests a second of all clients, evenly spaced: an open loop.
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rate: Option<u32>,
    /// How long to measure.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_positive)]
    duration: Duration,
    /// Measure until so many requests are answered, however long that takes.
    #[arg(long, value_name = "N", conflicts_with = "duration",
          value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// How long to run before measuring.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse)]
    warm_up: Duration,
    /// What the clients call.
    #[arg(long, value_enum, default_value = "put")]
    op: Op,
    /// Of a mix, how many in a hundred are gets [default: 50]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u64).range(0..=100))]
    reads: Option<u64>,
    /// How fresh the answers to gets must be [default: read-index]
    #[arg(long, value_enum)]
    consistency: Option<Consistency>,
    /// Who asks the others, for a read-index read, whether the primary leads still [default:
    /// cheaper]
    #[arg(long, value_enum, value_name = "WHO")]
    confirmed_by: Option<Asker>,
    /// How many keys there are.
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    keys: u64,
    /// How often which key is called for.
    #[arg(long, value_enum, default_value = "uniform")]
    popularity: Popularity,
    /// How long the keys are.
    #[arg(long, value_name = "BYTES", default_value_t = 16)]
    key_size: usize,
    /// How long the values are.
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    value_size: usize,
    /// An operation without an answer for so long counts as unknown; it is asked for again.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_positive)]
    timeout: Duration,
    /// Tell each second how it goes, also if stderr is no terminal.
    #[arg(long)]
    progress: bool,
    /// Write every latency to this file, as specpaxos' client does: nanoseconds in 64 bits each,
    /// client after client, sorted.
    #[arg(long, value_name = "FILE")]
    latency_file: Option<PathBuf>,
    /// Draw to this file: how latencies are distributed; of a sweep, throughput and latency.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Before it sleeps the client looks for answers for so long, without a system call: 50us is a
    /// good value. It takes a core of its own.
    #[arg(long, value_name = "TIME", value_parser = parse_positive)]
    spin: Option<Duration>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let group = Group::load(&args.config, args.wire)?;
    let run = args.run()?;
    // What cannot be written is told before it is measured, not after.
    for path in [&args.latency_file, &args.svg].into_iter().flatten() {
        let opened = fs::OpenOptions::new().append(true).create(true).open(path);
        opened.map_err(|error| cannot_write(path, &error))?;
    }
    let config = Config {
        spin: args.spin.unwrap_or_default(),
        ..Config::default()
    };
    exit::block_on_with(config, async {
        let asked: Asked = signal::shutdown().map(drop).boxed_local().shared();
        match &args.sweep {
            None => once(&group, &run, args, &asked).await,
            Some(Sweep(clients)) => each(&group, &run, clients, args, &asked).await,
        }
    })
}

/// One run.
async fn once(group: &Group, run: &Run, args: &Args, asked: &Asked) -> Result<Exit, Failure> {
    let mut measured = measure(group, run, asked).await?;
    let report = Report::of(run, &measured);
    if args.json {
        output::json(&report)?;
    } else if measured.summary.ops > 0 {
        output::line(&report)?;
    }
    if let Some(path) = &args.latency_file {
        latency_file::write(path, &mut measured.latencies)?;
    }
    if let Some(path) = &args.svg {
        save(path, &plot::latencies(&measured.histogram, &report))?;
    }
    exit_of(&measured)
}

/// One run for each number of clients.
async fn each(
    group: &Group,
    run: &Run,
    clients: &[u32],
    args: &Args,
    asked: &Asked,
) -> Result<Exit, Failure> {
    let mut runs = Vec::new();
    let mut exit = Ok(Exit::Success);
    for &clients in clients {
        let run = Run {
            clients,
            ..run.clone()
        };
        let measured = match measure(group, &run, asked).await {
            Ok(measured) => measured,
            Err(failure) => {
                exit = Err(failure);
                break;
            }
        };
        let report = Report::of(&run, &measured);
        if !args.json {
            if runs.is_empty() {
                output::line(sweep::head())?;
            }
            output::line(sweep::row(&report))?;
        }
        runs.push(report);
        exit = exit_of(&measured);
        if exit.is_err() || measured.ending == Ending::Interrupted {
            break;
        }
    }
    if runs.is_empty() {
        return exit;
    }
    if let Some(path) = &args.svg {
        save(path, &plot::sweep(&runs))?;
    }
    if args.json {
        output::json(&Runs { runs })?;
    }
    exit
}

/// A sweep.
#[derive(Debug, Serialize)]
struct Runs {
    runs: Vec<Report>,
}

fn save(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| cannot_write(path, &error))
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::setup(format_args!("cannot write {}: {error}", path.display()))
}

fn exit_of(measured: &Measured) -> Result<Exit, Failure> {
    if measured.ending == Ending::Silence {
        return Err(Failure::unreachable("the group has fallen silent"));
    }
    if measured.summary.ops == 0 && measured.errors > 0 {
        return Err(Failure::usage(
            "the group answers, but not as its key-value store would: add --op null",
        ));
    }
    if measured.summary.ops == 0 {
        return Err(Failure::unreachable("no operation was answered"));
    }
    if measured.unanswered > 0 {
        return Err(Failure::unreachable(format_args!(
            "{} of the calls had no answer when it was over: their outcome is unknown",
            measured.unanswered
        )));
    }
    Ok(Exit::Success)
}

impl Args {
    /// What is run.
    fn run(&self) -> Result<Run, Failure> {
        let until = match self.requests {
            Some(count) => Until::Answered(count),
            None => Until::Elapsed(self.duration),
        };
        if self.wire != Wire::Viewring && self.shared_socket {
            return Err(Failure::usage(format_args!(
                "a client of {} has a socket of its own: leave --shared-socket out",
                self.wire.name()
            )));
        }
        Ok(Run {
            wire: self.wire,
            clients: self.clients,
            shared_socket: self.shared_socket,
            rate: self.rate,
            warm_up: self.warm_up,
            until,
            timeout: self.timeout,
            workload: Rc::new(self.workload()?),
            keep: self.latency_file.is_some(),
            progress: self.progress || stderr().is_terminal(),
        })
    }

    fn workload(&self) -> Result<Workload, Failure> {
        if self.value_size > VALUE_BYTES_MAX {
            return Err(Failure::usage(KvError::ValueTooLong(self.value_size)));
        }
        if self.key_size > KEY_BYTES_MAX {
            return Err(Failure::usage(KvError::KeyTooLong(self.key_size)));
        }
        if self.reads.is_some() && self.op != Op::Mix {
            return Err(Failure::usage("--reads is about a mix: add --op mix"));
        }
        if self.consistency.is_some() && !matches!(self.op, Op::Get | Op::Mix) {
            return Err(Failure::usage(
                "--consistency is about gets: add --op get, or --op mix",
            ));
        }
        let read_index = matches!(self.consistency, None | Some(Consistency::ReadIndex));
        if self.confirmed_by.is_some() && !(read_index && matches!(self.op, Op::Get | Op::Mix)) {
            return Err(Failure::usage(
                "--confirmed-by is about read-index gets: add --op get, or --op mix",
            ));
        }
        let keys = (self.keys, self.popularity);
        let reads = self.reads.unwrap_or(50);
        let workload = Workload::new(self.op, reads, keys, self.key_size, self.value_size);
        let mut workload = workload.map_err(|least| {
            Failure::usage(format_args!(
                "keys of {} bytes cannot name {} keys: make --key-size {least}, or --keys less",
                self.key_size, self.keys
            ))
        })?;
        if let Some(consistency) = self.consistency {
            workload.consistency = consistency.into();
        }
        if let Some(asker) = self.confirmed_by {
            workload.confirmed_by = asker.into();
        }
        Ok(workload)
    }
}
