//! How fast contents may come to this site, by policy: home from other sites, and to its replicas.

use super::view::View;
use globalfs_dataplane::paced::{Limit, Limits};
use globalfs_proto::GlobalPath;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// The limits of the view's policies. One policy's paths share one.
pub(super) struct SiteLimits {
    view: Arc<View>,
    by_policy: Mutex<HashMap<String, Arc<Limit>>>,
}

impl SiteLimits {
    pub(super) fn new(view: Arc<View>) -> Self {
        Self { view, by_policy: Mutex::default() }
    }
}

impl Limits for SiteLimits {
    fn limit(&self, path: &GlobalPath) -> Option<Arc<Limit>> {
        let now = self.view.now();
        let (policy, rate) = now.policies.limiting(path)?;
        let mut by_policy = self.by_policy.lock();
        if let Some(limit) = by_policy.get(policy).filter(|limit| limit.bytes_per_second() == rate.0) {
            return Some(limit.clone());
        }
        let limit = Arc::new(Limit::new(rate.0));
        by_policy.insert(policy.to_owned(), limit.clone());
        Some(limit)
    }
}
