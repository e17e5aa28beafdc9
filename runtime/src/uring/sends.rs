//! Sends: one datagram or a run of them, at once or when there is room.

use std::net::SocketAddr;

use io_uring::{cqueue, opcode, squeue, types};

use super::Uring;
use super::address::RawAddress;
use super::run::RunMessage;
use super::slots::{Held, Way};
use super::user_data::UserData;
use crate::buf::SharedBuf;
use crate::reactor::{OpKey, SocketId};

impl Uring {
    pub(super) fn start_send(
        &mut self,
        key: OpKey,
        socket: SocketId,
        to: Option<SocketAddr>,
        payload: SharedBuf,
        at_once: bool,
    ) -> squeue::Entry {
        self.sockets.using(socket);
        let held = Held::Send {
            socket,
            payload,
            way: Way {
                has_address: to.is_some(),
                is_run: false,
                at_once,
            },
        };
        let shared = self.slots.occupy(key, held);
        if let Some(to) = to {
            // SAFETY: `shared` points to a live, initialised value, and the slot was free: the
            // kernel does not look at it, nor does anybody else hold a reference.
            unsafe { (*shared).address = RawAddress::new(to) };
        }
        self.send_entry(key)
    }

    pub(super) fn start_send_run(
        &mut self,
        key: OpKey,
        socket: SocketId,
        to: SocketAddr,
        (payload, segment): (SharedBuf, u16),
        at_once: bool,
    ) -> squeue::Entry {
        self.sockets.using(socket);
        let (data, len) = (payload.as_ptr(), payload.len());
        let held = Held::Send {
            socket,
            payload,
            way: Way {
                has_address: true,
                is_run: true,
                at_once,
            },
        };
        let shared = self.slots.occupy(key, held);
        // SAFETY: as for `start_send`.
        let shared = unsafe { &mut *shared };
        let run = shared.run.get_or_insert_with(RunMessage::new);
        run.fill(RawAddress::new(to), data, len, segment);
        self.send_entry(key)
    }

    /// The entry of a send whose slot is filled.
    fn send_entry(&mut self, key: OpKey) -> squeue::Entry {
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
        let flags = if way.at_once { libc::MSG_DONTWAIT } else { 0 };
        // SAFETY: `shared` points to a live, initialised value; it is only read, and so does the
        // kernel, at most.
        let shared = unsafe { &*shared };
        if way.is_run {
            let run = shared.run.as_ref().expect("it was filled");
            let send = opcode::SendMsg::new(fd, run.header());
            return send.flags(flags as u32).build();
        }
        let send = opcode::Send::new(fd, payload.as_ptr(), payload.len() as u32).flags(flags);
        if way.has_address {
            let address = &shared.address;
            send.dest_addr(address.as_ptr())
                .dest_addr_len(address.len())
                .build()
        } else {
            send.build()
        }
    }

    /// A send that was to be done at once found no room: it waits for some. Whether it was so.
    pub(super) fn send_again(&mut self, key: OpKey, cqe: &cqueue::Entry) -> bool {
        let Some(Held::Send { way, .. }) = self.slots.held(key) else {
            return false;
        };
        if !way.at_once || cqe.result() != -libc::EAGAIN || self.is_draining {
            return false;
        }
        way.at_once = false;
        self.counters.sends_blocked += 1;
        let entry = self.send_entry(key);
        // SAFETY: the slot invariant: the slot keeps what the entry names until the next
        // completion.
        unsafe { self.ring.push(entry.user_data(UserData::Op(key).encode())) };
        true
    }
}
