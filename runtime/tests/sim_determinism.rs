//! The same seed gives the same world: twice, in another process, with all faults at once.

use std::cell::Cell;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use viewring_runtime::net::UdpSocket;
use viewring_runtime::sim::{Link, NodeId, RingFaults, World, twice};
use viewring_runtime::time::{sleep, timeout};
use viewring_runtime::{random, spawn};

const NODES: usize = 3;
const MS: Duration = Duration::from_millis(1);

/// Every node sends to a random other one now and then, and answers what it hears.
async fn gossip(me: usize, peers: [std::net::SocketAddr; NODES], heard: Rc<Cell<u64>>) {
    let socket = Rc::new(UdpSocket::bind(peers[me]).expect("it is free"));
    let speaker = Rc::clone(&socket);
    spawn(async move {
        loop {
            let to = peers[random() as usize % NODES];
            let payload = random().to_le_bytes();
            let _refused = speaker.send_to(&payload, to).await;
            sleep(Duration::from_micros(500 + random() % 5000)).await;
        }
    })
    .detach();
    loop {
        let Ok(received) = timeout(20 * MS, socket.recv_datagram()).await else {
            continue;
        };
        let Ok(datagram) = received else { continue };
        heard.set(heard.get() + 1);
        if datagram.payload().len() == 8 {
            let _refused = socket
                .send_to(&datagram.payload()[..4], datagram.from())
                .await;
        }
    }
}

/// Half a second, then some more, in which everything fails.
fn chaos(world: &mut World) {
    let heard = Rc::new(Cell::new(0));
    let nodes: [NodeId; NODES] = std::array::from_fn(|_| world.add_node());
    let peers = nodes.map(|node| world.socket_addr(node, 7));
    let start = |world: &mut World, node: NodeId| {
        let heard = Rc::clone(&heard);
        world.start(node, move || gossip(node.index(), peers, heard));
    };
    for node in nodes {
        start(world, node);
    }
    let mut random = world.random(0);
    for _ in 0..30 {
        let (one, other) = (nodes[random.index(NODES)], nodes[random.index(NODES)]);
        match random.below(9) {
            0 => world.update_link(one, other, |link| *link = Link::draw(&mut random)),
            1 => world.update_ring(one, |ring| *ring = RingFaults::draw(&mut random)),
            2 => world.cut(one, other),
            3 => world.heal_all(),
            4 => world.pause(one, 30 * MS),
            5 => world.set_drift(one, random.between(0..=1000) as i32 - 500),
            6 => world.crash(one),
            7 => world.slow_down(one, random.between(1..=20) as u32),
            _ => world.set_deaf(one, random.chance(0.5)),
        }
        world.run_for(random.exponential(30 * MS));
        for node in nodes {
            if !world.is_up(node) && random.chance(0.5) {
                start(world, node);
            }
        }
    }
    assert!(heard.get() > 0);
}

#[test]
fn each_seed_gives_the_same_world_twice_and_its_own() {
    let mut hashes: Vec<u64> = (0..40).map(|seed| twice(seed, chaos)).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 40, "every seed has a world of its own");
}

#[test]
fn another_process_gets_the_same_world() {
    const SEED: &str = "SIM_DETERMINISM_SEED";
    const SEEDS: std::ops::Range<u64> = 50..55;
    if std::env::var_os(SEED).is_some() {
        for seed in SEEDS {
            println!("hash {seed} {}", twice(seed, chaos));
        }
        return;
    }
    let program = std::env::current_exe().expect("the test has a path");
    let output = Command::new(program)
        .args([
            "--exact",
            "another_process_gets_the_same_world",
            "--nocapture",
        ])
        .env(SEED, "1")
        .output()
        .expect("it runs");
    let output = String::from_utf8(output.stdout).expect("text");
    for seed in SEEDS {
        let line = format!("hash {seed} {}", twice(seed, chaos));
        assert!(output.contains(&line), "expected {line:?} in:\n{output}");
    }
}

#[test]
fn what_a_rule_and_the_outside_draw_does_not_disturb_the_world() {
    let run = |extra: usize| {
        let mut world = World::new(9);
        let mut random = world.random(5);
        let node = world.add_node();
        world.start(node, || async {
            for _ in 0..10 {
                sleep(Duration::from_micros(viewring_runtime::random() % 100)).await;
            }
        });
        for _ in 0..extra {
            random.next_u64();
        }
        world.run_for(MS);
        world.event_hash()
    };
    assert_eq!(run(0), run(100));
}

#[test]
fn one_node_more_does_not_reshuffle_the_others() {
    let first_draw = |more: usize| {
        let mut world = World::new(10);
        let node = world.add_node();
        for _ in 0..more {
            let idle = world.add_node();
            world.start(idle, std::future::pending);
        }
        let drawn = Rc::new(Cell::new(0));
        let draws = Rc::clone(&drawn);
        world.start(node, move || async move { draws.set(random()) });
        world.run_for(MS);
        drawn.get()
    };
    assert_eq!(first_draw(0), first_draw(5));
}

#[test]
#[should_panic(expected = "two runs of seed 1 differ")]
fn a_scenario_that_depends_on_something_else_is_found_out() {
    let runs = Cell::new(0);
    twice(1, |world| {
        runs.set(runs.get() + 1);
        let node = world.add_node();
        let times = runs.get();
        world.start(node, move || sleep(times * MS));
        world.run_for(10 * MS);
    });
}
