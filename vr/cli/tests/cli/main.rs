//! The program as people meet it: what it says when something is wrong, and how it ends.

mod group;
mod specpaxos;
mod support;

use std::net::SocketAddr;

use crate::support::{ConfigFile, Ended, Running, run, run_into_a_closed_pipe, run_with, viewring};

#[test]
fn a_wrong_command_line_is_told_in_one_line() {
    run(&["demo", "--replica", "3"]).complains(2, &["'--replica'", "'--replicas'", "--help"]);
    run(&["demo", "--replicas", "4"]).complains(2, &["1, 3, 5 or 7 replicas, not 4"]);
    run(&["bench", "--config", "x", "--duration", "10"]).complains(2, &["10s"]);
    run(&["replica", "--id", "0"]).complains(2, &["--config <FILE>", "viewring replica --help"]);
    run(&["replica", "--config", "x"]).complains(2, &["add --id <N>, or --all"]);
    let both = ["--requests", "9", "--duration", "1s"];
    run(&[&["bench", "--config", "x"], &both[..]].concat())
        .complains(2, &["'--requests <N>'", "'--duration <TIME>'"]);
    run(&["bench", "--config", "x", "--sweep", "1,2,...,8"]).complains(2, &["three numbers"]);
    run(&["sing"]).complains(2, &["'sing'"]);
    run(&["sim", "--seeds", "0"]).complains(2, &["'--seeds <N>'", "viewring sim --help"]);
    run(&["status", "--config", "x", "--every", "2s"]).complains(2, &["--watch"]);
    for more in [&["--all"][..], &["--wait", "9s"]] {
        run(&[&["status", "--config", "x", "--watch"], more].concat())
            .complains(2, &["'--watch'", more[0]]);
    }
}

#[test]
fn help_tells_the_exit_codes_and_version_the_version() {
    let help = run(&["--help"]);
    assert_eq!(help.code, Some(0));
    for line in [
        "Exit codes:",
        "  3  the group does not answer",
        "viewring demo",
    ] {
        assert!(
            help.stdout.contains(line),
            "{line} is not in {}",
            help.stdout
        );
    }
    for command in ["demo", "config", "replica", "kv", "bench", "status", "sim"] {
        let help = run(&["help", command]);
        assert!(help.stdout.contains("Examples:"), "{help:?}");
    }
    run(&["--version"]).prints(concat!("viewring ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn a_wrong_configuration_is_told_with_file_and_line() {
    let missing = ["no/such.toml", "No such file", "viewring config"];
    run(&["status", "--config", "no/such.toml"]).complains(2, &missing);
    let wrong = ConfigFile::of("cluster = 1\nreplicsa = []\n", 0);
    wrong
        .run("replica", &["--id", "0"])
        .complains(2, &["cluster.toml:2", "`replicsa`"]);
    let broken = ConfigFile::of("cluster = 1\nreplicas = [\n", 0);
    broken
        .run("kv", &["get", "k"])
        .complains(2, &["cluster.toml:"]);
    let two = ConfigFile::of(
        "cluster = 1\nreplicas = ['127.0.0.1:1', '127.0.0.1:2']\n",
        0,
    );
    two.run("bench", &[])
        .complains(2, &["cluster.toml:2", "1, 3, 5 or 7"]);
    let hasty = "cluster = 1\nreplicas = ['127.0.0.1:1']\ntimeouts = { silence = '1ms' }\n";
    let hasty = ConfigFile::of(hasty, 0);
    for (command, more) in [("replica", &["--id", "0"][..]), ("status", &[])] {
        hasty
            .run(command, more)
            .complains(2, &["cluster.toml: ", "silence"]);
    }
    let wide = "cluster = 1\nreplicas = ['127.0.0.1:1']\nlimits = { datagram_bytes = 70000 }\n";
    let wide = ConfigFile::of(wide, 0);
    for (command, more) in [("status", &[][..]), ("kv", &["get", "k"]), ("bench", &[])] {
        wide.run(command, more)
            .complains(2, &["cluster.toml:3: datagram_bytes: ", "65507"]);
    }
}

#[test]
fn an_address_that_nobody_can_send_to_is_refused() {
    for host in ["0.0.0.0", "::", "::ffff:0.0.0.0"] {
        run(&["config", "--host", host]).complains(2, &["--host", "the others reach"]);
    }
    let mixed = "cluster = 1\nreplicas = [\n '127.0.0.1:1',\n '127.0.0.1:2',\n '[::1]:3']\n";
    ConfigFile::of(mixed, 0)
        .run("status", &[])
        .complains(2, &["cluster.toml:5", "cannot reach one another"]);
    let anywhere = ConfigFile::of("cluster = 1\nreplicas = ['0.0.0.0:1']\n", 0);
    anywhere
        .run("replica", &["--id", "0"])
        .complains(2, &["cluster.toml:2", "the others reach"]);
    let anywhere = ConfigFile::of("f 0\nreplica 0.0.0.0:1\n", 0);
    anywhere
        .run("status", &[])
        .complains(2, &["cluster.toml:2", "the others reach"]);
}

#[test]
fn a_replica_that_could_not_come_back_says_so_at_its_start() {
    let said = "no data directory: once this replica has stopped it has lost its memory";
    let with = ConfigFile::new();
    let text = std::fs::read_to_string(with.path()).expect("it was written");
    let without = ConfigFile::of(&text.replace("data = ", "# data = "), with.port);
    let of_specpaxos = ConfigFile::of_specpaxos();
    let dir = format!("{}/d", with.folder().display());
    let (one, all) = (["--id", "0"], ["--all"]);
    let in_dir = ["--id", "0", "--data", &dir];
    let cures = "Give it one: `data = \"data\"` in the configuration file, or --data DIR";
    for (config, args, cure) in [
        (&without, &one[..], Some(cures)),
        (&of_specpaxos, &one, Some("Give it one: --data DIR")),
        (&without, &in_dir, None),
        (&without, &all, None),
        (&with, &one, None),
    ] {
        let mut replica = config.start("replica", args);
        replica.says("listening");
        replica.signal("-TERM");
        let ended = replica.ended();
        let has_said = ended.stderr.contains(said);
        assert_eq!(has_said, cure.is_some(), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(cure.unwrap_or_default()), "{ended:?}");
    }
}

#[test]
fn an_unknown_replica_and_a_taken_port_are_told() {
    let config = ConfigFile::new();
    config
        .run("replica", &["--id", "3"])
        .complains(2, &["replica 3", "replicas 0 to 2"]);
    let addr = SocketAddr::from(([127, 0, 0, 1], config.port));
    #[expect(clippy::disallowed_types, reason = "somebody who has the port")]
    let _taken = std::net::UdpSocket::bind(addr).expect("it was free");
    let ended = config.run("replica", &["--id", "0"]);
    ended.complains(4, &[&addr.to_string(), "taken"]);
    // Of a network that no machine is in.
    let elsewhere = ConfigFile::of("cluster = 1\nreplicas = ['192.0.2.1:7000']\n", 0);
    elsewhere
        .run("replica", &["--id", "0"])
        .complains(4, &["no interface", "192.0.2.1:7000"]);
}

#[test]
fn a_data_directory_that_is_none_is_told() {
    let config = ConfigFile::new();
    let at = |data: &str| config.run("replica", &["--id", "0", "--data", data]);
    at(config.path()).complains(4, &["cluster.toml", "Not a directory"]);
    let view = format!("{}/data/0/view", config.folder().display());
    std::fs::create_dir_all(&view).expect("a directory where a file should be");
    let ended = config.run("replica", &["--id", "0"]);
    ended.complains(4, &["cannot use ", "view: "]);
    assert_eq!(ended.stderr.matches(&view).count(), 1, "{ended:?}");
}

#[test]
fn what_cannot_be_done_is_told_before_anything_is_sent() {
    let config = ConfigFile::new();
    let long = "v".repeat(15 * 1024 + 1);
    let limit = ["15360"];
    config
        .run("kv", &["put", "k", &long])
        .complains(2, &["15361", "15360"]);
    config.run("kv", &["get", &long]).complains(2, &["1024"]);
    config
        .run("kv", &["cas", "k", "--expect", &long, "v"])
        .complains(2, &limit);
    let put = ["kv", "--config", config.path(), "put", "k", "-"];
    run_with(long.as_bytes(), &put).complains(2, &limit);
    let bench = |args: &[&str]| config.run("bench", args);
    bench(&["--value-size", "20000"]).complains(2, &limit);
    bench(&["--key-size", "1025"]).complains(2, &["1025", "1024"]);
    bench(&["--key-size", "8"]).complains(2, &["--key-size 9", "1000 keys"]);
    bench(&["--reads", "80"]).complains(2, &["--op mix"]);
    for file in ["--svg", "--latency-file"] {
        bench(&[file, "no/such/folder/file"]).complains(4, &["cannot write no/such/folder/file"]);
    }
}

#[test]
fn a_group_that_is_not_there_is_unreachable() {
    let config = ConfigFile::new();
    let address = format!("127.0.0.1:{}", config.port);
    for action in [&["get", "k"][..], &["put", "k", "v"], &["scan"], &["load"]] {
        let ended = config.run("kv", &[&["--timeout", "300ms"], action].concat());
        ended.complains(3, &["no answer within 300ms", &address]);
        let is_write = matches!(action[0], "put" | "load");
        let says = ended.stderr.contains("nothing was executed");
        assert_eq!(says, is_write, "{ended:?}");
    }
    let bench = config.run("bench", &["--timeout", "300ms", "--duration", "1s"]);
    bench.complains(3, &["no answer within 300ms", &address, "does it run?"]);
    let of_specpaxos = ConfigFile::of_specpaxos();
    let address = format!("127.0.0.1:{}", of_specpaxos.port);
    let wire = ["--wire", "specpaxos", "--timeout", "300ms"];
    of_specpaxos
        .run("bench", &wire)
        .complains(3, &["no answer within 300ms", &address]);
    let shared = [&wire[..], &["--shared-socket"]].concat();
    of_specpaxos
        .run("bench", &shared)
        .complains(2, &["leave --shared-socket out"]);
    config
        .run("bench", &wire)
        .complains(2, &["lines of f and replica"]);
    let alone = config.replica(1);
    let bench = config.run("bench", &["--timeout", "300ms", "--duration", "1s"]);
    bench.complains(3, &["one replica", "viewring status"]);
    drop(alone);
    let status = config.run("status", &["--timeout", "200ms"]);
    assert_eq!(
        (status.code, status.stdout.matches("unreachable").count()),
        (Some(3), 3)
    );
    let status = config.run("status", &["--timeout", "200ms", "--json"]);
    assert_eq!(status.code, Some(3));
    let replica = &status.json()["replicas"][2];
    assert_eq!(replica["reachable"], false);
    assert!(
        replica["status"].is_null() && replica["id"] == 2,
        "{replica}"
    );
}

#[test]
fn a_replica_that_cannot_write_says_so() {
    let config = ConfigFile::new();
    // A disk on which no file may grow.
    let script = "trap '' XFSZ; ulimit -f 0; exec \"$0\" replica --config \"$1\" --id 0";
    let mut full = std::process::Command::new("sh");
    full.args(["-c", script, env!("CARGO_BIN_EXE_viewring"), config.path()]);
    let ended = Ended::of(full.output().expect("there is a shell"));
    let said = "viewring: replica 0 has failed: the view file cannot be written: ";
    assert!(
        ended.code == Some(4) && ended.stderr.contains(said),
        "{ended:?}"
    );
}

#[test]
fn a_replica_that_is_asked_to_stop_ends_well() {
    let config = ConfigFile::new();
    for signal in ["-TERM", "-INT"] {
        let replica = config.replica(0);
        replica.signal(signal);
        let ended = replica.ended();
        assert_eq!((ended.code, &*ended.stdout), (Some(0), ""), "{ended:?}");
        assert!(ended.stderr.contains("io_uring: ") && ended.stderr.contains("stopped"));
    }
}

#[test]
fn the_demo_survives_its_primary() {
    let ended = run(&[
        "demo",
        "--duration",
        "3s",
        "--kill-primary-after",
        "1s",
        "--json",
    ]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(
        ended.stdout.lines().count(),
        1,
        "nothing but JSON: {ended:?}"
    );
    let report = ended.json();
    let number = |name: &str| {
        report[name]
            .as_f64()
            .unwrap_or_else(|| panic!("{name}: {report}"))
    };
    assert!(
        number("ops") > 100.0 && number("ops_per_sec") > 10.0,
        "{report}"
    );
    assert!(number("acknowledged") <= number("ops"), "{report}");
    assert!(number("view_changes") >= 1.0, "{report}");
    // At least as long as a backup waits before it suspects.
    assert!(
        (200.0..3_000.0).contains(&number("unavailable_ms")),
        "{report}"
    );
    for fault in ["lost", "duplicated", "diverged", "sessions_lost", "wedged"] {
        assert_eq!(number(fault), 0.0, "{fault}: {report}");
    }
    let names = ["p50", "p90", "p99", "p999", "max"];
    let latencies = names.map(|name| report["latency_us"][name].as_f64().expect("a number"));
    assert!(latencies.is_sorted() && latencies[0] > 0.0, "{report}");
    assert_eq!(
        report.as_object().map(|fields| fields.len()),
        Some(17),
        "{report}"
    );
}

#[test]
fn the_demo_tells_what_it_has_when_it_is_interrupted() {
    let mut demo = Running::start(&["demo", "--duration", "60s", "--no-kill", "--json"]);
    demo.says("1.0 s");
    demo.signal("-INT");
    let ended = demo.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report = ended.json();
    assert!(
        report["ops"].as_u64() > Some(0) && report["lost"] == 0,
        "{report}"
    );
    assert_eq!(report["view_changes"], 0, "{report}");
}

#[test]
fn the_demo_survives_one_crash_after_another() {
    let folder = ConfigFile::of("", 0);
    let args = ["demo", "--crash-every", "500ms", "--duration", "3s"];
    let mut command = viewring(&[&args[..], &["--json"]].concat());
    command.env("TMPDIR", folder.folder());
    let ended = Ended::of(command.output().expect("the program runs"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report = ended.json();
    let number = |name: &str| report[name].as_u64();
    for fault in ["lost", "duplicated", "diverged", "sessions_lost", "wedged"] {
        assert_eq!(number(fault), Some(0), "{fault}: {report}");
    }
    assert!(number("crashes") >= Some(1), "{report}");
    assert_eq!(number("recoveries"), number("crashes"), "{report}");
    assert!(number("longest_recovery_ms") > Some(0), "{report}");
    assert!(
        number("view_changes") >= Some(1),
        "the first was the primary"
    );
    for when in ["resident_early_mib", "resident_end_mib"] {
        assert!(report[when].as_f64() > Some(1.0), "{report}");
    }
    for part in [
        "stopping replica 0, the primary",
        "is a member again, after ",
    ] {
        assert!(ended.stderr.contains(part), "{part} is not in {ended:?}");
    }
    assert_eq!(folder.others(), 0, "nothing stays behind");
}

#[test]
fn a_demo_with_crashes_that_is_interrupted_leaves_nothing_behind() {
    let folder = ConfigFile::of("", 0);
    let mut command = viewring(&[
        "demo",
        "--crash-every",
        "600ms",
        "--duration",
        "60s",
        "--json",
    ]);
    command.env("TMPDIR", folder.folder());
    let mut demo = Running::of(command);
    demo.says("stopping replica");
    assert_eq!(folder.others(), 1, "what replicas must not forget");
    demo.signal("-INT");
    let ended = demo.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report = ended.json();
    assert_eq!(report["recoveries"], report["crashes"], "{report}");
    assert!(report["resident_early_mib"].is_null(), "{report}");
    assert_eq!(folder.others(), 0, "nothing stays behind");
}

#[test]
fn crashes_that_make_no_sense_are_told() {
    let demo = |more: &[&str]| run(&[&["demo", "--crash-every"], more].concat());
    demo(&["2s", "--replicas", "1"]).complains(2, &["needs 3, 5 or 7 replicas"]);
    demo(&["100ms"]).complains(2, &["at least 500ms"]);
    demo(&["10s"]).complains(2, &["--duration"]);
    demo(&["2s", "--no-kill"]).complains(2, &["'--no-kill'"]);
    demo(&["2s", "--kill-primary-after", "3s"]).complains(2, &["'--kill-primary-after <TIME>'"]);
    let mut command = viewring(&["demo", "--crash-every", "2s"]);
    command.env("TMPDIR", "/nowhere");
    let ended = Ended::of(command.output().expect("the program runs"));
    ended.complains(4, &["cannot make /nowhere/viewring-demo-", "TMPDIR"]);
}

#[test]
fn a_closed_pipe_ends_the_demo_quietly() {
    run_into_a_closed_pipe(&["demo", "--duration", "60s", "--no-kill"]);
}

#[test]
fn a_batch_of_simulated_groups_is_summed_up() {
    let all = run(&["sim", "--seeds", "6", "--json"]).json();
    assert_eq!(
        (&all["seeds"], &all["failures"]),
        (&6.into(), &0.into()),
        "{all}"
    );
    assert!(all["virtual_seconds"].as_f64() > Some(6.0), "{all}");
    assert!(all["ops_checked"].as_u64() > Some(100), "{all}");
    assert!(all["sometimes"]["view change"].is_u64(), "{all}");
    let again = run(&["sim", "--seeds", "6", "--json"]).json();
    assert_eq!(
        all["sometimes"], again["sometimes"],
        "the same seeds, the same"
    );
}

#[test]
fn one_seed_is_traced_and_a_script_is_played() {
    let trace = run(&["sim", "--seed", "3", "--replicas", "3", "--trace"]);
    assert_eq!(trace.code, Some(0), "{trace:?}");
    assert!(trace.stdout.lines().count() > 100);
    assert!(trace.stdout.contains("10.0.0.1:7000       10.0.0.2:7000"));
    let logged = run(&["sim", "--seed", "3", "-vv"]).stderr;
    let first = logged.lines().next().expect("replicas say something");
    let says_it = |line: &&str| *line == first;
    assert_eq!(
        logged.lines().filter(says_it).count(),
        1,
        "{first}: the log of one run"
    );
    let fails = ConfigFile::of("at 1s crash primary\nat 1s expect view = 7\n", 0);
    let ended = run(&["sim", "--script", fails.path()]);
    assert_eq!(ended.code, Some(5), "{ended:?}");
    for part in [
        "line 2: not so: view = 7",
        "replica 2  Backup",
        "--script",
        "last events",
    ] {
        assert!(
            ended.stderr.contains(part),
            "{part} is not in {}",
            ended.stderr
        );
    }
    let nonsense = ConfigFile::of("at 1s dance\n", 0);
    run(&["sim", "--script", nonsense.path()]).complains(2, &["line 1: not understood: dance"]);
    run(&["sim", "--replicas", "4"]).complains(2, &["3, 5 or 7"]);
}
