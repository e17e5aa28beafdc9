//! `viewring replica`: run one replica.

use std::path::PathBuf;
use std::pin::pin;

use clap::ValueEnum;
use futures::future::{Either, select};
use viewring::kv::Kv;
use viewring::{Node, NodeConfig, Null, StateMachine, WalkInConfig};
use viewring_runtime::{Config, Runtime, Uring, signal};

use crate::exit::{Exit, Failure};
use crate::settings::Settings;
use crate::specpaxos::Wire;

/// Run one replica of a group, until ctrl-c.
///
/// It keeps the log in memory: a replica that is started again has lost it, is no member of the
/// group that runs without it, and says so.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  viewring replica --config cluster.toml --id 0
  RUST_LOG=debug viewring replica --config cluster.toml --id 1 --app null
  viewring replica --config specpaxos.conf --id 0 --wire specpaxos --app null")]
pub(crate) struct Args {
    /// Describes the group: a file of ours, or one of specpaxos. With the latter, replicas speak
    /// with one another, and with clients of ours, on that file's ports plus 1000.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Which replica this is: its place in the file's list, from 0.
    #[arg(long, value_name = "N")]
    id: u8,
    /// What is replicated.
    #[arg(long, value_enum, default_value = "kv")]
    app: App,
    /// What clients speak on the ports of a specpaxos configuration file.
    #[arg(long, value_enum, default_value = "viewring")]
    wire: Wire,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum App {
    /// The key-value store.
    Kv,
    /// Answers every operation with nothing: what replication alone costs.
    Null,
    /// Answers every operation with the next number, in decimal: specpaxos' time server.
    Time,
}

/// The last number given.
#[derive(Default)]
struct Time(u64);

impl StateMachine for Time {
    fn apply(&mut self, _operation: &[u8], reply: &mut Vec<u8>) {
        self.0 += 1;
        reply.extend_from_slice(self.0.to_string().as_bytes());
    }
}

pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let settings = Settings::load(&args.config)?;
    let mut node = settings.node(args.id)?;
    if let Some(dialect) = args.wire.dialect() {
        let addr = settings.doors()?[usize::from(args.id)];
        node.walk_ins = Some(WalkInConfig { addr, dialect });
    }
    match args.app {
        App::Kv => serve(node, Kv::default()),
        App::Null => serve(node, Null),
        App::Time => serve(node, Time::default()),
    }
}

fn serve(config: NodeConfig, state_machine: impl StateMachine) -> Result<Exit, Failure> {
    let uring = Uring::new().map_err(Failure::setup)?;
    let capabilities = uring.capabilities();
    Runtime::new(uring, Config::default()).block_on(async {
        // From here on a signal is heard, also while the port is waited for.
        let mut asked = pin!(signal::shutdown());
        let (id, addr) = (config.id.0, config.replicas[config.id.index()]);
        let mut node = match select(asked.as_mut(), pin!(Node::bind(config, state_machine))).await {
            Either::Left((asked, _)) => return stopped(id, asked),
            Either::Right((node, _)) => node?,
        };
        tracing::info!(replica = id, %addr, "listening; {capabilities}");
        match select(asked, pin!(node.run())).await {
            Either::Left((asked, _)) => stopped(id, asked),
            Either::Right((Err(error), _)) => Err(Failure::setup(format_args!(
                "the socket of {addr} has failed: {error}"
            ))),
            Either::Right((Ok(never), _)) => match never {},
        }
    })
}

fn stopped(id: u8, asked: std::io::Result<()>) -> Result<Exit, Failure> {
    asked.map_err(|error| Failure::setup(format_args!("cannot wait for signals: {error}")))?;
    tracing::info!(replica = id, "stopped");
    Ok(Exit::Success)
}
