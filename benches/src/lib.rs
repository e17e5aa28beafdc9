//! What the benches share: clocks, pinning, medians, and the raw ring that they compare with.
//!
//! Each file in `benches/` asks one question and holds its own baseline. Where microseconds of one
//! thread are in question it is criterion that measures; where two threads or whole distributions
//! are, the file prints its own table, of rounds in which the contestants take turns. Wall-clock
//! figures belong to one machine: compare ratios, system calls and CPU time.

pub mod four_hops;
pub mod group;
pub mod raw_ring;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use criterion::Criterion;
use rustix::thread::CpuSet;
use rustix::time::{ClockId, clock_gettime};
use viewring_runtime::{Config, Metrics, Runtime, Uring};

/// A runtime with defaults, on io_uring.
///
/// # Panics
/// When there can be no ring.
pub fn runtime() -> Runtime {
    Runtime::new(Uring::new().expect("a ring"), Config::default())
}

/// How many times the runtime entered the kernel.
pub fn enters(metrics: &Metrics) -> u64 {
    metrics.reactor("enters")
}

/// Settings that let all files together run in a few minutes.
pub fn criterion() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(50)
}

/// What `wanted` rounds would have taken, when `done` of them, perhaps some more, took `elapsed`.
pub fn scaled(elapsed: Duration, done: u64, wanted: u64) -> Duration {
    elapsed.mul_f64(wanted as f64 / done as f64)
}

/// Whether `cargo bench` runs this. If not it is `cargo test`, which only wants to see it work.
pub fn is_measuring() -> bool {
    std::env::args().any(|arg| arg == "--bench")
}

/// Whether the command line asks for this part of a file: it does unless it names another.
pub fn is_wanted(part: &str) -> bool {
    let mut named = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .peekable();
    named.peek().is_none() || named.any(|name| part.contains(&name))
}

/// `full` under `cargo bench`, a tenth with `--quick`, a hundredth under `cargo test`.
pub fn rounds(full: u64) -> u64 {
    if !is_measuring() {
        full.div_ceil(100)
    } else if std::env::args().any(|arg| arg == "--quick") {
        full.div_ceil(10)
    } else {
        full
    }
}

/// Polls once, wherever that leads.
pub async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    std::future::poll_fn(|cx: &mut Context<'_>| Poll::Ready(future.as_mut().poll(cx))).await
}

/// Keeps this thread on one core.
///
/// # Panics
/// When there is no such core.
pub fn pin_to_core(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    rustix::thread::sched_setaffinity(None, &cores).expect("a core of that number");
}

/// The CPU time that this thread has used, in user space and in the kernel.
pub fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The value below which the share `quantile` of `values` lies. Sorts them.
///
/// # Panics
/// When there are none.
pub fn quantile(values: &mut [f64], quantile: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * quantile).round() as usize]
}

/// The middle one.
///
/// # Panics
/// When there are none.
pub fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

/// The values of several contestants, by round.
#[derive(Debug)]
pub struct Table {
    title: &'static str,
    names: Vec<&'static str>,
    rounds: Vec<Vec<f64>>,
}

impl Table {
    /// An empty table. The last of `names` is what the others are compared with.
    pub fn new(title: &'static str, names: &[&'static str]) -> Self {
        Self {
            title,
            names: names.to_vec(),
            rounds: Vec::new(),
        }
    }

    /// Adds one value of each contestant.
    ///
    /// # Panics
    /// When it is not one of each.
    pub fn add_round(&mut self, values: Vec<f64>) {
        assert_eq!(values.len(), self.names.len());
        self.rounds.push(values);
    }

    /// Prints the median, the least and the most of each, and the median of the ratios of each
    /// round.
    pub fn print(&self) {
        println!("{}", self.title);
        for (place, name) in self.names.iter().enumerate() {
            let column = |value: fn(&[f64], usize) -> f64| -> Vec<f64> {
                self.rounds.iter().map(|row| value(row, place)).collect()
            };
            let mut values = column(|row, place| row[place]);
            let mut ratios = column(|row, place| row[place] / row[row.len() - 1]);
            println!(
                "  {name:<28} median {:>10.3}  least {:>10.3}  \
                 most {:>10.3}  ratio {:>6.3}",
                median(&mut values),
                quantile(&mut values, 0.0),
                quantile(&mut values, 1.0),
                median(&mut ratios),
            );
        }
    }
}

/// Numbers that look random and are the same in each run.
#[derive(Clone, Debug)]
pub struct Noise(u64);

impl Noise {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number (SplitMix64).
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// How long the datagrams of the UDP benches are.
pub const DATAGRAM_LEN: usize = 64;

/// Datagram number `sequence`: the number, and bytes that follow from it.
pub fn datagram(sequence: u64) -> [u8; DATAGRAM_LEN] {
    let mut bytes = [0; DATAGRAM_LEN];
    let (number, filling) = bytes.split_at_mut(8);
    number.copy_from_slice(&sequence.to_le_bytes());
    let pattern = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    for (place, byte) in filling.iter_mut().enumerate() {
        *byte = pattern[place % 8] ^ place as u8;
    }
    bytes
}

/// The number of a datagram, all of whose bytes are as [`datagram`] makes them.
///
/// # Panics
/// When a byte is not.
pub fn sequence_of(bytes: &[u8]) -> u64 {
    let number = bytes.first_chunk().expect("a datagram of ours");
    let sequence = u64::from_le_bytes(*number);
    assert_eq!(bytes, datagram(sequence), "a datagram was garbled");
    sequence
}
