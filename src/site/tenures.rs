//! Which subtrees have another master than policy says, since a site holds a write lease on them.

use globalfs_proto::{ChangedDirectory, Changes, Fence, GlobalPath, HandedOver, SiteName};
use std::collections::BTreeMap;
use std::iter;

/// The leases of one view, by path. No two overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tenures(BTreeMap<GlobalPath, Tenure>);

/// A write lease on a subtree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tenure {
    /// Who holds it.
    pub(super) holder: SiteName,
    /// Of the grant.
    pub(super) fence: Fence,
    /// The holder is the master; before, nobody changes anything.
    pub(super) ready: bool,
    /// An administrator has given it up: it ends soon, and its holder is the master no more.
    pub(super) abandoned: bool,
    /// The holder is not heard from, and policy says that what came home last is read meanwhile.
    pub(super) is_away: bool,
}

impl Tenure {
    /// Whether the holder answers for the subtree.
    pub(super) fn is_in_force(&self) -> bool {
        self.ready && !self.abandoned && !self.is_away
    }
}

impl Tenures {
    pub(super) fn new(leases: impl IntoIterator<Item = (GlobalPath, Tenure)>) -> Self {
        Self(leases.into_iter().collect())
    }

    /// The lease that `path` lies in, and the path that it is on.
    pub(super) fn at(&self, path: &GlobalPath) -> Option<(&GlobalPath, &Tenure)> {
        if self.0.is_empty() {
            return None;
        }
        iter::successors(Some(path.clone()), GlobalPath::parent).find_map(|at| self.0.get_key_value(&at))
    }

    /// The lease on exactly `path`.
    pub(super) fn on(&self, path: &GlobalPath) -> Option<&Tenure> {
        self.0.get(path)
    }

    /// Whether there is a lease on something beneath `path`.
    pub(super) fn any_below(&self, path: &GlobalPath) -> bool {
        self.below(path).next().is_some()
    }

    /// The names in `dir` that a holder answers for although it does not for `dir`.
    pub(super) fn names_in(&self, dir: &GlobalPath) -> impl Iterator<Item = &[u8]> {
        let in_force = self.below(dir).filter(|(_, tenure)| tenure.is_in_force());
        in_force.filter(move |(path, _)| path.parent().as_ref() == Some(dir)).map(|(path, _)| path.name())
    }

    /// The subtrees whose holders answer for them, and did not when `before` was.
    pub(super) fn handed_over_since(&self, before: &Self) -> Vec<HandedOver> {
        let told = |scope: &GlobalPath| {
            let fence = self.in_force_on(scope).filter(|fence| before.in_force_on(scope) != Some(*fence))?;
            Some(HandedOver { scope: scope.clone(), fence })
        };
        self.0.keys().filter_map(told).collect()
    }

    fn in_force_on(&self, scope: &GlobalPath) -> Option<Fence> {
        self.on(scope).filter(|tenure| tenure.is_in_force()).map(|tenure| tenure.fence)
    }

    /// What became out of date when `before` became this: the subtrees whose lease is another one.
    pub(super) fn changes_since(&self, before: &Self) -> Changes {
        let paths: std::collections::BTreeSet<_> = self.0.keys().chain(before.0.keys()).collect();
        let differs = |path: &&&GlobalPath| self.0.get(**path) != before.0.get(**path);
        let told = |path: &&GlobalPath| {
            let names = vec![bytes::Bytes::copy_from_slice(path.name())];
            Some(ChangedDirectory { path: path.parent()?, names })
        };
        let directories = paths.iter().filter(differs).filter_map(told).collect();
        Changes { directories, handed_over: self.handed_over_since(before), ..Changes::default() }
    }

    fn below(&self, path: &GlobalPath) -> impl Iterator<Item = (&GlobalPath, &Tenure)> {
        let after = self.0.range(path.clone()..).skip_while(move |(at, _)| *at == path);
        // Names with bytes below the slash lie between a path and what is beneath it.
        let prefix = path.as_bytes().to_vec();
        after
            .take_while(move |(at, _)| at.as_bytes().starts_with(&prefix))
            .filter(move |(at, _)| at.starts_with(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> GlobalPath {
        GlobalPath::new(text.as_bytes()).unwrap()
    }

    fn tenure(epoch: u64, ready: bool) -> Tenure {
        let holder = SiteName::new("cloud").unwrap();
        Tenure { holder, fence: Fence(epoch), ready, abandoned: false, is_away: false }
    }

    fn tenures(leases: &[(&str, bool)]) -> Tenures {
        Tenures::new(leases.iter().map(|(at, ready)| (path(at), tenure(1, *ready))))
    }

    #[test]
    fn a_path_lies_in_the_lease_above_it() {
        let tenures = tenures(&[("/r/a", true), ("/r/a-b", true), ("/x/y/z", false)]);
        let at = |text: &str| tenures.at(&path(text)).map(|(scope, _)| scope.clone());
        assert_eq!(at("/r/a"), Some(path("/r/a")));
        assert_eq!(at("/r/a/b/c"), Some(path("/r/a")));
        assert_eq!(at("/r/a-b/c"), Some(path("/r/a-b")));
        assert_eq!((at("/r"), at("/r/ab"), at("/x/y")), (None, None, None));
        assert!(tenures.any_below(&path("/r")) && tenures.any_below(&path("/x")));
        assert!(tenures.any_below(&GlobalPath::root()));
        assert!(!tenures.any_below(&path("/r/a")) && !tenures.any_below(&path("/x/y/z")));
    }

    #[test]
    fn only_leases_in_force_show_in_listings_and_only_in_the_directory_above() {
        let tenures = tenures(&[("/r/a", true), ("/r/b", false), ("/x/y/z", true)]);
        let names = |dir: &str| tenures.names_in(&path(dir)).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(names("/r"), [b"a".to_vec()]);
        assert!(names("/").is_empty() && names("/x").is_empty());
        assert_eq!(names("/x/y"), [b"z".to_vec()]);
    }

    #[test]
    fn what_is_told_names_the_subtrees_that_have_another_lease() {
        let before = tenures(&[("/r/a", false), ("/r/b", true), ("/r/c", true)]);
        let after = tenures(&[("/r/a", true), ("/r/b", true), ("/r/d", false)]);
        let told = after.changes_since(&before);
        let names: Vec<_> = told.directories.iter().map(|changed| changed.names[0].to_vec()).collect();
        assert_eq!(names, [b"a".to_vec(), b"c".to_vec(), b"d".to_vec()]);
        assert!(told.directories.iter().all(|changed| changed.path == path("/r")) && !told.everything);
        assert_eq!(told.handed_over, [HandedOver { scope: path("/r/a"), fence: Fence(1) }]);
    }

    #[test]
    fn a_subtree_is_handed_over_when_its_holder_answers_for_it_by_another_grant() {
        let of = |epoch, ready| Tenures::new([(path("/r/a"), tenure(epoch, ready))]);
        let handed = |before: &Tenures, after: Tenures| {
            after.handed_over_since(before).iter().map(|told| told.fence.0).collect::<Vec<_>>()
        };
        assert_eq!(handed(&Tenures::default(), of(1, false)), [0; 0]);
        assert_eq!(handed(&of(1, false), of(1, true)), [1]);
        assert_eq!(handed(&of(1, true), of(1, true)), [0; 0]);
        assert_eq!(handed(&of(1, true), Tenures::default()), [0; 0], "home told of it before");
        assert_eq!(handed(&of(1, true), of(2, true)), [2], "it was not seen at home");
    }
}
