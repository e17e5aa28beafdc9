//! Socket addresses as the kernel writes them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// The longest address that a UDP socket sends to or receives from: a `sockaddr_in6`.
pub(super) const NAME_LEN: usize = size_of::<libc::sockaddr_in6>();

const V4_LEN: usize = size_of::<libc::sockaddr_in>();
const V6_LEN: usize = NAME_LEN;

/// A `sockaddr_in` or `sockaddr_in6`, as bytes with the alignment of either.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct RawAddress {
    bytes: [u8; NAME_LEN],
    len: u8,
}

impl RawAddress {
    pub(super) const EMPTY: Self = Self {
        bytes: [0; NAME_LEN],
        len: 0,
    };

    /// ip(7), ipv6(7): family in host order, port and IPv4 address in network order.
    pub(super) fn new(addr: SocketAddr) -> Self {
        let mut raw = Self::EMPTY;
        let family = if addr.is_ipv4() {
            libc::AF_INET
        } else {
            libc::AF_INET6
        };
        raw.bytes[0..2].copy_from_slice(&(family as libc::sa_family_t).to_ne_bytes());
        raw.bytes[2..4].copy_from_slice(&addr.port().to_be_bytes());
        match addr {
            SocketAddr::V4(v4) => {
                raw.bytes[4..8].copy_from_slice(&v4.ip().octets());
                raw.len = V4_LEN as u8;
            }
            SocketAddr::V6(v6) => {
                raw.bytes[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
                raw.bytes[8..24].copy_from_slice(&v6.ip().octets());
                raw.bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                raw.len = V6_LEN as u8;
            }
        }
        raw
    }

    pub(super) fn as_ptr(&self) -> *const libc::sockaddr {
        self.bytes.as_ptr().cast()
    }

    pub(super) fn len(&self) -> libc::socklen_t {
        self.len.into()
    }
}

/// What the kernel wrote as a sender's name; `None` if it is no IP address.
pub(super) fn parse(name: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*name.first_chunk::<2>()?);
    let port = u16::from_be_bytes([*name.get(2)?, *name.get(3)?]);
    match i32::from(family) {
        libc::AF_INET if name.len() >= V4_LEN => {
            let ip: [u8; 4] = name[4..8].try_into().expect("four bytes");
            Some(SocketAddrV4::new(Ipv4Addr::from(ip), port).into())
        }
        libc::AF_INET6 if name.len() >= V6_LEN => {
            let flow = u32::from_be_bytes(name[4..8].try_into().expect("four bytes"));
            let ip: [u8; 16] = name[8..24].try_into().expect("sixteen bytes");
            let scope = u32::from_ne_bytes(name[24..28].try_into().expect("four bytes"));
            Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, flow, scope).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_trip() {
        for text in [
            "127.0.0.1:9",
            "255.1.2.3:65535",
            "[::1]:80",
            "[fe80::1%3]:7",
        ] {
            let addr: SocketAddr = text.parse().expect("an address");
            let raw = RawAddress::new(addr);
            assert_eq!(parse(&raw.bytes[..raw.len() as usize]), Some(addr));
        }
    }

    #[test]
    fn a_short_or_foreign_name_is_no_address() {
        let raw = RawAddress::new("127.0.0.1:9".parse().expect("an address"));
        assert_eq!(parse(&raw.bytes[..V4_LEN - 1]), None);
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[1; NAME_LEN]), None);
    }
}
