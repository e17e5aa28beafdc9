//! Sleeping, racing, and restarting a timeout by dropping it.
//!
//! ```text
//! cargo run -p viewring-examples --example race
//! ```

use std::time::Duration;

use futures::future::{Either, select};
use viewring::runtime::time::{Elapsed, Instant, sleep, timeout};
use viewring::runtime::{SetupError, block_on, spawn, yield_now};

fn main() -> Result<(), SetupError> {
    block_on(async {
        two_sleeps_race().await;
        a_timeout_is_a_scope().await;
        tasks_are_joined().await;
    })
}

/// The loser is dropped, and its timer with it.
async fn two_sleeps_race() {
    let (short, long) = (Duration::from_millis(10), Duration::from_secs(3_600));
    let begun = Instant::now();
    match select(sleep(short), sleep(long)).await {
        Either::Left(_) => println!("the short sleep won after {:?}", begun.elapsed()),
        Either::Right(_) => println!("an hour has passed"),
    }
}

/// "If nothing is heard for 5 ms, suspect": each message drops the timeout, and awaiting the next
/// one arms a new one. No timer is kept, reset or forgotten.
async fn a_timeout_is_a_scope() {
    let mut heartbeats = [1, 2, 3, 20].into_iter().map(Duration::from_millis);
    let mut heard = 0;
    loop {
        let pause = heartbeats.next().unwrap_or(Duration::MAX);
        match timeout(Duration::from_millis(5), sleep(pause)).await {
            Ok(()) => heard += 1,
            Err(Elapsed) => break,
        }
    }
    println!("heard {heard} heartbeats, then silence");
}

/// Tasks need not be `Send`: they stay on this thread.
async fn tasks_are_joined() {
    let tasks: Vec<_> = (1..=10u64)
        .map(|n| {
            spawn(async move {
                yield_now().await;
                n * n
            })
        })
        .collect();
    let mut sum = 0;
    for task in tasks {
        sum += task.await.expect("no task panics");
    }
    println!("ten tasks sum up to {sum}");
}
