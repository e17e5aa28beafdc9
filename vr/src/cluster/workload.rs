//! Clients of a simulated group that read, write and swap a few keys, and write down what they were
//! told.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use viewring_protocol::ReadConsistency;
use viewring_runtime::sim::Random;
use viewring_runtime::time::sleep;

use super::checker::Checker;
use super::history::{History, Pending};
use super::linearizability::Act;
use super::sometimes::Mark;
use crate::client::{CallError, Client, Session};
use crate::kv::{Operation, Outcome};

/// How the clients of one run behave.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Few keys: many conflicts.
    pub keys: u8,
    /// How many calls each client makes before it is told to finish.
    pub calls: u32,
    /// How many more it makes then: those that a healed group must answer.
    pub last_calls: u32,
    /// The mean pause between two calls.
    pub pause: Duration,
    /// The probability that there is none.
    pub bursts: f64,
    /// Values are padded to this length; a long one does not fit into one datagram.
    pub value_bytes: usize,
    /// How it reads.
    pub reads: Reads,
    /// Nothing is called, but reads.
    pub only_reads: bool,
}

/// How clients read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// A read is an operation like any other.
    Operations,
    /// Reads are all of one kind.
    All(ReadConsistency),
    /// Each is of another kind, or an operation.
    Mixed,
}

impl Workload {
    /// A workload as `random` decides, for so long.
    pub fn draw(random: &mut Random, span: Duration) -> Self {
        let long = random.chance(0.2);
        let calls = random.between(5..=120) as u32;
        let bursts = if random.chance(0.5) {
            random.unit()
        } else {
            0.0
        };
        Self {
            keys: random.between(1..=5) as u8,
            calls,
            last_calls: 5,
            pause: span.div_f64(f64::from(calls) * (1.0 - bursts).max(0.05)),
            bursts,
            value_bytes: if long {
                random.between(1_000..=8_000) as usize
            } else {
                8
            },
            reads: Reads::Mixed,
            only_reads: false,
        }
    }

    /// The workload of a client that does nothing but read, at a pace and in a way of its own,
    /// until it is told to finish.
    pub(super) fn of_reader(others: &Self, random: &mut Random) -> Self {
        let how = [ReadConsistency::Lease, ReadConsistency::ReadIndex];
        Self {
            calls: u32::MAX,
            pause: Duration::from_millis(random.between(3..=50)),
            bursts: 0.0,
            reads: Reads::All(how[random.index(how.len())]),
            only_reads: true,
            ..others.clone()
        }
    }
}

/// What the clients of a run share with the one who watches.
#[derive(Debug, Default)]
pub struct Book {
    /// What was asked and told.
    pub history: History,
    /// How many calls may be made before the last ones; None: as many as the workload has.
    pub permits: Option<u32>,
    /// Clients that are done with their first calls.
    pub paused: usize,
    /// The last calls may be made.
    pub finish: bool,
    /// Clients that are done.
    pub finished: usize,
    /// Calls that were answered.
    pub answers: u64,
}

/// One client, from its beginning to its last call.
pub(super) struct Caller<C> {
    pub(super) client: C,
    pub(super) workload: Workload,
    pub(super) random: Random,
    pub(super) book: Rc<RefCell<Book>>,
    pub(super) checker: Rc<RefCell<Checker>>,
}

/// The probability that two reads are under way together.
const ABREAST: f64 = 0.2;

/// Waits for both.
async fn both(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let (mut is_done, mut is_other_done) = (false, false);
    poll_fn(|cx| {
        is_done = is_done || one.as_mut().poll(cx).is_ready();
        is_other_done = is_other_done || other.as_mut().poll(cx).is_ready();
        if is_done && is_other_done {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

enum Step {
    Answered,
    /// The session is gone; whether its last call was executed is not known.
    Lost,
}

impl Caller<Client> {
    pub(super) async fn run(mut self) {
        let mut session = self.register().await;
        for _ in 0..self.workload.calls {
            if self.book.borrow().finish {
                break;
            }
            self.pause().await;
            if let Step::Lost = self.step(&mut session).await {
                session = self.register().await;
            }
        }
        self.book.borrow_mut().paused += 1;
        while !self.book.borrow().finish {
            sleep(Duration::from_millis(50)).await;
        }
        for _ in 0..self.workload.last_calls {
            while let Step::Lost = self.step(&mut session).await {
                session = self.register().await;
            }
        }
        self.book.borrow_mut().finished += 1;
    }

    async fn register(&mut self) -> Session {
        loop {
            // A registration whose outcome is unknown is abandoned: it changes no data.
            if let Ok(session) = self.client.session().await {
                return session;
            }
        }
    }

    /// One call or read, asked again until it is answered.
    async fn step(&mut self, session: &mut Session) -> Step {
        let Some(registration) = session.registration() else {
            return Step::Lost;
        };
        let client = (session.id(), registration);
        let key = self.random.below(u64::from(self.workload.keys)) as u8;
        let act = self.choose();
        if let (Act::Read(_), Some(consistency)) = (act, self.consistency()) {
            if self.random.chance(ABREAST) {
                let other = self.random.below(u64::from(self.workload.keys)) as u8;
                both(self.read(key, consistency), self.read(other, consistency)).await;
            } else {
                self.read(key, consistency).await;
            }
            return Step::Answered;
        }
        let pending = self.book.borrow_mut().history.call(key, act);
        let operation = encode(key, act, self.workload.value_bytes);
        let number = session.number();
        let mut answer = session.call(&operation).await;
        let mut was_executed = false;
        while let Err(CallError::Unknown { .. }) = answer {
            was_executed |= self.wonder(client, number);
            answer = session.settle().await;
        }
        match answer {
            Ok(result) => {
                self.acknowledged((client, number), &operation, &result, was_executed);
                self.told(pending, act, &result);
                Step::Answered
            }
            Err(CallError::SessionLost | CallError::SessionEvicted) => Step::Lost,
            Err(error) => panic!("a call failed: {error}"),
        }
    }

    /// How fresh a read must be; None: it is an operation.
    fn consistency(&mut self) -> Option<ReadConsistency> {
        match self.workload.reads {
            Reads::Operations => return None,
            Reads::All(consistency) => return Some(consistency),
            Reads::Mixed => {}
        }
        match self.random.below(8) {
            0 => None,
            1 => Some(ReadConsistency::Log),
            2..5 => Some(ReadConsistency::ReadIndex),
            5..7 => Some(ReadConsistency::Lease),
            _ => Some(ReadConsistency::Local),
        }
    }

    /// A read, asked again until it is answered.
    async fn read(&self, key: u8, consistency: ReadConsistency) {
        let query = encode(key, Act::Read(None), self.workload.value_bytes);
        let is_local = consistency == ReadConsistency::Local;
        // What is acknowledged by now a linearizable read must see.
        let acknowledged = self.checker.borrow().acknowledged_op();
        let history = |book: &Rc<RefCell<Book>>| {
            let history = &mut book.borrow_mut().history;
            (!is_local).then(|| history.call(key, Act::Read(None)))
        };
        let pending = history(&self.book);
        let reading = loop {
            match self.client.query(&query, consistency).await {
                Ok(reading) => break reading,
                Err(CallError::NoAnswer) => {}
                Err(error) => panic!("a read failed: {error}"),
            }
        };
        assert_eq!(reading.stale, is_local, "{consistency:?}");
        let Some(Outcome::Value(value)) = Outcome::decode(&reading.result) else {
            panic!("a read was answered with {:?}", reading.result);
        };
        let mut checker = self.checker.borrow_mut();
        checker.read(&[key], value, reading.as_of);
        match pending {
            Some(pending) => {
                checker.is_fresh(reading.as_of, acknowledged, consistency);
                self.book
                    .borrow_mut()
                    .history
                    .read(pending, value.map(number_of));
            }
            None if reading.as_of < acknowledged => checker.marks.hit(Mark::LocalReadBehind),
            None => {}
        }
    }

    /// The outcome of a call is unknown. Whether it was executed.
    fn wonder(&self, client: (u64, u64), number: u64) -> bool {
        let mut checker = self.checker.borrow_mut();
        checker.marks.hit(Mark::OutcomeUnknown);
        checker.was_executed(client, number)
    }

    fn acknowledged(
        &self,
        (client, number): ((u64, u64), u64),
        operation: &[u8],
        result: &[u8],
        again: bool,
    ) {
        self.book.borrow_mut().answers += 1;
        let mut checker = self.checker.borrow_mut();
        checker.acknowledged(client, number, operation, result);
        if again {
            checker.marks.hit(Mark::AnsweredAgain);
        }
    }
}

impl<C> Caller<C> {
    /// Waits before the next call, for as long as it likes and until it may.
    pub(super) async fn pause(&mut self) {
        if !self.random.chance(self.workload.bursts) {
            let pause = self.random.exponential(self.workload.pause);
            sleep(pause.min(PAUSE_MAX)).await;
        }
        while !self.may_call() {
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Takes a permit, if they are limited and the last calls have not begun.
    fn may_call(&self) -> bool {
        let mut book = self.book.borrow_mut();
        match &mut book.permits {
            Some(0) => book.finish,
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }

    /// Chooses what to do.
    fn choose(&mut self) -> Act {
        let history = &mut self.book.borrow_mut().history;
        match self.random.below(20) {
            _ if self.workload.only_reads => Act::Read(None),
            0..8 => Act::Write(Some(history.new_value())),
            8..9 => Act::Write(None),
            9..16 => Act::Read(None),
            _ => Act::CompareAndSwap {
                // Often the value of a moment ago, so that some succeed.
                expected: Some(history.recent_value(&mut self.random)),
                new: Some(history.new_value()),
                swapped: None,
            },
        }
    }

    /// Chooses what to do with `key`, and writes down that it was asked.
    pub(super) fn call(&mut self, key: u8) -> (Act, Pending) {
        let act = self.choose();
        (act, self.book.borrow_mut().history.call(key, act))
    }

    pub(super) fn told(&self, pending: Pending, act: Act, result: &[u8]) {
        let history = &mut self.book.borrow_mut().history;
        match (act, Outcome::decode(result)) {
            (Act::Write(_), Some(Outcome::Stored | Outcome::Deleted(_))) => history.wrote(pending),
            (Act::Read(_), Some(Outcome::Value(value))) => {
                history.read(pending, value.map(number_of));
            }
            (Act::CompareAndSwap { .. }, Some(Outcome::Swapped)) => history.swapped(pending, true),
            (Act::CompareAndSwap { .. }, Some(Outcome::NotSwapped(_))) => {
                history.swapped(pending, false);
            }
            (act, outcome) => panic!("{act:?} was answered with {outcome:?}"),
        }
    }
}

/// No client sleeps on when everybody else is done.
const PAUSE_MAX: Duration = Duration::from_secs(2);

pub(super) fn encode(key: u8, act: Act, value_bytes: usize) -> Vec<u8> {
    let bytes_of = |value: u64| {
        let mut bytes = value.to_le_bytes().to_vec();
        bytes.resize(value_bytes.max(8), 0);
        bytes
    };
    let key = &[key][..];
    match act {
        Act::Write(Some(value)) => Operation::Put {
            key,
            value: &bytes_of(value),
        }
        .to_bytes(),
        Act::Write(None) => Operation::Delete { key }.to_bytes(),
        Act::Read(_) => Operation::Get { key }.to_bytes(),
        Act::CompareAndSwap { expected, new, .. } => {
            let (expected, new) = (expected.map(bytes_of), bytes_of(new.unwrap_or(0)));
            Operation::CompareAndSwap {
                key,
                expected: expected.as_deref(),
                new: &new,
            }
            .to_bytes()
        }
    }
}

fn number_of(value: &[u8]) -> u64 {
    u64::from_le_bytes(
        *value
            .first_chunk()
            .expect("values have at least eight bytes"),
    )
}
