//! The operations of one node, as its kernel has them: slots as in the real ring.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::net::SocketAddr;

use super::files::FileWork;
use crate::buf::SharedBuf;
use crate::reactor::{Completion, FileId, Op, OpKey, Outcome, SocketId};

/// From its start to its final completion an operation has a slot, at its key's index.
#[derive(Debug, Default)]
pub(super) struct Operations {
    slots: Vec<Slot>,
    /// Started and not submitted.
    pub(super) started: VecDeque<OpKey>,
    /// Asked to end.
    pub(super) cancelled: VecDeque<OpKey>,
    /// Completed and not reaped, with what the operation held.
    completed: VecDeque<(Completion, Held)>,
    /// Started, and the final completion not reaped.
    pub(super) in_flight: usize,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    held: Held,
}

/// What an operation is, and what it keeps alive.
#[derive(Debug, Default)]
pub(super) enum Held {
    /// The slot is free.
    #[default]
    Nothing,
    Nop,
    Send {
        socket: SocketId,
        to: Option<SocketAddr>,
        payload: SharedBuf,
        /// A datagram has so many bytes, the last one perhaps fewer.
        segment: usize,
    },
    Receive {
        socket: SocketId,
    },
    Signal,
    File(FileWork),
}

impl Held {
    pub(super) fn socket(&self) -> Option<SocketId> {
        match self {
            Self::Send { socket, .. } | Self::Receive { socket } => Some(*socket),
            Self::Nothing | Self::Nop | Self::Signal | Self::File(_) => None,
        }
    }

    pub(super) fn file(&self) -> Option<FileId> {
        match self {
            Self::File(work) => Some(work.file()),
            Self::Nothing | Self::Nop | Self::Signal | Self::Send { .. } | Self::Receive { .. } => {
                None
            }
        }
    }
}

impl Operations {
    pub(super) fn start(&mut self, key: OpKey, op: Op) {
        let held = match op {
            Op::Nop => Held::Nop,
            Op::Send {
                socket,
                to,
                payload,
                unawaited: _,
                line_max: _,
            } => Held::Send {
                socket,
                to,
                segment: payload.len(),
                payload,
            },
            Op::SendRun {
                socket,
                to,
                payload,
                segment,
                unawaited: _,
                line_max: _,
            } => Held::Send {
                socket,
                to: Some(to),
                segment: usize::from(segment),
                payload,
            },
            Op::ReceiveMany { socket } => Held::Receive { socket },
            Op::ShutdownSignal => Held::Signal,
            Op::Open {
                file,
                path,
                options,
            } => Held::File(FileWork::Open {
                file,
                path,
                options,
            }),
            Op::Read { file, offset, buf } => Held::File(FileWork::Read { file, offset, buf }),
            Op::Write { file, offset, data } => Held::File(FileWork::Write { file, offset, data }),
            Op::WriteSync { file, offset, data } => Held::File(FileWork::WriteSync {
                file,
                offset,
                data,
                is_written: false,
            }),
            Op::Sync { file, .. } => Held::File(FileWork::Sync { file }),
            Op::Size { file } => Held::File(FileWork::Size { file }),
        };
        let index = key.index as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, Slot::default);
        }
        let slot = &mut self.slots[index];
        assert!(
            matches!(slot.held, Held::Nothing),
            "operation {key:?} is in flight already"
        );
        slot.generation = key.generation;
        slot.held = held;
        self.in_flight += 1;
        self.started.push_back(key);
    }

    /// What the operation is; `None` if it has ended.
    pub(super) fn held(&self, key: OpKey) -> Option<&Held> {
        let slot = self.slots.get(key.index as usize)?;
        let lives = slot.generation == key.generation && !matches!(slot.held, Held::Nothing);
        lives.then_some(&slot.held)
    }

    /// Likewise, if it is one on a file.
    pub(super) fn file_work(&mut self, key: OpKey) -> Option<&mut FileWork> {
        let slot = self.slots.get_mut(key.index as usize)?;
        let lives = slot.generation == key.generation;
        if let Held::File(work) = &mut slot.held {
            return lives.then_some(work);
        }
        None
    }

    /// The keys of those that have not ended and that `which` picks.
    pub(super) fn keys(&self, which: impl Fn(&Held) -> bool) -> Vec<OpKey> {
        let live = |slot: &Slot| !matches!(slot.held, Held::Nothing) && which(&slot.held);
        let key = |(index, slot): (usize, &Slot)| OpKey {
            index: index as u32,
            generation: slot.generation,
        };
        let slots = self.slots.iter().enumerate();
        slots.filter(|(_, slot)| live(slot)).map(key).collect()
    }

    /// One completion of many.
    pub(super) fn bring(&mut self, key: OpKey, outcome: Outcome) {
        let completion = Completion {
            key,
            result: Ok(outcome),
            more: true,
        };
        self.completed.push_back((completion, Held::Nothing));
    }

    /// The final completion. The socket or the file that the operation used is returned.
    pub(super) fn end(
        &mut self,
        key: OpKey,
        result: io::Result<Outcome>,
    ) -> (Option<SocketId>, Option<FileId>) {
        let held = mem::take(&mut self.slots[key.index as usize].held);
        let used = (held.socket(), held.file());
        let completion = Completion {
            key,
            result,
            more: false,
        };
        self.completed.push_back((completion, held));
        used
    }

    /// How many completions can be reaped.
    pub(super) fn completed(&self) -> usize {
        self.completed.len()
    }

    /// Takes one completion, and what its operation held, to be dropped when nothing is borrowed.
    pub(super) fn reap(&mut self) -> Option<(Completion, Held)> {
        let reaped = self.completed.pop_front()?;
        self.in_flight -= usize::from(!reaped.0.more);
        Some(reaped)
    }
}
