//! A peer with a good certificate that breaks the protocol: the reader gets an error, never its bytes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use async_trait::async_trait;
use bytes::Bytes;
use common::{endpoints, soon};
use globalfs_dataplane::Source;
use globalfs_dataplane::encoding::{Encoded, encode, hash};
use globalfs_dataplane::remote::Remote;
use globalfs_dataplane::source::Chunk;
use globalfs_dataplane::testing::some_attr;
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::listing::encode_entries;
use globalfs_proto::{
    ChunkIndex, ChunkSpan, DirEntry, DirectoryPart, FileId, FsError, FsResult, FsStat, GlobalPath,
    PartEncoding, PeerIdentity, Request, Response, Version,
};
use globalfs_transport::{Handler, Peer, Reply};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const SIZE: u64 = 2 * CHUNK_SIZE + 5;

/// Answers each request with what it was made with, whatever was asked.
struct Liar(Vec<Said>);

#[derive(Clone)]
enum Said {
    Frame(Response),
    Chunk(Encoded),
}

#[async_trait]
impl Handler for Liar {
    async fn admit(&self, _: &PeerIdentity, _: &str) -> Result<(), String> {
        Ok(())
    }

    async fn handle(&self, _: &PeerIdentity, _: Request, _: Duration, reply: &mut Reply) -> FsResult<()> {
        for said in self.0.clone() {
            match said {
                Said::Frame(response) => reply.send(&response).await?,
                Said::Chunk(Encoded { header, payload }) => reply.send_chunk(header, payload).await?,
            }
        }
        Ok(())
    }
}

fn remote(said: Vec<Said>) -> Remote {
    let [onprem, cloud] = endpoints();
    let serving = onprem.clone();
    tokio::spawn(async move { serving.serve(Arc::new(Liar(said)), CancellationToken::new()).await });
    Remote::new(Peer::new(cloud, onprem.local_addr().to_string(), onprem.identity().clone()))
}

fn chunk(index: u64, length: u64) -> Said {
    let data = Bytes::from(vec![7; length as usize]);
    Said::Chunk(encode(&Chunk { index: ChunkIndex(index), hash: hash(&data), data }))
}

/// Reads the three chunks of a file: how many came, and the error at the end.
async fn read(said: Vec<Said>) -> (usize, Option<FsError>) {
    let file = FileId { origin: 1, inode: 1 };
    let version = Version { file, size: SIZE, mtime_ns: 0, ctime_ns: 0 };
    let span = ChunkSpan { first: ChunkIndex(0), count: 3 };
    let mut stream = remote(said).read(&GlobalPath::root(), version, span, soon()).await.unwrap();
    let mut count = 0;
    while let Some(chunk) = stream.recv().await {
        match chunk {
            Ok(_) => count += 1,
            Err(error) => return (count, Some(error)),
        }
    }
    (count, None)
}

#[tokio::test]
async fn chunks_must_be_those_that_were_asked_for() {
    let good = [chunk(0, CHUNK_SIZE), chunk(1, CHUNK_SIZE), chunk(2, 5)];
    assert_eq!(read(good.to_vec()).await, (3, None));
    let check = async |said: Vec<Said>, good_chunks| {
        let (count, error) = read(said).await;
        assert!(matches!(error, Some(FsError::Protocol(_))), "{error:?}");
        assert_eq!(count, good_chunks);
    };
    check(vec![chunk(1, CHUNK_SIZE)], 0).await;
    check(vec![good[0].clone(), good[0].clone()], 1).await;
    check(vec![chunk(0, CHUNK_SIZE - 1)], 0).await;
    check(vec![good[0].clone(), good[1].clone(), chunk(2, 6)], 2).await;
    check(good[..2].to_vec(), 2).await;
    check([&good[..], &[chunk(3, 5)]].concat(), 3).await;
    check(vec![Said::Frame(Response::Bytes(Bytes::new()))], 0).await;
    check(vec![], 0).await;
}

/// A part of the root with so many entries.
fn part(entries: u64, last: bool) -> Said {
    let entry = |n: u64| DirEntry::new(n.to_string().into(), some_attr(n));
    let body = encode_entries(&(0..entries).map(entry).collect::<Vec<_>>());
    Said::Frame(Response::Directory(DirectoryPart {
        path: GlobalPath::root(),
        attr: some_attr(1),
        complete: true,
        watched: true,
        last,
        encoding: PartEncoding::Raw,
        length: body.len() as u32,
        body,
    }))
}

#[tokio::test]
async fn nobody_is_made_to_hold_more_than_was_asked_for() {
    let (root, attr) = (GlobalPath::root(), Said::Frame(Response::Attr(some_attr(1))));
    let count = async |said: Vec<Said>, below| {
        let mut found = remote(said).look_up(&root, below, soon()).await.unwrap();
        let mut count = 0;
        while found.directories.recv().await.is_some() {
            count += 1;
        }
        count
    };
    let many = |n| std::iter::once(attr.clone()).chain((0..n).map(|_| part(10, true))).collect::<Vec<_>>();
    assert_eq!(count(many(3), 30).await, 3);
    assert_eq!(count(many(5), 30).await, 3, "what is above the budget ends the answer");
    assert_eq!(count(many(3), 0).await, 0);
    let endless: Vec<_> = (0..20).map(|_| part(1000, false)).collect();
    assert_eq!(count([vec![attr.clone()], endless].concat(), 16_000).await, 0);
    let unwatched = remote(vec![attr, part(1, true)]).look_up(&root, 10, soon()).await;
    assert!(unwatched.unwrap().directories.recv().await.unwrap().listing.unwrap().watched, "as it was told");
    let short = remote(vec![Said::Frame(Response::Missing)]).list(&root, soon()).await;
    assert!(matches!(short, Err(FsError::Protocol(_))));
}

#[tokio::test]
async fn other_answers_must_be_of_the_kind_that_was_asked_for() {
    let root = GlobalPath::root();
    let stat = remote(vec![Said::Frame(Response::FsStat(FsStat::default()))]);
    assert!(matches!(stat.stat(&root, soon()).await, Err(FsError::Protocol(_))));
    assert!(matches!(stat.list(&root, soon()).await, Err(FsError::Protocol(_))));
    assert!(matches!(stat.read_link(&root, soon()).await, Err(FsError::Protocol(_))));
    assert!(stat.fs_stat(&root, soon()).await.is_ok());
    let unended = remote(vec![part(0, false), part(0, false)]);
    assert!(matches!(unended.list(&root, soon()).await, Err(FsError::Protocol(_))));
}
