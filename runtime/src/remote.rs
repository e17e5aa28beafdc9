//! What other threads hand to a runtime: a queue, and the wake-up that never gets lost.
//!
//! ```text
//!            hand over                      prepare to sleep
//! Running ------------> Notified   Running ------------------> Sleeping
//!    ^                     |          ^                            |  hand over
//!    +------ collect ------+          +---------- awake -----------+---------> Notified, unpark
//!    ^                                                             |
//!    +------------ collect ------------- Waking <------------------+  hand over, unpark soon
//! ```
//!
//! The one word is changed by read-modify-write on both sides, so there is a single order of
//! changes: either the sleeper's change from Running to Sleeping comes after the hand-over and
//! fails, or the hand-over sees Sleeping and unparks. Only then does it cost a system call.
//!
//! **Waking.** A runtime saves that call: its ring unparks with its next submission, for which it
//! may compute long. That may hold up what it hands over itself, but nobody else: so the word says
//! which runtime it is, and whoever else hands something over meanwhile unparks at once.

use std::collections::VecDeque;
use std::fmt;

#[cfg(loom)]
use loom::sync::{Mutex, atomic::AtomicU64, atomic::Ordering};
#[cfg(not(loom))]
use std::sync::{Mutex, atomic::AtomicU64, atomic::Ordering};

const RUNNING: u64 = 0;
/// Something was handed over since the owner last collected, and whoever did so has unparked it, or
/// is just about to, if it slept.
const NOTIFIED: u64 = 1;
/// The owner sleeps, or is about to: it must be unparked.
const SLEEPING: u64 = 2;
/// As Notified, but the runtime that the other bits name unparks it when it gets there.
const WAKING: u64 = 3;
const STATE: u64 = 3;
const STATE_BITS: u32 = 2;

/// Shared by a runtime, which collects, and by everybody else, who hands over.
pub(crate) struct Remote<T> {
    state: AtomicU64,
    queue: Mutex<Queue<T>>,
}

struct Queue<T> {
    items: VecDeque<T>,
    closed: bool,
}

/// What the one who handed something over must do now.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Nothing: the owner is awake, or was unparked.
    Nothing,
    /// The owner sleeps: unpark it, by way of the ring that was named.
    Unpark,
    /// Unpark it yourself, and at once.
    UnparkNow,
}

/// Who hands over without a runtime of its own, as that runtime's id: there is none of this one.
pub(crate) const NO_RUNTIME: u64 = 0;

impl<T> Remote<T> {
    pub(crate) fn new() -> Self {
        let queue = Queue {
            items: VecDeque::new(),
            closed: false,
        };
        Self {
            state: AtomicU64::new(RUNNING),
            queue: Mutex::new(queue),
        }
    }

    /// Any thread: appends `item` to the queue. `by` is the runtime that this thread runs.
    ///
    /// # Errors
    /// The owner is gone: here is your item.
    pub(crate) fn hand_over(&self, item: T, by: u64) -> Result<Duty, T> {
        {
            let mut queue = self.lock();
            if queue.closed {
                return Err(item);
            }
            queue.items.push_back(item);
        }
        Ok(self.notify(by))
    }

    /// Any thread: has the owner look again. `by` is the runtime that this thread runs.
    pub(crate) fn notify(&self, by: u64) -> Duty {
        if by == NO_RUNTIME {
            let before = self.state.swap(NOTIFIED, Ordering::AcqRel);
            return match before & STATE {
                SLEEPING | WAKING => Duty::UnparkNow,
                _ => Duty::Nothing,
            };
        }
        let waking = by << STATE_BITS | WAKING;
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let (next, duty) = match state & STATE {
                SLEEPING => (waking, Duty::Unpark),
                WAKING if state == waking => (waking, Duty::Nothing),
                WAKING => (NOTIFIED, Duty::UnparkNow),
                _ => (NOTIFIED, Duty::Nothing),
            };
            // Also if nothing changes: what was read may be old, and the owner about to sleep.
            let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
            let changed = self.state.compare_exchange(state, next, success, failure);
            match changed {
                Ok(_) => return duty,
                Err(newer) => state = newer,
            }
        }
    }

    /// The owner: whether something may have been handed over.
    pub(crate) fn is_notified(&self) -> bool {
        !matches!(self.state.load(Ordering::Relaxed), RUNNING | SLEEPING)
    }

    /// The owner: moves what was handed over to the end of `items`.
    pub(crate) fn collect(&self, items: &mut VecDeque<T>) {
        // Before the queue is read: what comes later notifies again.
        self.state.swap(RUNNING, Ordering::AcqRel);
        items.append(&mut self.lock().items);
    }

    /// The owner: whether it may sleep now. If so, whoever hands something over unparks it.
    #[must_use]
    pub(crate) fn prepare_sleep(&self) -> bool {
        let change = (RUNNING, SLEEPING);
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        self.state
            .compare_exchange(change.0, change.1, success, failure)
            .is_ok()
    }

    /// The owner: ends what [`prepare_sleep`](Self::prepare_sleep) began.
    pub(crate) fn awake(&self) {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        // If it fails the word is Notified or Waking, and stays so until the owner collects.
        let _was_notified = self
            .state
            .compare_exchange(SLEEPING, RUNNING, success, failure)
            .is_err();
    }

    /// The owner: takes nothing more, and moves what is there to the end of `items`.
    pub(crate) fn close(&self, items: &mut VecDeque<T>) {
        let mut queue = self.lock();
        queue.closed = true;
        items.append(&mut queue.items);
    }

    #[cfg(not(loom))]
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue<T>> {
        // Nothing panics while it holds the lock; if it did, the queue would still be whole.
        self.queue
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    #[cfg(loom)]
    fn lock(&self) -> loom::sync::MutexGuard<'_, Queue<T>> {
        self.queue.lock().expect("loom does not poison")
    }
}

impl<T> fmt::Debug for Remote<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.load(Ordering::Relaxed);
        f.debug_struct("Remote")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_sleeper_is_unparked_once_and_then_finds_everything() {
        let remote = Remote::new();
        assert!(remote.prepare_sleep());
        assert_eq!(remote.hand_over(1, NO_RUNTIME), Ok(Duty::UnparkNow));
        assert_eq!(remote.hand_over(2, NO_RUNTIME), Ok(Duty::Nothing));
        remote.awake();
        assert!(remote.is_notified());
        let mut items = VecDeque::new();
        remote.collect(&mut items);
        assert_eq!(items, [1, 2]);
        assert!(!remote.is_notified());
    }

    #[test]
    fn nobody_falls_asleep_over_a_full_queue() {
        let remote = Remote::new();
        assert_eq!(remote.hand_over(1, NO_RUNTIME), Ok(Duty::Nothing));
        assert!(!remote.prepare_sleep());
    }

    #[test]
    fn whom_a_ring_wakes_is_unparked_at_once_for_everybody_else() {
        let remote = Remote::new();
        assert!(remote.prepare_sleep());
        assert_eq!(remote.hand_over(1, 7), Ok(Duty::Unpark));
        assert_eq!(remote.hand_over(2, 7), Ok(Duty::Nothing));
        assert_eq!(remote.hand_over(3, 8), Ok(Duty::UnparkNow));
        assert_eq!(remote.hand_over(4, 9), Ok(Duty::Nothing));
        remote.awake();
        assert!(remote.is_notified() && !remote.prepare_sleep());
        let mut items = VecDeque::new();
        remote.collect(&mut items);
        assert_eq!(items, [1, 2, 3, 4]);
        assert!(remote.prepare_sleep());
    }

    #[test]
    fn a_closed_queue_gives_the_item_back() {
        let remote = Remote::new();
        assert_eq!(remote.hand_over(6, NO_RUNTIME), Ok(Duty::Nothing));
        let mut items = VecDeque::new();
        remote.close(&mut items);
        assert_eq!(items, [6]);
        assert_eq!(remote.hand_over(7, NO_RUNTIME), Err(7));
    }
}

#[cfg(all(test, loom))]
mod model {
    use super::*;
    use loom::sync::atomic::AtomicBool;
    use loom::sync::{Arc, Notify};
    use loom::thread;

    /// Whatever is handed over while the owner closes is either in its hands or given back.
    #[test]
    fn nothing_is_left_in_a_closed_queue() {
        loom::model(|| {
            let remote = Arc::new(Remote::new());
            let threads: Vec<_> = (0..2)
                .map(|item| {
                    let remote = Arc::clone(&remote);
                    thread::spawn(move || usize::from(remote.hand_over(item, NO_RUNTIME).is_err()))
                })
                .collect();
            let mut items = VecDeque::new();
            remote.collect(&mut items);
            remote.close(&mut items);
            let threads = threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"));
            assert_eq!(items.len() + threads.sum::<usize>(), 2);
        });
    }

    /// As `RootWake` does it: a flag of one's own, and then a word to the owner, who looks at the
    /// flag between collecting and sleeping.
    #[test]
    fn no_flag_is_overlooked() {
        loom::model(|| {
            let remote = Arc::new(Remote::<()>::new());
            let (flag, unpark) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
            let waker = {
                let (remote, flag, unpark) = (remote.clone(), flag.clone(), unpark.clone());
                thread::spawn(move || {
                    flag.store(true, Ordering::Release);
                    if remote.notify(NO_RUNTIME) != Duty::Nothing {
                        unpark.notify();
                    }
                })
            };
            let mut items = VecDeque::new();
            loop {
                if remote.is_notified() {
                    remote.collect(&mut items);
                }
                if flag.load(Ordering::Relaxed) {
                    assert!(flag.swap(false, Ordering::AcqRel));
                    break;
                }
                if remote.prepare_sleep() {
                    unpark.wait(); // a wake that is lost is a deadlock, which loom reports
                    remote.awake();
                }
            }
            waker.join().expect("no panic");
        });
    }

    /// Every interleaving of two that hand over and an owner that collects and sleeps: whenever
    /// the owner has fallen asleep with an item in the queue, somebody unparks it.
    #[test]
    fn no_wake_is_lost() {
        loom::model(|| {
            let remote = Arc::new(Remote::new());
            let unpark = Arc::new(Notify::new());
            let threads: Vec<_> = (0..2)
                .map(|item| {
                    let (remote, unpark) = (Arc::clone(&remote), Arc::clone(&unpark));
                    thread::spawn(move || {
                        if remote.hand_over(item, NO_RUNTIME) == Ok(Duty::UnparkNow) {
                            unpark.notify();
                        }
                    })
                })
                .collect();
            let mut items = VecDeque::new();
            while items.len() < 2 {
                if remote.is_notified() {
                    remote.collect(&mut items);
                } else if remote.prepare_sleep() {
                    unpark.wait(); // a wake that is lost is a deadlock, which loom reports
                    remote.awake();
                }
            }
            for thread in threads {
                thread.join().expect("no panic");
            }
        });
    }

    /// A runtime hands something over and unparks the owner no sooner than the owner has what a
    /// plain thread hands over: that must not wait for it.
    #[test]
    fn no_wake_waits_for_the_ring_of_another() {
        const OF_THE_RING: u32 = 1;
        const OF_THE_THREAD: u32 = 2;
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3); // without, it takes minutes
        model.check(|| {
            let remote = Arc::new(Remote::new());
            let (unpark, arrived) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
            let ring = {
                let (remote, unpark, arrived) = (remote.clone(), unpark.clone(), arrived.clone());
                thread::spawn(move || {
                    let duty = remote.hand_over(OF_THE_RING, 7);
                    arrived.wait();
                    if duty == Ok(Duty::Unpark) {
                        unpark.notify();
                    }
                })
            };
            let plain = {
                let (remote, unpark) = (remote.clone(), unpark.clone());
                thread::spawn(move || {
                    if remote.hand_over(OF_THE_THREAD, NO_RUNTIME) == Ok(Duty::UnparkNow) {
                        unpark.notify();
                    }
                })
            };
            let (mut items, mut seen) = (VecDeque::new(), 0);
            while seen < 2 {
                if remote.is_notified() {
                    remote.collect(&mut items);
                    for item in items.drain(..) {
                        seen += 1;
                        if item == OF_THE_THREAD {
                            arrived.notify();
                        }
                    }
                } else if remote.prepare_sleep() {
                    unpark.wait();
                    remote.awake();
                }
            }
            ring.join().expect("no panic");
            plain.join().expect("no panic");
        });
    }
}
