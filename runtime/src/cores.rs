//! One runtime per core: threads that are started together, know one another and stop together.
//!
//! Nothing is shared between cores but what is handed over: a core has its own ring, its own tasks,
//! its own sockets. Work goes to another core as a closure that makes a future *there*
//! ([`Peers::spawn_on`]), so futures need not be `Send`. Results come back through any channel that
//! wakes across threads, such as those of the `futures` crate.
//!
//! ```
//! use std::sync::mpsc;
//! use viewring_runtime::cores::{self, Cores};
//!
//! # fn main() -> Result<(), cores::CoresError> {
//! let cores = Cores::builder().start()?;
//! let first = cores.peers().cores()[0];
//! let (answer, answered) = mpsc::channel();
//! cores.peers().spawn_on(first, move || async move {
//!     // On that core now. It can reach the others in the same way.
//!     let peers = cores::peers().expect("this is a core");
//!     answer.send(peers.cores().len()).expect("somebody waits");
//! })?;
//! assert_eq!(answered.recv(), Ok(cores.peers().cores().len()));
//! cores.stop();
//! cores.join()?;
//! # Ok(())
//! # }
//! ```
//!
//! **Stopping.** [`Peers::stop`] asks; a core then lets its tasks end by themselves for the
//! builder's [`grace`](Builder::grace), drops those that are left, and shuts its runtime down. A
//! task that wants to end well awaits [`Peers::stopping`]. A core whose loop panics asks all the
//! others to stop: [`Cores::join`] says so. (A *task* that panics ends only itself.)

use std::any::Any;
use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::Shared;
use thiserror::Error;

use crate::current;
use crate::handle::Handle;
use crate::metrics::Metrics;
use crate::runtime::{self, Config, Runtime, yield_now};
use crate::time::{Instant, sleep};
use crate::uring::{SetupError, Uring, UringConfig, affinity};

/// The threads of one runtime per core.
///
/// Dropping it stops them and waits for them, like [`stop`](Self::stop) and [`join`](Self::join).
#[derive(Debug)]
pub struct Cores {
    peers: Peers,
    threads: Vec<(usize, thread::JoinHandle<Metrics>)>,
}

/// How to start [`Cores`].
#[derive(Clone, Debug)]
pub struct Builder {
    cores: Option<Vec<usize>>,
    pinned: bool,
    name: String,
    config: Config,
    uring: UringConfig,
    grace: Duration,
}

/// The cores that were started together, as seen from any of them and from outside.
#[derive(Clone, Debug)]
pub struct Peers {
    group: Arc<Group>,
}

#[derive(Debug)]
struct Group {
    cores: Vec<usize>,
    /// In the order of `cores`.
    handles: Vec<Handle>,
    /// Dropped to ask for the stop.
    stop: Mutex<Option<oneshot::Sender<Infallible>>>,
    stopping: Shared<oneshot::Receiver<Infallible>>,
}

/// What went wrong with a core.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CoresError {
    /// Its ring cannot be made.
    #[error("core {core}: {cause}")]
    Setup {
        /// Which core.
        core: usize,
        /// Why, and what to do about it.
        #[source]
        cause: SetupError,
    },
    /// Its thread cannot be started, or not be pinned.
    #[error("core {core}: no thread there: {cause}")]
    Thread {
        /// Which core.
        core: usize,
        /// What the system says.
        #[source]
        cause: io::Error,
    },
    /// There is no such core, this process may not run there, or it was not started.
    #[error("core {0} is not one of ours")]
    Unknown(usize),
    /// It has shut down.
    #[error("core {0} has stopped")]
    Stopped(usize),
    /// Its loop panicked.
    #[error("core {core} panicked: {message}")]
    Panicked {
        /// Which core.
        core: usize,
        /// What the panic said.
        message: String,
    },
}

thread_local! {
    static HERE: RefCell<Option<(usize, Peers)>> = const { RefCell::new(None) };
}

/// The core that this thread is, if it was started as one.
pub fn core() -> Option<usize> {
    HERE.with_borrow(|here| here.as_ref().map(|(core, _)| *core))
}

/// The cores that were started together with this thread, if it was started as one.
pub fn peers() -> Option<Peers> {
    HERE.with_borrow(|here| here.as_ref().map(|(_, peers)| peers.clone()))
}

/// How often a core that stops looks whether its tasks have ended.
const LOOK: Duration = Duration::from_millis(1);

impl Builder {
    /// Which cores; by default all on which this process may run. Each counts once.
    #[must_use]
    pub fn cores(mut self, cores: impl IntoIterator<Item = usize>) -> Self {
        self.cores = Some(cores.into_iter().collect());
        self
    }

    /// Whether each thread stays on its core; by default it does. Otherwise the cores are but
    /// names, and need not exist.
    #[must_use]
    pub fn pinned(mut self, pinned: bool) -> Self {
        self.pinned = pinned;
        self
    }

    /// What the threads are called, before their core's number; by default `core-`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The configuration of each runtime.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// The configuration of each ring.
    #[must_use]
    pub fn uring(mut self, uring: UringConfig) -> Self {
        self.uring = uring;
        self
    }

    /// How long tasks may go on after the stop; by default not at all.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Starts the threads and waits until each has its runtime.
    ///
    /// # Errors
    /// [`CoresError`] when one of them cannot be started, or has no ring. Then none is left.
    pub fn start(self) -> Result<Cores, CoresError> {
        let mut cores = match &self.cores {
            Some(cores) => cores.clone(),
            None => affinity::allowed().map_err(|cause| CoresError::Thread { core: 0, cause })?,
        };
        cores.sort_unstable();
        cores.dedup();
        let mut begun = Vec::new();
        for &core in &cores {
            begun.push(Begun::begin(core, &self)?);
        }
        let mut handles = Vec::new();
        for begun in &begun {
            handles.push(begun.ready()?);
        }
        let (stop, stopping) = oneshot::channel();
        let group = Group {
            cores,
            handles,
            stop: Mutex::new(Some(stop)),
            stopping: stopping.shared(),
        };
        let peers = Peers {
            group: Arc::new(group),
        };
        let threads = begun.into_iter().map(|begun| begun.go(&peers)).collect();
        Ok(Cores { peers, threads })
    }
}

/// A thread that makes its runtime and then waits for the peers. Without them it ends, which the
/// drop waits for.
struct Begun {
    core: usize,
    ready: mpsc::Receiver<Result<Handle, CoresError>>,
    peers: Option<mpsc::Sender<Peers>>,
    thread: Option<thread::JoinHandle<Metrics>>,
}

impl Begun {
    fn begin(core: usize, builder: &Builder) -> Result<Self, CoresError> {
        let (tell, ready) = mpsc::channel();
        let (peers, told) = mpsc::channel();
        let own = builder.clone();
        let thread = thread::Builder::new()
            .name(format!("{}{core}", builder.name))
            .spawn(move || run(core, &own, &tell, &told))
            .map_err(|cause| CoresError::Thread { core, cause })?;
        Ok(Self {
            core,
            ready,
            peers: Some(peers),
            thread: Some(thread),
        })
    }

    fn ready(&self) -> Result<Handle, CoresError> {
        let message = "while it made its runtime".to_owned();
        let core = self.core;
        let ready = self.ready.recv();
        ready.unwrap_or(Err(CoresError::Panicked { core, message }))
    }

    fn go(mut self, peers: &Peers) -> (usize, thread::JoinHandle<Metrics>) {
        if let Some(send) = self.peers.take() {
            // It fails if the thread has panicked since; then `join` says so.
            let _panicked = send.send(peers.clone());
        }
        (self.core, self.thread.take().expect("taken here only"))
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        drop(self.peers.take());
        // That it failed was said, or it is a panic and says so itself.
        let _said = self.thread.take().map(thread::JoinHandle::join);
    }
}

/// The life of a core's thread.
fn run(
    core: usize,
    builder: &Builder,
    tell: &mpsc::Sender<Result<Handle, CoresError>>,
    told: &mpsc::Receiver<Peers>,
) -> Metrics {
    let made = make(core, builder);
    let (runtime, ready) = match made {
        Ok(runtime) => {
            let handle = runtime.handle();
            (Some(runtime), Ok(handle))
        }
        Err(error) => (None, Err(error)),
    };
    let starter_waits = tell.send(ready).is_ok();
    let (Some(runtime), true, Ok(peers)) = (runtime, starter_waits, told.recv()) else {
        return Metrics::default();
    };
    let _stops = StopOnPanic(peers.clone());
    HERE.set(Some((core, peers.clone())));
    let metrics = runtime.block_on(async {
        peers.stopping().await;
        yield_now().await; // so that what was handed over before counts
        let last = Instant::now() + builder.grace;
        while runtime::metrics().tasks_alive > 0 && Instant::now() < last {
            sleep(LOOK).await;
        }
        runtime::metrics()
    });
    drop(runtime); // while this is still a core
    HERE.set(None);
    metrics
}

fn make(core: usize, builder: &Builder) -> Result<Runtime, CoresError> {
    if builder.pinned {
        affinity::pin_to(core).map_err(|cause| {
            if cause.kind() == io::ErrorKind::InvalidInput {
                CoresError::Unknown(core)
            } else {
                CoresError::Thread { core, cause }
            }
        })?;
    }
    let reactor = Uring::with_config(&builder.uring);
    let reactor = reactor.map_err(|cause| CoresError::Setup { core, cause })?;
    Ok(Runtime::new(reactor, builder.config.clone()))
}

/// The others are not left waiting for a core that is gone.
struct StopOnPanic(Peers);

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}

impl Cores {
    /// All cores, pinned, with defaults, unless told otherwise.
    pub fn builder() -> Builder {
        Builder {
            cores: None,
            pinned: true,
            name: "core-".to_owned(),
            config: Config::default(),
            uring: UringConfig::default(),
            grace: Duration::ZERO,
        }
    }

    /// The cores as their tasks see them.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Spawns a task on `core`: see [`Peers::spawn_on`].
    ///
    /// # Errors
    /// [`CoresError::Unknown`], [`CoresError::Stopped`].
    pub fn spawn_on<M, F>(&self, core: usize, make: M) -> Result<(), CoresError>
    where
        M: FnOnce() -> F + Send + 'static,
        F: Future<Output = ()> + 'static,
    {
        self.peers.spawn_on(core, make)
    }

    /// Asks all cores to stop: see [`Peers::stop`].
    pub fn stop(&self) {
        self.peers.stop();
    }

    /// Waits until all cores have stopped, for which somebody must ask. Gives each core's counters
    /// as of its end.
    ///
    /// It blocks this thread: do not call it on a core, nor where a runtime has other work.
    ///
    /// # Errors
    /// [`CoresError::Panicked`], of the first core in order whose loop did. All have ended also
    /// then.
    pub fn join(mut self) -> Result<Vec<(usize, Metrics)>, CoresError> {
        self.join_all()
    }

    fn join_all(&mut self) -> Result<Vec<(usize, Metrics)>, CoresError> {
        current::flush(); // if this thread runs a runtime, they are woken by its ring
        let ended: Vec<_> = self
            .threads
            .drain(..)
            .map(|(core, thread)| (core, thread.join()))
            .collect();
        let report = |(core, ended): (usize, thread::Result<Metrics>)| match ended {
            Ok(metrics) => Ok((core, metrics)),
            Err(panic) => {
                let message = message(&*panic);
                Err(CoresError::Panicked { core, message })
            }
        };
        ended.into_iter().map(report).collect()
    }
}

impl Drop for Cores {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.stop();
            if let Err(error) = self.join_all() {
                tracing::error!(%error, "a core ended badly");
            }
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "(no message)".to_owned())
}

impl Peers {
    /// The cores, in order.
    pub fn cores(&self) -> &[usize] {
        &self.group.cores
    }

    /// The handle of one core's runtime; `None` if it is not one of these.
    pub fn handle(&self, core: usize) -> Option<&Handle> {
        let place = self.group.cores.binary_search(&core).ok()?;
        Some(&self.group.handles[place])
    }

    /// Has `core` call `make` and run the future that it returns, as a detached task.
    ///
    /// # Errors
    /// [`CoresError::Unknown`] if it is not one of these cores, [`CoresError::Stopped`] when its
    /// runtime has shut down. Then `make` is dropped here.
    pub fn spawn_on<M, F>(&self, core: usize, make: M) -> Result<(), CoresError>
    where
        M: FnOnce() -> F + Send + 'static,
        F: Future<Output = ()> + 'static,
    {
        let handle = self.handle(core).ok_or(CoresError::Unknown(core))?;
        let handed = handle.spawn_on(make);
        handed.map_err(|_| CoresError::Stopped(core))
    }

    /// Asks all cores to stop. Asking twice is asking once.
    pub fn stop(&self) {
        let mut stop = self
            .group
            .stop
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let asked = stop.take();
        drop(stop);
        drop(asked); // which wakes the cores
    }

    /// Waits until somebody has asked the cores to stop.
    ///
    /// # Cancel safety
    /// Strict.
    pub async fn stopping(&self) {
        // Nothing is ever sent: the end of the channel is the message.
        let Err(_asked) = self.group.stopping.clone().await;
    }
}
