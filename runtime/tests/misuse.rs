//! Safe code that keeps none of the reactor's rules gets errors and panics, and nothing worse.
//!
//! Of most use under the address sanitizer.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use viewring_runtime::buf::{BufPool, SharedBuf};
use viewring_runtime::net::UdpOptions;
use viewring_runtime::reactor::{Completion, Op, OpKey, Outcome, Reactor, SocketId, Wait};
use viewring_runtime::{Uring, UringConfig};

/// A ring that is dropped waits so long for what is in flight; then it leaks that.
const DROP_BOUND: Duration = Duration::from_secs(1);

fn localhost() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

/// Numbers below a bound (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn one_of<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}

#[test]
fn a_pool_that_no_buffer_ring_holds_is_an_error() {
    let mut ring = Uring::new().expect("a ring");
    let mut bind = |limit| {
        let pool = BufPool::new(64, limit);
        ring.bind_udp(localhost(), &UdpOptions::default(), &pool)
    };
    for limit in [0, 1, 32_768] {
        bind(limit).expect("few enough");
    }
    for limit in [32_769, 65_535, 65_536, usize::MAX] {
        bind(limit).expect_err("too many");
    }
}

#[test]
#[should_panic(expected = "is in flight already")]
fn a_key_names_one_operation() {
    let mut ring = Uring::new().expect("a ring");
    let key = OpKey {
        index: 0,
        generation: 1,
    };
    ring.start(key, Op::Nop);
    ring.start(key, Op::Nop);
}

#[test]
#[should_panic(expected = "too great a generation")]
fn a_generation_that_would_not_come_back_is_refused() {
    let mut ring = Uring::new().expect("a ring");
    let key = OpKey {
        index: 0,
        generation: 1 << OpKey::GENERATION_BITS,
    };
    ring.start(key, Op::Nop);
}

#[test]
fn an_operation_on_no_socket_leaves_nothing_behind() {
    let mut ring = Uring::new().expect("a ring");
    let key = OpKey {
        index: 0,
        generation: 1,
    };
    let (socket, to, payload) = (SocketId(3), localhost(), SharedBuf::copy_from(b"no way"));
    let send = Op::Send {
        unawaited: false,
        line_max: 1,
        socket,
        to: Some(to),
        payload: payload.clone(),
    };
    let run = Op::SendRun {
        unawaited: false,
        line_max: 1,
        socket,
        to,
        payload,
        segment: 4,
    };
    for op in [send, run, Op::ReceiveMany { socket }] {
        catch_unwind(AssertUnwindSafe(|| ring.start(key, op))).expect_err("there is none");
        assert_eq!(ring.in_flight(), 0);
    }
    ring.start(key, Op::Nop);
}

/// One step of somebody who knows the methods but not the rules.
fn step(
    random: &mut Random,
    ring: &mut Uring,
    known: &mut (Vec<BufPool>, Vec<SocketAddr>),
    kept: &mut Vec<Completion>,
) {
    let (pools, addrs) = known;
    let socket = SocketId(random.below(5) as u32);
    let key = OpKey {
        index: random.below(6) as u32,
        generation: random.below(3) as u32,
    };
    match random.below(12) {
        0 | 1 => {
            if random.below(2) == 0 || pools.is_empty() {
                let len = *random.one_of(&[0, 8, 44, 45, 2048]);
                pools.push(BufPool::new(len, random.below(9) as usize));
            }
            let pool = random.one_of(pools);
            let (_, addr) = ring
                .bind_udp(localhost(), &UdpOptions::default(), pool)
                .expect("a socket");
            addrs.push(addr);
        }
        2 | 3 => {
            let to = (random.below(4) > 0).then(|| *random.one_of(addrs));
            let payload = SharedBuf::copy_from(&vec![7; random.below(100) as usize]);
            let send = Op::Send {
                unawaited: false,
                line_max: random.below(3) as usize,
                socket,
                to,
                payload,
            };
            ring.start(key, send);
        }
        4 | 5 => ring.start(key, Op::ReceiveMany { socket }),
        6 => ring.close(socket),
        7 => ring.cancel(key),
        8 => ring
            .connect_udp(socket, *random.one_of(addrs))
            .expect("connected"),
        9 => ring.start(key, Op::Nop),
        10 => {
            pools.clear();
            kept.clear();
        }
        _ => {
            let wait = match random.below(2) {
                0 => Wait::Poll,
                _ => Wait::Until(ring.now() + Duration::from_micros(50)),
            };
            ring.turn(wait, kept).expect("it turns");
        }
    }
}

#[test]
fn methods_in_any_order_with_any_arguments_harm_no_memory() {
    let mut random = Random(0x1234_5678_9ABC_DEF0);
    for round in 0..60 {
        let config = UringConfig {
            submission_entries: *random.one_of(&[2, 64]),
            completion_entries: *random.one_of(&[64, 512]),
        };
        let mut ring = Uring::with_config(&config).expect("a ring");
        let mut known = (Vec::new(), vec![localhost()]);
        let (mut kept, mut panics) = (Vec::new(), 0);
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| ()));
        for _ in 0..400 {
            let stepped = || step(&mut random, &mut ring, &mut known, &mut kept);
            panics += u32::from(catch_unwind(AssertUnwindSafe(stepped)).is_err());
        }
        std::panic::set_hook(hook);
        assert!(panics > 0);
        if round % 2 == 0 {
            drop(std::mem::take(&mut known));
        }
        let began = Instant::now();
        drop(ring);
        assert!(began.elapsed() < DROP_BOUND, "round {round} leaked");
        for completion in &kept {
            if let Ok(Outcome::Datagram(datagram)) = &completion.result {
                assert!(datagram.payload().iter().all(|&byte| byte == 7));
            }
        }
    }
}
