//! The file that describes a group: one that `viewring config` writes, or one of specpaxos.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use viewring::protocol::{Configuration, ReplicaId};
use viewring::{Checkpoints, ClientConfig, ConfigError, LeaseConfig, NodeConfig, Timeouts};
use viewring_runtime::Config;

use crate::duration;
use crate::exit::Failure;
use crate::specpaxos::{self, Doors};

/// A group, as its file describes it.
#[derive(Debug)]
pub(crate) struct Settings {
    path: PathBuf,
    pub(crate) cluster: u64,
    pub(crate) replicas: Vec<SocketAddr>,
    /// Where clients of specpaxos find the replicas, if the file is one of that system.
    pub(crate) doors: Option<Doors>,
    group: Configuration,
    timeouts: FileTimeouts,
    limits: FileLimits,
    runtime: FileRuntime,
    lease: Option<FileLease>,
    checkpoints: FileCheckpoints,
    data: Option<PathBuf>,
}

/// The file, word by word.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cluster: u64,
    replicas: Spanned<Vec<Spanned<String>>>,
    data: Option<PathBuf>,
    #[serde(default)]
    timeouts: FileTimeouts,
    #[serde(default)]
    limits: FileLimits,
    #[serde(default)]
    runtime: FileRuntime,
    lease: Option<FileLease>,
    #[serde(default)]
    checkpoints: FileCheckpoints,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTimeouts {
    heartbeat: Option<Time>,
    prepare: Option<Time>,
    abdicate: Option<Time>,
    silence: Option<Time>,
    view_change_resend: Option<Time>,
    view_change: Option<Time>,
    upkeep: Option<Time>,
    announce: Option<Time>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileLimits {
    datagram_bytes: Option<Datagram>,
    window: Option<NonZeroU64>,
    max_operation_bytes: Option<usize>,
    max_clients: Option<NonZeroU32>,
    max_reply_bytes: Option<u32>,
    max_kept_reply_bytes: Option<u64>,
    max_reads: Option<NonZeroUsize>,
}

/// Leases are on if it is there.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileLease {
    duration: Option<Time>,
    max_clock_drift_ppm: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRuntime {
    spin: Option<Time>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileCheckpoints {
    interval: Option<u64>,
    interval_bytes: Option<u64>,
    keep: Option<u64>,
    page_bytes: Option<usize>,
    transfer_bytes: Option<NonZeroUsize>,
}

/// A duration longer than zero.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Time(Duration);

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match duration::parse_positive(&text) {
            Ok(duration) => Ok(Self(duration)),
            Err(reason) => Err(format!("\"{text}\" is no time: {reason}")),
        }
    }
}

/// Bytes of UDP payload.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "usize")]
struct Datagram(usize);

impl TryFrom<usize> for Datagram {
    type Error = String;

    fn try_from(bytes: usize) -> Result<Self, String> {
        let possible = NodeConfig::DATAGRAM_BYTES;
        if possible.contains(&bytes) {
            return Ok(Self(bytes));
        }
        let (least, most) = (possible.start(), possible.end());
        Err(format!(
            "a datagram has {least} to {most} bytes, not {bytes}"
        ))
    }
}

impl Settings {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// One line that names the file and, if there is one, the line.
    pub(crate) fn load(path: &Path) -> Result<Self, Failure> {
        let text = fs::read_to_string(path).map_err(|error| {
            let is_missing = error.kind() == io::ErrorKind::NotFound;
            let cure = if is_missing {
                "; `viewring config` prints one"
            } else {
                ""
            };
            Failure::usage(format_args!(
                "cannot read {}: {error}{cure}",
                path.display()
            ))
        })?;
        let settings = Self::parse(path, &text)
            .map_err(|reason| Failure::usage(format_args!("{}:{reason}", path.display())))?;
        let first = settings.node(0)?;
        first.check().map_err(|error| settings.fault(error))?;
        Ok(settings)
    }

    /// The error begins with the line's number, or with a space.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, String> {
        if specpaxos::is_one(text) {
            return Self::of_specpaxos(path, specpaxos::parse(text)?);
        }
        let at = |span: Range<usize>| 1 + text[..span.start.min(text.len())].matches('\n').count();
        let file: File = toml::from_str(text).map_err(|error| match error.span() {
            Some(span) => {
                let key = key_before(&text[..span.start]).map(|key| format!("{key}: "));
                let key = key.unwrap_or_default();
                format!("{}: {key}{}", at(span), error.message())
            }
            None => format!(" {}", error.message()),
        })?;
        let File {
            cluster,
            replicas: listed,
            data,
            timeouts,
            limits,
            runtime,
            lease,
            checkpoints,
        } = file;
        let list_line = at(listed.span());
        let mut replicas: Vec<SocketAddr> = Vec::new();
        for replica in listed.into_inner() {
            let line = at(replica.span());
            let addr =
                replica_at(replica.get_ref()).map_err(|reason| format!("{line}: {reason}"))?;
            if replicas.contains(&addr) {
                return Err(format!("{line}: two replicas have the address {addr}"));
            }
            of_one_family(replicas.first(), addr).map_err(|reason| format!("{line}: {reason}"))?;
            replicas.push(addr);
        }
        let count = u8::try_from(replicas.len()).unwrap_or(u8::MAX);
        let group = Configuration::new(count).map_err(|error| format!("{list_line}: {error}"))?;
        let beside = path.parent().unwrap_or(Path::new(""));
        let data = data.map(|dir| beside.join(dir));
        let path = path.to_owned();
        Ok(Self {
            path,
            cluster,
            replicas,
            doors: None,
            group,
            timeouts,
            limits,
            runtime,
            lease,
            checkpoints,
            data,
        })
    }

    fn of_specpaxos(path: &Path, file: specpaxos::Group) -> Result<Self, String> {
        let count = u8::try_from(file.replicas.len()).unwrap_or(u8::MAX);
        let group = Configuration::new(count).map_err(|error| format!(" {error}"))?;
        Ok(Self {
            path: path.to_owned(),
            cluster: file.cluster,
            replicas: file.replicas,
            doors: Some(file.doors),
            group,
            timeouts: FileTimeouts::default(),
            limits: FileLimits::default(),
            runtime: FileRuntime::default(),
            lease: None,
            checkpoints: FileCheckpoints::default(),
            data: None,
        })
    }

    /// Where clients that speak specpaxos' format find the replicas.
    ///
    /// # Errors
    /// When the file is not one of that system.
    pub(crate) fn doors(&self) -> Result<&Doors, Failure> {
        self.doors.as_ref().ok_or_else(|| {
            Failure::usage(format_args!(
                "specpaxos' clients need a file of their own kind (lines of f and replica), which \
                 {} is not",
                self.path.display()
            ))
        })
    }

    /// The configuration of replica `id`.
    ///
    /// # Errors
    /// When there is no such replica.
    pub(crate) fn node(&self, id: u8) -> Result<NodeConfig, Failure> {
        if !self.group.contains(ReplicaId(id)) {
            return Err(Failure::usage(format_args!(
                "there is no replica {id}: {} has replicas 0 to {}",
                self.path.display(),
                self.replicas.len() - 1
            )));
        }
        let default = NodeConfig::new(self.cluster, ReplicaId(id), self.replicas.clone());
        let limits = &self.limits;
        Ok(NodeConfig {
            timeouts: self.timeouts(default.timeouts),
            checkpoints: self.checkpoints(default.checkpoints),
            datagram_bytes: self.datagram_bytes(default.datagram_bytes),
            window: limits.window.map_or(default.window, NonZeroU64::get),
            max_operation_bytes: limits
                .max_operation_bytes
                .unwrap_or(default.max_operation_bytes),
            max_clients: limits
                .max_clients
                .map_or(default.max_clients, NonZeroU32::get),
            max_reply_bytes: limits.max_reply_bytes.unwrap_or(default.max_reply_bytes),
            max_kept_reply_bytes: limits
                .max_kept_reply_bytes
                .unwrap_or(default.max_kept_reply_bytes),
            max_reads: limits
                .max_reads
                .map_or(default.max_reads, NonZeroUsize::get),
            lease: self.lease.map(
                |FileLease {
                     duration,
                     max_clock_drift_ppm,
                 }| {
                    let usual = LeaseConfig::default();
                    LeaseConfig {
                        duration: duration.map_or(usual.duration, |time| time.0),
                        max_clock_drift_ppm: max_clock_drift_ppm
                            .unwrap_or(usual.max_clock_drift_ppm),
                    }
                },
            ),
            data: self.data.as_ref().map(|dir| dir.join(id.to_string())),
            ..default
        })
    }

    /// Why a replica that the file describes cannot be.
    pub(crate) fn fault(&self, error: ConfigError) -> Failure {
        match error {
            ConfigError::Bind(..) | ConfigError::ViewFile(_) => error.into(),
            ConfigError::Group(_)
            | ConfigError::UnknownId { .. }
            | ConfigError::SameAddress(_)
            | ConfigError::Value(_) => {
                Failure::usage(format_args!("{}: {error}", self.path.display()))
            }
        }
    }

    /// What a replica's runtime is told: `spin` of the command line, or else of the file.
    pub(crate) fn runtime(&self, spin: Option<Duration>) -> Config {
        let default = Config::default();
        let of_file = self.runtime.spin.map(|Time(duration)| duration);
        Config {
            spin: spin.or(of_file).unwrap_or(default.spin),
            ..default
        }
    }

    /// How many replicas there are.
    pub(crate) fn replica_count(&self) -> u8 {
        self.group.replicas().count() as u8
    }

    /// The configuration of a client that gives a call up after `deadline`.
    pub(crate) fn client(&self, deadline: Duration) -> ClientConfig {
        let default = ClientConfig::new(self.cluster, self.replicas.clone());
        ClientConfig {
            deadline,
            datagram_bytes: self.datagram_bytes(default.datagram_bytes),
            ..default
        }
    }

    fn datagram_bytes(&self, default: usize) -> usize {
        let of_file = self.limits.datagram_bytes;
        of_file.map_or(default, |Datagram(bytes)| bytes)
    }

    /// f+1.
    pub(crate) fn quorum(&self) -> usize {
        usize::from(self.group.quorum())
    }

    /// The addresses, to be read by people.
    pub(crate) fn addresses(&self) -> String {
        self.replicas
            .iter()
            .map(SocketAddr::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    }

    fn checkpoints(&self, default: Checkpoints) -> Checkpoints {
        let file = &self.checkpoints;
        Checkpoints {
            interval: file.interval.unwrap_or(default.interval),
            interval_bytes: file.interval_bytes.unwrap_or(default.interval_bytes),
            keep: file.keep.unwrap_or(default.keep),
            page_bytes: file.page_bytes.unwrap_or(default.page_bytes),
            transfer_bytes: file
                .transfer_bytes
                .map_or(default.transfer_bytes, NonZeroUsize::get),
        }
    }

    fn timeouts(&self, default: Timeouts) -> Timeouts {
        let or = |time: Option<Time>, default| time.map_or(default, |Time(duration)| duration);
        let FileTimeouts {
            heartbeat,
            prepare,
            abdicate,
            silence,
            ..
        } = self.timeouts;
        let FileTimeouts {
            view_change_resend,
            view_change,
            upkeep,
            announce,
            ..
        } = self.timeouts;
        Timeouts {
            heartbeat: or(heartbeat, default.heartbeat),
            prepare: or(prepare, default.prepare),
            abdicate: or(abdicate, default.abdicate),
            silence: or(silence, default.silence),
            view_change_resend: or(view_change_resend, default.view_change_resend),
            view_change: or(view_change, default.view_change),
            upkeep: or(upkeep, default.upkeep),
            announce: or(announce, default.announce),
        }
    }
}

/// The key whose value is next.
fn key_before(text: &str) -> Option<&str> {
    let key = text.trim_end().strip_suffix('=')?.trim_end();
    key.rsplit(|c: char| c.is_whitespace() || "{,".contains(c))
        .next()
}

/// `host:port`; a name stands for its first address.
pub(crate) fn resolve(text: &str) -> Result<SocketAddr, String> {
    let mut addrs = text
        .to_socket_addrs()
        .map_err(|error| format!("\"{text}\" is no address such as 127.0.0.1:7000: {error}"))?;
    let addr = addrs
        .next()
        .ok_or_else(|| format!("\"{text}\" has no address"))?;
    if addr.port() == 0 {
        return Err(format!("\"{text}\" has no port"));
    }
    Ok(addr)
}

/// A replica's `host:port`.
pub(crate) fn replica_at(text: &str) -> Result<SocketAddr, String> {
    let addr = resolve(text)?;
    let ip = reachable(addr.ip());
    ip.map(|_| addr)
        .map_err(|fault| format!("\"{text}\" {fault}"))
}

/// One socket sends to IPv4 or to IPv6: `addr` is of the same as the first.
pub(crate) fn of_one_family(first: Option<&SocketAddr>, addr: SocketAddr) -> Result<(), String> {
    match first {
        Some(first) if first.is_ipv4() != addr.is_ipv4() => Err(format!(
            "{first} and {addr} cannot reach one another: replicas have IPv4 addresses, or all \
             have IPv6"
        )),
        _ => Ok(()),
    }
}

/// An address that others can send to.
pub(crate) fn reachable(ip: IpAddr) -> Result<IpAddr, &'static str> {
    if ip.to_canonical().is_unspecified() {
        return Err(
            "is no address to send to: say the one under which the others reach the replica",
        );
    }
    Ok(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        Settings::parse(Path::new("c.toml"), text)
    }

    const THREE: &str = r#"
        cluster = 7
        replicas = ["127.0.0.1:7000", "127.0.0.1:7001", "127.0.0.1:7002"]
    "#;

    #[test]
    fn what_the_file_does_not_say_is_as_by_default() {
        let settings = parse(THREE).expect("it is right");
        let node = settings.node(2).expect("there is a replica 2");
        assert_eq!(
            (node.cluster, node.replicas.len(), settings.quorum()),
            (7, 3, 2)
        );
        assert_eq!(node.timeouts, Timeouts::default());
        assert_eq!(node.data, None);
        assert!(settings.node(3).is_err());
    }

    #[test]
    fn what_the_file_says_is_so() {
        let more = "data = 'd'\n[timeouts]\nheartbeat = '20ms'\nsilence = '1.5s'\n\
                    [limits]\nwindow = 9\n\
                    max_clients = 4\n[lease]\nduration = '300ms'\n";
        let settings = parse(&format!("{THREE}{more}")).expect("it is right");
        let node = settings.node(0).expect("there is a replica 0");
        assert_eq!(node.timeouts.heartbeat, Duration::from_millis(20));
        assert_eq!(node.timeouts.silence, Duration::from_millis(1500));
        assert_eq!(node.timeouts.prepare, Timeouts::default().prepare);
        assert_eq!((node.window, node.max_clients), (9, 4));
        let lease = LeaseConfig {
            duration: Duration::from_millis(300),
            ..LeaseConfig::default()
        };
        assert_eq!(node.lease, Some(lease));
        assert_eq!(node.data, Some(Path::new("d").join("0")));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let cases: [(String, &str); 15] = [
            (
                THREE.replace("cluster", "clutser"),
                "2: unknown field `clutser`",
            ),
            (
                format!("{THREE}[timeouts]\nsilnce = '1s'\n"),
                "5: unknown field `silnce`",
            ),
            (
                format!("{THREE}[timeouts]\nsilence = '1'\n"),
                "5: silence: \"1\" is no time: it needs a unit",
            ),
            (
                format!("{THREE}limits = {{ window = 3, max_reads=0 }}\n"),
                "4: max_reads: invalid value: integer `0`",
            ),
            (
                format!("{THREE}[limits]\n\nwindow = 0\n"),
                "6: window: invalid value: integer `0`",
            ),
            (
                format!("{THREE}[limits]\ndatagram_bytes = 70000\n"),
                "5: datagram_bytes: a datagram has 256 to 65507 bytes, not 70000",
            ),
            (
                THREE.replace("= 7", "= '7'"),
                "2: cluster: invalid type: string",
            ),
            (
                THREE.replace("127.0.0.1:7001", "0.0.0.0:7001"),
                "3: \"0.0.0.0:7001\" is no address to send to: say the one under which",
            ),
            (
                THREE.replace("127.0.0.1:7001", "[::]:7001"),
                "3: \"[::]:7001\" is no address to send to",
            ),
            (
                THREE.replace("7001", "7000"),
                "3: two replicas have the address 127.0.0.1:7000",
            ),
            (
                THREE.replace("127.0.0.1:7002", "[::1]:7002"),
                "3: 127.0.0.1:7000 and [::1]:7002 cannot reach one another",
            ),
            (
                THREE.replace(", \"127.0.0.1:7002\"", ""),
                "3: a group has 1, 3, 5 or 7 replicas",
            ),
            (THREE.replace(":7001", ""), "3: \"127.0.0.1\" is no address"),
            (
                THREE.replace(":7001", ":0"),
                "3: \"127.0.0.1:0\" has no port",
            ),
            (THREE.replace("[", ""), "3: "),
        ];
        for (text, expected) in cases {
            let error = parse(&text).expect_err("it is wrong");
            assert!(error.starts_with(expected), "{error}");
        }
        let error = parse("cluster = 1").expect_err("it is wrong");
        assert!(error.contains("missing field `replicas`"), "{error}");
    }
}
