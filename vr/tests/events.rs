//! What a replica's stream tells, in a simulated group.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use viewring::kv::{Kv, Operation};
use viewring::protocol::ReplicaId;
use viewring::{Checkpoints, Client, ClientConfig, Happening, Node, NodeConfig};
use viewring_runtime::sim::{NodeId, World};
use viewring_runtime::spawn;

type Told = Rc<RefCell<Vec<Happening>>>;

/// A life of a replica, which takes a checkpoint after every ten operations; what it tells.
fn start(world: &mut World, nodes: &[NodeId], id: u8) -> Told {
    let told = Told::default();
    let replicas = nodes.iter().map(|&node| world.socket_addr(node, 7000));
    let config = NodeConfig {
        data: Some("/data".into()),
        checkpoints: Checkpoints {
            interval: 10,
            ..Checkpoints::default()
        },
        ..NodeConfig::new(1, ReplicaId(id), replicas.collect())
    };
    let tells = Rc::clone(&told);
    world.start(nodes[usize::from(id)], move || async move {
        let mut node = Node::bind(config, Kv::default()).await.expect("a port");
        let mut events = node.events();
        let reader = spawn(async move {
            while let Some(event) = events.next().await {
                let event = event.expect("we are quick enough");
                tells.borrow_mut().push(event.what);
            }
        });
        let _failed = node.run().await;
        drop(reader);
    });
    told
}

/// A client that makes so many calls.
fn call(world: &mut World, nodes: &[NodeId], calls: u32) {
    let replicas = nodes.iter().map(|&node| world.socket_addr(node, 7000));
    let config = ClientConfig::new(1, replicas.collect());
    let node = world.add_node();
    world.start(node, move || async move {
        let client = Client::new(config).expect("a socket");
        let mut session = client.session().await.expect("registered");
        let put = Operation::Put {
            key: b"key",
            value: b"value",
        };
        for _ in 0..calls {
            session.call(&put.to_bytes()).await.expect("answered");
        }
    });
    let done = world.run_until(|world| !world.is_up(node), Duration::from_secs(5));
    done.expect("the group answers");
}

fn recoveries(told: &Told) -> usize {
    let is_it = |what: &&Happening| matches!(what, Happening::Recovered { .. });
    told.borrow().iter().filter(is_it).count()
}

#[test]
fn who_waits_for_a_group_tells_nothing_until_it_is_one() {
    let mut world = World::new(1);
    let nodes: Vec<NodeId> = (0..3).map(|_| world.add_node()).collect();
    let first = start(&mut world, &nodes, 0);
    world.run_for(Duration::from_secs(1));
    assert_eq!(*first.borrow(), []);
    let _others = [1, 2].map(|id| start(&mut world, &nodes, id));
    call(&mut world, &nodes, 1);
    assert_eq!(first.borrow()[0], Happening::Recovered { view: 0 });
    assert_eq!(recoveries(&first), 1);
}

#[test]
fn a_restarted_replica_tells_that_it_has_its_memory_and_each_checkpoint() {
    let mut world = World::new(2);
    let nodes: Vec<NodeId> = (0..3).map(|_| world.add_node()).collect();
    let told = [0, 1, 2].map(|id| start(&mut world, &nodes, id));
    call(&mut world, &nodes, 25);
    let has_checkpoint = |told: &Told, from: u64| {
        let later = |what: &Happening| matches!(what, Happening::Checkpoint { op } if *op >= from);
        told.borrow().iter().any(later)
    };
    assert!(told.iter().all(|told| has_checkpoint(told, 10)), "{told:?}");
    world.crash(nodes[2]);
    let again = start(&mut world, &nodes, 2);
    call(&mut world, &nodes, 25);
    world.run_for(Duration::from_secs(1));
    assert_eq!(again.borrow()[0], Happening::Recovered { view: 0 });
    assert_eq!(recoveries(&again), 1);
    assert!(has_checkpoint(&again, 40), "{again:?}");
}
