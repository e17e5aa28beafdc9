//! One fragment: the body of a frame that carries a piece of a longer message.
//!
//! The pieces of a message are equally long, `chunk` bytes, but for the last. So each fragment
//! says by itself where it belongs and how long it must be, and how many there are follows: two
//! fragments that agree on `total` and `chunk` cannot overlap.

use std::ops::Range;

use crate::frame::{FIRST_RESERVED_KIND, HEADER_LEN, u32_at, u64_at};

/// Which message a fragment is a piece of, and which piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FragmentHeader {
    /// Drawn anew by each endpoint: a restarted sender counts its messages from zero again.
    pub(crate) incarnation: u64,
    /// Counts the fragmented messages of an incarnation.
    pub(crate) message: u32,
    /// Bytes of the whole message.
    pub(crate) total: u32,
    /// Bytes of each piece but the last.
    pub(crate) chunk: u16,
    /// Which piece, from zero.
    pub(crate) index: u16,
    /// The kind of the whole message.
    pub(crate) kind: u8,
}

impl FragmentHeader {
    pub(crate) fn encode(self) -> [u8; FRAGMENT_HEADER_LEN] {
        let mut bytes = [0; FRAGMENT_HEADER_LEN];
        bytes[..8].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.message.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.total.to_le_bytes());
        bytes[16..18].copy_from_slice(&self.chunk.to_le_bytes());
        bytes[18..20].copy_from_slice(&self.index.to_le_bytes());
        bytes[20] = self.kind;
        bytes
    }

    /// Reads the body of a fragment frame: a sound header, and a piece as long as that says.
    /// No message is longer than `max_message` bytes.
    pub(crate) fn decode(body: &[u8], max_message: usize) -> Result<(Self, &[u8]), FragmentError> {
        let Some((head, piece)) = body.split_first_chunk::<FRAGMENT_HEADER_LEN>() else {
            return Err(FragmentError::Header);
        };
        if head[21..] != [0; 3] {
            return Err(FragmentError::Header);
        }
        let header = Self {
            incarnation: u64_at(head, 0),
            message: u32_at(head, 8),
            total: u32_at(head, 12),
            chunk: u16::from_le_bytes([head[16], head[17]]),
            index: u16::from_le_bytes([head[18], head[19]]),
            kind: head[20],
        };
        if header.kind >= FIRST_RESERVED_KIND {
            return Err(FragmentError::Kind);
        }
        if header.total as usize > max_message {
            return Err(FragmentError::TooLong);
        }
        if usize::from(header.chunk) < MIN_CHUNK || !(2..=MAX_COUNT).contains(&header.count()) {
            return Err(FragmentError::Count);
        }
        if usize::from(header.index) >= header.count() {
            return Err(FragmentError::Index);
        }
        if piece.len() != header.range().len() {
            return Err(FragmentError::Size);
        }
        Ok((header, piece))
    }

    /// How many pieces the message has.
    pub(crate) fn count(self) -> usize {
        (self.total as usize).div_ceil(usize::from(self.chunk))
    }

    /// Where in the message this piece belongs.
    pub(crate) fn range(self) -> Range<usize> {
        let start = usize::from(self.index) * usize::from(self.chunk);
        start..(self.total as usize).min(start + usize::from(self.chunk))
    }
}

/// Why a fragment frame is of no use. The frames behind it in the datagram still are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FragmentError {
    /// Too short, or reserved bytes that are not zero.
    Header,
    /// Of a message of a reserved kind.
    Kind,
    /// Of a message that is too long.
    TooLong,
    /// Cut too small, or too few or too many pieces.
    Count,
    /// Beyond the message.
    Index,
    /// Not as long as its place.
    Size,
}

/// Bytes of a piece for datagrams of `budget` bytes.
pub(crate) fn chunk_len(budget: usize) -> usize {
    budget - HEADER_LEN - FRAGMENT_HEADER_LEN
}

/// Bytes of a fragment's frame body before its piece.
pub(crate) const FRAGMENT_HEADER_LEN: usize = 24;

/// The most pieces of a message: an index is 16 bits wide.
pub(crate) const MAX_COUNT: usize = 1 << 16;

/// The least bytes of a piece but the last: what fits the smallest budget. It keeps the note of
/// which pieces have arrived small beside the message.
pub(crate) const MIN_CHUNK: usize = MIN_BUDGET - HEADER_LEN - FRAGMENT_HEADER_LEN;

/// The least datagram budget, in bytes of UDP payload.
pub(crate) const MIN_BUDGET: usize = 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: FragmentHeader = FragmentHeader {
        incarnation: 0x1122_3344_5566_7788,
        message: 9,
        total: 1000,
        chunk: 600,
        index: 1,
        kind: 0x2A,
    };

    #[test]
    fn the_bytes_of_a_fragment_header_are_those_written_down() {
        #[rustfmt::skip]
        let golden = [
            0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, // incarnation
            0x09, 0, 0, 0,                                  // message
            0xE8, 0x03, 0, 0,                               // total
            0x58, 0x02,                                     // chunk
            0x01, 0,                                        // index
            0x2A,                                           // kind
            0, 0, 0,                                        // reserved
        ];
        assert_eq!(HEADER.encode(), golden);
        let body = [&golden[..], &[b'z'; 400]].concat();
        assert_eq!(
            FragmentHeader::decode(&body, 1000),
            Ok((HEADER, &[b'z'; 400][..]))
        );
    }

    #[test]
    fn each_fault_of_a_fragment_has_its_own_name() {
        let check = |change: fn(&mut FragmentHeader), piece: usize, fault| {
            let mut header = HEADER;
            change(&mut header);
            let body = [&header.encode()[..], &vec![0; piece]].concat();
            let decoded = FragmentHeader::decode(&body, 1 << 30);
            assert_eq!(decoded, Err(fault), "{header:?}");
        };
        check(|h| h.kind = 0xF0, 400, FragmentError::Kind);
        check(|h| h.total = u32::MAX, 400, FragmentError::TooLong);
        check(|h| h.total = 0, 0, FragmentError::Count);
        check(|h| (h.total, h.index) = (600, 0), 600, FragmentError::Count);
        check(|h| h.chunk = 0, 400, FragmentError::Count);
        check(|h| h.chunk = 203, 203, FragmentError::Count);
        check(|h| h.total = 1 << 30, 600, FragmentError::Count);
        check(|h| h.index = 2, 400, FragmentError::Index);
        check(|_| (), 399, FragmentError::Size);
        check(|_| (), 401, FragmentError::Size);
        check(|h| h.index = 0, 400, FragmentError::Size);

        let mut reserved = HEADER.encode().to_vec();
        assert_eq!(
            FragmentHeader::decode(&reserved[..23], 1000),
            Err(FragmentError::Header)
        );
        reserved[23] = 1;
        assert_eq!(
            FragmentHeader::decode(&reserved, 1000),
            Err(FragmentError::Header)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn the_pieces_of_a_message_tile_it(chunk in 204_u16.., extra in 1_u32..300_000) {
            let total = u32::from(chunk) + extra;
            let whole = FragmentHeader { total, chunk, index: 0, ..HEADER };
            let mut end = 0;
            for index in 0..whole.count() {
                let header = FragmentHeader { index: index as u16, ..whole };
                prop_assert_eq!(header.range().start, end);
                end = header.range().end;
                let body = [&header.encode()[..], &vec![7; header.range().len()]].concat();
                let (read, piece) = FragmentHeader::decode(&body, usize::MAX).expect("sound");
                prop_assert_eq!((read, piece.len()), (header, header.range().len()));
            }
            prop_assert_eq!(end, total as usize);
        }
    }
}
