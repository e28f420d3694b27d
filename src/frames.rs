//! Packets on a TCP connection, each behind its length in two octets (RFC 4571), as ICE-TCP sends them (RFC 6544 §3).
//!
//! [`Reader`] cuts what comes into packets, [`Writer`] holds what waits to be sent. Neither knows sockets, and what is in
//! a packet matters in one place only: a connection has to begin with a connectivity check, and [`Reader::opening`] says
//! so as soon as the bytes show that it does not. Driven by [`crate::worker`].

use std::collections::VecDeque;

use crate::base::Class;

/// The longest packet that is taken, and so what a length may say: the bound for datagrams.
pub const PACKET_MAX: usize = 1500;

/// Octets of a length.
const LENGTH: usize = 2;

/// The longest packet with its length.
pub const FRAME_MAX: usize = LENGTH + PACKET_MAX;

/// Whether the first byte of a connection can belong to a length. No TLS record and no HTTP request begins with one that
/// can, so this is where they part.
pub fn may_begin(first: u8) -> bool {
    usize::from(first) <= PACKET_MAX >> 8
}

/// Why a connection is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// A length above [`PACKET_MAX`].
    Oversize(usize),
    /// It does not begin with a connectivity check.
    NoCheck,
}

/// What came and was not taken yet.
#[derive(Debug, Default)]
pub struct Reader {
    /// Bounded by the caller's respect for [`Reader::buffered`].
    buffer: Vec<u8>,
    /// Taken, and not yet thrown away.
    taken: usize,
}

impl Reader {
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        // Moves at most the beginning of one packet, when all whole ones were taken.
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Octets that were not taken.
    pub fn buffered(&self) -> usize {
        self.buffer.len() - self.taken
    }

    /// The first packet of a connection once it is complete, without taking it. It has the outside of a STUN binding
    /// request (RFC 8489 §5) that is long enough for a user name; whose it is, and whether it is genuine, is not seen here.
    pub fn opening(&self) -> Result<Option<&[u8]>, Error> {
        let rest = &self.buffer[self.taken..];
        let Some((length, packet)) = split(rest) else {
            return if rest.first().is_none_or(|first| may_begin(*first)) { Ok(None) } else { Err(Error::NoCheck) };
        };
        // STUN counts what follows its head of 20 octets, in words.
        if !(STUN_HEAD + ATTRIBUTE_HEAD..=PACKET_MAX).contains(&length) || length % 4 != 0 {
            return Err(Error::NoCheck);
        }
        let [high, low] = ((length - STUN_HEAD) as u16).to_be_bytes();
        let head = [0, 1, high, low, 0x21, 0x12, 0xa4, 0x42];
        if head.iter().zip(packet).any(|(wanted, got)| wanted != got) {
            return Err(Error::NoCheck);
        }
        Ok(packet.get(..length))
    }

    /// Takes the next packet. Empty ones mean nothing (RFC 4571 §2) and are passed over.
    pub fn poll(&mut self) -> Result<Option<&[u8]>, Error> {
        loop {
            let Some((length, packet)) = split(&self.buffer[self.taken..]) else { return Ok(None) };
            if length > PACKET_MAX {
                return Err(Error::Oversize(length));
            }
            if packet.len() < length {
                return Ok(None);
            }
            let begin = self.taken + LENGTH;
            self.taken = begin + length;
            if length > 0 {
                return Ok(Some(&self.buffer[begin..begin + length]));
            }
        }
    }
}

fn split(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH>()?;
    Some((usize::from(u16::from_be_bytes(*length)), rest))
}

const STUN_HEAD: usize = 20;
const ATTRIBUTE_HEAD: usize = 4;

/// Packets that wait to be sent, in order.
///
/// When full, the oldest video goes first, then the oldest audio, then the oldest control; a packet is never kept at the
/// cost of one that is worth more. So a client that reads too slowly loses what it would see too late anyway.
#[derive(Debug)]
pub struct Writer {
    /// By class; each packet with its place in the order of all.
    queues: [VecDeque<(u64, Vec<u8>)>; 3],
    next: u64,
    /// With the lengths.
    octets: usize,
    octets_max: usize,
    dropped: u64,
}

impl Writer {
    /// `octets_max`: lengths included.
    pub fn new(octets_max: usize) -> Writer {
        Writer { queues: Default::default(), next: 0, octets: 0, octets_max, dropped: 0 }
    }

    /// Queues a packet, or drops it. An empty one is ignored.
    pub fn push(&mut self, class: Class, packet: Vec<u8>) {
        if packet.is_empty() {
            return;
        }
        let size = LENGTH + packet.len();
        if size > self.octets_max || packet.len() > PACKET_MAX {
            self.dropped += 1;
            return;
        }
        while self.octets + size > self.octets_max {
            let mut worthless = [Class::Video, Class::Audio, Class::Control].into_iter().take_while(|c| *c >= class);
            let Some((_, oldest)) = worthless.find_map(|c| self.queues[c as usize].pop_front()) else {
                self.dropped += 1;
                return;
            };
            self.octets -= LENGTH + oldest.len();
            self.dropped += 1;
        }
        self.octets += size;
        self.queues[class as usize].push_back((self.next, packet));
        self.next += 1;
    }

    /// Frames packets to the end of `out` until that has `enough` octets or nothing is left. What is in `out` is never
    /// dropped, so it should be little.
    pub fn fill(&mut self, out: &mut Vec<u8>, enough: usize) {
        while out.len() < enough {
            let first = (0..self.queues.len()).filter_map(|i| Some((self.queues[i].front()?.0, i))).min();
            let Some((_, packet)) = first.and_then(|(_, queue)| self.queues[queue].pop_front()) else { return };
            self.octets -= LENGTH + packet.len();
            // `push` took nothing that would not fit.
            out.extend_from_slice(&(packet.len() as u16).to_be_bytes());
            out.extend_from_slice(&packet);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.octets == 0
    }

    /// Octets that wait.
    pub fn octets(&self) -> usize {
        self.octets
    }

    /// Packets dropped since this was last asked.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(packets: &[&[u8]]) -> Vec<u8> {
        packets.iter().flat_map(|p| [&(p.len() as u16).to_be_bytes(), *p].concat()).collect()
    }

    fn check(body: usize) -> Vec<u8> {
        let mut packet = vec![0, 1, (body >> 8) as u8, body as u8, 0x21, 0x12, 0xa4, 0x42];
        packet.resize(20 + body, 7);
        packet
    }

    fn all(reader: &mut Reader) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| reader.poll().expect("good frames").map(<[u8]>::to_vec)).collect()
    }

    #[test]
    fn packets_come_out_however_the_bytes_are_cut() {
        let packets: [&[u8]; 5] = [b"a", b"", &[9; PACKET_MAX], b"bc", &[1; 300]];
        let wanted: Vec<&[u8]> = packets.iter().copied().filter(|p| !p.is_empty()).collect();
        let bytes = framed(&packets);
        for cut in 0..=bytes.len() {
            let mut reader = Reader::default();
            reader.handle_bytes(&bytes[..cut]);
            let mut got = all(&mut reader);
            reader.handle_bytes(&bytes[cut..]);
            got.append(&mut all(&mut reader));
            assert_eq!(got, wanted, "cut at {cut}");
            assert_eq!(reader.buffered(), 0);
        }
        for chunk in [1, 2, 3, 7] {
            let mut reader = Reader::default();
            let mut got = Vec::new();
            for piece in bytes.chunks(chunk) {
                reader.handle_bytes(piece);
                got.append(&mut all(&mut reader));
                assert!(reader.buffered() < LENGTH + PACKET_MAX);
            }
            assert_eq!(got, wanted);
        }
    }

    #[test]
    fn a_length_above_the_bound_is_an_error_that_stays() {
        let mut reader = Reader::default();
        reader.handle_bytes(&framed(&[b"good"]));
        reader.handle_bytes(&[0x05, 0xdd]);
        assert_eq!(reader.poll(), Ok(Some(b"good".as_slice())));
        assert_eq!(reader.poll(), Err(Error::Oversize(1501)));
        reader.handle_bytes(&[0; 2000]);
        assert_eq!(reader.poll(), Err(Error::Oversize(1501)));
    }

    #[test]
    fn only_a_check_opens_a_connection() {
        let good = framed(&[&check(64), b"more"]);
        for end in 0..good.len() {
            let mut reader = Reader::default();
            reader.handle_bytes(&good[..end]);
            let wanted = (end >= 2 + 84).then(|| &good[2..86]);
            assert_eq!(reader.opening(), Ok(wanted), "after {end} bytes");
        }
        // Every wrong byte of the part that is looked at is seen when it comes, not later.
        for at in 0..10 {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            let mut reader = Reader::default();
            reader.handle_bytes(&bad[..=at]);
            assert_eq!(reader.opening(), Err(Error::NoCheck), "byte {at}");
        }
        for (length, body) in [(20, 0), (22, 2), (1504, 1484), (0, 0)] {
            let mut reader = Reader::default();
            reader.handle_bytes(&(length as u16).to_be_bytes());
            reader.handle_bytes(&check(body));
            assert_eq!(reader.opening(), Err(Error::NoCheck), "{length} octets");
        }
    }

    #[test]
    fn what_tells_the_protocols_apart() {
        assert!((0..=5).all(may_begin));
        for first in b"GETPOSTHEADdelete\r\n \x16\x80\xff" {
            assert!(!may_begin(*first), "{first:#x}");
        }
    }

    #[test]
    fn packets_are_framed_in_order() {
        let mut writer = Writer::new(1000);
        for (class, packet) in
            [(Class::Video, "v1"), (Class::Control, "c1"), (Class::Audio, "a1"), (Class::Video, "v2")]
        {
            writer.push(class, packet.into());
        }
        writer.push(Class::Audio, Vec::new());
        assert_eq!(writer.octets(), 16);
        let mut out = b"before".to_vec();
        writer.fill(&mut out, 7);
        assert_eq!(out, b"before\0\x02v1", "no more than is needed");
        writer.fill(&mut out, usize::MAX);
        assert_eq!(out, b"before\0\x02v1\0\x02c1\0\x02a1\0\x02v2");
        assert!(writer.is_empty());
        assert_eq!(writer.take_dropped(), 0);
    }

    #[test]
    fn a_full_queue_drops_the_least_worth_and_the_oldest() {
        let left = |writer: &mut Writer| {
            let mut out = Vec::new();
            writer.fill(&mut out, usize::MAX);
            let mut reader = Reader::default();
            reader.handle_bytes(&out);
            all(&mut reader).into_iter().map(|p| String::from_utf8(p).unwrap()).collect::<Vec<_>>().join(" ")
        };
        let rows = [
            ("v1 v2 v3 v4 v5", "v2 v3 v4 v5", 1),
            ("v1 a1 a2 v2 a3 a4", "a1 a2 a3 a4", 2),
            ("a1 a2 a3 a4 v1", "a1 a2 a3 a4", 1),
            ("a1 c1 c2 c3 a2", "c1 c2 c3 a2", 1),
            ("c1 c2 c3 c4 a1 v1", "c1 c2 c3 c4", 2),
            ("c1 c2 c3 c4 c5", "c2 c3 c4 c5", 1),
            ("v1 a1 c1 v2 c2 c3", "a1 c1 c2 c3", 2),
        ];
        for (pushed, kept, dropped) in rows {
            let mut writer = Writer::new(4 * 4);
            for packet in pushed.split(' ') {
                let class = match packet.as_bytes()[0] {
                    b'c' => Class::Control,
                    b'a' => Class::Audio,
                    _ => Class::Video,
                };
                writer.push(class, packet.into());
                assert!(writer.octets() <= 16);
            }
            assert_eq!(left(&mut writer), kept, "{pushed}");
            assert_eq!(writer.take_dropped(), dropped, "{pushed}");
            assert!(writer.is_empty() && writer.octets() == 0);
        }
        let mut writer = Writer::new(1 << 20);
        writer.push(Class::Control, vec![0; PACKET_MAX + 1]);
        assert!(writer.is_empty() && writer.take_dropped() == 1, "the other side would not take it");
    }
}
