//! The replicas of the demo: each a thread with a runtime, a ring and a socket of its own.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::{Either, select};
use viewring::protocol::ReplicaId;
use viewring::{ConfigError, Node, NodeConfig};
use viewring_runtime::time::sleep;
use viewring_runtime::{Config, Runtime, SetupError, Uring, random};

use super::audit::{Audited, Ledger};
use super::judge::ReplicaLedger;
use crate::exit::Failure;

/// The group. Dropping it stops what still runs.
pub(super) struct Group {
    cluster: u64,
    replicas: Vec<SocketAddr>,
    threads: Vec<ReplicaThread>,
}

struct ReplicaThread {
    ledger: Arc<Mutex<Ledger>>,
    survived: bool,
    /// Dropping it asks the thread to end.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<Result<(), Death>>>,
}

/// Why a replica did not start, or ended by itself.
#[derive(Debug)]
enum Death {
    Setup(SetupError),
    Config(ConfigError),
    Socket(std::io::Error),
    Panic,
}

/// Ports are looked for from here …
const FIRST_PORT: u16 = 10_000;
/// … to below those that the kernel gives to whoever asks for any.
const LAST_PORT: u16 = 32_000;
/// How often other ports are tried.
const ATTEMPTS: usize = 20;

impl Group {
    /// Starts `count` replicas on free ports. They have yet to form a group.
    pub(super) async fn start(count: u8, workers: u32) -> Result<Self, Failure> {
        let mut taken = None;
        for _ in 0..ATTEMPTS {
            match Self::start_at(free_ports(count), workers).await {
                Ok(group) => return Ok(group),
                Err(Death::Config(error @ ConfigError::Bind(..))) => taken = Some(error),
                Err(death) => return Err(death.into()),
            }
        }
        let why = taken.map_or_else(String::new, |error| format!(": {error}"));
        Err(Failure::setup(format_args!(
            "no free ports found on loopback{why}"
        )))
    }

    async fn start_at(replicas: Vec<SocketAddr>, workers: u32) -> Result<Self, Death> {
        let mut group = Self {
            cluster: random(),
            replicas,
            threads: Vec::new(),
        };
        let mut started = Vec::new();
        for (id, _) in (0..).zip(&group.replicas) {
            let config = NodeConfig::new(group.cluster, ReplicaId(id), group.replicas.clone());
            let (thread, bound) = ReplicaThread::start(config, workers);
            group.threads.push(thread);
            started.push(bound);
        }
        for (index, bound) in started.into_iter().enumerate() {
            if bound.await.is_err() {
                // It has ended instead, and says why.
                group.threads[index].join().await?;
            }
        }
        Ok(group)
    }

    pub(super) fn cluster(&self) -> u64 {
        self.cluster
    }

    pub(super) fn replicas(&self) -> &[SocketAddr] {
        &self.replicas
    }

    /// The addresses, to be read by people.
    pub(super) fn addresses(&self) -> String {
        let ports: Vec<_> = self.replicas[1..]
            .iter()
            .map(|addr| addr.port().to_string())
            .collect();
        let first = self.replicas[0];
        if ports.is_empty() {
            first.to_string()
        } else {
            format!("{first}, {}", ports.join(", "))
        }
    }

    /// Stops one replica where it stands: to the others it has crashed. When this returns its
    /// thread has ended; its runtime and its socket are gone.
    pub(super) async fn kill(&mut self, id: u8) -> Result<(), Failure> {
        let thread = &mut self.threads[usize::from(id)];
        thread.survived = false;
        thread.stop = None;
        Ok(thread.join().await?)
    }

    /// Stops all replicas and returns their ledgers.
    pub(super) async fn stop(&mut self) -> Result<Vec<ReplicaLedger>, Failure> {
        self.threads
            .iter_mut()
            .for_each(|thread| thread.stop = None);
        let mut ledgers = Vec::new();
        for thread in &mut self.threads {
            thread.join().await?;
            let ledger = thread
                .ledger
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            ledgers.push(ReplicaLedger {
                ledger: ledger.clone(),
                survived: thread.survived,
            });
        }
        Ok(ledgers)
    }
}

impl ReplicaThread {
    /// The receiver hears when the replica's socket is bound, and is cancelled if it never will.
    fn start(config: NodeConfig, workers: u32) -> (Self, oneshot::Receiver<()>) {
        let ledger = Arc::new(Mutex::new(Ledger::new(workers)));
        let (stop, stopped) = oneshot::channel();
        let (bound, started) = oneshot::channel();
        let state_machine = Audited::new(Arc::clone(&ledger));
        let thread = thread::Builder::new()
            .name(format!("replica-{}", config.id))
            .spawn(move || live(config, state_machine, bound, stopped))
            .expect("the system has room for one more thread");
        (
            Self {
                ledger,
                survived: true,
                stop: Some(stop),
                thread: Some(thread),
            },
            started,
        )
    }

    /// Waits for the thread's end, without keeping the clients waiting.
    async fn join(&mut self) -> Result<(), Death> {
        while self
            .thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
        {
            sleep(Duration::from_millis(1)).await;
        }
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        thread.join().unwrap_or(Err(Death::Panic))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.threads
            .iter_mut()
            .for_each(|thread| thread.stop = None);
        for thread in self
            .threads
            .iter_mut()
            .filter_map(|thread| thread.thread.take())
        {
            // How it ended matters to nobody any more.
            let _ended = thread.join().is_ok();
        }
    }
}

/// The life of a replica, on its own thread.
fn live(
    config: NodeConfig,
    state_machine: Audited,
    bound: oneshot::Sender<()>,
    stopped: oneshot::Receiver<()>,
) -> Result<(), Death> {
    let uring = Uring::new().map_err(Death::Setup)?;
    Runtime::new(uring, Config::default()).block_on(async {
        let mut node = Node::bind(config, state_machine)
            .await
            .map_err(Death::Config)?;
        if bound.send(()).is_err() {
            return Ok(()); // nobody waits for this replica any more
        }
        match select(stopped, pin!(node.run())).await {
            Either::Left(_) => Ok(()),
            Either::Right((Err(error), _)) => Err(Death::Socket(error)),
            Either::Right((Ok(never), _)) => match never {},
        }
    })
}

impl From<Death> for Failure {
    fn from(death: Death) -> Self {
        match death {
            Death::Setup(error) => Self::setup(error),
            Death::Config(error) => error.into(),
            Death::Socket(error) => {
                Self::setup(format_args!("a replica's socket has failed: {error}"))
            }
            // It has been printed.
            Death::Panic => Self::setup("a replica has panicked, which is a bug"),
        }
    }
}

/// So many loopback addresses that seem to be free. Another program may be faster: then binding
/// fails, and others are tried.
fn free_ports(count: u8) -> Vec<SocketAddr> {
    let range = u64::from(LAST_PORT - FIRST_PORT) - u64::from(count);
    let first = FIRST_PORT + (random() % range) as u16;
    (first..LAST_PORT)
        .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
        .filter(is_free)
        .take(usize::from(count))
        .collect()
}

#[expect(
    clippy::disallowed_types,
    reason = "only asks whether the port is free, and never speaks"
)]
fn is_free(addr: &SocketAddr) -> bool {
    std::net::UdpSocket::bind(addr).is_ok()
}
