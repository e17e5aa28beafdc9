//! What an endpoint is told when it is bound.

use std::io;
use std::ops::RangeInclusive;
use std::time::Duration;

use viewring_runtime::net::UdpOptions;

use crate::fragment::{MAX_COUNT, MIN_BUDGET, chunk_len};
use crate::frame::Sender;

/// How an [`Endpoint`](crate::Endpoint) speaks. Fill in `cluster` and `sender`, take the rest
/// from [`Default`].
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// Which cluster this is. Frames of another are dropped. Zero by default.
    pub cluster: u64,
    /// Who this endpoint claims to be. Zero by default.
    pub sender: Sender,
    /// Bytes of UDP payload a datagram may have, within [`BUDGETS`](Self::BUDGETS). By default
    /// [`DEFAULT_BUDGET`](Self::DEFAULT_BUDGET), for IPv4 over an MTU of 1,500; IPv6 has 1,452.
    /// No endpoint may have a smaller receive buffer than another's budget: see `socket`. A
    /// datagram longer than the runtime's pooled send buffers costs an allocation.
    pub budget: usize,
    /// Bytes of the longest message, sent or received. By default 1 MiB.
    pub max_message: usize,
    /// Bounds on messages of which fragments are missing.
    pub reassembly: ReassemblyLimits,
    /// The socket's own options. Its buffers are made at least as long as the budget and the
    /// default budget. By default it asks the kernel for room for 4 MiB received: a long message
    /// arrives all at once.
    pub socket: UdpOptions,
}

/// How much an endpoint keeps of messages of which fragments are missing. The oldest goes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReassemblyLimits {
    /// Bytes in all, counting messages as if complete. By default 16 MiB.
    pub bytes: usize,
    /// Bytes of one peer's, at least `max_message`. By default 4 MiB.
    pub bytes_per_peer: usize,
    /// Messages of one peer. By default 16.
    pub messages_per_peer: usize,
    /// Peers at once. By default 64.
    pub peers: usize,
    /// How long after its first fragment a message may be completed; noticed when anything
    /// arrives. By default one second.
    pub age: Duration,
}

impl EndpointConfig {
    /// What a UDP datagram may carry over IPv4 and an MTU of 1,500 bytes without being cut.
    pub const DEFAULT_BUDGET: usize = 1472;

    /// What [`budget`](Self::budget) may be, in bytes: beyond it is no UDP datagram over IPv4.
    pub const BUDGETS: RangeInclusive<usize> = MIN_BUDGET..=65_507;

    /// The error names the first value that makes no sense.
    pub(crate) fn check(&self) -> io::Result<()> {
        let limits = &self.reassembly;
        let faults = [
            (
                !Self::BUDGETS.contains(&self.budget),
                "budget: not 256 to 65,507 bytes",
            ),
            (
                u32::try_from(self.max_message).is_err(),
                "max_message: over 4 GiB",
            ),
            (
                limits.bytes_per_peer < self.max_message,
                "bytes_per_peer: less than max_message",
            ),
            (
                limits.bytes < limits.bytes_per_peer,
                "bytes: less than bytes_per_peer",
            ),
            (limits.messages_per_peer == 0, "messages_per_peer: zero"),
            (limits.peers == 0, "peers: zero"),
        ];
        let fault = faults
            .iter()
            .find(|(is_so, _)| *is_so)
            .map(|(_, fault)| *fault);
        // Only a sound budget can be divided by.
        let fault = fault.or_else(|| {
            let count = self.max_message.div_ceil(chunk_len(self.budget));
            (count > MAX_COUNT).then_some("max_message: over 65,536 fragments")
        });
        fault.map_or(Ok(()), |fault| {
            Err(io::Error::new(io::ErrorKind::InvalidInput, fault))
        })
    }
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            cluster: 0,
            sender: Sender(0),
            budget: Self::DEFAULT_BUDGET,
            max_message: 1 << 20,
            reassembly: ReassemblyLimits::default(),
            socket: UdpOptions {
                kernel_recv_bytes: Some(4 << 20),
                ..UdpOptions::default()
            },
        }
    }
}

impl Default for ReassemblyLimits {
    fn default() -> Self {
        Self {
            bytes: 16 << 20,
            bytes_per_peer: 4 << 20,
            messages_per_peer: 16,
            peers: 64,
            age: Duration::from_secs(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut EndpointConfig), expected: Option<&str>) {
        let mut config = EndpointConfig::default();
        change(&mut config);
        let found = config.check().err().map(|error| error.to_string());
        assert_eq!(found.as_deref(), expected);
    }

    #[test]
    fn a_value_that_makes_no_sense_is_named() {
        check(|_| (), None);
        check(|c| c.budget = 255, Some("budget: not 256 to 65,507 bytes"));
        check(
            |c| c.budget = 65_508,
            Some("budget: not 256 to 65,507 bytes"),
        );
        check(
            |c| c.max_message = 5 << 20,
            Some("bytes_per_peer: less than max_message"),
        );
        check(
            |c| c.reassembly.bytes = 1 << 20,
            Some("bytes: less than bytes_per_peer"),
        );
        check(|c| c.reassembly.peers = 0, Some("peers: zero"));
        check(
            |c| c.reassembly.messages_per_peer = 0,
            Some("messages_per_peer: zero"),
        );
        let many = |c: &mut EndpointConfig| {
            c.budget = 256;
            c.max_message = 64 << 20;
            c.reassembly.bytes_per_peer = 64 << 20;
            c.reassembly.bytes = 64 << 20;
        };
        check(many, Some("max_message: over 65,536 fragments"));
    }
}
