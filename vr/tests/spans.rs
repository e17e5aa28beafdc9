//! The spans of a replica's roles, in a simulated group.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use viewring::cluster::{Cluster, ClusterConfig};
use viewring::kv::Kv;
use viewring::protocol::ReplicaId;

/// Collects spans and, for each event, the span in which it was told.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Collected>>);

#[derive(Default)]
struct Collected {
    /// Each with its fields, by its number.
    spans: Vec<String>,
    entered: Vec<u64>,
    /// What was told of a replica, and in which span.
    events: Vec<(String, Option<String>)>,
}

/// Fields as text: `replica=0 view=1 …`.
#[derive(Default)]
struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let space = if self.0.is_empty() { "" } else { " " };
        write!(self.0, "{space}{}={value:?}", field.name()).expect("a string");
    }
}

impl Subscriber for Collector {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields::default();
        span.record(&mut fields);
        let mut collected = self.0.lock().expect("one thread");
        collected.spans.push(fields.0);
        Id::from_u64(collected.spans.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut collected = self.0.lock().expect("one thread");
        let within = collected.entered.last().copied();
        let within = within.map(|id| collected.spans[id as usize - 1].clone());
        if fields.0.contains("replica=") {
            collected.events.push((fields.0, within));
        }
    }

    fn enter(&self, span: &Id) {
        let mut collected = self.0.lock().expect("one thread");
        collected.entered.push(span.into_u64());
    }

    fn exit(&self, span: &Id) {
        let left = self.0.lock().expect("one thread").entered.pop();
        assert_eq!(left, Some(span.into_u64()), "spans are nested");
    }
}

/// Where a span, or an event, says it comes from.
fn replica(fields: &str) -> &str {
    fields
        .split(' ')
        .find(|field| field.starts_with("replica="))
        .expect("every one names it")
}

#[test]
fn what_a_replica_tells_is_told_in_the_span_of_its_role() {
    let collector = Collector::default();
    let mut cluster = None;
    tracing::subscriber::with_default(collector.clone(), || {
        let mut group = Cluster::new(3, ClusterConfig::new(3), Kv::default);
        group.form();
        group.world.run_for(Duration::from_secs(1));
        group.crash(ReplicaId(0));
        group.world.run_for(Duration::from_secs(3));
        group.restart(ReplicaId(0));
        group.world.run_for(Duration::from_secs(3));
        cluster = Some(group);
    });
    drop(cluster);
    let collected = collector.0.lock().expect("one thread");
    let of = |id: &str| -> Vec<&str> {
        let spans = collected.spans.iter().map(String::as_str);
        spans.filter(|span| replica(span) == id).collect()
    };
    assert_eq!(
        of("replica=0"),
        [
            "replica=0 view=0 role=Outside",
            "replica=0 view=0 role=Primary",
            "replica=0 view=0 role=Recovering",
            "replica=0 view=1 role=Backup",
        ]
    );
    assert_eq!(
        of("replica=1"),
        [
            "replica=1 view=0 role=Outside",
            "replica=1 view=0 role=Backup",
            "replica=1 view=1 role=ViewChange",
            "replica=1 view=1 role=Primary",
        ]
    );
    assert!(collected.events.len() >= collected.spans.len());
    for (event, within) in &collected.events {
        let within = within.as_deref().expect("it is in one");
        assert_eq!(replica(event), replica(within), "{event}");
    }
}
