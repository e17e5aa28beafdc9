//! What the store answers, as bytes in the manner of an operation's.

use super::reader::{Reader, put_bytes, put_optional};
use super::{KEY_BYTES_MAX, PAGE_BYTES_MAX, VALUE_BYTES_MAX};

/// What the store answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// What was asked is no operation. Nothing was changed.
    Invalid,
    /// The value is stored.
    Stored,
    /// What the key holds; `None`: the key is missing.
    Value(Option<&'a [u8]>),
    /// The key is gone. Whether it had been there.
    Deleted(bool),
    /// The key held what was expected, and now holds the new value.
    Swapped,
    /// The key did not hold what was expected, but this. Nothing was changed.
    NotSwapped(Option<&'a [u8]>),
    /// A page of a scan.
    Page {
        /// Keys and values, in the order of the keys.
        entries: Vec<(&'a [u8], &'a [u8])>,
        /// Whether there are entries after these.
        more: bool,
    },
}

const INVALID: u8 = 0;
const STORED: u8 = 1;
const VALUE: u8 = 2;
const DELETED: u8 = 3;
const SWAPPED: u8 = 4;
const NOT_SWAPPED: u8 = 5;
const PAGE: u8 = 6;

/// What a page has besides its entries: kind, `more`, count.
const PAGE_FIXED: usize = 4;
// A reply stays as short as the longest operation.
const _: () = assert!(PAGE_FIXED + PAGE_BYTES_MAX < 32 * 1024);

impl<'a> Outcome<'a> {
    /// Appends its bytes to `out`.
    ///
    /// # Panics
    /// When a key or value has, or a page counts, more than 65,535.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Invalid => out.push(INVALID),
            Self::Stored => out.push(STORED),
            Self::Value(value) => {
                out.push(VALUE);
                put_optional(*value, out);
            }
            Self::Deleted(existed) => out.extend_from_slice(&[DELETED, u8::from(*existed)]),
            Self::Swapped => out.push(SWAPPED),
            Self::NotSwapped(current) => {
                out.push(NOT_SWAPPED);
                put_optional(*current, out);
            }
            Self::Page { entries, more } => {
                out.extend_from_slice(&[PAGE, u8::from(*more)]);
                let count = u16::try_from(entries.len()).expect("a page is bounded");
                out.extend_from_slice(&count.to_le_bytes());
                for (key, value) in entries {
                    put_bytes(key, out);
                    put_bytes(value, out);
                }
            }
        }
    }

    /// The outcome that these bytes are. `None` if they are none, have something left over, pass a
    /// limit, or are a page out of order.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let outcome = match reader.u8()? {
            INVALID => Self::Invalid,
            STORED => Self::Stored,
            VALUE => Self::Value(reader.optional(VALUE_BYTES_MAX)?),
            DELETED => Self::Deleted(reader.bool()?),
            SWAPPED => Self::Swapped,
            NOT_SWAPPED => Self::NotSwapped(reader.optional(VALUE_BYTES_MAX)?),
            PAGE => {
                let more = reader.bool()?;
                Self::Page {
                    entries: decode_entries(&mut reader)?,
                    more,
                }
            }
            _ => return None,
        };
        reader.finish(outcome)
    }
}

fn decode_entries<'a>(reader: &mut Reader<'a>) -> Option<Vec<(&'a [u8], &'a [u8])>> {
    let mut entries: Vec<(&[u8], &[u8])> = Vec::new();
    for _ in 0..reader.u16()? {
        let key = reader.bytes(KEY_BYTES_MAX)?;
        if entries.last().is_some_and(|&(last, _)| last >= key) {
            return None;
        }
        entries.push((key, reader.bytes(VALUE_BYTES_MAX)?));
    }
    Some(entries)
}
