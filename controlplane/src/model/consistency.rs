//! When a change counts as made that is made at another site than its home, and how fresh names are at other sites.

use super::policy::PolicySet;
use globalfs_proto::GlobalPath;
use serde::{Deserialize, Serialize};

/// What `fsync` and close wait for at a site that holds a subtree, and what others are told of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// The site's own origin; the home hears of it in the background.
    #[default]
    Eventual,
    /// As eventual; and other sites repeat no name of which changes are not told, so that who opens a file sees what was
    /// closed before: close-to-open, as NFS has it.
    Lease,
    /// The home, too.
    Critical,
}

impl Consistency {
    /// Whether it is what counts where nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl PolicySet {
    /// When a change of `path` counts as made.
    pub fn consistency(&self, path: &GlobalPath) -> Consistency {
        self.first_match(path).map(|policy| policy.consistency).unwrap_or_default()
    }
}
