//! A site between its origin and another site: who answers, what a directory shows, what is refused.

use super::*;
use crate::source::FileChunks;
use crate::testing::MemorySource;
use globalfs_proto::{Change, ChunkIndex, ChunkSpan, Fence, HandedOver, WantedFile};

/// `/` and most paths are this site's; `/results` and below are of the site `cloud`; `/lost` is nobody's.
struct Policies {
    root: Master,
}

impl Placement for Policies {
    fn master(&self, path: &GlobalPath) -> Master {
        match path.components().next() {
            _ if path.as_bytes().starts_with(b"/mixed/c-") => Master::Site(SiteName::new("cloud").unwrap()),
            Some(b"results") => Master::Site(SiteName::new("cloud").unwrap()),
            Some(b"lost") => Master::Nowhere("its policy has no primary".to_owned()),
            None => self.root.clone(),
            Some(_) => Master::Here,
        }
    }

    fn junctions(&self, dir: &GlobalPath) -> Vec<Bytes> {
        if dir.is_root() {
            vec![Bytes::from_static(b"results"), Bytes::from_static(b"lost")]
        } else {
            Vec::new()
        }
    }

    fn listing_masters(&self, dir: &GlobalPath) -> Vec<Master> {
        let mut masters = vec![self.master(dir)];
        if *dir == path("/mixed") {
            masters.push(Master::Site(SiteName::new("cloud").unwrap()));
        }
        masters
    }
}

struct OneSite(MemorySource);

impl Sites for OneSite {
    fn source(&self, site: &SiteName) -> FsResult<Arc<dyn Source>> {
        assert_eq!(site.as_str(), "cloud");
        Ok(Arc::new(self.0.clone()))
    }

    fn changes(&self) -> ChangeStream {
        self.0.hub().subscribe()
    }
}

struct Site {
    origin: MemorySource,
    cloud: MemorySource,
    routed: Routed,
}

fn site_with(root: Master) -> Site {
    let (origin, cloud) = (MemorySource::new(), MemorySource::new());
    let placement = Arc::new(Policies { root });
    let routed = Routed::new(placement, Arc::new(origin.clone()), Arc::new(OneSite(cloud.clone())));
    origin.put_file("/here", "onprem");
    cloud.put_directory("/results");
    cloud.put_file("/results/r", "from the cloud");
    Site { origin, cloud, routed }
}

fn site() -> Site {
    site_with(Master::Here)
}

fn path(text: &str) -> GlobalPath {
    GlobalPath::new(text.as_bytes()).unwrap()
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(10))
}

async fn names(source: &Arc<dyn Source>, dir: &str) -> FsResult<Vec<String>> {
    let listing = source.list(&path(dir), soon()).await?;
    let mut names: Vec<_> = listing.iter().map(|e| String::from_utf8(e.name.to_vec()).unwrap()).collect();
    names.sort();
    Ok(names)
}

async fn listed(source: &Arc<dyn Source>, name: &str) -> Option<Attr> {
    let listing = source.list(&GlobalPath::root(), soon()).await.unwrap();
    listing.iter().find(|entry| entry.name == name.as_bytes()).map(|entry| entry.attr)
}

#[tokio::test]
async fn each_path_is_answered_by_its_master() {
    let site = site();
    let nodes = site.routed.for_nodes();
    assert_eq!(names(&nodes, "/").await.unwrap(), ["here", "results"]);
    assert_eq!(names(&nodes, "/results").await.unwrap(), ["r"]);
    let attr = nodes.stat(&path("/results/r"), soon()).await.unwrap();
    assert_eq!(attr, site.cloud.stat(&path("/results/r"), soon()).await.unwrap());
    let span = ChunkSpan { first: ChunkIndex(0), count: 1 };
    let mut stream = nodes.read(&path("/results/r"), attr.version(), span, soon()).await.unwrap();
    assert_eq!(stream.recv().await.unwrap().unwrap().data, "from the cloud");
    assert!(matches!(nodes.stat(&path("/lost/x"), soon()).await, Err(FsError::Unreachable(_))));
}

#[tokio::test]
async fn a_child_has_the_attributes_that_its_own_master_tells() {
    let site = site();
    let nodes = site.routed.for_nodes();
    let shadow = site.origin.put_directory("/results");
    let real = site.cloud.stat(&path("/results"), soon()).await.unwrap();
    assert_ne!(shadow, real);
    assert_eq!(listed(&nodes, "results").await, Some(real));
    assert_eq!(names(&nodes, "/").await.unwrap(), ["here", "results"], "it is listed once");
    site.cloud.remove("/results");
    assert_eq!(listed(&nodes, "results").await, None, "its master does not have it");
}

#[tokio::test]
async fn a_site_that_is_down_does_not_fail_the_listing() {
    let site = site();
    let nodes = site.routed.for_nodes();
    site.cloud.set_failure(Some(FsError::Unreachable("down".to_owned())));
    assert_eq!(names(&nodes, "/").await.unwrap(), ["here"]);
    let shadow = site.origin.put_directory("/results");
    assert_eq!(listed(&nodes, "results").await, Some(shadow), "the directory's own entry stands in");
    assert!(matches!(nodes.stat(&path("/results"), soon()).await, Err(FsError::Unreachable(_))));
}

#[tokio::test]
async fn a_site_that_hangs_delays_the_listing_by_half_its_deadline_at_most() {
    let site = site();
    site.cloud.set_delay(Duration::from_secs(60));
    let deadline = Deadline::after(Duration::from_secs(1));
    let listing = site.routed.for_nodes().list(&GlobalPath::root(), deadline).await.unwrap();
    assert_eq!(listing.len(), 1);
    assert!(!deadline.remaining().is_zero());
}

#[tokio::test]
async fn other_sites_get_what_is_mastered_here_and_nothing_else() {
    let site = site();
    let sites = site.routed.for_sites();
    assert_eq!(names(&sites, "/").await.unwrap(), ["here"], "unmerged");
    assert!(sites.stat(&path("/here"), soon()).await.is_ok());
    let refused = |error| matches!(error, Some(FsError::Refused(_) | FsError::Elsewhere(_)));
    let before = site.cloud.calls();
    for name in ["/results", "/results/r", "/lost"] {
        let asked = path(name);
        assert!(refused(sites.stat(&asked, soon()).await.err()));
        assert!(refused(sites.list(&asked, soon()).await.err()));
        assert!(refused(sites.read_link(&asked, soon()).await.err()));
        assert!(refused(sites.get_xattr(&asked, b"user.x", soon()).await.err()));
        assert!(refused(sites.list_xattr(&asked, soon()).await.err()));
        assert!(refused(sites.fs_stat(&asked, soon()).await.err()));
        let version = site.origin.put_file("/f", "x").version();
        let span = ChunkSpan { first: ChunkIndex(0), count: 1 };
        assert!(refused(sites.read(&asked, version, span, soon()).await.err()));
    }
    assert_eq!(site.cloud.calls(), before, "nothing was sent on");
}

#[tokio::test]
async fn the_root_exists_even_if_nobody_has_it_but_not_if_its_master_is_down() {
    let site = site_with(Master::Nowhere("no policy".to_owned()));
    let nodes = site.routed.for_nodes();
    assert_eq!(nodes.stat(&GlobalPath::root(), soon()).await.unwrap(), synthetic_root());
    assert_eq!(names(&nodes, "/").await.unwrap(), ["results"]);
    let remote = site_with(Master::Site(SiteName::new("cloud").unwrap()));
    remote.cloud.remove("/");
    let nodes = remote.routed.for_nodes();
    assert_eq!(nodes.stat(&GlobalPath::root(), soon()).await.unwrap(), synthetic_root());
    remote.cloud.set_failure(Some(FsError::Unreachable("down".to_owned())));
    assert!(nodes.stat(&GlobalPath::root(), soon()).await.is_err());
    assert!(names(&nodes, "/").await.is_err());
}

/// As by a policy `/mixed/c-*` whose primary is `cloud`.
#[tokio::test]
async fn a_directory_shows_the_children_of_all_its_masters() {
    let site = site();
    site.origin.put_directory("/mixed");
    site.cloud.put_directory("/mixed");
    site.origin.put_file("/mixed/own", "here");
    site.origin.put_file("/mixed/c-old", "a leftover, not this site's to show");
    site.cloud.put_file("/mixed/c-new", "cloud's");
    site.cloud.put_file("/mixed/other", "a leftover at cloud");
    let nodes = site.routed.for_nodes();
    assert_eq!(names(&nodes, "/mixed").await.unwrap(), ["c-new", "own"]);
    site.cloud.set_failure(Some(FsError::Unreachable("cloud is down".into())));
    assert_eq!(
        names(&nodes, "/mixed").await.unwrap(),
        ["c-old", "own"],
        "the stand-in, as its master is down"
    );
}

#[tokio::test]
async fn parts_are_warmed_where_they_are_mastered_and_for_nodes_alone() {
    let site = site_with(Master::Here);
    let here = site.origin.put_file("/a", "1234").version();
    let there = site.cloud.put_file("/results/b", "123").version();
    let part = |name: &str, version| globalfs_proto::WarmFile::whole(path(name), version).unwrap();
    let files = vec![part("/a", here), part("/results/b", there), part("/lost/c", here)];
    let wanted = || Warm { fetch: true, files: files.clone() };
    let mut steps = site.routed.for_nodes().warm(wanted(), soon()).await.unwrap();
    let mut ends = BTreeMap::new();
    while let Some(step) = steps.recv().await {
        let step = step.unwrap();
        ends.insert(step.file, (step.here_bytes, step.end.unwrap().is_ok()));
    }
    assert_eq!(ends.into_iter().collect::<Vec<_>>(), [(0, (4, true)), (1, (3, true)), (2, (0, false))]);
    let refused = site.routed.for_sites().warm(wanted(), soon()).await;
    assert!(matches!(refused, Err(FsError::Refused(_))));
}

#[tokio::test]
async fn many_files_are_divided_among_their_masters() {
    let site = site_with(Master::Here);
    let here = site.origin.put_file("/a", "a").version();
    let there = site.cloud.put_file("/results/b", "b").version();
    let names = ["/a", "/results/b", "/lost/c", "/results/missing", "/a"];
    let files: Vec<WantedFile> = names
        .iter()
        .map(|name| WantedFile { path: path(name), version: if name.len() > 3 { there } else { here } })
        .collect();
    let told = |chunks: FileChunks| async move {
        let mut told: Vec<Option<FsResult<Bytes>>> = vec![None; names.len()];
        let mut chunks = chunks;
        while let Some((number, chunk)) = chunks.recv().await {
            assert!(told[number].replace(chunk.map(|chunk| chunk.data)).is_none());
        }
        told.into_iter().map(Option::unwrap).collect::<Vec<_>>()
    };
    let nodes = told(site.routed.for_nodes().read_files(files.clone(), soon()).await.unwrap()).await;
    assert_eq!(nodes[0], Ok(Bytes::from_static(b"a")));
    assert_eq!(nodes[1], Ok(Bytes::from_static(b"b")));
    assert!(matches!(nodes[2], Err(FsError::Unreachable(_))));
    assert_eq!(nodes[3], Err(FsError::NOT_FOUND));
    assert_eq!(nodes[4], nodes[0]);
    let sites = told(site.routed.for_sites().read_files(files, soon()).await.unwrap()).await;
    assert_eq!(sites[0], nodes[0]);
    let refused = |told: &FsResult<Bytes>| matches!(told, Err(FsError::Refused(_) | FsError::Elsewhere(_)));
    assert!(sites[1..4].iter().all(refused));
}

#[tokio::test]
async fn a_change_is_made_by_the_master_of_all_its_names() {
    let site = site();
    site.origin.put_directory("/mixed");
    site.origin.put_file("/mixed/a-file", "");
    let change = async |change: Change| site.routed.for_nodes().change(&change, soon()).await.map(drop);
    let remove = |name: &str, directory| Change::Remove { path: path(name), directory };
    assert!(matches!(change(remove("/lost/c", false)).await, Err(FsError::Unreachable(_))));
    let rename = |from: &str, to: &str| Change::Rename {
        from: path(from),
        to: path(to),
        existing: globalfs_proto::Existing::Replace,
    };
    assert_eq!(change(rename("/here", "/results/here")).await, Err(FsError::Os(18)));
    assert_eq!(change(rename("/results/r", "/mixed/c-r")).await, Err(FsError::Os(95)), "of one other master");
    assert_eq!(change(rename("/mixed", "/moved")).await, Err(FsError::Os(16)), "others have files in it");
    assert_eq!(change(remove("/mixed", true)).await, Err(FsError::Os(16)));
    let sites = site.routed.for_sites();
    let refused = sites.change(&remove("/results/r", false), soon()).await;
    assert!(matches!(refused, Err(FsError::Elsewhere(_))), "requests of sites are never sent on");
    assert_eq!(sites.change(&remove("/mixed/a-file", false), soon()).await.map(drop), Ok(()));
    assert_eq!(change(remove("/results/r", false)).await, Ok(()), "sent on to its master");
    assert_eq!(site.cloud.stat(&path("/results/r"), soon()).await, Err(FsError::NOT_FOUND));
    assert_eq!(change(remove("/here", false)).await, Ok(()));
    assert_eq!(site.routed.for_nodes().stat(&path("/here"), soon()).await, Err(FsError::NOT_FOUND));
}

#[tokio::test]
async fn nodes_hear_what_was_handed_over_before_they_came_and_other_sites_hear_it_of_their_own() {
    let site = site();
    let handed_over = vec![HandedOver { scope: path("/results/job"), fence: Fence(1) }];
    let tell = site.routed.on_placement_change();
    tell(Changes { handed_over: handed_over.clone(), ..Changes::default() });
    let told = async |changes: &mut ChangeStream| loop {
        let told = changes.next().await.unwrap();
        if !told.is_empty() {
            return told;
        }
    };
    let heartbeat = Duration::from_secs(1);
    let (mut to_node, mut to_site) =
        (site.routed.for_nodes().watch(heartbeat), site.routed.for_sites().watch(heartbeat));
    assert_eq!(told(&mut to_node).await.handed_over, handed_over);
    tell(Changes { handed_over: handed_over.clone(), ..Changes::everything() });
    let (node, other) = (told(&mut to_node).await, told(&mut to_site).await);
    assert!(node.everything && other.everything);
    assert_eq!((&node.handed_over, other.handed_over.len()), (&handed_over, 0));
}
