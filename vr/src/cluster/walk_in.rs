//! Clients that never register, with the same workload: they send each request to all replicas,
//! take the first reply, and ask again after seven seconds.

use std::time::Duration;

use viewring_runtime::time::sleep;
use viewring_transport::specpaxos::Client;

use super::sometimes::Mark;
use super::workload::{Caller, encode};

impl Caller<Client> {
    pub(super) async fn walk_in(mut self) {
        for _ in 0..self.workload.calls {
            if self.book.borrow().finish {
                break;
            }
            self.pause().await;
            self.ask().await;
        }
        self.wait_for_finish().await;
        for _ in 0..self.workload.last_calls {
            self.ask().await;
        }
        self.book.borrow_mut().finished += 1;
    }

    /// One call, asked again by the client until it is answered.
    async fn ask(&mut self) {
        let key = self.random.below(u64::from(self.workload.keys)) as u8;
        let (act, pending) = self.call(key);
        let operation = encode(key, act, self.workload.value_bytes);
        let resent = self.client.resent();
        let answer = self.client.call(&operation).await;
        let answer = answer.expect("a simulated socket does not fail");
        let mut checker = self.checker.borrow_mut();
        let client = (self.client.id(), 0);
        checker.acknowledged(client, self.client.number(), &operation, &answer.result);
        checker.marks.hit(Mark::WalkInAnswered);
        if self.client.resent() > resent {
            checker.marks.hit(Mark::WalkInAskedAgain);
        }
        drop(checker);
        self.told(pending, act, &answer.result);
    }

    async fn wait_for_finish(&self) {
        self.book.borrow_mut().paused += 1;
        while !self.book.borrow().finish {
            sleep(Duration::from_millis(50)).await;
        }
    }
}
