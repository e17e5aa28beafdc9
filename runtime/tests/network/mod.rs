//! A network of a test's own: `unshare(2)` makes it, which takes the privilege to.

use std::process::Command;

/// Whoever runs a test again, in a network of its own.
const INSIDE: &str = "IN_A_NETWORK_OF_ITS_OWN";

/// Runs `test` in a network that the commands of `set_up` make; the test of this program that is
/// called `name` does nothing else.
pub(crate) fn of_its_own(name: &str, set_up: &str, test: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    let program = std::env::current_exe().expect("this program");
    let unshare = |script: &str| {
        Command::new("unshare")
            .args(["--net", "sh", "-c", script])
            .env(INSIDE, "1")
            .status()
    };
    if !unshare(set_up).is_ok_and(|status| status.success()) {
        eprintln!("not tried: it takes root, unshare(1), ip(8) and perhaps tc(8)");
        return;
    }
    let run = format!(
        "{set_up} && exec {} --exact {name} --nocapture",
        program.display()
    );
    let status = unshare(&run).expect("it was tried before");
    assert!(status.success(), "see above");
}
