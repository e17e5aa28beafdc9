//! What does waking another task of this thread and switching to it cost?
//!
//! ```text
//! cargo bench -p viewring-benches --bench wake
//! ```
//!
//! Pairs of tasks pass a token to and fro. With one pair every switch is a turn of the loop; with
//! 64 pairs they share it. Baseline: a queue of closures, each of which puts its partner on it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use viewring_benches::{enters, runtime, scaled};
use viewring_runtime::{metrics, spawn};

/// Something that one task of a thread waits for and another one raises.
#[derive(Default)]
struct Signal {
    raised: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Signal {
    fn raise(&self) {
        assert!(!self.raised.replace(true), "a token too many");
        let waker = self.waiting.borrow_mut().take();
        waker.into_iter().for_each(Waker::wake);
    }

    async fn wait(&self) {
        poll_fn(|cx| {
            if self.raised.replace(false) {
                return Poll::Ready(());
            }
            *self.waiting.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Waits for `mine` and raises `theirs`, `times` times.
async fn pass(mine: Rc<Signal>, theirs: Rc<Signal>, times: u64, passed: Rc<Cell<u64>>) {
    for _ in 0..times {
        mine.wait().await;
        passed.set(passed.get() + 1);
        theirs.raise();
    }
}

async fn tasks(pairs: u64, wakes: u64) -> Duration {
    let rounds = wakes.div_ceil(2 * pairs);
    let passed = Rc::new(Cell::new(0));
    let before = enters(&metrics());
    let mut tasks = Vec::new();
    let mut signals = Vec::new();
    for _ in 0..pairs {
        let (a, b) = (Rc::<Signal>::default(), Rc::<Signal>::default());
        let one = pass(Rc::clone(&a), Rc::clone(&b), rounds, Rc::clone(&passed));
        let other = pass(Rc::clone(&b), Rc::clone(&a), rounds, Rc::clone(&passed));
        tasks.extend([spawn(one), spawn(other)]);
        signals.push(a);
    }
    let start = Instant::now();
    signals.iter().for_each(|signal| signal.raise());
    for task in tasks {
        task.await.expect("no panic");
    }
    let elapsed = start.elapsed();
    assert_eq!(passed.get(), 2 * rounds * pairs);
    assert_eq!(enters(&metrics()), before, "a wake is no system call");
    scaled(elapsed, passed.get(), wakes)
}

type Closure = Box<dyn FnMut(&mut VecDeque<usize>)>;

fn closures(pairs: u64, wakes: u64) -> Duration {
    let rounds = wakes.div_ceil(2 * pairs);
    let passed = Rc::new(Cell::new(0));
    let closure = |place: usize| -> Closure {
        let (passed, mut left) = (Rc::clone(&passed), rounds);
        Box::new(move |queue| {
            passed.set(passed.get() + 1);
            left -= 1;
            if left > 0 || place.is_multiple_of(2) {
                queue.push_back(place ^ 1);
            }
        })
    };
    let count = 2 * pairs as usize;
    let mut closures: Vec<Closure> = (0..count).map(closure).collect();
    let mut queue: VecDeque<usize> = (0..count).step_by(2).collect();
    let start = Instant::now();
    while let Some(place) = queue.pop_front() {
        closures[place](&mut queue);
    }
    let elapsed = start.elapsed();
    assert_eq!(passed.get(), 2 * rounds * pairs);
    scaled(elapsed, passed.get(), wakes)
}

fn benches(criterion: &mut Criterion) {
    let runtime = runtime();
    for (name, pairs) in [("wake/one_pair", 1), ("wake/64_pairs", 64)] {
        let mut group = criterion.benchmark_group(name);
        group.bench_function("viewring", |b| {
            b.iter_custom(|iters| runtime.block_on(tasks(pairs, iters)));
        });
        group.bench_function("closures", |b| {
            b.iter_custom(|iters| closures(pairs, iters));
        });
        group.finish();
    }
}

criterion_group!(name = wakes; config = viewring_benches::criterion(); targets = benches);
criterion_main!(wakes);
