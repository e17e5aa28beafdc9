//! What a replica is told when it starts.

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use thiserror::Error;
use viewring_protocol::{Configuration, ConfigurationError, Options, ReplicaId};
use viewring_runtime::net::UdpOptions;
use viewring_transport::specpaxos::{self, Dialect};
use viewring_transport::{EndpointConfig, HEADER_LEN, Sender};

use super::{LeaseConfig, Timeouts};
use crate::journal::ViewFileError;

/// How to start a replica.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Names the group: messages of another are dropped. The same at all replicas and clients.
    pub cluster: u64,
    /// Which replica this is: its place in `replicas`.
    pub id: ReplicaId,
    /// The addresses of all replicas, in the same order everywhere: 1, 3, 5 or 7.
    pub replicas: Vec<SocketAddr>,
    /// How long it waits for what.
    pub timeouts: Timeouts,
    /// How many bytes a datagram may carry, within [`DATAGRAM_BYTES`](Self::DATAGRAM_BYTES); more
    /// than a path between replicas takes without fragments of its own is a waste.
    pub datagram_bytes: usize,
    /// How many operations may be in the log and not committed. Further clients are told to wait
    /// and come back, some of them late: with 8192 that call at once, the slowest hundredth waits
    /// half as long if the window is as large. What is not committed takes memory, at worst so many
    /// times `max_operation_bytes`, and at a backup twice that.
    pub window: u64,
    /// An operation may have so many bytes.
    pub max_operation_bytes: usize,
    /// So many clients may be registered. When one more comes, the one that was silent longest is
    /// forgotten, and told so when it calls again. The same at all replicas, as are the next two:
    /// one that has other limits is not believed by the others, which say so
    /// ([`Status::strangers`](crate::Status)).
    pub max_clients: u32,
    /// A result may have so many bytes. Of a longer one the client is told that its operation was
    /// executed, and not with what result ([`CallError::ResultTooLarge`](crate::CallError)).
    pub max_reply_bytes: u32,
    /// The last result of each client is kept for it. When they have more bytes than this
    /// together, clients are forgotten as if they were too many.
    pub max_kept_reply_bytes: u64,
    /// How often the log is replaced by a checkpoint.
    pub checkpoints: Checkpoints,
    /// A second socket, for clients that speak specpaxos' format. None by default.
    pub walk_ins: Option<WalkInConfig>,
    /// So many reads may wait to be answered.
    pub max_reads: usize,
    /// Leases; None: a [`Lease`](viewring_protocol::ReadConsistency::Lease) read asks the backups,
    /// as a [`ReadIndex`](viewring_protocol::ReadConsistency::ReadIndex) read does.
    pub lease: Option<LeaseConfig>,
    /// A directory of this replica's own, made if there is none, for what it must not forget: with
    /// it, a replica that was stopped comes back, and recovers from the others. Without it, one
    /// that is restarted takes part in nothing.
    pub data: Option<PathBuf>,
}

/// How often the log is replaced by a checkpoint, and how fast others may fetch it. The first two
/// should be the same at all replicas of a group; if they are not, nothing breaks.
///
/// The log takes at most the memory of what comes between two checkpoints and of what is kept
/// behind the last one, and up to four times as much while a replica catches up. Beside it a
/// replica holds the bytes of its newest checkpoint, of one that it is writing, and of one that is
/// being fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoints {
    /// A checkpoint is due after so many operations; 0: never.
    pub interval: u64,
    /// And when they take so many bytes of memory; but not before they take as many as the last
    /// checkpoint, so that a large state is not written for a few operations.
    pub interval_bytes: u64,
    /// So many operations behind it are kept for replicas that are a little late.
    pub keep: u64,
    /// A page of operations, or a piece of a checkpoint, has so many bytes: it is written, sent and
    /// read in one go. To who is far away several are sent at once, up to eight, and 512 KiB.
    pub page_bytes: usize,
    /// So many bytes of pages and pieces are sent to others in one [upkeep](Timeouts::upkeep), and
    /// at most one page or piece more; several at once are paid off by as many upkeeps.
    pub transfer_bytes: usize,
}

impl Default for Checkpoints {
    fn default() -> Self {
        let options = Options::default();
        Self {
            interval: options.checkpoint_interval,
            interval_bytes: options.checkpoint_bytes,
            keep: options.checkpoint_keep,
            page_bytes: options.page_budget_bytes,
            transfer_bytes: options.transfer_budget_bytes,
        }
    }
}

/// How clients that speak specpaxos' format are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkInConfig {
    /// Where they send their requests: this replica's address in their configuration file.
    pub addr: SocketAddr,
    /// Where they send what is for all replicas, if their configuration file has a `multicast`
    /// line: a multicast address, which is heard by the interface of `addr`, or a network's
    /// broadcast address. Not in a simulated world.
    pub multicast: Option<SocketAddr>,
    /// Which of its two layouts they speak.
    pub dialect: Dialect,
}

/// Why a replica or a client cannot start.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The number of replicas, or a limit that all of them share.
    #[error("{0}")]
    Group(ConfigurationError),
    /// The replica's id is not in the configuration.
    #[error("there is no replica {id}: the configuration has replicas 0 to {last}")]
    UnknownId {
        /// The id that was asked for.
        id: u8,
        /// The last one there is.
        last: usize,
    },
    /// Two replicas have the same address.
    #[error("two replicas have the address {0}")]
    SameAddress(SocketAddr),
    /// A value makes no sense.
    #[error("{0}")]
    Value(&'static str),
    /// The address cannot be had.
    #[error("cannot bind {0}: {1}")]
    Bind(SocketAddr, #[source] io::Error),
    /// The data directory cannot be used.
    #[error(transparent)]
    ViewFile(#[from] ViewFileError),
}

impl NodeConfig {
    /// What `datagram_bytes` may be.
    pub const DATAGRAM_BYTES: RangeInclusive<usize> = EndpointConfig::BUDGETS;

    /// Replica `id` of a group at `replicas`, with defaults.
    pub fn new(cluster: u64, id: ReplicaId, replicas: Vec<SocketAddr>) -> Self {
        let options = Options::default();
        Self {
            cluster,
            id,
            replicas,
            timeouts: Timeouts::default(),
            datagram_bytes: EndpointConfig::DEFAULT_BUDGET,
            window: options.window,
            max_operation_bytes: options.max_body_bytes,
            max_clients: 65_536,
            max_reply_bytes: 32 * 1024,
            max_kept_reply_bytes: 64 << 20,
            checkpoints: Checkpoints::default(),
            walk_ins: None,
            max_reads: options.max_reads,
            lease: None,
            data: None,
        }
    }

    /// Whether everything fits together, as [`Node::bind`](crate::Node::bind) demands.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.group().map(drop)
    }

    /// The group, if everything fits together.
    pub(super) fn group(&self) -> Result<Configuration, ConfigError> {
        let group = group_of(&self.replicas)?;
        if !group.contains(self.id) {
            return Err(ConfigError::UnknownId {
                id: self.id.0,
                last: self.replicas.len() - 1,
            });
        }
        self.timeouts
            .fault()
            .map_or(Ok(()), |fault| Err(ConfigError::Value(fault)))?;
        if let Some(WalkInConfig { addr, .. }) = self.walk_ins
            && self.replicas.contains(&addr)
        {
            return Err(ConfigError::SameAddress(addr));
        }
        if self.window == 0 {
            return Err(ConfigError::Value("a window of zero"));
        }
        if self.window > WINDOW_MAX {
            return Err(ConfigError::Value(
                "a window of more than 32,000: word of what is not committed fits no message",
            ));
        }
        let most = EndpointConfig::default().max_message - BESIDE_BODY_BYTES;
        let reply_bytes = usize::try_from(self.max_reply_bytes).unwrap_or(usize::MAX);
        let longest = [
            self.checkpoints.page_bytes,
            self.max_operation_bytes,
            reply_bytes,
        ];
        if longest.iter().any(|&bytes| bytes > most) {
            return Err(ConfigError::Value(
                "page_bytes, max_operation_bytes or max_reply_bytes of more than 1,044,480: what \
                 is longer fits no message",
            ));
        }
        if self.max_reads == 0 {
            return Err(ConfigError::Value("room for no read"));
        }
        let upkeep = self.timeouts.upkeep;
        if let Some(fault) = self.lease.and_then(|lease| lease.fault(upkeep)) {
            return Err(ConfigError::Value(fault));
        }
        if self.checkpoints.transfer_bytes == 0 {
            return Err(ConfigError::Value("nothing may be sent to who is late"));
        }
        group
            .with_max_clients(self.max_clients)
            .and_then(|group| {
                group.with_reply_bytes(self.max_reply_bytes, self.max_kept_reply_bytes)
            })
            .map_err(ConfigError::Group)
    }

    pub(super) fn options(&self) -> Options {
        // One Prepare, one datagram: losing it loses no more than it must.
        let prepare_budget_bytes = self
            .datagram_bytes
            .saturating_sub(HEADER_LEN + PREPARE_FIXED);
        Options {
            window: self.window,
            prepare_budget_bytes,
            max_body_bytes: self.max_operation_bytes,
            max_reads: self.max_reads,
            lease_us: self.lease.map_or(0, |lease| lease.promise_us()),
            thrifty: true,
            checkpoint_interval: self.checkpoints.interval,
            checkpoint_bytes: self.checkpoints.interval_bytes,
            checkpoint_keep: self.checkpoints.keep,
            page_budget_bytes: self.checkpoints.page_bytes,
            transfer_budget_bytes: self.checkpoints.transfer_bytes,
        }
    }

    pub(super) fn endpoint(&self) -> EndpointConfig {
        let default = EndpointConfig::default();
        EndpointConfig {
            cluster: self.cluster,
            sender: Sender(u64::from(self.id.0)),
            budget: self.datagram_bytes,
            socket: UdpOptions {
                recv_buffers: 2048,
                sends_in_flight: 8192,
                kernel_send_bytes: Some(KERNEL_SEND_BYTES),
                ..default.socket
            },
            ..default
        }
    }

    pub(super) fn door_endpoint(&self, walk_ins: &WalkInConfig) -> specpaxos::EndpointConfig {
        let default = specpaxos::EndpointConfig::default();
        specpaxos::EndpointConfig {
            dialect: walk_ins.dialect,
            max_message: default.max_message.max(2 * self.max_operation_bytes),
            socket: UdpOptions {
                // Each is long enough for the longest datagram of the format.
                recv_buffers: 512,
                sends_in_flight: 8192,
                kernel_send_bytes: Some(KERNEL_SEND_BYTES),
                ..default.socket
            },
        }
    }
}

/// What is sent to a peer that has left the link stays in the send buffer until its address is
/// given up, for seconds: 208 KiB at most (`net.ipv4.neigh.default.unres_qlen_bytes`), which is all
/// of the buffer that a socket has by itself. This much, which the kernel doubles, leaves room for
/// others beside a few such peers, and a gigabit link is never behind by more than 17 ms. Where the
/// kernel's maximum is less (`net.core.wmem_max`, once 208 KiB), that is exceeded if the process
/// may (`CAP_NET_ADMIN`). If not, there is twice what there would be, which two such peers fill,
/// and the log says so.
const KERNEL_SEND_BYTES: usize = 1 << 20;

/// A Prepare without its entries: view, commit-number and the head of the run.
const PREPARE_FIXED: usize = 48;

/// The group at these addresses.
pub(crate) fn group_of(replicas: &[SocketAddr]) -> Result<Configuration, ConfigError> {
    let count = u8::try_from(replicas.len()).unwrap_or(u8::MAX);
    let group = Configuration::new(count).map_err(ConfigError::Group)?;
    for (index, addr) in replicas.iter().enumerate() {
        if replicas[..index].contains(addr) {
            return Err(ConfigError::SameAddress(*addr));
        }
    }
    if replicas.iter().any(|addr| addr.is_ipv6()) && replicas.iter().any(|addr| addr.is_ipv4()) {
        return Err(ConfigError::Value(
            "replicas with addresses of IPv4 and of IPv6: from one socket not both can be reached",
        ));
    }
    Ok(group)
}

/// A replica tells of each entry that it does not know to be committed, at most a window of them,
/// in sixteen bytes; and of all in one message, of which that is half.
const WINDOW_MAX: u64 = 32_000;
/// More than what goes with an operation, a result or a page in any message.
const BESIDE_BODY_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(id: u8, ports: &[u16]) -> String {
        let replicas = ports
            .iter()
            .map(|&port| ([127, 0, 0, 1], port).into())
            .collect();
        let config = NodeConfig::new(1, ReplicaId(id), replicas);
        config
            .check()
            .map_or_else(|error| error.to_string(), |_| String::from("fine"))
    }

    #[test]
    fn a_wrong_configuration_is_told_in_one_line() {
        assert_eq!(fault(0, &[1, 2, 3]), "fine");
        assert_eq!(
            fault(0, &[1, 2]),
            "a group has 1, 3, 5 or 7 replicas, not 2"
        );
        assert_eq!(
            fault(3, &[1, 2, 3]),
            "there is no replica 3: the configuration has replicas 0 to 2"
        );
        assert_eq!(
            fault(0, &[1, 2, 1]),
            "two replicas have the address 127.0.0.1:1"
        );
    }

    #[test]
    fn replicas_that_cannot_reach_one_another_are_refused() {
        let check = |texts: [&str; 3]| {
            let replicas = texts.map(|text| text.parse().expect("an address"));
            NodeConfig::new(1, ReplicaId(0), replicas.to_vec()).check()
        };
        assert!(check(["[::1]:1", "[::1]:2", "[::1]:3"]).is_ok());
        for mixed in [
            ["[::1]:1", "[::1]:2", "127.0.0.1:3"],
            ["127.0.0.1:1", "[::1]:2", "127.0.0.1:3"],
        ] {
            let error = check(mixed).expect_err("two families").to_string();
            assert!(error.starts_with("replicas with addresses of IPv4 and of IPv6"));
        }
    }

    #[test]
    fn what_could_be_in_no_message_is_refused() {
        type Change = fn(&mut NodeConfig, usize);
        let refused = |change: Change, to: usize| {
            let addr = ([127, 0, 0, 1], 1).into();
            let mut config = NodeConfig::new(1, ReplicaId(0), vec![addr]);
            change(&mut config, to);
            config.check().is_err()
        };
        let limits: [(Change, usize); 4] = [
            (|config, to| config.window = to as u64, 32_000),
            (|config, to| config.checkpoints.page_bytes = to, 1_044_480),
            (|config, to| config.max_operation_bytes = to, 1_044_480),
            (|config, to| config.max_reply_bytes = to as u32, 1_044_480),
        ];
        for (change, most) in limits {
            assert!(!refused(change, most) && refused(change, most + 1));
        }
    }
}
