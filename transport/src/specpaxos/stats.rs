//! Counters, in the manner of the transport's own.
//!
//! `datagrams_received` = `frames_received` + `fragments_received` + the sum of the `datagram_…`
//! reasons; what was put together from slices is looked at as a datagram is, and counted under
//! `reassembled_…` if it is none.

use super::fragment::FragmentError;
use super::frame::FrameError;
use crate::stats::counters;

counters! {
    /// What an endpoint that speaks specpaxos' format has counted since it was bound.
    Stats:
    /// Datagrams handed to the socket.
    datagrams_sent,
    /// Messages cut up, once for each receiver.
    messages_fragmented,
    /// Messages not sent: longer than `max_message`.
    send_too_long,
    /// Datagrams not sent: no send buffer was free.
    send_no_buffer,
    /// Datagrams not sent: too many were in flight.
    send_in_flight,

    /// Datagrams taken from the socket and looked at.
    datagrams_received,
    /// Datagrams that are a message of a known name.
    frames_received,
    /// Datagrams that are a sound slice of one.
    fragments_received,
    /// Datagrams dropped: longer than the receive buffer.
    datagram_truncated,
    /// Datagrams dropped: they end before what every one has.
    datagram_short,
    /// Datagrams dropped: an unknown magic number.
    datagram_magic,
    /// Datagrams dropped: the name would end beyond them.
    datagram_name_length,
    /// Datagrams dropped: a name that nobody has.
    datagram_name,
    /// Datagrams dropped: a message between replicas of the original.
    datagram_replicas,
    /// Datagrams dropped: the message would end beyond them.
    datagram_data_length,
    /// Datagrams dropped: a fragment without sound numbers.
    datagram_fragment_header,
    /// Datagrams dropped: a fragment of what is too long.
    datagram_fragment_too_long,
    /// Datagrams dropped: a fragment that is not as long as its place, or has none.
    datagram_fragment_size,

    /// Slices that became part of a message.
    fragments_kept,
    /// Slices dropped: the one before is missing.
    fragment_gap,
    /// Messages whose first slice has arrived.
    reassembly_opened,
    /// Incomplete messages dropped: their sender has begun another.
    reassembly_superseded,
    /// Incomplete messages dropped: there were too many senders.
    reassembly_senders,
    /// Incomplete messages dropped: too old.
    reassembly_expired,
    /// Messages put together.
    messages_reassembled,
    /// Messages put together that are none.
    reassembled_garbled,

    /// Errors of the socket that concern one datagram or peer and were passed over.
    socket_errors,
}

impl Stats {
    /// The counters of what was dropped or not sent, each with its name: why.
    pub fn dropped(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        const DROPS: [&str; 5] = [
            "datagram_",
            "fragment_",
            "reassembly_",
            "reassembled_",
            "send_",
        ];
        self.iter().filter(|(name, _)| {
            *name != "reassembly_opened" && DROPS.iter().any(|prefix| name.starts_with(prefix))
        })
    }

    pub(crate) fn count_frame(&mut self, error: FrameError) {
        *match error {
            FrameError::Short => &mut self.datagram_short,
            FrameError::Magic => &mut self.datagram_magic,
            FrameError::NameLength => &mut self.datagram_name_length,
            FrameError::Name => &mut self.datagram_name,
            FrameError::Replicas => &mut self.datagram_replicas,
            FrameError::DataLength => &mut self.datagram_data_length,
        } += 1;
    }

    pub(crate) fn count_fragment(&mut self, error: FragmentError) {
        *match error {
            FragmentError::Header => &mut self.datagram_fragment_header,
            FragmentError::TooLong => &mut self.datagram_fragment_too_long,
            FragmentError::Size => &mut self.datagram_fragment_size,
        } += 1;
    }

    /// Panics unless what has arrived is accounted for.
    #[cfg(test)]
    pub(crate) fn check_sums(&self, still_open: usize) {
        let sum = |prefix: &str| -> u64 {
            let counts = self.iter().filter(|(name, _)| name.starts_with(prefix));
            counts.map(|(_, count)| count).sum()
        };
        let used = self.frames_received + self.fragments_received;
        let dropped = sum("datagram_");
        assert_eq!(self.datagrams_received, used + dropped, "{self:?}");
        let slices = self.fragments_kept + self.fragment_gap;
        assert_eq!(self.fragments_received, slices, "{self:?}");
        let closed = sum("reassembly_") - self.reassembly_opened + self.messages_reassembled;
        let open = still_open as u64;
        assert_eq!(self.reassembly_opened, closed + open, "{self:?}");
    }
}
