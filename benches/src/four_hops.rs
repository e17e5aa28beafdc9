//! The plain path of one request: what a group cannot be faster than.
//!
//! A client sends a datagram to a primary, that one to a backup, and both answers go back: four
//! hops between three processes that do nothing else, through sockets that block. The datagrams
//! are as long as those of Viewring for an operation of no bytes: Request, Prepare, PrepareOk,
//! Reply. Blocking sockets are the fastest way to wait if nobody spins: there is one system call
//! for a datagram, and the kernel's own wake-up.

use std::io::{BufRead, BufReader, Write, stdout};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const REQUEST_LEN: usize = 57;
const PREPARE_LEN: usize = 109;
const PREPARE_OK_LEN: usize = 52;
const REPLY_LEN: usize = 57;

/// On loopback nothing takes longer, unless it was lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// The word on the command line that makes this program one of the two processes.
const WORD: &str = "four-hops";

/// If the command line asks for it, is one of the processes, for ever.
///
/// # Panics
/// When a socket fails.
pub fn be_asked() {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some(WORD) {
        return;
    }
    let socket = bind();
    let addr = socket.local_addr().expect("an address");
    println!("{addr}");
    stdout().flush().expect("somebody listens");
    match args.next() {
        Some(backup) => lead(&socket, backup.parse().expect("an address")),
        None => follow(&socket),
    }
}

fn lead(socket: &UdpSocket, backup: SocketAddr) -> ! {
    let mut buf = [0; 2048];
    let mut client = None;
    loop {
        let (len, from) = socket.recv_from(&mut buf).expect("a datagram");
        let (to, expected, answer) = if from == backup {
            let to = client.expect("a backup answers");
            (to, PREPARE_OK_LEN, REPLY_LEN)
        } else {
            client = Some(from);
            (backup, REQUEST_LEN, PREPARE_LEN)
        };
        assert_eq!(len, expected);
        socket.send_to(&buf[..answer], to).expect("a send");
    }
}

fn follow(socket: &UdpSocket) -> ! {
    let mut buf = [0; 2048];
    loop {
        let (len, from) = socket.recv_from(&mut buf).expect("a datagram");
        assert_eq!(len, PREPARE_LEN);
        socket
            .send_to(&buf[..PREPARE_OK_LEN], from)
            .expect("a send");
    }
}

fn bind() -> UdpSocket {
    UdpSocket::bind(("127.0.0.1", 0)).expect("a free port")
}

/// The two processes, and a socket towards them. They end when this is dropped.
#[derive(Debug)]
pub struct FourHops {
    processes: Vec<Child>,
    client: UdpSocket,
}

impl FourHops {
    /// Starts this program twice more; its `main` begins with [`be_asked`].
    ///
    /// # Panics
    /// When that fails.
    pub fn start() -> Self {
        let mut processes = Vec::new();
        let mut start = |peer: Option<SocketAddr>| -> SocketAddr {
            let mut command = Command::new(std::env::current_exe().expect("a path"));
            command.arg(WORD).args(peer.map(|addr| addr.to_string()));
            let mut process = command.stdout(Stdio::piped()).spawn().expect("a process");
            let mut line = String::new();
            let out = process.stdout.take().expect("it was piped");
            BufReader::new(out)
                .read_line(&mut line)
                .expect("its address");
            processes.push(process);
            line.trim().parse().expect("an address")
        };
        let backup = start(None);
        let primary = start(Some(backup));
        let client = bind();
        client.connect(primary).expect("a route");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self { processes, client }
    }

    /// How long each of `count` trips took, in microseconds.
    ///
    /// # Panics
    /// When a datagram is lost or garbled.
    pub fn trips(&self, count: u64) -> Vec<f64> {
        let mut reply = [0; 2048];
        let mut trip = |number: u64| {
            let mut request = [0; REQUEST_LEN];
            request[..8].copy_from_slice(&number.to_le_bytes());
            let start = Instant::now();
            self.client.send(&request).expect("a send");
            let len = self.client.recv(&mut reply).expect("a reply");
            let elapsed = start.elapsed();
            assert_eq!((len, &reply[..8]), (REPLY_LEN, &request[..8]));
            elapsed.as_nanos() as f64 / 1e3
        };
        (0..count).map(&mut trip).collect()
    }
}

impl Drop for FourHops {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // It may have ended by itself.
            let _ended = process.kill().is_err() || process.wait().is_err();
        }
    }
}
