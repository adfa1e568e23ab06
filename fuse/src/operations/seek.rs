//! Where data and holes begin.

use super::{Operations, is_gone};
use crate::volume::Volume;
use globalfs_proto::{FsError, FsResult};

impl<V: Volume + ?Sized> Operations<V> {
    /// Where data, or a hole, begins in what `handle` is open on; `ENXIO` behind the end. Where nobody knows all is data.
    pub async fn seek(&self, handle: u64, offset: u64, hole: bool) -> FsResult<u64> {
        const BEHIND_THE_END: FsError = FsError::Os(6);
        self.write_out(self.opened(handle)?.0).await;
        let (node, version) = self.opened(handle)?;
        if offset >= version.size {
            return Err(BEHIND_THE_END);
        }
        match self.volume.seek(&self.path(node)?, version, offset, hole).await {
            // One that is changed meanwhile has no holes that stay.
            Err(error) if is_gone(&error) || error == FsError::NOT_SUPPORTED => {
                Ok(if hole { version.size } else { offset })
            }
            outcome => outcome,
        }
    }
}
