//! The rules of this repository that a compiler does not check, as tests: what CONTRIBUTING.md
//! promises, this holds.

use std::fs;
use std::path::{Path, PathBuf};

/// Files with more lines than this are asking to be two ideas. Those listed have a reason.
const FILE_LINES_MAX: usize = 700;
const LONG_FILES: &[(&str, &str)] = &[];

const FUNCTION_LINES_MAX: usize = 70;
const LINE_CHARS_MAX: usize = 100;

/// Where `unsafe` may be written: the kernel's side of the seam, and the raw ring that benchmarks
/// compare it with.
const UNSAFE_FOLDERS: &[&str] = &["runtime/src/uring/", "benches/src/raw_ring"];

struct Source {
    path: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for folder in ["runtime", "transport", "vr", "benches", "examples"] {
        collect(&root().join(folder), folder, &mut found);
    }
    assert!(found.len() > 50, "the tree was found");
    found
}

fn collect(dir: &Path, name: &str, found: &mut Vec<Source>) {
    let mut entries: Vec<_> = fs::read_dir(dir)
        .expect("a readable folder")
        .map(|entry| entry.expect("a readable entry"))
        .collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let file = entry.file_name().into_string().expect("names are UTF-8");
        let path = format!("{name}/{file}");
        if entry.file_type().expect("a type").is_dir() {
            if file != "target" {
                collect(&entry.path(), &path, found);
            }
        } else if file.ends_with(".rs") {
            let text = fs::read_to_string(entry.path()).expect("readable text");
            found.push(Source { path, text });
        }
    }
}

/// The lines of a file, without those that are comments.
fn code(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    let lines = source
        .text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn assert_none(what: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{what}:\n  {}", faults.join("\n  "));
}

#[test]
fn lines_fit_on_a_page() {
    let mut faults = Vec::new();
    for source in sources() {
        for (number, line) in source.text.lines().enumerate() {
            if line.chars().count() > LINE_CHARS_MAX && !line.contains("http") {
                faults.push(format!("{}:{}", source.path, number + 1));
            }
        }
    }
    assert_none("longer than 100 characters", &faults);
}

#[test]
fn files_are_one_idea() {
    let mut faults = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        let excused = LONG_FILES.iter().any(|(path, _)| *path == source.path);
        if lines > FILE_LINES_MAX && !excused {
            faults.push(format!("{}: {lines} lines", source.path));
        }
    }
    assert_none("longer than 700 lines", &faults);
}

#[test]
fn functions_fit_on_a_screen() {
    let mut faults = Vec::new();
    // Tests may be long lists of data.
    for source in sources()
        .iter()
        .filter(|source| source.path.contains("/src/"))
    {
        let lines: Vec<&str> = source.text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let is_function = line
                .trim_start()
                .split(' ')
                .take(4)
                .any(|word| word == "fn");
            if !is_function || line.trim_start().starts_with("//") || line.ends_with(';') {
                continue;
            }
            let closing = format!("{}}}", " ".repeat(indent));
            let length = lines[start..]
                .iter()
                .position(|line| *line == closing)
                .unwrap_or(0);
            if length > FUNCTION_LINES_MAX {
                faults.push(format!("{}:{}: {length} lines", source.path, start + 1));
            }
        }
    }
    assert_none("functions of more than 70 lines", &faults);
}

#[test]
fn unsafe_code_lives_in_one_folder() {
    let mut faults = Vec::new();
    for source in sources() {
        if UNSAFE_FOLDERS
            .iter()
            .any(|folder| source.path.starts_with(folder))
        {
            continue;
        }
        for (number, line) in code(&source) {
            let words = ["unsafe {", "unsafe fn", "unsafe impl", "expect(unsafe_code"];
            if words.iter().any(|word| line.contains(word)) && !line.contains('"') {
                faults.push(format!("{}:{number}", source.path));
            }
        }
    }
    assert_none("unsafe outside its folder", &faults);
}

#[test]
fn no_behaviour_depends_on_a_cfg() {
    let mut faults = Vec::new();
    let own = |source: &Source| source.path == "examples/tests/tree.rs";
    for source in sources().into_iter().filter(|source| !own(source)) {
        for (number, line) in code(&source) {
            let Some(at) = line.find("cfg(").or_else(|| line.find("cfg!(")) else {
                continue;
            };
            let rest = &line[at..];
            let known = ["cfg(test)", "cfg(loom)", "cfg(not(loom))", "cfg(all(test,"];
            if !known.iter().any(|known| rest.starts_with(known)) && !line.contains('"') {
                faults.push(format!("{}:{number}: {line}", source.path));
            }
        }
    }
    assert_none("a cfg besides test and loom", &faults);
}

/// `vr` and `transport` learn the time from the runtime only and start no threads. `clippy.toml`
/// says so too; this holds for what clippy cannot see.
#[test]
fn above_the_runtime_there_is_no_clock_no_thread_and_no_hash_map() {
    let banned = [
        "std::time::Instant",
        "SystemTime",
        "std::thread",
        "HashMap",
        "HashSet",
        "std::net::UdpSocket",
    ];
    let mut faults = Vec::new();
    for source in sources() {
        let above = ["transport/src/", "vr/src/", "vr/protocol/src/"];
        if !above.iter().any(|folder| source.path.starts_with(folder)) {
            continue;
        }
        for (number, line) in code(&source) {
            if let Some(word) = banned.iter().find(|word| line.contains(**word)) {
                faults.push(format!("{}:{number}: {word}", source.path));
            }
        }
    }
    assert_none("banned above the runtime", &faults);
}

/// examples, benches, cli -> vr -> transport -> runtime, and vr -> protocol.
#[test]
fn dependencies_point_one_way() {
    let forbidden = [
        (
            "runtime/",
            &["viewring_transport", "viewring_protocol", "viewring::"][..],
        ),
        ("transport/", &["viewring_protocol", "viewring::"]),
        (
            "vr/protocol/",
            &["viewring_runtime", "viewring_transport", "viewring::"],
        ),
        ("vr/src/", &["viewring_cli"]),
    ];
    let mut faults = Vec::new();
    for source in sources() {
        for (folder, names) in forbidden {
            if !source.path.starts_with(folder) {
                continue;
            }
            for (number, line) in code(&source) {
                if let Some(name) = names.iter().find(|name| line.contains(**name)) {
                    faults.push(format!("{}:{number}: {name}", source.path));
                }
            }
        }
    }
    assert_none("an arrow that points the wrong way", &faults);
}

/// Between a decision and its effects nothing is awaited.
#[test]
fn effects_are_performed_without_an_await() {
    let node = fs::read_to_string(root().join("vr/src/node/mod.rs")).expect("readable text");
    for name in [
        "fn take",
        "fn finish_turn",
        "fn execute",
        "fn perform",
        "fn send",
        "fn reply",
    ] {
        assert!(node.contains(&format!("    {name}(")), "{name} is there");
        assert!(
            !node.contains(&format!("async {name}(")),
            "{name} is not async"
        );
    }
}

/// Every file is somebody's module.
#[test]
fn there_is_no_dead_file() {
    let sources = sources();
    let mut faults = Vec::new();
    for source in &sources {
        let path = Path::new(&source.path);
        let stem = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .expect("a name");
        let is_root = ["lib", "main", "mod"].contains(&stem);
        if is_root || !source.path.contains("/src/") {
            continue;
        }
        let declared = sources.iter().any(|other| {
            let lines = other.text.lines().map(str::trim_start);
            lines
                .into_iter()
                .any(|line| line.ends_with(&format!("mod {stem};")))
        });
        if !declared {
            faults.push(source.path.clone());
        }
    }
    assert_none("no module names it", &faults);
}
