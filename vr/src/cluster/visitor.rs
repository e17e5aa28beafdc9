//! Clients with bad manners: they stay for a few calls, leave in the middle of one, come back under
//! the id of their last life, or under that of another who lives still.
//!
//! They call by a single key of their own that nobody reads: what is checked is that each request
//! is executed once, that all replicas agree whether it is, and what they are told.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use viewring_runtime::sim::Random;
use viewring_runtime::time::{sleep, timeout};

use super::checker::Checker;
use super::workload::Book;
use crate::client::{CallError, Client, Session};
use crate::kv::{Operation, Outcome};

/// One of them, until the last calls begin.
pub(super) struct Visitor {
    pub(super) client: Client,
    pub(super) random: Random,
    pub(super) book: Rc<RefCell<Book>>,
    pub(super) checker: Rc<RefCell<Checker>>,
}

/// They share so many ids.
const IDS: u64 = 2;
/// Nobody else uses it.
const KEY: &[u8] = b"visitors";

impl Visitor {
    pub(super) async fn run(mut self) {
        while !self.book.borrow().finish {
            let id = if self.random.chance(0.7) {
                self.random.below(IDS)
            } else {
                self.random.next_u64()
            };
            if let Ok(session) = self.client.session_as(id).await {
                self.stay(session).await;
            }
            let pause = self.random.any_magnitude(Duration::from_secs(1));
            sleep(pause).await;
        }
    }

    /// A few calls; the session is closed, or left as it is, or the last call is left unanswered.
    async fn stay(&mut self, mut session: Session) {
        for _ in 0..self.random.between(0..=6) {
            let Some(registration) = session.registration() else {
                return; // told that it has ended
            };
            let number = session.number();
            let patience = if self.random.chance(0.2) {
                self.random.any_magnitude(Duration::from_millis(20))
            } else {
                Duration::from_secs(60)
            };
            let operation = put(self.random.next_u64());
            let Ok(answer) = timeout(patience, session.call(&operation)).await else {
                return;
            };
            match answer {
                Ok(result) => {
                    assert_eq!(Outcome::decode(&result), Some(Outcome::Stored));
                    let mut checker = self.checker.borrow_mut();
                    checker.acknowledged((session.id(), registration), number, &operation, &result);
                }
                Err(CallError::SessionEvicted | CallError::Unknown { .. }) => return,
                Err(error) => panic!("a visitor is told that {error}"),
            }
        }
        if self.random.chance(0.5) {
            // It may end without us, or after us.
            let _told = session.close().await;
        }
    }
}

/// One life of a client, from registration to its last call. It does not close its session.
/// `life` is no other's.
pub(super) async fn visit(
    client: Client,
    (id, life): (u64, u64),
    calls: u32,
    checker: Rc<RefCell<Checker>>,
) {
    let mut session = client.session_as(id).await.expect("registered");
    let registration = session.registration().expect("it is registered");
    for _ in 0..calls {
        let (number, operation) = (session.number(), put(life));
        let result = session.call(&operation).await.expect("answered");
        let mut checker = checker.borrow_mut();
        checker.acknowledged((id, registration), number, &operation, &result);
    }
}

/// No two lives put the same.
fn put(value: u64) -> Vec<u8> {
    let put = Operation::Put {
        key: KEY,
        value: &value.to_le_bytes(),
    };
    put.to_bytes()
}
