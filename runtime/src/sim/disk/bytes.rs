//! The bytes of a file: in the cache, on the disk, and on their way from one to the other.

use std::ops::Range;

use super::super::random::Random;

#[derive(Debug, Default)]
pub(super) struct File {
    /// What a reader sees.
    pub(super) cached: Vec<u8>,
    /// What a crash leaves.
    pub(super) durable: Vec<u8>,
    /// Written and not synced, in order.
    pub(super) dirty: Vec<Write>,
    /// Of a sync that failed: the cache shows them, and may let go of them.
    pub(super) doubtful: Vec<Write>,
}

#[derive(Debug)]
pub(super) struct Write {
    pub(super) number: u64,
    /// Before it writes, it empties the file.
    pub(super) truncates: bool,
    pub(super) offset: u64,
    pub(super) data: Vec<u8>,
}

impl Write {
    /// The places in the file that it writes, sector by sector.
    fn sectors(&self, sector: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let mut at = self.offset as usize;
        let end = at + self.data.len();
        std::iter::from_fn(move || {
            let start = at;
            at = end.min(start - start % sector + sector);
            (start < end).then_some(start..at)
        })
    }
}

/// Does some sectors of a write and leaves others; says how many bytes it left.
pub(super) fn tear(
    random: &mut Random,
    kept: f64,
    sector: usize,
    durable: &mut Vec<u8>,
    write: &Write,
) -> u64 {
    let mut lost = 0;
    if write.truncates && random.chance(kept) {
        durable.clear();
    }
    for part in write.sectors(sector) {
        let start = write.offset as usize;
        if random.chance(kept) {
            let data = &write.data[part.start - start..part.end - start];
            put(durable, part.start as u64, data);
        } else {
            lost += part.len() as u64;
            if durable.len() < part.end && random.chance(kept) {
                durable.resize(part.end, 0);
            }
        }
    }
    lost
}

/// Has some sectors of a write read as they are on the disk, unless they are still to be written.
pub(super) fn evict(random: &mut Random, sector: usize, file: &mut File, write: &Write) {
    for part in write.sectors(sector) {
        let is_dirty = |dirty: &Write| {
            let start = dirty.offset as usize;
            start < part.end && part.start < start + dirty.data.len()
        };
        if file.dirty.iter().any(is_dirty) || random.chance(0.5) {
            continue;
        }
        let end = part.end.min(file.cached.len());
        for place in part.start..end {
            file.cached[place] = file.durable.get(place).copied().unwrap_or(0);
        }
    }
}

/// Writes into a file, filling a hole before it with zeros.
pub(super) fn put(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    if data.is_empty() {
        return; // which makes no hole
    }
    let start = offset as usize;
    let end = start + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[start..end].copy_from_slice(data);
}

pub(super) fn flip(file: &mut File, place: usize, bit: u32) -> bool {
    let Some(byte) = file.cached.get_mut(place) else {
        return false;
    };
    *byte ^= 1 << bit;
    if let Some(byte) = file.durable.get_mut(place) {
        *byte ^= 1 << bit;
    }
    true
}
