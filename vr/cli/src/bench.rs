//! `viewring bench`: a closed loop of clients against a group.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use clap::ValueEnum;
use futures::future::try_join_all;
use serde::Serialize;
use viewring::kv::{KvError, Operation, Outcome, VALUE_BYTES_MAX};
use viewring::{CallError, Client, Session};
use viewring_runtime::time::{Instant, timeout_at};
use viewring_runtime::{JoinHandle, signal, spawn};

use crate::duration::{parse, parse_positive};
use crate::exit::{self, Exit, Failure};
use crate::meter::{Meter, Summary};
use crate::output::{self, Live};
use crate::settings::Settings;

/// Measure a group: each client calls, waits for the answer, and calls again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  viewring bench --config cluster.toml --clients 1
  viewring bench --config cluster.toml --clients 64 --duration 30s --op null --json

Ctrl-c ends it early, with the result so far.")]
pub(crate) struct Args {
    /// Describes the group.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How many clients there are: a session each, one operation in flight each.
    #[arg(long, value_name = "N", default_value_t = 16,
          value_parser = clap::value_parser!(u32).range(1..=16_384))]
    clients: u32,
    /// How many sockets they share.
    #[arg(long, value_name = "K", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=256))]
    sockets: u32,
    /// How long to measure.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_positive)]
    duration: Duration,
    /// How long to run before measuring.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse)]
    warmup: Duration,
    /// What the clients call.
    #[arg(long, value_enum, default_value = "put")]
    op: Op,
    /// How long the values are.
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    value_size: usize,
    /// An operation without an answer for so long counts as unknown; it is asked for again.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_positive)]
    timeout: Duration,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Op {
    /// Empty operations, whatever the group runs.
    Null,
    /// Puts to the key-value store, over 256 keys a client.
    Put,
    /// Gets from the key-value store, of one key a client.
    Get,
}

pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let settings = Settings::load(&args.config)?;
    if args.value_size > VALUE_BYTES_MAX {
        return Err(Failure::usage(KvError::ValueTooLong(args.value_size)));
    }
    let result = exit::block_on(measure(&settings, args))?;
    if args.json {
        output::json(&result)?;
    } else {
        output::line(result.summary)?;
        output::line(format_args!(
            "errors        {}, unknown {}",
            result.errors, result.unknown
        ))?;
    }
    if result.summary.ops == 0 {
        return Err(Failure::unreachable("no operation was answered"));
    }
    Ok(Exit::Success)
}

#[derive(Debug, Serialize)]
struct BenchResult {
    #[serde(flatten)]
    summary: Summary,
    /// Answers that were none to what was asked, and sessions that were lost.
    errors: u64,
    /// Operations without an answer in time.
    unknown: u64,
}

/// What the clients share.
struct Shared {
    meter: RefCell<Meter>,
    errors: Cell<u64>,
    unknown: Cell<u64>,
    /// Why it makes no sense to go on.
    fatal: Cell<Option<Failure>>,
}

async fn measure(settings: &Settings, args: &Args) -> Result<BenchResult, Failure> {
    let mut asked = pin!(signal::shutdown());
    let sessions = open(settings, args).await?;
    let shared = Rc::new(Shared {
        meter: RefCell::new(Meter::new()),
        errors: Cell::new(0),
        unknown: Cell::new(0),
        fatal: Cell::new(None),
    });
    let tasks: Vec<JoinHandle<()>> = sessions
        .into_iter()
        .enumerate()
        .map(|(index, (client, session))| {
            let driver = Driver::new(args, index, client, session);
            let shared = Rc::clone(&shared);
            spawn(async move {
                let failure = driver.run(&shared).await;
                shared.fatal.set(Some(failure));
            })
        })
        .collect();
    let was_asked = timeout_at(Instant::now() + args.warmup, asked.as_mut())
        .await
        .is_ok();
    shared.meter.borrow_mut().restart();
    shared.errors.set(0);
    shared.unknown.set(0);
    if !was_asked {
        let end = Instant::now() + args.duration;
        let mut next_lap = Instant::now();
        while next_lap < end {
            next_lap = (next_lap + Duration::from_secs(1)).min(end);
            let was_asked = timeout_at(next_lap, asked.as_mut()).await.is_ok();
            let lap = shared.meter.borrow_mut().lap();
            Live::Stderr.line(lap)?;
            if let Some(failure) = shared.fatal.take() {
                return Err(failure);
            }
            if was_asked {
                break;
            }
        }
    }
    let summary = shared.meter.borrow().summary();
    tasks.into_iter().for_each(JoinHandle::abort);
    Ok(BenchResult {
        summary,
        errors: shared.errors.get(),
        unknown: shared.unknown.get(),
    })
}

/// Registers all sessions.
async fn open(settings: &Settings, args: &Args) -> Result<Vec<(Client, Session)>, Failure> {
    let clients = (0..args.sockets)
        .map(|_| Client::new(settings.client(args.timeout)))
        .collect::<Result<Vec<_>, _>>()?;
    let sessions = clients
        .iter()
        .cycle()
        .take(args.clients as usize)
        .map(|client| async {
            match client.session().await {
                Ok(session) => Ok((client.clone(), session)),
                Err(CallError::Unknown { .. }) => Err(Failure::unreachable(format_args!(
                    "no answer within {:?} from the group at {}",
                    args.timeout,
                    settings.addresses()
                ))),
                Err(error) => Err(error.into()),
            }
        });
    try_join_all(sessions).await
}

/// One client.
struct Driver {
    op: Op,
    index: usize,
    client: Client,
    session: Session,
    value: Vec<u8>,
    calls: u64,
}

/// How many keys each client puts to.
const KEYS: u64 = 256;

impl Driver {
    fn new(args: &Args, index: usize, client: Client, session: Session) -> Self {
        let value = vec![b'v'; args.value_size];
        Self {
            op: args.op,
            index,
            client,
            session,
            value,
            calls: 0,
        }
    }

    /// Calls and calls, until that makes no sense any more.
    async fn run(mut self, shared: &Shared) -> Failure {
        let mut operation = Vec::new();
        if self.op == Op::Get {
            self.write(Op::Put, &mut operation);
            if let Err(failure) = self.call(&operation, shared).await {
                return failure;
            }
        }
        loop {
            self.write(self.op, &mut operation);
            let began = Instant::now();
            match self.call(&operation, shared).await {
                Ok(Some(true)) => shared.meter.borrow_mut().record(began.elapsed()),
                Ok(Some(false) | None) => shared.errors.set(shared.errors.get() + 1),
                Err(failure) => return failure,
            }
            self.calls += 1;
        }
    }

    /// Whether the answer was one to the operation; `None` if the session was lost.
    async fn call(&mut self, operation: &[u8], shared: &Shared) -> Result<Option<bool>, Failure> {
        let mut answer = self.session.call(operation).await;
        while let Err(CallError::Unknown { .. }) = answer {
            shared.unknown.set(shared.unknown.get() + 1);
            answer = self.session.settle().await;
        }
        match answer {
            Ok(answer) => Ok(Some(self.is_answer(operation, &answer))),
            Err(CallError::SessionLost) => {
                loop {
                    match self.client.session().await {
                        Ok(session) => break self.session = session,
                        Err(CallError::Unknown { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn write(&self, op: Op, operation: &mut Vec<u8>) {
        operation.clear();
        let number = if self.op == Op::Put {
            self.calls % KEYS
        } else {
            0
        };
        let key = format!("bench/{}/{number}", self.index);
        match op {
            Op::Null => {}
            Op::Put => {
                Operation::Put {
                    key: key.as_bytes(),
                    value: &self.value,
                }
                .encode(operation);
            }
            Op::Get => Operation::Get {
                key: key.as_bytes(),
            }
            .encode(operation),
        }
    }

    fn is_answer(&self, operation: &[u8], answer: &[u8]) -> bool {
        match Operation::decode(operation) {
            None => true,
            Some(Operation::Get { .. }) => {
                Outcome::decode(answer) == Some(Outcome::Value(Some(&self.value)))
            }
            Some(_) => Outcome::decode(answer) == Some(Outcome::Stored),
        }
    }
}
