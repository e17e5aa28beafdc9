//! One frame: a fixed header, then the body. `WIRE.md` has the picture.
//!
//! The checksum comes first and covers everything after it, so one pass over contiguous bytes
//! makes or checks it. What is looked at before it (magic, version, length) is what says where
//! those bytes are; the cluster is looked at after it, so that a flipped bit is counted as a
//! flipped bit and not as a foreign cluster.

use std::fmt;

/// Who the sending endpoint claims to be. The transport carries the number and does not judge it:
/// a datagram is checksummed, not authenticated.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Sender(pub u64);

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a header says besides the body's length and checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) cluster: u64,
    pub(crate) sender: Sender,
    pub(crate) kind: u8,
}

impl Header {
    /// The header before a body of so many bytes, without a checksum yet: see [`seal`].
    ///
    /// # Panics
    /// When the body is longer than 4 GiB.
    pub(crate) fn encode(self, body_len: usize) -> [u8; HEADER_LEN] {
        let body_len = u32::try_from(body_len).expect("a body fits an u32");
        let mut bytes = [0; HEADER_LEN];
        bytes[4..6].copy_from_slice(&MAGIC);
        bytes[6] = VERSION;
        bytes[7] = self.kind;
        bytes[8..16].copy_from_slice(&self.cluster.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sender.0.to_le_bytes());
        bytes[24..28].copy_from_slice(&body_len.to_le_bytes());
        bytes
    }
}

/// Writes the checksum of a whole frame where it belongs, and returns its bytes. Made there, where
/// all parts lie in a row, it takes one pass: to begin and end one for each part costs more than
/// those of a short frame.
pub(crate) fn seal(frame: &mut [u8]) -> [u8; CHECKSUM_LEN] {
    let (place, covered) = frame.split_at_mut(CHECKSUM_LEN);
    let checksum = crc32c::crc32c(covered).to_le_bytes();
    place.copy_from_slice(&checksum);
    checksum
}

/// Reads the frame at the start of `bytes`: its header and how long its body is.
/// The frame ends at `HEADER_LEN` plus that.
pub(crate) fn decode(bytes: &[u8], cluster: u64) -> Result<(Header, usize), FrameError> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Err(FrameError::Trailing);
    };
    if head[4..6] != MAGIC {
        return Err(FrameError::Magic);
    }
    if head[6] != VERSION {
        return Err(FrameError::Version);
    }
    let body_len = u32_at(head, 24) as usize;
    if body_len > rest.len() {
        return Err(FrameError::Length);
    }
    if crc32c::crc32c(&bytes[CHECKSUM_LEN..HEADER_LEN + body_len]) != u32_at(head, 0) {
        return Err(FrameError::Checksum);
    }
    let header = Header {
        cluster: u64_at(head, 8),
        sender: Sender(u64_at(head, 16)),
        kind: head[7],
    };
    if header.cluster != cluster {
        return Err(FrameError::Cluster(header.cluster));
    }
    Ok((header, body_len))
}

/// Why the bytes at hand are no frame for us. What follows them in the datagram is lost too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FrameError {
    /// Fewer bytes than a header.
    Trailing,
    Magic,
    Version,
    /// The body would end beyond the datagram.
    Length,
    Checksum,
    /// Intact, but of another cluster: this one.
    Cluster(u64),
}

/// The little-endian number at `at`.
///
/// # Panics
/// When it reaches beyond `bytes`.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The little-endian number at `at`.
///
/// # Panics
/// When it reaches beyond `bytes`.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Bytes at the beginning of a frame that cover all others.
pub(crate) const CHECKSUM_LEN: usize = 4;

/// Bytes of a frame before its body.
pub const HEADER_LEN: usize = 28;

/// Kinds from here on are the transport's own; those below are the user's.
pub const FIRST_RESERVED_KIND: u8 = 0xF0;

/// The body is a fragment header and a piece of a message: see `fragment.rs`.
pub(crate) const KIND_FRAGMENT: u8 = 0xF0;

const MAGIC: [u8; 2] = *b"Vw";
const VERSION: u8 = 1;

#[cfg(test)]
impl Header {
    /// A frame with this body.
    pub(crate) fn frame(self, body: &[u8]) -> Vec<u8> {
        let mut frame = [&self.encode(body.len())[..], body].concat();
        seal(&mut frame);
        frame
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLUSTER: u64 = 0x0123_4567_89AB_CDEF;

    fn frame(body: &[u8]) -> Vec<u8> {
        let header = Header {
            cluster: CLUSTER,
            sender: Sender(7),
            kind: 0x2A,
        };
        header.frame(body)
    }

    /// The checksum of the frame as it stands, put where it belongs.
    fn reseal(mut frame: Vec<u8>) -> Vec<u8> {
        seal(&mut frame);
        frame
    }

    #[test]
    fn the_bytes_of_a_frame_are_those_written_down() {
        #[rustfmt::skip]
        let golden = [
            0x35, 0xE5, 0xB7, 0x2C,                         // checksum
            b'V', b'w',                                     // magic
            0x01,                                           // version
            0x2A,                                           // kind
            0xEF, 0xCD, 0xAB, 0x89, 0x67, 0x45, 0x23, 0x01, // cluster
            0x07, 0, 0, 0, 0, 0, 0, 0,                      // sender
            0x05, 0, 0, 0,                                  // length
            b'h', b'e', b'l', b'l', b'o',                   // body
        ];
        assert_eq!(frame(b"hello"), golden);
        let header = Header {
            cluster: CLUSTER,
            sender: Sender(7),
            kind: 0x2A,
        };
        assert_eq!(decode(&golden, CLUSTER), Ok((header, 5)));
    }

    #[test]
    fn each_fault_of_a_frame_has_its_own_name() {
        let good = frame(b"hello");
        let with = |at: usize, byte: u8| {
            let mut bad = good.clone();
            bad[at] = byte;
            bad
        };
        let check = |bytes: &[u8], fault| assert_eq!(decode(bytes, CLUSTER), Err(fault));
        check(&good[..HEADER_LEN - 1], FrameError::Trailing);
        check(b"", FrameError::Trailing);
        check(&with(4, 0), FrameError::Magic);
        check(&with(6, 2), FrameError::Version);
        check(&with(24, 6), FrameError::Length);
        check(&with(27, 0xFF), FrameError::Length);
        check(&with(24, 4), FrameError::Checksum);
        check(&with(0, !good[0]), FrameError::Checksum);
        check(&with(8, 0), FrameError::Checksum);
        check(&with(HEADER_LEN, b'j'), FrameError::Checksum);
        let other = CLUSTER & !0xFF;
        check(&reseal(with(8, 0)), FrameError::Cluster(other));
    }

    #[test]
    fn every_single_flipped_bit_is_noticed() {
        let good = frame(b"hello");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad, CLUSTER).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn what_was_written_is_read(
            cluster: u64,
            sender: u64,
            kind: u8,
            body in proptest::collection::vec(any::<u8>(), 0..2000),
            behind in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let header = Header { cluster, sender: Sender(sender), kind };
            let bytes = [header.frame(&body), behind].concat();
            prop_assert_eq!(decode(&bytes, cluster), Ok((header, body.len())));
        }
    }
}
