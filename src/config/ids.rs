//! `ids:` of a site's file: whose user and group numbers the site's origin has.

use super::fields::{Fields, list};
use super::problem::Problems;
use super::tree::Node;
use super::value::Id;
use globalfs_dataplane::model::ids::{Anonymous, IdMap, IdRange, IdRanges};

const RANGES: &str = "a list of ranges such as [{site: 1000, global: 5000, count: 1}]";

/// Reads the value of `ids`.
pub(super) fn read(node: &Node, problems: &Problems) -> Option<IdMap> {
    let fields = Fields::of(node, "`ids`", problems)?;
    let root_squash = fields.optional("root_squash").unwrap_or(false);
    let default = Anonymous::default();
    let anonymous = Anonymous {
        uid: fields.optional("anonymous_uid").map_or(default.uid, |Id(id)| id),
        gid: fields.optional("anonymous_gid").map_or(default.gid, |Id(id)| id),
    };
    let users = read_ranges("uid_map", &fields, problems);
    let groups = read_ranges("gid_map", &fields, problems);
    fields.finish();
    Some(IdMap { users: users?, groups: groups?, root_squash, anonymous })
}

fn read_ranges(key: &'static str, fields: &Fields<'_>, problems: &Problems) -> Option<IdRanges> {
    let Some(entry) = fields.entry(key) else { return Some(IdRanges::default()) };
    let nodes = list(key, &entry.node, RANGES, problems)?;
    let read: Vec<_> = nodes.iter().map(|node| read_range(key, node, problems)).collect();
    let ranges = read.into_iter().collect::<Option<Vec<IdRange>>>()?;
    match IdRanges::new(ranges) {
        Ok(ranges) => Some(ranges),
        Err(error) => {
            let place = nodes.get(error.range()).map_or(entry.node.position, |node| node.position);
            problems.add(place, format!("`{key}`: {error}"));
            None
        }
    }
}

fn read_range(key: &str, node: &Node, problems: &Problems) -> Option<IdRange> {
    let fields = Fields::of(node, &format!("a range of `{key}`"), problems)?;
    let (site, global) = (fields.required("site"), fields.required("global"));
    let count = match fields.entry("count") {
        Some(_) => fields.optional("count"),
        None => Some(Id(1)),
    };
    fields.finish();
    let (Id(site), Id(global), Id(count)) = (site?, global?, count?);
    Some(IdRange { site, global, count })
}

#[cfg(test)]
mod tests {
    use crate::config::site::SiteConfig;
    use globalfs_dataplane::model::ids::{Anonymous, IdMap};

    /// A site's file that ends with `ids`, which begins in line 6.
    fn load(ids: &str) -> Result<IdMap, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("site.yaml");
        let text =
            "name: a\ncoordinator: gfs:1\nlisten: 10.0.0.1:1\norigin: file:///a\ncache: {size: 1GiB}\n";
        std::fs::write(&path, format!("{text}{ids}\n")).unwrap();
        let loaded = SiteConfig::load(&path).map(|config| config.ids);
        loaded.map_err(|error| error.to_string().replace(&path.display().to_string(), "f"))
    }

    #[test]
    fn ids_are_read() {
        assert_eq!(load("").unwrap(), IdMap::default());
        assert!(load("ids: {}").unwrap().is_plain());
        let map = load(
            "ids:\n  root_squash: true\n  anonymous_uid: 99\n  uid_map: [{site: 1000, global: 5000, count: 2}]\n  \
             gid_map: [{site: 1, global: 2}, {site: 2, global: 1}]",
        )
        .unwrap();
        assert_eq!((map.root_squash, map.anonymous), (true, Anonymous { uid: 99, gid: 65534 }));
        assert_eq!((map.shown_uid(1001), map.shown_gid(1), map.shown_gid(2)), (5001, 2, 1));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let check = |ids: &str, part: &str| {
            let error = load(ids).unwrap_err();
            assert!(error.contains(part), "{ids}: {error}");
        };
        check("ids: [1]", "f:6:6: `ids`: found");
        check("ids: {root_sqash: true}", "f:6:7: unknown key `root_sqash`; did you mean `root_squash`?");
        check("ids: {root_squash: 1}", "f:6:20: `root_squash`:");
        check("ids: {anonymous_gid: -1}", "f:6:22: `anonymous_gid`: found -1; expected a number from 0");
        check("ids: {anonymous_uid: 4294967295}", "expected a number from 0 to 4294967294");
        check("ids: {anonymous_uid: nobody}", "expected a number from 0 to 4294967294");
        check("ids:\n  uid_map: 5", "f:7:12: `uid_map`: found the number 5; expected a list of ranges");
        check("ids:\n  uid_map: [{site: 1}]", "missing key `global`");
        check(
            "ids:\n  gid_map:\n    - {site: 1, global: 1, count: 0}",
            "f:8:7: `gid_map`: the range has no ids",
        );
        let overlap = "ids:\n  uid_map:\n    - {site: 1, global: 10, count: 5}\n    - {site: 5, global: 20}";
        check(overlap, "f:9:7: `uid_map`: ids of the site from 5 on are in another range already");
        let overlap = "ids:\n  uid_map:\n    - {site: 1, global: 10, count: 5}\n    - {site: 9, global: 14}";
        check(overlap, "f:9:7: `uid_map`: global ids from 14 on are in another range already");
        check("ids: {uid_map: [{site: 4294967294, global: 1, count: 2}]}", "passes the last id, 4294967294");
    }
}
