//! Lists in a checkpoint: written in pieces, and read from pieces.

use crate::wire::{self, Input};
use alloc::vec::{self, Vec};

/// A list that is written in pieces: the number of things, then each.
pub(crate) struct Run<T> {
    count: Option<usize>,
    things: vec::IntoIter<T>,
}

impl<T> FromIterator<T> for Run<T> {
    fn from_iter<I: IntoIterator<Item = T>>(things: I) -> Self {
        let things: Vec<T> = things.into_iter().collect();
        Self {
            count: Some(things.len()),
            things: things.into_iter(),
        }
    }
}

impl<T> Run<T> {
    /// Appends about so many bytes; whether there are more.
    pub(crate) fn write(
        &mut self,
        budget_bytes: usize,
        out: &mut Vec<u8>,
        put: fn(&T, &mut Vec<u8>),
    ) -> bool {
        if let Some(count) = self.count.take() {
            wire::put_count(out, count);
        }
        while out.len() <= budget_bytes
            && let Some(thing) = self.things.next()
        {
            put(&thing, out);
        }
        !self.things.as_slice().is_empty()
    }
}

/// Bytes that come in pieces, and are read as if they came in one.
pub(crate) struct Unread<F> {
    /// Gives some of the bytes at an offset, which may be cut anywhere.
    read: F,
    at: u64,
    /// What was read ahead; of it, so much was used.
    held: Vec<u8>,
    used: usize,
}

impl<'a, F: Fn(u64, usize) -> &'a [u8]> Unread<F> {
    pub(crate) fn new(read: F) -> Self {
        Self {
            read,
            at: 0,
            held: Vec::new(),
            used: 0,
        }
    }

    /// Where what was not read begins.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Reads how many things follow.
    pub(crate) fn count(&mut self) -> Option<u32> {
        self.parse(|input| input.plain_count())
    }

    /// Reads one thing; more bytes are fetched as long as there are not enough of them.
    pub(crate) fn parse<T>(&mut self, get: impl Fn(&mut Input<'_>) -> Option<T>) -> Option<T> {
        loop {
            let mut input = Input(&self.held[self.used..]);
            if let Some(thing) = get(&mut input) {
                let read = self.held.len() - self.used - input.0.len();
                self.used += read;
                self.at += u64::try_from(read).ok()?;
                return Some(thing);
            }
            self.held.drain(..self.used);
            self.used = 0;
            let behind = self.at + u64::try_from(self.held.len()).ok()?;
            let more = (self.read)(behind, READ_AHEAD_BYTES);
            if more.is_empty() || self.held.len() > THING_BYTES_MAX {
                return None;
            }
            self.held.extend_from_slice(more);
        }
    }
}

const READ_AHEAD_BYTES: usize = 4 * 1024;
/// Longer than any result: what is not understood by then never will be.
const THING_BYTES_MAX: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_in_pieces_is_read_wherever_it_is_cut() {
        let mut run: Run<u64> = (0..100).collect();
        let mut out = Vec::new();
        while run.write(16, &mut out, |number, out| {
            wire::put_numbers(out, &[*number])
        }) {
            let so_far = out.len();
            let mut piece = Vec::new();
            let more = run.write(16, &mut piece, |n, out| wire::put_numbers(out, &[*n]));
            assert!(piece.len() <= 24, "a piece is about as long as it may be");
            out.extend_from_slice(&piece);
            assert!(out.len() > so_far || !more);
        }
        for most in [1, 7, 1000] {
            let mut bytes = Unread::new(|at, _| {
                let at = usize::try_from(at).expect("small");
                &out[at..out.len().min(at + most)]
            });
            assert_eq!(bytes.count(), Some(100));
            for number in 0..100 {
                assert_eq!(bytes.parse(|input| input.number().ok()), Some(number));
            }
            assert_eq!(bytes.at(), 804);
            assert!(bytes.parse(|input| input.number().ok()).is_none());
        }
    }
}
