//! Futures that count what happens to them.
#![allow(dead_code, reason = "each test file uses its part")]

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use viewring_runtime::{Config, Runtime, Uring};

pub(crate) fn runtime() -> Runtime {
    Runtime::new(Uring::new().expect("a ring"), Config::default())
}

/// What happened to the futures made by [`Counts::future`].
#[derive(Debug, Default)]
pub(crate) struct Counts {
    polls: Cell<u32>,
    drops: Cell<u32>,
    output_drops: Cell<u32>,
    waker: RefCell<Option<Waker>>,
}

impl Counts {
    pub(crate) fn new() -> Rc<Self> {
        Rc::default()
    }

    /// A future that is pending `pending` times, then ready.
    pub(crate) fn future(self: &Rc<Self>, pending: u32) -> Counted {
        Counted {
            counts: Rc::clone(self),
            pending,
        }
    }

    /// Polls, drops of futures, drops of outputs.
    pub(crate) fn get(&self) -> (u32, u32, u32) {
        (self.polls.get(), self.drops.get(), self.output_drops.get())
    }

    /// The waker of the last poll.
    pub(crate) fn waker(&self) -> Waker {
        self.waker.borrow().clone().expect("it was polled")
    }
}

#[derive(Debug)]
pub(crate) struct Counted {
    counts: Rc<Counts>,
    pending: u32,
}

impl Future for Counted {
    type Output = Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Output> {
        self.counts.polls.set(self.counts.polls.get() + 1);
        let before = self.counts.waker.replace(Some(cx.waker().clone()));
        drop(before);
        if self.pending == 0 {
            return Poll::Ready(Output(Rc::clone(&self.counts)));
        }
        self.pending -= 1;
        Poll::Pending
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counts.drops.set(self.counts.drops.get() + 1);
    }
}

#[derive(Debug)]
pub(crate) struct Output(Rc<Counts>);

impl Drop for Output {
    fn drop(&mut self) {
        self.0.output_drops.set(self.0.output_drops.get() + 1);
    }
}

/// Calls a closure when it is dropped.
pub(crate) struct OnDrop<F: FnMut()>(pub(crate) F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
