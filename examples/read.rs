//! Lists a directory, or writes a file to stdout, through the client library: no mount, no root.
//!
//! ```text
//! cargo run --example read -- /etc/globalfs/globalfs.yaml /datasets
//! cargo run --example read -- /etc/globalfs/globalfs.yaml /datasets/x > x
//! ```
//! The configuration is that of a registered node, as for `globalfs mount`.

use anyhow::{Context, Result};
use globalfs::{Client, File, FileKind};
use std::io::{self, Write};

/// Bytes of one read: a multiple of a chunk, so that no chunk is asked for twice.
const READ_BYTES: usize = 4 * 1024 * 1024;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (config, path) = arguments.next().zip(arguments.next()).context("usage: read CONFIG PATH")?;
    let client = Client::connect(config).await?;
    let attr = client.stat(&path).await.with_context(|| path.clone())?;
    match attr.kind {
        FileKind::Directory => list(&client, &path).await,
        _ => copy(&client.open(&path).await.with_context(|| path.clone())?).await,
    }
}

async fn list(client: &Client, path: &str) -> Result<()> {
    let mut entries = client.read_dir(path).await?.to_vec();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let mut stdout = io::stdout().lock();
    for entry in entries {
        let mark = if entry.attr.kind == FileKind::Directory { "/" } else { "" };
        writeln!(stdout, "{:>14} {}{mark}", entry.attr.size, String::from_utf8_lossy(&entry.name))?;
    }
    Ok(())
}

async fn copy(file: &File) -> Result<()> {
    let mut offset = 0;
    loop {
        let bytes = file.read_at(offset, READ_BYTES).await?;
        if bytes.is_empty() {
            return Ok(());
        }
        io::stdout().write_all(&bytes)?;
        offset += bytes.len() as u64;
    }
}
