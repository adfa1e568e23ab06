//! What the network itself allows on this machine: a file sent over one TCP connection with TLS 1.3 to a thread that writes it
//! down. Nothing of GlobalFS is in it.

use crate::tls::{Ends, SERVER, Socket, encrypted};
use anyhow::{Context, Result, anyhow, ensure};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// Bytes that the receiver takes at a time.
const TAKEN: usize = 256 * 1024;

/// What the receiver says when it has everything.
const WRITTEN: u8 = 1;

/// A file on its way to the other end.
pub(crate) struct Sending {
    stream: StreamOwned<ClientConnection, Socket>,
    receiver: JoinHandle<Result<()>>,
}

impl Sending {
    /// Connects to a thread that writes what comes to the new file `path`, and with `sync` waits for the disk at the end.
    pub(crate) fn begin(path: PathBuf, sync: bool) -> Result<Self> {
        let ends = Ends::new()?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let receiver = thread::spawn(move || receive(&listener, ends.server, path, sync));
        let connection = ClientConnection::new(ends.client, ServerName::try_from(SERVER)?)?;
        let mut stream = encrypted(connection, TcpStream::connect(address)?)?;
        stream.flush().context("the handshake")?;
        Ok(Self { stream, receiver })
    }

    /// Sends bytes of the file.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Returns when the other end has written all of it.
    pub(crate) fn end(mut self) -> Result<()> {
        self.stream.conn.send_close_notify();
        self.stream.flush()?;
        let mut word = [0];
        self.stream.read_exact(&mut word).context("the word of the other end")?;
        ensure!(word == [WRITTEN], "the other end said something else");
        self.receiver.join().map_err(|_| anyhow!("the receiver panicked"))?
    }
}

fn receive(listener: &TcpListener, config: Arc<ServerConfig>, path: PathBuf, sync: bool) -> Result<()> {
    let (socket, _) = listener.accept()?;
    let mut stream = encrypted(ServerConnection::new(config)?, socket)?;
    let (mut file, mut taken) = (File::create(path)?, vec![0; TAKEN]);
    loop {
        match stream.read(&mut taken)? {
            0 => break,
            read => file.write_all(&taken[..read])?,
        }
    }
    if sync {
        file.sync_all()?;
    }
    drop(file);
    stream.write_all(&[WRITTEN])?;
    Ok(stream.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_written_when_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        for sync in [false, true] {
            let path = dir.path().join(format!("{sync}"));
            let mut sending = Sending::begin(path.clone(), sync).unwrap();
            let blocks: Vec<Vec<u8>> = (0..5).map(|n| vec![n; 300_000]).collect();
            blocks.iter().for_each(|block| sending.put(block).unwrap());
            sending.end().unwrap();
            assert!(std::fs::read(path).unwrap() == blocks.concat());
        }
    }
}
