//! What a holder says of what it owes, and what it makes of the answers.

use super::*;
use crate::disk::PosixDisk;
use crate::origin::{Options, Origin};
use globalfs_proto::{Change, Changed, Fence, NewFile, Owner, SiteName};
use parking_lot::Mutex;
use std::fs;

/// A home that keeps what it was told, and answers what it is to answer.
#[derive(Default)]
struct Told {
    batches: Mutex<Vec<Vec<HomeItem>>>,
    fails: Mutex<HashSet<GlobalPath>>,
    /// From this path on it answers nothing more.
    dies_at: Mutex<Option<GlobalPath>>,
}

#[async_trait]
impl Home for Told {
    async fn bring_home(&self, bring: BringHome, _: Deadline) -> FsResult<mpsc::Receiver<FsResult<Settled>>> {
        let (answers, receiver) = mpsc::channel(MAX_HOME_ITEMS);
        let dies_at = self.dies_at.lock().take();
        for (item, told) in (0..).zip(&bring.items) {
            if dies_at.as_ref() == Some(&told.path) {
                answers.try_send(Err(FsError::Unreachable("it died".to_owned()))).unwrap();
                break;
            }
            let outcome = if self.fails.lock().contains(&told.path) { Err(FsError::Os(28)) } else { Ok(()) };
            answers.try_send(Ok(Settled { item, outcome })).unwrap();
        }
        self.batches.lock().push(bring.items);
        Ok(receiver)
    }
}

struct Site {
    dir: tempfile::TempDir,
    _state: tempfile::TempDir,
    home: Arc<Told>,
    syncer: Syncer,
}

fn path(text: &str) -> GlobalPath {
    GlobalPath::new(text.as_bytes()).unwrap()
}

impl Site {
    /// It holds `/r`, and all that `files` names is home.
    fn new(files: &[&str]) -> Self {
        let [dir, state] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        for file in files {
            let at = dir.path().join(file);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            fs::write(at, file).unwrap();
        }
        let site = SiteName::new("cloud").unwrap();
        let origin =
            Origin::open(dir.path(), &site, Arc::new(PosixDisk::default()), Options::default()).unwrap();
        let holdings = Holdings::open(state.path()).unwrap();
        let holding = holdings.hold(&path("/r"), Fence(1)).unwrap();
        let home = Arc::new(Told::default());
        let syncer = Syncer::new(holdings, holding, Arc::new(origin), home.clone());
        Self { dir, _state: state, home, syncer }
    }

    /// As if a node had made it.
    fn change(&self, at: &str) {
        fs::write(self.dir.path().join(&at[1..]), at).unwrap();
        let owner = Owner { uid: 0, gid: 0, mode: 0o644 };
        let change = Change::Make { path: path(at), new: NewFile::Regular, owner };
        let noted = self.syncer.holdings.note(&change, Vec::new()).unwrap();
        noted.expect("it is held").done(&Changed::default());
    }

    /// Says what is owed until nothing is, or for some rounds.
    async fn rounds(&mut self, most: usize) {
        self.syncer.holding.close(true);
        for _ in 0..most {
            self.syncer.round().await.unwrap();
        }
    }

    fn owed(&self) -> Vec<String> {
        let paths = self.syncer.holding.some_paths(99);
        paths.iter().map(ToString::to_string).collect()
    }

    fn told(&self) -> Vec<Vec<String>> {
        let batches = std::mem::take(&mut *self.home.batches.lock());
        batches.iter().map(|batch| batch.iter().map(|item| item.path.to_string()).collect()).collect()
    }
}

#[tokio::test]
async fn a_path_is_said_with_its_directory_also_when_that_is_home() {
    let mut site = Site::new(&["r/a/one"]);
    site.change("/r/a/two");
    site.home.fails.lock().insert(path("/r/a/two"));
    site.rounds(1).await;
    assert_eq!((site.owed(), site.told().len()), (vec!["/r/a/two".to_owned()], 1));
    // Home was cut off: it may have left the directory with the time of that.
    site.home.fails.lock().clear();
    tokio::time::sleep(Duration::from_millis(300)).await;
    site.rounds(1).await;
    assert_eq!(site.told(), [["/r/a/two", "/r/a"]]);
    assert_eq!(site.owed(), Vec::<String>::new());
}

#[tokio::test]
async fn what_was_said_with_others_and_did_not_come_home_is_owed() {
    let mut site = Site::new(&["r/a/one"]);
    fs::hard_link(site.dir.path().join("r/a/one"), site.dir.path().join("r/other")).unwrap();
    site.syncer.look_around().await.unwrap();
    site.syncer.add(vec![path("/r/a/one")]).await.unwrap();
    site.home.fails.lock().insert(path("/r/other"));
    site.rounds(1).await;
    assert_eq!(site.owed(), ["/r/other"]);
    site.home.fails.lock().clear();
    tokio::time::sleep(Duration::from_millis(300)).await;
    site.rounds(1).await;
    assert_eq!(site.owed(), Vec::<String>::new());
}

#[tokio::test]
async fn what_was_said_with_others_is_owed_when_home_dies_before_it_answers() {
    let mut site = Site::new(&["r/a/one"]);
    fs::hard_link(site.dir.path().join("r/a/one"), site.dir.path().join("r/other")).unwrap();
    site.syncer.look_around().await.unwrap();
    site.syncer.add(vec![path("/r/a/one")]).await.unwrap();
    *site.home.dies_at.lock() = Some(path("/r/other"));
    site.syncer.holding.close(true);
    assert!(site.syncer.round().await.is_err());
    assert!(site.owed().contains(&"/r/other".to_owned()), "{:?}", site.owed());
    site.rounds(1).await;
    assert_eq!(site.owed(), Vec::<String>::new());
}

#[tokio::test]
async fn names_of_one_file_are_said_as_such_also_when_one_was_given_since_a_start() {
    let mut site = Site::new(&["r/a/one"]);
    let at = |name: &str| site.dir.path().join(name);
    fs::hard_link(at("r/a/one"), at("r/other")).unwrap();
    site.syncer.look_around().await.unwrap();
    fs::rename(at("r/a/one"), at("r/zone")).unwrap();
    site.syncer.add(vec![path("/r/other"), path("/r/zone")]).await.unwrap();
    site.rounds(1).await;
    let batches = site.home.batches.lock();
    let said: Vec<_> = batches[0].iter().filter(|item| item.path != path("/r")).collect();
    let names: Vec<_> = said.iter().map(|item| (item.path.to_string(), item.same_as.clone())).collect();
    assert_eq!(names, [("/r/other".to_owned(), None), ("/r/zone".to_owned(), Some(path("/r/other")))]);
}
