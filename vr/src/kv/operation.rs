//! What a client asks of the store.
//!
//! As bytes: a kind, then the fields in order. A key, a prefix or a value is a length of two bytes
//! and so many bytes; what is optional has a 0 or a 1 before it; numbers are little-endian.

use std::num::NonZeroU16;

use super::reader::{Reader, put_bytes, put_optional};
use super::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

/// What a client asks of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Makes `key` hold `value`. Answered with [`Stored`](super::Outcome::Stored).
    Put {
        /// Where.
        key: &'a [u8],
        /// What.
        value: &'a [u8],
    },
    /// Answered with [`Value`](super::Outcome::Value).
    Get {
        /// Of which key.
        key: &'a [u8],
    },
    /// Removes a key. Answered with [`Deleted`](super::Outcome::Deleted).
    Delete {
        /// Which.
        key: &'a [u8],
    },
    /// Makes `key` hold `new` if it holds `expected` now. Answered with
    /// [`Swapped`](super::Outcome::Swapped) or [`NotSwapped`](super::Outcome::NotSwapped).
    CompareAndSwap {
        /// Where.
        key: &'a [u8],
        /// What it must hold; `None`: it must be missing.
        expected: Option<&'a [u8]>,
        /// What it holds then.
        new: &'a [u8],
    },
    /// The entries whose keys begin with `prefix`, in order, a page at a time. Answered with
    /// [`Page`](super::Outcome::Page).
    Scan {
        /// How the keys begin.
        prefix: &'a [u8],
        /// Only keys after this one: the last of the page before.
        after: Option<&'a [u8]>,
        /// At most so many entries. There may be fewer, and still be more to come.
        limit: NonZeroU16,
    },
}

const PUT: u8 = 1;
const GET: u8 = 2;
const DELETE: u8 = 3;
const COMPARE_AND_SWAP: u8 = 4;
const SCAN: u8 = 5;

/// The longest operation: a compare-and-swap.
const OPERATION_BYTES_MAX: usize = 8 + KEY_BYTES_MAX + 2 * VALUE_BYTES_MAX;
// A replica takes operations of 32 KiB unless it is told otherwise.
const _: () = assert!(OPERATION_BYTES_MAX < 32 * 1024);

impl<'a> Operation<'a> {
    /// Appends its bytes to `out`. They are no operation if a key or value is over its limit.
    ///
    /// # Panics
    /// When a key or value has more than 65,535 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Put { key, value } => {
                out.push(PUT);
                put_bytes(key, out);
                put_bytes(value, out);
            }
            Self::Get { key } => {
                out.push(GET);
                put_bytes(key, out);
            }
            Self::Delete { key } => {
                out.push(DELETE);
                put_bytes(key, out);
            }
            Self::CompareAndSwap { key, expected, new } => {
                out.push(COMPARE_AND_SWAP);
                put_bytes(key, out);
                put_optional(expected, out);
                put_bytes(new, out);
            }
            Self::Scan {
                prefix,
                after,
                limit,
            } => {
                out.push(SCAN);
                put_bytes(prefix, out);
                put_optional(after, out);
                out.extend_from_slice(&limit.get().to_le_bytes());
            }
        }
    }

    /// Its bytes.
    ///
    /// # Panics
    /// As [`encode`](Self::encode).
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        bytes
    }

    /// The operation that these bytes are. `None` if they are none, have something left over, or
    /// pass a limit.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let kind = reader.u8()?;
        let key = reader.bytes(KEY_BYTES_MAX)?;
        let operation = match kind {
            PUT => Self::Put {
                key,
                value: reader.bytes(VALUE_BYTES_MAX)?,
            },
            GET => Self::Get { key },
            DELETE => Self::Delete { key },
            COMPARE_AND_SWAP => Self::CompareAndSwap {
                key,
                expected: reader.optional(VALUE_BYTES_MAX)?,
                new: reader.bytes(VALUE_BYTES_MAX)?,
            },
            SCAN => Self::Scan {
                prefix: key,
                after: reader.optional(KEY_BYTES_MAX)?,
                limit: NonZeroU16::new(reader.u16()?)?,
            },
            _ => return None,
        };
        reader.finish(operation)
    }
}
