//! TLS 1.3 over one TCP socket, on rustls's interface without buffers: bytes are decrypted where the socket put
//! them and copied to where they are wanted; what is sent goes to the kernel a chunk at a time.
//!
//! *Invariants:* no byte is handed on or taken before both sides have proved who they are; what is held of a
//! peer's bytes is bounded by the buffer that was chosen when the stream was made.

use super::LaneError;
use bytes::Bytes;
use globalfs_proto::limits::CHUNK_SIZE;
use rustls::client::{ClientConfig, UnbufferedClientConnection};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ServerConfig, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use std::io::ErrorKind::WouldBlock;
use std::sync::Arc;
use tokio::net::TcpStream;

/// What a client takes from the socket at a time: two chunks, so that a system call is rare.
const CLIENT_BUFFER: usize = 256 * 1024;

/// The same for a server, which is sent short requests: room for a handshake's largest message.
const SERVER_BUFFER: usize = 80 * 1024;

/// Bytes that are encrypted before they go to the kernel: a chunk.
const PIECE: usize = CHUNK_SIZE as usize;

/// Bytes of content in one record (RFC 8446, section 5.1).
const RECORD_BYTES: usize = 16 * 1024;

/// What a record adds to them: its header, the type of its content, and a tag; rounded up.
const RECORD_EXTRA: usize = 32;

/// A connection whose handshake is over.
pub(crate) struct Secure {
    socket: Arc<TcpStream>,
    tls: Side,
    /// What came from the socket; what lies between the marks is still to be looked at.
    incoming: Box<[u8]>,
    start: usize,
    end: usize,
    /// Content for which there was no room yet, and how much of it has been taken since.
    rest: Vec<u8>,
    taken: usize,
    /// Its beginning is to go to the socket; the rest is room that need not be zeroed again.
    outgoing: Outgoing,
    records_sent: u64,
}

enum Side {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// Bytes for the socket.
#[derive(Default)]
struct Outgoing {
    room: Vec<u8>,
    filled: usize,
}

/// Where content goes: the caller's room first, then the rest.
struct Sink<'a> {
    room: &'a mut [u8],
    filled: usize,
    rest: &'a mut Vec<u8>,
}

/// What rustls needs next.
enum Step {
    /// Go on: it has more to say.
    Again,
    /// Send what is outgoing.
    Send,
    /// Read from the socket.
    Receive,
    /// Read from the socket, or send something.
    Ready,
    /// Content was handed out.
    Content,
    /// The peer has ended the connection.
    Closed,
}

impl Secure {
    /// Shakes hands as the one who connects, with a server that has to prove that it is `host`.
    pub(crate) async fn connect(
        socket: TcpStream,
        config: Arc<ClientConfig>,
        host: ServerName<'static>,
    ) -> Result<Self, LaneError> {
        let tls = Side::Client(Box::new(UnbufferedClientConnection::new(config, host)?));
        Self::begin(socket, tls, CLIENT_BUFFER).await
    }

    /// Shakes hands as the one who was connected to.
    pub(crate) async fn accept(socket: TcpStream, config: Arc<ServerConfig>) -> Result<Self, LaneError> {
        let tls = Side::Server(Box::new(UnbufferedServerConnection::new(config)?));
        Self::begin(socket, tls, SERVER_BUFFER).await
    }

    async fn begin(socket: TcpStream, tls: Side, buffer: usize) -> Result<Self, LaneError> {
        let mut secure = Self {
            socket: Arc::new(socket),
            tls,
            incoming: vec![0; buffer].into(),
            start: 0,
            end: 0,
            rest: Vec::new(),
            taken: 0,
            outgoing: Outgoing::default(),
            records_sent: 0,
        };
        secure.shake_hands().await?;
        if secure.tls.alpn() != Some(crate::tls::ALPN) {
            return Err(LaneError::Protocol("it speaks another protocol"));
        }
        Ok(secure)
    }

    async fn shake_hands(&mut self) -> Result<(), LaneError> {
        loop {
            match self.advance(&mut []) {
                // An alert may be waiting that tells the peer what was wrong.
                Err(error) => {
                    let _ = self.send_alert().await;
                    return Err(error);
                }
                Ok((Step::Again, _)) => {}
                Ok((Step::Send, _)) => self.flush().await?,
                // The peer's first words may have come with the end of its handshake.
                Ok((Step::Ready | Step::Content, _)) if !self.tls.is_handshaking() => return Ok(()),
                Ok((Step::Ready | Step::Content | Step::Receive, _)) => self.receive().await?,
                Ok((Step::Closed, _)) => return Err(LaneError::Closed),
            }
        }
    }

    async fn send_alert(&mut self) -> Result<(), LaneError> {
        // So long as something waits rustls does not look again at what came and failed, which it must not do.
        while self.tls.has_to_send() {
            self.advance(&mut [])?;
        }
        self.flush().await
    }

    /// The certificates that the peer has shown, its own first.
    pub(crate) fn certificates(&self) -> Option<&[CertificateDer<'static>]> {
        match &self.tls {
            Side::Client(tls) => tls.peer_certificates(),
            Side::Server(tls) => tls.peer_certificates(),
        }
    }

    /// Records that went out under this connection's keys.
    pub(crate) fn records_sent(&self) -> u64 {
        self.records_sent
    }

    /// Fills `room`. [`LaneError::Closed`] when the peer ended the connection before. Not cancel-safe: bytes that
    /// were taken are gone.
    pub(crate) async fn fill(&mut self, room: &mut [u8]) -> Result<(), LaneError> {
        let mut filled = self.take_rest(room);
        while filled < room.len() {
            let (step, content) = self.advance(&mut room[filled..])?;
            filled += content;
            match step {
                Step::Again | Step::Content => {}
                Step::Send => self.flush().await?,
                Step::Ready | Step::Receive => self.receive().await?,
                Step::Closed => return Err(LaneError::Closed),
            }
        }
        Ok(())
    }

    fn take_rest(&mut self, room: &mut [u8]) -> usize {
        let left = &self.rest[self.taken..];
        let length = left.len().min(room.len());
        room[..length].copy_from_slice(&left[..length]);
        self.taken += length;
        if self.taken == self.rest.len() {
            self.rest.clear();
            self.taken = 0;
        }
        length
    }

    /// Sends `parts` one after the other. Not cancel-safe: what was begun has to be ended.
    pub(crate) async fn send(&mut self, parts: &[Bytes]) -> Result<(), LaneError> {
        for piece in parts.iter().flat_map(|part| part.chunks(PIECE)) {
            self.encrypt(piece)?;
            // The peer decrypts it while the next one is encrypted, and it is in the processor's cache until then.
            if self.outgoing.filled >= PIECE {
                self.flush().await?;
            }
        }
        self.flush().await
    }

    /// Gives the memory of what was sent back until more is to be sent.
    pub(crate) fn rest(&mut self) {
        self.outgoing = Outgoing::default();
    }

    /// Waits until something comes from the peer, its farewell included.
    pub(crate) async fn stirs(&self) {
        if self.is_silent() {
            self.socket_stirs().await;
        }
    }

    /// Resolves when something comes from the socket that was not read: of a peer that is to be silent it means
    /// that the peer, or the way to it, is gone.
    pub(crate) fn socket_stirs(&self) -> impl Future<Output = ()> + Send + 'static {
        let socket = self.socket.clone();
        async move { drop(socket.peek(&mut [0]).await) }
    }

    /// Whether nothing came that was not asked for.
    pub(crate) fn is_quiet(&self) -> bool {
        let came = rustix::net::recv(&*self.socket, &mut [0; 1], rustix::net::RecvFlags::PEEK);
        self.is_silent() && matches!(came, Err(rustix::io::Errno::AGAIN))
    }

    fn is_silent(&self) -> bool {
        self.start == self.end && self.rest.is_empty()
    }

    fn encrypt(&mut self, part: &[u8]) -> Result<(), LaneError> {
        let records = part.len().div_ceil(RECORD_BYTES).max(1);
        let incoming = &mut self.incoming[self.start..self.end];
        let room = self.outgoing.room_for(part.len() + records * RECORD_EXTRA);
        let (discard, sealed) = match &mut self.tls {
            Side::Client(tls) => seal(tls.process_tls_records(incoming), part, room),
            Side::Server(tls) => seal(tls.process_tls_records(incoming), part, room),
        };
        self.start += discard;
        self.outgoing.filled += sealed?;
        self.records_sent += records as u64;
        Ok(())
    }

    /// Lets rustls look at what came; what it needs next, and how much of `room` was filled.
    fn advance(&mut self, room: &mut [u8]) -> Result<(Step, usize), LaneError> {
        let incoming = &mut self.incoming[self.start..self.end];
        let mut sink = Sink { room, filled: 0, rest: &mut self.rest };
        let (discard, step) = match &mut self.tls {
            Side::Client(tls) => handle(tls.process_tls_records(incoming), &mut self.outgoing, &mut sink),
            Side::Server(tls) => handle(tls.process_tls_records(incoming), &mut self.outgoing, &mut sink),
        };
        self.start += discard;
        Ok((step?, sink.filled))
    }

    /// Reads what is there, at least something.
    async fn receive(&mut self) -> Result<(), LaneError> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.incoming.len() - self.end < RECORD_BYTES {
            // A record's beginning, as a rule.
            self.incoming.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.incoming.len() {
            return Err(LaneError::Protocol("it sent a message that is too long"));
        }
        loop {
            match self.socket.try_read(&mut self.incoming[self.end..]) {
                Ok(0) => return Err(LaneError::Closed),
                Ok(read) => {
                    self.end += read;
                    return Ok(());
                }
                Err(error) if error.kind() == WouldBlock => self.socket.readable().await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn flush(&mut self) -> Result<(), LaneError> {
        let mut sent = 0;
        while sent < self.outgoing.filled {
            match self.socket.try_write(&self.outgoing.room[sent..self.outgoing.filled]) {
                Ok(written) => sent += written,
                Err(error) if error.kind() == WouldBlock => self.socket.writable().await?,
                Err(error) => return Err(error.into()),
            }
        }
        self.outgoing.filled = 0;
        Ok(())
    }
}

impl Outgoing {
    /// Room for at least `length` more bytes.
    fn room_for(&mut self, length: usize) -> &mut [u8] {
        let end = self.filled + length;
        if self.room.len() < end {
            self.room.resize(end, 0);
        }
        &mut self.room[self.filled..]
    }
}

impl Side {
    fn is_handshaking(&self) -> bool {
        match self {
            Self::Client(tls) => tls.is_handshaking(),
            Self::Server(tls) => tls.is_handshaking(),
        }
    }

    fn has_to_send(&self) -> bool {
        match self {
            Self::Client(tls) => tls.wants_write(),
            Self::Server(tls) => tls.wants_write(),
        }
    }

    fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Client(tls) => tls.alpn_protocol(),
            Self::Server(tls) => tls.alpn_protocol(),
        }
    }
}

impl Sink<'_> {
    fn put(&mut self, content: &[u8]) {
        let room = &mut self.room[self.filled..];
        let length = room.len().min(content.len());
        room[..length].copy_from_slice(&content[..length]);
        self.filled += length;
        self.rest.extend_from_slice(&content[length..]);
    }
}

/// Does what rustls asks for, as far as it can be done without the socket. The number is of bytes that it has
/// seen for good.
fn handle<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    outgoing: &mut Outgoing,
    sink: &mut Sink<'_>,
) -> (usize, Result<Step, LaneError>) {
    let mut discard = status.discard;
    let step = match status.state {
        Err(error) => Err(error.into()),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    sink.put(record.payload);
                }
                Some(Err(error)) => break Err(error.into()),
                None => break Ok(Step::Content),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let needed = match data.encode(&mut []) {
                Err(EncodeError::InsufficientSize(needed)) => needed.required_size,
                _ => 0,
            };
            match data.encode(outgoing.room_for(needed)) {
                Ok(written) => {
                    outgoing.filled += written;
                    Ok(Step::Again)
                }
                Err(_) => Err(LaneError::Protocol("its handshake cannot be answered")),
            }
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Step::Send)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Receive),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Ready),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Step::Closed),
        Ok(_) => Err(LaneError::Protocol("it sent data before its handshake")),
    };
    (discard, step)
}

/// `part` as records in `room`; how long they are.
fn seal<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    part: &[u8],
    room: &mut [u8],
) -> (usize, Result<usize, LaneError>) {
    let sealed = match status.state {
        Err(error) => Err(error.into()),
        Ok(ConnectionState::WriteTraffic(mut traffic)) => {
            traffic.encrypt(part, room).map_err(|error| match error {
                EncryptError::EncryptExhausted => LaneError::Protocol("its keys are used up"),
                EncryptError::InsufficientSize(_) => unreachable!("there is room for each record's extra"),
            })
        }
        Ok(_) => Err(LaneError::Protocol("it sent something out of turn")),
    };
    (status.discard, sealed)
}
