//! From messages to datagrams: what goes to one peer between two flushes shares datagrams.
//!
//! A frame is written straight into the send buffer of its datagram. Nothing waits and nothing
//! queues up: when no buffer is free, or too many sends are in flight, frames are dropped and
//! counted.
//!
//! Several datagrams for one peer become a *run*, which costs the kernel little more than one of
//! them. They must be equally long: none is longer than the first, and who is shorter is padded.

use std::fmt;
use std::net::SocketAddr;

use viewring_runtime::buf::{Buf, SharedBuf};

use crate::config::EndpointConfig;
use crate::fragment::{FragmentHeader, chunk_len};
use crate::frame::{
    CHECKSUM_LEN, FIRST_RESERVED_KIND, HEADER_LEN, Header, KIND_FRAGMENT, Sender, seal,
};
use crate::stats::Stats;

/// What an outbox asks of a socket.
pub(crate) trait Wire {
    /// An empty buffer for at least `len` bytes; `None`: all are in use.
    fn take(&self, len: usize) -> Option<Buf>;

    /// Sends and forgets; false: too many sends are in flight, and `payload` is dropped.
    fn post(&self, payload: SharedBuf, to: SocketAddr) -> bool;

    /// An empty buffer for a run of datagrams to `to`, longer than that of one; `None`: there is
    /// none now, or never.
    fn take_run(&self, to: SocketAddr) -> Option<Buf>;

    /// [`post`](Self::post)s one datagram for each `segment` bytes.
    fn post_run(&self, payload: SharedBuf, segment: usize, to: SocketAddr) -> bool;
}

/// A message was not sent: it is longer than the endpoint's `max_message`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooLong {
    /// Bytes of the message.
    pub len: usize,
    /// Bytes a message may have.
    pub max: usize,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a message of {} bytes, of at most {}",
            self.len, self.max
        )
    }
}

impl std::error::Error for TooLong {}

/// The datagrams being built.
#[derive(Debug)]
pub(crate) struct Outbox {
    cluster: u64,
    sender: Sender,
    budget: usize,
    max_message: usize,
    incarnation: u64,
    /// The number of the next fragmented message; wraps.
    next_message: u32,
    /// In no order, each peer at most once: at most [`BUILDING_MAX`].
    building: Vec<Building>,
}

#[derive(Debug)]
struct Building {
    to: SocketAddr,
    /// Whole frames, at least one; at most the budget. Of a run, datagrams back to back.
    buf: Buf,
    frames: u64,
    run: Option<Run>,
}

/// Several datagrams in one buffer.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// The length of each but the last.
    segment: usize,
    /// Where the last one begins.
    last_at: usize,
}

impl Outbox {
    /// `config` was checked; `incarnation` is random.
    pub(crate) fn new(config: &EndpointConfig, incarnation: u64) -> Self {
        Self {
            cluster: config.cluster,
            sender: config.sender,
            budget: config.budget,
            max_message: config.max_message,
            incarnation,
            next_message: 0,
            building: Vec::with_capacity(BUILDING_MAX),
        }
    }

    /// Adds a message to the datagrams being built for each of `to`; posts those that are full.
    ///
    /// # Panics
    /// When `kind` is a reserved one.
    pub(crate) fn send(
        &mut self,
        wire: &impl Wire,
        to: impl IntoIterator<Item = SocketAddr>,
        kind: u8,
        body: &[u8],
        stats: &mut Stats,
    ) -> Result<(), TooLong> {
        assert!(
            kind < FIRST_RESERVED_KIND,
            "kind {kind:#x} is the transport's own"
        );
        if body.len() > self.max_message {
            stats.send_too_long += 1;
            return Err(TooLong {
                len: body.len(),
                max: self.max_message,
            });
        }
        if HEADER_LEN + body.len() > self.budget {
            self.send_fragments(wire, to, kind, body, stats);
            return Ok(());
        }
        let mut head = self.header(kind).encode(body.len());
        let mut is_sealed = false;
        for to in to {
            let Some(frame) = self.append(wire, to, [&head, body, &[]], stats) else {
                stats.send_no_buffer += 1;
                continue;
            };
            if !is_sealed {
                head[..CHECKSUM_LEN].copy_from_slice(&seal(frame));
                is_sealed = true;
            }
        }
        Ok(())
    }

    /// Posts every datagram being built.
    pub(crate) fn flush(&mut self, wire: &impl Wire, stats: &mut Stats) {
        for building in self.building.drain(..) {
            building.post(wire, stats);
        }
    }

    fn send_fragments(
        &mut self,
        wire: &impl Wire,
        to: impl IntoIterator<Item = SocketAddr>,
        kind: u8,
        body: &[u8],
        stats: &mut Stats,
    ) {
        let chunk = chunk_len(self.budget);
        let message = self.next_message;
        self.next_message = message.wrapping_add(1);
        let count = body.len().div_ceil(chunk);
        for to in to {
            stats.messages_fragmented += 1;
            for (index, piece) in body.chunks(chunk).enumerate() {
                // `EndpointConfig::check` and `max_message` keep these within their types.
                let fragment = FragmentHeader {
                    incarnation: self.incarnation,
                    message,
                    total: body.len() as u32,
                    chunk: chunk as u16,
                    index: index as u16,
                    kind,
                };
                let fragment = fragment.encode();
                let head = self
                    .header(KIND_FRAGMENT)
                    .encode(fragment.len() + piece.len());
                let Some(frame) = self.append(wire, to, [&head, &fragment, piece], stats) else {
                    // The message is lost: the rest of it would only be in the way.
                    stats.send_no_buffer += (count - index) as u64;
                    break;
                };
                seal(frame);
            }
        }
    }

    /// Adds a frame to the datagram for `to`, and returns it as it lies there; `None`: no buffer
    /// was free for another datagram.
    fn append(
        &mut self,
        wire: &impl Wire,
        to: SocketAddr,
        frame: [&[u8]; 3],
        stats: &mut Stats,
    ) -> Option<&mut [u8]> {
        let frame_len: usize = frame.iter().map(|part| part.len()).sum();
        debug_assert!(frame_len <= self.budget);
        let mut at = self.building.iter().position(|building| building.to == to);
        if let Some(full) = at
            && !self.building[full].has_room(frame_len, self.budget)
            && !self.building[full].go_on(wire, frame_len)
        {
            self.building.swap_remove(full).post(wire, stats);
            at = None;
        }
        let at = at.or_else(|| self.begin(wire, to, stats))?;
        let building = &mut self.building[at];
        let start = building.buf.len();
        for part in frame.into_iter().filter(|part| !part.is_empty()) {
            building.buf.put_slice(part);
        }
        building.frames += 1;
        Some(&mut building.buf[start..])
    }

    /// Begins a datagram for `to`: where it is being built.
    fn begin(&mut self, wire: &impl Wire, to: SocketAddr, stats: &mut Stats) -> Option<usize> {
        if self.building.len() == BUILDING_MAX {
            self.flush(wire, stats);
        }
        let Some(buf) = wire.take(self.budget) else {
            // Perhaps it is we who hold them all: let them go and come back.
            self.flush(wire, stats);
            return None;
        };
        self.building.push(Building {
            to,
            buf,
            frames: 0,
            run: None,
        });
        Some(self.building.len() - 1)
    }

    fn header(&self, kind: u8) -> Header {
        Header {
            cluster: self.cluster,
            sender: self.sender,
            kind,
        }
    }
}

impl Building {
    /// Whether a frame fits into the datagram.
    fn has_room(&self, frame_len: usize, budget: usize) -> bool {
        match self.run {
            None => self.buf.len() + frame_len <= budget,
            Some(run) => self.buf.len() - run.last_at + frame_len <= run.segment,
        }
    }

    /// Ends the datagram and begins the next one of the same run; false: it cannot be that of this
    /// frame.
    fn go_on(&mut self, wire: &impl Wire, frame_len: usize) -> bool {
        let (segment, last_at) = match self.run {
            None => (self.buf.len(), 0),
            Some(run) => (run.segment, run.last_at),
        };
        let end = last_at + segment;
        // Room for all that the next datagram may become.
        let is_room = |buf: &Buf| end + segment <= buf.capacity();
        let padding = end - self.buf.len();
        if frame_len > segment || padding > segment / PADDING_PART {
            return false;
        }
        if self.run.is_none() {
            let Some(mut longer) = wire.take_run(self.to).filter(is_room) else {
                return false;
            };
            longer.put_slice(&self.buf);
            self.buf = longer;
        } else if !is_room(&self.buf) || end / segment == RUN_MAX {
            return false;
        }
        let padded_at = self.buf.len();
        self.buf.set_len(end);
        self.buf[padded_at..].fill(0);
        self.run = Some(Run {
            segment,
            last_at: end,
        });
        true
    }

    fn post(self, wire: &impl Wire, stats: &mut Stats) {
        let len = self.buf.len() as u64;
        let payload = self.buf.share();
        let (datagrams, is_posted) = match self.run {
            None => (1, wire.post(payload, self.to)),
            Some(Run { segment, .. }) => (
                len.div_ceil(segment as u64),
                wire.post_run(payload, segment, self.to),
            ),
        };
        if is_posted {
            stats.datagrams_sent += datagrams;
            stats.bytes_sent += len;
            stats.frames_sent += self.frames;
        } else {
            stats.send_in_flight += self.frames;
        }
    }
}

/// No datagram of a run has more padding than this part of it: bytes cost, too.
const PADDING_PART: usize = 4;
/// Datagrams in one run. Enough: the price of what they share is small by then.
const RUN_MAX: usize = 32;

/// Datagrams built at once; for one peer more, all are posted. Few, as they are searched one by
/// one, and each holds a send buffer.
const BUILDING_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use viewring_runtime::buf::BufPool;

    use super::*;
    use crate::inbox::Inbox;
    use crate::testing::{Line, peer};

    fn outbox(budget: usize) -> Outbox {
        let config = EndpointConfig {
            cluster: 7,
            sender: Sender(1),
            budget,
            max_message: 10_000,
            ..EndpointConfig::default()
        };
        config.check().expect("sound");
        Outbox::new(&config, 0xABCD)
    }

    /// How many bytes each posted datagram has, with its peer.
    fn posted(line: &Line) -> Vec<(SocketAddr, usize)> {
        line.posted
            .borrow()
            .iter()
            .map(|(to, payload)| (*to, payload.len()))
            .collect()
    }

    #[test]
    fn what_goes_to_one_peer_shares_a_datagram() {
        let (line, mut outbox, mut stats) = (Line::new(9, 9), outbox(1472), Stats::default());
        for body in [&b"one"[..], b"two", b"three"] {
            outbox
                .send(&line, [peer(1)], 5, body, &mut stats)
                .expect("short");
        }
        outbox
            .send(&line, [peer(2)], 5, b"else", &mut stats)
            .expect("short");
        assert!(line.posted.borrow().is_empty());
        outbox.flush(&line, &mut stats);
        let header = Header {
            cluster: 7,
            sender: Sender(1),
            kind: 5,
        };
        let together = [&b"one"[..], b"two", b"three"].map(|body| header.frame(body));
        let together = together.concat();
        assert_eq!(&line.posted.borrow()[0].1[..], together);
        assert_eq!(posted(&line), [(peer(1), 3 * 28 + 11), (peer(2), 28 + 4)]);
        assert_eq!((stats.datagrams_sent, stats.frames_sent), (2, 4));
        assert_eq!(stats.bytes_sent, 4 * 28 + 15);
        outbox.flush(&line, &mut stats);
        assert_eq!(stats.datagrams_sent, 2);
    }

    #[test]
    fn a_frame_that_does_not_fit_begins_another_datagram() {
        let (line, mut outbox, mut stats) = (Line::new(9, 9), outbox(256), Stats::default());
        for len in [100, 100, 1, 228] {
            outbox
                .send(&line, [peer(1)], 5, &vec![0; len], &mut stats)
                .expect("short");
        }
        // 100 and 100 fill the budget to the byte.
        assert_eq!(posted(&line), [(peer(1), 256), (peer(1), 29)]);
        outbox.flush(&line, &mut stats);
        assert_eq!(posted(&line)[2..], [(peer(1), 256)]);
    }

    /// What an inbox reads of everything that was posted.
    fn read(line: &Line) -> Vec<usize> {
        let config = EndpointConfig {
            cluster: 7,
            max_message: 10_000,
            ..EndpointConfig::default()
        };
        let (mut inbox, mut stats) = (Inbox::new(&config), Stats::default());
        let mut lens = Vec::new();
        for (to, datagram) in line.posted.borrow().iter() {
            inbox.begin(*to, datagram.clone(), false, &mut stats);
            while let Some(message) = inbox.next(&mut stats) {
                lens.push(message.body.len());
            }
        }
        assert_eq!(stats.datagrams_intact, stats.datagrams_received);
        lens
    }

    /// A line that takes runs.
    fn line() -> Line {
        Line {
            runs: BufPool::new(1_024, 2),
            ..Line::new(9, 99)
        }
    }

    fn send(line: &Line, outbox: &mut Outbox, lens: &[usize], stats: &mut Stats) {
        for &len in lens {
            let sent = outbox.send(line, [peer(1)], 5, &vec![1; len], stats);
            sent.expect("short");
        }
    }

    #[test]
    fn datagrams_for_one_peer_are_a_run_and_equally_long() {
        let (line, mut outbox, mut stats) = (line(), outbox(256), Stats::default());
        let lens = [100, 60, 150, 150, 188];
        send(&line, &mut outbox, &lens, &mut stats);
        assert!(posted(&line).is_empty(), "they wait for each other");
        outbox.flush(&line, &mut stats);
        // 100 and 60 are as long as 188 with its header; 150 is padded, twice.
        assert_eq!(posted(&line), [(peer(1), 216); 4]);
        assert_eq!(read(&line), lens);
        assert_eq!((stats.datagrams_sent, stats.frames_sent), (4, 5));
        assert_eq!(stats.bytes_sent, 4 * 216);
    }

    #[test]
    fn a_frame_longer_than_the_first_datagram_begins_another_run() {
        let (line, mut outbox, mut stats) = (line(), outbox(256), Stats::default());
        let lens = [100, 150, 150];
        send(&line, &mut outbox, &lens, &mut stats);
        assert_eq!(posted(&line), [(peer(1), 128)]);
        outbox.flush(&line, &mut stats);
        let all = [(peer(1), 128), (peer(1), 178), (peer(1), 178)];
        assert_eq!(posted(&line), all);
        assert_eq!(read(&line), lens);
    }

    #[test]
    fn a_run_ends_where_padding_would_cost_too_much() {
        let (line, mut outbox, mut stats) = (line(), outbox(256), Stats::default());
        let lens = [180, 100, 150, 100];
        send(&line, &mut outbox, &lens, &mut stats);
        outbox.flush(&line, &mut stats);
        let all = [
            (peer(1), 208),
            (peer(1), 128),
            (peer(1), 178),
            (peer(1), 128),
        ];
        assert_eq!(posted(&line), all);
        assert_eq!(read(&line), lens);
    }

    #[test]
    fn a_run_ends_where_its_buffer_does() {
        let (line, mut outbox, mut stats) = (line(), outbox(256), Stats::default());
        let lens = [228; 9];
        send(&line, &mut outbox, &lens, &mut stats);
        // Four of 256 fill a buffer, and there are two.
        assert_eq!(posted(&line), [(peer(1), 256); 8]);
        outbox.flush(&line, &mut stats);
        assert_eq!(read(&line), lens);
        assert_eq!(stats.datagrams_sent, 9);
    }

    #[test]
    fn a_datagram_of_a_run_has_room_to_grow() {
        // The buffer ends in the middle of the fifth datagram.
        let line = Line {
            runs: BufPool::new(4 * 256 + 100, 2),
            ..line()
        };
        let (mut outbox, mut stats) = (outbox(256), Stats::default());
        let lens = [36; 40];
        send(&line, &mut outbox, &lens, &mut stats);
        outbox.flush(&line, &mut stats);
        assert_eq!(posted(&line), [(peer(1), 256); 10]);
        assert_eq!(read(&line), lens);
    }

    #[test]
    fn fragments_are_a_run() {
        let (line, mut outbox, mut stats) = (line(), outbox(256), Stats::default());
        send(&line, &mut outbox, &[1_000], &mut stats);
        outbox.flush(&line, &mut stats);
        assert_eq!(posted(&line)[..4], [(peer(1), 256); 4]);
        assert_eq!(read(&line), [1_000]);
    }

    #[test]
    fn one_message_to_many_is_the_same_frame() {
        let (line, mut outbox, mut stats) = (Line::new(9, 9), outbox(256), Stats::default());
        outbox
            .send(&line, [1, 2, 3].map(peer), 5, b"all", &mut stats)
            .expect("short");
        outbox.flush(&line, &mut stats);
        let posted = line.posted.borrow();
        assert_eq!(posted.len(), 3);
        assert!(
            posted
                .iter()
                .all(|(_, payload)| payload[..] == posted[0].1[..])
        );
    }

    #[test]
    fn a_long_message_is_cut_and_its_tail_shares_its_datagram() {
        let (line, mut outbox, mut stats) = (Line::new(9, 9), outbox(256), Stats::default());
        outbox
            .send(&line, [peer(1)], 5, b"before", &mut stats)
            .expect("short");
        outbox
            .send(&line, [peer(1)], 5, &[1; 500], &mut stats)
            .expect("short");
        outbox
            .send(&line, [peer(1)], 5, b"after", &mut stats)
            .expect("short");
        outbox.flush(&line, &mut stats);
        let tail = 52 + (500 - 2 * 204) + 28 + 5;
        assert_eq!(
            posted(&line),
            [34, 256, 256, tail].map(|len| (peer(1), len))
        );
        assert_eq!((stats.messages_fragmented, stats.frames_sent), (1, 5));
    }

    #[test]
    fn the_longest_message_is_sent_and_a_longer_one_is_refused() {
        let (line, mut outbox, mut stats) = (Line::new(60, 60), outbox(256), Stats::default());
        assert_eq!(
            outbox.send(&line, [peer(1)], 5, &[1; 10_000], &mut stats),
            Ok(())
        );
        let refused = outbox.send(&line, [peer(1)], 5, &[1; 10_001], &mut stats);
        assert_eq!(
            refused,
            Err(TooLong {
                len: 10_001,
                max: 10_000
            })
        );
        assert_eq!((stats.send_too_long, stats.messages_fragmented), (1, 1));
    }

    #[test]
    #[should_panic(expected = "kind 0xf0 is the transport's own")]
    fn a_reserved_kind_is_refused() {
        let (line, mut outbox, mut stats) = (Line::new(9, 9), outbox(256), Stats::default());
        outbox
            .send(&line, [peer(1)], 0xF0, b"", &mut stats)
            .expect("refused before");
    }

    #[test]
    fn without_buffers_frames_are_dropped_and_counted_until_some_come_back() {
        let (line, mut outbox, mut stats) = (Line::new(2, 9), outbox(256), Stats::default());
        // Two of the three peers get a buffer; the third's frame is lost, theirs are let go.
        outbox
            .send(&line, [1, 2, 3].map(peer), 5, b"all", &mut stats)
            .expect("short");
        assert_eq!((stats.send_no_buffer, stats.datagrams_sent), (1, 2));
        // Of six fragments none has a buffer: both are still on their way.
        outbox
            .send(&line, [peer(1)], 5, &[1; 1200], &mut stats)
            .expect("short");
        assert_eq!((stats.send_no_buffer, stats.frames_sent), (7, 2));
        line.posted.borrow_mut().clear();
        outbox
            .send(&line, [1, 2].map(peer), 5, b"all", &mut stats)
            .expect("short");
        outbox.flush(&line, &mut stats);
        assert_eq!((stats.send_no_buffer, stats.frames_sent), (7, 4));
    }

    #[test]
    fn a_datagram_too_many_in_flight_is_dropped_with_all_its_frames() {
        let (line, mut outbox, mut stats) = (Line::new(9, 1), outbox(256), Stats::default());
        for to in [1, 2, 2] {
            outbox
                .send(&line, [peer(to)], 5, b"one", &mut stats)
                .expect("short");
        }
        outbox.flush(&line, &mut stats);
        assert_eq!((stats.frames_sent, stats.send_in_flight), (1, 2));
        assert_eq!(line.pool.available(), 8);
    }

    #[test]
    fn one_peer_too_many_posts_what_is_being_built() {
        let (line, mut outbox, mut stats) = (Line::new(99, 99), outbox(256), Stats::default());
        outbox
            .send(&line, (0..64).map(peer), 5, b"all", &mut stats)
            .expect("short");
        assert_eq!(stats.datagrams_sent, 0);
        outbox
            .send(&line, [peer(64)], 5, b"one", &mut stats)
            .expect("short");
        assert_eq!((stats.datagrams_sent, outbox.building.len()), (64, 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn whatever_is_sent_is_read_in_order(
            budget in 256..1_472_usize,
            run_len in 0..6_000_usize,
            runs in 0..4_usize,
            lens in proptest::collection::vec(prop_oneof![0..80_usize, 0..3_000_usize], 0..60),
        ) {
            let line = Line {
                runs: BufPool::new(run_len, runs),
                ..Line::new(999, 999)
            };
            let (mut outbox, mut stats) = (outbox(budget), Stats::default());
            send(&line, &mut outbox, &lens, &mut stats);
            outbox.flush(&line, &mut stats);
            prop_assert_eq!(read(&line), lens);
            let posted = posted(&line);
            prop_assert!(posted.iter().all(|&(_, len)| len <= budget));
            prop_assert_eq!(stats.datagrams_sent, posted.len() as u64);
        }
    }
}
