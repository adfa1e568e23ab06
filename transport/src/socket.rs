//! The UDP socket below QUIC, with buffers that hold what arrives while the runtime is busy.

use crate::options::UDP_BUFFER;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

/// Binds `listen`; a wildcard IPv6 address falls back to IPv4 where the host has no IPv6.
pub(crate) fn bind(listen: SocketAddr) -> io::Result<UdpSocket> {
    match open(listen) {
        Err(_) if listen.is_ipv6() && listen.ip().is_unspecified() => {
            open(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), listen.port()))
        }
        other => other,
    }
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

/// The kernel grants at most its sysctl and says nothing; too small a buffer shows as loss under load.
fn raise_buffers(socket: &Socket) {
    let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    let _ = socket.set_send_buffer_size(UDP_BUFFER);
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
