//! What the clients of the demo do, and what they remember of it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::rc::Rc;
use std::time::Duration;

use viewring::kv::{Operation, Outcome};
use viewring::{CallError, Client, Session};
use viewring_runtime::time::{Instant, timeout};

use super::audit::{AUDITOR, stamp};
use super::judge::{History, KeyHistory, number_of};
use crate::exit::Failure;
use crate::meter::{Meter, Summary};

/// What the workers share.
pub(super) struct Shared {
    pub(super) meter: RefCell<Meter>,
    last_answer: Cell<Instant>,
    longest_gap: Cell<Duration>,
    stopped: Cell<bool>,
}

impl Shared {
    pub(super) fn new(meter: Meter) -> Self {
        Self {
            meter: RefCell::new(meter),
            last_answer: Cell::new(Instant::now()),
            longest_gap: Cell::default(),
            stopped: Cell::new(false),
        }
    }

    /// Nobody begins another operation. What was measured, and the longest time without an answer.
    pub(super) fn stop(&self) -> (Summary, Duration) {
        self.note_gap();
        self.stopped.set(true);
        (self.meter.borrow().summary(), self.longest_gap.get())
    }

    fn answered(&self, latency: Duration) {
        if !self.stopped.get() {
            self.note_gap();
            self.meter.borrow_mut().record(latency);
        }
    }

    fn note_gap(&self) {
        let now = Instant::now();
        let gap = now - self.last_answer.replace(now);
        self.longest_gap.set(self.longest_gap.get().max(gap));
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

/// How many keys each worker has.
const KEYS: u64 = 16;

/// What a worker does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Put,
    Get,
    Swap,
}

impl Action {
    /// Every eighth is a get, every eighth a swap; shifted, so that each key sees all of them.
    fn nth(number: u64) -> Self {
        match (number + number / KEYS) % 8 {
            3 => Self::Get,
            7 => Self::Swap,
            _ => Self::Put,
        }
    }
}

impl Worker {
    pub(super) fn new(tag: u32, session: Session, shared: Rc<Shared>) -> Self {
        let keys = (0..KEYS)
            .map(|index| format!("{tag}/{index}").into_bytes())
            .collect();
        let history = Rc::new(RefCell::new(History {
            tag,
            ..History::default()
        }));
        Self {
            tag,
            session,
            shared,
            history,
            keys,
            stamped: Vec::new(),
        }
    }

    /// What it has done; to be looked at when it has ended, or will not end.
    pub(super) fn history(&self) -> Rc<RefCell<History>> {
        Rc::clone(&self.history)
    }

    /// Works until all are told to stop, or the session cannot be used any more.
    pub(super) async fn run(mut self) {
        for number in 1.. {
            if self.shared.stopped.get() {
                break;
            }
            let began = Instant::now();
            if let Err(error) = self.step(number).await {
                tracing::warn!(worker = self.tag, "a worker gives up: {error}");
                break;
            }
            self.shared.answered(began.elapsed());
        }
    }

    /// One operation, until it is answered.
    async fn step(&mut self, number: u64) -> Result<(), CallError> {
        let key = &self.keys[(number % KEYS) as usize];
        let before = self
            .history
            .borrow()
            .keys
            .get(key)
            .and_then(KeyHistory::last);
        let expected = before.map(|number| number.to_string().into_bytes());
        let (action, value) = (Action::nth(number), number.to_string());
        let operation = match action {
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
        if action != Action::Get {
            self.history
                .borrow_mut()
                .keys
                .entry(key.clone())
                .or_default()
                .attempted = number;
        }
        let reply = call(&mut self.session, &self.stamped, number).await?;
        let key = &self.keys[(number % KEYS) as usize];
        note(
            &mut self.history.borrow_mut(),
            key,
            number,
            action,
            Outcome::decode(&reply),
        );
        Ok(())
    }
}

impl KeyHistory {
    /// The last acknowledged write.
    fn last(&self) -> Option<u64> {
        self.acknowledged.last().copied()
    }
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
fn note(
    history: &mut History,
    key: &[u8],
    number: u64,
    action: Action,
    outcome: Option<Outcome<'_>>,
) {
    let writes = history.keys.entry(key.to_vec()).or_default();
    let held = match (action, outcome) {
        (Action::Put, Some(Outcome::Stored)) | (Action::Swap, Some(Outcome::Swapped)) => {
            writes.acknowledged.push(number);
            return;
        }
        (Action::Get, Some(Outcome::Value(held)))
        | (Action::Swap, Some(Outcome::NotSwapped(held))) => held.and_then(number_of),
        // An answer to another question: the write before it cannot be trusted either.
        (Action::Put | Action::Get | Action::Swap, _) => None,
    };
    history.missed.extend(writes.contradicted_by(held));
    if action == Action::Swap && held == Some(number) {
        // It has swapped, and was then tried once more: the ledger tells of that.
        writes.acknowledged.push(number);
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
    use super::*;

    #[test]
    fn every_key_is_put_got_and_swapped() {
        for key in 0..KEYS {
            for action in [Action::Put, Action::Get, Action::Swap] {
                let hits = (1..=KEYS * 64).filter(|n| n % KEYS == key && Action::nth(*n) == action);
                assert!(hits.count() >= 7, "key {key}, {action:?}");
            }
        }
    }

    fn after(action: Action, outcome: Outcome<'_>) -> (Vec<u64>, Vec<u64>) {
        let writes = KeyHistory {
            acknowledged: vec![1, 2],
            attempted: 3,
        };
        let mut history = History {
            keys: [(b"k".to_vec(), writes)].into(),
            ..History::default()
        };
        note(&mut history, b"k", 3, action, Some(outcome));
        let writes = history.keys.remove(&b"k"[..]).expect("it is there");
        (writes.acknowledged, history.missed.into_iter().collect())
    }

    #[test]
    fn a_write_counts_when_it_is_acknowledged() {
        assert_eq!(after(Action::Put, Outcome::Stored), (vec![1, 2, 3], vec![]));
        assert_eq!(
            after(Action::Swap, Outcome::Swapped),
            (vec![1, 2, 3], vec![])
        );
    }

    #[test]
    fn an_answer_that_does_not_know_a_write_is_remembered() {
        assert_eq!(
            after(Action::Get, Outcome::Value(Some(b"2"))),
            (vec![1, 2], vec![])
        );
        assert_eq!(
            after(Action::Get, Outcome::Value(Some(b"1"))),
            (vec![1, 2], vec![2])
        );
        assert_eq!(
            after(Action::Get, Outcome::Value(None)),
            (vec![1, 2], vec![1, 2])
        );
        assert_eq!(
            after(Action::Swap, Outcome::NotSwapped(Some(b"1"))),
            (vec![1, 2], vec![2])
        );
        assert_eq!(
            after(Action::Put, Outcome::Invalid),
            (vec![1, 2], vec![1, 2])
        );
        // It swapped and was tried again.
        assert_eq!(
            after(Action::Swap, Outcome::NotSwapped(Some(b"3"))),
            (vec![1, 2, 3], vec![])
        );
    }
}
