//! The store in a checkpoint: how it is frozen, written and read again.
//!
//! It is frozen at once, however large it is: from then on what an operation replaces or removes is
//! kept beside the store until it is written. So the frozen state is what is kept, and for all
//! other keys what the store holds. This costs a write one small insertion while a checkpoint is
//! being written, and nothing at other times; a persistent map would cost every operation.
//!
//! As bytes: a 1, then each key and value in the order of the keys, as in an operation.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::Bound;

use super::reader::{Reader, put_bytes};
use super::{ENTRY_FIXED, KEY_BYTES_MAX, Kv, VALUE_BYTES_MAX};
use crate::state_machine::{Piece, RestoreError};

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// The first byte.
const VERSION: u8 = 1;

/// What the store was when it was frozen, where that differs from what it is.
#[derive(Debug, Default)]
pub(super) struct Frozen {
    /// Everything up to this key is written.
    written: Option<Vec<u8>>,
    /// What keys behind that held; None: nothing.
    kept: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Frozen {
    /// An operation replaces what `key` held.
    pub(super) fn keep(&mut self, key: &[u8], held: Option<Vec<u8>>) {
        let is_written = self.written.as_ref().is_some_and(|last| key <= &last[..]);
        if !is_written && !self.kept.contains_key(key) {
            self.kept.insert(key.to_vec(), held);
        }
    }

    /// Appends about so many bytes; whether there is more.
    fn write(&mut self, entries: &Entries, budget_bytes: usize, out: &mut Vec<u8>) -> bool {
        let from = match &self.written {
            None => {
                out.push(VERSION);
                Bound::Unbounded
            }
            Some(last) => Bound::Excluded(&last[..]),
        };
        let mut live = entries
            .range::<[u8], _>((from, Bound::Unbounded))
            .peekable();
        let mut kept = self
            .kept
            .range::<[u8], _>((from, Bound::Unbounded))
            .peekable();
        let (mut last, mut seen) = (None, 0);
        let more = loop {
            if seen >= budget_bytes.max(1) {
                break live.peek().is_some() || kept.peek().is_some();
            }
            let is_kept = match (live.peek(), kept.peek()) {
                (None, None) => break false,
                (Some(_), None) => false,
                (None, Some(_)) => true,
                (Some((live, _)), Some((kept, _))) => kept <= live,
            };
            let (key, value) = if is_kept {
                let (key, held) = kept.next().expect("it was seen");
                live.next_if(|(live, _)| *live == key);
                (key, held.as_ref())
            } else {
                let (key, value) = live.next().expect("it was seen");
                (key, Some(value))
            };
            seen += ENTRY_FIXED + key.len();
            if let Some(value) = value {
                seen += value.len();
                put_bytes(key, out);
                put_bytes(value, out);
            }
            last = Some(key);
        };
        if let Some(last) = last.cloned() {
            while let Some(first) = self.kept.first_entry()
                && *first.key() <= last
            {
                first.remove();
            }
            self.written = Some(last);
        }
        more
    }
}

/// A store that is being read.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    entries: Entries,
    /// What was cut off at the end of the last piece.
    rest: Vec<u8>,
    has_begun: bool,
}

/// No entry is longer.
const ENTRY_BYTES_MAX: usize = ENTRY_FIXED + KEY_BYTES_MAX + VALUE_BYTES_MAX;

impl Incoming {
    fn read(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        self.rest.extend_from_slice(bytes);
        let mut unread = Reader(&self.rest);
        if !self.has_begun && !unread.0.is_empty() {
            if unread.u8() != Some(VERSION) {
                return Err(RestoreError);
            }
            self.has_begun = true;
        }
        loop {
            let mut ahead = Reader(unread.0);
            let key = ahead.bytes(KEY_BYTES_MAX);
            let value = ahead.bytes(VALUE_BYTES_MAX);
            let (Some(key), Some(value)) = (key, value) else {
                break;
            };
            let last = self.entries.last_key_value();
            if last.is_some_and(|(last, _)| key <= &last[..]) {
                return Err(RestoreError);
            }
            self.entries.insert(key.to_vec(), value.to_vec());
            unread = ahead;
        }
        let left = unread.0.len();
        self.rest.drain(..self.rest.len() - left);
        if left >= ENTRY_BYTES_MAX {
            return Err(RestoreError);
        }
        Ok(())
    }
}

/// What was the store before another one was read, to be dropped little by little.
#[derive(Debug, Default)]
pub(super) struct Past(Option<btree_map::IntoIter<Vec<u8>, Vec<u8>>>);

impl Past {
    /// Drops some of it.
    pub(super) fn fade(&mut self) {
        if let Some(entries) = &mut self.0
            && entries.by_ref().take(ENTRIES_AT_ONCE).count() < ENTRIES_AT_ONCE
        {
            self.0 = None;
        }
    }
}

const ENTRIES_AT_ONCE: usize = 64;

impl Kv {
    pub(super) fn freeze_entries(&mut self) {
        self.frozen = Some(Frozen::default());
    }

    pub(super) fn write_entries(&mut self, budget_bytes: usize, out: &mut Vec<u8>) -> bool {
        let frozen = self.frozen.as_mut().expect("the store was frozen");
        let more = frozen.write(&self.entries, budget_bytes, out);
        if !more {
            self.frozen = None;
        }
        more
    }

    pub(super) fn read_entries(&mut self, piece: Piece<'_>) -> Result<(), RestoreError> {
        let mut incoming = std::mem::take(&mut self.incoming);
        if piece.is_first {
            incoming = Incoming::default();
        }
        incoming.read(piece.bytes)?;
        if !piece.is_last {
            self.incoming = incoming;
            return Ok(());
        }
        if !incoming.rest.is_empty() || !incoming.has_begun {
            return Err(RestoreError);
        }
        let past = std::mem::replace(&mut self.entries, incoming.entries);
        self.past = Past(Some(past.into_iter()));
        self.frozen = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::Operation;
    use super::*;

    /// One key of a few, with a value or none: put, or deleted.
    fn change() -> impl Strategy<Value = (u8, Option<u8>)> {
        (0..30u8, proptest::option::of(any::<u8>()))
    }

    fn make(kv: &mut Kv, (key, value): (u8, Option<u8>)) {
        let key = &[key][..];
        match value {
            Some(value) => drop(kv.execute(Operation::Put {
                key,
                value: &[value; 5],
            })),
            None => drop(kv.execute(Operation::Delete { key })),
        }
    }

    fn whole(kv: &mut Kv) -> Vec<u8> {
        kv.freeze_entries();
        let mut bytes = Vec::new();
        assert!(!kv.write_entries(usize::MAX, &mut bytes));
        bytes
    }

    fn read(kv: &mut Kv, bytes: &[u8], most: usize) -> Result<(), RestoreError> {
        let mut pieces = bytes.chunks(most).peekable();
        let mut is_first = true;
        while let Some(bytes) = pieces.next() {
            kv.read_entries(Piece {
                bytes,
                is_first,
                is_last: pieces.peek().is_none(),
            })?;
            is_first = false;
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_was_frozen_whatever_is_done_meanwhile(
            before in vec(change(), 0..60), meanwhile in vec(vec(change(), 0..8), 0..60),
            budget in 1..40usize, most in 1..50usize,
        ) {
            let mut kv = Kv::default();
            before.into_iter().for_each(|change| make(&mut kv, change));
            let mut frozen = kv.clone();
            kv.freeze_entries();
            let (mut written, mut more, mut meanwhile) = (Vec::new(), true, meanwhile.into_iter());
            while more {
                meanwhile.next().into_iter().flatten().for_each(|change| make(&mut kv, change));
                let mut piece = Vec::new();
                more = kv.write_entries(budget, &mut piece);
                prop_assert!(piece.len() <= budget + 20);
                written.extend(piece);
            }
            prop_assert!(kv.frozen.is_none());
            prop_assert_eq!(&written, &whole(&mut frozen));
            let now = kv.clone();
            prop_assert_eq!(read(&mut kv, &written, most), Ok(()));
            prop_assert_eq!(&kv, &frozen);
            kv.past.fade();
            let written = whole(&mut now.clone());
            prop_assert_eq!(read(&mut kv, &written, most), Ok(()));
            prop_assert_eq!(&kv, &now);
        }

        #[test]
        fn bytes_that_are_no_store_change_nothing(
            bytes in vec(any::<u8>(), 0..40), most in 1..9usize,
        ) {
            let mut kv = Kv::default();
            make(&mut kv, (1, Some(2)));
            let before = kv.clone();
            if read(&mut kv, &bytes, most).is_err() {
                prop_assert_eq!(&kv, &before);
            }
        }
    }

    #[test]
    fn a_store_that_is_cut_off_is_not_read() {
        let mut kv = Kv::default();
        make(&mut kv, (1, Some(2)));
        let bytes = whole(&mut kv);
        let mut other = Kv::default();
        for cut in 0..bytes.len() {
            // Cut between two entries, it would be another store: the digest tells that.
            let is_store = cut == 1;
            let read = read(&mut other, &bytes[..cut], 3);
            assert!(is_store || cut == 0 || read.is_err(), "{cut}");
        }
        assert_eq!(read(&mut other, &bytes, 3), Ok(()));
        assert_eq!(other, kv);
    }
}
