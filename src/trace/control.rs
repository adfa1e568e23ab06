//! The way from the command line to a mount: a Unix socket in the mount's state directory.
//!
//! One conversation is one recording. The command says `record MARK` and a newline and hears `recording` and a
//! newline; when it has closed its direction, it gets `trace LENGTH`, a newline and the trace in its stored
//! form. A command that dies ends its recording.
//!
//! *Invariant:* only the owner of the mount may use the socket.

use super::stored;
use super::watch::Watch;
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use globalfs_proto::limits::MAX_TRACE_BYTES;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Recordings of one mount at a time.
const MAX_CONVERSATIONS: usize = 8;

/// Bytes of a line.
const MAX_LINE: u64 = 256;

/// What a mount is given for a line.
const LINE_LIMIT: Duration = Duration::from_secs(5);

/// The socket of the mount with this state directory.
pub fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// Answers at the socket until `stop`. A mount goes on without it.
pub async fn serve(watch: Arc<Watch>, path: PathBuf, stop: CancellationToken) {
    match listen(&path) {
        Ok(listener) => {
            answer_all(&watch, &listener, &stop).await;
            let _ = fs::remove_file(&path);
        }
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "'globalfs trace record' cannot reach this mount");
        }
    }
}

/// What an earlier mount left behind is taken away: the cache's lock says that there is no other now.
fn listen(path: &Path) -> std::io::Result<UnixListener> {
    if path.exists() {
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn answer_all(watch: &Arc<Watch>, listener: &UnixListener, stop: &CancellationToken) {
    let conversations = Arc::new(Semaphore::new(MAX_CONVERSATIONS));
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let Ok((stream, _)) = accepted else { continue };
        let Ok(turn) = conversations.clone().try_acquire_owned() else { continue };
        let (watch, stop) = (watch.clone(), stop.clone());
        tokio::spawn(async move {
            if let Some(Err(error)) = stop.run_until_cancelled(answer(&watch, stream)).await {
                tracing::debug!(%error, "a recording was broken off");
            }
            drop(turn);
        });
    }
}

async fn answer(watch: &Arc<Watch>, stream: UnixStream) -> Result<()> {
    let credentials = stream.peer_cred()?;
    let (peer, owner) = (credentials.uid(), rustix::process::geteuid().as_raw());
    ensure!(peer == owner || peer == 0, "user {peer} is not the owner");
    // In the kernel's words, so in the numbers of this process, also where the command lives in a container.
    let root = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
    let mut stream = BufReader::new(stream);
    let line = tokio::time::timeout(LINE_LIMIT, read_line(&mut stream)).await.context("no word")??;
    let words: Vec<&str> = line.split(' ').collect();
    let ["record", mark] = words[..] else { bail!("'{line}' is no order") };
    let run = u64::from_str_radix(mark, 16)?;
    watch.begin_recording(mark.to_owned(), root);
    let told = listen_to_the_end(&mut stream).await;
    let trace = watch.finish_recording(mark, run).context("the recording is gone")?;
    told?;
    let packed = stored::encode(&trace);
    stream.write_all(format!("trace {}\n", packed.len()).as_bytes()).await?;
    stream.write_all(&packed).await?;
    Ok(stream.shutdown().await?)
}

async fn listen_to_the_end(stream: &mut BufReader<UnixStream>) -> Result<()> {
    stream.write_all(b"recording\n").await?;
    let rest = stream.take(1).read_to_end(&mut Vec::new()).await?;
    ensure!(rest == 0, "words in the middle of a recording");
    Ok(())
}

async fn read_line(stream: &mut BufReader<UnixStream>) -> Result<String> {
    let mut line = String::new();
    stream.take(MAX_LINE).read_line(&mut line).await?;
    Ok(line.strip_suffix('\n').context("a line without an end")?.to_owned())
}

/// A recording that a mount makes for this command.
pub struct Conversation(BufReader<UnixStream>);

impl Conversation {
    /// Begins to record what the descendants of this process, and all with `run` as their mark, read.
    pub async fn begin(socket: &Path, run: u64) -> Result<Self> {
        let mut stream = BufReader::new(UnixStream::connect(socket).await?);
        let order = format!("record {}\n", mark(run));
        stream.write_all(order.as_bytes()).await?;
        let heard = tokio::time::timeout(LINE_LIMIT, read_line(&mut stream)).await.context("no answer")??;
        ensure!(heard == "recording", "the mount says '{heard}'");
        Ok(Self(stream))
    }

    /// Ends the recording and gives the trace in its stored form.
    pub async fn finish(mut self) -> Result<Bytes> {
        self.0.shutdown().await?;
        let line = read_line(&mut self.0).await.context("the mount has ended meanwhile")?;
        let length: usize = line.strip_prefix("trace ").context("no trace")?.parse()?;
        ensure!(length <= MAX_TRACE_BYTES, "a trace of {length} bytes");
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).await?;
        Ok(bytes.into())
    }
}

/// How the run `run` is written in the environment and to mounts.
pub fn mark(run: u64) -> String {
    format!("{run:016x}")
}
