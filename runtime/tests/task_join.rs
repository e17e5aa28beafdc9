//! Tasks that are joined or detached.

mod counted;

use std::time::Duration;

use counted::{Counts, runtime};
use viewring_runtime::time::timeout;
use viewring_runtime::{metrics, spawn, yield_now};

#[test]
fn a_joined_task_gives_its_output() {
    let counts = Counts::new();
    runtime().block_on(async {
        let task = spawn(counts.future(0));
        assert_eq!(counts.get(), (0, 0, 0));
        let output = task.await.expect("it finished");
        assert_eq!(counts.get(), (1, 1, 0));
        drop(output);
        assert_eq!(counts.get(), (1, 1, 1));
        assert_eq!(metrics().tasks_alive, 0);
    });
}

#[test]
fn a_task_that_finished_before_can_be_joined() {
    let counts = Counts::new();
    runtime().block_on(async {
        let task = spawn(counts.future(0));
        yield_now().await;
        assert!(task.is_finished());
        assert_eq!(counts.get(), (1, 1, 0));
        drop(task.await.expect("it finished"));
        assert_eq!(counts.get(), (1, 1, 1));
    });
}

#[test]
fn a_detached_task_goes_on_and_its_output_is_dropped() {
    let counts = Counts::new();
    runtime().block_on(async {
        spawn(counts.future(1)).detach();
        yield_now().await;
        assert_eq!(counts.get(), (1, 0, 0));
        assert_eq!(metrics().tasks_alive, 1);
        counts.waker().wake();
        yield_now().await;
        assert_eq!(counts.get(), (2, 1, 1));
        assert_eq!(metrics().tasks_alive, 0);
    });
}

#[test]
fn a_dropped_handle_detaches() {
    let counts = Counts::new();
    runtime().block_on(async {
        drop(spawn(counts.future(1)));
        yield_now().await;
        counts.waker().wake();
        yield_now().await;
        assert_eq!(counts.get(), (2, 1, 1));
    });
}

#[test]
fn a_handle_dropped_after_the_end_drops_the_output() {
    let counts = Counts::new();
    runtime().block_on(async {
        let task = spawn(counts.future(0));
        yield_now().await;
        assert_eq!(counts.get(), (1, 1, 0));
        drop(task);
        assert_eq!(counts.get(), (1, 1, 1));
    });
}

#[test]
fn a_wait_that_was_dropped_loses_nothing() {
    let counts = Counts::new();
    runtime().block_on(async {
        let mut task = spawn(counts.future(1));
        for _ in 0..3 {
            let waited = timeout(Duration::from_micros(200), &mut task).await;
            assert!(waited.is_err());
        }
        assert_eq!(counts.get(), (1, 0, 0));
        counts.waker().wake();
        drop(task.await.expect("it finished"));
        assert_eq!(counts.get(), (2, 1, 1));
    });
}

#[test]
fn a_task_spawned_outside_runs_with_the_next_block_on() {
    let counts = Counts::new();
    let runtime = runtime();
    let task = runtime.spawn(counts.future(0));
    assert_eq!(counts.get(), (0, 0, 0));
    drop(runtime.block_on(task).expect("it finished"));
    assert_eq!(counts.get(), (1, 1, 1));
}

#[test]
fn a_task_is_suspended_between_two_block_ons() {
    let counts = Counts::new();
    let runtime = runtime();
    let task = runtime.spawn(counts.future(1));
    runtime.block_on(yield_now());
    assert_eq!(counts.get(), (1, 0, 0));
    counts.waker().wake();
    assert_eq!(counts.get(), (1, 0, 0));
    drop(runtime.block_on(task).expect("it finished"));
    assert_eq!(counts.get(), (2, 1, 1));
}

#[test]
fn tasks_start_in_the_order_of_their_spawning() {
    runtime().block_on(async {
        let order = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let tasks: Vec<_> = (0..300)
            .map(|number| {
                let order = std::rc::Rc::clone(&order);
                spawn(async move { order.borrow_mut().push(number) })
            })
            .collect();
        for task in tasks {
            task.await.expect("it finished");
        }
        assert!(order.borrow().iter().copied().eq(0..300));
    });
}
