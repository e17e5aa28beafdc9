//! Wakers: repeated, late, from elsewhere, of the task itself.

mod counted;

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use counted::{Counts, runtime};
use viewring_runtime::time::{sleep, timeout};
use viewring_runtime::{metrics, spawn, yield_now};

#[test]
fn many_wakes_are_one_poll() {
    let counts = Counts::new();
    runtime().block_on(async {
        spawn(counts.future(2)).detach();
        yield_now().await;
        for _ in 0..100 {
            counts.waker().wake();
        }
        yield_now().await;
        assert_eq!(counts.get(), (2, 0, 0));
        yield_now().await;
        assert_eq!(counts.get(), (2, 0, 0));
    });
    assert_eq!(counts.get(), (2, 1, 0));
}

#[test]
fn a_wake_after_the_end_is_nothing() {
    let counts = Counts::new();
    runtime().block_on(async {
        let task = spawn(counts.future(0));
        yield_now().await;
        counts.waker().wake();
        yield_now().await;
        assert_eq!(counts.get(), (1, 1, 0));
        drop(task.await.expect("it finished"));
    });
    assert_eq!(counts.get(), (1, 1, 1));
}

#[test]
fn a_task_that_wakes_itself_runs_again_after_the_others() {
    runtime().block_on(async {
        let polls = std::rc::Rc::new(std::cell::Cell::new(0));
        let selfish = spawn({
            let polls = std::rc::Rc::clone(&polls);
            poll_fn(move |cx| {
                polls.set(polls.get() + 1);
                if polls.get() == 1000 {
                    return Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                cx.waker().wake_by_ref();
                Poll::Pending
            })
        });
        for expected in 1..=10 {
            spawn(async {}).await.expect("others run");
            assert!(polls.get() <= expected * 3, "and not seldom");
        }
        selfish.await.expect("it finished");
        assert_eq!(polls.get(), 1000);
    });
}

#[test]
fn a_waker_may_outlive_its_runtime() {
    let counts = Counts::new();
    let runtime = runtime();
    runtime.block_on(async {
        spawn(counts.future(1)).detach();
        yield_now().await;
    });
    let waker = counts.waker();
    let root = runtime.block_on(poll_fn(|cx| Poll::Ready(cx.waker().clone())));
    drop(runtime);
    assert_eq!(counts.get(), (1, 1, 0));
    waker.wake_by_ref();
    let elsewhere = std::thread::spawn(move || {
        waker.wake_by_ref();
        let another = waker.clone();
        another.wake();
        drop(waker);
        root.wake_by_ref();
        root.wake();
    });
    elsewhere.join().expect("no panic");
    counts.waker().wake();
    assert_eq!(counts.get(), (1, 1, 0));
}

#[test]
fn the_last_waker_of_a_task_may_be_dropped_elsewhere() {
    let counts = Counts::new();
    runtime().block_on(async {
        let (task, kept) = futures::channel::oneshot::channel::<()>();
        let held = counts.future(0);
        let waits = spawn(async move {
            let _held = held;
            kept.await
        });
        yield_now().await;
        // The sender holds the task's waker, and wakes it by its drop.
        let elsewhere = std::thread::spawn(move || drop(task));
        waits
            .await
            .expect("no panic")
            .expect_err("the sender is gone");
        elsewhere.join().expect("no panic");
        assert_eq!(metrics().tasks_alive, 0);
    });
    assert_eq!(counts.get(), (0, 1, 0));
}

#[test]
fn the_main_future_is_woken_from_elsewhere() {
    let runtime = runtime();
    for _ in 0..200 {
        let mut thread = None;
        runtime.block_on(poll_fn(|cx| {
            if thread.is_some() {
                return Poll::Ready(());
            }
            let waker = cx.waker().clone();
            thread = Some(std::thread::spawn(move || waker.wake()));
            Poll::Pending
        }));
        thread
            .into_iter()
            .for_each(|thread| thread.join().expect("no panic"));
    }
}

#[test]
fn a_spurious_wake_of_the_main_future_is_harmless() {
    runtime().block_on(async {
        let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
        spawn(async move {
            for _ in 0..100 {
                waker.wake_by_ref();
                yield_now().await;
            }
        })
        .detach();
        let waited = timeout(Duration::from_millis(2), std::future::pending::<()>()).await;
        assert!(waited.is_err());
        sleep(Duration::from_micros(100)).await;
    });
}
