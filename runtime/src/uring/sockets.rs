//! The sockets of a ring: opening, closing, and taking received datagrams apart.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::{IoUring, cqueue, types};
use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};

use super::address::{self, NAME_LEN};
use super::provided::Provided;
use super::{multicast, room, transferred};
use crate::buf::BufPool;
use crate::net::UdpOptions;
use crate::reactor::{Datagram, Outcome, SocketId};

#[derive(Default)]
pub(super) struct Sockets {
    entries: Slab<Entry>,
    groups: Groups,
    /// How many are closing: they wait for the end of their last operation.
    closing: usize,
}

struct Entry {
    socket: Socket,
    provided: Provided,
    /// Operations in flight on it.
    operations: usize,
    closing: bool,
}

/// Buffer group ids; those given back are used again.
#[derive(Default)]
struct Groups {
    next: u16,
    free: Vec<u16>,
}

/// What of a receive buffer the kernel fills besides the payload: its header and the name.
pub(super) const DATAGRAM_OVERHEAD: usize = 16 + NAME_LEN;

impl Sockets {
    /// Opens a socket that receives into buffers of `pool`.
    pub(super) fn bind(
        &mut self,
        ring: &IoUring,
        addr: SocketAddr,
        options: &UdpOptions,
        pool: &BufPool,
    ) -> io::Result<(SocketId, SocketAddr)> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if options.reuse_port {
            socket.set_reuse_port(true)?;
        }
        if let Some(bytes) = options.kernel_recv_bytes {
            room::RECEIVE.ask(&socket, bytes)?;
        }
        if let Some(bytes) = options.kernel_send_bytes {
            room::SEND.ask(&socket, bytes)?;
        }
        if let Some(part) = options.multicast {
            multicast::take_part(&socket, addr, part)?;
        }
        socket.bind(&addr.into())?;
        let local = socket
            .local_addr()?
            .as_socket()
            .ok_or(io::ErrorKind::InvalidData)?;
        let group = self.groups.take()?;
        let provided = match Provided::register(ring, group, pool.clone()) {
            Ok(provided) => provided,
            Err(error) => {
                self.groups.free.push(group);
                return Err(error);
            }
        };
        let entry = Entry {
            socket,
            provided,
            operations: 0,
            closing: false,
        };
        Ok((SocketId(self.entries.insert(entry) as u32), local))
    }

    pub(super) fn connect(&self, id: SocketId, peer: SocketAddr) -> io::Result<()> {
        self.entries[id.0 as usize].socket.connect(&peer.into())
    }

    /// An operation on `id` starts: the descriptor stays open until [`release`](Self::release).
    pub(super) fn using(&mut self, id: SocketId) {
        self.entries[id.0 as usize].operations += 1;
    }

    pub(super) fn descriptor(&self, id: SocketId) -> RawFd {
        self.entries[id.0 as usize].socket.as_raw_fd()
    }

    /// An operation on `id` has had its final completion.
    pub(super) fn release(&mut self, ring: &IoUring, id: SocketId) {
        self.entries[id.0 as usize].operations -= 1;
        self.remove_if_unused(ring, id);
    }

    /// Closes `id` when its last operation is final.
    pub(super) fn close(&mut self, ring: &IoUring, id: SocketId) {
        self.entries[id.0 as usize].closing = true;
        self.closing += 1;
        self.remove_if_unused(ring, id);
    }

    /// Whether some socket is closing and not yet closed.
    pub(super) fn is_closing(&self) -> bool {
        self.closing > 0
    }

    fn remove_if_unused(&mut self, ring: &IoUring, id: SocketId) {
        let index = id.0 as usize;
        let entry = &self.entries[index];
        if entry.closing && entry.operations == 0 {
            let entry = self.entries.remove(index);
            self.closing -= 1;
            let group = entry.provided.group();
            if entry.provided.unregister(ring) {
                self.groups.free.push(group);
            }
        }
    }

    pub(super) fn provided(&mut self, id: SocketId) -> &mut Provided {
        &mut self.entries[id.0 as usize].provided
    }

    /// One completion of a receive, which brings a datagram or an end.
    pub(super) fn received(
        &mut self,
        id: SocketId,
        cqe: &cqueue::Entry,
        header: &libc::msghdr,
    ) -> io::Result<Outcome> {
        let provided = self.provided(id);
        // First of all: a buffer that is named comes back, also with an error.
        let buf = cqueue::buffer_select(cqe.flags()).and_then(|id| provided.take(id));
        if cqe.result() == -libc::ENOBUFS {
            provided.ran_out();
        }
        provided.refill();
        let len = transferred(cqe)?;
        let mut buf = buf.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOBUFS))?;
        buf.set_len(len.min(buf.capacity()));
        let parsed =
            types::RecvMsgOut::parse(&buf, header).map_err(|()| io::ErrorKind::InvalidData)?;
        let from = address::parse(parsed.name_data()).ok_or(io::ErrorKind::InvalidData)?;
        let truncated = parsed.is_payload_truncated();
        let payload_len = parsed.payload_data().len();
        let payload = buf
            .share()
            .into_slice(DATAGRAM_OVERHEAD..DATAGRAM_OVERHEAD + payload_len);
        Ok(Outcome::Datagram(Datagram {
            payload,
            from,
            truncated,
        }))
    }

    /// Closes everything. Call it only when no operation is in flight.
    pub(super) fn close_all(&mut self, ring: &IoUring) {
        for entry in self.entries.drain() {
            entry.provided.unregister(ring);
        }
    }

    /// Gives up memory and descriptors: the kernel may still reach them, and the ring is going.
    pub(super) fn leak(&mut self) {
        self.entries.drain().for_each(std::mem::forget);
    }
}

impl Groups {
    fn take(&mut self) -> io::Result<u16> {
        if let Some(group) = self.free.pop() {
            return Ok(group);
        }
        let group = self.next;
        self.next = group
            .checked_add(1)
            .ok_or_else(|| io::Error::other("65,535 sockets on one ring is the limit"))?;
        Ok(group)
    }
}

/// Tells the kernel how much room a receive leaves for the sender's name; recvmsg(2).
pub(super) fn receive_header() -> libc::msghdr {
    // SAFETY: a `msghdr` is integers and pointers, for which zero is a value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_namelen = NAME_LEN as libc::socklen_t;
    header
}
