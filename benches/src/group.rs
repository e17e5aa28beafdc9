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
    app: String,
    replicas: Vec<Replica>,
}

#[derive(Debug)]
struct Replica {
    args: Vec<String>,
    process: Child,
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
            app: app.to_owned(),
            replicas: Vec::new(),
        };
        let replicas = (port..port + 3).map(|port| format!("replica 127.0.0.1:{port}\n"));
        let config = format!("f 1\n{}", replicas.collect::<String>());
        fs::write(group.config(), config).expect("a file");
        for (index, args) in processes.iter().enumerate() {
            let mut args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
            if args.iter().any(|arg| arg == "--id") {
                let data = group.folder.join(format!("replica-{index}"));
                fs::create_dir_all(&data).expect("a folder");
                args.extend(["--data".to_owned(), data.display().to_string()]);
            }
            let process = group.start_replica(&args);
            group.replicas.push(Replica { args, process });
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
        self.begin_bench(args).end()
    }

    /// Starts what [`bench`](Self::bench) waits for.
    ///
    /// # Panics
    /// When there is no process to be had.
    pub fn begin_bench(&self, args: &[&str]) -> Load {
        let mut command = self.command("bench");
        command.args(args).arg("--json").stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Load(command.spawn().expect("a process"))
    }

    /// Kills a process, which is one replica.
    ///
    /// # Panics
    /// When it has ended already.
    pub fn kill(&mut self, index: usize) {
        let process = &mut self.replicas[index].process;
        process.kill().expect("it runs");
        process.wait().expect("it has ended");
    }

    /// Starts a process again that was killed: with what it has on disk.
    pub fn restart(&mut self, index: usize) {
        let process = self.start_replica(&self.replicas[index].args);
        self.replicas[index].process = process;
    }

    /// How far a replica has executed the log, if it answers.
    ///
    /// # Panics
    /// When `viewring status` prints no JSON.
    pub fn executed(&self, index: usize) -> Option<u64> {
        let output = self.command("status").arg("--json").output();
        let output = output.expect("a process");
        let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        json["replicas"][index]["executed"].as_u64()
    }

    fn start_replica(&self, args: &[String]) -> Child {
        let mut replica = self.command("replica");
        replica.args(args);
        replica.args(["--app", &self.app, "--wire", "specpaxos"]);
        replica.stderr(Stdio::null()).spawn().expect("a process")
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
            let process = &mut replica.process;
            let _ended = process.kill().is_err() || process.wait().is_err();
        }
        // What stays behind is in the target folder.
        let _gone = fs::remove_dir_all(&self.folder).is_ok();
    }
}

/// `viewring bench`, while it runs.
#[derive(Debug)]
pub struct Load(Child);

impl Load {
    /// What it finds, once it has ended.
    ///
    /// # Panics
    /// When it finds nothing, or any error.
    pub fn end(self) -> Bench {
        let output = self.0.wait_with_output().expect("a process");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert!(json["errors"] == 0 && json["unknown"] == 0, "{json}");
        Bench(json)
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
