//! A write and the sync that is linked to it: two completions become one.

use std::io;

use crate::reactor::Outcome;

pub(super) struct Pair {
    len: usize,
    /// [`Ring::cut_short`](super::ring::Ring::cut_short) when it was queued.
    cut_short_before: u64,
    written: Option<io::Result<usize>>,
    synced: Option<io::Result<()>>,
}

impl Pair {
    /// Of a write of `len` bytes.
    pub(super) fn new(len: usize, cut_short: u64) -> Self {
        Self {
            len,
            cut_short_before: cut_short,
            written: None,
            synced: None,
        }
    }

    pub(super) fn write_ended(&mut self, result: io::Result<usize>) {
        self.written = Some(result);
    }

    pub(super) fn sync_ended(&mut self, result: io::Result<()>) {
        self.synced = Some(result);
    }

    /// How both went, once both have ended. `cut_short` is the ring's count of now.
    ///
    /// A sync that succeeded counts only if it is sure to have come after the whole write. A sync
    /// that failed is told in any case: the kernel tells it once.
    pub(super) fn outcome(&mut self, cut_short: u64) -> Option<io::Result<Outcome>> {
        if self.written.is_none() || self.synced.is_none() {
            return None;
        }
        let (written, sync) = (self.written.take()?, self.synced.take()?);
        let not_done = || io::Error::from_raw_os_error(libc::ECANCELED);
        let failed = |error: &io::Error| error.raw_os_error() != Some(libc::ECANCELED);
        let is_linked = cut_short == self.cut_short_before;
        let sync = match sync {
            Err(error) if failed(&error) => {
                let written = written.unwrap_or(0);
                let sync = Err(error);
                return Some(Ok(Outcome::Synced { written, sync }));
            }
            Ok(()) if is_linked => Ok(()),
            Ok(()) | Err(_) => Err(not_done()),
        };
        Some(written.map(|written| Outcome::Synced {
            written,
            sync: if written == self.len {
                sync
            } else {
                Err(not_done())
            },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 10;

    fn errno<T>(errno: i32) -> io::Result<T> {
        Err(io::Error::from_raw_os_error(errno))
    }

    /// What is told: bytes and 0, or the errno of the sync, or the errno of the write.
    fn told(
        written: io::Result<usize>,
        sync: io::Result<()>,
        cut: u64,
    ) -> Result<(usize, i32), i32> {
        let mut pair = Pair::new(LEN, 3);
        pair.sync_ended(sync);
        assert!(pair.outcome(3).is_none(), "the write is still to come");
        pair.write_ended(written);
        let code = |error: io::Error| error.raw_os_error().unwrap_or(-1);
        match pair.outcome(3 + cut).expect("both have ended") {
            Ok(Outcome::Synced { written, sync }) => Ok((written, sync.map_or_else(code, |()| 0))),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(code(error)),
        }
    }

    #[test]
    fn only_a_whole_write_and_a_good_sync_are_durable() {
        assert_eq!(told(Ok(LEN), Ok(()), 0), Ok((LEN, 0)));
        assert_eq!(
            told(Ok(4), errno(libc::ECANCELED), 0),
            Ok((4, libc::ECANCELED))
        );
        assert_eq!(
            told(errno(libc::ENOSPC), errno(libc::ECANCELED), 0),
            Err(libc::ENOSPC)
        );
        assert_eq!(told(Ok(LEN), errno(libc::EIO), 0), Ok((LEN, libc::EIO)));
    }

    #[test]
    fn a_sync_that_may_have_come_before_the_write_does_not_count() {
        assert_eq!(told(Ok(LEN), Ok(()), 1), Ok((LEN, libc::ECANCELED)));
        assert_eq!(told(Ok(4), Ok(()), 0), Ok((4, libc::ECANCELED)));
    }

    #[test]
    fn a_sync_that_failed_is_told_whatever_became_of_the_write() {
        assert_eq!(
            told(errno(libc::ENOSPC), errno(libc::EIO), 1),
            Ok((0, libc::EIO))
        );
        assert_eq!(told(Ok(4), errno(libc::EIO), 1), Ok((4, libc::EIO)));
    }
}
