//! Three replicas as three processes, as people would run them.

use serde_json::Value;

use crate::support::{
    ConfigFile, Ended, Running, count, primary, run, run_into_a_closed_pipe, run_with, viewring,
};

#[test]
fn the_store_answers() {
    let config = ConfigFile::new();
    let _replicas = config.group();
    let kv = |args: &[&str]| config.run("kv", args);
    kv(&["put", "colour", "green"]).prints("");
    kv(&["get", "colour"]).prints("green\n");
    kv(&["get", "size"]).complains(1, &["no such key"]);
    kv(&["cas", "colour", "--expect", "red", "blue"]).complains(1, &["not swapped"]);
    kv(&["cas", "colour", "blue"]).complains(1, &["not swapped"]);
    kv(&["cas", "colour", "--expect", "green", "blue"]).prints("");
    kv(&["cas", "size", "-5"]).prints("");
    kv(&["scan"]).prints("colour\tblue\nsize\t-5\n");
    kv(&["delete", "size"]).prints("");
    kv(&["delete", "size"]).prints("");
    kv(&["scan", "s"]).prints("");
    let put = ["kv", "--config", config.path(), "put", "bytes", "-"];
    run_with(b"two\nlines\n", &put).prints("");
    kv(&["get", "bytes"]).prints("two\nlines\n\n");
    kv(&["get", "bytes", "--raw"]).prints("two\nlines\n");

    // Where the group is may be said behind the operation, and in the environment.
    let config_is = ["--config", config.path(), "--timeout", "4s"];
    let behind = |action: &[&str]| run(&[&["kv"], action, &config_is[..]].concat());
    behind(&["put", "low", "-5"]).prints("");
    behind(&["cas", "low", "--expect", "-5", "-6"]).prints("");
    behind(&["get", "low"]).prints("-6\n");
    behind(&["delete", "low"]).prints("");
    for (args, code) in [(&["kv", "get", "low"][..], 1), (&["status"], 0)] {
        let mut command = viewring(args);
        command.env("VIEWRING_CONFIG", config.path());
        let ended = Ended::of(command.output().expect("the program runs"));
        assert_eq!(ended.code, Some(code), "{ended:?}");
    }
    for args in [&["kv", "get", "low"][..], &["status"], &["bench"]] {
        run(args).complains(
            2,
            &["which group: add --config <FILE>, or set VIEWRING_CONFIG"],
        );
        let mut command = viewring(args);
        command.env("VIEWRING_CONFIG", "");
        let ended = Ended::of(command.output().expect("the program runs"));
        ended.complains(
            2,
            &["which group: add --config <FILE>, or set VIEWRING_CONFIG"],
        );
    }
    let mut command = viewring(&["kv", "--config", config.path(), "get", "low"]);
    command.env("VIEWRING_CONFIG", "");
    let ended = Ended::of(command.output().expect("the program runs"));
    ended.complains(1, &["no such key"]);

    // More than one page, read to the end, to a limit, and not at all.
    let long = "v".repeat(15 * 1024);
    let lines: String = (0..5).map(|n| format!("long/{n}\t{long}\n")).collect();
    for n in 0..5 {
        kv(&["put", &format!("long/{n}"), &long]).prints("");
    }
    kv(&["scan", "long/"]).prints(&lines);
    kv(&["scan", "long/", "--limit", "3"]).prints(&lines[..lines.len() / 5 * 3]);
    run_into_a_closed_pipe(&["kv", "--config", config.path(), "scan"]);
}

#[test]
fn what_a_store_holds_goes_into_another_one() {
    let (old, new) = (ConfigFile::new(), ConfigFile::new());
    let _replicas = (old.group(), new.group());
    for (key, value) in [
        ("colour", &b"green"[..]),
        ("a\tb\nc", b"\xff\0\n"),
        ("empty", b""),
    ] {
        let put = ["kv", "--config", old.path(), "put", key, "-"];
        run_with(value, &put).prints("");
    }
    let written = old.run("kv", &["scan", "--json"]);
    written.prints(concat!(
        r#"{"key":"a\tb\nc","value_bytes":[255,0,10]}"#,
        "\n",
        r#"{"key":"colour","value":"green"}"#,
        "\n",
        r#"{"key":"empty","value":""}"#,
        "\n"
    ));
    let load = ["kv", "--config", new.path(), "load"];
    run_with(written.stdout.as_bytes(), &load).prints("3 stored\n");
    new.run("kv", &["scan", "--json"]).prints(&written.stdout);
    new.run("kv", &["get", "colour"]).prints("green\n");

    let broken = b"{\"key\":\"colour\",\"value\":\"red\"}\n\nsize\t5\n";
    run_with(broken, &load).complains(2, &["line 3 of stdin", "the 1 before it"]);
    new.run("kv", &["get", "colour"]).prints("red\n");
}

#[test]
fn the_status_is_a_table_or_json() {
    let config = ConfigFile::new();
    let mut replicas = config.group();
    config.run("kv", &["put", "k", "v"]).prints("");
    let status = config.status_until("all have committed", |status| {
        let list = status["replicas"].as_array().expect("a list");
        list.iter()
            .all(|replica| replica["commit"].as_u64() >= Some(2))
    });
    for replica in status["replicas"].as_array().expect("a list") {
        assert_eq!(
            (&replica["reachable"], &replica["waiting"]),
            (&true.into(), &Value::Null)
        );
        assert!(replica["dropped"].is_object(), "{replica}");
    }
    replicas[(primary(&status) + 1) % 3].kill();
    let table = config.run("status", &["--timeout", "300ms"]);
    assert_eq!(table.code, Some(0), "two of three are a quorum: {table:?}");
    let rows: Vec<&str> = table.stdout.lines().collect();
    assert!(rows.len() >= 4, "{table:?}");
    assert!(rows[0].starts_with("id  address"), "{table:?}");
    assert_eq!(
        rows.iter()
            .filter(|row| row.contains("unreachable"))
            .count(),
        1,
        "{table:?}"
    );
    assert_eq!(
        rows[1..4]
            .iter()
            .filter(|row| row.contains("  primary  ") || row.contains("  backup  "))
            .count(),
        2,
        "{table:?}"
    );
}

#[test]
fn a_group_without_its_primary_cannot_serve() {
    let config = ConfigFile::new();
    let text = std::fs::read_to_string(config.path()).expect("it was written");
    let slow = "[timeouts]\nsilence = '19s'\nabdicate = '20s'\n";
    let text = text.replace("[timeouts]\n", slow);
    std::fs::write(config.path(), text).expect("it can be written");
    let mut replicas = config.group();
    assert_eq!(config.run("status", &[]).code, Some(0));
    let status = config.status_until("it has a primary", |_| true);
    replicas[primary(&status)].kill();
    let status = config.run("status", &["--timeout", "200ms", "--json"]);
    assert_eq!(count(&status.json(), "normal"), 2, "both wait: {status:?}");
    assert_eq!(status.code, Some(3), "{status:?}");
}

#[test]
fn replicas_that_are_restarted_one_by_one_lose_nothing() {
    let config = ConfigFile::new();
    let mut replicas = config.group();
    config.run("kv", &["put", "kept", "1"]).prints("");
    for (id, replica) in replicas.iter_mut().enumerate() {
        replica.kill();
        let wait = ["--all", "--wait", "300ms", "--timeout", "200ms"];
        let status = config.run("status", &wait);
        assert_eq!(status.code, Some(3), "{id} is missing: {status:?}");
        let why = format!("viewring: replica {id} does not answer\n");
        assert_eq!(status.stderr, why, "{status:?}");
        let heads = status.stdout.matches("id  address").count();
        assert_eq!(heads, 1, "only the last: {status:?}");
        *replica = config.start("replica", &["--id", &id.to_string()]);
        let status = config.run("status", &["--all", "--wait", "20s", "--json"]);
        assert_eq!(status.code, Some(0), "{status:?}");
        assert_eq!(count(&status.json(), "normal"), 3, "{status:?}");
    }
    config.run("kv", &["get", "kept"]).prints("1\n");
}

#[test]
fn no_replica_may_be_restarted_while_one_is_of_another_group() {
    let config = ConfigFile::new();
    let text = std::fs::read_to_string(config.path()).expect("it was written");
    let other = text.replace("# max_clients = 65536", "max_clients = 100");
    assert_ne!(text, other);
    let other = ConfigFile::of(&other, config.port);
    let data = format!("{}/data/2", config.folder().display());
    let here = ["--id", "2", "--data", &data];
    let _ours = [config.replica(0), config.replica(1)];
    let mut strange = other.start("replica", &here);
    config.status_until("all are normal", |status| count(status, "normal") == 3);
    config.run("kv", &["put", "kept", "1"]).prints("");
    let why = "replica 2 belongs to another group: mend its configuration before any replica is \
               restarted";
    let status = config.run("status", &["--all"]);
    assert_eq!(status.code, Some(3), "{status:?}");
    assert_eq!(status.stderr, format!("viewring: {why}\n"), "{status:?}");
    let status = config.run("status", &[]);
    assert_eq!((status.code, &*status.stderr), (Some(0), ""), "a quorum is");
    assert!(status.stdout.contains(why), "{status:?}");
    // With the file of the others it is one of them, and at once.
    strange.kill();
    let _mended = config.start("replica", &here);
    let status = config.run("status", &["--all", "--wait", "20s", "--json"]);
    assert_eq!((status.code, &*status.stderr), (Some(0), ""), "{status:?}");
    let replicas = &status.json()["replicas"];
    assert!(replicas[2]["group"].is_string(), "{replicas}");
    assert_eq!(replicas[0]["group"], replicas[2]["group"], "{replicas}");
}

#[test]
fn the_status_can_be_watched_until_ctrl_c() {
    let config = ConfigFile::new();
    let _replicas = config.group();
    let watches = [
        config.start("status", &["--watch", "--json", "--every", "20ms"]),
        config.start("status", &["--watch", "--every", "20ms"]),
    ];
    // Time for a few rounds.
    for _ in 0..10 {
        config.run("kv", &["put", "k", "v"]).prints("");
    }
    let [json, table] = watches.map(|watch| {
        watch.signal("-INT");
        let ended = watch.ended();
        assert_eq!(
            (ended.code, ended.stderr.as_str()),
            (Some(0), ""),
            "{ended:?}"
        );
        ended.stdout
    });
    let reports: Vec<Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).expect("a report a line"))
        .collect();
    let commits = |report: &Value| report["replicas"][0]["commit"].as_u64();
    assert!(reports.len() > 1, "{json}");
    assert!(commits(&reports[0]) <= commits(&reports[reports.len() - 1]));
    assert!(table.matches("id  address").count() > 1, "{table}");
    assert!(!table.contains('\x1b'), "it is no terminal: {table}");
}

#[test]
fn the_bench_measures() {
    let config = ConfigFile::new();
    let _replicas = config.group();
    for op in ["null", "put", "get", "mix"] {
        let args = ["--op", op, "--duration", "300ms", "--warm-up", "100ms"];
        let ended = config.run(
            "bench",
            &[&args[..], &["--clients", "8", "--json"]].concat(),
        );
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{ended:?}");
        let report = ended.json();
        assert!(report["ops"].as_u64() > Some(10), "{report}");
        assert!(report["ops_per_sec"].as_f64() > Some(30.0), "{report}");
        assert!(report["seconds"].as_f64() > Some(0.29), "{report}");
        let latency = &report["latency_us"];
        assert!(
            latency["p999"].as_f64() >= latency["p50"].as_f64(),
            "{report}"
        );
        assert!(latency["min"].as_f64() > Some(0.0), "{report}");
        assert_eq!(
            (&report["errors"], &report["unknown"], &report["op"]),
            (&0.into(), &0.into(), &op.into()),
            "{report}"
        );
        // All processes are of this machine and this user.
        let replicas = report["cpu"]["replicas"].as_array().expect("a list");
        assert!(
            replicas.len() == 3 && replicas.iter().all(Value::is_object),
            "{report}"
        );
        assert!(replicas.contains(&report["cpu"]["primary"]), "{report}");
    }
    let args = [
        "--shared-socket",
        "--duration",
        "200ms",
        "--warm-up",
        "0s",
        "--progress",
    ];
    let ended = config.run("bench", &args);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for part in [
        "p99.9",
        "errors        0",
        "longest pause ",
        "CPU an op     client ",
        ", primary ",
    ] {
        assert!(ended.stdout.contains(part), "{part} is not in {ended:?}");
    }
    assert!(ended.stderr.contains("ops/s"), "{ended:?}");
}

#[test]
fn a_bench_of_a_group_that_dies_says_so() {
    let config = ConfigFile::new();
    let mut replicas = config.group();
    let args = ["--duration", "4s", "--warm-up", "0s", "--clients", "4"];
    let mut bench = config.start("bench", &[&args[..], &["--json", "--progress"]].concat());
    bench.says("ops/s");
    replicas.iter_mut().for_each(Running::kill);
    let ended = bench.ended();
    assert_eq!(ended.code, Some(3), "{ended:?}");
    for part in ["4 of the calls had no answer", "p50       -"] {
        assert!(ended.stderr.contains(part), "{part} is not in {ended:?}");
    }
    let report = ended.json();
    let pause = report["longest_pause_us"].as_f64().expect("a number");
    assert!((1e6..4e6).contains(&pause), "{report}");
    assert!(
        report["ops"].as_u64() > Some(0) && report["unanswered"] == 4,
        "{report}"
    );
}

#[test]
fn the_bench_counts_requests_and_writes_every_latency() {
    let config = ConfigFile::new();
    let _replicas = config.group();
    let file = format!("{}.raw", config.path());
    let args = [
        "--requests",
        "500",
        "--clients",
        "3",
        "--warm-up",
        "0s",
        "--op",
        "null",
    ];
    let ended = config.run(
        "bench",
        &[&args[..], &["--json", "--latency-file", &file]].concat(),
    );
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.json()["ops"], 500, "{ended:?}");
    let bytes = std::fs::read(&file).expect("it was written");
    let (words, rest) = bytes.as_chunks();
    let latencies: Vec<u64> = words.iter().copied().map(u64::from_ne_bytes).collect();
    assert_eq!((latencies.len(), rest), (500, &[][..]));
    let runs = latencies.chunk_by(|a, b| a <= b).count();
    assert!(runs <= 3, "client after client, each sorted: {runs}");
    let max_us = ended.json()["latency_us"]["max"]
        .as_f64()
        .expect("a number");
    let max_ns = *latencies.iter().max().expect("500 of them") as f64;
    assert!(
        (max_ns / 1e3 - max_us).abs() < max_us / 500.0 + 0.1,
        "{max_ns} {max_us}"
    );

    let nowhere = [
        "--duration",
        "100ms",
        "--latency-file",
        "/nowhere/latencies",
    ];
    let ended = config.run("bench", &nowhere);
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(
        ended.stderr.contains("cannot write /nowhere/latencies: "),
        "{ended:?}"
    );
}

#[test]
fn a_sweep_is_a_table_a_chart_or_json() {
    let config = ConfigFile::new();
    let _replicas = config.group();
    let chart = format!("{}.svg", config.path());
    let short = ["--duration", "100ms", "--warm-up", "0s", "--svg", &chart];
    let ended = config.run("bench", &[&short[..], &["--sweep", "1,2,3,...,5"]].concat());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let rows: Vec<&str> = ended.stdout.lines().collect();
    assert!(rows.len() == 6 && rows[0].contains("clients"), "{ended:?}");
    assert!(rows[5].trim_start().starts_with("5 "), "{ended:?}");
    let svg = std::fs::read_to_string(&chart).expect("it was written");
    assert_eq!(svg.matches("<polyline").count(), 3, "{svg}");

    let json = config.run(
        "bench",
        &[&short[..], &["--sweep", "2,4", "--json"]].concat(),
    );
    let runs = json.json()["runs"].clone();
    assert_eq!(
        (&runs[0]["clients"], &runs[1]["clients"]),
        (&2.into(), &4.into())
    );
    assert!(runs[1]["ops"].as_u64() > Some(0), "{runs}");

    let ended = config.run("bench", &[&short[..], &["--clients", "2"]].concat());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let svg = std::fs::read_to_string(&chart).expect("it was written");
    assert!(svg.contains("2 clients with a socket each"), "{svg}");
}

#[test]
fn an_open_loop_keeps_its_rate_and_tells_when_it_cannot() {
    let config = ConfigFile::new();
    let _replicas = config.group();
    let slow = [
        "--rate",
        "200",
        "--duration",
        "1s",
        "--warm-up",
        "100ms",
        "--json",
    ];
    let report = config.run("bench", &slow).json();
    let ops = report["ops"].as_u64().expect("a number");
    assert!((100..=220).contains(&ops), "{report}");
    assert_eq!(report["rate"], 200, "{report}");
    let fast = [
        "--rate",
        "10000000",
        "--duration",
        "500ms",
        "--warm-up",
        "0s",
    ];
    let ended = config.run("bench", &fast);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended
            .stdout
            .contains("10,000,000/s is more than is answered"),
        "{ended:?}"
    );
    let report = config
        .run("bench", &[&fast[..], &["--json"]].concat())
        .json();
    assert!(report["behind"].as_u64() > Some(1_000_000), "{report}");
    // What was not answered yet is not measured, but what was has waited.
    assert!(
        report["latency_us"]["p50"].as_f64() > Some(50_000.0),
        "{report}"
    );
}

#[test]
fn the_group_survives_its_primary_but_not_a_second_loss() {
    let config = ConfigFile::new();
    let mut replicas = config.group();
    config.run("kv", &["put", "before", "1"]).prints("");
    let status = config.status_until("three are normal", |status| count(status, "normal") == 3);
    let old = primary(&status);

    let long = [
        "--duration",
        "60s",
        "--warm-up",
        "0s",
        "--json",
        "--progress",
    ];
    let mut bench = config.start("bench", &long);
    bench.says("ops/s");
    replicas[old].kill();
    let status = config.status_until("two are normal in a later view", |status| {
        count(status, "normal") == 2 && primary(status) != old
    });
    let new = primary(&status);
    config.run("kv", &["put", "after", "2"]).prints("");
    bench.signal("-INT");
    let ended = bench.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report = ended.json();
    assert!(report["ops"].as_u64() > Some(0), "{report}");
    assert_eq!(
        (&report["errors"], &report["interrupted"]),
        (&0.into(), &true.into()),
        "{report}"
    );
    assert!(
        report["cpu"]["primary"].is_null(),
        "there were two: {report}"
    );

    // Back with its view file it fetches what it has lost, and takes part.
    replicas[old] = config.replica(old);
    config.status_until("three are normal again", |status| {
        count(status, "normal") == 3
    });
    // Back without, it takes part in nothing, and says so.
    replicas[old].kill();
    config.wipe(old);
    replicas[old] = config.replica(old);
    replicas[old].says("not a member");
    let status = config.status_until("it waits", |status| {
        status["replicas"][old]["waiting"].is_string() && count(status, "normal") == 2
    });
    assert_eq!(primary(&status), new, "{status}");
    config.run("kv", &["scan", "before"]).prints("before\t1\n");
    config.run("kv", &["get", "after"]).prints("2\n");
    let table = config.run("status", &["--timeout", "300ms"]);
    assert!(
        table.code == Some(0) && table.stdout.contains("waiting: "),
        "{table:?}"
    );

    replicas[3 - old - new].kill();
    let kv = config.run("kv", &["--timeout", "1s", "put", "third", "3"]);
    kv.complains(3, &["no answer within 1s"]);
    assert_eq!(config.run("status", &["--timeout", "300ms"]).code, Some(3));
}

#[test]
fn one_process_is_a_whole_group_a_new_one_each_time() {
    let config = ConfigFile::new();
    for _life in 0..2 {
        let mut group = config.start("replica", &["--all", "--spin", "50us"]);
        group.says("listening");
        config.status_until("three are normal", |status| count(status, "normal") == 3);
        assert_eq!(config.run("kv", &["get", "colour"]).code, Some(1));
        config.run("kv", &["put", "colour", "green"]).prints("");
        config.run("kv", &["get", "colour"]).prints("green\n");
        group.signal("-TERM");
        assert_eq!(group.ended().code, Some(0));
    }
}

#[test]
fn a_bench_of_a_store_that_is_not_there_says_so() {
    let config = ConfigFile::new();
    let mut group = config.start("replica", &["--all", "--app", "null"]);
    group.says("listening");
    config.status_until("three are normal", |status| count(status, "normal") == 3);
    let short = ["--duration", "300ms", "--warm-up", "0s", "--clients", "2"];
    let ended = config.run("bench", &short);
    assert!(
        ended.code == Some(2) && ended.stderr.contains("add --op null"),
        "{ended:?}"
    );
    let null = [&short[..], &["--op", "null"]].concat();
    assert_eq!(config.run("bench", &null).code, Some(0));
}
