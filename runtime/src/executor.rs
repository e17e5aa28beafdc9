//! The run queue, and a register of every task so that none outlives its runtime.
//!
//! Tasks are the `async-task` crate's. A suspended task is owned by nobody but its wakers, so the
//! register keeps one waker of each: at shutdown it wakes them all and drops what that schedules,
//! which drops the futures while the reactor still lives. A task leaves the register when its
//! future is gone, so an empty register means that there is no future left.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_task::{Builder, FallibleTask};
use pin_project_lite::pin_project;
use slab::Slab;

use crate::handle::{RemoteTasks, Runnable, schedule};

/// What a panic carried.
pub(crate) type Panic = Box<dyn Any + Send + 'static>;

#[derive(Default)]
pub(crate) struct Executor {
    ready: RefCell<VecDeque<Runnable>>,
    tasks: RefCell<Slab<Entry>>,
    /// Set by shutdown: what is spawned from then on is dropped at once.
    closed: Cell<bool>,
    pub(crate) spawned: Cell<u64>,
    pub(crate) polls: Cell<u64>,
    pub(crate) panics: Cell<u64>,
    /// What the last one said.
    pub(crate) last_panic: RefCell<Option<String>>,
}

struct Entry {
    waker: Waker,
    /// No handle will report a panic.
    detached: bool,
}

impl Executor {
    /// Puts a task at the end of the run queue.
    pub(crate) fn push(&self, runnable: Runnable) {
        self.ready.borrow_mut().push_back(runnable);
    }

    /// How many tasks are ready to run.
    pub(crate) fn ready(&self) -> usize {
        self.ready.borrow().len()
    }

    /// How many tasks there are, ready and suspended.
    pub(crate) fn tasks(&self) -> usize {
        self.tasks.borrow().len()
    }

    /// Polls up to `budget` tasks, none of those twice that become ready meanwhile.
    pub(crate) fn run(&self, budget: usize) {
        let batch = self.ready().min(budget);
        for _ in 0..batch {
            let Some(runnable) = self.ready.borrow_mut().pop_front() else {
                break;
            };
            self.polls.set(self.polls.get() + 1);
            runnable.run();
        }
    }

    /// Makes a task of `future` that belongs to the runtime of `remote`.
    pub(crate) fn spawn<F: Future + 'static>(
        self: &Rc<Self>,
        future: F,
        remote: &Arc<RemoteTasks>,
    ) -> JoinHandle<F::Output> {
        self.spawned.set(self.spawned.get() + 1);
        let mut tasks = self.tasks.borrow_mut();
        let vacant = tasks.vacant_entry();
        let key = vacant.key();
        let registration = Registration {
            executor: Rc::clone(self),
            key,
        };
        let future = TaskFuture {
            future,
            registration,
        };
        let builder = Builder::new().metadata(Arc::clone(remote));
        let (runnable, task) = builder.spawn_local(|_| future, schedule);
        vacant.insert(Entry {
            waker: runnable.waker(),
            detached: false,
        });
        drop(tasks);
        if self.closed.get() {
            drop(runnable); // and with it the future
        } else {
            runnable.schedule();
        }
        JoinHandle {
            task: Some(task.fallible()),
            executor: Rc::clone(self),
            key,
        }
    }

    /// What is spawned from now on is dropped at once.
    pub(crate) fn close(&self) {
        self.closed.set(true);
    }

    /// Wakes every task, so that each ends up on a queue.
    pub(crate) fn wake_all(&self) {
        let tasks = self.tasks.borrow();
        let wakers: Vec<Waker> = tasks.iter().map(|(_, task)| task.waker.clone()).collect();
        drop(tasks);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Drops the tasks on the run queue, and their futures; says whether there were any.
    pub(crate) fn drop_ready(&self) -> bool {
        let mut found = false;
        // Nothing is borrowed while a future is dropped: it may wake, spawn or cancel.
        while let Some(runnable) = { self.ready.borrow_mut().pop_front() } {
            found = true;
            drop(runnable);
        }
        found
    }

    #[cold]
    fn report(&self, panic: &Panic) {
        let message = panic_message(panic);
        tracing::error!(message, "a detached task panicked");
    }
}

fn panic_message(panic: &Panic) -> &str {
    if let Some(message) = panic.downcast_ref::<&str>() {
        message
    } else if let Some(message) = panic.downcast_ref::<String>() {
        message
    } else {
        "(no message)"
    }
}

/// Takes the task off the register when its future is dropped.
struct Registration {
    executor: Rc<Executor>,
    key: usize,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let entry = self.executor.tasks.borrow_mut().try_remove(self.key);
        drop(entry);
    }
}

pin_project! {
    /// A spawned future whose panics become results.
    struct TaskFuture<F> {
        #[pin]
        future: F,
        // After `future`: the task is registered until its future is gone.
        registration: Registration,
    }
}

impl<F: Future> Future for TaskFuture<F> {
    type Output = Result<F::Output, Panic>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // Unwind safe: a future that panicked is not polled again.
        match catch_unwind(AssertUnwindSafe(|| this.future.poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => {
                let Registration { executor, key } = this.registration;
                executor.panics.set(executor.panics.get() + 1);
                *executor.last_panic.borrow_mut() = Some(panic_message(&panic).to_owned());
                if executor
                    .tasks
                    .borrow()
                    .get(*key)
                    .is_some_and(|entry| entry.detached)
                {
                    executor.report(&panic);
                }
                Poll::Ready(Err(panic))
            }
        }
    }
}

/// Waits for a task, and is its only handle.
///
/// As a future it gives the task's output. Dropping the handle *detaches* the task: it goes on
/// unobserved, and a panic in it is logged and counted in
/// [`Metrics::task_panics`](crate::Metrics::task_panics).
///
/// # Cancel safety
/// Strict for `&mut handle`: dropping a wait that has not finished loses nothing.
#[must_use = "dropping a handle detaches the task; say so with `.detach()`"]
pub struct JoinHandle<T> {
    /// None once its output was taken.
    task: Option<FallibleTask<Result<T, Panic>, Arc<RemoteTasks>>>,
    executor: Rc<Executor>,
    key: usize,
}

impl<T> JoinHandle<T> {
    /// Lets the task go on unobserved.
    pub fn detach(self) {}

    /// Has the task's future dropped soon, and does not wait for that.
    pub fn abort(mut self) {
        drop(self.task.take()); // this cancels
    }

    /// Has the task's future dropped and waits until it is. Gives the output if the task had
    /// finished before, and a panic if it had panicked.
    ///
    /// # Cancel safety
    /// Dropping this future, also before its first poll, still cancels the task, unobserved.
    ///
    /// # Errors
    /// [`JoinError::Panicked`].
    pub fn cancel(mut self) -> impl Future<Output = Result<Option<T>, JoinError>> {
        let task = self.task.take(); // to drop it is to cancel
        async move {
            let Some(task) = task else {
                return Ok(None);
            };
            match task.cancel().await {
                Some(Ok(output)) => Ok(Some(output)),
                Some(Err(panic)) => Err(JoinError::Panicked(panic)),
                None => Ok(None),
            }
        }
    }

    /// Whether the task has finished, panicked or been cancelled.
    pub fn is_finished(&self) -> bool {
        self.task.as_ref().is_none_or(FallibleTask::is_finished)
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    /// # Panics
    /// When polled after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let task = self
            .task
            .as_mut()
            .expect("a JoinHandle is not polled after it was ready");
        let Poll::Ready(output) = Pin::new(task).poll(cx) else {
            return Poll::Pending;
        };
        self.task = None;
        Poll::Ready(match output {
            Some(Ok(output)) => Ok(output),
            Some(Err(panic)) => Err(JoinError::Panicked(panic)),
            None => Err(JoinError::Cancelled),
        })
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        let Some(mut task) = self.task.take() else {
            return;
        };
        if task.is_finished() {
            // It may have panicked, and nobody else will say so.
            let mut cx = Context::from_waker(Waker::noop());
            if let Poll::Ready(Some(Err(panic))) = Pin::new(&mut task).poll(&mut cx) {
                self.executor.report(&panic);
            }
            return;
        }
        if let Some(entry) = self.executor.tasks.borrow_mut().get_mut(self.key) {
            entry.detached = true;
        }
        task.detach();
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("finished", &self.is_finished())
            .finish()
    }
}

/// Why a task has no output.
pub enum JoinError {
    /// It was cancelled, or its runtime shut down.
    Cancelled,
    /// It panicked, with this payload.
    Panicked(Box<dyn Any + Send + 'static>),
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => f.write_str("Cancelled"),
            Self::Panicked(panic) => write!(f, "Panicked({:?})", panic_message(panic)),
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => f.write_str("the task was cancelled"),
            Self::Panicked(panic) => write!(f, "the task panicked: {}", panic_message(panic)),
        }
    }
}

impl std::error::Error for JoinError {}
