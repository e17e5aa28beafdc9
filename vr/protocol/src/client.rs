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
    life: OpNumber,
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
    /// The primary is busy: send the request again after a pause; now and then to everyone, since
    /// it may have been replaced and know nothing of it.
    Busy {
        /// How long at least, in milliseconds.
        retry_after_ms: u32,
    },
    /// The group has never known this session: it is another group. Nothing of it is in flight.
    SessionLost,
    /// The group has ended this session, for want of room or since the client registered again.
    /// Whether the call in flight was executed is unknown, and cannot be learned. Register again.
    Evicted,
    /// The session has ended, as was asked.
    Closed,
    /// The call was refused: its body is too large. Nothing is in flight now.
    TooLarge,
    /// The call was executed, and its result is longer than the group keeps: it cannot be learned.
    ResultTooLarge,
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
    /// A client that is not registered yet. `client` must be unique to it, or else
    /// [each life](Self::with_life) of it.
    pub fn new(client: ClientId, group: Configuration) -> Self {
        Self {
            client,
            life: OpNumber::ZERO,
            group,
            view: View::ZERO,
            session: None,
            next: RequestNumber(1),
            pending: None,
            ask_all: false,
        }
    }

    /// The same client with a number of its own for this life of it, by chance. When a client
    /// registers whose earlier life is registered still, that one's session ends. Two clients that
    /// take themselves for the same end each other's sessions.
    #[must_use]
    pub fn with_life(self, life: u64) -> Self {
        let life = OpNumber(life);
        Self { life, ..self }
    }

    /// Takes a session over, from what an earlier process wrote down. `next` is the number of
    /// the request whose outcome is unknown, to ask it again, or one above the last answered.
    /// `view` is the [latest](Self::view) that it had heard of: who led before it may know nothing
    /// of the session, and is not believed.
    pub fn resume(
        client: ClientId,
        group: Configuration,
        session: OpNumber,
        next: RequestNumber,
        view: View,
    ) -> Self {
        Self {
            session: Some(session),
            next,
            view,
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
        let (life, first) = (self.life, RequestNumber::ZERO);
        self.ask(life, first, Kind::Register, [].into())
    }

    /// Asks for an operation.
    ///
    /// # Errors
    ///
    /// If the client is not registered, or waits for an answer.
    pub fn call(&mut self, body: Rc<[u8]>) -> Result<&Request, SessionError> {
        self.ask_in_session(Kind::Operation, body)
    }

    /// Asks to be forgotten, which leaves room for others.
    ///
    /// # Errors
    ///
    /// If the client is not registered, or waits for an answer.
    pub fn close(&mut self) -> Result<&Request, SessionError> {
        self.ask_in_session(Kind::Close, [].into())
    }

    fn ask_in_session(&mut self, kind: Kind, body: Rc<[u8]>) -> Result<&Request, SessionError> {
        let session = self.session.ok_or(SessionError::NotRegistered)?;
        if self.next.0 == u64::MAX {
            return Err(SessionError::Exhausted);
        }
        self.ask(session, self.next, kind, body)
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
        let Some((_, session, number)) = self.pending.as_ref().map(Request::id) else {
            return Answer::Ignored;
        };
        let newer = reply.view > self.view;
        let outdated = reply.view < self.view;
        self.view = self.view.max(reply.view);
        if (reply.session, reply.number) != (session, number) {
            return Answer::Ignored;
        }
        match &reply.outcome {
            // What is committed is true, whoever says it.
            Outcome::Registered { session } => self.on_registered(number, *session),
            Outcome::Result(result) => self.on_executed(Answer::Result(Rc::clone(result))),
            Outcome::ResultTooLarge => self.on_executed(Answer::ResultTooLarge),
            Outcome::Evicted => self.on_evicted(),
            // A refusal counts only if no later view is known: a deposed primary knows nothing.
            Outcome::NotPrimary if newer => {
                self.ask_all = false;
                Answer::Redirected(self.group.primary(self.view))
            }
            Outcome::NotPrimary => Answer::Ignored,
            Outcome::Busy { .. } | Outcome::NoSession | Outcome::TooLarge if outdated => {
                Answer::Ignored
            }
            Outcome::Busy { retry_after_ms } => {
                self.ask_all = false;
                let retry_after_ms = *retry_after_ms;
                Answer::Busy { retry_after_ms }
            }
            Outcome::NoSession => self.end(Answer::SessionLost),
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

    fn on_executed(&mut self, answer: Answer) -> Answer {
        let is_call = |request: &mut Request| request.kind == Kind::Operation;
        let Some(call) = self.pending.take_if(is_call) else {
            return Answer::Ignored;
        };
        self.next = RequestNumber(call.number.0.saturating_add(1));
        self.ask_all = false;
        answer
    }

    fn on_evicted(&mut self) -> Answer {
        match self.pending.as_ref().map(|request| request.kind) {
            Some(Kind::Operation) => self.end(Answer::Evicted),
            Some(Kind::Close) => self.end(Answer::Closed),
            Some(Kind::Register | Kind::WalkIn | Kind::Query) | None => Answer::Ignored,
        }
    }

    /// What registers next is another life: what is said of this one is not about it.
    fn end(&mut self, answer: Answer) -> Answer {
        self.pending = None;
        self.session = None;
        self.life = OpNumber(self.life.0.wrapping_add(1));
        self.next = RequestNumber(1);
        self.ask_all = false;
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(view: u64, number: u64, outcome: Outcome) -> Reply {
        Reply {
            view: View(view),
            client: ClientId(9),
            session: OpNumber(u64::from(number > 0)),
            number: RequestNumber(number),
            outcome,
        }
    }

    const BUSY: Outcome = Outcome::Busy { retry_after_ms: 7 };

    fn registered() -> Session {
        let group = Configuration::new(3).expect("odd");
        Session::resume(
            ClientId(9),
            group,
            OpNumber(1),
            RequestNumber(1),
            View::ZERO,
        )
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
        let mut told = reply(0, 1, Outcome::Result([2].into()));
        assert_eq!(
            session.on_reply(&told),
            Answer::Ignored,
            "another session's"
        );
        told.session = OpNumber(4);
        assert_eq!(session.on_reply(&told), Answer::Result([2].into()));
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
    fn a_resumed_session_does_not_believe_who_led_before_it() {
        let group = Configuration::new(3).expect("odd");
        let id = ClientId(9);
        let mut session = Session::resume(id, group, OpNumber(1), RequestNumber(3), View(1));
        session.call([1].into()).expect("nothing in flight");
        assert_eq!(session.target(), Target::Primary(ReplicaId(1)));
        let deposed = reply(0, 3, Outcome::NoSession);
        assert_eq!(session.on_reply(&deposed), Answer::Ignored);
    }

    #[test]
    fn replies_to_others_are_ignored() {
        let mut session = registered();
        session.call([1].into()).expect("nothing in flight");
        let mut other = reply(0, 1, BUSY);
        other.client = ClientId(8);
        assert_eq!(session.on_reply(&other), Answer::Ignored);
        assert_eq!(session.on_reply(&reply(0, 7, BUSY)), Answer::Ignored);
        let answer = session.on_reply(&reply(0, 1, BUSY));
        assert_eq!(answer, Answer::Busy { retry_after_ms: 7 });
    }

    #[test]
    fn a_session_ends_once_and_the_next_is_another_life() {
        let mut session = registered();
        session.call([1].into()).expect("nothing in flight");
        let _ = session.on_reply(&reply(4, 1, Outcome::NotPrimary));
        let told = session.on_reply(&reply(3, 1, Outcome::Evicted));
        assert_eq!(told, Answer::Evicted, "it is committed, whoever says it");
        assert_eq!(session.call([1].into()), Err(SessionError::NotRegistered));
        let life = session.register().map(|request| request.session);
        assert_eq!(life, Ok(OpNumber(1)));
        let of_old = Outcome::Registered {
            session: OpNumber(1),
        };
        let mut late = reply(4, 0, of_old);
        assert_eq!(session.on_reply(&late), Answer::Ignored);
        late.session = OpNumber(1);
        assert_eq!(session.on_reply(&late), Answer::Registered);
    }

    #[test]
    fn who_closes_its_session_is_told_that_it_has_ended() {
        let mut session = registered();
        let kind = session.close().map(|request| request.kind);
        assert_eq!(kind, Ok(Kind::Close));
        assert_eq!(
            session.on_reply(&reply(0, 1, Outcome::Result([].into()))),
            Answer::Ignored
        );
        assert_eq!(
            session.on_reply(&reply(0, 1, Outcome::Evicted)),
            Answer::Closed
        );
        assert_eq!(session.session(), None);
    }

    #[test]
    fn a_call_whose_result_is_too_long_is_over() {
        let mut session = registered();
        session.call([1].into()).expect("nothing in flight");
        let told = session.on_reply(&reply(0, 1, Outcome::ResultTooLarge));
        assert_eq!(
            (told, session.number()),
            (Answer::ResultTooLarge, RequestNumber(2))
        );
    }
}
