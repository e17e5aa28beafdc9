//! One client: calls, waits for the answer, and calls again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::Shared as SharedFuture;
use viewring_runtime::sim::Random;
use viewring_runtime::time::Instant;

use super::caller::Caller;
use super::pace::Pace;
use super::workload::Workload;
use crate::exit::Failure;
use crate::meter::Meter;

/// What the clients of a run share.
pub(super) struct Shared {
    pub(super) pace: Pace,
    pub(super) meter: RefCell<Meter>,
    /// Latencies by client, in nanoseconds, in the order of the answers; if they are to be kept.
    pub(super) kept: Option<RefCell<Vec<Vec<u64>>>>,
    /// Answers that were none to what was asked, and sessions that were lost.
    pub(super) errors: Cell<u64>,
    /// Operations without an answer in time.
    pub(super) unknown: Cell<u64>,
    /// Operations that wait for an answer.
    pub(super) waiting: Cell<u64>,
    measuring: Cell<bool>,
    /// After how many answers it is over.
    enough: Option<u64>,
    /// Is told when it is over, and why if it makes no sense to go on.
    over: Cell<Option<oneshot::Sender<Result<(), Failure>>>>,
    /// Whether clients are to end.
    stopping: Cell<bool>,
    /// Dropped when they are: wakes those that wait for their next call.
    running: Cell<Option<oneshot::Sender<()>>>,
    stopped: SharedFuture<oneshot::Receiver<()>>,
}

impl Shared {
    /// `over` hears of the answer number `enough`, or of a failure.
    pub(super) fn new(
        pace: Pace,
        enough: Option<u64>,
        kept: Option<Vec<Vec<u64>>>,
        over: oneshot::Sender<Result<(), Failure>>,
    ) -> Self {
        let (running, stopped) = oneshot::channel();
        Self {
            pace,
            meter: RefCell::new(Meter::new()),
            kept: kept.map(RefCell::new),
            errors: Cell::new(0),
            unknown: Cell::new(0),
            waiting: Cell::new(0),
            measuring: Cell::new(false),
            enough,
            over: Cell::new(Some(over)),
            stopping: Cell::new(false),
            running: Cell::new(Some(running)),
            stopped: stopped.shared(),
        }
    }

    /// What happens from now on counts.
    pub(super) fn begin(&self) {
        self.meter.borrow_mut().restart();
        self.errors.set(0);
        self.unknown.set(0);
        self.measuring.set(true);
    }

    /// What happens from now on does not count.
    pub(super) fn end(&self) {
        if self.measuring.replace(false) {
            self.meter.borrow_mut().stop();
        }
    }

    /// Has clients end once they have the answer that they wait for.
    pub(super) fn stop(&self) {
        self.stopping.set(true);
        drop(self.running.take());
    }

    fn answered(&self, client: usize, due: Instant) {
        if !self.measuring.get() {
            return;
        }
        let mut meter = self.meter.borrow_mut();
        let latency = meter.answered(due);
        if let Some(kept) = &self.kept {
            let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
            kept.borrow_mut()[client].push(ns);
        }
        if self.enough == Some(meter.ops()) {
            drop(meter);
            self.end();
            self.tell(Ok(()));
        }
    }

    fn tell(&self, how: Result<(), Failure>) {
        if let Some(over) = self.over.take() {
            // Whoever listened may have ended for another reason.
            let _nobody_listens = over.send(how).is_err();
        }
    }
}

/// One client of a run.
pub(super) struct Driver {
    pub(super) index: usize,
    pub(super) caller: Caller,
    pub(super) workload: Rc<Workload>,
}

impl Driver {
    /// Puts this client's share of the keys that will be read.
    pub(super) async fn prepare(&mut self, clients: usize) -> Result<(), Failure> {
        let mut operation = Vec::new();
        for key in self.workload.share(self.index, clients) {
            self.workload.put(key, &mut operation);
            let answer = self.caller.call(&operation, &Cell::default()).await?;
            if answer.is_some_and(|answer| !self.workload.is_answer(&operation, &answer)) {
                return Err(Failure::usage(
                    "the group does not run the key-value store: use --op null",
                ));
            }
        }
        Ok(())
    }

    /// Calls and calls, until it is told to end or that makes no sense any more.
    pub(super) async fn run(mut self, shared: Rc<Shared>) {
        match self.calls(&shared).await {
            Ok(()) => self.caller.close().await,
            Err(failure) => shared.tell(Err(failure)),
        }
    }

    async fn calls(&mut self, shared: &Shared) -> Result<(), Failure> {
        let mut random = Random::new(SEED).fork(self.index as u64);
        let mut operation = Vec::new();
        while !shared.stopping.get() {
            let Some(due) = shared.pace.next(&shared.stopped).await else {
                break;
            };
            self.workload.next(&mut random, &mut operation);
            shared.waiting.update(|waiting| waiting + 1);
            let answer = if self.workload.is_read(&operation) {
                let consistency = self.workload.consistency;
                self.caller
                    .read(&operation, consistency, &shared.unknown)
                    .await?
            } else {
                self.caller.call(&operation, &shared.unknown).await?
            };
            shared.waiting.update(|waiting| waiting - 1);
            if answer.is_some_and(|answer| self.workload.is_answer(&operation, &answer)) {
                shared.answered(self.index, due);
            } else {
                shared.errors.set(shared.errors.get() + 1);
            }
        }
        Ok(())
    }
}

/// Every run asks for the same keys.
const SEED: u64 = 1;
