//! Which cores a thread may run on.

use std::io;
use std::mem;

use libc::cpu_set_t;

/// How many cores a set can name.
const CORES: usize = libc::CPU_SETSIZE as usize;

/// The cores that the calling thread may run on, in order.
pub(crate) fn allowed() -> io::Result<Vec<usize>> {
    let mut set = empty();
    // SAFETY: sched_getaffinity(2) writes at most that many bytes to `set`; 0 is this thread.
    let failed = unsafe { libc::sched_getaffinity(0, size_of::<cpu_set_t>(), &raw mut set) };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: CPU_ISSET(3) asks for a core that the set can name: it is below `CORES`.
    let is_set = |&core: &usize| unsafe { libc::CPU_ISSET(core, &set) };
    Ok((0..CORES).filter(is_set).collect())
}

/// Has the calling thread run on `core` only.
pub(crate) fn pin_to(core: usize) -> io::Result<()> {
    if core >= CORES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = empty();
    // SAFETY: CPU_SET(3) asks for a core that the set can name: checked above.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: sched_setaffinity(2) reads that many bytes of `set`; 0 is this thread.
    let failed = unsafe { libc::sched_setaffinity(0, size_of::<cpu_set_t>(), &raw const set) };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn empty() -> cpu_set_t {
    // SAFETY: a `cpu_set_t` is an array of integers, for which zero is a value: the empty set.
    unsafe { mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_is_allowed_on_one_core() {
        let cores = allowed().expect("Linux");
        let last = *cores.last().expect("this runs somewhere");
        let pinned = std::thread::spawn(move || {
            pin_to(last).expect("allowed");
            allowed().expect("Linux")
        });
        assert_eq!(pinned.join().expect("no panic"), [last]);
        assert!(pin_to(CORES).is_err());
        assert!(pin_to(CORES - 1).is_err(), "nobody has so many");
        assert_eq!(allowed().expect("Linux"), cores);
    }
}
