//! A client's side of the protocol (VRR §4.1), without I/O and without a clock.

use crate::configuration::Configuration;
use crate::ids::{ClientId, OpNumber, ReplicaId, RequestNumber, View};
use crate::log::Kind;
use crate::message::{Outcome, Reply, Request};
use alloc::rc::Rc;
use core::fmt;

/// One client with at most one request in flight.
///
/// Send what [`register`](Self::register) and [`call`](Self::call) return to
/// [`target`](Self::target); hand each reply to [`on_reply`](Self::on_reply); when no answer has
/// come for a while, send what [`retry`](Self::retry) returns. A request is never given up by
/// itself: its outcome is unknown until it is answered, and asking again is always safe.
#[derive(Debug)]
pub struct Session {
    client: ClientId,
    group: Configuration,
    view: View,
    session: Option<OpNumber>,
    next: RequestNumber,
    pending: Option<Request>,
    ask_all: bool,
}

/// Whom to send a request to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The replica that should be primary.
    Primary(ReplicaId),
    /// Every replica: who is primary is in doubt.
    All,
}

/// What a reply means to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The client is registered and may call.
    Registered,
    /// The result of the call in flight.
    Result(Rc<[u8]>),
    /// Another replica is primary: send the request of [`Session::pending`] there now.
    Redirected(ReplicaId),
    /// The group is busy: retry after a pause.
    Busy,
    /// The group does not know this session (any more). Whether the call in flight was executed
    /// is unknown, and cannot be learned. Register again.
    SessionLost,
    /// The call was refused: its body is too large. Nothing is in flight now.
    TooLarge,
    /// Not an answer to what is in flight, or nothing to act on.
    Ignored,
}

/// Why a request cannot be made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// A request is in flight.
    InFlight,
    /// The client is not registered.
    NotRegistered,
    /// The client is registered.
    Registered,
    /// There is no request-number left.
    Exhausted,
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InFlight => "a request is in flight",
            Self::NotRegistered => "the client is not registered",
            Self::Registered => "the client is registered",
            Self::Exhausted => "the session has used all its request-numbers",
        })
    }
}

impl core::error::Error for SessionError {}

impl Session {
    /// A client that is not registered yet. `client` must be unique to it.
    pub fn new(client: ClientId, group: Configuration) -> Self {
        Self {
            client,
            group,
            view: View::ZERO,
            session: None,
            next: RequestNumber(1),
            pending: None,
            ask_all: false,
        }
    }

    /// Takes a session over, from what an earlier process wrote down. `next` is the number of
    /// the request whose outcome is unknown, to ask it again, or one above the last answered.
    pub fn resume(
        client: ClientId,
        group: Configuration,
        session: OpNumber,
        next: RequestNumber,
    ) -> Self {
        Self {
            session: Some(session),
            next,
            ..Self::new(client, group)
        }
    }

    /// Asks to be registered.
    ///
    /// # Errors
    ///
    /// If the client is registered, or has asked already.
    pub fn register(&mut self) -> Result<&Request, SessionError> {
        if self.session.is_some() {
            return Err(SessionError::Registered);
        }
        self.ask(
            OpNumber::ZERO,
            RequestNumber::ZERO,
            Kind::Register,
            [].into(),
        )
    }

    /// Asks for an operation.
    ///
    /// # Errors
    ///
    /// If the client is not registered, or waits for an answer.
    pub fn call(&mut self, body: Rc<[u8]>) -> Result<&Request, SessionError> {
        let session = self.session.ok_or(SessionError::NotRegistered)?;
        if self.next.0 == u64::MAX {
            return Err(SessionError::Exhausted);
        }
        self.ask(session, self.next, Kind::Operation, body)
    }

    fn ask(
        &mut self,
        session: OpNumber,
        number: RequestNumber,
        kind: Kind,
        body: Rc<[u8]>,
    ) -> Result<&Request, SessionError> {
        if self.pending.is_some() {
            return Err(SessionError::InFlight);
        }
        Ok(self.pending.insert(Request {
            client: self.client,
            session,
            number,
            kind,
            body,
        }))
    }

    /// Asks again, and everyone: the primary may have changed.
    pub fn retry(&mut self) -> Option<&Request> {
        self.ask_all = true;
        self.pending.as_ref()
    }

    /// The request in flight.
    pub fn pending(&self) -> Option<&Request> {
        self.pending.as_ref()
    }

    /// The session, once registered: to be written down by a client that wants to resume.
    pub fn session(&self) -> Option<OpNumber> {
        self.session
    }

    /// The number of the request in flight, or else of the next one.
    pub fn number(&self) -> RequestNumber {
        self.next
    }

    /// The highest view heard of.
    pub fn view(&self) -> View {
        self.view
    }

    /// Whom to send the request in flight to.
    pub fn target(&self) -> Target {
        if self.ask_all {
            Target::All
        } else {
            Target::Primary(self.group.primary(self.view))
        }
    }

    /// A reply has arrived.
    pub fn on_reply(&mut self, reply: &Reply) -> Answer {
        if reply.client != self.client {
            return Answer::Ignored;
        }
        let Some(number) = self.pending.as_ref().map(|request| request.number) else {
            return Answer::Ignored;
        };
        let newer = reply.view > self.view;
        let outdated = reply.view < self.view;
        self.view = self.view.max(reply.view);
        if reply.number != number {
            return Answer::Ignored;
        }
        match &reply.outcome {
            // What is committed is true, whoever says it.
            Outcome::Registered { session } => self.on_registered(number, *session),
            Outcome::Result(result) => self.on_result(number, result),
            // A refusal counts only if no later view is known: a deposed primary knows nothing.
            Outcome::NotPrimary if newer => {
                self.ask_all = false;
                Answer::Redirected(self.group.primary(self.view))
            }
            Outcome::NotPrimary => Answer::Ignored,
            Outcome::Busy | Outcome::NoSession | Outcome::TooLarge if outdated => Answer::Ignored,
            Outcome::Busy => Answer::Busy,
            Outcome::NoSession => {
                self.pending = None;
                self.session = None;
                self.next = RequestNumber(1);
                Answer::SessionLost
            }
            Outcome::TooLarge => {
                // Another replica may have taken it: its number is never used again.
                self.next = RequestNumber(number.0.saturating_add(1));
                self.pending = None;
                Answer::TooLarge
            }
        }
    }

    fn on_registered(&mut self, number: RequestNumber, session: OpNumber) -> Answer {
        if number != RequestNumber::ZERO {
            return Answer::Ignored;
        }
        self.session = Some(session);
        self.next = RequestNumber(1);
        self.pending = None;
        self.ask_all = false;
        Answer::Registered
    }

    fn on_result(&mut self, number: RequestNumber, result: &Rc<[u8]>) -> Answer {
        if number == RequestNumber::ZERO {
            return Answer::Ignored;
        }
        self.next = RequestNumber(number.0.saturating_add(1));
        self.pending = None;
        self.ask_all = false;
        Answer::Result(Rc::clone(result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(view: u64, number: u64, outcome: Outcome) -> Reply {
        Reply {
            view: View(view),
            client: ClientId(9),
            number: RequestNumber(number),
            outcome,
        }
    }

    fn registered() -> Session {
        let group = Configuration::new(3).expect("odd");
        Session::resume(ClientId(9), group, OpNumber(1), RequestNumber(1))
    }

    #[test]
    fn one_request_is_in_flight() {
        let group = Configuration::new(3).expect("odd");
        let mut session = Session::new(ClientId(9), group);
        assert_eq!(session.call([1].into()), Err(SessionError::NotRegistered));
        assert_eq!(
            session.register().map(|request| request.kind),
            Ok(Kind::Register)
        );
        assert_eq!(session.register(), Err(SessionError::InFlight));
        let outcome = Outcome::Registered {
            session: OpNumber(4),
        };
        assert_eq!(session.on_reply(&reply(0, 0, outcome)), Answer::Registered);
        assert_eq!(session.register(), Err(SessionError::Registered));
        assert_eq!(
            session.call([1].into()).map(|request| request.session),
            Ok(OpNumber(4))
        );
        assert_eq!(session.call([1].into()), Err(SessionError::InFlight));
        let answer = session.on_reply(&reply(0, 1, Outcome::Result([2].into())));
        assert_eq!(answer, Answer::Result([2].into()));
        assert_eq!(session.number(), RequestNumber(2));
    }

    #[test]
    fn a_client_follows_the_view() {
        let mut session = registered();
        session.call([1].into()).expect("nothing in flight");
        assert_eq!(session.target(), Target::Primary(ReplicaId(0)));
        session.retry().expect("in flight");
        assert_eq!(session.target(), Target::All);
        let answer = session.on_reply(&reply(4, 1, Outcome::NotPrimary));
        assert_eq!(answer, Answer::Redirected(ReplicaId(1)));
        assert_eq!(session.target(), Target::Primary(ReplicaId(1)));
        let again = session.on_reply(&reply(4, 1, Outcome::NotPrimary));
        assert_eq!(again, Answer::Ignored, "no loop");
    }

    #[test]
    fn a_refusal_of_a_deposed_primary_means_nothing() {
        let mut session = registered();
        session.call([1].into()).expect("nothing in flight");
        let _ = session.on_reply(&reply(4, 1, Outcome::NotPrimary));
        assert_eq!(
            session.on_reply(&reply(3, 1, Outcome::NoSession)),
            Answer::Ignored
        );
        assert_eq!(
            session.on_reply(&reply(4, 1, Outcome::NoSession)),
            Answer::SessionLost
        );
        assert_eq!(session.session(), None);
    }

    #[test]
    fn replies_to_others_are_ignored() {
        let mut session = registered();
        session.call([1].into()).expect("nothing in flight");
        let mut other = reply(0, 1, Outcome::Busy);
        other.client = ClientId(8);
        assert_eq!(session.on_reply(&other), Answer::Ignored);
        assert_eq!(
            session.on_reply(&reply(0, 7, Outcome::Busy)),
            Answer::Ignored
        );
        assert_eq!(session.on_reply(&reply(0, 1, Outcome::Busy)), Answer::Busy);
    }
}
