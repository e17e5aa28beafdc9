//! A group of three processes on loopback, and the load generator: the real program.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Three replicas. They end when this is dropped.
#[derive(Debug)]
pub struct Group {
    program: PathBuf,
    folder: PathBuf,
    replicas: Vec<Child>,
}

/// How long a group may take to form.
const FORMATION: Duration = Duration::from_secs(10);

impl Group {
    /// Starts a process for each of `processes`, which are the arguments of `viewring replica`, to
    /// replicate `app`. The group's files are in a folder in `tmp`. It serves clients of ours and
    /// of specpaxos: its file is one that either reads.
    ///
    /// # Panics
    /// When that fails, or when nobody leads in time.
    pub fn start(program: &Path, tmp: &Path, app: &str, processes: &[&[&str]]) -> Self {
        let port = free_ports();
        let folder = tmp.join(format!("group-{port}"));
        fs::create_dir_all(&folder).expect("a folder");
        let mut group = Self {
            program: program.to_owned(),
            folder,
            replicas: Vec::new(),
        };
        let replicas = (port..port + 3).map(|port| format!("replica 127.0.0.1:{port}\n"));
        let config = format!("f 1\n{}", replicas.collect::<String>());
        fs::write(group.config(), config).expect("a file");
        for args in processes {
            let mut replica = group.command("replica");
            replica
                .args(*args)
                .args(["--app", app, "--wire", "specpaxos"]);
            let replica = replica.stderr(Stdio::null()).spawn();
            group.replicas.push(replica.expect("a process"));
        }
        let give_up_at = Instant::now() + FORMATION;
        let is_normal = |output: Output| output.status.success();
        while !group.command("status").output().is_ok_and(is_normal) {
            assert!(Instant::now() < give_up_at, "the group has not formed");
        }
        group
    }

    /// What `viewring bench` finds with these arguments.
    ///
    /// # Panics
    /// When it finds nothing, or any error.
    pub fn bench(&self, args: &[&str]) -> Bench {
        let mut command = self.command("bench");
        let json = output(command.args(args).arg("--json"));
        let json: Value = serde_json::from_slice(&json).expect("JSON");
        assert!(json["errors"] == 0 && json["unknown"] == 0, "{json}");
        Bench(json)
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(name).arg("--config").arg(self.config());
        command
    }

    fn config(&self) -> PathBuf {
        self.folder.join("group.conf")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for replica in &mut self.replicas {
            // It may have ended by itself.
            let _ended = replica.kill().is_err() || replica.wait().is_err();
        }
        // What stays behind is in the target folder.
        let _gone = fs::remove_dir_all(&self.folder).is_ok();
    }
}

/// What `viewring bench` found.
#[derive(Debug)]
pub struct Bench(Value);

impl Bench {
    /// One of its figures: `cpu.primary.us_per_op` has dots.
    ///
    /// # Panics
    /// When there is none.
    pub fn figure(&self, name: &str) -> f64 {
        let value = name.split('.').fold(&self.0, |value, part| &value[part]);
        let figure = value.as_f64();
        figure.unwrap_or_else(|| panic!("{name} is not in {}", self.0))
    }
}

/// The program, built like this one. The variable `VIEWRING` names another to measure.
///
/// # Panics
/// When it cannot be built.
pub fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("VIEWRING") {
        return program.into();
    }
    let own = std::env::current_exe().expect("a path");
    let folder = own.parent().and_then(Path::parent);
    let folder = folder.expect("target/PROFILE/deps");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--package", "viewring-cli"]);
    if folder.ends_with("release") {
        build.arg("--release");
    }
    assert!(
        build.status().expect("cargo").success(),
        "it cannot be built"
    );
    folder.join("viewring")
}

fn output(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output().expect("a process");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    output.stdout
}

/// The first of three ports in a row that nobody has, also not a thousand further on, where
/// replicas speak with one another.
fn free_ports() -> u16 {
    // Below those that the kernel gives to whoever does not mind.
    let ports = (10_000..31_000).step_by(3).cycle();
    let mut ports = ports.skip(std::process::id() as usize % 7_000);
    let is_free = |port: u16| UdpSocket::bind(("127.0.0.1", port)).is_ok();
    let are_free = |&port: &u16| (port..port + 3).all(|port| is_free(port) && is_free(port + 1000));
    ports.find(are_free).expect("they go on for ever")
}
