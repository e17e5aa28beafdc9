//! Each scenario is a file in `scenarios/`, named for the defect that it would show.
//!
//! `SCENARIO=v09 cargo test -p viewring --test scenarios` runs those whose name begins so.

use std::fs;
use std::path::Path;

use viewring::cluster::run_script;

#[test]
fn every_scenario_ends_well() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let chosen = std::env::var("SCENARIO").unwrap_or_default();
    let mut names: Vec<String> = fs::read_dir(&folder)
        .expect("a readable folder")
        .map(|entry| entry.expect("a readable entry").file_name())
        .map(|name| name.into_string().expect("names are UTF-8"))
        .filter(|name| name != "README.txt" && name.starts_with(&chosen))
        .collect();
    names.sort();
    assert!(!names.is_empty(), "no scenario begins with {chosen:?}");
    let mut failed = Vec::new();
    for name in &names {
        let text = fs::read_to_string(folder.join(name)).expect("readable text");
        match run_script(&text).unwrap_or_else(|error| panic!("{name}: {error}")) {
            Ok(report) => println!("{name}: held, {} calls", report.calls),
            Err(failure) => {
                println!("{name}: {failure}");
                failed.push(name);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}
