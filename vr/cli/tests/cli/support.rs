//! Runs the real program.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Nothing here takes longer, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(20);

/// The program with these arguments.
pub(crate) fn viewring(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_viewring"));
    command
        .args(args)
        .env_remove("RUST_LOG")
        .env_remove("VIEWRING_CONFIG")
        .stdin(Stdio::null());
    command
}

/// How the program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// It ended with this code and said nothing but one line, with all of `parts` in it.
    #[track_caller]
    pub(crate) fn complains(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        assert!(self.stderr.starts_with("viewring: "), "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        for part in parts {
            assert!(self.stderr.contains(part), "{part} is not in {self:?}");
        }
    }

    /// It ended well, said nothing on stderr, and this on stdout.
    #[track_caller]
    pub(crate) fn prints(&self, stdout: &str) {
        assert_eq!(
            (self.code, &*self.stdout, &*self.stderr),
            (Some(0), stdout, "")
        );
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs the program to its end.
pub(crate) fn run(args: &[&str]) -> Ended {
    Ended::of(viewring(args).output().expect("the program runs"))
}

/// Runs the program to its end, with this to read.
pub(crate) fn run_with(stdin: &[u8], args: &[&str]) -> Ended {
    let mut command = viewring(args);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program runs");
    // It may end before it has read all.
    let _ended = child
        .stdin
        .take()
        .expect("it was piped")
        .write_all(stdin)
        .is_err();
    Ended::of(child.wait_with_output().expect("the program ends"))
}

/// A running program, killed when dropped.
pub(crate) struct Running {
    child: Child,
    stderr: Arc<Mutex<String>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Running {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::of(viewring(args))
    }

    pub(crate) fn of(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program runs");
        let stderr = Arc::<Mutex<String>>::default();
        let from = BufReader::new(child.stderr.take().expect("it was piped"));
        let to = Arc::clone(&stderr);
        let copy = move || {
            for line in from.lines().map_while(Result::ok) {
                let mut to = to.lock().expect("nobody panics");
                to.push_str(&line);
                to.push('\n');
            }
        };
        let reader = thread::Builder::new().spawn(copy).expect("a thread");
        Self {
            child,
            stderr,
            reader: Some(reader),
        }
    }

    /// Waits until it has said this on stderr.
    #[track_caller]
    pub(crate) fn says(&mut self, text: &str) {
        eventually(&format!("it says {text:?}"), || {
            let said = self.stderr.lock().expect("nobody panics").clone();
            let ended = self.child.try_wait().expect("it can be waited for");
            assert!(
                ended.is_none() || said.contains(text),
                "it ended: {ended:?}\n{said}"
            );
            if said.contains(text) {
                Ok(())
            } else {
                Err(said)
            }
        });
    }

    /// Sends it a signal: it is ours.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([name, &self.child.id().to_string()])
            .status();
        assert!(status.is_ok_and(|status| status.success()));
    }

    /// Kills it, as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it ends");
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn ended(mut self) -> Ended {
        let status: ExitStatus = eventually("it ends", || {
            self.child
                .try_wait()
                .expect("it can be waited for")
                .ok_or("still running")
        });
        let mut stdout = String::new();
        let mut pipe = self.child.stdout.take().expect("it was piped");
        std::io::Read::read_to_string(&mut pipe, &mut stdout).expect("text");
        self.reader
            .take()
            .expect("once")
            .join()
            .expect("nobody panics");
        let stderr = self.stderr.lock().expect("nobody panics").clone();
        Ended {
            code: status.code(),
            stdout,
            stderr,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ended = self.child.kill().is_err() || self.child.wait().is_err();
    }
}

/// Waits until `check` is content, and gives what it gave.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "real processes, in real time")]
pub(crate) fn eventually<T, E: std::fmt::Debug>(
    what: &str,
    mut check: impl FnMut() -> Result<T, E>,
) -> T {
    let give_up_at = Instant::now() + PATIENCE;
    loop {
        match check() {
            Ok(value) => return value,
            Err(why) if Instant::now() >= give_up_at => panic!("never {what}: {why:?}"),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// A group's configuration file, in a folder of its own that goes when this is dropped.
pub(crate) struct ConfigFile {
    folder: PathBuf,
    path: String,
    pub(crate) port: u16,
}

impl ConfigFile {
    /// As `viewring config` writes it, for three replicas on free ports.
    pub(crate) fn new() -> Self {
        let port = free_ports(3);
        let written = run(&["config", "--replicas", "3", "--port", &port.to_string()]);
        assert_eq!(written.code, Some(0), "{written:?}");
        Self::of(&written.stdout, port)
    }

    /// As specpaxos has them, for three replicas: `port` is where clients find the first.
    pub(crate) fn of_specpaxos() -> Self {
        let (port, text) = Self::specpaxos_text();
        Self::of(&text, port)
    }

    /// The same, and an address at which all of them hear, with `port`.
    pub(crate) fn of_specpaxos_with(multicast: &str) -> Self {
        let (port, text) = Self::specpaxos_text();
        Self::of(&format!("{text}multicast {multicast}:{port}\n"), port)
    }

    fn specpaxos_text() -> (u16, String) {
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let port = loop {
            let port = free_ports(3);
            if (port + 1000..port + 1003).map(at).all(is_free) {
                break port;
            }
        };
        let replicas = (port..port + 3).map(|port| format!("replica {}\n", at(port)));
        (port, format!("f 1\n{}", replicas.collect::<String>()))
    }

    pub(crate) fn of(text: &str, port: u16) -> Self {
        static COUNT: AtomicU16 = AtomicU16::new(0);
        let unique = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{}", unique.0, unique.1));
        fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("cluster.toml");
        fs::write(&path, text).expect("a file");
        let path = path
            .into_os_string()
            .into_string()
            .expect("a path in UTF-8");
        Self { folder, path, port }
    }

    /// The file's path.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The folder that it is in.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// How many other things are in the folder.
    pub(crate) fn others(&self) -> usize {
        fs::read_dir(&self.folder).expect("it is there").count() - 1
    }

    /// `viewring COMMAND --config FILE MORE…`, to its end.
    pub(crate) fn run(&self, command: &str, more: &[&str]) -> Ended {
        run(&[&[command, "--config", &self.path], more].concat())
    }

    /// The same, still running.
    pub(crate) fn start(&self, command: &str, more: &[&str]) -> Running {
        Running::start(&[&[command, "--config", &self.path], more].concat())
    }

    /// Replica `id`, listening.
    pub(crate) fn replica(&self, id: usize) -> Running {
        let mut replica = self.start("replica", &["--id", &id.to_string()]);
        replica.says("listening");
        replica
    }

    /// Replica `id`, which does not run, loses what it keeps.
    pub(crate) fn wipe(&self, id: usize) {
        let data = self.folder.join("data").join(id.to_string());
        fs::remove_dir_all(data).expect("it was there");
    }

    /// Three replicas that serve.
    pub(crate) fn group(&self) -> Vec<Running> {
        let replicas = (0..3).map(|id| self.replica(id)).collect();
        self.status_until("three are normal", |status| count(status, "normal") == 3);
        replicas
    }

    /// Waits until `viewring status` shows this.
    pub(crate) fn status_until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || {
            let status = self.run("status", &["--json", "--timeout", "200ms"]).json();
            if is_so(&status) {
                Ok(status)
            } else {
                Err(status)
            }
        })
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        // What stays behind is in the target folder.
        let _gone = fs::remove_dir_all(&self.folder).is_ok();
    }
}

/// How many replicas have this status.
pub(crate) fn count(report: &Value, status: &str) -> usize {
    let replicas = report["replicas"].as_array().expect("a list");
    replicas
        .iter()
        .filter(|replica| replica["status"] == status)
        .count()
}

/// The primary of the latest view.
pub(crate) fn primary(report: &Value) -> usize {
    let replicas = report["replicas"].as_array().expect("a list");
    let normal = replicas
        .iter()
        .filter(|replica| replica["status"] == "normal");
    let latest = normal
        .max_by_key(|replica| replica["view"].as_u64())
        .expect("one is normal");
    latest["primary"].as_u64().expect("a number") as usize
}

/// The first of so many ports in a row that nobody has, different in each test.
fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that run at the same time begin at different places.
    let begin = 10_000 + (std::process::id() % 2_000) as u16 * 10;
    loop {
        let step = NEXT.fetch_add(count, Ordering::Relaxed);
        let first = 10_000 + (begin - 10_000 + step) % 22_000;
        if (first..first + count).all(|port| is_free(([127, 0, 0, 1], port).into())) {
            return first;
        }
    }
}

#[expect(
    clippy::disallowed_types,
    reason = "only asks whether the port is free"
)]
fn is_free(addr: SocketAddr) -> bool {
    std::net::UdpSocket::bind(addr).is_ok()
}

/// Runs a command whose output nobody reads: it must end well, and say nothing.
pub(crate) fn run_into_a_closed_pipe(args: &[&str]) {
    let mut command = viewring(args);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
}
