//! How much CPU time the load generator and the replicas of this machine use.
//!
//! Which process is a replica is read from `/proc`: the one that holds the UDP socket of its
//! address. So nobody has to name processes, and replicas elsewhere, or of another user, are just
//! not told of.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// The processes whose CPU time is measured.
#[derive(Debug)]
pub(super) struct Processes {
    /// By replica; `None` if it does not run here.
    replicas: Vec<Option<u32>>,
}

/// CPU time, in user space and in the kernel, since each process began.
#[derive(Clone, Debug, Default)]
pub(super) struct Used {
    pub(super) client: Duration,
    pub(super) replicas: Vec<Option<Duration>>,
}

impl Processes {
    /// Looks for the replicas at these addresses.
    pub(super) fn find(replicas: &[SocketAddr]) -> Self {
        let mut inodes = BTreeMap::new();
        for table in ["/proc/net/udp", "/proc/net/udp6"] {
            let table = fs::read_to_string(table).unwrap_or_default();
            inodes.extend(table.lines().filter_map(socket));
        }
        let wanted = replicas.iter().map(|&addr| inode_at(&inodes, addr));
        let wanted: Vec<Option<u64>> = wanted.collect();
        let mut pids = vec![None; replicas.len()];
        if wanted.iter().any(Option::is_some) {
            for (pid, inode) in sockets_of_processes() {
                let places = wanted.iter().zip(&mut pids);
                places
                    .filter(|(wanted, _)| **wanted == Some(inode))
                    .for_each(|(_, place)| *place = Some(pid));
            }
        }
        Self { replicas: pids }
    }

    /// What each has used by now.
    pub(super) fn used(&self) -> Used {
        let of = |pid: u32| cpu_time(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?);
        Used {
            client: of(std::process::id()).unwrap_or_default(),
            replicas: self.replicas.iter().map(|&pid| of(pid?)).collect(),
        }
    }
}

impl Used {
    /// What was used since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        let pairs = self.replicas.iter().zip(&before.replicas);
        Self {
            client: self.client.saturating_sub(before.client),
            replicas: pairs
                .map(|(now, before)| Some((*now)?.saturating_sub((*before)?)))
                .collect(),
        }
    }
}

/// The socket that has this address, or, if nobody else can have it, its port on all of them.
fn inode_at(inodes: &BTreeMap<SocketAddr, u64>, addr: SocketAddr) -> Option<u64> {
    let exact = inodes.get(&addr).copied();
    let any = [
        IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::from(Ipv6Addr::UNSPECIFIED),
    ];
    exact.or_else(|| {
        let mut wild = any.into_iter().filter(|_| addr.ip().is_loopback());
        wild.find_map(|ip| inodes.get(&SocketAddr::new(ip, addr.port())).copied())
    })
}

/// The sockets that processes of ours have open: pid and inode.
fn sockets_of_processes() -> impl Iterator<Item = (u32, u64)> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.flat_map(|pid| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter();
        let links = descriptors
            .flatten()
            .flatten()
            .filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
        links.filter_map(move |link| {
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some((pid, inode.parse().ok()?))
        })
    })
}

/// A line of `/proc/net/udp`: the address a socket is bound to, and its inode.
fn socket(line: &str) -> Option<(SocketAddr, u64)> {
    let mut words = line.split_whitespace();
    let local = words.nth(1)?;
    let inode = words.nth(7)?.parse().ok()?;
    let (ip, port) = local.split_once(':')?;
    // An address is words of 32 bits, each in the order of this machine.
    let mut bytes = Vec::new();
    for at in (0..ip.len()).step_by(8) {
        let word = u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip: IpAddr = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok()?.into(),
        _ => <[u8; 16]>::try_from(bytes).ok()?.into(),
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((SocketAddr::new(ip, port), inode))
}

/// `utime` and `stime` of `/proc/PID/stat`: proc_pid_stat(5).
fn cpu_time(stat: &str) -> Option<Duration> {
    // The second field, the program's name, may have anything in it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let ticks = ticks()? + ticks()?;
    Some(Duration::from_millis(ticks.checked_mul(TICK_MS)?))
}

/// Linux tells user space times in hundredths of a second, whatever its own tick is.
const TICK_MS: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_the_last_parenthesis() {
        let stat = "42 (a b) c) S 1 42 42 0 -1 4194560 5 0 0 0 150 31 0 0 20 0 1 0 9 9 9\n";
        assert_eq!(cpu_time(stat), Some(Duration::from_millis(1810)));
        assert_eq!(cpu_time("42 (a) S 1"), None);
        assert_eq!(cpu_time(""), None);
    }

    #[test]
    fn a_socket_is_read_from_a_line_of_the_table() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   \
                    uid  timeout inode ref pointer drops";
        assert_eq!(socket(head), None);
        let ip = u32::from_ne_bytes([127, 0, 0, 1]);
        let rest = "00000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 \
                    24661 2 0000000000000000 0";
        let line = format!("  338: {ip:08X}:1B58 {rest}");
        assert_eq!(socket(&line), Some((([127, 0, 0, 1], 7000).into(), 24_661)));
        let word = u32::from_ne_bytes([0, 0, 0, 1]);
        let line = format!("  338: 000000000000000000000000{word:08X}:1B58 {rest}");
        let addr = SocketAddr::from((Ipv6Addr::LOCALHOST, 7000));
        assert_eq!(socket(&line), Some((addr, 24_661)));
    }

    #[test]
    fn a_socket_of_all_addresses_is_the_one_of_loopback_only() {
        let any = SocketAddr::from(([0, 0, 0, 0], 7000));
        let inodes = BTreeMap::from([(any, 3)]);
        let at = |ip: [u8; 4]| inode_at(&inodes, (ip, 7000).into());
        assert_eq!((at([127, 0, 0, 1]), at([10, 0, 0, 1])), (Some(3), None));
    }

    #[test]
    #[expect(clippy::disallowed_types, reason = "somebody who has the port")]
    fn the_process_behind_an_address_is_found() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let addr = socket.local_addr().expect("an address");
        let nobody = ([127, 0, 0, 1], 1).into();
        let processes = Processes::find(&[nobody, addr]);
        assert_eq!(processes.replicas, [None, Some(std::process::id())]);
        let before = processes.used();
        let used = processes.used().since(&before);
        assert!(used.replicas[0].is_none() && used.replicas[1] < Some(Duration::from_secs(1)));
        assert!(
            before.replicas[1] >= Some(before.client),
            "it is this process"
        );
    }
}
