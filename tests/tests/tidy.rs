//! Rules about the text of the sources, each with its reason.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

/// Every Rust file of the workspace, relative to its root.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders =
        ["src", "storage", "runtime", "net", "gpu", "embedded", "tests", "xtask"].map(|top| root().join(top)).to_vec();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("read a source file");
                found.push((path.strip_prefix(root()).expect("below the root").to_owned(), text));
            }
        }
    }
    assert!(found.len() > 50, "the sources were not found");
    found
}

fn report(rule: &str, reason: &str, offenders: &[String]) {
    assert!(offenders.is_empty(), "{rule}: {reason}\n{}", offenders.join("\n"));
}

fn offenders(breaks: impl Fn(&Path, &str) -> bool) -> Vec<String> {
    let files = sources();
    files.iter().filter(|(path, text)| breaks(path, text)).map(|(path, _)| path.display().to_string()).collect()
}

#[test]
fn no_file_is_longer_than_a_thousand_lines() {
    let found = offenders(|_, text| text.lines().count() > 1000);
    report("at most 1,000 lines", "a file is read whole; split it by feature", &found);
}

#[test]
fn nine_files_in_ten_stay_under_five_hundred_lines() {
    let mut lengths: Vec<_> = sources().iter().map(|(_, text)| text.lines().count()).collect();
    lengths.sort_unstable();
    let ninth = lengths[lengths.len() * 9 / 10];
    assert!(ninth <= 500, "the 90th percentile of file length is {ninth} lines");
}

#[test]
fn files_are_named_for_what_they_are_about() {
    let banned = ["utils", "util", "helpers", "helper", "common", "misc", "manager", "mod"];
    let found = offenders(|path, _| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        banned.contains(&stem.as_str())
    });
    report("no drawer of odds and ends", "a name must say what is inside; mod.rs hides it too", &found);
}

#[test]
fn every_file_says_its_purpose_first() {
    let found = offenders(|_, text| !text.starts_with("//!") && !text.starts_with("#!["));
    report("a //! comment at the top", "a reader wants purpose and invariants before code", &found);
}

#[test]
fn unsafe_stands_only_in_sys_folders() {
    let word = concat!("un", "safe ");
    let uses = |text: &str| {
        text.lines().map(str::trim_start).any(|line| {
            !line.starts_with("//")
                && (line.contains(&format!("{word}{{"))
                    || line.contains(&format!("{word}fn"))
                    || line.contains(&format!("{word}impl")))
        })
    };
    let in_sys = |path: &Path| path.components().any(|part| part.as_os_str() == "sys") || path.ends_with("sys.rs");
    let found = offenders(|path, text| uses(text) && !in_sys(path));
    report("unsafe code lives in sys/", "it must be findable and small", &found);
}

/// Files whose sleep is no guess: the pause of a level-triggered wait, or the span of a measurement.
const PAUSES: &[&str] = &[
    "runtime/tests/it/limits.rs",
    "runtime/tests/it/support.rs",
    "src/client/src/testing/tests.rs",
    "src/node/tests/pods/endings.rs",
    "src/node/tests/pods/machine.rs",
    "storage/tests/speed.rs",
];

#[test]
fn nothing_sleeps_in_tests() {
    let found = offenders(|path, text| {
        let is_test = path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs");
        let sleeps = text.contains(concat!("thread::", "sleep")) || text.contains(concat!("time::", "sleep("));
        // On a paused clock a sleep is a statement about timers, and takes no time.
        let paused = text.contains("start_paused");
        is_test && sleeps && !paused && !PAUSES.iter().any(|allowed| path == Path::new(allowed))
    });
    report("no sleeps in tests", "wait for a condition with a deadline instead", &found);
}

#[test]
fn no_unfinished_marks() {
    let marks = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("FIX", "ME"), concat!("XX", "X")];
    let found = offenders(|_, text| marks.iter().any(|mark| text.contains(mark)));
    report("nothing unfinished is committed", "open work belongs in an issue", &found);
}
