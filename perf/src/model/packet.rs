//! IP packets as a TUN device with offloads gives them: a `virtio_net_hdr`, then a packet, which may be a
//! super-packet that stands for many segments of TCP or UDP. Cuts super-packets as segmentation would.
//!
//! Formats: Virtual I/O Device 1.2, section 5.1.6; RFC 791, 768, 8200, 9293.
//! *Invariant:* whatever the bytes are, nothing here panics; what is not understood is one plain packet.

use std::ops::Range;

/// Bytes before each packet: flags, kind, header length, segment size, checksum start, checksum offset.
pub const VNET_HEADER_BYTES: usize = 10;

const GSO_KIND: usize = 1;
const GSO_HEADER_BYTES: Range<usize> = 2..4;
const GSO_SEGMENT_BYTES: Range<usize> = 4..6;
const CHECKSUM_START: Range<usize> = 6..8;
const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP: u8 = 5;
/// Set beside the kind where the first segment alone carries CWR.
const GSO_ECN: u8 = 0x80;

const TCP_FIN_PSH: u8 = 0x01 | 0x08;
const TCP_CWR: u8 = 0x80;
const UDP_HEADER_BYTES: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
}

/// How a super-packet is made up; offsets count from the IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Super {
    protocol: Protocol,
    is_v6: bool,
    transport: usize,
    payload: usize,
    segment_bytes: usize,
}

/// A packet as it was read, its `virtio_net_hdr` first.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    frame: &'a [u8],
    parts: Option<Super>,
}

impl<'a> Packet<'a> {
    /// Understands a frame; nothing if it is shorter than its `virtio_net_hdr`.
    pub fn parse(frame: &'a [u8]) -> Option<Self> {
        let (header, ip) = frame.split_at_checked(VNET_HEADER_BYTES)?;
        Some(Self { frame, parts: Super::parse(header, ip) })
    }

    /// How many packets this is on the wire.
    pub fn segments(&self) -> u32 {
        self.parts.map_or(1, |parts| (self.ip().len() - parts.payload).div_ceil(parts.segment_bytes) as u32)
    }

    /// Bytes of that segment on the wire, with its headers.
    pub fn wire_bytes(&self, segment: u32) -> u32 {
        let bytes = self
            .parts
            .map_or(self.ip().len(), |parts| parts.payload + self.payload_of(&parts, segment, 1).len());
        bytes as u32
    }

    /// Bytes of the frame that [`Self::cut`] makes.
    pub fn frame_bytes(&self, first: u32, count: u32) -> usize {
        self.parts.map_or(self.frame.len(), |parts| {
            VNET_HEADER_BYTES + parts.payload + self.payload_of(&parts, first, count).len()
        })
    }

    /// Writes the frame of `count` segments from `first` to `out`, as segmentation offload would have made it.
    pub fn cut(&self, first: u32, count: u32, out: &mut Vec<u8>) {
        out.clear();
        let Some(parts) = self.parts else { return out.extend_from_slice(self.frame) };
        let payload = self.payload_of(&parts, first, count);
        out.extend_from_slice(&self.frame[..VNET_HEADER_BYTES + parts.payload]);
        out.extend_from_slice(&self.ip()[payload.clone()]);
        let (header, ip) = out.split_at_mut(VNET_HEADER_BYTES);
        let is_last = payload.end == self.ip().len();
        fix_vnet(header, first, count);
        parts.fix_transport(ip, first, is_last);
        parts.fix_ip(ip, first);
        parts.start_checksum(ip);
    }

    fn ip(&self) -> &'a [u8] {
        &self.frame[VNET_HEADER_BYTES..]
    }

    fn payload_of(&self, parts: &Super, first: u32, count: u32) -> Range<usize> {
        let end = self.ip().len();
        let start = parts.payload + first as usize * parts.segment_bytes;
        start.min(end)..(start + count as usize * parts.segment_bytes).min(end)
    }
}

impl Super {
    fn parse(header: &[u8], ip: &[u8]) -> Option<Self> {
        let protocol = match header[GSO_KIND] & !GSO_ECN {
            GSO_TCP4 | GSO_TCP6 => Protocol::Tcp,
            GSO_UDP => Protocol::Udp,
            _ => return None,
        };
        let is_v6 = match ip.first()? >> 4 {
            4 => false,
            6 => true,
            _ => return None,
        };
        let transport = usize::from(native(&header[CHECKSUM_START]));
        let payload = transport + protocol.header_bytes(ip.get(transport..)?)?;
        let segment_bytes = usize::from(native(&header[GSO_SEGMENT_BYTES]));
        let is_whole = transport >= if is_v6 { 40 } else { 20 } && segment_bytes > 0;
        let is_super = is_whole && ip.len() > payload + segment_bytes;
        is_super.then_some(Self { protocol, is_v6, transport, payload, segment_bytes })
    }

    /// Sequence number and flags of TCP, length of UDP.
    fn fix_transport(&self, ip: &mut [u8], first: u32, is_last: bool) {
        let length = (ip.len() - self.transport) as u16;
        let transport = &mut ip[self.transport..];
        match self.protocol {
            Protocol::Udp => put(&mut transport[4..6], length),
            Protocol::Tcp => {
                let skipped = first.wrapping_mul(self.segment_bytes as u32);
                let sequence = u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]);
                transport[4..8].copy_from_slice(&sequence.wrapping_add(skipped).to_be_bytes());
                transport[13] &= !tcp_flags_of_others(first, is_last);
            }
        }
    }

    /// Length, and for IPv4 identification and checksum.
    fn fix_ip(&self, ip: &mut [u8], first: u32) {
        let length = ip.len();
        if self.is_v6 {
            return put(&mut ip[4..6], (length - 40) as u16);
        }
        put(&mut ip[2..4], length as u16);
        let identification = u16::from_be_bytes([ip[4], ip[5]]).wrapping_add(first as u16);
        put(&mut ip[4..6], identification);
        put(&mut ip[10..12], 0);
        let checksum = !folded(sum(&ip[..self.transport]));
        put(&mut ip[10..12], checksum);
    }

    /// What a checksum begins with that somebody else completes: the sum over the pseudo header.
    fn start_checksum(&self, ip: &mut [u8]) {
        let (addresses, number, at) = match self.protocol {
            Protocol::Tcp => (self.addresses(), 6, self.transport + 16),
            Protocol::Udp => (self.addresses(), 17, self.transport + 6),
        };
        let length = (ip.len() - self.transport) as u32;
        let start = folded(sum(&ip[addresses]) + number + length);
        put(&mut ip[at..at + 2], start);
    }

    fn addresses(&self) -> Range<usize> {
        if self.is_v6 { 8..40 } else { 12..20 }
    }
}

impl Protocol {
    fn header_bytes(self, transport: &[u8]) -> Option<usize> {
        let bytes = match self {
            Self::Udp => UDP_HEADER_BYTES,
            Self::Tcp => usize::from(transport.get(12)? >> 4) * 4,
        };
        (bytes >= UDP_HEADER_BYTES && (self == Self::Udp || bytes >= 20) && transport.len() >= bytes)
            .then_some(bytes)
    }
}

/// A single segment is no super-packet any more.
fn fix_vnet(header: &mut [u8], first: u32, count: u32) {
    if first > 0 {
        header[GSO_KIND] &= !GSO_ECN;
    }
    if count == 1 {
        header[GSO_KIND] = GSO_NONE;
        header[GSO_HEADER_BYTES].fill(0);
        header[GSO_SEGMENT_BYTES].fill(0);
    }
}

/// Flags that belong to the last segment or to the first one alone.
fn tcp_flags_of_others(first: u32, is_last: bool) -> u8 {
    let of_last = if is_last { 0 } else { TCP_FIN_PSH };
    let of_first = if first == 0 { 0 } else { TCP_CWR };
    of_last | of_first
}

fn native(bytes: &[u8]) -> u16 {
    u16::from_ne_bytes([bytes[0], bytes[1]])
}

fn put(bytes: &mut [u8], value: u16) {
    bytes.copy_from_slice(&value.to_be_bytes());
}

/// The sum of the bytes as big-endian words, not folded yet.
pub(super) fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|pair| (u32::from(pair[0]) << 8) | u32::from(*pair.get(1).unwrap_or(&0)));
    words.sum()
}

/// The ones' complement sum of RFC 1071.
pub(super) fn folded(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}
