//! The group that is measured, and how clients get to it.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use futures::future::try_join_all;
use viewring::specpaxos::{self, Dialect};
use viewring::{CallError, Client, ClientConfig, ConfigError, query_status};
use viewring_runtime::time::timeout;

use super::caller::Caller;
use super::measure::Run;
use crate::exit::Failure;
use crate::settings::Settings;
use crate::specpaxos::{Doors, Wire};

/// The group that is measured.
pub(super) enum Group {
    Viewring(Box<Settings>),
    Specpaxos {
        doors: Doors,
        dialect: Dialect,
        /// The latest view that a client heard of.
        view: Rc<Cell<u64>>,
    },
}

/// How long the first answer of the group may take.
const FIRST_ANSWER: Duration = Duration::from_secs(3);
/// How long replicas may take to tell how they are.
const STATUS_PATIENCE: Duration = Duration::from_millis(300);

impl Group {
    /// Reads the file that describes it.
    pub(super) fn load(path: &Path, wire: Wire) -> Result<Self, Failure> {
        let settings = Settings::load(path)?;
        Ok(match wire.dialect() {
            None => Self::Viewring(settings.into()),
            Some(dialect) => Self::Specpaxos {
                doors: settings.doors()?.clone(),
                dialect,
                view: Rc::default(),
            },
        })
    }

    /// Where clients find its replicas.
    pub(super) fn replicas(&self) -> &[SocketAddr] {
        match self {
            Self::Viewring(settings) => &settings.replicas,
            Self::Specpaxos { doors, .. } => &doors.each,
        }
    }

    /// As many callers as the run has clients. The group has answered at least the first.
    ///
    /// # Errors
    /// When there can be no socket, or no answer.
    pub(super) async fn callers(&self, run: &Run) -> Result<Vec<Caller>, Failure> {
        match self {
            Self::Viewring(settings) => sessions(settings, run).await,
            Self::Specpaxos {
                doors,
                dialect,
                view,
            } => {
                let mut callers = Vec::new();
                for index in 1..=run.clients {
                    let client = walk_in(doors, *dialect);
                    callers.push(Caller::Specpaxos {
                        client: client
                            .map_err(|error| no_socket(&error, index, run))?
                            .into(),
                        timeout: run.timeout,
                        view: Rc::clone(view),
                    });
                }
                let patience = FIRST_ANSWER.min(run.timeout);
                let unknown = Cell::default();
                let first = callers[0].call(b"", &unknown);
                if let Ok(answer) = timeout(patience, first).await {
                    answer?;
                    return Ok(callers);
                }
                // Where the questions went.
                let addresses = doors
                    .all
                    .as_ref()
                    .map_or(&*doors.each, std::slice::from_ref);
                let addresses = addresses.iter().map(SocketAddr::to_string);
                let addresses = addresses.collect::<Vec<_>>().join(", ");
                let wire = run.wire.name();
                Err(Failure::unreachable(format_args!(
                    "no answer within {patience:?} from the group at {addresses}: does it run, and \
                     does it speak as {wire} does?"
                )))
            }
        }
    }

    /// The latest view, and its primary, if anybody tells.
    pub(super) async fn leader(&self) -> Option<(u64, u8)> {
        match self {
            Self::Viewring(settings) => {
                let (cluster, replicas) = (settings.cluster, &settings.replicas);
                let answers = query_status(cluster, replicas, STATUS_PATIENCE)
                    .await
                    .ok()?;
                let answers = answers.into_iter().flatten();
                let normal = answers.filter(|status| status.status == "normal");
                normal.map(|status| (status.view, status.primary)).max()
            }
            Self::Specpaxos { doors, view, .. } => {
                let primary = view.get() % doors.each.len() as u64;
                Some((view.get(), u8::try_from(primary).ok()?))
            }
        }
    }
}

/// A client that asks all replicas as the file has it.
fn walk_in(doors: &Doors, dialect: Dialect) -> io::Result<specpaxos::Client> {
    let replicas = doors.each.clone();
    match doors.all {
        Some(all) => specpaxos::Client::bind_to_group(replicas, all, dialect),
        None => specpaxos::Client::bind(replicas, dialect),
    }
}

async fn sessions(settings: &Settings, run: &Run) -> Result<Vec<Caller>, Failure> {
    let clients = sockets(settings, run)?;
    let patience = FIRST_ANSWER.min(run.timeout);
    let first = match timeout(patience, clients[0].session()).await {
        Ok(Ok(session)) => session,
        Ok(Err(CallError::NoAnswer)) | Err(_) => {
            return Err(nobody_there(settings, patience).await);
        }
        Ok(Err(error)) => return Err(error.into()),
    };
    let rest = clients.iter().cycle().take(run.clients as usize).skip(1);
    let rest = try_join_all(rest.map(Client::session)).await?;
    let sessions = std::iter::once(first).chain(rest);
    let clients = clients.iter().cycle().cloned();
    Ok(sessions
        .zip(clients)
        .map(|(session, client)| Caller::Session { client, session })
        .collect())
}

/// One socket, or one for each client.
fn sockets(settings: &Settings, run: &Run) -> Result<Vec<Client>, Failure> {
    let config = ClientConfig {
        confirmed_by: run.workload.confirmed_by,
        ..settings.client(run.timeout)
    };
    let (count, config) = if run.shared_socket {
        (1, config)
    } else {
        // One call is in flight on it: a buffer for the answer, and some for what comes twice.
        let recv_buffers = 4;
        let config = ClientConfig {
            recv_buffers,
            ..config
        };
        (run.clients, config)
    };
    let socket = |index| {
        Client::new(config.clone()).map_err(|error| match &error {
            ConfigError::Bind(_, cause) => no_socket(cause, index, run),
            ConfigError::Group(_)
            | ConfigError::UnknownId { .. }
            | ConfigError::SameAddress(_)
            | ConfigError::ViewFile(_)
            | ConfigError::Value(_) => error.into(),
        })
    };
    (1..=count).map(socket).collect()
}

/// Why client `index` has no socket.
fn no_socket(error: &io::Error, index: u32, run: &Run) -> Failure {
    let clients = run.clients;
    if error.raw_os_error() == Some(TOO_MANY_OPEN_FILES) {
        Failure::setup(format_args!(
            "there can be no socket for client {index} of {clients}: raise the limit of open \
             files (ulimit -n), or use --shared-socket"
        ))
    } else {
        Failure::setup(format_args!(
            "there can be no socket for client {index} of {clients}: {error}"
        ))
    }
}

/// `EMFILE`.
const TOO_MANY_OPEN_FILES: i32 = 24;

/// Why there was no answer at all.
async fn nobody_there(settings: &Settings, patience: Duration) -> Failure {
    let answers = query_status(settings.cluster, &settings.replicas, STATUS_PATIENCE).await;
    let there = answers.map_or(0, |answers| answers.iter().flatten().count());
    let why = match there {
        0 => "does it run?".to_owned(),
        1 => "one replica tells its status, but nobody serves: see viewring status".to_owned(),
        n => format!("{n} replicas tell their status, but nobody serves: see viewring status"),
    };
    Failure::unreachable(format_args!(
        "no answer within {patience:?} from the group at {}: {why}",
        settings.addresses()
    ))
}
