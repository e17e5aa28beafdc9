//! The configuration files of specpaxos and Electrode: lines of `f`, `replica` and `multicast`.
//!
//! The ports in it are the clients'. Our replicas speak with one another in our own format on ports
//! of their own, which follow from the file: each replica's port and [`PEER_PORT_DISTANCE`]. The
//! group's name follows from its replicas, too, so that groups of different files never mix.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::ValueEnum;
use viewring::specpaxos::Dialect;

use crate::settings::{of_one_family, replica_at, resolve};

/// What clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wire {
    /// Our own format.
    Viewring,
    /// What specpaxos' clients speak, on the ports of its configuration file.
    Specpaxos,
    /// What Electrode's clients speak, there too.
    Electrode,
}

impl Wire {
    /// Which of the two layouts of specpaxos' messages it is, if any.
    pub(crate) fn dialect(self) -> Option<Dialect> {
        match self {
            Self::Viewring => None,
            Self::Specpaxos => Some(Dialect::Specpaxos),
            Self::Electrode => Some(Dialect::Electrode),
        }
    }

    /// The word on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Viewring => "viewring",
            Self::Specpaxos => "specpaxos",
            Self::Electrode => "electrode",
        }
    }
}

/// A group, as such a file describes it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// Names the group.
    pub(crate) cluster: u64,
    pub(crate) doors: Doors,
    /// Where the replicas speak with one another, and serve clients of ours.
    pub(crate) replicas: Vec<SocketAddr>,
}

/// Where clients of that system send their requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Doors {
    /// The replicas.
    pub(crate) each: Vec<SocketAddr>,
    /// All of them at once: the file's `multicast` line, if it has one. Many hosts may hear what
    /// is sent there.
    pub(crate) all: Option<SocketAddr>,
}

/// What is added to a replica's port.
pub(crate) const PEER_PORT_DISTANCE: u16 = 1000;

/// Whether this is such a file, rather than one of ours: a line begins with one of its words, and
/// nothing is assigned to it.
pub(crate) fn is_one(text: &str) -> bool {
    text.lines().any(|line| {
        let mut words = line.split_whitespace();
        let directive = words.next().and_then(Directive::of);
        directive.is_some() && words.next().is_none_or(|word| !word.starts_with('='))
    })
}

/// Reads the file.
///
/// # Errors
/// What is wrong, behind the line's number, or behind a space.
pub(crate) fn parse(text: &str) -> Result<Group, String> {
    let mut file = File::default();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        file.read(line)
            .map_err(|reason| format!("{number}: {reason}"))?;
        file.lines.resize(file.replicas.len(), number);
        if file.failures.is_some() {
            file.failures_line.get_or_insert(number);
        }
    }
    file.group()
}

enum Directive {
    Failures,
    Replica,
    Multicast,
}

impl Directive {
    /// Upper and lower case are the same.
    fn of(word: &str) -> Option<Self> {
        match &*word.to_ascii_lowercase() {
            "f" => Some(Self::Failures),
            "replica" => Some(Self::Replica),
            "multicast" => Some(Self::Multicast),
            _ => None,
        }
    }
}

/// The file, word by word.
#[derive(Default)]
struct File {
    failures: Option<usize>,
    failures_line: Option<usize>,
    replicas: Vec<(String, SocketAddr)>,
    /// On which line each replica is.
    lines: Vec<usize>,
    multicast: Option<SocketAddr>,
}

impl File {
    /// As in the original: a line that is empty or begins with `#` says nothing, and neither does
    /// what follows the first argument of one.
    fn read(&mut self, line: &str) -> Result<(), String> {
        let mut words = line.split_whitespace();
        let Some(word) = words.next().filter(|_| !line.starts_with('#')) else {
            return Ok(());
        };
        let directive = Directive::of(word).ok_or_else(|| {
            format!("\"{word}\" is no line of such a file: f, replica or multicast")
        })?;
        let argument = words.next();
        match directive {
            Directive::Failures => {
                let argument = argument.ok_or("f needs a number")?;
                let failures = argument.parse();
                let failures = failures.map_err(|_| format!("\"{argument}\" is no number"))?;
                self.failures = Some(failures);
            }
            Directive::Replica => {
                let argument = argument.ok_or("replica needs host:port")?;
                let addr = replica_at(argument)?;
                if self.replicas.iter().any(|&(_, known)| known == addr) {
                    return Err(format!("two replicas have the address {addr}"));
                }
                of_one_family(self.replicas.first().map(|(_, first)| first), addr)?;
                self.replicas.push((argument.to_ascii_lowercase(), addr));
            }
            Directive::Multicast => {
                let argument = argument.ok_or("multicast needs host:port")?;
                if self.multicast.is_some() {
                    return Err(String::from(
                        "a second multicast line: it takes one at most",
                    ));
                }
                self.multicast = Some(address_of_many(argument)?);
            }
        }
        Ok(())
    }

    fn group(self) -> Result<Group, String> {
        let count = self.replicas.len();
        if count == 0 {
            return Err(String::from(" there is no replica line"));
        }
        let (Some(failures), Some(line)) = (self.failures, self.failures_line) else {
            return Err(String::from(" there is no f line"));
        };
        if failures
            .checked_mul(2)
            .and_then(|twice| twice.checked_add(1))
            != Some(count)
        {
            return Err(format!(
                "{line}: f is {failures} and there are {count} replicas: it takes 2f+1"
            ));
        }
        let doors: Vec<SocketAddr> = self.replicas.iter().map(|&(_, addr)| addr).collect();
        let mut replicas = Vec::new();
        for (id, (&door, line)) in doors.iter().zip(&self.lines).enumerate() {
            if self.multicast.is_some() && door.is_ipv6() {
                return Err(format!(
                    "{line}: multicast is for IPv4, which {door} is not"
                ));
            }
            let own = peer_addr(door).ok_or_else(|| {
                format!(
                    "{line}: replicas speak with one another on their port plus \
                     {PEER_PORT_DISTANCE}, which {door} does not have"
                )
            })?;
            if let Some(other) = doors.iter().position(|&other| other == own) {
                return Err(format!(
                    "{line}: replica {id} would speak with the others on {own} (its port plus \
                     {PEER_PORT_DISTANCE}), where clients find replica {other}"
                ));
            }
            replicas.push(own);
        }
        let names: Vec<&str> = self.replicas.iter().map(|(name, _)| &**name).collect();
        Ok(Group {
            cluster: name_of(&names),
            doors: Doors {
                each: doors,
                all: self.multicast,
            },
            replicas,
        })
    }
}

/// The argument of `multicast`. What is surely one host's is refused; of the rest the kernel knows
/// what is a broadcast address, when replicas are started.
fn address_of_many(argument: &str) -> Result<SocketAddr, String> {
    let addr = resolve(argument)?;
    let IpAddr::V4(ip) = addr.ip() else {
        return Err(format!("multicast is for IPv4, which {argument} is not"));
    };
    if ip.is_multicast() || may_be_broadcast(ip) {
        return Ok(addr);
    }
    Err(format!(
        "{argument} is one host: multicast needs an address of many, such as 239.0.0.1, or the \
         broadcast address of the replicas' network"
    ))
}

/// In a network of two hosts or more, all bits of a host are set in it.
fn may_be_broadcast(ip: Ipv4Addr) -> bool {
    ip.to_bits() & 3 == 3
}

fn peer_addr(door: SocketAddr) -> Option<SocketAddr> {
    let port = door.port().checked_add(PEER_PORT_DISTANCE)?;
    Some(SocketAddr::new(door.ip(), port))
}

/// FNV-1a over the replicas as the file names them.
fn name_of(replicas: &[&str]) -> u64 {
    replicas
        .iter()
        .flat_map(|name| name.bytes().chain([b'\n']))
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: &str = "\
# three replicas
f 1

REPLICA 127.0.0.1:12345
replica\t127.0.0.1:12346 what follows is ignored
 \t
Replica 127.0.0.1:12347
";

    #[test]
    fn a_file_is_read_as_the_original_reads_it() {
        assert!(is_one(THREE));
        let group = parse(THREE).expect("it is right");
        let each = &group.doors.each;
        let port = |index: usize| (each[index].port(), group.replicas[index].port());
        assert_eq!(
            [0, 1, 2].map(port),
            [(12345, 13345), (12346, 13346), (12347, 13347)]
        );
        assert_eq!(group.doors.all, None);
        let alone = parse("f 0\nreplica localhost:12345").expect("a name is looked up");
        assert!(alone.replicas[0].ip().is_loopback());
    }

    #[test]
    fn an_address_of_all_replicas_is_no_part_of_the_groups_name() {
        for many in [
            "239.1.2.3:9",
            "127.255.255.255:9",
            "10.0.0.3:9",
            "255.255.255.255:9",
        ] {
            let group = parse(&format!("Multicast {many} as it is\n{THREE}")).expect("it is right");
            assert_eq!(group.doors.all, many.parse().ok());
            let without = parse(THREE).expect("it is right");
            assert_eq!(group.cluster, without.cluster);
            assert_eq!(group.replicas, without.replicas);
        }
    }

    #[test]
    fn a_file_of_ours_is_told_apart() {
        for text in [
            "cluster = 1\nreplicas = ['127.0.0.1:1']\n",
            "f = 1\n",
            "# f 1\n",
            "",
        ] {
            assert!(!is_one(text), "{text:?}");
        }
        assert!(is_one("nonsense first\nf 1"));
        assert!(is_one("f"));
    }

    #[test]
    fn groups_of_other_files_have_other_names() {
        let group = |text: &str| parse(text).expect("it is right").cluster;
        assert_eq!(group(THREE), group(&THREE.to_ascii_lowercase()));
        let other = THREE.replace("12347", "12348");
        assert_ne!(group(THREE), group(&other));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let cases = [
            ("", " there is no replica line"),
            ("replica 127.0.0.1:1", " there is no f line"),
            ("f 1\nreplca 127.0.0.1:1", "2: \"replca\" is no line"),
            ("f", "1: f needs a number"),
            ("\nf one", "2: \"one\" is no number"),
            ("f -1", "1: \"-1\" is no number"),
            ("replica", "1: replica needs host:port"),
            ("replica 127.0.0.1", "1: \"127.0.0.1\" is no address"),
            ("replica 127.0.0.1:0", "1: \"127.0.0.1:0\" has no port"),
            (
                "f 1\nreplica 127.0.0.1:5\nreplica 127.0.0.1:5",
                "3: two replicas have the address 127.0.0.1:5",
            ),
            (
                "f 1\nreplica [::1]:5\nreplica 127.0.0.1:6",
                "3: [::1]:5 and 127.0.0.1:6 cannot reach one another",
            ),
            ("multicast", "1: multicast needs host:port"),
            ("multicast 224.0.0.1", "1: \"224.0.0.1\" is no address"),
            ("\nmulticast 10.0.0.1:9", "2: 10.0.0.1:9 is one host"),
            ("multicast 0.0.0.0:9", "1: 0.0.0.0:9 is one host"),
            (
                "multicast [ff02::1]:9",
                "1: multicast is for IPv4, which [ff02::1]:9 is not",
            ),
            (
                "multicast 224.0.0.1:9\n\nmulticast 224.0.0.1:9",
                "3: a second multicast line",
            ),
            (
                "multicast 224.0.0.1:9\nf 0\nreplica [::1]:5",
                "3: multicast is for IPv4, which [::1]:5 is not",
            ),
            (
                "multicast 224.0.0.1:9\nf 1\nreplica 127.0.0.1:5\nreplica 127.0.0.1:5",
                "4: two replicas have the address 127.0.0.1:5",
            ),
            (
                "f 1\nreplica 127.0.0.1:5\nreplica 127.0.0.1:6",
                "1: f is 1 and there are 2 replicas: it takes 2f+1",
            ),
            (
                "f 0\nreplica 127.0.0.1:65000",
                "2: replicas speak with one another on their port plus 1000, which",
            ),
            (
                "f 1\nreplica 127.0.0.1:5\nreplica 127.0.0.1:1005\nreplica 127.0.0.1:6",
                "2: replica 0 would speak with the others on 127.0.0.1:1005 (its port plus 1000), \
                 where clients find replica 1",
            ),
        ];
        for (text, expected) in cases {
            let error = parse(text).expect_err("it is wrong");
            assert!(error.starts_with(expected), "{text:?}: {error}");
        }
    }
}
