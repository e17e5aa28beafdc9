//! `viewring config`: describe a group.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read};
use std::net::IpAddr;

use viewring::protocol::{Configuration, ReplicaId};
use viewring::{Checkpoints, NodeConfig, Timeouts};

use crate::exit::{Exit, Failure};
use crate::output;
use crate::settings::reachable;

/// Print a configuration file for a new group.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  viewring config --replicas 3 > cluster.toml
  viewring config --replicas 5 --host 10.0.0.1 --port 7000 > cluster.toml")]
pub(crate) struct Args {
    /// How many replicas there are: 1, 3, 5 or 7. A group of 2f+1 survives the loss of f.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = group_size)]
    replicas: u8,
    /// The address under which the replicas are reached. If they run on several machines, edit the
    /// file: it may have host names, too, which are looked up once, at the start.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", value_parser = host)]
    host: IpAddr,
    /// The port of replica 0; the others have the next ones.
    #[arg(long, value_name = "PORT", default_value_t = 7000,
          value_parser = clap::value_parser!(u16).range(1..=65_000))]
    port: u16,
}

/// A number of replicas that makes a group.
pub(crate) fn group_size(text: &str) -> Result<u8, String> {
    let count = text.parse().map_err(|error| format!("{error}"))?;
    Configuration::new(count)
        .map(|_| count)
        .map_err(|error| error.to_string())
}

fn host(text: &str) -> Result<IpAddr, String> {
    let ip = text.parse().map_err(|error| format!("{error}"))?;
    reachable(ip).map_err(|reason| format!("it {reason}"))
}

pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let cluster = random_cluster().map_err(|error| {
        Failure::setup(format_args!(
            "cannot read random bytes from /dev/urandom: {error}"
        ))
    })?;
    output::write(file(args, cluster).as_bytes())?;
    Ok(Exit::Success)
}

/// Works without a ring: the file may be for other machines.
fn random_cluster() -> io::Result<u64> {
    let mut bytes = [0; 8];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    // Short enough for the whole numbers of any other reader of the file.
    Ok(u64::from_le_bytes(bytes) >> 16)
}

fn file(args: &Args, cluster: u64) -> String {
    let mut replicas = String::new();
    for index in 0..u16::from(args.replicas) {
        let addr = std::net::SocketAddr::new(args.host, args.port + index);
        writeln!(replicas, "    \"{addr}\",").expect("a string takes everything");
    }
    let node = NodeConfig::new(cluster, ReplicaId(0), Vec::new());
    let (times, checkpoints) = (times(&node.timeouts), checkpoints(&node.checkpoints));
    format!(
        "\
# A Viewring group. All its replicas and clients need the same file.

# Names the group: messages of any other are dropped. Never use it for two groups at once. When all
# replicas and clients of one have stopped, and what its replicas kept is removed, the next may have
# it; if in doubt, take a new number, as `viewring config` does.
cluster = {cluster}

# Replica 0, replica 1, …: 1, 3, 5 or 7 of them. Each listens on its address, for UDP, and the
# others and clients send to it. A host's name is looked up once, when a program starts.
replicas = [
{replicas}]

# Replica N keeps what it must not forget in the directory N in this one, which is beside this file,
# and comes back with it after it was stopped. Without, one that is restarted takes part in nothing.
data = \"data\"

# How long a replica waits for what. These are the defaults; all replicas should agree.
[timeouts]
{times}
[limits]
# Bytes of UDP payload in a datagram: what fits the path's MTU.
# datagram_bytes = {datagram_bytes}
# Operations that may be in the log and not committed, each of which takes memory. Of more clients
# at once some are told to wait, and may for a second.
# window = {window}
# An operation may have so many bytes.
# max_operation_bytes = {max_operation_bytes}
# Registered clients; beyond that, the one that was silent longest is forgotten, and told so. This
# and the next two must be the same at all replicas: one that differs is not believed.
# max_clients = {max_clients}
# A result may have so many bytes; of a longer one a client learns only that there is one.
# max_reply_bytes = {max_reply_bytes}
# Bytes of results kept for clients that ask again; beyond that, clients are forgotten.
# max_kept_reply_bytes = {max_kept_reply_bytes}
# Reads that may wait to be answered.
# max_reads = {max_reads}

# Leases, with which a primary answers reads alone. Off unless there is this line; all replicas must
# have the same, and to make them shorter, stop all replicas for as long as they are now.
# [lease]
# For so long backups promise to elect nobody else.
# duration = \"200ms\"
# The most that any clock may be fast or slow; if one is worse, a read may be stale.
# max_clock_drift_ppm = 1000

[runtime]
# Before a replica sleeps it looks for work for so long, without a system call. It answers sooner,
# and keeps its core from everybody else: only for replicas that have a core of their own.
# spin = \"50us\"

{checkpoints}",
        datagram_bytes = node.datagram_bytes,
        window = node.window,
        max_operation_bytes = node.max_operation_bytes,
        max_clients = node.max_clients,
        max_reply_bytes = node.max_reply_bytes,
        max_kept_reply_bytes = node.max_kept_reply_bytes,
        max_reads = node.max_reads,
    )
}

fn checkpoints(defaults: &Checkpoints) -> String {
    let Checkpoints {
        interval,
        interval_bytes,
        keep,
        page_bytes,
        transfer_bytes,
        ..
    } = defaults;
    format!(
        "\
# When the log is replaced by a checkpoint of the state. The first two should be the same at all
# replicas; if they are not, nothing breaks.
[checkpoints]
# After so many operations; 0: never, and the log grows.
# interval = {interval}
# And when they take so many bytes of memory, and as many as the last checkpoint has.
# interval_bytes = {interval_bytes}
# Operations behind a checkpoint that are kept for a replica that is a little late.
# keep = {keep}
# Bytes of a checkpoint that are written, sent and read in one go.
# page_bytes = {page_bytes}
# Bytes that a replica sends to those who are late, in one upkeep.
# transfer_bytes = {transfer_bytes}
"
    )
}

fn times(defaults: &Timeouts) -> String {
    let rows = [
        (
            "heartbeat",
            defaults.heartbeat,
            "an idle primary says that it lives",
        ),
        (
            "prepare",
            defaults.prepare,
            "a primary sends again what is not committed",
        ),
        (
            "abdicate",
            defaults.abdicate,
            "a primary that hears no quorum stops leading",
        ),
        (
            "silence",
            defaults.silence,
            "a backup that hears no primary votes for another",
        ),
        (
            "view_change_resend",
            defaults.view_change_resend,
            "a vote is sent again",
        ),
        (
            "view_change",
            defaults.view_change,
            "a view that has not started is given up",
        ),
        (
            "upkeep",
            defaults.upkeep,
            "missing entries are asked for again",
        ),
        (
            "announce",
            defaults.announce,
            "a replica that is no member introduces itself",
        ),
    ];
    let mut text = String::new();
    for (name, time, meaning) in rows {
        let setting = format!("# {name} = \"{time:?}\"");
        writeln!(text, "{setting:<32} # {meaning}").expect("a string takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use viewring::LeaseConfig;

    use super::*;

    use crate::settings::Settings;

    #[test]
    fn the_file_is_one_that_can_be_read_also_with_everything_said() {
        let args = Args {
            replicas: 5,
            host: [10, 0, 0, 1].into(),
            port: 7000,
        };
        let text = file(&args, 42);
        let said: String = text
            .lines()
            .map(|line| {
                let is_said = |said: &&str| said.contains(" = ") || said.starts_with('[');
                let said = line.strip_prefix("# ").filter(is_said);
                format!("{}\n", said.unwrap_or(line))
            })
            .collect();
        for (text, lease) in [(text, None), (said, Some(LeaseConfig::default()))] {
            let settings = Settings::parse(Path::new("c.toml"), &text).expect("it can be read");
            assert_eq!(settings.replicas[4], ([10, 0, 0, 1], 7004).into());
            let node = settings.node(4).expect("there are five");
            assert_eq!(node.timeouts, Timeouts::default());
            assert_eq!((node.cluster, node.lease), (42, lease));
            assert_eq!(node.checkpoints, Checkpoints::default());
            assert_eq!(node.data, Some(Path::new("data").join("4")));
        }
    }

    #[test]
    fn no_group_has_two_replicas() {
        assert_eq!(group_size("3"), Ok(3));
        assert!(group_size("2").is_err_and(|reason| reason.contains("1, 3, 5 or 7")));
    }
}
