//! Tasks that are aborted or cancelled.

mod counted;

use std::cell::RefCell;
use std::rc::Rc;

use counted::{Counts, runtime};
use viewring_runtime::{JoinError, JoinHandle, metrics, spawn, yield_now};

#[test]
fn an_aborted_task_is_dropped_soon() {
    let counts = Counts::new();
    runtime().block_on(async {
        let task = spawn(counts.future(1));
        yield_now().await;
        assert_eq!(counts.get(), (1, 0, 0));
        task.abort();
        yield_now().await;
        assert_eq!(counts.get(), (1, 1, 0));
        assert_eq!(metrics().tasks_alive, 0);
    });
}

#[test]
fn a_task_aborted_before_its_first_poll_is_never_polled() {
    let counts = Counts::new();
    runtime().block_on(async {
        spawn(counts.future(0)).abort();
        yield_now().await;
        assert_eq!(counts.get(), (0, 1, 0));
    });
}

#[test]
fn a_ready_task_that_is_aborted_is_not_polled_again() {
    let counts = Counts::new();
    runtime().block_on(async {
        let task = spawn(counts.future(1));
        yield_now().await;
        counts.waker().wake();
        task.abort();
        yield_now().await;
        assert_eq!(counts.get(), (1, 1, 0));
    });
}

#[test]
fn an_aborted_task_that_had_finished_drops_its_output() {
    let counts = Counts::new();
    runtime().block_on(async {
        let task = spawn(counts.future(0));
        yield_now().await;
        assert_eq!(counts.get(), (1, 1, 0));
        task.abort();
        assert_eq!(counts.get(), (1, 1, 1));
    });
}

#[test]
fn cancel_waits_until_the_future_is_gone() {
    let counts = Counts::new();
    runtime().block_on(async {
        let task = spawn(counts.future(1));
        yield_now().await;
        let cancelled = task.cancel().await.expect("no panic");
        assert!(cancelled.is_none());
        assert_eq!(counts.get(), (1, 1, 0));
    });
}

#[test]
fn cancel_gives_the_output_of_a_finished_task() {
    let counts = Counts::new();
    runtime().block_on(async {
        let task = spawn(counts.future(0));
        yield_now().await;
        let output = task.cancel().await.expect("no panic");
        assert!(output.is_some());
        assert_eq!(counts.get(), (1, 1, 0));
        drop(output);
        assert_eq!(counts.get(), (1, 1, 1));
    });
}

#[test]
fn cancel_gives_the_panic_of_a_task() {
    runtime().block_on(async {
        let task = spawn(async { panic!("on purpose") });
        yield_now().await;
        let error = task.cancel().await.expect_err("it panicked");
        assert_eq!(error.to_string(), "the task panicked: on purpose");
    });
}

#[test]
fn a_dropped_cancel_still_cancels() {
    let counts = Counts::new();
    runtime().block_on(async {
        let task = spawn(counts.future(1));
        yield_now().await;
        let mut cancel = Box::pin(task.cancel());
        assert!(futures::poll!(&mut cancel).is_pending());
        drop(cancel);
        yield_now().await;
        assert_eq!(counts.get(), (1, 1, 0));

        drop(spawn(counts.future(1)).cancel()); // never polled
        yield_now().await;
        assert_eq!(counts.get(), (1, 2, 0));
    });
}

#[test]
fn a_task_can_abort_itself() {
    let counts = Counts::new();
    runtime().block_on(async {
        let own: Rc<RefCell<Option<JoinHandle<()>>>> = Rc::default();
        let task = spawn({
            let (own, inner) = (Rc::clone(&own), counts.future(9));
            async move {
                let own = own.take().expect("put there below");
                own.abort();
                drop(inner.await);
                unreachable!("aborted at its first suspension");
            }
        });
        *own.borrow_mut() = Some(task);
        yield_now().await;
        yield_now().await;
        assert_eq!(counts.get(), (1, 1, 0));
        assert_eq!(metrics().tasks_alive, 0);
    });
}

#[test]
fn whoever_joins_a_task_of_a_dropped_runtime_is_told() {
    let counts = Counts::new();
    let first = runtime();
    let task = first.spawn(counts.future(1));
    first.block_on(yield_now());
    drop(first);
    assert_eq!(counts.get(), (1, 1, 0));
    let joined = runtime().block_on(task);
    assert!(matches!(joined, Err(JoinError::Cancelled)));
}
