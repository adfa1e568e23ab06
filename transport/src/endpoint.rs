//! One UDP socket that serves and connects, and a TCP port beside it for large answers to peers nearby.

use crate::congestion::{Factory, Paths};
use crate::counters::{Counters, Live};
use crate::failure::code;
use crate::identity::Identity;
use crate::options::{MAX_PACKET, MAX_WAITING_CONNECTIONS, Options, USUAL_PACKET, transport};
use crate::{lane, socket, tls};
use globalfs_proto::PeerIdentity;
use parking_lot::Mutex;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{EndpointConfig, ServerConfig, TokioRuntime, TransportConfig};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

/// How long closing waits for the last packets to be on their way.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken, not ours, or not permitted.
    #[error("cannot listen on UDP {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The same of TCP, at the port that UDP has.
    #[error("cannot listen on TCP {address}: {source}")]
    ListenTcp {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The identity does not fit TLS 1.3.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The identity does not fit QUIC.
    #[error("cannot set up QUIC: {0}")]
    Cipher(String),
}

/// A UDP socket with an identity. Cheap to clone: clones share the socket.
#[derive(Clone)]
pub struct Endpoint(Arc<Inner>);

struct Inner {
    quinn: quinn::Endpoint,
    address: SocketAddr,
    client: Arc<QuicClientConfig>,
    server: Arc<QuicServerConfig>,
    lane_client: Arc<rustls::ClientConfig>,
    lane_server: Arc<rustls::ServerConfig>,
    /// The TCP port, until it is served.
    lanes: Mutex<Option<TcpListener>>,
    identity: PeerIdentity,
    counters: Arc<Live>,
    paths: Arc<Paths>,
}

impl Endpoint {
    /// Opens the socket. Call it inside a tokio runtime. Nobody is served before [`Endpoint::serve`].
    pub fn bind(options: Options, identity: Identity) -> Result<Self, BindError> {
        let address = options.listen;
        let listen = |source| BindError::Listen { address, source };
        let (socket, lanes) = if options.serves_lanes {
            let (udp, tcp) = lane::listen(address)?;
            (udp, Some(tcp))
        } else {
            (socket::bind(address).map_err(listen)?, None)
        };
        let address = socket.local_addr().map_err(listen)?;
        let mut config = EndpointConfig::new(Arc::new(tls::ResetKey::of(&identity)));
        config.cid_generator(|| Box::new(tls::RandomIds));
        config.max_udp_payload_size(MAX_PACKET).expect("the largest packet is a valid size");
        let quinn = quinn::Endpoint::new(config, None, socket, Arc::new(TokioRuntime)).map_err(listen)?;
        let (client, lane_client) = tls::client(&identity)?;
        let (server, lane_server) = tls::server(&identity)?;
        Ok(Self(Arc::new(Inner {
            quinn,
            address,
            client,
            server,
            lane_client,
            lane_server,
            lanes: Mutex::new(lanes),
            identity: identity.peer().clone(),
            counters: Arc::default(),
            paths: Arc::default(),
        })))
    }

    /// The address that was bound, with its port.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.address
    }

    /// Who we are.
    pub fn identity(&self) -> &PeerIdentity {
        &self.0.identity
    }

    /// What went over the wire so far, with all peers.
    pub fn counters(&self) -> Counters {
        self.0.counters.snapshot()
    }

    /// Connections that are open now, ours and those of others.
    pub fn open_connections(&self) -> usize {
        self.0.quinn.open_connections()
    }

    /// Ends every connection and tells the peers so.
    pub async fn close(&self) {
        self.0.quinn.close(code::STOPPING, b"");
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.0.quinn.wait_idle()).await;
    }

    pub(crate) fn quinn(&self) -> &quinn::Endpoint {
        &self.0.quinn
    }

    pub(crate) fn lane_client(&self) -> Arc<rustls::ClientConfig> {
        self.0.lane_client.clone()
    }

    /// The TCP port and how to shake hands there; nothing if there is none, or it is served already.
    pub(crate) fn take_lanes(&self) -> Option<(tokio::net::TcpListener, Arc<rustls::ServerConfig>)> {
        let listener = tokio::net::TcpListener::from_std(self.0.lanes.lock().take()?);
        let listener = listener.inspect_err(|error| tracing::warn!(%error, "the TCP port cannot be served"));
        Some((listener.ok()?, self.0.lane_server.clone()))
    }

    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.0.counters
    }

    pub(crate) fn client_config(&self, remote: SocketAddr) -> quinn::ClientConfig {
        let mut config = quinn::ClientConfig::new(self.0.client.clone());
        config.transport_config(self.transport_config(remote));
        config
    }

    pub(crate) fn server_config(&self) -> ServerConfig {
        let mut config = ServerConfig::with_crypto(self.0.server.clone());
        config.max_incoming(MAX_WAITING_CONNECTIONS);
        config
    }

    pub(crate) fn transport_config(&self, remote: SocketAddr) -> Arc<TransportConfig> {
        let congestion = Factory::new(self.0.paths.clone(), remote.ip().to_canonical());
        transport(congestion, socket::largest_packet(remote).unwrap_or(USUAL_PACKET))
    }
}
