//! A site's daemon that cannot start says why; what a removed site still can do.

use crate::common::commands::{Outcome, altered, command, eventually, free_address, globalfs, logged, value};
use crate::common::{Setup, TestCluster, programs, skip};
use globalfs::Client;
use globalfs_proto::FsError;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio::runtime::Runtime;

/// A cluster whose site `cloud` is registered and does not run.
fn cluster_without_cloud() -> TestCluster {
    let mut test = Setup::default().start(|_| {});
    assert!(test.cluster.stop("cloud").unwrap());
    test
}

fn cannot_start(test: &TestCluster, changes: &[(&str, &str)], words: &[&str]) {
    let config = altered(test.cluster.site_config("cloud"), "wrong.yaml", changes);
    globalfs(&["site", "start"], &config).fails(1, words);
}

/// A copy of a site's certificate files.
fn credentials(test: &TestCluster, site: &str, copy: &str) -> PathBuf {
    let to = test.scratch.path().join(copy);
    fs::create_dir_all(&to).unwrap();
    for file in ["identity.crt", "identity.key", "ca.crt"] {
        fs::copy(test.cluster.dir().join(site).join("state").join(file), to.join(file)).unwrap();
    }
    to
}

#[test]
fn certificates_that_are_not_good() {
    let test = cluster_without_cloud();
    let fresh = test.scratch.path().join("fresh");
    let no =
        ["no certificate in", fresh.to_str().unwrap(), "globalfs token create", "globalfs site register"];
    cannot_start(&test, &[("state_dir", fresh.to_str().unwrap())], &no);
    let check = |dir: &Path, words: &[&str]| {
        cannot_start(&test, &[("state_dir", dir.to_str().unwrap())], words);
        assert!(!dir.join("cache").exists(), "nothing was begun");
    };
    check(
        &credentials(&test, "onprem", "of-onprem"),
        &["of-onprem", "is that of site onprem, the configuration is for site cloud"],
    );
    let damages = [
        ("identity.crt", "nonsense", "identity.crt: "),
        ("identity.key", "nonsense", "identity.key: "),
        ("identity.key", "", "identity.key: "),
        ("ca.crt", "nonsense", "ca.crt: "),
    ];
    for (n, (file, text, word)) in damages.into_iter().enumerate() {
        let dir = credentials(&test, "cloud", &format!("damaged-{n}"));
        fs::write(dir.join(file), text).unwrap();
        check(&dir, &[word, "restore the file or join the cluster again with a new token"]);
    }
    let torn = credentials(&test, "cloud", "torn");
    let whole = fs::read_to_string(torn.join("identity.crt")).unwrap();
    fs::write(torn.join("identity.crt"), &whole[..whole.len() / 2]).unwrap();
    check(&torn, &["identity.crt: ", "join the cluster again"]);
    let mixed = credentials(&test, "cloud", "mixed");
    fs::copy(credentials(&test, "onprem", "other").join("identity.key"), mixed.join("identity.key")).unwrap();
    check(&mixed, &["identity.key: this is not the key of identity.crt"]);
}

#[test]
fn storage_and_addresses_that_are_not_good() {
    let test = cluster_without_cloud();
    let origin = |path: &Path| format!("file://{}", path.display());
    let check = |changes: &[(&str, &str)], words: &[&str]| cannot_start(&test, changes, words);
    let none = test.scratch.path().join("none");
    check(&[("origin", &origin(&none))], &["the origin", "/none\" does not exist", "mount it"]);
    let file = test.cluster.coordinator_config();
    check(&[("origin", &origin(&file))], &["coordinator.yaml\" is not a directory"]);

    let onprem = test.cluster.site_config("onprem").to_owned();
    let listen = value(&onprem, "listen");
    check(&[("listen", &listen)], &["cannot listen on UDP", &listen, "Address already in use"]);
    let metrics = value(&onprem, "metrics");
    check(&[("metrics", &metrics)], &["cannot serve metrics on", &metrics, "Address already in use"]);
    check(&[("listen", "192.0.2.1:7441")], &["192.0.2.1:7441", "Cannot assign requested address"]);

    let cache = |dir: &Path| format!("{{dir: {}, size: 1GiB}}", dir.display());
    let taken = test.cluster.site_cache_dir("onprem");
    let pid = format!("in use by process {}", test.cluster.pid("onprem").unwrap());
    check(&[("cache", &cache(&taken))], &["the cache directory", &pid]);
    let folder = test.scratch.path().join("home");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("thesis.tex"), "").unwrap();
    check(&[("cache", &cache(&folder))], &["is neither empty nor a cache: it holds 'thesis.tex'"]);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing was made beside it");
    check(&[("cache", &cache(&file.join("c")))], &["cannot be used", "Not a directory"]);

    let gone = free_address().to_string();
    fs::remove_file(test.cluster.dir().join("cloud/state/view.json")).unwrap();
    let asks = ["does not answer", &gone, "is it running"];
    check(&[("coordinator", &gone)], &asks);
}

/// As a user who may not pass by permissions; root gives up the right to.
fn without_privileges(config: &Path) -> Option<Outcome> {
    let args = ["site".as_ref(), "start".as_ref(), "--config".as_ref(), config.as_os_str()];
    if !rustix::process::geteuid().is_root() {
        return Some(Outcome::of(command(&programs().globalfs, args)));
    }
    const RIGHTS: &str = "-dac_override,-dac_read_search";
    let set = ["--bounding-set".as_ref(), RIGHTS.as_ref(), "--inh-caps".as_ref(), RIGHTS.as_ref()];
    let program = programs().globalfs;
    let all = set.into_iter().chain([program.as_os_str()]).chain(args);
    let setpriv = Path::new("/usr/bin/setpriv");
    setpriv.exists().then(|| Outcome::of(command(setpriv, all)))
}

#[test]
fn directories_without_permission() {
    let test = cluster_without_cloud();
    let (closed, state) = (test.scratch.path().join("closed"), credentials(&test, "cloud", "read-only"));
    fs::create_dir(&closed).unwrap();
    let config = test.cluster.site_config("cloud");
    let origin = format!("file://{}", closed.display());
    let unreadable = altered(config, "unreadable.yaml", &[("origin", &origin)]);
    let unwritable = altered(config, "unwritable.yaml", &[("state_dir", state.to_str().unwrap())]);
    fs::set_permissions(&closed, Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(&state, Permissions::from_mode(0o500)).unwrap();
    let outcomes = [without_privileges(&unreadable), without_privileges(&unwritable)];
    for dir in [&closed, &state] {
        fs::set_permissions(dir, Permissions::from_mode(0o700)).unwrap();
    }
    let [Some(unreadable), Some(unwritable)] = outcomes else {
        return skip("directories_without_permission", "setpriv (util-linux)");
    };
    unreadable.fails(1, &["no permission to read and enter the origin", "closed", "grant it access"]);
    unwritable.fails(1, &["read-only/cache", "Permission denied"]);
}

/// What a read of this file through the client library fails with.
fn refusal(runtime: &Runtime, client: &Client, path: &str) -> FsError {
    eventually("the refusal", || match runtime.block_on(client.open(path)) {
        Err(error) => Ok(error),
        Ok(file) => Err(format!("{:?}", file.attr())),
    })
}

#[test]
fn a_removed_site_is_out() {
    let policy = "policies:\n  - {name: c, pattern: '/cloud/**', primary: cloud, sync_mode: never}\n";
    let setup =
        Setup { policy_yaml: policy.into(), site_yaml: "metadata_ttl: 0s\n".into(), ..Setup::default() };
    let mut test = setup.start(|origin| fs::write(origin.join("f"), "text").unwrap());
    fs::create_dir(test.origin("cloud").join("cloud")).unwrap();
    fs::write(test.origin("cloud").join("cloud/f"), "text").unwrap();
    let runtime = Runtime::new().unwrap();
    let [at_onprem, at_cloud] = ["onprem", "cloud"].map(|site| {
        let config = test.cluster.add_node("n1", site, "64MiB", "").unwrap();
        runtime.block_on(Client::connect(config)).unwrap()
    });
    runtime.block_on(at_onprem.open("/cloud/f")).unwrap();
    runtime.block_on(at_cloud.open("/f")).unwrap();

    test.cluster.admin(&["site", "remove", "cloud"]).unwrap();
    let log = test.cluster.log_path("cloud");
    let line = logged(&log, &["heartbeat_failed"]);
    assert!(line.contains("site cloud is not registered") && line.contains("join again"), "{line}");
    // Nobody asks it any more, and nobody answers it.
    let error = refusal(&runtime, &at_onprem, "/cloud/f");
    assert!(
        matches!(&error, FsError::Unreachable(why) if why.contains("cloud is not registered")),
        "{error}"
    );
    let error = refusal(&runtime, &at_cloud, "/f");
    assert!(matches!(&error, FsError::Refused(why) if why.contains("not registered")), "{error}");
    runtime.block_on(at_onprem.open("/f")).unwrap();

    let config = test.cluster.site_config("cloud").to_owned();
    let words = ["site cloud is not registered", "join again with a new token"];
    globalfs(&["status"], &config).fails(1, &words);
    globalfs(&["site", "remove", "cloud"], &test.cluster.coordinator_config())
        .fails(1, &["site cloud is not registered"]);
    assert!(test.cluster.stop("cloud").unwrap(), "it ends as it should");
    globalfs(&["site", "start"], &config).fails(1, &words);
    // It may come back with a new token, and keeps its name.
    let token = test.cluster.admin(&["token", "create", "--site", "cloud"]).unwrap();
    globalfs(&["site", "register", "cloud", "--token", token.trim()], &config).works();
    test.cluster.start_site("cloud").unwrap();
    eventually("its files", || {
        let opened = runtime.block_on(at_onprem.open("/cloud/f"));
        opened.map(drop).map_err(|error| error.to_string())
    });
}
