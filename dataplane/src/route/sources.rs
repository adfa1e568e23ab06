//! The two faces of a site: what its own nodes are answered, and what other sites are.

use super::direct::is_direct;
use super::{ForNodes, ForSites, Master, bulk};
use crate::source::{
    ChangeStream, ChunkStream, Deadline, FileChunks, Found, HashStream, Listed, Listing, Source, WarmStream,
    no_directories,
};
use crate::warm;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use globalfs_proto::{
    Attr, Change, Changed, Changes, ChunkSpan, DirEntry, FsError, FsResult, FsStat, GlobalPath, Seek,
    Version, WantedFile, Warm,
};
use std::sync::Arc;
use std::time::Duration;

#[async_trait]
impl Source for ForNodes {
    async fn stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Attr> {
        self.0.stat(path, deadline).await
    }

    async fn list(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Listing> {
        self.0.list_merged(path, deadline).await
    }

    async fn look_up(&self, path: &GlobalPath, below: u32, deadline: Deadline) -> FsResult<Found> {
        self.0.look_up(path, below, deadline).await
    }

    async fn list_below(&self, path: &GlobalPath, below: u32, deadline: Deadline) -> FsResult<Listed> {
        self.0.list_below(path, below, deadline).await
    }

    fn watch(&self, heartbeat: Duration) -> ChangeStream {
        let all = [self.0.origin.watch(heartbeat), self.0.sites.changes(), self.0.moved.subscribe()];
        stream::select_all(all).boxed()
    }

    async fn read_link(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        self.0.source_of(path)?.read_link(path, deadline).await
    }

    async fn get_xattr(&self, path: &GlobalPath, name: &[u8], deadline: Deadline) -> FsResult<Bytes> {
        self.0.source_of(path)?.get_xattr(path, name, deadline).await
    }

    async fn list_xattr(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        self.0.source_of(path)?.list_xattr(path, deadline).await
    }

    async fn fs_stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<FsStat> {
        self.0.source_of(path)?.fs_stat(path, deadline).await
    }

    async fn seek(&self, seek: &Seek, deadline: Deadline) -> FsResult<u64> {
        self.0.source_with(&seek.path, &seek.version)?.seek(seek, deadline).await
    }

    async fn change(&self, change: &Change, deadline: Deadline) -> FsResult<Changed> {
        self.0.change(change, deadline).await
    }

    async fn read(
        &self,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<ChunkStream> {
        self.0.source_with(path, &version)?.read(path, version, span, deadline).await
    }

    async fn hashes(
        &self,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<HashStream> {
        self.0.source_with(path, &version)?.hashes(path, version, span, deadline).await
    }

    async fn read_files(&self, files: Vec<WantedFile>, deadline: Deadline) -> FsResult<FileChunks> {
        let choose = |path: &GlobalPath, master: &Master| self.0.source_for(path, master);
        bulk::read_files(&*self.0.placement, choose, files, deadline).await
    }

    async fn warm(&self, warm: Warm, deadline: Deadline) -> FsResult<WarmStream> {
        Ok(warm::merge(self.0.warm_groups(warm), deadline))
    }
}

#[async_trait]
impl Source for ForSites {
    async fn stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Attr> {
        self.0.own(path)?.stat(path, deadline).await
    }

    /// A directory that another site masters may have children that are mastered here: those alone are told.
    async fn list(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Listing> {
        let routes = &self.0;
        if !routes.has_children_here(path) {
            return routes.own(path)?.list(path, deadline).await;
        }
        let listing = routes.origin.list(path, deadline).await?;
        let own = |entry: &&DirEntry| routes.master_of_child(path, &entry.name) == Some(Master::Here);
        let entries = listing.iter().filter(own).cloned().collect();
        Ok(Listing { entries, ..listing })
    }

    async fn look_up(&self, path: &GlobalPath, below: u32, deadline: Deadline) -> FsResult<Found> {
        let found = self.0.own(path)?.look_up(path, below, deadline).await?;
        Ok(Found { directories: self.0.plain_alone(found.directories, Master::Here), ..found })
    }

    async fn list_below(&self, path: &GlobalPath, below: u32, deadline: Deadline) -> FsResult<Listed> {
        if self.0.has_children_here(path) {
            return Ok(Listed { listing: self.list(path, deadline).await?, directories: no_directories() });
        }
        let Listed { listing, directories } = self.0.own(path)?.list_below(path, below, deadline).await?;
        Ok(Listed { listing, directories: self.0.plain_alone(directories, Master::Here) })
    }

    fn watch(&self, heartbeat: Duration) -> ChangeStream {
        let routes = self.0.clone();
        let own = self.0.origin.watch(heartbeat).map(move |changes| routes.of_this_site(changes));
        stream::select(own, self.0.moved.subscribe().map(without_hand_overs)).boxed()
    }

    async fn read_link(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        self.0.own(path)?.read_link(path, deadline).await
    }

    async fn get_xattr(&self, path: &GlobalPath, name: &[u8], deadline: Deadline) -> FsResult<Bytes> {
        self.0.own(path)?.get_xattr(path, name, deadline).await
    }

    async fn list_xattr(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        self.0.own(path)?.list_xattr(path, deadline).await
    }

    async fn fs_stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<FsStat> {
        self.0.own(path)?.fs_stat(path, deadline).await
    }

    async fn seek(&self, seek: &Seek, deadline: Deadline) -> FsResult<u64> {
        self.0.own_content(&seek.path, &seek.version)?.seek(seek, deadline).await
    }

    async fn change(&self, change: &Change, deadline: Deadline) -> FsResult<Changed> {
        if is_direct(change) {
            return Err(FsError::Refused("another site does not see this origin by itself".to_owned()));
        }
        self.0.change_own(change, deadline).await
    }

    async fn read(
        &self,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<ChunkStream> {
        self.0.own_content(path, &version)?.read(path, version, span, deadline).await
    }

    async fn hashes(
        &self,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<HashStream> {
        self.0.own_content(path, &version)?.hashes(path, version, span, deadline).await
    }

    async fn read_files(&self, files: Vec<WantedFile>, deadline: Deadline) -> FsResult<FileChunks> {
        let choose = |path: &GlobalPath, master: &Master| self.0.own_if(path, master.clone()).cloned();
        bulk::read_files(&*self.0.placement, choose, files, deadline).await
    }

    async fn warm(&self, _: Warm, _: Deadline) -> FsResult<WarmStream> {
        Err(FsError::Refused("a site warms its own cache for its own nodes only".to_owned()))
    }
}

/// Each site tells its own nodes, once it knows by itself.
fn without_hand_overs(changes: Arc<Changes>) -> Arc<Changes> {
    if changes.handed_over.is_empty() {
        return changes;
    }
    Arc::new(Changes { handed_over: Vec::new(), ..Changes::clone(&changes) })
}
