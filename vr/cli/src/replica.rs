//! `viewring replica`: run one replica.

use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use clap::ValueEnum;
use futures::future::{Either, select, try_join_all};
use viewring::kv::Kv;
use viewring::{Never, Node, NodeConfig, Null, StateMachine, WalkInConfig};
use viewring_runtime::{Capabilities, Runtime, Uring, signal};

use crate::duration::parse_positive;
use crate::exit::{Exit, Failure};
use crate::settings::Settings;
use crate::specpaxos::Wire;

/// Run one replica of a group, until ctrl-c.
///
/// It keeps the log in memory, and with --data a small file of what it must not forget: then a
/// replica that is started again fetches what it has lost from the others. Without, it is no member
/// of the group that runs on without it, and says so.
///
/// With --all it is the whole group, on one core: to develop against, since what ends the process
/// ends all its replicas. It keeps nothing: each time it is a new group.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  viewring replica --config cluster.toml --id 0
  viewring replica --config cluster.toml --all
  RUST_LOG=debug viewring replica --config cluster.toml --id 1 --app null
  viewring replica --config specpaxos.conf --id 0 --wire specpaxos --app null --data data/0")]
pub(crate) struct Args {
    /// Describes the group: a file of ours, or one of specpaxos. With the latter, replicas speak
    /// with one another, and with clients of ours, on that file's ports plus 1000.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Which replica this is: its place in the file's list, from 0.
    #[arg(long, value_name = "N", required_unless_present = "all")]
    id: Option<u8>,
    /// All replicas of the file, in this process.
    #[arg(long, conflicts_with = "id")]
    all: bool,
    /// A directory of this replica's own, made if there is none. Overrides the file's.
    #[arg(long, value_name = "DIR", conflicts_with = "all")]
    data: Option<PathBuf>,
    /// What is replicated.
    #[arg(long, value_enum, default_value = "kv")]
    app: App,
    /// What clients speak on the ports of a specpaxos configuration file.
    #[arg(long, value_enum, default_value = "viewring")]
    wire: Wire,
    /// Before it sleeps a replica looks for work for so long, without a system call: 50us is a good
    /// value. It takes a core of its own. Overrides the file.
    #[arg(long, value_name = "TIME", value_parser = parse_positive)]
    spin: Option<Duration>,
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
    let ids = match args.id {
        Some(id) => vec![id],
        None => (0..settings.replica_count()).collect(),
    };
    let nodes: Vec<NodeConfig> = ids
        .into_iter()
        .map(|id| node(&settings, id, args))
        .collect::<Result<_, _>>()?;
    let uring = Uring::new().map_err(Failure::setup)?;
    let capabilities = uring.capabilities();
    let runtime = Runtime::new(uring, settings.runtime(args.spin));
    match args.app {
        App::Kv => runtime.block_on(serve(nodes, Kv::default, &settings, args, capabilities)),
        App::Null => runtime.block_on(serve(nodes, || Null, &settings, args, capabilities)),
        App::Time => runtime.block_on(serve(nodes, Time::default, &settings, args, capabilities)),
    }
}

fn node(settings: &Settings, id: u8, args: &Args) -> Result<NodeConfig, Failure> {
    let mut node = settings.node(id)?;
    if let Some(dialect) = args.wire.dialect() {
        let doors = settings.doors()?;
        node.walk_ins = Some(WalkInConfig {
            addr: doors.each[usize::from(id)],
            multicast: doors.all,
            dialect,
        });
    }
    if let Some(data) = &args.data {
        node.data = Some(data.clone());
    }
    if args.all {
        // A group that ends whole has nobody to come back to.
        node.data = None;
    }
    Ok(node)
}

/// Until a signal comes, or a replica fails.
async fn serve<S: StateMachine>(
    nodes: Vec<NodeConfig>,
    state_machine: impl Fn() -> S,
    settings: &Settings,
    args: &Args,
    capabilities: Capabilities,
) -> Result<Exit, Failure> {
    // From here on a signal is heard, also while a port is waited for.
    let asked = pin!(signal::shutdown());
    let replicas = nodes
        .into_iter()
        .map(|node| Box::pin(live(node, state_machine(), settings, args, capabilities)));
    match select(asked, try_join_all(replicas)).await {
        Either::Left((asked, _)) => {
            asked.map_err(|error| {
                Failure::setup(format_args!("cannot wait for signals: {error}"))
            })?;
            tracing::info!("stopped");
            Ok(Exit::Success)
        }
        Either::Right((Err(failure), _)) => Err(failure),
        Either::Right((Ok(lives), _)) => match lives.first() {
            Some(never) => match *never {},
            None => unreachable!("a group has a replica"),
        },
    }
}

async fn live(
    config: NodeConfig,
    state_machine: impl StateMachine,
    settings: &Settings,
    args: &Args,
    capabilities: Capabilities,
) -> Result<Never, Failure> {
    let (id, addr) = (config.id.0, config.replicas[config.id.index()]);
    let may_come_back = args.all || config.data.is_some();
    let mut node = Node::bind(config, state_machine)
        .await
        .map_err(|error| settings.fault(error))?;
    if !may_come_back {
        warn_of_no_memory(settings, id);
    }
    tracing::info!(replica = id, %addr, "listening; {capabilities}");
    node.run()
        .await
        .map_err(|error| Failure::setup(format_args!("replica {id} has failed: {error}")))
}

/// It works well until the replica is restarted: who learns it then has learned it too late.
fn warn_of_no_memory(settings: &Settings, id: u8) {
    let in_the_file = match settings.doors {
        Some(_) => "",
        None => "`data = \"data\"` in the configuration file, or ",
    };
    tracing::warn!(
        replica = id,
        "no data directory: once this replica has stopped it has lost its memory, and its group \
         does not take it back. Give it one: {in_the_file}--data DIR"
    );
}
