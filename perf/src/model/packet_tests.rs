//! Cutting super-packets against packets that were built one by one.

use super::link::{Direction, Verdict};
use super::options::LinkOptions;
use super::packet::{Packet, VNET_HEADER_BYTES, folded, sum};
use super::unit::{MAX_UNIT_NS, Unit, offer};
use proptest::prelude::*;

const FIN_PSH_ACK: u8 = 0x19;
const ACK: u8 = 0x10;
const CWR: u8 = 0x80;
const ECN: u8 = 0x80;

/// What a frame is built from: everything that segmentation may change or has to keep.
#[derive(Debug, Clone)]
struct Parts {
    is_tcp: bool,
    is_v6: bool,
    identification: u16,
    sequence: u32,
    flags: u8,
    tcp_options: usize,
    segment_bytes: u16,
    payload: Vec<u8>,
}

fn parts() -> impl Strategy<Value = Parts> {
    let header = (any::<bool>(), any::<bool>(), any::<u16>(), any::<u32>(), 0..=10_usize);
    let body = (1..=9000_u16, (1..30_000_usize, any::<u8>()), any::<bool>());
    (header, body).prop_map(|(header, (segment_bytes, (length, first), has_cwr))| {
        let (is_tcp, is_v6, identification, sequence, words) = header;
        let flags = FIN_PSH_ACK | if has_cwr { CWR } else { 0 };
        let tcp_options = words * 4;
        let payload = (0..length).map(|n| (n * n) as u8 ^ first).collect();
        Parts { is_tcp, is_v6, identification, sequence, flags, tcp_options, segment_bytes, payload }
    })
}

impl Parts {
    fn segments(&self) -> u32 {
        self.payload.len().div_ceil(self.segment_bytes.into()) as u32
    }

    /// The parts of a run of segments, by the definition of segmentation.
    fn run(&self, first: u32, count: u32) -> Self {
        let size = usize::from(self.segment_bytes);
        let (start, end) = (first as usize * size, (first + count) as usize * size);
        let end = end.min(self.payload.len());
        let is_last = end == self.payload.len();
        let mut flags = if is_last { self.flags } else { self.flags & CWR | ACK };
        flags &= if first == 0 { 0xff } else { !CWR };
        Self {
            identification: self.identification.wrapping_add(first as u16),
            sequence: self.sequence.wrapping_add(start as u32),
            flags,
            payload: self.payload[start..end].to_vec(),
            ..self.clone()
        }
    }

    fn frame(&self) -> Vec<u8> {
        let transport = self.transport();
        let ip = self.ip(&transport);
        let mut frame = self.vnet(ip.len());
        frame.extend([ip, transport, self.payload.clone()].concat());
        frame
    }

    fn vnet(&self, transport_at: usize) -> Vec<u8> {
        let is_super = self.payload.len() > self.segment_bytes.into();
        let kind = match (self.is_tcp, self.is_v6) {
            (false, _) => 5,
            (_, false) => 1,
            _ => 4,
        };
        let ecn = if self.is_tcp && self.flags & CWR != 0 { ECN } else { 0 };
        // The frame of one segment that was cut keeps no ECN bit, as its kind is none at all.
        let kind = if is_super { kind | ecn } else { 0 };
        let checksum_at = if self.is_tcp { 16_u16 } else { 6 };
        let mut vnet = vec![1, kind];
        for field in [0, if is_super { self.segment_bytes } else { 0 }, transport_at as u16, checksum_at] {
            vnet.extend(field.to_ne_bytes());
        }
        vnet
    }

    fn transport(&self) -> Vec<u8> {
        let header_bytes = if self.is_tcp { 20 + self.tcp_options } else { 8 };
        let length = header_bytes + self.payload.len();
        let number = if self.is_tcp { 6_u16 } else { 17 };
        let pseudo = [self.addresses(), number.to_be_bytes().into(), (length as u16).to_be_bytes().into()];
        let start = folded(sum(&pseudo.concat())).to_be_bytes();
        let mut header = vec![0x12, 0x34, 0x56, 0x78];
        if self.is_tcp {
            header.extend(self.sequence.to_be_bytes());
            header.extend([9, 9, 9, 9, (header_bytes as u8 / 4) << 4, self.flags, 0xff, 0xff]);
            header.extend(start);
            header.extend([0, 0]);
            header.extend(vec![1; self.tcp_options]);
        } else {
            header.extend((length as u16).to_be_bytes());
            header.extend(start);
        }
        header
    }

    fn addresses(&self) -> Vec<u8> {
        (0..if self.is_v6 { 32 } else { 8 }).map(|n| 0x21 + n).collect()
    }

    fn ip(&self, transport: &[u8]) -> Vec<u8> {
        let length = transport.len() + self.payload.len();
        let number = if self.is_tcp { 6 } else { 17 };
        let mut ip = Vec::new();
        if self.is_v6 {
            ip.extend([0x60, 0, 0, 0]);
            ip.extend((length as u16).to_be_bytes());
            ip.extend([number, 64]);
            ip.extend(self.addresses());
            return ip;
        }
        ip.extend([0x45, 0]);
        ip.extend((length as u16 + 20).to_be_bytes());
        ip.extend(self.identification.to_be_bytes());
        ip.extend([0x40, 0, 64, number, 0, 0]);
        ip.extend(self.addresses());
        let checksum = !folded(sum(&ip));
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        ip
    }
}

proptest! {
    #[test]
    fn a_cut_is_what_would_have_been_built(parts in parts(), from in any::<u32>(), count in any::<u32>()) {
        let frame = parts.frame();
        let packet = Packet::parse(&frame).unwrap();
        prop_assert_eq!(packet.segments(), parts.segments());
        let first = from % parts.segments();
        let count = count % (parts.segments() - first) + 1;
        let mut cut = Vec::new();
        packet.cut(first, count, &mut cut);
        prop_assert_eq!(packet.frame_bytes(first, count), cut.len());
        prop_assert_eq!(cut, parts.run(first, count).frame());
    }

    #[test]
    fn the_wire_carries_the_headers_of_each_segment(parts in parts()) {
        let frame = parts.frame();
        let packet = Packet::parse(&frame).unwrap();
        for segment in 0..packet.segments() {
            let alone = parts.run(segment, 1).frame();
            prop_assert_eq!(packet.wire_bytes(segment) as usize, alone.len() - VNET_HEADER_BYTES);
        }
    }

    #[test]
    fn no_bytes_are_a_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..6_u8, version in 0..8_u8, at in 0..64_u16,
    ) {
        if bytes.len() > VNET_HEADER_BYTES {
            bytes[1] = kind;
            bytes[6..8].copy_from_slice(&at.to_ne_bytes());
            bytes[VNET_HEADER_BYTES] = version << 4;
        }
        let Some(packet) = Packet::parse(&bytes) else { return Ok(()) };
        let mut out = Vec::new();
        for segment in 0..packet.segments() {
            packet.cut(segment, 1, &mut out);
            prop_assert_eq!(out.len(), VNET_HEADER_BYTES + packet.wire_bytes(segment) as usize);
        }
    }

    #[test]
    fn units_are_the_segments_that_arrive(
        parts in parts(), loss in 0.0..0.6, reorder in 0.0..0.4, rate in 1_000_000..10_000_000_000_u64, seed: u64,
    ) {
        let rate_bits_per_s = Some(rate);
        let options = LinkOptions { loss, reorder, rate_bits_per_s, seed, ..LinkOptions::default() };
        let frame = parts.frame();
        let packet = Packet::parse(&frame).unwrap();
        let mut units = Vec::new();
        let tally = offer(&mut Direction::new(options.clone(), 0), 7_000, &packet, &mut units);

        let mut alone = Direction::new(options, 0);
        let verdicts = (0..packet.segments()).map(|segment| alone.offer(7_000, packet.wire_bytes(segment)));
        let verdicts: Vec<Verdict> = verdicts.collect();
        let arrivals: Vec<(u32, u64)> = (0..).zip(&verdicts).filter_map(|(segment, verdict)| match verdict {
            Verdict::Arrives { at_ns, .. } => Some((segment, *at_ns)),
            _ => None,
        }).collect();
        let covered: Vec<u32> = units.iter().flat_map(|unit| unit.first..unit.first + unit.count).collect();
        prop_assert_eq!(covered, arrivals.iter().map(|(segment, _)| *segment).collect::<Vec<_>>());
        for Unit { first, count, at_ns } in units {
            let of_unit = arrivals.iter().filter(|(segment, _)| (first..first + count).contains(segment));
            let times: Vec<u64> = of_unit.map(|(_, at_ns)| *at_ns).collect();
            prop_assert_eq!(times.last(), Some(&at_ns));
            prop_assert!(at_ns - times[0] <= MAX_UNIT_NS);
        }
        let count = |wanted: Verdict| verdicts.iter().filter(|verdict| **verdict == wanted).count() as u64;
        prop_assert_eq!(tally.packets, arrivals.len() as u64);
        prop_assert_eq!((tally.lost, tally.queue_full), (count(Verdict::Lost), count(Verdict::QueueFull)));
    }
}

#[test]
fn a_fast_link_delivers_a_super_packet_at_once() {
    let parts = Parts {
        is_tcp: true,
        is_v6: false,
        identification: 1,
        sequence: 2,
        flags: ACK,
        tcp_options: 12,
        segment_bytes: 1448,
        payload: vec![7; 20 * 1448],
    };
    let frame = parts.frame();
    let packet = Packet::parse(&frame).unwrap();
    let units = |rate_bits_per_s| {
        let mut units = Vec::new();
        let options = LinkOptions { rate_bits_per_s, ..LinkOptions::default() };
        offer(&mut Direction::new(options, 0), 0, &packet, &mut units);
        units.len()
    };
    assert_eq!((units(None), units(Some(1_000_000_000))), (1, 1));
    assert_eq!(units(Some(100_000_000)), 7, "three full packets are within 0.25 ms");
    assert_eq!(units(Some(1_000_000)), 20);
}
