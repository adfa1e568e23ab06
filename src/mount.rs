//! A node's tree as the `Volume` that the kernel adapter serves.

use crate::client::part_of;
use async_trait::async_trait;
use bytes::Bytes;
use globalfs_dataplane::fetch::Cached;
use globalfs_dataplane::{Deadline, Source};
use globalfs_fuse::Volume;
use globalfs_proto::{Attr, ByteRange, DirEntry, FsError, FsResult, FsStat, GlobalPath, Version};
use std::sync::Arc;
use std::time::Duration;

/// The node's cache in front of its site's daemon, with one deadline for every kernel request.
pub struct NodeVolume {
    /// The node's cache and what is behind it.
    pub cached: Cached,
    /// What each request is given.
    pub deadline: Duration,
}

impl NodeVolume {
    fn deadline(&self) -> Deadline {
        Deadline::after(self.deadline)
    }

    async fn read_range(
        &self,
        path: &GlobalPath,
        version: Version,
        range: ByteRange,
        deadline: Deadline,
    ) -> FsResult<Vec<Bytes>> {
        let span = range.chunks();
        let mut chunks = self.cached.read(path, version, span, deadline).await?;
        let mut parts = Vec::with_capacity(span.count as usize);
        for _ in span.iter() {
            let ended = || FsError::Unreachable("the answer ended early".into());
            let chunk = chunks.recv().await.ok_or_else(ended)??;
            parts.push(part_of(&chunk, range));
        }
        Ok(parts)
    }
}

#[async_trait]
impl Volume for NodeVolume {
    async fn stat(&self, path: &GlobalPath) -> FsResult<Attr> {
        let deadline = self.deadline();
        deadline.bound(self.cached.stat(path, deadline)).await
    }

    async fn stat_for_open(&self, path: &GlobalPath) -> FsResult<Attr> {
        let deadline = self.deadline();
        deadline.bound(self.cached.stat_fresh(path, deadline)).await
    }

    async fn list(&self, path: &GlobalPath) -> FsResult<Arc<[DirEntry]>> {
        let deadline = self.deadline();
        deadline.bound(self.cached.list(path, deadline)).await
    }

    async fn read_link(&self, path: &GlobalPath) -> FsResult<Bytes> {
        let deadline = self.deadline();
        deadline.bound(self.cached.read_link(path, deadline)).await
    }

    async fn get_xattr(&self, path: &GlobalPath, name: &[u8]) -> FsResult<Bytes> {
        let deadline = self.deadline();
        deadline.bound(self.cached.get_xattr(path, name, deadline)).await
    }

    async fn list_xattr(&self, path: &GlobalPath) -> FsResult<Bytes> {
        let deadline = self.deadline();
        deadline.bound(self.cached.list_xattr(path, deadline)).await
    }

    async fn fs_stat(&self, path: &GlobalPath) -> FsResult<FsStat> {
        let deadline = self.deadline();
        deadline.bound(self.cached.fs_stat(path, deadline)).await
    }

    async fn read(
        &self,
        path: &GlobalPath,
        version: Version,
        offset: u64,
        length: u32,
    ) -> FsResult<Vec<Bytes>> {
        let Some(range) = ByteRange::of_read(offset, length.into(), version.size) else {
            return Ok(Vec::new());
        };
        let deadline = self.deadline();
        deadline.bound(self.read_range(path, version, range, deadline)).await
    }
}
