//! What applications do on a mount, in plain blocking calls, timed, and never longer than a limit.

use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Bytes of one read of a large file.
const BLOCK_BYTES: usize = 1024 * 1024;

/// What a call may take beyond the limit before it counts as hanging.
const GRACE: Duration = Duration::from_secs(5);

/// The phase did not end in time.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("> {} s", .0.as_secs())]
pub(crate) struct TooSlow(pub Duration);

/// Until when a phase may go on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Until {
    started: Instant,
    limit: Duration,
}

impl Until {
    /// Begins now.
    pub(crate) fn after(limit: Duration) -> Self {
        Self { started: Instant::now(), limit }
    }

    /// Fails when the time is over.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(self.started.elapsed() < self.limit, TooSlow(self.limit));
        Ok(())
    }
}

/// Runs `work` on a thread of its own. A call that hangs is left behind there: whoever gets [`TooSlow`] ends
/// the file system, which ends the call.
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce(Until) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (done, result) = mpsc::channel();
    std::thread::Builder::new().name("reader".into()).spawn(move || {
        // Nobody waits any more when this came too late.
        let _ = done.send(work(Until::after(limit)));
    })?;
    match result.recv_timeout(limit + GRACE) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => Err(TooSlow(limit).into()),
        Err(mpsc::RecvTimeoutError::Disconnected) => anyhow::bail!("the reader panicked"),
    }
}

/// Open, read and close of a small file: how long it took, and the bytes.
pub(crate) fn read_small(path: &Path) -> Result<(Duration, Vec<u8>)> {
    let started = Instant::now();
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    Ok((started.elapsed(), bytes))
}

/// Reads a file from its beginning, `length` bytes or to its end, and gives the bytes read.
pub(crate) fn read_large(path: &Path, length: u64, until: Until) -> Result<u64> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut read = 0;
    while read < length {
        until.check()?;
        match file.read(&mut block)? {
            0 => break,
            n => read += n as u64,
        }
    }
    Ok(read)
}

/// Reads `length` bytes at each of `offsets`.
pub(crate) fn read_at(path: &Path, offsets: &[u64], length: usize, until: Until) -> Result<()> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut buffer = vec![0; length];
    offsets.iter().try_for_each(|offset| {
        until.check()?;
        Ok(file.read_exact_at(&mut buffer, *offset)?)
    })
}

/// Every file of a tree, with its directories in the order in which they were found; each is asked for its
/// attributes.
pub(crate) fn walk(root: &Path, until: Until) -> Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            until.check()?;
            let path = entry?.path();
            if fs::symlink_metadata(&path)?.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    Ok(files)
}

/// Looks at each entry of a directory as `ls -l` does, and gives their number: attributes, whether there is an access
/// control list, and where links point.
pub(crate) fn look_closely(folder: &Path, until: Until) -> Result<usize> {
    let mut entries = 0;
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        until.check()?;
        let path = entry?.path();
        if fs::symlink_metadata(&path)?.is_symlink() {
            fs::read_link(&path)?;
        } else {
            // That there is none is an error, and not every file system knows any.
            let _ = rustix::fs::lgetxattr(&path, "system.posix_acl_access", &mut [0_u8; 1024]);
        }
        entries += 1;
    }
    Ok(entries)
}

/// Reads files one after another and gives the bytes read.
pub(crate) fn read_all(files: &[PathBuf], until: Until) -> Result<u64> {
    files.iter().try_fold(0, |sum, path| {
        until.check()?;
        Ok(sum + read_small(path)?.1.len() as u64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("x"), [1; 5000]).unwrap();
        fs::write(dir.path().join("y"), [2; 10]).unwrap();
        let until = Until::after(Duration::from_secs(60));
        assert_eq!(look_closely(dir.path(), until).unwrap(), 2);
        let files = walk(dir.path(), until).unwrap();
        assert_eq!(files.len(), 2);
        assert_eq!(read_all(&files, until).unwrap(), 5010);
        assert_eq!(read_large(&deep.join("x"), u64::MAX, until).unwrap(), 5000);
        read_at(&deep.join("x"), &[0, 4096], 904, until).unwrap();
        assert!(read_at(&deep.join("x"), &[4097], 904, until).is_err());
    }

    #[test]
    fn what_takes_too_long_is_told_apart_from_what_fails() {
        let slow = within(Duration::ZERO, |until| read_large(Path::new("/dev/zero"), u64::MAX, until));
        assert!(slow.unwrap_err().is::<TooSlow>());
        let failed = within(GRACE, |until| walk(Path::new("/absent"), until));
        assert!(!failed.unwrap_err().is::<TooSlow>());
    }
}
