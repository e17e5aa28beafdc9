//! Sends that are posted and forgotten: they cost no turn of their own, and hold up nobody.

use std::cell::Cell;
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use futures::poll;
use viewring_runtime::net::UdpSocket;
use viewring_runtime::time::{sleep, timeout};
use viewring_runtime::{Config, Runtime, Uring, metrics, spawn, yield_now};

fn localhost() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

/// Runs `body` where there are so many send buffers. It is given an address where nobody listens.
fn with_send_buffers(send_buffers: usize, body: impl AsyncFnOnce(SocketAddr)) {
    let config = Config {
        send_buffers,
        ..Config::default()
    };
    Runtime::new(Uring::new().expect("a ring"), config).block_on(async {
        let nobody = UdpSocket::bind(localhost()).expect("a socket").local_addr();
        body(nobody).await;
    });
}

#[test]
fn a_question_that_is_posted_and_its_answer_are_one_enter() {
    const ROUNDS: u64 = 200;
    let peer = StdSocket::bind(localhost()).expect("a socket");
    let to = peer.local_addr().expect("its address");
    let echo = thread::spawn(move || {
        let mut buf = [0; 16];
        for _ in 0..ROUNDS {
            let (len, from) = peer.recv_from(&mut buf).expect("received");
            // The one who asks is asleep by then.
            thread::sleep(Duration::from_micros(200));
            peer.send_to(&buf[..len], from).expect("sent");
        }
    });
    let runtime = Runtime::new(Uring::new().expect("a ring"), Config::default());
    runtime.block_on(async {
        let socket = UdpSocket::bind(localhost()).expect("a socket");
        let before = metrics().reactor("enters");
        for round in 0..ROUNDS {
            let mut question = socket.take_buf(8).expect("a buffer");
            question.put_slice(&round.to_le_bytes());
            socket.post_to(question.share(), to).expect("there is room");
            let answer = socket.recv_datagram().await.expect("no error");
            assert_eq!(answer.payload(), round.to_le_bytes());
        }
        let enters = metrics().reactor("enters") - before;
        // Now and then a millisecond is over, in which a send might have found no room.
        assert!(enters <= ROUNDS + ROUNDS / 2, "{enters} enters");
    });
    echo.join().expect("it answered");
}

#[test]
fn who_waits_for_a_send_buffer_gets_it_from_a_post() {
    with_send_buffers(1, async |nobody| {
        let socket = UdpSocket::bind(localhost()).expect("a socket");
        for _ in 0..10 {
            let mut only = socket.take_buf(8).expect("a buffer");
            only.put_slice(b"posted");
            socket.post_to(only.share(), nobody).expect("there is room");
            let sent = timeout(Duration::from_secs(5), socket.send_to(b"awaited", nobody)).await;
            sent.expect("its buffer came back").expect("no error");
        }
    });
}

#[test]
fn who_waits_for_a_send_buffer_gets_it_beside_one_who_takes_all_in_every_turn() {
    waits_beside(async |socket, nobody| {
        while let Some(mut buf) = socket.take_buf(8) {
            buf.put_slice(b"posted");
            socket.post_to(buf.share(), nobody).expect("there is room");
        }
        yield_now().await;
    });
}

#[test]
fn who_waits_for_a_send_buffer_gets_it_before_those_who_come_later() {
    waits_beside(async |socket, nobody| {
        let four = (0..4).map(|_| socket.send_to(b"one of four", nobody));
        futures::future::join_all(four).await;
    });
}

/// There are four buffers, and one task takes all of them, again and again. Another one awaits its
/// sends, and they get through.
fn waits_beside(take_all: impl AsyncFn(&UdpSocket, SocketAddr) + 'static) {
    with_send_buffers(4, async |nobody| {
        let takes_all = spawn(async move {
            let socket = UdpSocket::bind(localhost()).expect("a socket");
            loop {
                take_all(&socket, nobody).await;
            }
        });
        yield_now().await;
        let waits = spawn(async move {
            let socket = UdpSocket::bind(localhost()).expect("a socket");
            for _ in 0..10 {
                let sent = timeout(Duration::from_secs(5), socket.send_to(b"awaited", nobody));
                sent.await.expect("it got a buffer").expect("no error");
            }
        });
        waits.await.expect("no panic");
        takes_all.abort();
    });
}

#[test]
fn those_who_wait_for_a_send_buffer_get_it_in_turn() {
    const SENDS: usize = 40;
    for (buffers, tasks) in [(1, 3), (2, 5), (3, 7), (8, 32)] {
        with_send_buffers(buffers, async move |nobody| {
            let sent: Rc<[_]> = (0..tasks).map(|_| Cell::new(0)).collect();
            let sending = (0..tasks).map(|task| {
                let sent = Rc::clone(&sent);
                spawn(async move {
                    let socket = UdpSocket::bind(localhost()).expect("a socket");
                    loop {
                        socket.send_to(b"mine", nobody).await.expect("no error");
                        sent[task].set(sent[task].get() + 1);
                    }
                })
            });
            let sending: Vec<_> = sending.collect();
            while sent.iter().map(Cell::get).sum::<usize>() < tasks * SENDS {
                yield_now().await;
            }
            let fewest = sent.iter().map(Cell::get).min();
            assert!(fewest >= Some(SENDS - 2), "{buffers} buffers: {sent:?}");
            sending.into_iter().for_each(|task| task.abort());
        });
    }
}

#[test]
fn who_waits_for_a_send_buffer_and_goes_lets_the_next_one_have_it() {
    with_send_buffers(1, async move |nobody| {
        let socket = UdpSocket::bind(localhost()).expect("a socket");
        let only = socket.take_buf(8).expect("a buffer");
        let mut first = Box::pin(socket.send_to(b"first", nobody));
        assert!(poll!(&mut first).is_pending());
        drop(only);
        assert!(socket.take_buf(8).is_none(), "it is kept for the first");
        let next = spawn(async move {
            let socket = UdpSocket::bind(localhost()).expect("a socket");
            let sent = timeout(Duration::from_secs(5), socket.send_to(b"next", nobody)).await;
            sent.expect("it got the buffer").expect("no error");
        });
        yield_now().await;
        drop(first);
        next.await.expect("no panic");
    });
}

#[test]
fn sends_that_are_given_up_at_any_moment_leave_every_buffer_to_others() {
    for buffers in 1..=5 {
        with_send_buffers(buffers, async move |nobody| {
            let tasks = (0..8_u64).map(|task| {
                spawn(async move {
                    let socket = UdpSocket::bind(localhost()).expect("a socket");
                    for round in 0..100_u64 {
                        let send = Box::pin(socket.send_to(b"perhaps", nobody));
                        // The first has no time, the next ones have more.
                        let patience = Duration::from_micros((task + round) % 7 * 5);
                        let _given_up = timeout(patience, send).await.is_err();
                        if let Some(mut buf) = socket.take_buf(6) {
                            buf.put_slice(b"posted");
                            let _refused = socket.post_to(buf.share(), nobody).is_err();
                        }
                    }
                    socket.send_to(b"last", nobody).await.expect("no error");
                })
            });
            for task in tasks.collect::<Vec<_>>() {
                let ended = timeout(Duration::from_secs(5), task).await;
                ended.expect("it got its buffer").expect("no panic");
            }
            while metrics().operations_in_flight > 0 {
                yield_now().await;
            }
            let socket = UdpSocket::bind(localhost()).expect("a socket");
            let free: Vec<_> = std::iter::from_fn(|| socket.take_buf(8)).collect();
            assert_eq!(free.len(), buffers);
        });
    }
}

#[test]
fn a_run_that_fails_when_its_socket_is_gone_is_not_sent_from_another() {
    Runtime::new(Uring::new().expect("a ring"), Config::default()).block_on(async {
        let socket = UdpSocket::bind(localhost()).expect("a socket");
        let mut nowhere = socket.local_addr();
        nowhere.set_port(0);
        let mut run = socket.take_run_buf(nowhere).expect("a buffer");
        run.put_slice(b"onetwothree");
        let posted = socket.post_run_to(run.share(), 3, nowhere);
        posted.expect("there is room");
        drop(socket);
        sleep(Duration::from_millis(2)).await;
        let another = UdpSocket::bind(localhost()).expect("a socket");
        sleep(Duration::from_millis(2)).await;
        assert_eq!(another.stats().post_failed, 0);
        assert_eq!(metrics().operations_in_flight, 0);
    });
}
