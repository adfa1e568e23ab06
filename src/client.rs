//! The client library: the global tree from a program, without a mount.
//!
//! A [`Client`] talks to its own site's daemon, which fetches, verifies and caches; it keeps no cache of its
//! own on disk, so it can run beside a mount that uses the same configuration.

use crate::config::MountConfig;
use crate::node;
use bytes::Bytes;
use globalfs_dataplane::{Chunk, ChunkStream, Deadline, Source};
use globalfs_proto::{Attr, ByteRange, DirEntry, FileKind, FsError, FsResult, GlobalPath};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// Links followed in one path before it is called a loop, as the kernel does.
const MAX_LINKS: usize = 40;

/// A connection to the global tree. Clones share it.
///
/// ```no_run
/// # async fn example() -> anyhow::Result<()> {
/// use globalfs::Client;
///
/// let client = Client::connect("/etc/globalfs/globalfs.yaml").await?;
/// for entry in client.read_dir("/datasets").await?.iter() {
///     println!("{:>12} {}", entry.attr.size, String::from_utf8_lossy(&entry.name));
/// }
/// let file = client.open("/datasets/x").await?;
/// let head = file.read_at(0, 4096).await?;
/// println!("{} of {} bytes", head.len(), file.attr().size);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    source: Arc<dyn Source>,
    deadline: Duration,
}

impl Client {
    /// Reads a node's configuration, as written for `globalfs mount`, and prepares the connection to its
    /// site's daemon. The node must be registered. Nothing is sent before the first request.
    ///
    /// # Errors
    /// The configuration is wrong, or the node has no valid certificate.
    pub async fn connect(config: impl AsRef<std::path::Path>) -> anyhow::Result<Self> {
        let config = MountConfig::load(config.as_ref())?;
        let link = node::Link::open(&config).await?;
        Ok(Self { source: link.remote(), deadline: config.deadline })
    }

    /// A client over any source; `deadline` bounds each operation.
    pub fn over(source: Arc<dyn Source>, deadline: Duration) -> Self {
        Self { source, deadline }
    }

    fn deadline(&self) -> Deadline {
        Deadline::after(self.deadline)
    }

    /// Attributes of `path`; a symbolic link is followed.
    pub async fn stat(&self, path: impl AsRef<[u8]>) -> FsResult<Attr> {
        Ok(self.resolve(path.as_ref(), self.deadline()).await?.1)
    }

    /// Attributes of `path` itself, which may be a symbolic link in its last component.
    pub async fn symlink_stat(&self, path: impl AsRef<[u8]>) -> FsResult<Attr> {
        self.source.stat(&parse(path.as_ref())?, self.deadline()).await
    }

    /// The entries of a directory with their attributes, in no particular order.
    pub async fn read_dir(&self, path: impl AsRef<[u8]>) -> FsResult<Arc<[DirEntry]>> {
        let deadline = self.deadline();
        let (path, _) = self.resolve(path.as_ref(), deadline).await?;
        Ok(self.source.list(&path, deadline).await?.entries)
    }

    /// The target of a symbolic link.
    pub async fn read_link(&self, path: impl AsRef<[u8]>) -> FsResult<Bytes> {
        self.source.read_link(&parse(path.as_ref())?, self.deadline()).await
    }

    /// Opens a regular file in the version that it has now.
    ///
    /// # Errors
    /// `EISDIR` for a directory, `EINVAL` for anything else that is no regular file.
    pub async fn open(&self, path: impl AsRef<[u8]>) -> FsResult<File> {
        const EISDIR: i32 = 21;
        const EINVAL: i32 = 22;
        let (path, attr) = self.resolve(path.as_ref(), self.deadline()).await?;
        match attr.kind {
            FileKind::Regular => Ok(File { client: self.clone(), path, attr, last: Mutex::default() }),
            FileKind::Directory => Err(FsError::Os(EISDIR)),
            _ => Err(FsError::Os(EINVAL)),
        }
    }

    /// Follows symbolic links in every component. One request when there are none: no daemon follows a link,
    /// so a path that is found as it stands has none but perhaps its last.
    pub(crate) async fn resolve(&self, path: &[u8], deadline: Deadline) -> FsResult<(GlobalPath, Attr)> {
        if let Ok(whole) = GlobalPath::parse(path) {
            let attr = self.source.stat(&whole, deadline).await;
            match attr {
                Ok(attr) if attr.kind != FileKind::Symlink => return Ok((whole, attr)),
                Ok(_) | Err(FsError::NOT_A_DIRECTORY) => {}
                Err(error) => return Err(error),
            }
        }
        self.walk(path, deadline).await
    }

    /// Component by component, relative links from where they lie, absolute ones from the root of the
    /// namespace.
    async fn walk(&self, path: &[u8], deadline: Deadline) -> FsResult<(GlobalPath, Attr)> {
        let mut todo: Vec<Vec<u8>> = split(path)?;
        let mut at = GlobalPath::root();
        let mut attr = self.source.stat(&at, deadline).await?;
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == b".." {
                at = at.parent().unwrap_or_else(GlobalPath::root);
                attr = self.source.stat(&at, deadline).await?;
                continue;
            }
            let next = at.join(&name).map_err(bad_path)?;
            attr = self.source.stat(&next, deadline).await?;
            if attr.kind != FileKind::Symlink {
                at = next;
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                const ELOOP: i32 = 40;
                return Err(FsError::Os(ELOOP));
            }
            let target = self.source.read_link(&next, deadline).await?;
            if target.starts_with(b"/") {
                at = GlobalPath::root();
            }
            todo.extend(split_any(&target));
            attr = self.source.stat(&at, deadline).await?;
        }
        Ok((at, attr))
    }
}

/// Components in the order in which they are popped: last first.
fn split(path: &[u8]) -> FsResult<Vec<Vec<u8>>> {
    if !path.starts_with(b"/") {
        return Err(bad_path(globalfs_proto::PathError::NotAbsolute));
    }
    Ok(split_any(path))
}

fn split_any(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|&b| b == b'/').filter(|name| !name.is_empty() && *name != b".");
    names.rev().map(<[u8]>::to_vec).collect()
}

fn parse(path: &[u8]) -> FsResult<GlobalPath> {
    GlobalPath::parse(path).map_err(bad_path)
}

fn bad_path(error: globalfs_proto::PathError) -> FsError {
    const EINVAL: i32 = 22;
    const ENAMETOOLONG: i32 = 36;
    match error {
        globalfs_proto::PathError::TooLong => FsError::Os(ENAMETOOLONG),
        _ => FsError::Os(EINVAL),
    }
}

/// One version of a regular file. Reads return its bytes or an error, never those of another version.
pub struct File {
    client: Client,
    path: GlobalPath,
    attr: Attr,
    /// The chunk that was read last, so that small sequential reads fetch each chunk once.
    last: Mutex<Option<Chunk>>,
}

impl File {
    /// Its attributes when it was opened.
    pub fn attr(&self) -> &Attr {
        &self.attr
    }

    /// `length` bytes at `offset`, fewer at the end of the file, none behind it.
    ///
    /// # Errors
    /// [`FsError::Stale`] when the file has changed since it was opened and its old bytes can no longer be had.
    pub async fn read_at(&self, offset: u64, length: usize) -> FsResult<Bytes> {
        let Some(range) = ByteRange::of_read(offset, length as u64, self.attr.size) else {
            return Ok(Bytes::new());
        };
        let deadline = self.client.deadline();
        deadline.bound(self.read_range(range, deadline)).await
    }

    /// The whole file in verified chunks, in order, as they arrive: for files that are larger than memory
    /// should hold. The client's deadline is for all of it.
    pub async fn chunks(&self) -> FsResult<ChunkStream> {
        let Some(whole) = ByteRange::new(0, self.attr.size) else {
            return Ok(tokio::sync::mpsc::channel(1).1);
        };
        self.client.source.read(&self.path, self.attr.version(), whole.chunks(), self.client.deadline()).await
    }

    async fn read_range(&self, range: ByteRange, deadline: Deadline) -> FsResult<Bytes> {
        if let Some(bytes) = self.in_last(range) {
            return Ok(bytes);
        }
        let span = range.chunks();
        let mut chunks = self.client.source.read(&self.path, self.attr.version(), span, deadline).await?;
        let mut joined = Vec::with_capacity(if span.count == 1 { 0 } else { range.length() as usize });
        for index in span.iter() {
            let ended = || FsError::Unreachable("the answer ended early".into());
            let chunk = chunks.recv().await.ok_or_else(ended)??;
            let part = part_of(&chunk, range);
            *self.last.lock() = Some(chunk);
            if span.count == 1 {
                return Ok(part);
            }
            debug_assert!(index.0 >= span.first.0);
            joined.extend_from_slice(&part);
        }
        Ok(joined.into())
    }

    fn in_last(&self, range: ByteRange) -> Option<Bytes> {
        let last = self.last.lock();
        let chunk = last.as_ref()?;
        let span = range.chunks();
        (span.count == 1 && span.first == chunk.index).then(|| part_of(chunk, range))
    }
}

/// The part of `chunk` that lies in `range`.
fn part_of(chunk: &Chunk, range: ByteRange) -> Bytes {
    let base = chunk.index.0 * globalfs_proto::limits::CHUNK_SIZE;
    let start = range.start().saturating_sub(base);
    let end = (range.end() - base).min(chunk.data.len() as u64);
    chunk.data.slice(start as usize..end as usize)
}
