//! What has a group execute an operation: a session of ours, or a client of another system.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use viewring::{CallError, Client, ReadConsistency, Session, specpaxos};
use viewring_runtime::time::timeout;

use crate::exit::Failure;

/// Calls operations, one at a time.
pub(super) enum Caller {
    Session {
        client: Client,
        session: Session,
    },
    Specpaxos {
        client: Box<specpaxos::Client>,
        /// What has no answer for so long is unknown.
        timeout: Duration,
        /// The latest view that any caller heard of.
        view: Rc<Cell<u64>>,
    },
}

impl Caller {
    /// The answer to `operation`, however often it has to be asked for: `unknown` counts how often
    /// none came in time. `None`: the session was lost, and there is a new one.
    ///
    /// # Errors
    /// When it makes no sense to go on.
    pub(super) async fn call(
        &mut self,
        operation: &[u8],
        unknown: &Cell<u64>,
    ) -> Result<Option<Rc<[u8]>>, Failure> {
        match self {
            Self::Session { client, session } => call(client, session, operation, unknown).await,
            Self::Specpaxos {
                client,
                timeout: patience,
                view,
            } => {
                let mut answer = pin!(client.call(operation));
                // It sends again by itself.
                let answer = loop {
                    match timeout(*patience, answer.as_mut()).await {
                        Ok(answer) => break answer,
                        Err(_elapsed) => unknown.set(unknown.get() + 1),
                    }
                };
                let answer = answer.map_err(|error| {
                    Failure::setup(format_args!("a client's socket has failed: {error}"))
                })?;
                view.set(view.get().max(answer.view));
                Ok(Some(answer.result.into()))
            }
        }
    }

    /// Makes room in the group's table of clients. Clients of specpaxos cannot.
    pub(super) async fn close(self) {
        if let Self::Session { session, .. } = self {
            // If it cannot be told, the group forgets it some day.
            let _not_told = session.close().await.is_err();
        }
    }
}

impl Caller {
    /// The answer to a question, as [`call`](Self::call) gives it. Other systems have no reads of
    /// that kind.
    ///
    /// # Errors
    /// When it makes no sense to go on.
    pub(super) async fn read(
        &mut self,
        query: &[u8],
        consistency: ReadConsistency,
        unknown: &Cell<u64>,
    ) -> Result<Option<Rc<[u8]>>, Failure> {
        let Self::Session { client, .. } = self else {
            return self.call(query, unknown).await;
        };
        loop {
            match client.query(query, consistency).await {
                Ok(reading) => return Ok(Some(reading.result)),
                Err(CallError::NoAnswer) => unknown.set(unknown.get() + 1),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

async fn call(
    client: &Client,
    session: &mut Session,
    operation: &[u8],
    unknown: &Cell<u64>,
) -> Result<Option<Rc<[u8]>>, Failure> {
    let mut answer = session.call(operation).await;
    while let Err(CallError::Unknown { .. }) = answer {
        unknown.set(unknown.get() + 1);
        answer = session.settle().await;
    }
    match answer {
        Ok(answer) => return Ok(Some(answer)),
        Err(CallError::SessionLost | CallError::SessionEvicted) => {}
        Err(error) => return Err(error.into()),
    }
    loop {
        match client.session().await {
            Ok(registered) => {
                *session = registered;
                return Ok(None);
            }
            Err(CallError::NoAnswer) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
