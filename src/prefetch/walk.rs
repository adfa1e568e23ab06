//! Walks trees by their listings and plans every regular file in them.

use super::{Failure, Plan};
use crate::client::Client;
use futures_util::{StreamExt, stream};
use globalfs_dataplane::{Deadline, Listing, Source};
use globalfs_proto::{Attr, FileKind, FsError, FsResult, GlobalPath, WarmFile};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Directories whose listings are on their way together.
const LISTINGS_AT_ONCE: usize = 32;

/// Parts that one plan may have: with some 200 bytes each, 1 GiB.
const MAX_PARTS: usize = 5_000_000;

/// Plans the files `roots` and the files in the trees below those that are directories; `seen` is told how
/// many files there are so far. A root may be reached through symbolic links; links below are not followed:
/// what they name inside the tree is in the plan by its own name.
pub async fn walk(
    source: &Arc<dyn Source>,
    roots: &[GlobalPath],
    deadline: Duration,
    mut seen: impl FnMut(u64),
) -> FsResult<Plan> {
    let mut plan = Plan::default();
    let client = Client::over(source.clone(), deadline);
    let (mut level, mut known) = (Vec::new(), BTreeSet::new());
    for root in roots {
        match client.resolve(root.as_bytes(), Deadline::after(deadline)).await {
            Ok((path, attr)) => take(&mut plan, &mut known, &mut level, path, &attr),
            Err(error) => plan.failed.push(Failure::new(root, &error)),
        }
    }
    while !level.is_empty() {
        let listings = stream::iter(std::mem::take(&mut level)).map(|dir| async move {
            let deadline = Deadline::after(deadline);
            let listing = deadline.bound(source.list(&dir, deadline)).await;
            (dir, listing)
        });
        let mut listings = listings.buffered(LISTINGS_AT_ONCE);
        while let Some((dir, listing)) = listings.next().await {
            match listing {
                Ok(listing) => take_listing(&mut plan, &mut known, &mut level, &dir, &listing),
                Err(error) => plan.failed.push(Failure::new(&dir, &error)),
            }
            if plan.parts.len() > MAX_PARTS {
                return Err(FsError::Limit(format!(
                    "more than {MAX_PARTS} files: prefetch parts of the tree"
                )));
            }
            seen(plan.files);
        }
    }
    Ok(plan)
}

fn take_listing(
    plan: &mut Plan,
    known: &mut BTreeSet<GlobalPath>,
    level: &mut Vec<GlobalPath>,
    dir: &GlobalPath,
    listing: &Listing,
) {
    let mut entries: Vec<_> = listing.iter().collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    for entry in entries {
        match dir.join(&entry.name) {
            Ok(path) => take(plan, known, level, path, &entry.attr),
            Err(_) => plan.failed.push(Failure::new(dir, &FsError::Limit("a path is too long".to_owned()))),
        }
    }
}

/// Plans a file; puts a directory on the next level. Trees that were given twice are walked once.
fn take(
    plan: &mut Plan,
    known: &mut BTreeSet<GlobalPath>,
    level: &mut Vec<GlobalPath>,
    path: GlobalPath,
    attr: &Attr,
) {
    match attr.kind {
        FileKind::Directory if known.insert(path.clone()) => level.push(path),
        FileKind::Directory => {}
        FileKind::Symlink => plan.links += 1,
        // A file is met twice only when it was given beside its tree.
        FileKind::Regular if known.insert(path.clone()) => {
            plan.files += 1;
            WarmFile::whole(path, attr.version()).into_iter().for_each(|part| plan.add(part));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use globalfs_dataplane::testing::MemorySource;

    fn tree() -> MemorySource {
        let tree = MemorySource::new();
        for dir in ["/d", "/d/e", "/other"] {
            tree.put_directory(dir);
        }
        tree.put_file("/d/b", vec![1; 10]);
        tree.put_file("/d/a", vec![1; 20]);
        tree.put_file("/d/e/c", vec![1; 30]);
        tree.put_file("/d/empty", vec![]);
        tree.put_file("/other/x", vec![1; 40]);
        tree.put_symlink("/d/out", "../other");
        tree.put_symlink("/link", "d/e");
        tree
    }

    async fn walked(roots: &[&str]) -> Plan {
        let roots: Vec<_> = roots.iter().map(|root| GlobalPath::new(root.as_bytes()).unwrap()).collect();
        let source = Arc::new(tree()) as Arc<dyn Source>;
        walk(&source, &roots, Duration::from_secs(5), |_| {}).await.unwrap()
    }

    fn names(plan: &Plan) -> Vec<String> {
        plan.parts.iter().map(|part| part.path.to_string()).collect()
    }

    #[tokio::test]
    async fn every_file_of_a_tree_is_planned_once_and_links_are_not_followed() {
        let plan = walked(&["/d", "/d/e", "/d/a"]).await;
        assert_eq!(names(&plan), ["/d/a", "/d/b", "/d/e/c"]);
        assert_eq!((plan.files, plan.links, plan.bytes(), plan.failed.len()), (4, 1, 60, 0));
    }

    #[tokio::test]
    async fn a_root_may_be_a_link_or_missing() {
        assert_eq!(names(&walked(&["/link"]).await), ["/d/e/c"]);
        let plan = walked(&["/nope", "/other"]).await;
        assert_eq!(names(&plan), ["/other/x"]);
        assert_eq!(plan.failed[0].path, "/nope");
    }
}
