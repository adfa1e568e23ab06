//! Subtrees whose master is another site than their home: what the holder owes, and how it comes home.

mod confirm;
mod content;
pub mod holdings;
mod links;
pub mod receive;
pub mod side;
mod small;
pub mod survey;
pub mod syncer;

use globalfs_proto::FsResult;

/// What is kept on disk is changed on threads that may wait.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> FsResult<T> + Send + 'static,
) -> FsResult<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}
