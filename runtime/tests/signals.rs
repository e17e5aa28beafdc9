//! Being asked to stop. One test here raises signals in its own process: keep it alone.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::raise;
use viewring_runtime::time::{sleep, timeout};
use viewring_runtime::{Config, Runtime, Uring, metrics, signal, spawn};

fn runtime() -> Runtime {
    Runtime::new(Uring::new().expect("a ring"), Config::default())
}

#[test]
fn everybody_who_waits_is_told_and_later_comers_too() {
    // Another core waits as well.
    let elsewhere = std::thread::spawn(|| runtime().block_on(signal::shutdown()));
    runtime().block_on(async {
        let mut waits = Vec::new();
        for _ in 0..10 {
            waits.push(spawn(signal::shutdown()));
        }
        let early = timeout(Duration::from_millis(20), signal::shutdown()).await;
        assert!(early.is_err());
        raise(SIGTERM).expect("raised");
        for wait in waits {
            let told = timeout(Duration::from_secs(5), wait).await;
            told.expect("in time").expect("no panic").expect("no error");
        }
        let late = timeout(Duration::from_secs(5), signal::shutdown()).await;
        late.expect("at once").expect("no error");
        while metrics().operations_in_flight > 0 {
            sleep(Duration::from_micros(100)).await;
        }
    });
    elsewhere.join().expect("no panic").expect("no error");
}

/// Runs one of the tests below, which are ignored otherwise, in a child; says what ended it.
fn child(name: &str) -> Option<i32> {
    let itself = std::env::current_exe().expect("an executable");
    let mut command = Command::new(itself);
    command.args(["--exact", name, "--ignored", "--test-threads=1"]);
    command.output().expect("it runs").status.signal()
}

#[test]
fn a_second_signal_ends_the_process() {
    assert_eq!(child("child_that_is_asked_twice"), Some(SIGINT));
}

#[test]
fn a_signal_for_which_nobody_waits_ends_the_process() {
    assert_eq!(child("child_that_does_not_wait_any_more"), Some(SIGTERM));
}

#[test]
#[ignore = "run in a child by another test"]
fn child_that_is_asked_twice() {
    runtime().block_on(async {
        let wait = spawn(signal::shutdown());
        sleep(Duration::from_millis(5)).await;
        raise(SIGINT).expect("raised");
        wait.await.expect("no panic").expect("no error");
        raise(SIGINT).expect("raised");
    });
}

#[test]
#[ignore = "run in a child by another test"]
fn child_that_does_not_wait_any_more() {
    runtime().block_on(async {
        let wait = timeout(Duration::from_millis(5), signal::shutdown()).await;
        assert!(wait.is_err());
        while metrics().operations_in_flight > 0 {
            sleep(Duration::from_micros(100)).await;
        }
        raise(SIGTERM).expect("raised");
    });
}
