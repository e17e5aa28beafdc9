//! Runs test bodies on every reactor.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use viewring_runtime::sim::World;
use viewring_runtime::time::{sleep, timeout};
use viewring_runtime::{Config, Runtime, Uring, metrics};

/// No body takes longer.
const BOUND: Duration = Duration::from_secs(20);

/// Waits until no more than `left` operations are in flight.
pub(crate) async fn drained(left: usize) {
    while metrics().operations_in_flight > left {
        sleep(Duration::from_micros(100)).await;
    }
}

/// Runs a body on io_uring; skips it, loudly, where that is not permitted.
pub(crate) fn on_uring<F: Future<Output = ()>>(name: &str, body: fn() -> F) {
    let reactor = match Uring::new() {
        Ok(reactor) => reactor,
        Err(error) => {
            eprintln!("SKIPPED {name}: {error}");
            return;
        }
    };
    let runtime = Runtime::new(reactor, Config::default());
    runtime.block_on(async {
        timeout(BOUND, body()).await.expect("the body ends in time");
    });
    let metrics = runtime.metrics();
    assert_eq!(metrics.completions_stale, 0);
    assert_eq!(metrics.reactor("completions_unknown"), 0);
}

/// Runs a body on a node of a simulated world in which nothing fails.
pub(crate) fn on_sim<F: Future<Output = ()> + 'static>(_name: &str, body: fn() -> F) {
    let mut world = World::new(1);
    let node = world.add_node();
    let done = Rc::new(Cell::new(false));
    world.start(node, {
        let done = Rc::clone(&done);
        move || {
            let done = Rc::clone(&done);
            async move {
                timeout(BOUND, body()).await.expect("the body ends in time");
                done.set(true);
            }
        }
    });
    let ended = world.run_until(|world| !world.is_up(node), 2 * BOUND);
    assert_eq!(ended, Ok(()));
    assert!(done.get());
}

/// Instantiates every body for one reactor.
macro_rules! conformance {
    ($reactor:ident, $run:path, [$($body:ident)*]) => {
        mod $reactor {
            $(#[test]
            fn $body() {
                $run(stringify!($body), super::$body);
            })*
        }
    };
}

/// Hands the list of bodies to `conformance!`, for each reactor.
macro_rules! bodies {
    ($($body:ident)*) => {
        conformance!(uring, crate::conformance::on_uring, [$($body)*]);
        conformance!(sim, crate::conformance::on_sim, [$($body)*]);
    };
}
