//! Users and groups of a site whose numbers differ from those of the namespace.

use super::mount_with;
use crate::common::{Setup, can_mount, shell};
use std::fs;

/// Sets a list that names a user, or tells which user a file's list names.
const LIST: &str = "import os, struct, sys
name, path, *user = 'system.posix_acl_access', *sys.argv[1:]
if user:
    entries = [(1, 7, -1), (2, 4, int(user[0])), (4, 5, -1), (16, 7, -1), (32, 5, -1)]
    os.setxattr(path, name, struct.pack('<I', 2) + b''.join(struct.pack('<HHi', *entry) for entry in entries))
else: print(struct.unpack('<HHi', os.getxattr(path, name)[12:20])[2])
";

/// Holds promise 24 of docs/semantics.md.
#[test]
fn a_site_may_have_numbers_of_its_own() {
    if !can_mount("a_site_may_have_numbers_of_its_own") {
        return;
    }
    let ids = "ids:\n  root_squash: true\n  uid_map: [{site: 1000, global: 5000, count: 5}]\n  \
               gid_map: [{site: 100, global: 7000}]\n";
    let setup = Setup { site_yaml: ids.into(), ..Setup::default() };
    let mut test = setup.start(|origin| {
        fs::write(origin.join("old"), "content").unwrap();
        shell(origin, "chown 1003:100 old; touch roots; touch fives; chown 5000:5 fives");
    });
    let script = test.scratch.path().join("list.py").display().to_string();
    fs::write(&script, LIST).unwrap();
    shell(&test.origin("onprem"), &format!("python3 {script} old 1001"));
    let mount = mount_with(&mut test, "node-1", "onprem", "", &["-o", "rw"]);
    let origin = test.origin("onprem");
    let owners = "stat -c %n:%u:%g";
    assert_eq!(
        shell(&mount, &format!("{owners} old roots fives")),
        "old:5003:7000\nroots:0:0\nfives:65534:5\n"
    );
    assert_eq!(shell(&mount, &format!("python3 {script} old")), "5001\n");
    shell(
        &mount,
        &format!("touch new; mkdir dir; chown 5002:7000 dir; python3 {script} dir 5004; chown 0:0 old"),
    );
    let stored = shell(&origin, &format!("{owners} new dir old"));
    assert_eq!(stored, "new:65534:65534\ndir:1002:100\nold:65534:65534\n");
    assert_eq!(shell(&origin, &format!("python3 {script} dir")), "1004\n");
    let said =
        shell(&mount, &format!("export LC_ALL=C; (chown 1000 new; python3 {script} new 1000) 2>&1 || true"));
    assert_eq!(said.matches("Value too large").count(), 2, "it would be somebody else: {said}");
    // What has an owner whom the namespace cannot name keeps it.
    shell(&mount, "chown 65534 fives; chmod 600 roots");
    assert_eq!(shell(&origin, &format!("{owners} fives roots")), "fives:5000:5\nroots:0:0\n");
}
