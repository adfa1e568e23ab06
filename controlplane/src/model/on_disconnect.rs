//! What is read while a site is away that holds what is read.

use serde::{Deserialize, Serialize};

/// What is read of a subtree while the site that holds it is not heard from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDisconnect {
    /// Nothing: reading fails.
    #[default]
    Fail,
    /// What came home last.
    Stale,
}

impl OnDisconnect {
    /// Whether it is what counts where nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
