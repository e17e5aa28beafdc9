//! A node's UDP sockets, as its kernel has them: addresses, the receive queue, the pending error.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use slab::Slab;

use super::random::finish;
use crate::buf::BufPool;
use crate::net::UdpOptions;
use crate::reactor::{OpKey, SocketId};

#[derive(Debug)]
pub(super) struct Socket {
    local: SocketAddrV4,
    peer: Option<SocketAddrV4>,
    pub(super) pool: BufPool,
    /// How many payload bytes fit into one buffer of the pool.
    pub(super) buffer_len: usize,
    reuse_port: bool,
    /// The receive that is in flight.
    pub(super) armed: Option<OpKey>,
    /// What has arrived and was not received.
    pub(super) queue: VecDeque<Queued>,
    queued_bytes: usize,
    queued_bytes_max: usize,
    /// What the next operation is told.
    pub(super) error: Option<i32>,
    /// Operations in flight on it.
    pub(super) operations: usize,
    pub(super) closing: bool,
}

/// A datagram in a socket's buffer.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) from: SocketAddrV4,
    pub(super) payload: Vec<u8>,
}

/// The sockets of one node.
#[derive(Debug)]
pub(super) struct Sockets {
    address: Ipv4Addr,
    pub(super) slab: Slab<Socket>,
    /// Where to look for a free port next.
    next_port: u16,
}

/// The greatest payload of an IPv4 datagram.
pub(super) const PAYLOAD_MAX: usize = 65_507;

/// `net.core.rmem_max`, and the default, of an ordinary Linux.
const RECV_BYTES_MAX: usize = 212_992;
/// What a datagram costs in the socket's buffer besides its payload.
const DATAGRAM_COST: usize = 768;
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32_768..=60_999;

impl Sockets {
    pub(super) fn new(address: Ipv4Addr) -> Self {
        Self {
            address,
            slab: Slab::new(),
            next_port: *EPHEMERAL.start(),
        }
    }

    pub(super) fn bind(
        &mut self,
        addr: SocketAddr,
        options: &UdpOptions,
        pool: &BufPool,
    ) -> io::Result<(SocketId, SocketAddr)> {
        if options.multicast.is_some() {
            let why = "a simulated world has no multicast";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        let SocketAddr::V4(mut local) = addr else {
            return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
        };
        let ip = *local.ip();
        if !(ip.is_unspecified() || ip.is_loopback() || ip == self.address) {
            return Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL));
        }
        if local.port() == 0 {
            local.set_port(self.free_port(local, options.reuse_port)?);
        } else if self.is_taken(local, options.reuse_port) {
            return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
        }
        let queued_bytes_max = options
            .kernel_recv_bytes
            .map_or(RECV_BYTES_MAX, |bytes| 2 * bytes.min(RECV_BYTES_MAX));
        let socket = Socket {
            local,
            peer: None,
            pool: pool.clone(),
            buffer_len: options.buffer_len,
            reuse_port: options.reuse_port,
            armed: None,
            queue: VecDeque::new(),
            queued_bytes: 0,
            queued_bytes_max,
            error: None,
            operations: 0,
            closing: false,
        };
        let id = SocketId(self.slab.insert(socket) as u32);
        Ok((id, local.into()))
    }

    fn is_taken(&self, wanted: SocketAddrV4, reuse_port: bool) -> bool {
        self.slab.iter().any(|(_, socket)| {
            let (ip, other) = (wanted.ip(), socket.local.ip());
            socket.local.port() == wanted.port()
                && (ip == other || ip.is_unspecified() || other.is_unspecified())
                && !(reuse_port && socket.reuse_port)
        })
    }

    fn free_port(&mut self, local: SocketAddrV4, reuse_port: bool) -> io::Result<u16> {
        for _ in EPHEMERAL {
            let port = self.next_port;
            self.next_port = if port == *EPHEMERAL.end() {
                *EPHEMERAL.start()
            } else {
                port + 1
            };
            if !self.is_taken(SocketAddrV4::new(*local.ip(), port), reuse_port) {
                return Ok(port);
            }
        }
        Err(io::Error::from_raw_os_error(libc::EADDRINUSE))
    }

    pub(super) fn connect(&mut self, id: SocketId, peer: SocketAddr) -> io::Result<()> {
        let SocketAddr::V4(peer) = peer else {
            return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
        };
        self.get(id).peer = Some(peer);
        Ok(())
    }

    pub(super) fn get(&mut self, id: SocketId) -> &mut Socket {
        &mut self.slab[id.0 as usize]
    }

    /// From where to where a send of `len` bytes goes.
    pub(super) fn route(
        &mut self,
        id: SocketId,
        to: Option<SocketAddr>,
        len: usize,
    ) -> Result<(SocketAddrV4, SocketAddrV4), i32> {
        let address = self.address;
        let socket = self.get(id);
        if let Some(error) = socket.error.take() {
            return Err(error);
        }
        let mut to = match to {
            Some(SocketAddr::V4(to)) => to,
            Some(SocketAddr::V6(_)) => return Err(libc::EAFNOSUPPORT),
            None => socket.peer.ok_or(libc::EDESTADDRREQ)?,
        };
        if to.port() == 0 {
            return Err(libc::EINVAL);
        }
        if len > PAYLOAD_MAX {
            return Err(libc::EMSGSIZE);
        }
        if to.ip().is_unspecified() {
            to.set_ip(Ipv4Addr::LOCALHOST);
        }
        let inward = to.ip().is_loopback();
        let mut from = socket.local;
        if from.ip().is_unspecified() {
            from.set_ip(if inward { Ipv4Addr::LOCALHOST } else { address });
        } else if from.ip().is_loopback() && !inward && *to.ip() != address {
            return Err(libc::EINVAL); // nobody outside could answer
        }
        Ok((from, to))
    }

    /// The socket that gets what goes from `from` to `to`: a connected one first, then one on
    /// exactly this address, then one on any. Of several on one address, the sender decides which.
    pub(super) fn receiver(&self, from: SocketAddrV4, to: SocketAddrV4) -> Option<usize> {
        let score = |socket: &Socket| {
            let ip = socket.local.ip();
            let here = socket.local.port() == to.port() && (ip == to.ip() || ip.is_unspecified());
            let heard = socket.peer.is_none_or(|peer| peer == from);
            if !here || !heard {
                return 0;
            }
            1 + u32::from(!ip.is_unspecified()) + 2 * u32::from(socket.peer.is_some())
        };
        let best = self.slab.iter().map(|(_, socket)| score(socket)).max()?;
        if best == 0 {
            return None;
        }
        let chosen = |(_, socket): &(usize, &Socket)| score(socket) == best;
        let count = self.slab.iter().filter(chosen).count() as u64;
        let flow = u64::from(from.ip().to_bits()) << 16 | u64::from(from.port());
        let place = if count == 1 { 0 } else { finish(flow) % count };
        let mut matching = self.slab.iter().filter(chosen);
        matching.nth(place as usize).map(|(index, _)| index)
    }

    /// Tells the socket that sent from `from` that `peer` refused, if it is connected there. True
    /// if a receive waits for the news.
    pub(super) fn refuse(&mut self, from: SocketAddrV4, peer: SocketAddrV4) -> Option<bool> {
        let matches = |socket: &Socket| {
            let ip = socket.local.ip();
            let here = socket.local.port() == from.port();
            here && (ip == from.ip() || ip.is_unspecified()) && socket.peer == Some(peer)
        };
        let (_, socket) = self.slab.iter_mut().find(|(_, socket)| matches(socket))?;
        socket.error = Some(libc::ECONNREFUSED);
        Some(socket.armed.is_some())
    }

    /// Takes a socket away that is closed and that no operation uses.
    pub(super) fn remove_unused(&mut self, id: SocketId) -> Option<Socket> {
        let socket = self.get(id);
        let unused = socket.closing && socket.operations == 0;
        unused.then(|| self.slab.remove(id.0 as usize))
    }
}

impl Socket {
    /// Takes a datagram; gives it back if there is no room.
    pub(super) fn push(&mut self, queued: Queued) -> Result<(), Queued> {
        let cost = queued.payload.len() + DATAGRAM_COST;
        // As in the kernel, the one that overfills is still taken.
        if self.queued_bytes >= self.queued_bytes_max {
            return Err(queued);
        }
        self.queued_bytes += cost;
        self.queue.push_back(queued);
        Ok(())
    }

    pub(super) fn pop(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()?;
        self.queued_bytes -= queued.payload.len() + DATAGRAM_COST;
        Some(queued)
    }

    /// Whether its receive has something to tell.
    pub(super) fn has_news(&self) -> bool {
        self.armed.is_some() && (self.error.is_some() || !self.queue.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn bind(sockets: &mut Sockets, addr: &str, reuse_port: bool) -> io::Result<SocketId> {
        let options = UdpOptions {
            reuse_port,
            ..UdpOptions::default()
        };
        let addr = addr.parse().expect("an address");
        let bound = sockets.bind(addr, &options, &BufPool::new(64, 4));
        bound.map(|(id, _)| id)
    }

    fn v4(addr: &str) -> SocketAddrV4 {
        addr.parse().expect("an address")
    }

    #[test]
    fn an_address_is_bound_once() {
        let mut sockets = Sockets::new(HERE);
        bind(&mut sockets, "10.0.0.1:7", false).expect("free");
        bind(&mut sockets, "127.0.0.1:7", false).expect("another address");
        for taken in ["10.0.0.1:7", "0.0.0.0:7", "127.0.0.1:7"] {
            let error = bind(&mut sockets, taken, true).expect_err("taken");
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        }
        let foreign = bind(&mut sockets, "10.0.0.2:7", false).expect_err("foreign");
        assert_eq!(foreign.kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn the_most_particular_socket_receives() {
        let mut sockets = Sockets::new(HERE);
        let any = bind(&mut sockets, "0.0.0.0:7", true).expect("free");
        let exact = bind(&mut sockets, "10.0.0.1:7", true).expect("shared");
        let (one, other) = (v4("10.0.0.2:9"), v4("10.0.0.3:9"));
        let at = |sockets: &Sockets, from, to| sockets.receiver(from, v4(to));
        assert_eq!(at(&sockets, one, "10.0.0.1:7"), Some(exact.0 as usize));
        assert_eq!(at(&sockets, one, "127.0.0.1:7"), Some(any.0 as usize));
        sockets.connect(exact, other.into()).expect("connects");
        assert_eq!(at(&sockets, one, "10.0.0.1:7"), Some(any.0 as usize));
        assert_eq!(at(&sockets, one, "10.0.0.1:8"), None);
    }

    #[test]
    fn a_route_begins_where_the_answer_can_reach_it() {
        let mut sockets = Sockets::new(HERE);
        let any = bind(&mut sockets, "0.0.0.0:7", false).expect("free");
        let inward = bind(&mut sockets, "127.0.0.1:8", false).expect("free");
        let to = |addr: &str| Some(addr.parse().expect("an address"));
        let from_any = |sockets: &mut Sockets, addr| sockets.route(any, to(addr), 1);
        let route = from_any(&mut sockets, "10.0.0.2:1");
        assert_eq!(route, Ok((v4("10.0.0.1:7"), v4("10.0.0.2:1"))));
        let route = from_any(&mut sockets, "0.0.0.0:1");
        assert_eq!(route, Ok((v4("127.0.0.1:7"), v4("127.0.0.1:1"))));
        assert_eq!(from_any(&mut sockets, "[::1]:1"), Err(libc::EAFNOSUPPORT));
        let outward = sockets.route(inward, to("10.0.0.2:1"), 1);
        assert_eq!(outward, Err(libc::EINVAL));
        assert_eq!(sockets.route(any, None, 1), Err(libc::EDESTADDRREQ));
        let long = sockets.route(any, to("10.0.0.2:1"), PAYLOAD_MAX + 1);
        assert_eq!(long, Err(libc::EMSGSIZE));
    }

    #[test]
    fn a_full_socket_takes_no_more_until_it_is_read() {
        let mut sockets = Sockets::new(HERE);
        let id = bind(&mut sockets, "0.0.0.0:7", false).expect("free");
        let datagram = || Queued {
            from: v4("10.0.0.2:1"),
            payload: vec![0; 1000],
        };
        let socket = sockets.get(id);
        let taken = (0..1000)
            .take_while(|_| socket.push(datagram()).is_ok())
            .count();
        assert_eq!(taken, RECV_BYTES_MAX.div_ceil(1768));
        assert!(socket.pop().is_some());
        assert!(socket.push(datagram()).is_ok());
    }
}
