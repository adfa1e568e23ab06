//! Accepts connections and makes TLS of them, with a limit on how many there are.
//!
//! *Invariant:* a peer that is slow in its handshake holds up nobody else, and is dropped in time.

use super::counters::Counters;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Most connections, those in their handshake included; more wait in the kernel's queue.
pub const MAX_CONNECTIONS: usize = 8192;
/// Longest TLS handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that wait to be served.
const READY_QUEUE: usize = 64;
/// Pause after the system could not accept a connection, as when it has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection that counts until it is dropped.
pub(crate) struct Counted {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
}

/// Connections that passed their handshake.
pub(crate) type Ready = mpsc::Receiver<io::Result<TlsStream<Counted>>>;

/// Accepts from `listener` until `stop`.
pub(crate) fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    counters: Arc<Counters>,
    stop: CancellationToken,
) -> Ready {
    let (sender, ready) = mpsc::channel(READY_QUEUE);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    tokio::spawn(async move {
        let accepting = async {
            while let Ok(permit) = permits.clone().acquire_owned().await {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let connection = Counted { stream, _permit: permit };
                        tokio::spawn(shake_hands(
                            connection,
                            acceptor.clone(),
                            counters.clone(),
                            sender.clone(),
                        ));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! { () = accepting => {}, () = stop.cancelled() => {} }
    });
    ready
}

async fn shake_hands(
    connection: Counted,
    acceptor: TlsAcceptor,
    counters: Arc<Counters>,
    sender: mpsc::Sender<io::Result<TlsStream<Counted>>>,
) {
    let peer = connection.stream.peer_addr();
    let _ = connection.stream.set_nodelay(true);
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(connection)).await {
        // A closed queue means that the service ends; the connection ends with it.
        Ok(Ok(stream)) => drop(sender.send(Ok(stream)).await),
        failed => {
            Counters::raise(&counters.failed_handshakes);
            let reason = failed
                .map_or("took too long".into(), |r| r.map_or_else(|e| e.to_string(), |_| String::new()));
            tracing::info!(?peer, reason, "TLS handshake failed");
        }
    }
}

impl Connected for Counted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
