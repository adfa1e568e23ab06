//! The UDP socket below QUIC, with buffers that hold what arrives while the runtime is busy, and TCP's.

use crate::options::{IDLE_TIMEOUT, KEEP_ALIVE, MAX_WAITING_CONNECTIONS, UDP_BUFFER};
use rustix::net::sockopt::{
    ip_mtu, ipv6_mtu, set_socket_keepalive, set_socket_recv_buffer_size_force,
    set_socket_send_buffer_size_force, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl,
    set_tcp_user_timeout,
};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

/// Binds `listen`; a wildcard IPv6 address falls back to IPv4 where the host has no IPv6.
pub(crate) fn bind(listen: SocketAddr) -> io::Result<UdpSocket> {
    match open(listen) {
        Err(_) if listen.is_ipv6() && listen.ip().is_unspecified() => {
            open(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), listen.port()))
        }
        other => other,
    }
}

/// Listens on TCP at the address that UDP has got.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a daemon that has just ended are still remembered by the kernel.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(MAX_WAITING_CONNECTIONS as i32)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Lets the kernel notice by itself that the other host, or the way there, is gone, as soon as QUIC would.
pub(crate) fn watch_over(socket: &tokio::net::TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    set_socket_keepalive(socket, true)?;
    set_tcp_keepidle(socket, KEEP_ALIVE)?;
    set_tcp_keepintvl(socket, KEEP_ALIVE)?;
    set_tcp_keepcnt(socket, (IDLE_TIMEOUT.as_secs() / KEEP_ALIVE.as_secs()) as u32)?;
    set_tcp_user_timeout(socket, IDLE_TIMEOUT.as_millis() as u32)?;
    Ok(())
}

/// Bytes of IP and UDP headers.
const HEADERS_V4: u32 = 28;
const HEADERS_V6: u32 = 48;

/// The largest packet that the way out to `remote` takes, as far as this host knows: no discovery can find
/// a larger one.
pub(crate) fn largest_packet(remote: SocketAddr) -> Option<u16> {
    let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
    let any: IpAddr =
        if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // Sends nothing: the kernel only looks up its route.
    socket.connect(remote).ok()?;
    let (mtu, headers) = match remote {
        SocketAddr::V4(_) => (ip_mtu(&socket).ok()?, HEADERS_V4),
        SocketAddr::V6(_) => (ipv6_mtu(&socket).ok()?, HEADERS_V6),
    };
    Some(u16::try_from(mtu.checked_sub(headers)?).unwrap_or(u16::MAX))
}

fn open(listen: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    if listen.is_ipv6() && listen.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&listen.into())?;
    raise_buffers(&socket);
    Ok(socket.into())
}

/// The kernel grants at most its sysctl and says nothing, unless the network is ours to administer, as it is
/// in most daemons; too small a buffer shows as loss under load.
fn raise_buffers(socket: &Socket) {
    if set_socket_recv_buffer_size_force(socket, UDP_BUFFER).is_err() {
        let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    }
    if set_socket_send_buffer_size_force(socket, UDP_BUFFER).is_err() {
        let _ = socket.set_send_buffer_size(UDP_BUFFER);
    }
    let check = |granted: io::Result<usize>, sysctl: &str| {
        // Linux reports twice what it grants, to count its own bookkeeping.
        let granted = granted.unwrap_or(0) / 2;
        if granted < UDP_BUFFER {
            tracing::warn!(
                granted_bytes = granted,
                wanted_bytes = UDP_BUFFER,
                "the system limits UDP buffers; for full speed: sysctl -w {sysctl}={UDP_BUFFER}"
            );
        }
    };
    check(socket.recv_buffer_size(), "net.core.rmem_max");
    check(socket.send_buffer_size(), "net.core.wmem_max");
}
