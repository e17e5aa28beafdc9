//! Counters. Everything that arrives is accounted for, and everything lost has its reason.
//!
//! These sums hold whenever no datagram is half read:
//!
//! - `datagrams_received` = `datagrams_intact` + the sum of the `datagram_…` reasons,
//! - `frames_received` = `frames_whole` + `frame_unknown_kind` + `fragments_received`,
//! - `fragments_received` = `fragments_kept` + the sum of the `fragment_…` reasons,
//! - `reassembly_opened` = `messages_reassembled` + `fragment_mixed` + the sum of the other
//!   `reassembly_…` reasons + the messages still open,
//! - `messages_received` = `frames_whole` + `messages_reassembled`.

use crate::fragment::FragmentError;
use crate::frame::FrameError;

/// Declares a struct of counters with the name of each.
macro_rules! counters {
    ($(#[doc = $what:literal])+ $Stats:ident: $( $(#[doc = $doc:literal])+ $name:ident, )+) => {
        $(#[doc = $what])+
        #[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
        #[non_exhaustive]
        pub struct $Stats {
            $( $(#[doc = $doc])+ pub $name: u64, )+
        }

        impl $Stats {
            /// Each counter with its name, in a fixed order.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$( (stringify!($name), self.$name), )+].into_iter()
            }
        }
    };
}

pub(crate) use counters;

counters! {
    /// What an endpoint has counted since it was bound.
    Stats:
    /// Datagrams handed to the socket.
    datagrams_sent,
    /// Their payload bytes.
    bytes_sent,
    /// The frames in them, fragments included.
    frames_sent,
    /// Messages cut into fragments, once for each peer they went to.
    messages_fragmented,
    /// Messages not sent: longer than `max_message`.
    send_too_long,
    /// Frames not sent: no send buffer was free.
    send_no_buffer,
    /// Frames not sent: their datagram was one too many in flight.
    send_in_flight,

    /// Datagrams taken from the socket and looked at.
    datagrams_received,
    /// Their payload bytes.
    bytes_received,
    /// Datagrams that were frames from end to end.
    datagrams_intact,
    /// Datagrams dropped: longer than the receive buffer.
    datagram_truncated,
    /// Datagrams dropped: no bytes at all.
    datagram_empty,
    /// Datagrams dropped from a frame on: wrong magic.
    datagram_magic,
    /// Datagrams dropped from a frame on: another version of the format.
    datagram_version,
    /// Datagrams dropped from a frame on: the frame would end beyond the datagram.
    datagram_length,
    /// Datagrams dropped from a frame on: wrong checksum.
    datagram_checksum,
    /// Datagrams dropped from a frame on: another cluster.
    datagram_cluster,
    /// Datagrams whose last bytes are too few for a header.
    datagram_trailing,

    /// Intact frames.
    frames_received,
    /// Frames that are a message of their own.
    frames_whole,
    /// Frames dropped: a reserved kind that this version does not know.
    frame_unknown_kind,
    /// Frames that carry a fragment.
    fragments_received,
    /// Fragments that became part of a message.
    fragments_kept,
    /// Fragments dropped: too short, or reserved bytes that are not zero.
    fragment_header,
    /// Fragments dropped: of a message of a reserved kind.
    fragment_kind,
    /// Fragments dropped: of a message longer than `max_message`.
    fragment_too_long,
    /// Fragments dropped: cut too small, or a single one, or too many.
    fragment_count,
    /// Fragments dropped: an index beyond the message.
    fragment_index,
    /// Fragments dropped: not as long as their place in the message.
    fragment_size,
    /// Fragments dropped: already here.
    fragment_duplicate,
    /// Fragments dropped: their message was completed or given up before.
    fragment_late,
    /// Fragments that contradict others of their message; fragment and message are dropped.
    fragment_mixed,

    /// Messages whose first fragment arrived.
    reassembly_opened,
    /// Incomplete messages dropped: their peer had too many.
    reassembly_peer_messages,
    /// Incomplete messages dropped: their peer's were too many bytes.
    reassembly_peer_bytes,
    /// Incomplete messages dropped: there were too many bytes in all.
    reassembly_bytes,
    /// Incomplete messages dropped: there were too many peers.
    reassembly_peers,
    /// Incomplete messages dropped: too old.
    reassembly_expired,
    /// Messages put together from fragments.
    messages_reassembled,
    /// Messages handed out by `recv` and `try_recv`.
    messages_received,

    /// Errors of the socket that concern one datagram or peer and were passed over.
    socket_errors,
}

impl Stats {
    /// The counters of what was dropped or not sent, each with its name: why.
    pub fn dropped(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        const DROPS: [&str; 5] = ["datagram_", "fragment_", "reassembly_", "send_", "frame_"];
        self.iter().filter(|(name, _)| {
            *name != "reassembly_opened" && DROPS.iter().any(|prefix| name.starts_with(prefix))
        })
    }

    pub(crate) fn count_frame(&mut self, error: FrameError) {
        *match error {
            FrameError::Trailing => &mut self.datagram_trailing,
            FrameError::Magic => &mut self.datagram_magic,
            FrameError::Version => &mut self.datagram_version,
            FrameError::Length => &mut self.datagram_length,
            FrameError::Checksum => &mut self.datagram_checksum,
            FrameError::Cluster(_) => &mut self.datagram_cluster,
        } += 1;
    }

    pub(crate) fn count_fragment(&mut self, error: FragmentError) {
        *match error {
            FragmentError::Header => &mut self.fragment_header,
            FragmentError::Kind => &mut self.fragment_kind,
            FragmentError::TooLong => &mut self.fragment_too_long,
            FragmentError::Count => &mut self.fragment_count,
            FragmentError::Index => &mut self.fragment_index,
            FragmentError::Size => &mut self.fragment_size,
        } += 1;
    }

    /// Panics unless the sums at the top of this file hold.
    #[cfg(test)]
    pub(crate) fn check_sums(&self, still_open: usize) {
        let sum = |prefix: &str| -> u64 {
            self.iter()
                .filter(|(name, _)| name.starts_with(prefix))
                .map(|(_, count)| count)
                .sum()
        };
        assert_eq!(
            self.datagrams_received,
            self.datagrams_intact + sum("datagram_"),
            "{self:?}"
        );
        let frames = self.frames_whole + self.frame_unknown_kind + self.fragments_received;
        assert_eq!(self.frames_received, frames, "{self:?}");
        assert_eq!(
            self.fragments_received,
            self.fragments_kept + sum("fragment_"),
            "{self:?}"
        );
        let closed = sum("reassembly_") - self.reassembly_opened
            + self.messages_reassembled
            + self.fragment_mixed;
        assert_eq!(
            self.reassembly_opened,
            closed + still_open as u64,
            "{self:?}"
        );
        let messages = self.frames_whole + self.messages_reassembled;
        assert_eq!(self.messages_received, messages, "{self:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_listed_once_under_its_own_name() {
        let stats = Stats {
            datagrams_sent: 1,
            socket_errors: 2,
            ..Stats::default()
        };
        let listed: Vec<_> = stats.iter().collect();
        assert_eq!(listed.first(), Some(&("datagrams_sent", 1)));
        assert_eq!(listed.last(), Some(&("socket_errors", 2)));
        assert_eq!(size_of::<Stats>(), listed.len() * size_of::<u64>());
    }
}
