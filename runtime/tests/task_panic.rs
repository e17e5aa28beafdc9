//! Panics: in tasks, in what other threads hand over, and out of `block_on`.

mod counted;

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};
use std::task::{Context, Wake};
use std::time::Duration;

use counted::Counts;
use tracing::span;
use viewring_runtime::time::sleep;
use viewring_runtime::{JoinError, Runtime, metrics, spawn, yield_now};

thread_local! {
    static ERRORS: Cell<u32> = const { Cell::new(0) };
}

/// Counts the errors that are logged, each on its thread.
///
/// One for the whole process, set before anything is logged. With one for the thread of a test, a
/// test on another thread could be the first to log something: `tracing` would remember that
/// nobody wants to hear it.
struct Errors;

impl tracing::Subscriber for Errors {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        ERRORS.set(ERRORS.get() + 1);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// A runtime whose errors are counted.
fn runtime() -> Runtime {
    static COUNTED: Once = Once::new();
    COUNTED.call_once(|| tracing::subscriber::set_global_default(Errors).expect("the only one"));
    counted::runtime()
}

/// How many errors `f` logs on this thread.
fn logged(f: impl FnOnce()) -> u32 {
    let before = ERRORS.get();
    f();
    ERRORS.get() - before
}

#[test]
fn a_panic_reaches_the_joiner_and_nobody_else() {
    let counts = Counts::new();
    let logged = logged(|| {
        runtime().block_on(async {
            let bystander = spawn(counts.future(0));
            let task = spawn(async {
                yield_now().await;
                panic!("one of {}", metrics().tasks_alive)
            });
            let error = task.await.expect_err("it panicked");
            assert_eq!(error.to_string(), "the task panicked: one of 1");
            let JoinError::Panicked(payload) = error else {
                unreachable!("it said so")
            };
            assert_eq!(payload.downcast_ref::<String>().expect("text"), "one of 1");
            drop(bystander.await.expect("it finished"));
            assert_eq!((metrics().task_panics, metrics().tasks_alive), (1, 0));
        });
    });
    assert_eq!((logged, counts.get()), (0, (1, 1, 1)));
}

#[test]
fn a_panic_in_a_detached_task_is_counted_and_logged() {
    let elsewhere = || {
        runtime().block_on(async {
            spawn(async { panic!("not here") }).detach();
            yield_now().await;
        });
    };
    let logged = logged(|| {
        std::thread::spawn(elsewhere).join().expect("it ends");
        runtime().block_on(async {
            spawn(async { panic!("unobserved") }).detach();
            yield_now().await;
            assert_eq!((metrics().task_panics, metrics().tasks_alive), (1, 0));
        });
    });
    assert_eq!(logged, 1);
}

#[test]
fn a_panic_whose_handle_is_dropped_later_is_logged_once() {
    let logged = logged(|| {
        runtime().block_on(async {
            let task = spawn(async { panic!("seen late") });
            yield_now().await;
            assert!(task.is_finished());
            assert_eq!(metrics().task_panics, 1);
            drop(task);
            assert_eq!((metrics().task_panics, metrics().tasks_alive), (1, 0));
        });
    });
    assert_eq!(logged, 1);
}

#[test]
fn the_future_of_a_task_that_panicked_is_dropped() {
    let counts = Counts::new();
    runtime().block_on(async {
        let held = counts.future(0);
        let task = spawn(async move {
            yield_now().await;
            let _held = held;
            panic!("with something in hand");
        });
        task.await.expect_err("it panicked");
    });
    assert_eq!(counts.get(), (0, 1, 0));
}

#[test]
fn a_panic_in_what_another_thread_handed_over_is_a_tasks_panic() {
    let runtime = runtime();
    let handle = runtime.handle();
    let ran = Arc::new(AtomicU32::new(0));
    for number in 0..4 {
        let ran = Arc::clone(&ran);
        let handed = handle.spawn_on(move || {
            assert!(number != 1, "on purpose");
            ran.fetch_add(1, Ordering::Relaxed);
            async {}
        });
        handed.expect("the runtime is there");
    }
    runtime.block_on(async {
        yield_now().await;
        yield_now().await;
        assert_eq!(metrics().task_panics, 1);
    });
    assert_eq!(ran.load(Ordering::Relaxed), 3);
}

#[test]
fn a_nested_block_on_panics_and_the_runtime_goes_on() {
    let (outer, inner) = (runtime(), runtime());
    for _ in 0..2 {
        outer.block_on(async {
            let nested = catch_unwind(AssertUnwindSafe(|| inner.block_on(async {})));
            nested.expect_err("nested");
            let own = catch_unwind(AssertUnwindSafe(|| outer.block_on(async {})));
            own.expect_err("nested");
            sleep(Duration::from_micros(100)).await;
            spawn(async {}).await.expect("tasks still run");
        });
    }
    inner.block_on(async { sleep(Duration::from_micros(100)).await });
}

#[test]
fn a_panic_out_of_block_on_can_be_caught_and_the_runtime_goes_on() {
    let counts = Counts::new();
    let runtime = runtime();
    let task = runtime.spawn(counts.future(1));
    let caught = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            yield_now().await;
            panic!("out of block_on");
        });
    }));
    caught.expect_err("it panicked");
    assert_eq!(counts.get(), (1, 0, 0));
    counts.waker().wake();
    drop(runtime.block_on(task).expect("it finished"));
    assert_eq!(counts.get(), (2, 1, 1));
}

#[test]
fn a_panic_out_of_block_on_shuts_the_runtime_down() {
    let counts = Counts::new();
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let runtime = runtime();
        runtime.spawn(counts.future(1)).detach();
        runtime.block_on(async {
            yield_now().await;
            panic!("out of block_on");
        });
    }));
    caught.expect_err("it panicked");
    assert_eq!(counts.get(), (1, 1, 0));
    // The thread is free again.
    runtime().block_on(async { sleep(Duration::from_micros(100)).await });
}

#[test]
fn a_panicking_waker_ends_block_on_but_not_the_runtime() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker that panics");
        }
    }
    let runtime = runtime();
    let caught = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let mut timer = sleep(Duration::from_micros(200));
            let waker = Arc::new(Panics).into();
            let mut cx = Context::from_waker(&waker);
            let polled = Pin::new(&mut timer).poll(&mut cx);
            assert!(polled.is_pending());
            std::future::pending::<()>().await;
        });
    }));
    caught.expect_err("it panicked");
    let turns = runtime.metrics().turns;
    runtime.block_on(async { sleep(Duration::from_millis(20)).await });
    assert!(
        runtime.metrics().turns - turns < 10,
        "it sleeps, and does not spin"
    );
}
