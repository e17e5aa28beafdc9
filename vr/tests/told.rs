//! What a replica tells of a group that is not whole, in a simulated one: its log, its events, its
//! status.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use viewring::cluster::{Cluster, ClusterConfig};
use viewring::kv::Kv;
use viewring::protocol::ReplicaId;
use viewring::{Happening, Node, NodeConfig, Status, query_status};
use viewring_runtime::sim::{NodeId, World};
use viewring_runtime::spawn;

/// Collects what is logged at INFO or above, a line an event.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if ["message", "replica"].contains(&field.name()) {
            self.0 += &format!(" {value:?}");
        }
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().expect("one thread").push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Log {
    fn lines_with(&self, part: &str) -> Vec<String> {
        let lines = self.0.lock().expect("one thread");
        let with = lines.iter().filter(|line| line.contains(part));
        with.cloned().collect()
    }
}

/// What replica 0 tells of a group whose replica 2 has another configuration: events and status.
fn told_of(misfit: fn(&mut NodeConfig)) -> (Vec<Happening>, Status) {
    let mut world = World::new(1);
    let nodes: Vec<NodeId> = (0..3).map(|_| world.add_node()).collect();
    let replicas: Vec<_> = nodes
        .iter()
        .map(|&node| world.socket_addr(node, 7000))
        .collect();
    let told = Arc::new(Mutex::new(Vec::new()));
    for id in [0, 1, 2] {
        let mut config = NodeConfig::new(1, ReplicaId(id), replicas.clone());
        if id == 2 {
            misfit(&mut config);
        }
        let told = Arc::clone(&told);
        world.start(nodes[usize::from(id)], move || async move {
            let mut node = Node::bind(config, Kv::default()).await.expect("a port");
            let mut events = node.events();
            let reader = spawn(async move {
                while let Some(Ok(event)) = events.next().await {
                    if id == 0 {
                        told.lock().expect("one thread").push(event.what);
                    }
                }
            });
            let _failed = node.run().await;
            drop(reader);
        });
    }
    world.run_for(Duration::from_secs(90));
    let asker = world.add_node();
    let answer = Arc::new(Mutex::new(None));
    let status = Arc::clone(&answer);
    world.start(asker, move || async move {
        let asked = query_status(1, &replicas[..1], Duration::from_secs(1)).await;
        *status.lock().expect("one thread") = asked.expect("a socket").remove(0);
    });
    world.run_for(Duration::from_secs(2));
    drop(world);
    let status = answer.lock().expect("one thread").take();
    let told = told.lock().expect("one thread").clone();
    (told, status.expect("it answers"))
}

fn count(told: &[Happening], what: Happening) -> usize {
    told.iter().filter(|&&told| told == what).count()
}

#[test]
fn a_replica_with_other_limits_is_named_by_who_hears_it() {
    let log = Log::default();
    let (told, status) = tracing::subscriber::with_default(log.clone(), || {
        told_of(|config| config.max_clients = 100)
    });
    assert_eq!(count(&told, Happening::Stranger { id: 2 }), 2, "{told:?}");
    let expected = "replica 2 at 10.0.0.3:7000 belongs to another group";
    assert!(
        status.strangers[0].starts_with(expected),
        "{:?}",
        status.strangers
    );
    assert_eq!(status.strangers.len(), 1);
    let lines = log.lines_with("belongs to another group");
    assert!(lines.iter().all(|line| line.starts_with("WARN")));
    // Each of the others says it of the third, which says it of the primary at least.
    for who in [" 0", " 1", " 2"] {
        let said = lines.iter().filter(|line| line.ends_with(who)).count();
        assert!((2..=4).contains(&said), "{lines:#?}");
    }
}

#[test]
fn a_replica_of_another_cluster_is_named_by_who_hears_it() {
    let log = Log::default();
    let (told, status) =
        tracing::subscriber::with_default(log.clone(), || told_of(|config| config.cluster = 5));
    assert_eq!(told, [Happening::Stranger { id: 2 }; 2]);
    let expected = "datagrams of cluster 5 from replica 2 at 10.0.0.3:7000: is its configuration \
                    another?";
    assert_eq!(status.strangers, [expected]);
    let lines = log.lines_with("datagrams of cluster");
    assert_eq!(lines.len(), 2 * 4, "two pairs, each both ways: {lines:#?}");
}

#[test]
fn a_replica_whose_file_has_another_order_is_named_by_who_hears_it() {
    let log = Log::default();
    let (told, status) = tracing::subscriber::with_default(log.clone(), || {
        told_of(|config| {
            config.replicas.swap(1, 2);
            config.id = ReplicaId(1);
        })
    });
    assert_eq!(told, [Happening::Stranger { id: 2 }; 2]);
    let expected = "datagrams of replica 1 come from 10.0.0.3:7000, where our file has replica 2: \
                    are the files in another order?";
    assert_eq!(status.strangers, [expected]);
    assert!(status.dropped.iter().any(|(why, _)| why == "impostor"));
}

#[test]
fn a_replica_whose_file_has_more_replicas_names_the_group_that_has_fewer() {
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), || {
        told_of(|config| {
            let own = config.replicas[2];
            let more = [7001, 7002].map(|port| SocketAddr::new(own.ip(), port));
            config.replicas.extend(more);
        })
    });
    let lines = log.lines_with("is of a group of 3, and our file has 5 replicas");
    assert_eq!(lines.len(), 2 * 2, "of two, twice each: {lines:#?}");
    assert!(lines.iter().all(|line| line.starts_with("WARN")));
}

#[test]
fn a_primary_that_hears_no_quorum_says_so_once_and_once_that_it_does_again() {
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), || {
        let mut group = Cluster::new(3, ClusterConfig::new(3), Kv::default);
        group.form();
        group.world.run_for(Duration::from_secs(1));
        assert_eq!(log.lines_with("quorum"), [""; 0]);
        for id in [1, 2] {
            let node = group.node(ReplicaId(id));
            group.world.pause(node, Duration::from_secs(10));
        }
        group.world.run_for(Duration::from_secs(9));
        let alone = log.lines_with("quorum");
        assert_eq!(alone.len(), 1, "{alone:#?}");
        assert!(alone[0].starts_with("WARN"), "{alone:#?}");
        group.world.run_for(Duration::from_secs(3));
    });
    let lines = log.lines_with("quorum");
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[1].starts_with("INFO"), "{lines:#?}");
}
