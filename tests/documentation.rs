//! What the documentation says of names and files is true: links lead somewhere, and the table of metrics
//! has every metric that the daemons serve, and no other.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Markdown page at the root and below `docs/`.
fn pages() -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join("docs")]);
    let at_root = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    found.extend(at_root.filter(|path| path.extension().is_some_and(|kind| kind == "md")));
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    assert!(found.len() > 5, "the walk found the pages");
    found
}

/// The names that begin with `globalfs_` and stand between two marks.
fn metrics_in(text: &str, mark: char) -> BTreeSet<String> {
    let quoted = text.split(mark).skip(1).step_by(2);
    let is_name = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    quoted.filter(|word| word.starts_with("globalfs_")).filter(is_name).map(str::to_owned).collect()
}

#[test]
fn every_metric_is_explained() {
    let served: BTreeSet<String> = ["src/coordinator.rs", "src/node.rs", "src/site/metrics.rs"]
        .iter()
        .flat_map(|file| metrics_in(&fs::read_to_string(root().join(file)).unwrap(), '"'))
        .collect();
    assert!(served.len() > 20, "{served:?}");
    let page = fs::read_to_string(root().join("docs/operating.md")).unwrap();
    let rows: String = page.lines().filter(|line| line.starts_with("| `globalfs_")).collect();
    assert_eq!(metrics_in(&rows, '`'), served);
}

#[test]
fn links_lead_somewhere() {
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            let is_outside = link.contains("://") || file.is_empty();
            let target = page.parent().unwrap_or(Path::new(".")).join(file);
            assert!(is_outside || target.exists(), "{}: {link} does not exist", page.display());
        }
    }
}
