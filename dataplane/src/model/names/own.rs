//! Changes that this hop asked for itself, which it need not hear of.

use super::super::freshness::Ticket;
use super::Names;
use bytes::Bytes;
use globalfs_proto::{Attr, ChangedDirectory, Changes, GlobalPath};
use std::time::Duration;

impl Names {
    /// `path` was changed by a request of this hop, `ticket`, which tells its attributes if it has any. Others' changes
    /// may have overtaken them; this one has overtaken all that is under way beside it.
    pub fn change_made(&mut self, ticket: Ticket, path: &GlobalPath, attr: Option<Attr>, now: Duration) {
        self.forget(path);
        attr.iter().for_each(|attr| self.learn(ticket, path, Some(*attr), now));
        let changes = match path.parent() {
            Some(directory) => {
                let names = vec![Bytes::copy_from_slice(path.name())];
                Changes { everything: false, directories: vec![ChangedDirectory { path: directory, names }] }
            }
            None => Changes::everything(),
        };
        self.asks.note(&changes);
    }
}
