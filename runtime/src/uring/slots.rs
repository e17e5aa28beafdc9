//! The slots: what each operation in flight keeps alive, and where the kernel finds it.

use std::cell::UnsafeCell;
use std::ffi::CString;
use std::io;

use super::address::RawAddress;
use super::pair::Pair;
use super::run::RunMessage;
use super::signals;
use crate::buf::{Buf, SharedBuf};
use crate::reactor::{FileId, OpKey, SocketId};

#[derive(Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    in_flight: usize,
}

/// One operation's place. Reused; its boxed part is allocated once.
struct Slot {
    generation: u32,
    /// What the operation keeps alive. `Nothing` while the slot is free.
    held: Held,
    shared: Box<UnsafeCell<KernelShared>>,
}

/// How a payload is sent.
#[derive(Clone, Copy)]
pub(super) struct Way {
    /// It goes to the address in the slot, not to the connected peer.
    pub(super) has_address: bool,
    /// It is a run: the message in the slot tells of it.
    pub(super) is_run: bool,
    pub(super) stage: Stage,
    /// It does not stand in line behind so many.
    pub(super) line_max: usize,
}

/// How far a send is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Handed over; it fails rather than wait for room in the socket's buffer.
    AtOnce,
    /// That failed, or others wait: the kernel does not know of it (any more).
    InLine,
    /// Handed over again, to wait for room.
    Called,
    /// Handed over, and not to be tried again, however it ends.
    Cancelled,
}

/// What the kernel reads or writes by address.
pub(super) struct KernelShared {
    pub(super) address: RawAddress,
    pub(super) word: u64,
    /// Made when the slot first sends a run.
    pub(super) run: Option<Box<RunMessage>>,
}

pub(super) enum Held {
    Nothing,
    Nop,
    Send {
        socket: SocketId,
        payload: SharedBuf,
        way: Way,
    },
    Receive {
        socket: SocketId,
    },
    Signal {
        _waiting: signals::Waiting,
    },
    Open {
        file: FileId,
        _path: CString,
    },
    Read {
        file: FileId,
        /// The kernel writes to it: nobody else may until the completion.
        buf: Buf,
    },
    Write {
        file: FileId,
        _data: SharedBuf,
    },
    WriteSync {
        file: FileId,
        _data: SharedBuf,
        pair: Pair,
    },
    Sync {
        file: FileId,
    },
    Size {
        file: FileId,
        /// The kernel writes to it.
        answer: Box<UnsafeCell<libc::statx>>,
    },
    /// It could not even be started; the completion is made up in the next turn.
    Failed(Option<io::Error>),
}

impl Held {
    /// The file that it keeps open.
    pub(super) fn file(&self) -> Option<FileId> {
        match self {
            Self::Open { file, .. }
            | Self::Read { file, .. }
            | Self::Write { file, .. }
            | Self::WriteSync { file, .. }
            | Self::Sync { file }
            | Self::Size { file, .. } => Some(*file),
            Self::Nothing
            | Self::Nop
            | Self::Send { .. }
            | Self::Receive { .. }
            | Self::Signal { .. }
            | Self::Failed(_) => None,
        }
    }
}

impl Slots {
    /// Takes the slot of `key`, made if need be, and gives what the kernel may reach in it: stable
    /// until the slot is [vacated](Self::vacate), and after that until it is taken again.
    ///
    /// # Panics
    /// When the slot is taken. The slot invariant rests on this, so it is checked, whatever the
    /// caller does. And when the generation is too wide for a completion to bring it back.
    pub(super) fn occupy(&mut self, key: OpKey, held: Held) -> *mut KernelShared {
        assert!(
            key.generation >> OpKey::GENERATION_BITS == 0,
            "{key:?} has too great a generation"
        );
        let index = key.index as usize;
        while self.slots.len() <= index {
            let shared = KernelShared {
                address: RawAddress::EMPTY,
                word: 0,
                run: None,
            };
            self.slots.push(Slot {
                generation: 0,
                held: Held::Nothing,
                shared: Box::new(UnsafeCell::new(shared)),
            });
        }
        let slot = &mut self.slots[index];
        assert!(
            matches!(slot.held, Held::Nothing),
            "operation {key:?} is in flight already"
        );
        slot.generation = key.generation;
        slot.held = held;
        self.in_flight += 1;
        slot.shared.get()
    }

    /// What `key` holds, with what [`occupy`](Self::occupy) gave; `None` if it is not in flight.
    pub(super) fn taken(&mut self, key: OpKey) -> Option<(&mut Held, *mut KernelShared)> {
        let shared = self.slots.get(key.index as usize)?.shared.get();
        self.held(key).map(|held| (held, shared))
    }

    /// What `key` holds; `None` if it is not in flight.
    pub(super) fn held(&mut self, key: OpKey) -> Option<&mut Held> {
        let slot = self.slots.get_mut(key.index as usize)?;
        let in_flight = slot.generation == key.generation && !matches!(slot.held, Held::Nothing);
        in_flight.then_some(&mut slot.held)
    }

    /// The final completion of `key` has come: the kernel has let go of everything in the slot.
    pub(super) fn vacate(&mut self, key: OpKey) -> Held {
        let Some(held) = self.held(key) else {
            return Held::Nothing;
        };
        let held = std::mem::replace(held, Held::Nothing);
        self.in_flight -= 1;
        held
    }

    /// How many slots are taken.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Gives up the memory: the kernel may still reach it, and the ring is going.
    pub(super) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.slots));
    }
}
