//! A run of datagrams in one message: sendmsg(2) with `UDP_SEGMENT`, udp(7).

use std::mem;

use super::address::RawAddress;

/// What the kernel reads to send a run. It points into itself: it is boxed, and
/// [filled](Self::fill) anew for each use.
pub(super) struct RunMessage {
    header: libc::msghdr,
    part: libc::iovec,
    address: RawAddress,
    control: Control,
}

/// One control message: cmsg(3).
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    segment: u16,
}

/// The length of the control message: up to the end of its data.
// SAFETY: it computes a length, and reads nothing.
const CONTROL_LEN: u32 = unsafe { libc::CMSG_LEN(size_of::<u16>() as u32) };
/// That of the room it takes.
// SAFETY: as above.
const CONTROL_SPACE: u32 = unsafe { libc::CMSG_SPACE(size_of::<u16>() as u32) };

const _: () = assert!(
    mem::offset_of!(Control, segment) + size_of::<u16>() == CONTROL_LEN as usize
        && size_of::<Control>() == CONTROL_SPACE as usize,
    "the data is where CMSG_DATA(3) finds it"
);

impl RunMessage {
    pub(super) fn new() -> Box<Self> {
        // SAFETY: all its parts are integers, bytes and pointers, for which zero is a value.
        Box::new(unsafe { mem::zeroed() })
    }

    /// Points at `len` bytes at `data`, to be sent to `to` in datagrams of `segment` bytes.
    pub(super) fn fill(&mut self, to: RawAddress, data: *const u8, len: usize, segment: u16) {
        self.address = to;
        self.part = libc::iovec {
            iov_base: data.cast_mut().cast(),
            iov_len: len,
        };
        self.header.msg_name = self.address.as_ptr().cast_mut().cast();
        self.header.msg_namelen = self.address.len();
        self.header.msg_iov = &raw mut self.part;
        self.header.msg_iovlen = 1;
        self.header.msg_control = (&raw mut self.control).cast();
        self.header.msg_controllen = size_of::<Control>() as _;
        self.control.header.cmsg_len = CONTROL_LEN as _;
        self.control.header.cmsg_level = libc::SOL_UDP;
        self.control.header.cmsg_type = libc::UDP_SEGMENT;
        self.control.segment = segment;
    }

    /// What it was filled with: sound to hand over while it and the bytes stay where they are.
    pub(super) fn header(&self) -> *const libc::msghdr {
        &raw const self.header
    }
}
