//! Queues of a few entries, and hundreds of operations and cancels: nothing is lost.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use viewring_runtime::fs::File;
use viewring_runtime::net::{UdpOptions, UdpSocket};
use viewring_runtime::time::{sleep, timeout};
use viewring_runtime::{Config, Metrics, Runtime, Uring, UringConfig, metrics, nop, signal};

fn localhost() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

/// Runs `body` on rings of 2, 4 and 8 submission entries, with few completion entries.
fn on_small_rings<F: Future<Output = ()>>(body: impl Fn() -> F) -> Vec<Metrics> {
    let run = |submission_entries: u32| {
        let config = UringConfig {
            submission_entries,
            completion_entries: 2 * submission_entries,
        };
        let ring = Uring::with_config(&config).expect("a ring");
        let runtime = Runtime::new(ring, Config::default());
        runtime.block_on(async {
            let bounded = timeout(Duration::from_secs(20), body()).await;
            bounded.expect("nothing is lost");
        });
        let metrics = runtime.metrics();
        assert_eq!(metrics.completions_stale, 0);
        assert_eq!(metrics.reactor("completions_unknown"), 0);
        let (submitted, enters) = (metrics.reactor("submitted"), metrics.reactor("enters"));
        assert!(submitted <= enters * u64::from(submission_entries));
        metrics
    };
    [2, 4, 8].into_iter().map(run).collect()
}

async fn drained() {
    while metrics().operations_in_flight > 0 {
        sleep(Duration::from_micros(100)).await;
    }
}

#[test]
fn every_operation_completes() {
    on_small_rings(|| async {
        for _ in 0..3 {
            let done = join_all((0..500).map(|_| nop())).await;
            assert!(done.into_iter().all(|done| done.is_ok()));
        }
        assert_eq!(metrics().operations_in_flight, 0);
    });
}

#[test]
fn every_send_goes_out() {
    on_small_rings(|| async {
        let options = UdpOptions {
            recv_buffers: 16,
            ..UdpOptions::default()
        };
        let bind = || UdpSocket::bind_with(localhost(), &options).expect("a socket");
        let (a, receivers) = (bind(), [(); 100].map(|()| bind()));
        let to: Vec<SocketAddr> = receivers.iter().map(UdpSocket::local_addr).collect();
        for round in 0..3u8 {
            let sent = a.send_to_many(&[round], &to).await;
            assert_eq!((sent.sent, sent.failed.len()), (100, 0));
        }
        for receiver in &receivers {
            for round in 0..3 {
                let datagram = receiver.recv_datagram().await.expect("no error");
                assert_eq!(datagram.payload(), [round]);
            }
        }
    });
}

#[test]
fn no_cancel_is_lost() {
    let metrics = on_small_rings(|| async {
        // These never complete but by their cancellation.
        let mut waits: Vec<_> = (0..300).map(|_| Box::pin(signal::shutdown())).collect();
        for wait in &mut waits {
            assert!(futures::poll!(wait).is_pending());
        }
        sleep(Duration::from_millis(1)).await;
        assert_eq!(metrics().operations_in_flight, 300);
        waits.truncate(100);
        drop(waits);
        drained().await;

        // Cancelled before they were submitted.
        let mut waits: Vec<_> = (0..300).map(|_| Box::pin(signal::shutdown())).collect();
        for wait in &mut waits {
            assert!(futures::poll!(wait).is_pending());
        }
        drop(waits);
        drained().await;
    });
    for metrics in metrics {
        assert_eq!(metrics.reactor("cancels"), 600);
        assert_eq!(metrics.operations_orphaned, 600);
    }
}

#[test]
fn dropped_sockets_give_their_receives_back() {
    on_small_rings(|| async {
        let options = UdpOptions {
            recv_buffers: 2,
            ..UdpOptions::default()
        };
        for _ in 0..3 {
            let sockets: Vec<UdpSocket> = (0..100)
                .map(|_| UdpSocket::bind_with(localhost(), &options).expect("a socket"))
                .collect();
            for socket in &sockets {
                assert!(socket.recv_datagram().now_or_never().is_none());
            }
            sleep(Duration::from_millis(1)).await;
            assert_eq!(metrics().operations_in_flight, 100);
            drop(sockets);
            drained().await;
        }
    });
}

#[test]
fn timers_and_wakes_find_room() {
    on_small_rings(|| async {
        let sleeps = (0..50u64).map(|number| sleep(Duration::from_micros(number * 50)));
        let (_, done) = futures::join!(join_all(sleeps), join_all((0..500).map(|_| nop())));
        assert!(done.into_iter().all(|done| done.is_ok()));
    });
}

#[test]
fn linked_pairs_stay_together() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("full-queues");
    let metrics = on_small_rings(|| async {
        let files = (0..60).map(|number| {
            let path = path.with_extension(number.to_string());
            async move { File::create_durable(path).await.expect("made") }
        });
        let files = join_all(files).await;
        for round in 0..3u8 {
            let data = [round; 999];
            let nops = join_all((0..61).map(|_| nop()));
            let writes = files.iter().map(|file| file.write_durable_at(&data, 5));
            let (_, written) = futures::join!(nops, join_all(writes));
            assert!(written.into_iter().all(|written| written.is_ok()));
        }
        for file in &files {
            assert_eq!(file.read_to_end().await.expect("read")[5..], [2; 999]);
            std::fs::remove_file(file.path()).expect("it is there");
        }
        drop(files);
        drained().await;
        while metrics().reactor("files_open") > 0 {
            nop().await.expect("no error");
        }
    });
    for metrics in metrics {
        assert_eq!(metrics.reactor("submissions_cut_short"), 0);
        assert_eq!(metrics.reactor("closes_failed"), 0);
        assert!(metrics.reactor("submissions_delayed") < metrics.reactor("submitted"));
    }
}

#[test]
fn a_runtime_with_a_full_backlog_shuts_down() {
    for submission_entries in [2, 8] {
        let config = UringConfig {
            submission_entries,
            completion_entries: submission_entries,
        };
        let ring = Uring::with_config(&config).expect("a ring");
        let runtime = Runtime::new(ring, Config::default());
        let mut waits: Vec<_> = (0..300).map(|_| Box::pin(signal::shutdown())).collect();
        runtime.block_on(async {
            for wait in &mut waits {
                assert!(futures::poll!(wait).is_pending());
            }
        });
        let before = std::time::Instant::now();
        drop(runtime);
        assert!(
            before.elapsed() < Duration::from_millis(900),
            "within its bound"
        );
        drop(waits);
    }
}

/// The kernel is lent few buffers at first. Whatever waits beyond them is received all the same,
/// and once it is known that more are needed the receive does not end for want of them again.
#[test]
fn a_burst_longer_than_what_was_lent_is_received_whole() {
    viewring_runtime::block_on(async {
        let options = UdpOptions {
            recv_buffers: 512,
            kernel_recv_bytes: Some(4 << 20),
            ..UdpOptions::default()
        };
        let receiver = UdpSocket::bind_with(localhost(), &options).expect("a socket");
        let sender = UdpSocket::bind(localhost()).expect("a socket");
        let mut ends = Vec::new();
        for _ in 0..8 {
            // Held until the burst is over, so none comes back meanwhile.
            let mut held = Vec::new();
            for number in 0..100u8 {
                let sent = sender.send_to(&[number], receiver.local_addr()).await;
                assert_eq!(sent.expect("sent"), 1);
            }
            while held.len() < 100 {
                let taken = receiver.recv_many(&mut held, 512).await;
                assert!(taken.expect("no error") > 0);
            }
            let numbers = held.iter().map(|datagram| datagram.payload()[0]);
            assert!(numbers.eq(0..100));
            ends.push(receiver.stats().ended_no_buffers);
        }
        assert!(ends[0] > 0, "{ends:?}: fewer were lent than arrived");
        assert_eq!(ends[2], ends[7], "{ends:?}: enough are lent now");
    })
    .expect("a ring");
}
