//! Synthetic media: payloads that say who made them, of which frame they are, and when.

/// What a payload carries at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    pub video: bool,
    /// Index of the client that made it.
    pub client: u32,
    pub room: u32,
    /// Frame, counted from 0.
    pub frame: u32,
    /// Packet of the frame, and how many it has.
    pub index: u8,
    pub count: u8,
    pub key: bool,
    /// Milliseconds of virtual time.
    pub sent_ms: u32,
}

const MAGIC: [u8; 2] = [0x5a, 0xc3];
const LENGTH: usize = 22;

impl Tag {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend(MAGIC);
        out.extend([u8::from(self.video), self.index, self.count, u8::from(self.key)]);
        for n in [self.client, self.room, self.frame, self.sent_ms] {
            out.extend(n.to_be_bytes());
        }
    }

    pub fn read(payload: &[u8]) -> Option<Tag> {
        let tail = payload.get(payload.len().checked_sub(LENGTH)?..)?;
        let number = |at: usize| u32::from_be_bytes(tail[at..at + 4].try_into().unwrap());
        (tail[..2] == MAGIC).then(|| Tag {
            video: tail[2] == 1,
            index: tail[3],
            count: tail[4],
            key: tail[5] == 1,
            client: number(6),
            room: number(10),
            frame: number(14),
            sent_ms: number(18),
        })
    }
}

/// An Opus payload: opaque to everyone but the receiver.
pub fn opus(tag: &Tag, octets: usize) -> Vec<u8> {
    let mut out = vec![0x78; octets.saturating_sub(LENGTH)];
    tag.write(&mut out);
    out
}

/// A VP8 payload: descriptor with 15-bit picture id and TL0PICIDX (RFC 7741 §4.2), frame head in the first packet.
pub fn vp8(tag: &Tag, picture_id: u16, tl0: u8, octets: usize) -> Vec<u8> {
    let start = if tag.index == 0 { 0x10 } else { 0 };
    let mut out = vec![0x80 | start, 0xe0, 0x80 | (picture_id >> 8) as u8 & 0x7f, picture_id as u8, tl0, 0x00];
    if tag.index == 0 {
        // Frame tag (RFC 6386 §9.1): the lowest bit is 0 for a key frame; a start code and the size follow then.
        out.extend([if tag.key { 0x10 } else { 0x11 }, 0x02, 0x00]);
        if tag.key {
            out.extend([0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00]);
        }
    }
    let room = octets.saturating_sub(LENGTH);
    if out.len() < room {
        out.resize(room, 0x55);
    }
    tag.write(&mut out);
    out
}

/// The picture id of a payload made by [`vp8`].
pub fn picture_id(payload: &[u8]) -> Option<u16> {
    match payload {
        [a, b, hi, lo, ..] if a & 0x80 != 0 && b & 0x80 != 0 && hi & 0x80 != 0 => {
            Some(u16::from_be_bytes([hi & 0x7f, *lo]))
        }
        _ => None,
    }
}
