//! One TCP + TLS 1.3 stream over the link: what a good program of the usual kind gets out of it.

use crate::systems::Bed;
use crate::tls::{Ends, SERVER, encrypted};
use crate::wan::Wan;
use anyhow::{Context, Result, anyhow};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

/// Bytes that are handed over at a time.
const BLOCK_BYTES: usize = 128 * 1024;

/// Moves `bytes` from far to near, or what gets through within `limit`, and gives bytes per second from the
/// first word of the connection on.
pub(crate) fn measure(bed: &Bed<'_>, bytes: u64, limit: Duration) -> Result<f64> {
    let ends = Ends::new()?;
    let (near, far) = (bed.near(), bed.far());
    std::thread::scope(|scope| {
        let (listening, address) = mpsc::channel();
        let serving = scope.spawn(|| far.enter(|| serve(&ends, bed.wan, bytes, listening)));
        let address = address.recv().context("the far end does not listen")?;
        let fetched = near.enter(|| fetch(&ends, address, bytes, limit));
        // The far end fails where the near end had enough.
        let _ = serving.join().map_err(|_| anyhow!("the far end panicked"))?;
        fetched
    })
}

fn serve(ends: &Ends, wan: &Wan, bytes: u64, listening: Sender<SocketAddr>) -> Result<()> {
    let listener = TcpListener::bind((wan.far().address(), 0))?;
    listening.send(listener.local_addr()?)?;
    let (socket, _) = listener.accept()?;
    let mut stream = encrypted(ServerConnection::new(ends.server.clone())?, socket)?;
    let block = vec![0x5a; BLOCK_BYTES];
    for _ in 0..bytes / BLOCK_BYTES as u64 {
        stream.write_all(&block)?;
    }
    stream.conn.send_close_notify();
    Ok(stream.flush()?)
}

fn fetch(ends: &Ends, address: SocketAddr, bytes: u64, limit: Duration) -> Result<f64> {
    let started = Instant::now();
    let socket = TcpStream::connect_timeout(&address, limit)?;
    socket.set_read_timeout(Some(limit))?;
    let name = ServerName::try_from(SERVER)?;
    let mut stream = encrypted(ClientConnection::new(ends.client.clone(), name)?, socket)?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut received = 0;
    while received < bytes && started.elapsed() < limit {
        match stream.read(&mut block)? {
            0 => break,
            n => received += n as u64,
        }
    }
    Ok(received as f64 / started.elapsed().as_secs_f64())
}
