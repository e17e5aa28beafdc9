//! A message that is too long for a datagram, in slices.
//!
//! What is cut up is everything behind the magic number, the head with the name included. Each
//! slice but the last has 9,000 bytes.

use super::frame::{FRAGMENT_MAGIC, MAGIC_LEN};
use crate::frame::u64_at;

/// One slice of a longer message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment<'a> {
    /// Counts the long messages of the sending process, from 1.
    pub(crate) message: u64,
    /// Where the slice begins.
    pub(crate) start: usize,
    /// Bytes of the whole.
    pub(crate) total: usize,
    pub(crate) slice: &'a [u8],
}

/// Why a fragment is dropped, by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FragmentError {
    /// It ends before its slice begins, or its numbers are none.
    Header,
    /// The whole would be too long.
    TooLong,
    /// The slice is not as long as its place, or begins where none does.
    Size,
}

impl<'a> Fragment<'a> {
    /// Reads a datagram that begins with the fragments' magic number. Its slice is what its place
    /// in the whole says, and no whole is longer than `total_max`.
    pub(crate) fn decode(datagram: &'a [u8], total_max: usize) -> Result<Self, FragmentError> {
        let Some((head, slice)) = datagram.split_at_checked(FRAGMENT_HEADER_LEN) else {
            return Err(FragmentError::Header);
        };
        let (message, start, total) = (u64_at(head, 4), u64_at(head, 12), u64_at(head, 20));
        if message == 0 || start >= total {
            return Err(FragmentError::Header);
        }
        if total > total_max as u64 {
            return Err(FragmentError::TooLong);
        }
        // Both are below the limit now.
        let (start, total) = (start as usize, total as usize);
        let expected = SLICE_LEN.min(total - start);
        if !start.is_multiple_of(SLICE_LEN) || slice.len() != expected {
            return Err(FragmentError::Size);
        }
        Ok(Self {
            message,
            start,
            total,
            slice,
        })
    }

    /// The datagram's head.
    pub(crate) fn head(&self) -> [u8; FRAGMENT_HEADER_LEN] {
        let mut bytes = [0; FRAGMENT_HEADER_LEN];
        bytes[..4].copy_from_slice(&FRAGMENT_MAGIC.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.message.to_le_bytes());
        bytes[12..20].copy_from_slice(&(self.start as u64).to_le_bytes());
        bytes[20..28].copy_from_slice(&(self.total as u64).to_le_bytes());
        bytes
    }
}

/// The slices of a datagram that is too long to be sent.
pub(crate) fn fragments(message: u64, datagram: &[u8]) -> impl Iterator<Item = Fragment<'_>> {
    let body = &datagram[MAGIC_LEN..];
    let slices = body.chunks(SLICE_LEN).enumerate();
    slices.map(move |(index, slice)| Fragment {
        message,
        start: index * SLICE_LEN,
        total: body.len(),
        slice,
    })
}

/// A datagram with a message may have so many bytes; a longer one is cut up.
pub(crate) const DATAGRAM_MAX: usize = 9_000;
/// Bytes of each slice but the last.
pub(crate) const SLICE_LEN: usize = 9_000;
/// Magic number, message, start, total.
pub(crate) const FRAGMENT_HEADER_LEN: usize = 28;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_fragment_are_those_written_down() {
        let datagram: Vec<u8> = (0..9_011u32).map(|i| i as u8).collect();
        let slices: Vec<_> = fragments(3, &datagram).collect();
        assert_eq!(slices.len(), 2);
        assert_eq!(slices[0].slice, &datagram[4..9_004]);
        let last = [&slices[1].head()[..], slices[1].slice].concat();
        #[rustfmt::skip]
        let golden = [
            0x10, 0x10, 0x10, 0x20,         // magic
            3, 0, 0, 0, 0, 0, 0, 0,         // message
            0x28, 0x23, 0, 0, 0, 0, 0, 0,   // start
            0x2F, 0x23, 0, 0, 0, 0, 0, 0,   // total
            44, 45, 46, 47, 48, 49, 50,     // slice
        ];
        assert_eq!(last, golden);
        assert_eq!(Fragment::decode(&golden, 10_000), Ok(slices[1]));
    }

    #[test]
    fn a_fragment_that_makes_no_sense_is_refused() {
        let of = |message: u64, start: u64, total: u64, len: usize| {
            let mut bytes = FRAGMENT_MAGIC.to_le_bytes().to_vec();
            for number in [message, start, total] {
                bytes.extend(number.to_le_bytes());
            }
            bytes.resize(bytes.len() + len, 7);
            Fragment::decode(&bytes, 20_000).map(|_| ())
        };
        assert_eq!(of(1, 0, 9_500, 9_000), Ok(()));
        assert_eq!(of(1, 9_000, 9_500, 500), Ok(()));
        assert_eq!(of(0, 0, 9_500, 9_000), Err(FragmentError::Header));
        assert_eq!(of(1, 9_500, 9_500, 0), Err(FragmentError::Header));
        assert_eq!(of(1, u64::MAX, 9_500, 1), Err(FragmentError::Header));
        assert_eq!(of(1, 0, 20_001, 9_000), Err(FragmentError::TooLong));
        assert_eq!(of(1, 0, u64::MAX, 9_000), Err(FragmentError::TooLong));
        assert_eq!(of(1, 1, 9_500, 9_000), Err(FragmentError::Size));
        assert_eq!(of(1, 0, 9_500, 8_999), Err(FragmentError::Size));
        assert_eq!(of(1, 9_000, 9_500, 501), Err(FragmentError::Size));
        assert_eq!(Fragment::decode(&[0x10; 27], 9), Err(FragmentError::Header));
    }
}
