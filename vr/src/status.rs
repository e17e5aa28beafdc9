//! What a replica tells of itself: lines of `name value`, so that old and new understand each
//! other.

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use viewring_protocol::{Replica, Role};
use viewring_runtime::random;
use viewring_runtime::time::timeout;
use viewring_transport::specpaxos;
use viewring_transport::{Endpoint, EndpointConfig, Sender};

/// Frame kind: asks for the status.
pub(crate) const REQUEST_KIND: u8 = 0xE0;
/// Frame kind: tells it.
pub(crate) const REPLY_KIND: u8 = 0xE1;

/// A replica's state, as it told it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Which replica.
    pub id: u8,
    /// `normal`, `view-change` or `recovering`.
    pub status: String,
    /// Names the group that it is a member of: the same at all its members, another for each
    /// group. None: it is a member of none (yet).
    pub group: Option<u64>,
    /// What it does: `primary`, `backup`, `view-change`, `catching-up` or `recovering`.
    pub role: String,
    /// The view it is in.
    pub view: u64,
    /// The primary of that view.
    pub primary: u8,
    /// The last entry of its log.
    pub op: u64,
    /// Its commit-number.
    pub commit: u64,
    /// How far it has executed.
    pub executed: u64,
    /// The last operation that its latest checkpoint covers; 0 if it has none.
    pub checkpoint: u64,
    /// How many clients are registered.
    pub clients: u64,
    /// How many bytes the results take that are kept for them.
    pub kept_reply_bytes: u64,
    /// How many clients it has forgotten to make room for others.
    pub evictions: u64,
    /// Reads that it has answered, by how: `log`, `read-index`, `lease` or `local`; and `rounds`,
    /// that it has begun for them. Only what has occurred.
    pub reads: Vec<(String, u64)>,
    /// How many entries its log holds.
    pub log: u64,
    /// How often it has caught up by a checkpoint.
    pub restored: u64,
    /// Why it takes no part, if it does not.
    pub waiting: Option<String>,
    /// Which replicas of the configuration belong to another group or cluster, or have another
    /// configuration, as far as it has noticed within the last minute and nothing has shown since
    /// that it is over: a sentence each.
    pub strangers: Vec<String>,
    /// What was dropped or ignored, by reason; only what has occurred.
    pub dropped: Vec<(String, u64)>,
}

/// What the node itself drops.
#[derive(Debug, Default)]
pub(crate) struct Drops {
    /// The frame was whole, what it carried was not a message.
    pub(crate) malformed: u64,
    /// The sender is not the replica that it claims to be.
    pub(crate) impostor: u64,
    /// A vote that waited while the replica stood still.
    pub(crate) old_vote: u64,
    /// An echo that nobody waits for any more.
    pub(crate) late_echo: u64,
    /// A question past the log came while there was no state to answer from.
    pub(crate) unanswered: u64,
    /// A message of ours was longer than the transport carries.
    pub(crate) too_long: u64,
    /// We had too much to say while the view file was being written.
    pub(crate) held: u64,
}

impl Status {
    pub(crate) fn of(
        core: &Replica,
        endpoint: &Endpoint,
        door: Option<specpaxos::Stats>,
        drops: &Drops,
    ) -> Self {
        let status = match core.role() {
            Role::Primary | Role::Backup => "normal",
            Role::ViewChange | Role::CatchingUp => "view-change",
            Role::Recovering | Role::Outside => "recovering",
        };
        let role = match core.role() {
            Role::Primary => "primary",
            Role::Backup => "backup",
            Role::ViewChange => "view-change",
            Role::CatchingUp => "catching-up",
            Role::Recovering => "recovering",
            Role::Outside => "outside",
        };
        let own = [
            ("malformed message", drops.malformed),
            ("impostor", drops.impostor),
            ("vote that waited too long", drops.old_vote),
            ("late echo", drops.late_echo),
            ("unanswered question", drops.unanswered),
            ("message too long", drops.too_long),
            ("said while the disk was busy", drops.held),
        ];
        let dropped = own
            .into_iter()
            .chain(core.counters().iter())
            .chain(endpoint.stats().dropped())
            .filter(|&(_, count)| count > 0)
            .map(|(reason, count)| (reason.to_owned(), count));
        let of_walk_ins = door.iter().flat_map(specpaxos::Stats::dropped);
        let of_walk_ins = of_walk_ins
            .filter(|&(_, count)| count > 0)
            .map(|(reason, count)| (format!("specpaxos {reason}"), count));
        let dropped = dropped.chain(of_walk_ins).collect();
        let reads = core.read_counters().iter().filter(|&(_, count)| count > 0);
        Self {
            id: core.id().0,
            status: status.to_owned(),
            group: core.group_checksum().map(|checksum| checksum.0),
            role: role.to_owned(),
            view: core.view().0,
            primary: core.primary().0,
            op: core.op().0,
            commit: core.commit().0,
            executed: core.executed().0,
            checkpoint: core
                .checkpoint()
                .map_or(0, |checkpoint| checkpoint.summary().op.0),
            clients: core.clients() as u64,
            kept_reply_bytes: core.kept_reply_bytes() as u64,
            evictions: core.evictions(),
            reads: reads.map(|(how, count)| (how.to_owned(), count)).collect(),
            log: core.op().distance_from(core.base()),
            restored: core.checkpoint_counts().restored,
            waiting: core.waiting_reason().map(|reason| reason.to_string()),
            strangers: Vec::new(),
            dropped,
        }
    }

    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            writeln!(text, "{name} {value}").expect("a string takes everything");
        };
        line("id", &self.id);
        line("status", &self.status);
        if let Some(group) = self.group {
            line("group", &format_args!("{group:016x}"));
        }
        line("role", &self.role);
        line("view", &self.view);
        line("primary", &self.primary);
        line("op", &self.op);
        line("commit", &self.commit);
        line("executed", &self.executed);
        line("checkpoint", &self.checkpoint);
        line("clients", &self.clients);
        line("kept-reply-bytes", &self.kept_reply_bytes);
        line("evictions", &self.evictions);
        for (how, count) in &self.reads {
            line("reads", &format_args!("{count} {how}"));
        }
        line("log", &self.log);
        line("restored", &self.restored);
        if let Some(waiting) = &self.waiting {
            line("waiting", waiting);
        }
        for stranger in &self.strangers {
            line("stranger", stranger);
        }
        for (reason, count) in &self.dropped {
            line("dropped", &format_args!("{count} {reason}"));
        }
        text
    }

    /// Lines that it does not know are skipped; `None` if the id or the status is missing.
    pub(crate) fn decode(text: &str) -> Option<Self> {
        let mut status = Self::default();
        let mut id = None;
        for line in text.lines() {
            let Some((name, value)) = line.split_once(' ') else {
                continue;
            };
            match name {
                "id" => id = value.parse().ok(),
                "status" => value.clone_into(&mut status.status),
                "group" => status.group = Some(u64::from_str_radix(value, 16).ok()?),
                "view" => status.view = value.parse().ok()?,
                "primary" => status.primary = value.parse().ok()?,
                "op" => status.op = value.parse().ok()?,
                "commit" => status.commit = value.parse().ok()?,
                "role" => value.clone_into(&mut status.role),
                "executed" => status.executed = value.parse().ok()?,
                "checkpoint" => status.checkpoint = value.parse().ok()?,
                "clients" => status.clients = value.parse().ok()?,
                "kept-reply-bytes" => status.kept_reply_bytes = value.parse().ok()?,
                "evictions" => status.evictions = value.parse().ok()?,
                "log" => status.log = value.parse().ok()?,
                "restored" => status.restored = value.parse().ok()?,
                "waiting" => status.waiting = Some(value.to_owned()),
                "stranger" => status.strangers.push(value.to_owned()),
                "reads" => {
                    let (count, how) = value.split_once(' ')?;
                    status.reads.push((how.to_owned(), count.parse().ok()?));
                }
                "dropped" => {
                    let (count, reason) = value.split_once(' ')?;
                    status
                        .dropped
                        .push((reason.to_owned(), count.parse().ok()?));
                }
                _ => {}
            }
        }
        status.id = id?;
        (!status.status.is_empty()).then_some(status)
    }
}

/// Asks each of `replicas` for its status and waits at most `patience` for all. `None` for those
/// that did not answer.
///
/// # Cancel safety
/// Dropping it forgets the question.
///
/// # Errors
/// When no socket can be had.
///
/// # Panics
/// Outside a runtime.
pub async fn query_status(
    cluster: u64,
    replicas: &[SocketAddr],
    patience: Duration,
) -> io::Result<Vec<Option<Status>>> {
    let config = EndpointConfig {
        cluster,
        sender: Sender(random()),
        ..Default::default()
    };
    let endpoint = Endpoint::bind(any_port_towards(replicas), config)?;
    let mut answers: Vec<Option<Status>> = vec![None; replicas.len()];
    let collect = async {
        // Asked twice, since a datagram may be lost.
        for _ in 0..2 {
            for &replica in replicas {
                endpoint
                    .send(replica, REQUEST_KIND, &[])
                    .map_err(io::Error::other)?;
            }
            endpoint.flush();
            let answered = timeout(patience / 2, hear(&endpoint, replicas, &mut answers)).await;
            if let Ok(heard) = answered {
                return heard;
            }
        }
        Ok(())
    };
    collect.await?;
    Ok(answers)
}

/// Until all have answered.
async fn hear(
    endpoint: &Endpoint,
    replicas: &[SocketAddr],
    answers: &mut [Option<Status>],
) -> io::Result<()> {
    while answers.iter().any(Option::is_none) {
        let message = endpoint.recv().await?;
        let Some(index) = replicas.iter().position(|&addr| addr == message.from) else {
            continue;
        };
        if message.kind != REPLY_KIND {
            continue;
        }
        if let Some(status) = std::str::from_utf8(&message.body)
            .ok()
            .and_then(Status::decode)
        {
            answers[index] = Some(status);
        }
    }
    Ok(())
}

/// A local address from which all of `replicas` can be reached.
pub(crate) fn any_port_towards(replicas: &[SocketAddr]) -> SocketAddr {
    match replicas.first() {
        Some(first) if first.ip().is_loopback() => SocketAddr::new(first.ip(), 0),
        Some(SocketAddr::V6(_)) => ([0u16; 8], 0).into(),
        _ => ([0, 0, 0, 0], 0).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_survives_the_trip_and_unknown_lines() {
        let status = Status {
            id: 2,
            status: "recovering".into(),
            group: Some(0x0123_4567_89ab_cdef),
            view: 7,
            primary: 1,
            op: 10,
            commit: 9,
            role: "catching-up".into(),
            executed: 8,
            checkpoint: 4,
            clients: 3,
            kept_reply_bytes: 77,
            evictions: 5,
            reads: vec![("read-index".into(), 4)],
            log: 3,
            restored: 1,
            waiting: Some("the group runs without me".into()),
            strangers: vec!["replica 1".into(), "replica 0".into()],
            dropped: vec![("bad checksum".into(), 3)],
        };
        let text = format!("{}news from the future\n\n", status.encode());
        assert_eq!(Status::decode(&text), Some(status));
    }

    #[test]
    fn what_is_no_status_is_none() {
        for text in [
            "",
            "id x\nstatus normal",
            "status normal",
            "id 1",
            "id 1\nstatus n\nop x",
            "id 1\nstatus n\ngroup x",
        ] {
            assert_eq!(Status::decode(text), None, "{text:?}");
        }
    }
}
