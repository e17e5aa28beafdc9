//! What does `yield_now` cost, and a turn with nothing to submit and nothing to reap?
//!
//! ```text
//! cargo bench -p viewring-benches --bench yield
//! ```
//!
//! When one task yields, every yield is a turn of the loop; when many do, they share it. So
//! `128_tasks` is the price of waking and polling a task, and what `one_task` costs above that is
//! the turn. Neither makes a system call: the counter says so. Baseline: `async-task` and a queue,
//! which is an executor without runtime around it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use async_task::Runnable;
use criterion::{Criterion, criterion_group, criterion_main};
use viewring_benches::{enters, runtime, scaled};
use viewring_runtime::{metrics, spawn, yield_now};

async fn yield_times(times: u64) {
    for _ in 0..times {
        yield_now().await;
    }
}

/// `tasks` tasks that share `yields`.
async fn yields_of(tasks: u64, yields: u64) -> Duration {
    let each = yields.div_ceil(tasks);
    let before = metrics();
    let start = Instant::now();
    let tasks: Vec<_> = (0..tasks).map(|_| spawn(yield_times(each))).collect();
    let count = tasks.len() as u64;
    for task in tasks {
        task.await.expect("no panic");
    }
    let elapsed = start.elapsed();
    let after = metrics();
    assert_eq!(enters(&after), enters(&before), "a yield is no system call");
    assert!(
        after.turns - before.turns >= each,
        "a yield lets the loop turn"
    );
    assert_eq!(after.polls - before.polls, count * (each + 1));
    scaled(elapsed, each * count, yields)
}

/// The same in the future that `block_on` runs.
async fn yields_of_root(yields: u64) -> Duration {
    let before = metrics();
    let start = Instant::now();
    yield_times(yields).await;
    let elapsed = start.elapsed();
    let after = metrics();
    assert_eq!(enters(&after), enters(&before), "a yield is no system call");
    assert_eq!(after.turns - before.turns, yields);
    elapsed
}

thread_local! {
    static QUEUE: RefCell<VecDeque<Runnable>> = const { RefCell::new(VecDeque::new()) };
}

/// A queue of runnable tasks, and nothing else.
fn yields_of_queue(tasks: u64, yields: u64) -> Duration {
    let schedule = |runnable| QUEUE.with_borrow_mut(|queue| queue.push_back(runnable));
    let each = yields.div_ceil(tasks);
    let task = |_| {
        let (runnable, task) = async_task::spawn_local(yield_times(each), schedule);
        runnable.schedule();
        task
    };
    let start = Instant::now();
    let handles: Vec<_> = (0..tasks).map(task).collect();
    let mut polls = 0;
    while let Some(runnable) = QUEUE.with_borrow_mut(VecDeque::pop_front) {
        runnable.run();
        polls += 1;
    }
    let elapsed = start.elapsed();
    assert!(handles.iter().all(async_task::Task::is_finished));
    assert_eq!(polls, tasks * (each + 1));
    scaled(elapsed, each * tasks, yields)
}

fn benches(criterion: &mut Criterion) {
    let runtime = runtime();
    for (name, tasks) in [("yield/one_task", 1), ("yield/128_tasks", 128)] {
        let mut group = criterion.benchmark_group(name);
        group.bench_function("viewring", |b| {
            b.iter_custom(|iters| runtime.block_on(yields_of(tasks, iters)));
        });
        group.bench_function("queue", |b| {
            b.iter_custom(|iters| yields_of_queue(tasks, iters));
        });
        group.finish();
    }
    let mut group = criterion.benchmark_group("yield/root");
    group.bench_function("viewring", |b| {
        b.iter_custom(|iters| runtime.block_on(yields_of_root(iters)));
    });
    group.finish();
}

criterion_group!(name = yields; config = viewring_benches::criterion(); targets = benches);
criterion_main!(yields);
