//! What does a trip through the reactor cost?
//!
//! ```text
//! cargo bench -p viewring-benches --bench nop
//! ```
//!
//! A NOP does nothing in the kernel, so what it takes is the way there and back: future, operation
//! table, submission queue, system call, completion queue, waker. Baseline: the same NOPs on a ring
//! by hand. The difference is the runtime's.

use std::time::{Duration, Instant};

use criterion::{
    BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime,
};
use viewring_benches::raw_ring::RawRing;
use viewring_benches::{enters, runtime, scaled};
use viewring_runtime::{metrics, nop, spawn};

const IN_FLIGHT: u64 = 32;

fn one_awaited(group: &mut BenchmarkGroup<'_, WallTime>) {
    let runtime = runtime();
    group.bench_function("viewring", |b| {
        b.iter_custom(|iters| runtime.block_on(one_task(iters)));
    });
    let mut ring = RawRing::new().expect("a ring");
    group.bench_function("raw", |b| b.iter(|| ring.nops(1).expect("a NOP succeeds")));
}

async fn one_task(nops: u64) -> Duration {
    let before = enters(&metrics());
    let start = Instant::now();
    for _ in 0..nops {
        nop().await.expect("a NOP succeeds");
    }
    let elapsed = start.elapsed();
    let entered = enters(&metrics()) - before;
    assert!(entered >= nops, "a NOP that never saw the kernel");
    assert!(entered <= nops + 1, "{entered} enters for {nops} NOPs");
    elapsed
}

fn many_in_flight(group: &mut BenchmarkGroup<'_, WallTime>) {
    let runtime = runtime();
    group.bench_function("viewring", |b| {
        b.iter_custom(|iters| runtime.block_on(many_tasks(iters)));
    });
    let mut ring = RawRing::new().expect("a ring");
    group.bench_function("raw", |b| {
        b.iter_custom(|iters| {
            let rounds = iters.div_ceil(IN_FLIGHT);
            let start = Instant::now();
            for _ in 0..rounds {
                ring.nops(IN_FLIGHT as usize).expect("a NOP succeeds");
            }
            scaled(start.elapsed(), rounds * IN_FLIGHT, iters)
        });
    });
}

async fn many_tasks(nops: u64) -> Duration {
    let each = nops.div_ceil(IN_FLIGHT);
    let before = enters(&metrics());
    let start = Instant::now();
    let task = |_| {
        spawn(async move {
            for _ in 0..each {
                nop().await.expect("a NOP succeeds");
            }
        })
    };
    let tasks: Vec<_> = (0..IN_FLIGHT).map(task).collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    let elapsed = start.elapsed();
    let entered = enters(&metrics()) - before;
    assert!(entered <= each + 2, "{entered} enters for {each} rounds");
    scaled(elapsed, each * IN_FLIGHT, nops)
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("nop/one_awaited");
    one_awaited(&mut group);
    group.finish();
    // Nanoseconds per NOP.
    let mut group = criterion.benchmark_group("nop/32_in_flight");
    many_in_flight(&mut group);
    group.finish();
}

criterion_group!(name = nops; config = viewring_benches::criterion(); targets = benches);
criterion_main!(nops);
