//! Replicas of the configuration that belong elsewhere. What they say is dropped, as it must be;
//! but if nobody is told why, a group looks whole that is not, and dies with the next failure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use viewring_protocol::{Configuration, Ignored, Message, Progress, ReplicaId};
use viewring_runtime::time::Instant;
use viewring_transport::Sender;

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
    /// It calls itself this replica.
    Name(ReplicaId),
    /// It has formed a group of `theirs` replicas.
    Size { theirs: usize, ours: u8 },
}

impl Fault {
    /// Each kind is told by itself: two that take turns are not told again by turns.
    fn kind(self) -> u8 {
        match self {
            Self::Group => 0,
            Self::Cluster(_) => 1,
            Self::Name(_) => 2,
            Self::Size { .. } => 3,
        }
    }
}

#[derive(Debug)]
struct Stranger {
    addr: SocketAddr,
    fault: Fault,
    told_at: Instant,
    /// None: it is over.
    noticed_at: Option<Instant>,
}

/// Those that were noticed: one a replica and kind of fault at most.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    known: BTreeMap<(ReplicaId, u8), Stranger>,
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
        let key = (id, fault.kind());
        if let Some(known) = self.known.get_mut(&key) {
            known.fault = fault;
            known.noticed_at = Some(now);
            if now < known.told_at + COMPLAIN_EVERY {
                return None;
            }
        }
        let stranger = Stranger {
            addr,
            fault,
            told_at: now,
            noticed_at: Some(now),
        };
        let text = Complaint(id, &stranger).to_string();
        self.known.insert(key, stranger);
        Some(text)
    }

    /// It has said something that counts here: what was wrong with it is over. If it is not, it is
    /// not told again before its time.
    fn mended(&mut self, id: ReplicaId) {
        for (_, known) in self.known.range_mut((id, 0)..=(id, u8::MAX)) {
            known.noticed_at = None;
        }
    }

    /// What is wrong now, in words.
    pub(super) fn complaints(&self, now: Instant) -> impl Iterator<Item = String> {
        let lasts = move |known: &Stranger| {
            let at = known.noticed_at;
            at.is_some_and(|noticed_at| now < noticed_at + COMPLAIN_EVERY)
        };
        let now = self.known.iter().filter(move |(_, known)| lasts(known));
        now.map(|((id, _), known)| Complaint(*id, known).to_string())
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
            Fault::Name(name) => write!(
                f,
                "datagrams of replica {name} come from {addr}, where our file has replica {id}: \
                 are the files in another order?"
            ),
            Fault::Size { theirs, ours } => write!(
                f,
                "replica {id} at {addr} is of a group of {theirs}, and our file has {ours} \
                 replicas: is its configuration another?"
            ),
        }
    }
}

impl<S: StateMachine> Node<S> {
    /// Hands over what another replica says.
    pub(super) fn hear(&mut self, from: ReplicaId, message: Message) -> Progress {
        let foreign = self.core.counters().ignored(Ignored::OtherGroup);
        let group = message.root();
        let is_ours = group.is_some() && group == self.core.group_checksum();
        let size = self.other_size(&message);
        let progress = self.core.on_message(from, message, &mut self.effects);
        if self.core.counters().ignored(Ignored::OtherGroup) != foreign {
            self.notice(from, Fault::Group);
        } else if let Some(fault) = size {
            self.notice(from, fault);
        } else if is_ours {
            self.strangers.mended(from);
        }
        progress
    }

    /// Whether a group is spoken of that has another number of replicas.
    fn other_size(&self, message: &Message) -> Option<Fault> {
        let Message::Hello(hello) = message else {
            return None;
        };
        let theirs = hello.locked.as_ref()?.len();
        let ours = self.core.configuration().replica_count();
        (theirs != usize::from(ours)).then_some(Fault::Size { theirs, ours })
    }

    /// Drops and counts what is not of the replica that it claims to be of. If another replica has
    /// that address, the files differ, or so it seems.
    pub(super) fn drop_impostor(&mut self, sender: Sender, from: SocketAddr) -> Progress {
        self.drops.impostor += 1;
        let place = self.replicas.iter().position(|addr| *addr == from);
        let name = u8::try_from(sender.0).ok();
        let name = name.filter(|name| *name < Configuration::MAX_REPLICAS);
        if let (Some(place), Some(name)) = (place, name) {
            self.notice(ReplicaId(place as u8), Fault::Name(ReplicaId(name)));
        }
        Progress::NONE
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

    #[test]
    fn faults_that_take_turns_are_each_told_once() {
        let mut strangers = Strangers::default();
        let addr = ([127, 0, 0, 1], 9).into();
        let second = |second| Instant::from_nanos(second * 1_000_000_000);
        let told = (0..50).filter(|&now| {
            let fault = match now % 3 {
                0 => Fault::Group,
                _ => Fault::Cluster(now),
            };
            let told = strangers.notice(ReplicaId(2), addr, fault, second(now));
            told.is_some()
        });
        assert_eq!(told.collect::<Vec<_>>(), [0, 1]);
        assert_eq!(strangers.complaints(second(50)).count(), 2);
    }

    #[test]
    fn what_is_mended_is_over_and_if_it_is_not_it_is_told_in_its_time() {
        let mut strangers = Strangers::default();
        let addr = ([127, 0, 0, 1], 9).into();
        let at = Instant::from_nanos(1);
        for id in [1, 2] {
            let fault = Fault::Name(ReplicaId(5));
            assert!(strangers.notice(ReplicaId(id), addr, fault, at).is_some());
        }
        strangers.mended(ReplicaId(2));
        let left: Vec<String> = strangers.complaints(at).collect();
        let expected = "datagrams of replica 5 come from 127.0.0.1:9, where our file has replica \
                        1: are the files in another order?";
        assert_eq!(left, [expected]);
        let again = strangers.notice(ReplicaId(2), addr, Fault::Name(ReplicaId(5)), at);
        assert_eq!(again, None);
        assert_eq!(strangers.complaints(at).count(), 2);
    }
}
