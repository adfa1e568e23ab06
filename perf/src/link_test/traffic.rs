//! Traffic of the self-test: sockets that are made inside the namespaces and used by threads of this process.

use super::prefer_this_thread;
use crate::wan::{Namespace, Wan};
use anyhow::{Context, Result, ensure};
use quinn_udp::{Transmit, UdpSockRef, UdpSocketState};
use rustix::net::sockopt;
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// What TCP carries, again and again. Its length is prime, so that bytes in a wrong place show.
const PATTERN_BYTES: usize = 1_000_003;

/// Bytes of a datagram: 36 of them fit the largest super-packet.
const DATAGRAM_BYTES: usize = 1400;

/// Datagrams that are sent with one call.
const BURST_DATAGRAMS: u32 = 32;

/// Between two bursts: 0.36 Gbit/s, so that neither socket buffers nor a queue at 1 Gbit/s are full.
const BURST_PAUSE: Duration = Duration::from_millis(1);

/// Longer silence means that nothing comes any more; more than the longest delay of a test.
const SILENCE: Duration = Duration::from_millis(500);

const RECEIVE_BUFFER_BYTES: usize = 64 << 20;

/// What a TCP transfer reached.
#[derive(Debug, Clone, Copy)]
pub struct Transfer {
    /// Bits of payload per second over the whole transfer but its beginning.
    pub bits_per_s: f64,
    /// Bytes that arrived.
    pub bytes: u64,
    /// Whether they are the bytes that were sent, in order.
    pub intact: bool,
}

/// Sends over one TCP connection with CUBIC for `warm_up` and then `measured`.
pub fn tcp(wan: &Wan, warm_up: Duration, measured: Duration) -> Result<Transfer> {
    prefer_this_thread();
    let (sender, receiver) = connection(wan)?;
    let until = Instant::now() + warm_up + measured;
    let sending = thread::spawn(move || send_pattern(sender, until));
    let transfer = receive_pattern(receiver, Instant::now() + warm_up)?;
    sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok(transfer)
}

fn connection(wan: &Wan) -> Result<(TcpStream, TcpStream)> {
    let listener = wan.far().within(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    let address = SocketAddr::from((wan.far().address(), listener.local_addr()?.port()));
    let sender = wan.near().within(|| TcpStream::connect_timeout(&address, Duration::from_secs(10)))??;
    sockopt::set_tcp_congestion(&sender, "cubic").context("this kernel has no TCP CUBIC")?;
    let receiver = listener.accept()?.0;
    receiver.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok((sender, receiver))
}

fn pattern() -> Vec<u8> {
    (0..PATTERN_BYTES).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn send_pattern(mut sender: TcpStream, until: Instant) -> Result<()> {
    let pattern = pattern();
    while Instant::now() < until {
        sender.write_all(&pattern)?;
    }
    Ok(())
}

fn receive_pattern(mut receiver: TcpStream, measure_from: Instant) -> Result<Transfer> {
    let (pattern, mut buffer) = (pattern(), vec![0; PATTERN_BYTES]);
    let (mut bytes, mut intact, mut begin, mut last) = (0, true, None, Instant::now());
    loop {
        let offset = bytes as usize % PATTERN_BYTES;
        let count = receiver.read(&mut buffer[offset..])?;
        if count == 0 {
            break;
        }
        intact &= buffer[offset..offset + count] == pattern[offset..offset + count];
        bytes += count as u64;
        last = Instant::now();
        if last >= measure_from {
            begin.get_or_insert((last, bytes));
        }
    }
    let (begin, bytes_before) = begin.context("the transfer ended before it was measured")?;
    let bits_per_s = (bytes - bytes_before) as f64 * 8.0 / last.duration_since(begin).as_secs_f64();
    Ok(Transfer { bits_per_s, bytes, intact })
}

/// What became of numbered datagrams.
#[derive(Debug, Clone, PartialEq)]
pub struct Datagrams {
    /// Numbers that did not arrive.
    pub lost: BTreeSet<u32>,
    /// How many arrived after one that was sent later.
    pub overtaken: u32,
    /// How many were not as they were sent.
    pub broken: u32,
}

/// Sends `count` numbered datagrams, a multiple of 32, as super-packets.
pub fn datagrams(wan: &Wan, count: u32) -> Result<Datagrams> {
    prefer_this_thread();
    let receiver = udp_socket(wan.far())?;
    let sender = udp_socket(wan.near())?;
    let to = SocketAddr::from((wan.far().address(), receiver.local_addr()?.port()));
    let sending = thread::spawn(move || send_datagrams(&sender, to, count));
    let seen = receive_datagrams(&receiver, count)?;
    sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok(seen)
}

fn udp_socket(namespace: &Namespace) -> Result<UdpSocket> {
    let socket = namespace.within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES)?;
    socket.set_read_timeout(Some(SILENCE))?;
    Ok(socket)
}

fn datagram(number: u32) -> impl Iterator<Item = u8> {
    let filling = (0..DATAGRAM_BYTES - 4).map(move |n| (n as u32 ^ number) as u8);
    number.to_be_bytes().into_iter().chain(filling)
}

fn send_datagrams(socket: &UdpSocket, to: SocketAddr, count: u32) -> Result<()> {
    let state = UdpSocketState::new(UdpSockRef::from(socket))?;
    ensure!(state.max_gso_segments() >= BURST_DATAGRAMS as usize, "no segmentation offload for UDP");
    socket.set_nonblocking(false)?;
    for burst in 0..count / BURST_DATAGRAMS {
        let numbers = burst * BURST_DATAGRAMS..(burst + 1) * BURST_DATAGRAMS;
        let contents: Vec<u8> = numbers.flat_map(datagram).collect();
        let segment_size = Some(DATAGRAM_BYTES);
        let burst = Transmit { destination: to, ecn: None, contents: &contents, segment_size, src_ip: None };
        state.try_send(UdpSockRef::from(socket), &burst)?;
        sleep(BURST_PAUSE);
    }
    Ok(())
}

fn receive_datagrams(socket: &UdpSocket, count: u32) -> Result<Datagrams> {
    let mut seen = Datagrams { lost: (0..count).collect(), overtaken: 0, broken: 0 };
    let mut buffer = [0; DATAGRAM_BYTES + 1];
    let mut latest = 0;
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => seen.take(&buffer[..length], &mut latest),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(seen);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

impl Datagrams {
    fn take(&mut self, bytes: &[u8], latest: &mut u32) {
        let number = bytes.first_chunk().map_or(u32::MAX, |number| u32::from_be_bytes(*number));
        let is_new = self.lost.remove(&number);
        if !is_new || !datagram(number).eq(bytes.iter().copied()) {
            self.broken += 1;
        }
        self.overtaken += u32::from(number < *latest);
        *latest = number.max(*latest);
    }
}
