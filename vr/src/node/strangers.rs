//! Replicas of the configuration that belong elsewhere. What they say is dropped, as it must be;
//! but if nobody is told why, a group looks whole that is not, and dies with the next failure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use viewring_protocol::{Ignored, Message, Progress, ReplicaId};
use viewring_runtime::time::Instant;

use super::Node;
use super::events::Happening;
use crate::state_machine::StateMachine;

/// Humans are told of each once, and then this often while it goes on. What was not noticed for so
/// long is over.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// What is wrong with a replica that is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It names its group otherwise than we do.
    Group,
    /// Its datagrams are of this cluster.
    Cluster(u64),
}

#[derive(Debug)]
struct Stranger {
    addr: SocketAddr,
    fault: Fault,
    told_at: Instant,
    noticed_at: Instant,
}

/// Those that were noticed: one a replica at most.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    known: BTreeMap<ReplicaId, Stranger>,
}

impl Strangers {
    /// What to tell now that this was noticed; None if that was told a moment ago.
    fn notice(
        &mut self,
        id: ReplicaId,
        addr: SocketAddr,
        fault: Fault,
        now: Instant,
    ) -> Option<String> {
        if let Some(known) = self.known.get_mut(&id).filter(|known| known.fault == fault) {
            known.noticed_at = now;
            if now < known.told_at + COMPLAIN_EVERY {
                return None;
            }
        }
        let stranger = Stranger {
            addr,
            fault,
            told_at: now,
            noticed_at: now,
        };
        let text = Complaint(id, &stranger).to_string();
        self.known.insert(id, stranger);
        Some(text)
    }

    /// What is wrong now, in words.
    pub(super) fn complaints(&self, now: Instant) -> impl Iterator<Item = String> {
        let lasts = move |known: &Stranger| now < known.noticed_at + COMPLAIN_EVERY;
        let now = self.known.iter().filter(move |(_, known)| lasts(known));
        now.map(|(id, known)| Complaint(*id, known).to_string())
    }
}

struct Complaint<'a>(ReplicaId, &'a Stranger);

impl fmt::Display for Complaint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(id, Stranger { addr, fault, .. }) = self;
        match fault {
            Fault::Group => write!(
                f,
                "replica {id} at {addr} belongs to another group, and nothing it says counts here: \
                 its max_clients, max_reply_bytes or max_kept_reply_bytes differ from ours, or its \
                 group has ended"
            ),
            Fault::Cluster(cluster) => write!(
                f,
                "datagrams of cluster {cluster} from replica {id} at {addr}: is its configuration \
                 another?"
            ),
        }
    }
}

impl<S: StateMachine> Node<S> {
    /// Hands over what another replica says.
    pub(super) fn hear(&mut self, from: ReplicaId, message: Message) -> Progress {
        let foreign = self.core.counters().ignored(Ignored::OtherGroup);
        let progress = self.core.on_message(from, message, &mut self.effects);
        if self.core.counters().ignored(Ignored::OtherGroup) != foreign {
            self.notice(from, Fault::Group);
        }
        progress
    }

    /// Notes whether another replica speaks for another cluster.
    pub(super) fn look_for_foreign(&mut self) {
        let Some(foreign) = self.endpoint.take_foreign() else {
            return;
        };
        let place = self.replicas.iter().position(|addr| *addr == foreign.from);
        if let Some(place) = place {
            self.notice(ReplicaId(place as u8), Fault::Cluster(foreign.cluster));
        }
    }

    fn notice(&mut self, id: ReplicaId, fault: Fault) {
        let addr = self.replicas[id.index()];
        let told = self.strangers.notice(id, addr, fault, Instant::now());
        if let Some(text) = told {
            tracing::warn!(replica = self.core.id().0, "{text}");
            self.happenings.tell(Happening::Stranger { id: id.0 });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn humans_are_told_at_once_and_then_each_minute_while_it_goes_on() {
        let mut strangers = Strangers::default();
        let addr = ([127, 0, 0, 1], 9).into();
        let second = |second| Instant::from_nanos(second * 1_000_000_000);
        let told: Vec<u64> = (0..200)
            .filter(|&now| {
                let told = strangers.notice(ReplicaId(2), addr, Fault::Group, second(now));
                told.is_some()
            })
            .collect();
        assert_eq!(told, [0, 60, 120, 180]);
        let text = strangers.complaints(second(258)).next().expect("it stands");
        assert!(text.starts_with("replica 2 at 127.0.0.1:9 belongs to"));
        assert_eq!(strangers.complaints(second(259)).next(), None);
        let other = strangers.notice(ReplicaId(2), addr, Fault::Cluster(5), second(200));
        let expected = "datagrams of cluster 5 from replica 2 at 127.0.0.1:9: is its configuration \
                        another?";
        assert_eq!(other.as_deref(), Some(expected));
    }
}
