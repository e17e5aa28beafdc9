//! How much the kernel keeps for a socket: `SO_SNDBUF` and `SO_RCVBUF`, socket(7).

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Once;

use libc::{c_int, socklen_t};
use socket2::Socket;

/// For datagrams of which kind.
pub(super) struct Room {
    name: &'static str,
    /// Sets it, up to a maximum.
    option: c_int,
    /// Sets it to whatever the privileged (`CAP_NET_ADMIN`) want.
    force: c_int,
    maximum: &'static str,
    said: &'static Once,
}

/// For those that have not left yet.
pub(super) const SEND: Room = Room {
    name: "send",
    option: libc::SO_SNDBUF,
    force: libc::SO_SNDBUFFORCE,
    maximum: "net.core.wmem_max",
    said: &SAID[0],
};

/// For those that nobody has received yet.
pub(super) const RECEIVE: Room = Room {
    name: "receive",
    option: libc::SO_RCVBUF,
    force: libc::SO_RCVBUFFORCE,
    maximum: "net.core.rmem_max",
    said: &SAID[1],
};

static SAID: [Once; 2] = [const { Once::new() }; 2];

impl Room {
    /// Has the kernel keep `bytes`, or as much as it grants. If that is less, a warning says so,
    /// one for all sockets of the process.
    pub(super) fn ask(&self, socket: &Socket, bytes: usize) -> io::Result<()> {
        let granted = self.granted(socket, bytes)?;
        if granted < bytes {
            self.said.call_once(|| {
                tracing::warn!(
                    asked = bytes,
                    granted,
                    "the kernel's {} buffers are smaller than asked for: raise {}",
                    self.name,
                    self.maximum
                );
            });
        }
        Ok(())
    }

    fn granted(&self, socket: &Socket, bytes: usize) -> io::Result<usize> {
        let wanted = c_int::try_from(bytes).unwrap_or(c_int::MAX);
        set(socket, self.option, wanted)?;
        // What is set is doubled, for what the kernel itself needs.
        let granted = || Ok(get(socket, self.option)? as usize / 2);
        let within = granted()?;
        if within < bytes && set(socket, self.force, wanted).is_ok() {
            return granted();
        }
        Ok(within)
    }
}

fn set(socket: &Socket, option: c_int, value: c_int) -> io::Result<()> {
    let (fd, len) = (socket.as_raw_fd(), size_of::<c_int>() as socklen_t);
    let value = (&raw const value).cast();
    // SAFETY: setsockopt(2) reads `len` bytes at `value`, which are those of an integer that lives
    // until it returns.
    match unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, value, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn get(socket: &Socket, option: c_int) -> io::Result<c_int> {
    let (mut value, mut len): (c_int, _) = (0, size_of::<c_int>() as socklen_t);
    let (fd, out) = (socket.as_raw_fd(), (&raw mut value).cast());
    // SAFETY: getsockopt(2) writes at most `len` bytes at `out`, which are those of an integer, and
    // the length. Both live until it returns.
    match unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, out, &raw mut len) } {
        0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use socket2::{Domain, Type};

    use super::*;

    /// Nobody has such a maximum.
    const HUGE: usize = 512 << 20;

    fn socket() -> Socket {
        Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket")
    }

    /// Runs `test` in a thread without capabilities; capset(2).
    fn unprivileged(test: impl FnOnce() + Send + 'static) {
        const VERSION_3: u32 = 0x2008_0522;
        let thread = thread::spawn(|| {
            let (header, none) = ([VERSION_3, 0], [0_u32; 6]);
            let (header, none) = (header.as_ptr(), none.as_ptr());
            // SAFETY: it reads a version and a thread's id, and two structures of three words.
            let failed = unsafe { libc::syscall(libc::SYS_capset, header, none) };
            assert_eq!(failed, 0);
            test();
        });
        thread.join().expect("see above");
    }

    #[test]
    fn who_gets_less_than_it_asked_for_is_told_so() {
        static SAID: [Once; 2] = [const { Once::new() }; 2];
        unprivileged(|| {
            for (room, said) in [SEND, RECEIVE].into_iter().zip(&SAID) {
                let room = Room { said, ..room };
                room.ask(&socket(), 100_000).expect("granted");
                assert!(!said.is_completed());
                let socket = socket();
                room.ask(&socket, HUGE).expect("clamped");
                assert!(said.is_completed());
                let granted = get(&socket, room.option).expect("asked");
                assert!((200_000..HUGE).contains(&(granted as usize)));
            }
        });
    }

    #[test]
    fn the_privileged_get_what_they_ask_for() {
        for room in [SEND, RECEIVE] {
            if set(&socket(), room.force, 100_000).is_err() {
                eprintln!("not tried: it takes CAP_NET_ADMIN");
                return;
            }
            assert_eq!(room.granted(&socket(), HUGE).expect("asked"), HUGE);
        }
    }
}
