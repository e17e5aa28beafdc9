//! Sockets that send to many hosts at once, or hear what is sent so.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use crate::net::Multicast;

/// Gives `socket`, which is about to be bound to `addr`, its part; ip(7). The group is left when
/// the socket is closed.
pub(super) fn take_part(socket: &Socket, addr: SocketAddr, part: Multicast) -> io::Result<()> {
    let SocketAddr::V4(addr) = addr else {
        return Err(invalid(format!("multicast is for IPv4, and {addr} is not")));
    };
    match part {
        Multicast::Send { towards } => {
            socket.set_broadcast(true)?;
            socket.set_multicast_if_v4(&source_towards(towards)?)
        }
        Multicast::Receive { at } => {
            let group = *addr.ip();
            if !group.is_multicast() && !is_broadcast(group)? {
                // Of the sockets bound to it only one would get a datagram.
                return Err(invalid(format!(
                    "{group} is neither a multicast address nor the broadcast address of a network \
                     of this machine"
                )));
            }
            socket.set_reuse_address(true)?;
            if group.is_multicast() {
                // Else it would hear what any other socket of this machine has joined.
                socket.set_multicast_all_v4(false)?;
                socket.join_multicast_v4(&group, &at)?;
            }
            Ok(())
        }
    }
}

/// The address from which `host` is reached: it stands for an interface.
fn source_towards(host: Ipv4Addr) -> io::Result<Ipv4Addr> {
    let source = ask_for_a_route(host)?.local_addr()?;
    let source = source.as_socket_ipv4().ok_or(io::ErrorKind::InvalidData)?;
    Ok(*source.ip())
}

/// Whether it is a network's broadcast address. Only the kernel knows: it depends on the lengths of
/// the prefixes of its interfaces. It refuses those to who has not set `SO_BROADCAST`.
fn is_broadcast(address: Ipv4Addr) -> io::Result<bool> {
    if address == Ipv4Addr::BROADCAST {
        return Ok(true);
    }
    match ask_for_a_route(address) {
        Ok(_) => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => Ok(true),
        Err(error) => Err(error),
    }
}

/// A socket that would send to `host`. Sends nothing.
fn ask_for_a_route(host: Ipv4Addr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    let discard = SocketAddr::from((host, 9));
    socket.connect(&discard.into())?;
    Ok(socket)
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_a_broadcast_address() {
        let is = |text: &str| is_broadcast(text.parse().expect("an address")).expect("a route");
        assert!(is("127.255.255.255"));
        assert!(is("255.255.255.255"));
        for one in ["127.0.0.1", "127.0.0.255"] {
            assert!(!is(one), "{one}");
        }
    }

    #[test]
    fn a_host_of_this_machine_is_reached_from_its_own_address() {
        let loopback = Ipv4Addr::LOCALHOST;
        assert_eq!(source_towards(loopback).expect("a route"), loopback);
    }
}
