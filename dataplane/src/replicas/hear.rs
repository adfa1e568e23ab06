//! Hearing what changes where replicas are from.

use super::{Masters, Replicas};
use futures_util::StreamExt;
use globalfs_proto::Changes;

impl Replicas {
    /// Until nobody tells any more.
    pub(super) async fn hear(self, masters: Masters) {
        let mut told = masters.sites.changes();
        while let Some(changes) = told.next().await {
            self.changed(&changes);
        }
    }

    /// Names have changed, or have another master.
    pub fn changed(&self, changes: &Changes) {
        if changes.everything {
            return self.look_again();
        }
        let rules = &self.0.rules;
        let concerns = changes
            .directories
            .iter()
            .filter(|told| rules.may_hold(&told.path) || rules.rule(&told.path).is_some());
        let is_full = {
            let mut looks = self.0.looks.lock();
            concerns.for_each(|changed| looks.hear(changed));
            looks.is_full()
        };
        if is_full {
            self.look_again();
        }
        self.0.look.notify_one();
    }
}
