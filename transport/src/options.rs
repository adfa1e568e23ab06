//! Where an endpoint listens, and every limit and time of the transport with the reason for its value.

use crate::congestion::Factory;
use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Bytes in flight on one stream. quinn closes a connection when one stream has more than 1,024 gaps, so
/// a stream must not be wider than some 3,000 packets.
pub const STREAM_WINDOW: u32 = 4 * 1024 * 1024;

/// Requests that a peer may have open on one connection; more wait at the client.
pub const MAX_REQUESTS_PER_CONNECTION: u32 = 256;

/// Received bytes of one connection that nobody has read yet. 64 full streams, so that a few slow readers
/// do not starve the others.
pub const RECEIVE_WINDOW: u32 = 64 * STREAM_WINDOW;

/// Bytes of one connection that were sent and not acknowledged, to begin with: 1.7 Gbit/s at 150 ms, and
/// little enough that several busy peers leave a daemon below its 256 MB.
pub const SEND_WINDOW: u64 = 32 * 1024 * 1024;

/// The most of it, on a path that was seen to hold half of it: 10 Gbit/s at 80 ms need 100 MB. It grows with
/// what the path has in flight, so memory follows bytes that are on the line.
pub const MAX_SEND_WINDOW: u64 = 256 * 1024 * 1024;

/// Chunks up to which a read counts as small: its answer goes before those of larger ones.
pub const SMALL_READ: u32 = 2;

/// Connections that peers may have open to us.
pub const MAX_CONNECTIONS: usize = 4096;

/// Connections that wait for us to look at them.
pub const MAX_WAITING_CONNECTIONS: usize = 512;

/// Silence after which a connection is dead, when no other sign came earlier.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often an idle connection is kept awake: several times within [`IDLE_TIMEOUT`].
pub const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Silence after which the peer's host is asked whether the port is still open; longer than
/// [`KEEP_ALIVE`] and a round trip.
pub const SUSPICION: Duration = Duration::from_millis(1250);

/// How long a handshake with one address may take: the third packet is sent after 0.9 s.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a failed connect is remembered, so that a crowd of requests fails fast.
pub const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause of a peer that is kept connected while it cannot be reached: a daemon that comes back
/// is found within this time.
pub const MAX_RECONNECT_PAUSE: Duration = Duration::from_secs(5);

/// Addresses of one host name that are tried.
pub const MAX_ADDRESSES: usize = 4;

/// How long a peer may take to send its request once it has opened a stream.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a handler may take to decide whether a peer may ask.
pub const ADMISSION_TIMEOUT: Duration = Duration::from_secs(2);

/// How long requests under way may go on after the order to stop.
pub const GRACE: Duration = Duration::from_secs(2);

/// What the round trip is taken for until it was measured: a lost first packet costs three times this.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Bytes that the socket should hold each way: 5 ms at 10 Gbit/s.
pub(crate) const UDP_BUFFER: usize = 8 * 1024 * 1024;

/// The largest packet: ten of them, which quinn hands to the kernel at once, fit the 64 KiB that it takes.
pub(crate) const MAX_PACKET: u16 = 6500;

/// What Ethernet carries over IPv6, for paths of which the host knows nothing.
pub(crate) const USUAL_PACKET: u16 = 1452;

/// TCP connections that we keep open to one peer nearby, each for one request at a time: two readers of large
/// files, who have four answers each under way.
pub const MAX_LANES: usize = 8;

/// A round trip below which TCP is nearby: loss is seldom there, and the kernel fills the way by itself. Measured
/// while TCP connects.
pub const NEAR_RTT: Duration = Duration::from_millis(2);

/// A round trip of QUIC above which a peer is certainly not nearby; it has the work of both programs in it.
pub const UNCERTAIN_RTT: Duration = Duration::from_millis(20);

/// How long a request waits for a lane that others use before it goes over QUIC: some answers' time. Longer, and where
/// many read at once each would wait for all that the others have asked for ahead.
pub const LANE_PATIENCE: Duration = Duration::from_millis(10);

/// How long a peer that has no TCP port for us, or is not nearby, is not tried again.
pub const LANE_RETRY: Duration = Duration::from_secs(10);

/// A lane that was not used for this long is closed by whoever opened it.
pub const LANE_IDLE: Duration = Duration::from_secs(15);

/// The same for whoever serves it.
pub const LANE_SILENCE: Duration = Duration::from_secs(60);

/// TCP connections that peers may have open to us: those of five hundred nodes.
pub const MAX_SERVED_LANES: usize = 4096;

/// Records under one key after which a lane is closed: half of what AES-GCM permits (RFC 8446, section 5.5), so
/// keys are never changed. Some 100 GB.
pub const MAX_LANE_RECORDS: u64 = 1 << 23;

/// Ports of our own choice that are tried until both UDP and TCP are free.
pub(crate) const ADDRESS_TRIES: usize = 16;

const _: () = assert!(LANE_IDLE.as_secs() * 2 < LANE_SILENCE.as_secs());
const _: () = assert!(MAX_PACKET as usize * 10 < 65_535);
const _: () = assert!(KEEP_ALIVE.as_millis() * 4 < IDLE_TIMEOUT.as_millis());
const _: () = assert!(KEEP_ALIVE.as_millis() < SUSPICION.as_millis());

/// What an [`Endpoint`](crate::Endpoint) has to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// The UDP address; port 0 takes any.
    pub listen: SocketAddr,
    /// Whether large answers are served over TCP as well, at the same port. Peers without it are served all the same.
    pub serves_lanes: bool,
}

impl Options {
    /// Any port on all interfaces, for a process that only connects.
    pub fn client() -> Self {
        Self { listen: SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0), serves_lanes: false }
    }

    /// UDP and TCP at `listen`, for a process that serves.
    pub fn server(listen: SocketAddr) -> Self {
        Self { listen, serves_lanes: true }
    }
}

/// How quinn is set for a connection: what the congestion control is, and how large packets may become.
/// Discovery begins at the 1,200 bytes that every path carries, tunnels between sites too; a round trip or
/// few later it has what the path takes, and [`Peer::keep_connected`](crate::Peer::keep_connected) lets it
/// be done before the first request.
pub(crate) fn transport(congestion: Factory, largest_packet: u16) -> Arc<TransportConfig> {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(largest_packet.min(MAX_PACKET));
    let idle = IdleTimeout::try_from(IDLE_TIMEOUT).expect("a few seconds are a valid timeout");
    let mut config = TransportConfig::default();
    config
        .congestion_controller_factory(Arc::new(congestion))
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(RECEIVE_WINDOW.into())
        .send_window(SEND_WINDOW)
        .max_concurrent_bidi_streams(MAX_REQUESTS_PER_CONNECTION.into())
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(idle))
        .initial_rtt(INITIAL_RTT)
        .mtu_discovery_config(Some(mtu));
    Arc::new(config)
}
