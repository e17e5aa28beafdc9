//! What the clients of the demo do, and what they remember of it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;
use viewring::kv::{Operation, Outcome};
use viewring::{CallError, Client, Session};
use viewring_runtime::JoinHandle;
use viewring_runtime::time::{Instant, timeout, timeout_at};

use super::audit::{AUDITOR, stamp};
use super::judge::{History, number_of};
use super::plan::{self, Action};
use crate::exit::Failure;
use crate::meter::{Meter, Summary};

/// What the workers share.
pub(super) struct Shared {
    pub(super) meter: RefCell<Meter>,
    stopped: Cell<bool>,
}

impl Shared {
    pub(super) fn new(meter: Meter) -> Self {
        Self {
            meter: RefCell::new(meter),
            stopped: Cell::new(false),
        }
    }

    /// Nobody begins another operation. What was measured, and the longest time without an answer.
    pub(super) fn stop(&self) -> (Summary, Duration) {
        self.stopped.set(true);
        let mut meter = self.meter.borrow_mut();
        meter.stop();
        (meter.summary(), meter.longest_pause())
    }

    fn answered(&self, began: Instant) {
        if !self.stopped.get() {
            self.meter.borrow_mut().answered(began);
        }
    }
}

/// One client: writes to keys of its own, mostly; and reads, and swaps.
pub(super) struct Worker {
    tag: u32,
    session: Session,
    shared: Rc<Shared>,
    history: Rc<RefCell<History>>,
    keys: Vec<Vec<u8>>,
    stamped: Vec<u8>,
}

impl Worker {
    pub(super) fn new(tag: u32, session: Session, shared: Rc<Shared>) -> Self {
        let keys = (0..plan::KEYS).map(|key| plan::key_bytes(tag, key));
        let history = Rc::new(RefCell::new(History::new(tag)));
        Self {
            tag,
            session,
            shared,
            history,
            keys: keys.collect(),
            stamped: Vec::new(),
        }
    }

    /// What it has done; to be looked at when it has ended, or will not end.
    pub(super) fn history(&self) -> Rc<RefCell<History>> {
        Rc::clone(&self.history)
    }

    /// Works until all are told to stop, and does one operation at least.
    ///
    /// # Errors
    /// When the session cannot be used any more.
    pub(super) async fn run(mut self) -> Result<(), CallError> {
        for number in 1.. {
            let began = Instant::now();
            if let Err(error) = self.step(number).await {
                tracing::warn!(worker = self.tag, "a worker gives up: {error}");
                return Err(error);
            }
            self.shared.answered(began);
            if self.shared.stopped.get() {
                break;
            }
        }
        Ok(())
    }

    /// One operation, until it is answered.
    async fn step(&mut self, number: u64) -> Result<(), CallError> {
        let before = self.history.borrow().last_write_before(number);
        let expected = before.map(|number| number.to_string().into_bytes());
        let (key, value) = (
            &self.keys[plan::key_of(number) as usize],
            number.to_string(),
        );
        let operation = match Action::nth(number) {
            Action::Put => Operation::Put {
                key,
                value: value.as_bytes(),
            },
            Action::Get => Operation::Get { key },
            Action::Swap => Operation::CompareAndSwap {
                key,
                expected: expected.as_deref(),
                new: value.as_bytes(),
            },
        };
        stamp(self.tag, number, operation, &mut self.stamped);
        self.history.borrow_mut().begin(number);
        let reply = call(&mut self.session, &self.stamped, number).await?;
        note(
            &mut self.history.borrow_mut(),
            number,
            Outcome::decode(&reply),
        );
        Ok(())
    }
}

/// Clients that gave up, or were given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Forsaken {
    /// The group did not know them any more, or they could not ask it.
    pub(super) sessions_lost: u64,
    /// They never had an answer to their last operation.
    pub(super) wedged: u64,
}

impl Forsaken {
    pub(super) fn is_nobody(&self) -> bool {
        *self == Self::default()
    }
}

/// Waits for all workers, which were told to stop, but no longer than until then.
///
/// # Panics
/// When a worker has.
pub(super) async fn end(
    workers: Vec<JoinHandle<Result<(), CallError>>>,
    give_up_at: Instant,
) -> Forsaken {
    let mut forsaken = Forsaken::default();
    for mut worker in workers {
        match timeout_at(give_up_at, &mut worker).await {
            Ok(ended) => {
                let is_lost = ended.expect("a worker does not panic").is_err();
                forsaken.sessions_lost += u64::from(is_lost);
            }
            Err(_elapsed) => {
                // One that had no answer until then has none: its operation is unknown.
                worker.abort();
                forsaken.wedged += 1;
            }
        }
    }
    forsaken
}

/// One call in so many is asked for once more at once.
const IMPATIENT_EVERY: u64 = 61;
/// How long such a call waits for its answer before that.
const IMPATIENCE: Duration = Duration::from_micros(50);

/// Calls, and asks again until there is an answer. Some calls are asked for twice in any case: the
/// group sees the same request again, and had better notice.
async fn call(session: &mut Session, operation: &[u8], number: u64) -> Result<Rc<[u8]>, CallError> {
    let mut reply = if number.is_multiple_of(IMPATIENT_EVERY) {
        match timeout(IMPATIENCE, session.call(operation)).await {
            Ok(reply) => reply,
            Err(_elapsed) => session.settle().await,
        }
    } else {
        session.call(operation).await
    };
    while let Err(CallError::Unknown { .. }) = reply {
        reply = session.settle().await;
    }
    reply
}

/// Writes down what the answer to operation `number` tells of its key.
fn note(history: &mut History, number: u64, outcome: Option<Outcome<'_>>) {
    let (action, key) = (Action::nth(number), plan::key_of(number));
    let held = match (action, outcome) {
        (Action::Put, Some(Outcome::Stored)) | (Action::Swap, Some(Outcome::Swapped)) => {
            history.acknowledge(number);
            return;
        }
        (Action::Get, Some(Outcome::Value(held))) => {
            history.acknowledge(number);
            held.and_then(number_of)
        }
        (Action::Swap, Some(Outcome::NotSwapped(held))) => held.and_then(number_of),
        // An answer to another question: the write before it cannot be trusted either.
        (Action::Put | Action::Get | Action::Swap, _) => None,
    };
    history.look(key, held);
    if action == Action::Swap && held == Some(number) {
        // It has swapped, and was then tried once more: the ledger tells of that.
        history.acknowledge(number);
    }
}

/// What all keys hold, read through the group.
pub(super) async fn read_back(client: &Client) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Failure> {
    let unreachable = |error: CallError| {
        Failure::unreachable(format_args!("the writes cannot be read back: {error}"))
    };
    let mut session = client.session().await.map_err(unreachable)?;
    let (mut held, mut stamped) = (BTreeMap::new(), Vec::new());
    let mut after: Option<Vec<u8>> = None;
    loop {
        let scan = Operation::Scan {
            prefix: b"",
            after: after.as_deref(),
            limit: NonZeroU16::MAX,
        };
        stamp(AUDITOR, 0, scan, &mut stamped);
        let reply = session.call(&stamped).await.map_err(unreachable)?;
        let Some(Outcome::Page { entries, more }) = Outcome::decode(&reply) else {
            return Err(Failure::unreachable(
                "the writes cannot be read back: a wrong answer",
            ));
        };
        held.extend(
            entries
                .iter()
                .map(|(key, value)| (key.to_vec(), value.to_vec())),
        );
        after = entries.last().map(|(key, _)| key.to_vec());
        if !more || after.is_none() {
            return Ok(held);
        }
    }
}

#[cfg(test)]
mod tests {
    use viewring_runtime::spawn;

    use super::*;

    /// Everything before operation `number` is acknowledged, and that has begun.
    fn begun(number: u64) -> History {
        let mut history = History::new(0);
        for earlier in 1..number {
            history.begin(earlier);
            history.acknowledge(earlier);
        }
        history.begin(number);
        history
    }

    /// That, and then it was answered.
    fn after(number: u64, outcome: Outcome<'_>) -> History {
        let mut history = begun(number);
        note(&mut history, number, Some(outcome));
        history
    }

    /// That, and then it was seen what its key holds, if anything was; and it was acknowledged, or
    /// not.
    fn expected(number: u64, acknowledged: bool, seen: Option<Option<u64>>) -> History {
        let mut history = begun(number);
        if let Some(held) = seen {
            history.look(plan::key_of(number), held);
        }
        if acknowledged {
            history.acknowledge(number);
        }
        history
    }

    #[test]
    fn clients_that_end_too_early_or_never_are_counted() {
        viewring_runtime::block_on(async {
            let mut workers = vec![spawn(std::future::ready(Ok(())))];
            for error in [CallError::SessionLost, CallError::SessionEvicted] {
                workers.push(spawn(std::future::ready(Err(error))));
            }
            workers.push(spawn(std::future::pending()));
            workers.push(spawn(std::future::ready(Ok(()))));
            let forsaken = end(workers, Instant::now() + Duration::from_millis(20)).await;
            let expected = Forsaken {
                sessions_lost: 2,
                wedged: 1,
            };
            assert_eq!(forsaken, expected);
            assert!(!forsaken.is_nobody() && Forsaken::default().is_nobody());
        })
        .expect("io_uring");
    }

    // Key 1 is put by 1, 17, 49, 65 and 81, got by 33, swapped by 97.

    #[test]
    fn a_write_counts_when_it_is_acknowledged() {
        assert_eq!(after(81, Outcome::Stored), expected(81, true, None));
        assert_eq!(after(97, Outcome::Swapped), expected(97, true, None));
        assert_ne!(after(97, Outcome::Swapped), expected(97, false, None));
    }

    #[test]
    fn an_answer_that_does_not_know_a_write_is_remembered() {
        let get = |held: Option<&[u8]>| after(33, Outcome::Value(held));
        assert_eq!(get(Some(b"17")), expected(33, true, None));
        assert_eq!(get(Some(b"1")), expected(33, true, Some(Some(1))));
        assert_ne!(get(Some(b"1")), expected(33, true, None));
        assert_eq!(get(None), expected(33, true, Some(None)));
        let swap = |held: Option<&[u8]>| after(97, Outcome::NotSwapped(held));
        assert_eq!(swap(Some(b"81")), expected(97, false, None));
        assert_eq!(swap(Some(b"65")), expected(97, false, Some(Some(65))));
        assert_ne!(swap(Some(b"65")), expected(97, false, None));
        assert_eq!(after(81, Outcome::Invalid), expected(81, false, Some(None)));
        assert_ne!(after(81, Outcome::Invalid), expected(81, false, None));
        // It swapped and was tried again.
        assert_eq!(swap(Some(b"97")), expected(97, true, None));
    }
}
