//! From datagrams to messages. Every byte is a stranger's: it is read, or it is counted.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;

use viewring_runtime::buf::SharedBuf;
use viewring_runtime::time::Instant;

use crate::config::EndpointConfig;
use crate::fragment::FragmentHeader;
use crate::frame::{
    self, FIRST_RESERVED_KIND, FrameError, HEADER_LEN, Header, KIND_FRAGMENT, Sender,
};
use crate::reassembly::{Fragment, Reassembly};
use crate::stats::Stats;

/// A message as it arrived: intact, of our cluster; whether its sender is who it says to be is
/// for the user to judge.
#[derive(Clone)]
pub struct Message {
    /// Where it came from.
    pub from: SocketAddr,
    /// Who the sender claims to be.
    pub sender: Sender,
    /// What it is, below [`FIRST_RESERVED_KIND`].
    pub kind: u8,
    /// Its bytes: usually a window onto the socket's receive buffer, so copy what you keep for
    /// longer than a turn. Dropping it gives the buffer back.
    pub body: SharedBuf,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            from,
            sender,
            kind,
            body,
        } = self;
        write!(
            f,
            "Message({} bytes of kind {kind} from {sender} at {from})",
            body.len()
        )
    }
}

/// Where an intact datagram of another cluster came from: perhaps one of us, with a wrong number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// The sender's address.
    pub from: SocketAddr,
    /// Its cluster.
    pub cluster: u64,
}

/// The datagram being read, and the messages being put together.
#[derive(Debug)]
pub(crate) struct Inbox {
    cluster: u64,
    max_message: usize,
    /// None: the last one was read to its end.
    current: Option<Current>,
    reassembly: Reassembly,
    /// The last one, until somebody asks.
    foreign: Option<Foreign>,
    /// When the datagram being read was taken from the socket.
    now: Instant,
}

#[derive(Debug)]
struct Current {
    from: SocketAddr,
    payload: SharedBuf,
    /// Where its next frame begins: before its end.
    at: usize,
}

impl Inbox {
    /// `config` was checked.
    pub(crate) fn new(config: &EndpointConfig) -> Self {
        Self {
            cluster: config.cluster,
            max_message: config.max_message,
            current: None,
            reassembly: Reassembly::new(config.reassembly),
            foreign: None,
            now: Instant::from_nanos(0),
        }
    }

    /// Says what time it is, and drops incomplete messages that are too old.
    pub(crate) fn set_now(&mut self, now: Instant, stats: &mut Stats) {
        self.now = now;
        self.reassembly.expire(now, stats);
    }

    /// Begins to read a datagram.
    ///
    /// # Panics
    /// Unless [`next`](Self::next) has said that the last one is read to its end.
    pub(crate) fn begin(
        &mut self,
        from: SocketAddr,
        payload: SharedBuf,
        is_truncated: bool,
        stats: &mut Stats,
    ) {
        assert!(self.current.is_none(), "a datagram is still being read");
        stats.datagrams_received += 1;
        stats.bytes_received += payload.len() as u64;
        if is_truncated {
            stats.datagram_truncated += 1;
        } else if payload.is_empty() {
            stats.datagram_empty += 1;
        } else {
            self.current = Some(Current {
                from,
                payload,
                at: 0,
            });
        }
    }

    /// The next message of the datagram; `None`: it is read to its end.
    pub(crate) fn next(&mut self, stats: &mut Stats) -> Option<Message> {
        while let Some(current) = &mut self.current {
            let (header, body) = match current.next_frame(self.cluster) {
                Ok(frame) => frame,
                Err(error) => {
                    stats.count_frame(error);
                    if let FrameError::Cluster(cluster) = error {
                        let from = current.from;
                        self.foreign = Some(Foreign { from, cluster });
                    }
                    self.current = None;
                    break;
                }
            };
            let from = current.from;
            let body = if current.is_at_end() {
                stats.datagrams_intact += 1;
                let read = self.current.take().expect("it was being read");
                read.payload.into_slice(body)
            } else {
                current.payload.slice(body)
            };
            stats.frames_received += 1;
            if let Some(message) = self.on_frame(from, header, body, stats) {
                stats.messages_received += 1;
                return Some(message);
            }
        }
        None
    }

    fn on_frame(
        &mut self,
        from: SocketAddr,
        Header { sender, kind, .. }: Header,
        body: SharedBuf,
        stats: &mut Stats,
    ) -> Option<Message> {
        if kind < FIRST_RESERVED_KIND {
            stats.frames_whole += 1;
            return Some(Message {
                from,
                sender,
                kind,
                body,
            });
        }
        if kind != KIND_FRAGMENT {
            stats.frame_unknown_kind += 1;
            return None;
        }
        stats.fragments_received += 1;
        let (header, piece) = FragmentHeader::decode(&body, self.max_message)
            .inspect_err(|error| stats.count_fragment(*error))
            .ok()?;
        let fragment = Fragment {
            from,
            sender,
            header,
            piece,
        };
        let body = self.reassembly.accept(fragment, self.now, stats)?;
        Some(Message {
            from,
            sender,
            kind: header.kind,
            body,
        })
    }

    /// The last datagram of another cluster, if there was one since this was asked last.
    pub(crate) fn take_foreign(&mut self) -> Option<Foreign> {
        self.foreign.take()
    }

    /// How many messages are incomplete.
    #[cfg(test)]
    pub(crate) fn open_messages(&self) -> usize {
        self.reassembly.open_messages()
    }
}

impl Current {
    /// Whether nothing is left behind a frame, or nothing but zeros: no frame is that.
    fn is_at_end(&self) -> bool {
        self.payload[self.at..].iter().all(|&byte| byte == 0)
    }

    /// Its next frame: the header, and where its body is.
    fn next_frame(&mut self, cluster: u64) -> Result<(Header, Range<usize>), FrameError> {
        let (header, body_len) = frame::decode(&self.payload[self.at..], cluster)?;
        let start = self.at + HEADER_LEN;
        self.at = start + body_len;
        Ok((header, start..self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::peer;

    const CLUSTER: u64 = 7;

    fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
        let header = Header {
            cluster: CLUSTER,
            sender: Sender(1),
            kind,
        };
        header.frame(body)
    }

    /// The bodies read from one datagram, and what was counted.
    fn read(datagram: &[u8]) -> (Vec<Vec<u8>>, Stats) {
        let mut stats = Stats::default();
        let config = EndpointConfig {
            cluster: CLUSTER,
            ..EndpointConfig::default()
        };
        let mut inbox = Inbox::new(&config);
        inbox.begin(peer(1), SharedBuf::copy_from(datagram), false, &mut stats);
        let mut bodies = Vec::new();
        while let Some(message) = inbox.next(&mut stats) {
            assert_eq!((message.from, message.sender), (peer(1), Sender(1)));
            bodies.push(message.body.to_vec());
        }
        stats.check_sums(inbox.open_messages());
        assert_eq!(
            (stats.datagrams_received, stats.bytes_received),
            (1, datagram.len() as u64)
        );
        (bodies, stats)
    }

    #[test]
    fn zeros_behind_a_frame_are_padding_and_nothing_else_is() {
        let padded = |byte: u8, count: usize| [frame(1, b"one"), vec![byte; count]].concat();
        for count in [1, 27, 28, 29, 500] {
            let (bodies, stats) = read(&padded(0, count));
            assert_eq!(bodies, [b"one"]);
            assert_eq!(stats.datagrams_intact, 1);
            let mut garbled = padded(0, count);
            *garbled.last_mut().expect("there is one") = 1;
            let (bodies, stats) = read(&garbled);
            assert_eq!((bodies.len(), stats.datagrams_intact), (1, 0));
        }
        assert_eq!(read(&padded(1, 3)).1.datagrams_intact, 0);
        let (bodies, stats) = read(&[0; 100]);
        assert_eq!((bodies.len(), stats.datagrams_intact), (0, 0), "no frame");
    }

    #[test]
    fn the_frames_of_a_datagram_are_read_in_order() {
        let datagram = [frame(1, b"one"), frame(2, b""), frame(3, b"three")].concat();
        let (bodies, stats) = read(&datagram);
        assert_eq!(bodies, [&b"one"[..], b"", b"three"]);
        assert_eq!((stats.datagrams_intact, stats.frames_whole), (1, 3));
    }

    #[test]
    fn a_body_is_a_window_onto_the_datagram() {
        let mut stats = Stats::default();
        let mut inbox = Inbox::new(&EndpointConfig {
            cluster: CLUSTER,
            ..Default::default()
        });
        let payload = SharedBuf::copy_from(&frame(1, b"one"));
        inbox.begin(peer(1), payload.clone(), false, &mut stats);
        let message = inbox.next(&mut stats).expect("a message");
        assert_eq!(message.body.as_ptr(), payload[HEADER_LEN..].as_ptr());
    }

    #[test]
    fn a_bad_frame_costs_what_is_behind_it_and_nothing_before() {
        let mut foreign = Header {
            cluster: 8,
            sender: Sender(1),
            kind: 1,
        }
        .frame(&[]);
        let check = |bad: &[u8], counter: fn(&Stats) -> u64| {
            let datagram = [&frame(1, b"before"), bad, &frame(1, b"behind")].concat();
            let (bodies, stats) = read(&datagram);
            assert_eq!(bodies, [b"before"]);
            assert_eq!(
                (counter(&stats), stats.datagrams_intact),
                (1, 0),
                "{stats:?}"
            );
        };
        check(&foreign, |stats| stats.datagram_cluster);
        foreign[9] ^= 1;
        check(&foreign, |stats| stats.datagram_checksum);
        foreign[24] = 0xFF;
        check(&foreign, |stats| stats.datagram_length);
        foreign[6] = 9;
        check(&foreign, |stats| stats.datagram_version);
        foreign[4] = 9;
        check(&foreign, |stats| stats.datagram_magic);

        let (bodies, stats) = read(&[&frame(1, b"before")[..], b"trailing"].concat());
        assert_eq!((bodies.len(), stats.datagram_trailing), (1, 1));
    }

    #[test]
    fn the_last_datagram_of_another_cluster_is_remembered_until_it_is_asked_for() {
        let mut inbox = Inbox::new(&EndpointConfig {
            cluster: CLUSTER,
            ..Default::default()
        });
        let mut stats = Stats::default();
        for (port, cluster) in [(1, 5), (2, 6), (3, CLUSTER)] {
            let (sender, kind) = (Sender(1), 1);
            let header = Header {
                cluster,
                sender,
                kind,
            };
            let payload = SharedBuf::copy_from(&header.frame(b"one"));
            inbox.begin(peer(port), payload, false, &mut stats);
            assert_eq!(inbox.next(&mut stats).is_some(), cluster == CLUSTER);
        }
        let (from, cluster) = (peer(2), 6);
        assert_eq!(inbox.take_foreign(), Some(Foreign { from, cluster }));
        assert_eq!(inbox.take_foreign(), None);
    }

    #[test]
    fn a_useless_frame_with_sound_bounds_costs_only_itself() {
        let datagram = [
            frame(0xFF, b"later"),
            frame(0xF0, b"short"),
            frame(1, b"one"),
        ]
        .concat();
        let (bodies, stats) = read(&datagram);
        assert_eq!(bodies, [b"one"]);
        assert_eq!((stats.frame_unknown_kind, stats.fragment_header), (1, 1));
        assert_eq!((stats.datagrams_intact, stats.frames_received), (1, 3));
    }

    #[test]
    fn an_empty_and_a_truncated_datagram_are_counted() {
        let (_, stats) = read(b"");
        assert_eq!(stats.datagram_empty, 1);
        let mut inbox = Inbox::new(&EndpointConfig {
            cluster: CLUSTER,
            ..Default::default()
        });
        let mut stats = Stats::default();
        inbox.begin(
            peer(1),
            SharedBuf::copy_from(&frame(1, b"one")),
            true,
            &mut stats,
        );
        assert!(inbox.next(&mut stats).is_none());
        assert_eq!((stats.datagram_truncated, stats.datagrams_received), (1, 1));
    }
}
