//! The replicas of the demo: each a thread with a runtime, a ring and a socket of its own.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{Either, select, try_join};
use viewring::protocol::ReplicaId;
use viewring::{ConfigError, Events, Happening, Node, NodeConfig};
use viewring_runtime::time::sleep;
use viewring_runtime::{Config, Runtime, SetupError, Uring, random};

use super::audit::{Audited, Ledger};
use super::folder::Folder;
use super::judge::{Dead, Ledgers};
use crate::exit::Failure;

/// The group. Dropping it stops what still runs.
pub(super) struct Group {
    cluster: u64,
    replicas: Vec<SocketAddr>,
    workers: u32,
    /// Where each keeps its view. None: who is stopped does not come back.
    folder: Option<Folder>,
    threads: Vec<ReplicaThread>,
    dead: Dead,
}

/// A life of a replica.
struct ReplicaThread {
    /// Dropping it asks the thread to end.
    stop: Option<oneshot::Sender<()>>,
    /// Hears when the replica is a member of its group. None: it was, or is stopped.
    joining: Option<oneshot::Receiver<()>>,
    thread: Option<thread::JoinHandle<Result<Ledger, Death>>>,
}

/// Why a replica did not start, or ended by itself.
#[derive(Debug)]
enum Death {
    Setup(SetupError),
    Config(ConfigError),
    /// Its socket, or its view file.
    Io(std::io::Error),
    Panic,
}

/// Ports are looked for from here …
const FIRST_PORT: u16 = 10_000;
/// … to below those that the kernel gives to whoever asks for any.
const LAST_PORT: u16 = 32_000;
/// How often other ports are tried.
const ATTEMPTS: usize = 20;
/// If replicas come back, checkpoints are taken five times as often as by default: who comes back
/// has little to execute again.
const CHECKPOINT_INTERVAL: u64 = 20_000;
/// And more is kept in front of them, so that a log is always about as long: else its memory would
/// come and go with every checkpoint, and hide what grows.
const CHECKPOINT_KEEP: u64 = 70_000;

impl Group {
    /// Starts `count` replicas on free ports. They have yet to form a group. If they are to come
    /// back when they were stopped, they have a folder for temporary files.
    pub(super) async fn start(count: u8, workers: u32, come_back: bool) -> Result<Self, Failure> {
        let mut taken = None;
        for _ in 0..ATTEMPTS {
            let mut group = Self {
                cluster: random(),
                replicas: free_ports(count),
                workers,
                folder: come_back.then(|| Folder::new(count)).transpose()?,
                threads: Vec::new(),
                dead: Dead::default(),
            };
            match group.start_all().await {
                Ok(()) => return Ok(group),
                Err(Death::Config(error @ ConfigError::Bind(..))) => taken = Some(error),
                Err(death) => return Err(death.into()),
            }
        }
        let why = taken.map_or_else(String::new, |error| format!(": {error}"));
        Err(Failure::setup(format_args!(
            "no free ports found on loopback{why}"
        )))
    }

    async fn start_all(&mut self) -> Result<(), Death> {
        let mut started = Vec::new();
        for (id, _) in (0..).zip(&self.replicas) {
            let (thread, bound) = ReplicaThread::start(self.config(id), self.workers);
            self.threads.push(thread);
            started.push(bound);
        }
        for (thread, bound) in self.threads.iter_mut().zip(started) {
            thread.has_begun(bound).await?;
        }
        Ok(())
    }

    fn config(&self, id: u8) -> NodeConfig {
        let mut config = NodeConfig::new(self.cluster, ReplicaId(id), self.replicas.clone());
        if let Some(folder) = &self.folder {
            config.data = Some(folder.of(id));
            config.checkpoints.interval = CHECKPOINT_INTERVAL;
            config.checkpoints.keep = CHECKPOINT_KEEP;
        }
        config
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
        thread.stop();
        if let Some(ledger) = thread.join().await? {
            self.dead.bury(ledger);
        }
        Ok(())
    }

    /// Starts a replica that was stopped, at its old address. It knows its view, and nothing else.
    pub(super) async fn start_again(&mut self, id: u8) -> Result<(), Failure> {
        let (thread, bound) = ReplicaThread::start(self.config(id), self.workers);
        let life = &mut self.threads[usize::from(id)];
        *life = thread;
        Ok(life.has_begun(bound).await?)
    }

    /// Waits for the next replica to become a member, and tells which; for ever, if all are.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing; of a replica that has ended [`check`](Self::check) tells, too.
    ///
    /// # Errors
    /// When a replica has ended before it was a member, and why.
    pub(super) async fn joined(&mut self) -> Result<u8, Failure> {
        let (id, is_member) = poll_fn(|cx| {
            for (id, thread) in (0..).zip(&mut self.threads) {
                if let Some(joining) = &mut thread.joining
                    && let Poll::Ready(joined) = joining.poll_unpin(cx)
                {
                    thread.joining = None;
                    return Poll::Ready((id, joined.is_ok()));
                }
            }
            Poll::Pending
        })
        .await;
        if !is_member {
            // It has ended instead, and says why.
            self.threads[usize::from(id)].join().await?;
        }
        Ok(id)
    }

    /// Whether all replicas are members, or were when they were last heard of.
    pub(super) fn is_whole(&self) -> bool {
        let mut threads = self.threads.iter();
        threads.all(|thread| thread.stop.is_some() && thread.joining.is_none())
    }

    /// A replica that runs and has yet to become a member.
    pub(super) fn absent(&self) -> Option<u8> {
        let mut threads = (0..).zip(&self.threads);
        threads.find_map(|(id, thread)| thread.joining.is_some().then_some(id))
    }

    /// # Errors
    /// When a replica has ended by itself, and why.
    pub(super) async fn check(&mut self) -> Result<(), Failure> {
        for thread in &mut self.threads {
            let has_ended = thread.thread.as_ref().is_some_and(|it| it.is_finished());
            if has_ended && thread.stop.is_some() {
                thread.join().await?;
            }
        }
        Ok(())
    }

    /// Stops all replicas and returns what they have written down.
    pub(super) async fn stop(&mut self) -> Result<Ledgers, Failure> {
        self.threads.iter_mut().for_each(ReplicaThread::stop);
        let mut living = Vec::new();
        for thread in &mut self.threads {
            living.extend(thread.join().await?);
        }
        Ok(Ledgers {
            living,
            dead: std::mem::take(&mut self.dead),
        })
    }
}

impl ReplicaThread {
    /// The receiver hears when the replica's socket is bound, and is cancelled if it never will.
    fn start(config: NodeConfig, workers: u32) -> (Self, oneshot::Receiver<()>) {
        let (stop, stopped) = oneshot::channel();
        let (bound, started) = oneshot::channel();
        let (joined, joining) = oneshot::channel();
        let thread = thread::Builder::new()
            .name(format!("replica-{}", config.id))
            .spawn(move || live(config, Audited::new(workers), [bound, joined], stopped))
            .expect("the system has room for one more thread");
        let life = Self {
            stop: Some(stop),
            joining: Some(joining),
            thread: Some(thread),
        };
        (life, started)
    }

    async fn has_begun(&mut self, bound: oneshot::Receiver<()>) -> Result<(), Death> {
        if bound.await.is_err() {
            // It has ended instead, and says why.
            self.join().await?;
        }
        Ok(())
    }

    fn stop(&mut self) {
        self.stop = None;
        self.joining = None;
    }

    /// Waits for the thread's end, without keeping the clients waiting. What the replica has
    /// written down; None if that was asked before.
    async fn join(&mut self) -> Result<Option<Ledger>, Death> {
        while self
            .thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
        {
            sleep(Duration::from_millis(1)).await;
        }
        let Some(thread) = self.thread.take() else {
            return Ok(None);
        };
        thread.join().unwrap_or(Err(Death::Panic)).map(Some)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.threads.iter_mut().for_each(ReplicaThread::stop);
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

/// The life of a replica, on its own thread. It tells when its socket is bound, and when it is a
/// member; and in the end, what it has written down.
fn live(
    config: NodeConfig,
    state_machine: Audited,
    [bound, joined]: [oneshot::Sender<()>; 2],
    stopped: oneshot::Receiver<()>,
) -> Result<Ledger, Death> {
    let uring = Uring::new().map_err(Death::Setup)?;
    Runtime::new(uring, Config::default()).block_on(async {
        let mut node = Node::bind(config, state_machine)
            .await
            .map_err(Death::Config)?;
        if bound.send(()).is_ok() {
            let events = node.events();
            let life = try_join(node.run(), tell_when_a_member(events, joined));
            match select(stopped, pin!(life)).await {
                Either::Left(_) => {}
                Either::Right((Err(error), _)) => return Err(Death::Io(error)),
                Either::Right((Ok((never, ())), _)) => match never {},
            }
        }
        Ok(node.state_machine().ledger().clone())
    })
}

/// Until the replica leads or follows in a view that has begun.
async fn tell_when_a_member(
    mut events: Events,
    joined: oneshot::Sender<()>,
) -> std::io::Result<()> {
    while let Some(event) = events.next().await {
        let what = event.map(|event| event.what);
        if matches!(what, Ok(Happening::Primary { .. })) {
            // Nobody may want to know any more.
            let _heard = joined.send(()).is_ok();
            break;
        }
    }
    Ok(())
}

impl From<Death> for Failure {
    fn from(death: Death) -> Self {
        match death {
            Death::Setup(error) => Self::setup(error),
            Death::Config(error) => error.into(),
            Death::Io(error) => Self::setup(format_args!("a replica has failed: {error}")),
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
