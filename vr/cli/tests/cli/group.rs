//! Three replicas as three processes, as people would run them.

use serde_json::Value;

use crate::support::{ConfigFile, count, primary, run_into_a_closed_pipe, run_with};

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
    assert_eq!(rows.len(), 4, "{table:?}");
    assert!(rows[0].starts_with("id  address"), "{table:?}");
    assert_eq!(
        rows.iter()
            .filter(|row| row.contains("unreachable"))
            .count(),
        1,
        "{table:?}"
    );
    assert_eq!(
        rows.iter().filter(|row| row.contains("  normal  ")).count(),
        2,
        "{table:?}"
    );
}

#[test]
fn the_bench_measures() {
    let config = ConfigFile::new();
    let _replicas = config.group();
    for op in ["null", "put", "get"] {
        let args = [
            "--op",
            op,
            "--duration",
            "300ms",
            "--warmup",
            "100ms",
            "--json",
        ];
        let ended = config.run("bench", &[&args[..], &["--clients", "8"]].concat());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let report = ended.json();
        assert!(report["ops"].as_u64() > Some(10), "{report}");
        assert!(report["ops_per_sec"].as_f64() > Some(30.0), "{report}");
        assert!(
            report["latency_us"]["p999"].as_f64() > Some(0.0),
            "{report}"
        );
        assert_eq!(
            (&report["errors"], &report["unknown"]),
            (&0.into(), &0.into()),
            "{report}"
        );
    }
    let args = ["--sockets", "3", "--duration", "200ms", "--warmup", "0s"];
    let ended = config.run("bench", &args);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended.stdout.contains("p99.9") && ended.stderr.contains("ops/s"),
        "{ended:?}"
    );
}

#[test]
fn the_group_survives_its_primary_but_not_a_second_loss() {
    let config = ConfigFile::new();
    let mut replicas = config.group();
    config.run("kv", &["put", "before", "1"]).prints("");
    let status = config.status_until("three are normal", |status| count(status, "normal") == 3);
    let old = primary(&status);

    let mut bench = config.start("bench", &["--duration", "60s", "--warmup", "0s", "--json"]);
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
    assert_eq!(report["errors"], 0, "{report}");

    // Back with an empty memory it takes part in nothing, and says so.
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
