//! The two queues: pushing without ever losing an entry, entering the kernel, copying out.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use io_uring::{EnterFlags, IoUring, cqueue, squeue};

use super::setup::{self, Capabilities, SetupError};

/// At most so many completions are taken per turn, so that a flood does not starve the tasks.
const REAP_MAX: usize = 512;

pub(super) struct Ring {
    ring: IoUring,
    capabilities: Capabilities,
    /// Entries that found the submission queue full, in order. Bounded by what is in flight.
    backlog: VecDeque<Queued>,
    pub(super) enters: u64,
    pub(super) submitted: u64,
    pub(super) completed: u64,
    /// Entries that had to wait in the backlog.
    pub(super) delayed: u64,
    /// Enters that found completions overflowed.
    pub(super) overflows: u64,
    /// Enters that consumed less than all of the submission queue.
    pub(super) cut_short: u64,
}

/// What is handed over together.
enum Queued {
    One(squeue::Entry),
    Linked([squeue::Entry; 2]),
}

impl Queued {
    fn entries(&self) -> &[squeue::Entry] {
        match self {
            Self::One(entry) => std::slice::from_ref(entry),
            Self::Linked(pair) => pair,
        }
    }
}

impl Ring {
    pub(super) fn new(submissions: u32, completions: u32) -> Result<Self, SetupError> {
        // A linked pair has to fit.
        let (submissions, completions) = match submissions {
            1 => (2, completions.max(2)),
            _ => (submissions, completions),
        };
        let (ring, capabilities) = setup::build(submissions, completions)?;
        Ok(Self {
            ring,
            capabilities,
            backlog: VecDeque::new(),
            enters: 0,
            submitted: 0,
            completed: 0,
            delayed: 0,
            overflows: 0,
            cut_short: 0,
        })
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    pub(super) fn inner(&self) -> &IoUring {
        &self.ring
    }

    /// Another descriptor of the same ring.
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        // SAFETY: `borrow_raw` asks for a descriptor that stays open while the borrow lives: the
        // ring is open and borrowed.
        let fd = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        fd.try_clone_to_owned()
    }

    /// Queues an entry for the next [`enter`](Self::enter). Never fails, never loses it.
    ///
    /// # Safety
    /// Everything that the entry points to stays valid, and is not otherwise written (or, where
    /// the kernel writes, not otherwise accessed) until the entry's final completion; if it has no
    /// completion on success, for ever or until it is consumed, as its man page says.
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
        if self.backlog.is_empty() {
            // SAFETY: `push` asks what our caller promised.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            // Full: hand over what is there, and try once more. An error shows in the next turn.
            let _shows_later = self.submit();
            // SAFETY: as above.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
        }
        self.delayed += 1;
        self.backlog.push_back(Queued::One(entry));
    }

    /// Queues two entries, of which the second does not begin before the first has succeeded. Never
    /// fails, never loses one; they are never handed over apart by us. The kernel could still stop
    /// between them, and then the second is on its own: [`cut_short`](Self::cut_short) tells that
    /// it may have happened.
    ///
    /// # Safety
    /// As for [`push`](Self::push), for both.
    pub(super) unsafe fn push_linked(&mut self, first: squeue::Entry, second: squeue::Entry) {
        let pair = [first.flags(squeue::Flags::IO_LINK), second];
        if self.backlog.is_empty() {
            // SAFETY: `push_multiple` asks what our caller promised. It pushes both or none.
            if unsafe { self.ring.submission().push_multiple(&pair) }.is_ok() {
                return;
            }
            // As in `push`.
            let _shows_later = self.submit();
            // SAFETY: as above.
            if unsafe { self.ring.submission().push_multiple(&pair) }.is_ok() {
                return;
            }
        }
        self.delayed += 2;
        self.backlog.push_back(Queued::Linked(pair));
    }

    /// Whether an enter that only polls would find nothing to do. No system call.
    pub(super) fn is_idle(&mut self) -> bool {
        if !self.backlog.is_empty() || !self.ring.completion().is_empty() {
            return false;
        }
        let queue = self.ring.submission();
        queue.is_empty() && !queue.taskrun() && !queue.cq_overflow()
    }

    /// Whether the kernel has consumed every entry.
    pub(super) fn is_submitted(&mut self) -> bool {
        self.backlog.is_empty() && self.ring.submission().is_empty()
    }

    /// Submits everything and runs what the kernel deferred to us; sleeps until there are `want`
    /// completions.
    pub(super) fn enter(&mut self, want: u32) -> io::Result<()> {
        self.move_backlog();
        let queue = self.ring.submission();
        let to_submit = queue.len() as u32;
        self.overflows += u64::from(queue.cq_overflow());
        drop(queue);
        // Entries left in the backlog, and completions left in the queue, forbid to sleep.
        let may_sleep = self.backlog.is_empty() && self.ring.completion().is_empty();
        let want = if may_sleep { want } else { 0 };
        self.enter_with(to_submit, want, EnterFlags::GETEVENTS)
    }

    fn submit(&mut self) -> io::Result<()> {
        let to_submit = self.ring.submission().len() as u32;
        self.enter_with(to_submit, 0, EnterFlags::empty())
    }

    fn enter_with(&mut self, to_submit: u32, want: u32, flags: EnterFlags) -> io::Result<()> {
        self.enters += 1;
        // SAFETY: io_uring_enter(2) is given no argument to read; what the entries point to is
        // covered by `push`.
        let entered = unsafe {
            self.ring
                .submitter()
                .enter::<libc::sigset_t>(to_submit, want, flags.bits(), None)
        };
        match entered {
            Ok(submitted) => {
                self.submitted += submitted as u64;
                self.cut_short += u64::from(submitted < to_submit as usize);
                Ok(())
            }
            // Interrupted, or the kernel wants completions to be taken first. Nothing was lost:
            // what was not consumed is still in the queue.
            Err(error) if is_passing(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn move_backlog(&mut self) {
        while let Some(queued) = self.backlog.front() {
            let entries = queued.entries();
            // SAFETY: who queued the entries promised what `push` asks, until their completion.
            if unsafe { self.ring.submission().push_multiple(entries) }.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }

    /// Copies completions out and frees their places, before anybody acts on them: what they
    /// cause needs places too.
    pub(super) fn reap(&mut self, completions: &mut Vec<cqueue::Entry>) {
        let before = completions.len();
        completions.extend(self.ring.completion().take(REAP_MAX));
        self.completed += (completions.len() - before) as u64;
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ETIME)
    )
}

#[cfg(test)]
mod tests {
    use io_uring::opcode;

    use super::*;

    /// Only a kernel that refuses entries fills the backlog, so it is filled by hand.
    #[test]
    fn what_had_to_wait_goes_out_in_order_and_forbids_to_sleep() {
        let mut ring = Ring::new(2, 64).expect("a ring");
        let entry = |number: u64| opcode::Nop::new().build().user_data(number);
        ring.backlog.extend((0..9).map(entry).map(Queued::One));
        for number in 9..18 {
            // SAFETY: it names no memory.
            unsafe { ring.push(entry(number)) };
        }
        // SAFETY: they name no memory.
        unsafe { ring.push_linked(entry(18), entry(19)) };
        assert_eq!(ring.delayed, 11);
        assert!(!ring.is_idle() && !ring.is_submitted());
        let mut reaped = Vec::new();
        for _ in 0..12 {
            ring.enter(1).expect("entered");
            ring.reap(&mut reaped);
            if ring.is_submitted() {
                break;
            }
        }
        let numbers = reaped.iter().map(cqueue::Entry::user_data);
        assert!(numbers.eq(0..20));
        assert!(ring.is_idle());
    }
}
