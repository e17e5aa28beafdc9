//! One run: open the sessions, warm up, measure.

use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::{Either, Shared as SharedFuture, join_all, select, try_join_all};
use hdrhistogram::Histogram;
use viewring_runtime::time::{Instant, timeout, timeout_at};
use viewring_runtime::{JoinHandle, spawn};

use super::cpu::{Processes, Used};
use super::driver::{Driver, Shared};
use super::group::Group;
use super::pace::{Pace, Schedule};
use super::workload::Workload;
use crate::exit::Failure;
use crate::meter::Summary;
use crate::output::Live;
use crate::specpaxos::Wire;

/// What a run is told.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) wire: Wire,
    pub(super) clients: u32,
    /// Whether all clients share one socket, or have one each.
    pub(super) shared_socket: bool,
    /// Requests a second of an open loop.
    pub(super) rate: Option<u32>,
    pub(super) warm_up: Duration,
    pub(super) until: Until,
    pub(super) timeout: Duration,
    pub(super) workload: Rc<Workload>,
    /// Whether every single latency is kept.
    pub(super) keep: bool,
    /// Whether to tell each second how it goes.
    pub(super) progress: bool,
}

/// When a run is over.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    Elapsed(Duration),
    Answered(u64),
}

/// What a run found.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) summary: Summary,
    pub(super) elapsed: Duration,
    /// Of latencies, in nanoseconds.
    pub(super) histogram: Histogram<u64>,
    /// By client, if they were to be kept.
    pub(super) latencies: Vec<Vec<u64>>,
    pub(super) errors: u64,
    pub(super) unknown: u64,
    /// Operations that had no answer when all was over.
    pub(super) unanswered: u64,
    /// The longest time in which no client had an answer.
    pub(super) longest_pause: Duration,
    /// Open loop: requests that were due at the end and had not begun.
    pub(super) behind: u64,
    pub(super) cpu: Used,
    /// Who leads, as of the end, and whether somebody else did at the beginning.
    pub(super) primary: Option<u8>,
    pub(super) primary_changed: bool,
    pub(super) ending: Ending,
}

/// Why a run was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It was told to end then.
    Planned,
    /// Somebody pressed ctrl-c.
    Interrupted,
    /// Nobody answers any more.
    Silence,
}

/// Is ready once somebody has asked the program to end.
pub(super) type Asked = SharedFuture<std::pin::Pin<Box<dyn Future<Output = ()>>>>;

/// Runs once.
///
/// # Errors
/// When the group cannot be reached at all, or a client's socket fails.
pub(super) async fn measure(group: &Group, run: &Run, asked: &Asked) -> Result<Measured, Failure> {
    let opening = Box::pin(open(group, run));
    let drivers = match select(asked.clone(), opening).await {
        Either::Left(_) => return Err(Failure::unreachable("ended before it could measure")),
        Either::Right((drivers, _)) => drivers?,
    };
    let processes = Processes::find(group.replicas());
    let leader = group.leader().await;
    let (tell, mut over) = oneshot::channel();
    let pace = match run.rate {
        None => Pace::Closed,
        Some(rate) => Pace::Open(Schedule::new(Instant::now(), rate)),
    };
    let enough = match run.until {
        Until::Elapsed(_) => None,
        Until::Answered(count) => Some(count),
    };
    let kept = run.keep.then(|| vec![Vec::new(); run.clients as usize]);
    let shared = Rc::new(Shared::new(pace, enough, kept, tell));
    let start = |driver: Driver| spawn(driver.run(Rc::clone(&shared)));
    let mut tasks = Tasks(drivers.into_iter().map(start).collect());
    let warm_up = timeout(run.warm_up, select(asked.clone(), &mut over)).await;
    if let Ok(Either::Right((over, _))) = warm_up {
        told(over)?;
    }
    let before = processes.used();
    shared.begin();
    let ending = if asked.peek().is_some() {
        Ending::Interrupted
    } else {
        wait(run, asked, &shared, &mut over).await?
    };
    shared.end();
    let behind = shared.pace.behind(Instant::now());
    let cpu = processes.used().since(&before);
    shared.stop();
    tasks.end().await;
    let unanswered = shared.waiting.get();
    let (leader_before, leader) = (leader, group.leader().await);
    let kept = shared.kept.as_ref().map(|kept| kept.take());
    let meter = shared.meter.borrow();
    Ok(Measured {
        summary: meter.summary(),
        elapsed: meter.elapsed(),
        histogram: meter.histogram().clone(),
        latencies: kept.unwrap_or_default(),
        errors: shared.errors.get(),
        unknown: shared.unknown.get(),
        unanswered,
        longest_pause: meter.longest_pause(),
        behind,
        cpu,
        primary: leader.map(|(_, primary)| primary),
        primary_changed: leader_before != leader,
        ending,
    })
}

/// The clients at work. Dropping it ends them.
struct Tasks(Vec<JoinHandle<()>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.drain(..).for_each(JoinHandle::abort);
    }
}

impl Tasks {
    /// Waits for them to end, but not for long: who waits for a group that is silent is dropped.
    async fn end(&mut self) {
        // One that is late to end has nothing to say.
        let _late = timeout(FAREWELL, join_all(&mut self.0)).await.is_err();
    }
}

/// How long clients may take to end: longer than a view change takes.
const FAREWELL: Duration = Duration::from_secs(1);

/// Waits until the run is over, and tells each second how it goes.
async fn wait(
    run: &Run,
    asked: &Asked,
    shared: &Shared,
    over: &mut oneshot::Receiver<Result<(), Failure>>,
) -> Result<Ending, Failure> {
    let began = Instant::now();
    let end = match run.until {
        Until::Elapsed(duration) => began + duration,
        Until::Answered(_) => Instant::from_nanos(u64::MAX),
    };
    let patience = SILENCE.max(run.timeout * 2);
    let (mut ops, mut heard_at) = (0, began);
    let mut lap_at = began;
    loop {
        lap_at = (lap_at + Duration::from_secs(1)).min(end);
        let ended = timeout_at(lap_at, select(asked.clone(), &mut *over)).await;
        let now = Instant::now();
        let (lap, ops_now) = {
            let mut meter = shared.meter.borrow_mut();
            (meter.lap(), meter.ops())
        };
        if run.progress {
            Live::Stderr.line(lap)?;
        }
        match ended {
            Ok(Either::Left(_)) => return Ok(Ending::Interrupted),
            Ok(Either::Right((how, _))) => return told(how).map(|()| Ending::Planned),
            Err(_) if now >= end => return Ok(Ending::Planned),
            Err(_) => {}
        }
        if ops_now > ops {
            (ops, heard_at) = (ops_now, now);
        } else if matches!(run.until, Until::Answered(_)) && now - heard_at > patience {
            return Ok(Ending::Silence);
        }
    }
}

fn told(how: Result<Result<(), Failure>, oneshot::Canceled>) -> Result<(), Failure> {
    how.unwrap_or_else(|oneshot::Canceled| Err(Failure::setup("a client has gone")))
}

/// A run for a number of answers is given up when none has come for so long, at least.
const SILENCE: Duration = Duration::from_secs(10);
/// Opens all clients, and puts what will be read.
async fn open(group: &Group, run: &Run) -> Result<Vec<Driver>, Failure> {
    let callers = group.callers(run).await?.into_iter().enumerate();
    let driver = |(index, caller)| Driver {
        index,
        caller,
        workload: Rc::clone(&run.workload),
    };
    let mut drivers: Vec<Driver> = callers.map(driver).collect();
    let count = drivers.len();
    try_join_all(drivers.iter_mut().map(|driver| driver.prepare(count))).await?;
    Ok(drivers)
}
