//! `viewring bench`: load a group, and tell how it bears that.
//!
//! `workload.rs` says what is called and `pace.rs` when; `driver.rs` is one client that does so,
//! `measure.rs` a run of them; `report.rs` tells what it found.

mod cpu;
mod driver;
mod latency_file;
mod measure;
mod pace;
mod report;
mod workload;

use std::io::{IsTerminal, stderr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt;
use viewring::kv::{KEY_BYTES_MAX, KvError, VALUE_BYTES_MAX};
use viewring_runtime::signal;

use self::measure::{Asked, Ending, Measured, Run, Until, measure};
use self::report::Report;
use self::workload::{Op, Popularity, Workload};
use crate::duration::{parse, parse_positive};
use crate::exit::{self, Exit, Failure};
use crate::output;
use crate::settings::Settings;

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
  viewring bench --config cluster.toml --op mix --reads 95 --keys 100000 --popularity zipf

Ctrl-c ends it early, with the result so far.")]
pub(crate) struct Args {
    /// Describes the group.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How many clients there are: a session each, one operation in flight each.
    #[arg(long, value_name = "N", default_value_t = 16,
          value_parser = clap::value_parser!(u32).range(1..=16_384))]
    clients: u32,
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
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let settings = Settings::load(&args.config)?;
    let run = args.run()?;
    exit::block_on(async {
        let asked: Asked = signal::shutdown().map(drop).boxed_local().shared();
        let mut measured = measure(&settings, &run, &asked).await?;
        let report = Report::of(&run, &measured);
        if args.json {
            output::json(&report)?;
        } else {
            output::line(&report)?;
        }
        if let Some(path) = &args.latency_file {
            latency_file::write(path, &mut measured.latencies)?;
        }
        exit_of(&measured)
    })
}

fn exit_of(measured: &Measured) -> Result<Exit, Failure> {
    if measured.ending == Ending::Silence {
        return Err(Failure::unreachable("the group has fallen silent"));
    }
    if measured.summary.ops == 0 {
        return Err(Failure::unreachable("no operation was answered"));
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
        Ok(Run {
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
        let keys = (self.keys, self.popularity);
        let reads = self.reads.unwrap_or(50);
        Workload::new(self.op, reads, keys, self.key_size, self.value_size).map_err(|least| {
            Failure::usage(format_args!(
                "keys of {} bytes cannot name {} keys: make --key-size {least}, or --keys less",
                self.key_size, self.keys
            ))
        })
    }
}
