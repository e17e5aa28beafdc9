//! Sends: one datagram or a run of them, at once or when there is room.
//!
//! Each is first tried at once (`MSG_DONTWAIT`), and fails if it finds no room. Then it stands in
//! line (see `waiting.rs`), and is handed over again when it is its turn, to wait for room. Half of
//! the buffer has to be free for the kernel to wake it. That may take long while there is room for
//! a few: what is sent to a peer that has left the link stays in the buffer until its address is
//! given up, for seconds. So each millisecond those who wait in the kernel are called back and
//! tried anew.
//!
//! Whoever finds the line too long fails instead, and gives its buffer back.

use std::io;
use std::net::SocketAddr;

use io_uring::{cqueue, opcode, squeue, types};

use super::address::RawAddress;
use super::run::RunMessage;
use super::slots::{Held, Stage, Way};
use super::user_data::UserData;
use super::{RETRY_AFTER, Uring};
use crate::buf::SharedBuf;
use crate::reactor::{Completion, OpKey, Reactor, SocketId};

impl Uring {
    pub(super) fn start_send(
        &mut self,
        key: OpKey,
        socket: SocketId,
        to: Option<SocketAddr>,
        payload: SharedBuf,
        unawaited: bool,
        line_max: usize,
    ) {
        self.sockets.using(socket); // first: there may be no such socket
        let held = Held::Send {
            socket,
            payload,
            way: Way {
                has_address: to.is_some(),
                is_run: false,
                stage: Stage::AtOnce,
                line_max,
            },
        };
        let shared = self.slots.occupy(key, held);
        if let Some(to) = to {
            // SAFETY: `shared` points to a live, initialised value, and the slot was free: the
            // kernel does not look at it, nor does anybody else hold a reference.
            unsafe { (*shared).address = RawAddress::new(to) };
        }
        self.begin_send(key, socket, unawaited);
    }

    pub(super) fn start_send_run(
        &mut self,
        key: OpKey,
        socket: SocketId,
        to: SocketAddr,
        (payload, segment): (SharedBuf, u16),
        unawaited: bool,
        line_max: usize,
    ) {
        self.sockets.using(socket);
        let (data, len) = (payload.as_ptr(), payload.len());
        let held = Held::Send {
            socket,
            payload,
            way: Way {
                has_address: true,
                is_run: true,
                stage: Stage::AtOnce,
                line_max,
            },
        };
        let shared = self.slots.occupy(key, held);
        // SAFETY: as for `start_send`.
        let shared = unsafe { &mut *shared };
        let run = shared.run.get_or_insert_with(RunMessage::new);
        run.fill(RawAddress::new(to), data, len, segment);
        self.begin_send(key, socket, unawaited);
    }

    fn begin_send(&mut self, key: OpKey, socket: SocketId, unawaited: bool) {
        if self.waiting.is_line(socket) {
            if !self.line_up(key, socket) {
                self.end_unsent(key, libc::EAGAIN);
            }
            return;
        }
        self.unawaited += u32::from(unawaited);
        self.hand_over(key);
    }

    /// Whether it stands in line now, which may be too long for it.
    fn line_up(&mut self, key: OpKey, socket: SocketId) -> bool {
        let waiting = self.waiting.len(socket);
        match self.slots.held(key) {
            Some(Held::Send { way, .. }) if waiting < way.line_max => way.stage = Stage::InLine,
            _ => return false,
        }
        self.counters.sends_blocked += 1;
        self.waiting.line_up(socket, key);
        self.call_next(socket);
        true
    }

    /// Hands over those whose turn it is.
    fn call_next(&mut self, socket: SocketId) {
        for key in self.waiting.call(socket) {
            self.enter_stage(key, Stage::Called);
            self.hand_over(key);
        }
    }

    fn enter_stage(&mut self, key: OpKey, stage: Stage) {
        if let Some(Held::Send { way, .. }) = self.slots.held(key) {
            way.stage = stage;
        }
    }

    /// Hands a send whose slot is filled to the kernel.
    fn hand_over(&mut self, key: OpKey) {
        let (entry, stage) = self.send_entry(key);
        // SAFETY: the slot invariant: the slot owns what the entry names, and keeps it until the
        // completion after which nothing is handed over any more.
        unsafe { self.ring.push(entry.user_data(UserData::Op(key).encode())) };
        if stage == Stage::Called {
            self.retry_soon();
        }
    }

    fn retry_soon(&mut self) {
        if self.retry_at.is_none() {
            let retry_at = self.now() + RETRY_AFTER;
            self.retry_at = Some(retry_at);
            self.arm_timer(retry_at);
        }
    }

    /// Calls back those who wait in the kernel, if it is time: they are tried anew when their
    /// cancellation shows.
    pub(super) fn retry_sends(&mut self) {
        let Some(retry_at) = self.retry_at else {
            return;
        };
        if self.now() < retry_at {
            return self.arm_timer(retry_at); // it may have fired for something earlier
        }
        self.retry_at = None;
        for key in self.waiting.called() {
            self.push_cancel(UserData::Op(key));
            self.retry_soon();
        }
    }

    /// The entry of a send whose slot is filled, and its stage.
    fn send_entry(&mut self, key: OpKey) -> (squeue::Entry, Stage) {
        let Some((
            Held::Send {
                socket,
                payload,
                way,
            },
            shared,
        )) = self.slots.taken(key)
        else {
            unreachable!("{key:?} sends")
        };
        let fd = types::Fd(self.sockets.descriptor(*socket));
        let flags = match way.stage {
            Stage::AtOnce => libc::MSG_DONTWAIT,
            Stage::InLine | Stage::Called | Stage::Cancelled => 0,
        };
        // SAFETY: `shared` points to a live, initialised value; it is only read, and so does the
        // kernel, at most.
        let shared = unsafe { &*shared };
        if way.is_run {
            let run = shared.run.as_ref().expect("it was filled");
            let send = opcode::SendMsg::new(fd, run.header());
            return (send.flags(flags as u32).build(), way.stage);
        }
        let send = opcode::Send::new(fd, payload.as_ptr(), payload.len() as u32).flags(flags);
        let entry = if way.has_address {
            let address = &shared.address;
            send.dest_addr(address.as_ptr())
                .dest_addr_len(address.len())
                .build()
        } else {
            send.build()
        };
        (entry, way.stage)
    }

    /// Whether the completion of a send is none: it found no room, or was called back to be tried
    /// anew.
    pub(super) fn send_goes_on(&mut self, key: OpKey, cqe: &cqueue::Entry) -> bool {
        let Some(Held::Send { socket, way, .. }) = self.slots.held(key) else {
            return false;
        };
        let (socket, stage) = (*socket, way.stage);
        match (stage, -cqe.result()) {
            _ if self.is_draining => return false,
            (Stage::AtOnce, libc::EAGAIN) => return self.line_up(key, socket),
            (Stage::Called, libc::ECANCELED | libc::EINTR) => self.hand_over(key),
            _ => return false,
        }
        true
    }

    /// A send has had its final completion.
    pub(super) fn send_ended(&mut self, key: OpKey, socket: SocketId, way: Way) {
        if way.stage == Stage::Called {
            self.waiting.leave(socket, key);
            self.call_next(socket);
        }
    }

    /// A send is about to be cancelled: whatever comes next of it ends it. It holds up nobody, and
    /// while it stands in line the kernel does not get it: it would take the place of those before.
    pub(super) fn cancel_send(&mut self, key: OpKey) {
        let Some(Held::Send { socket, way, .. }) = self.slots.held(key) else {
            return;
        };
        let (socket, stage) = (*socket, std::mem::replace(&mut way.stage, Stage::Cancelled));
        match stage {
            Stage::AtOnce | Stage::Cancelled => {}
            Stage::InLine => {
                self.waiting.leave(socket, key);
                self.end_unsent(key, libc::ECANCELED);
            }
            Stage::Called => {
                self.waiting.leave(socket, key);
                self.call_next(socket);
            }
        }
    }

    /// Ends a send of which the kernel knows nothing (any more): the next turn tells of it.
    fn end_unsent(&mut self, key: OpKey, errno: i32) {
        let held = self.slots.vacate(key);
        self.release(&held);
        let result = Err(io::Error::from_raw_os_error(errno));
        let more = false;
        self.early.push(Completion { key, result, more });
    }

    /// Forgets the sends that stand in line: the kernel knows nothing of them.
    pub(super) fn drop_waiting(&mut self) {
        for key in self.waiting.clear() {
            let held = self.slots.vacate(key);
            self.release(&held);
        }
    }
}
