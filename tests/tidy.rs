//! The rules of CONTRIBUTING.md that a machine can check: which crate may use which, what pure code may
//! not name, where `unsafe` lives, how files begin and how long they may grow.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

/// Longer files are split before they are hard to read.
const MAX_LINES: usize = 500;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of the product, as (path from the root, text).
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()) {
            let name = entry.file_name().unwrap().to_string_lossy().into_owned();
            if entry.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(entry);
            } else if name.ends_with(".rs") {
                let path = entry.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.push((path, fs::read_to_string(&entry).unwrap()));
            }
        }
    }
    assert!(found.len() > 20, "the walk found the sources");
    found.sort();
    found
}

/// The lines that are code: neither comments nor below the file's `#[cfg(test)]`.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let product = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
    product
        .enumerate()
        .map(|(n, line)| (n + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn fail_on(broken: Vec<String>) {
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn dependencies_point_down() {
    let allowed: &[(&str, &[&str])] = &[
        ("transport/proto", &[]),
        ("transport", &["proto"]),
        ("dataplane", &["proto", "transport"]),
        ("controlplane", &["proto"]),
        ("fuse", &["proto"]),
    ];
    let mut broken = Vec::new();
    for (folder, may) in allowed {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        for line in manifest.lines().filter(|line| line.starts_with("globalfs-")) {
            let name = &line["globalfs-".len()..line.find(['.', ' ', '=']).unwrap()];
            if !may.contains(&name) {
                broken.push(format!("{folder}/Cargo.toml: may not depend on globalfs-{name}"));
            }
        }
    }
    fail_on(broken);
}

#[test]
fn pure_code_names_no_io_clock_or_async() {
    let banned =
        ["tokio", "quinn", "io_uring", "std::fs", "std::net", "Instant", "SystemTime", "async fn", ".await"];
    let mut broken = Vec::new();
    for (path, text) in sources() {
        let product = !path.ends_with("tests.rs");
        let pure = product && (path.contains("/model/") || path.starts_with("transport/proto/src"));
        for (n, line) in code(&text).filter(|_| pure) {
            if let Some(word) = banned.iter().find(|word| line.contains(*word)) {
                broken.push(format!("{path}:{n}: pure code names `{word}`"));
            }
        }
    }
    fail_on(broken);
}

#[test]
fn unsafe_stays_at_home() {
    let word = ["uns", "afe"].concat();
    let homes = [
        "dataplane/src/ring/",
        "dataplane/src/origin/lease.rs",
        "fuse/src/transport/system.rs",
        "perf/src/wan/tun.rs",
    ];
    let mut broken = Vec::new();
    for (path, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (n, line) in lines.iter().enumerate() {
            let used = [format!("{word} {{"), format!("{word} impl"), format!("{word} fn")];
            if line.trim_start().starts_with("//") || !used.iter().any(|u| line.contains(u)) {
                continue;
            }
            if !homes.iter().any(|home| path.starts_with(home)) {
                broken.push(format!("{path}:{}: {word} code outside {homes:?}", n + 1));
            } else if !lines[n.saturating_sub(6)..n]
                .iter()
                .any(|l| l.contains("SAFETY:") || l.contains("# Safety"))
            {
                broken.push(format!("{path}:{}: no `SAFETY:` above", n + 1));
            }
        }
    }
    fail_on(broken);
}

#[test]
fn files_say_what_they_are_for_and_stay_short() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        if !text.starts_with("//!") {
            broken.push(format!("{path}: does not begin with `//!` and what it is for"));
        }
        if text.lines().count() > MAX_LINES {
            broken.push(format!("{path}: {} lines, more than {MAX_LINES}", text.lines().count()));
        }
    }
    fail_on(broken);
}

#[test]
fn the_architecture_page_names_what_exists() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let named = page.split('`').skip(1).step_by(2).filter(|word| word.contains('/') && !word.contains(' '));
    let paths: Vec<&str> = named.filter(|word| !word.starts_with('/') && !word.contains("://")).collect();
    assert!(paths.len() > 10, "the page names paths");
    let gone = paths.into_iter().filter(|path| !root().join(Path::new(path)).exists());
    fail_on(gone.map(|path| format!("ARCHITECTURE.md: `{path}` does not exist")).collect());
}

#[test]
fn every_dependency_says_why() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let section = manifest.split("[workspace.dependencies]").nth(1).unwrap();
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    let external = lines.filter(|line| line.contains(" = ") && !line.starts_with("globalfs"));
    fail_on(
        external
            .filter(|line| !line.contains('#'))
            .map(|line| format!("Cargo.toml: no reason: {line}"))
            .collect(),
    );
}

#[test]
fn each_promise_has_a_test_with_its_number() {
    let text = fs::read_to_string(root().join("docs/semantics.md")).unwrap();
    let numbers = text.lines().filter_map(|line| line.split_once(". ")?.0.parse::<u32>().ok());
    let tests: String =
        sources().into_iter().filter(|(path, _)| path.contains("tests/")).map(|(_, text)| text).collect();
    let carries = |number: u32| {
        let name = format!("promise {number}");
        tests
            .match_indices(&name)
            .any(|(at, _)| !tests[at + name.len()..].starts_with(|c: char| c.is_ascii_digit()))
    };
    let numbers: Vec<_> = numbers.collect();
    assert!(numbers.len() > 10, "the promises were found");
    fail_on(
        numbers.into_iter().filter(|n| !carries(*n)).map(|n| format!("promise {n} has no test")).collect(),
    );
}
