//! A queue whose memory follows its length.
//!
//! A log of a hundred thousand entries in one ring takes megabytes in a row: it grows by copying
//! them all, never shrinks, and allocators keep the holes that it leaves behind. In small blocks it
//! takes what it needs, and no append costs more than another by much.

use alloc::collections::VecDeque;

/// A queue in blocks of equal size.
#[derive(Debug)]
pub(crate) struct Blocks<T> {
    /// None is empty. All but the last are filled up to their end.
    blocks: VecDeque<VecDeque<T>>,
    /// So many have gone from the front of the first block.
    gone: usize,
    len: usize,
    /// An empty one, so that a queue that moves on allocates nothing.
    spare: Option<VecDeque<T>>,
}

/// Of entries, some tens of kilobytes.
const BLOCK: usize = 512;

impl<T> Blocks<T> {
    pub(crate) fn new() -> Self {
        Self {
            blocks: VecDeque::new(),
            gone: 0,
            len: 0,
            spare: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        if index >= self.len {
            return None;
        }
        let place = self.gone + index;
        let gone = if place < BLOCK { self.gone } else { 0 };
        self.blocks.get(place / BLOCK)?.get(place % BLOCK - gone)
    }

    pub(crate) fn back(&self) -> Option<&T> {
        self.blocks.back()?.back()
    }

    pub(crate) fn push_back(&mut self, thing: T) {
        if (self.gone + self.len).is_multiple_of(BLOCK) {
            let spare = self.spare.take();
            let block = spare.unwrap_or_else(|| VecDeque::with_capacity(BLOCK));
            self.blocks.push_back(block);
        }
        let last = self.blocks.back_mut().expect("there is room");
        last.push_back(thing);
        self.len += 1;
    }

    pub(crate) fn pop_front(&mut self) -> Option<T> {
        let block = self.blocks.front_mut()?;
        let thing = block.pop_front();
        self.gone += 1;
        self.len -= 1;
        if block.is_empty() {
            self.spare = self.blocks.pop_front();
            self.gone = 0;
        }
        thing
    }

    pub(crate) fn pop_back(&mut self) -> Option<T> {
        let block = self.blocks.back_mut()?;
        let thing = block.pop_back();
        self.len -= 1;
        if block.is_empty() {
            self.spare = self.blocks.pop_back();
        }
        if self.blocks.is_empty() {
            self.gone = 0;
        }
        thing
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_does_what_a_queue_does(steps in prop::collection::vec((0..7u8, 0..900usize), 1..40)) {
            let (mut blocks, mut queue) = (Blocks::new(), VecDeque::new());
            let mut next = 0_u64;
            for (what, count) in steps {
                for _ in 0..count {
                    match what {
                        0..=2 => {
                            blocks.push_back(next);
                            queue.push_back(next);
                            next += 1;
                        }
                        3 | 4 => prop_assert_eq!(blocks.pop_front(), queue.pop_front()),
                        5 => prop_assert_eq!(blocks.pop_back(), queue.pop_back()),
                        _ => {}
                    }
                }
                if what == 6 && count > 800 {
                    blocks.clear();
                    queue.clear();
                }
                prop_assert_eq!((blocks.len(), blocks.back()), (queue.len(), queue.back()));
                for index in 0..queue.len() + 2 {
                    prop_assert_eq!(blocks.get(index), queue.get(index));
                }
                let most = queue.len() / BLOCK + 2;
                prop_assert!(blocks.blocks.len() <= most, "memory follows the length");
                prop_assert!(blocks.blocks.iter().all(|block| block.capacity() == BLOCK));
            }
        }
    }
}
