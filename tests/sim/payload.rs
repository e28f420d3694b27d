//! Synthetic media: payloads that say who made them, of which frame they are, on which frames it depends, and when it was made.

/// What a track shows or tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    Microphone,
    Camera,
    Screen,
    ScreenAudio,
}

impl Source {
    pub const ALL: [Source; 4] = [Source::Microphone, Source::Camera, Source::Screen, Source::ScreenAudio];

    pub fn is_video(self) -> bool {
        matches!(self, Source::Camera | Source::Screen)
    }

    /// As signaling names it.
    pub fn name(self) -> &'static str {
        match self {
            Source::Microphone => "microphone",
            Source::Camera => "camera",
            Source::Screen => "screen",
            Source::ScreenAudio => "screen-audio",
        }
    }

    pub fn named(name: &str) -> Option<Source> {
        Source::ALL.into_iter().find(|s| s.name() == name)
    }
}

/// No frame; see [`Tag::needs`].
pub const NONE: u32 = u32::MAX;

/// What a payload carries at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    pub source: Source,
    /// Index of the client that made it.
    pub client: u32,
    pub room: u32,
    /// Which encoding of the track, and which layer of it.
    pub encoding: u8,
    pub spatial: u8,
    pub temporal: u8,
    pub width: u16,
    /// The picture, counted over all encodings of the track.
    pub picture: u32,
    /// The frame, counted within its encoding: a picture has one per spatial layer.
    pub frame: u32,
    /// The frames of the same encoding without which this one cannot be decoded, or [`NONE`].
    pub needs: [u32; 2],
    /// Packet of the frame, and how many it has.
    pub index: u8,
    pub count: u8,
    /// A decoder can start with this frame.
    pub key: bool,
    /// Milliseconds of virtual time.
    pub sent_ms: u32,
}

const MAGIC: [u8; 2] = [0x5a, 0xc3];
pub const LENGTH: usize = 42;

impl Tag {
    pub fn is_video(&self) -> bool {
        self.source.is_video()
    }

    /// Two tags of the same numbering of frames.
    pub fn stream(&self) -> (u32, Source, u8) {
        (self.client, self.source, self.encoding)
    }

    pub fn is_first(&self) -> bool {
        self.index == 0
    }

    pub fn is_last(&self) -> bool {
        self.index + 1 == self.count
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(MAGIC);
        out.extend([self.source as u8, self.encoding, self.spatial, self.temporal]);
        out.extend([self.index, self.count, u8::from(self.key), 0]);
        out.extend(self.width.to_be_bytes());
        out.extend([0; 2]);
        for n in [self.client, self.room, self.picture, self.frame, self.needs[0], self.needs[1], self.sent_ms] {
            out.extend(n.to_be_bytes());
        }
    }

    pub fn read(payload: &[u8]) -> Option<Tag> {
        let tail = payload.get(payload.len().checked_sub(LENGTH)?..)?;
        let number = |at: usize| u32::from_be_bytes([tail[at], tail[at + 1], tail[at + 2], tail[at + 3]]);
        let source = Source::ALL.into_iter().find(|s| *s as u8 == tail[2])?;
        (tail[..2] == MAGIC).then(|| Tag {
            source,
            encoding: tail[3],
            spatial: tail[4],
            temporal: tail[5],
            index: tail[6],
            count: tail[7],
            key: tail[8] == 1,
            width: u16::from_be_bytes([tail[10], tail[11]]),
            client: number(14),
            room: number(18),
            picture: number(22),
            frame: number(26),
            needs: [number(30), number(34)],
            sent_ms: number(38),
        })
    }

    /// Fills up to `octets` and signs.
    fn finish(&self, mut out: Vec<u8>, octets: usize) -> Vec<u8> {
        let room = octets.saturating_sub(LENGTH);
        if out.len() < room {
            out.resize(room, 0x55);
        }
        self.write(&mut out);
        out
    }
}

/// An Opus payload: opaque to everyone but the receiver.
pub fn opus(tag: &Tag, octets: usize) -> Vec<u8> {
    tag.finish(vec![0x78], octets)
}

/// RFC 2198 around `primary`, with older payloads in front; `redundant` is (ticks before the primary, payload), oldest first.
pub fn red(pt: u8, redundant: &[(u32, &[u8])], primary: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (before, payload) in redundant {
        let word = before << 10 | payload.len() as u32;
        out.push(0x80 | pt);
        out.extend(&word.to_be_bytes()[1..]);
    }
    out.push(pt);
    for (_, payload) in redundant {
        out.extend(*payload);
    }
    out.extend(primary);
    out
}

/// The blocks of an RFC 2198 payload, the primary last: (payload type, ticks before the primary, payload).
pub fn red_blocks(payload: &[u8]) -> Option<Vec<(u8, u32, &[u8])>> {
    let mut heads = Vec::new();
    let mut at = 0;
    while *payload.get(at)? & 0x80 != 0 {
        let head = payload.get(at..at + 4)?;
        let word = u32::from_be_bytes([0, head[1], head[2], head[3]]);
        heads.push((head[0] & 0x7f, word >> 10, (word & 0x3ff) as usize));
        at += 4;
    }
    let last = payload[at];
    at += 1;
    let mut blocks = Vec::new();
    for (pt, before, length) in heads {
        blocks.push((pt, before, payload.get(at..at + length)?));
        at += length;
    }
    blocks.push((last, 0, &payload[at..]));
    Some(blocks)
}

/// What a VP8 payload says about itself, besides its tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vp8 {
    /// 15 bits.
    pub picture_id: u16,
    pub tl0: u8,
    pub sync: bool,
    pub height: u16,
}

/// A VP8 payload: descriptor with all its counters (RFC 7741 §4.2), frame head in the first packet.
pub fn vp8(tag: &Tag, vp8: &Vp8, octets: usize) -> Vec<u8> {
    let start = if tag.is_first() { 0x10 } else { 0 };
    // A frame that nothing needs.
    let unreferenced = if tag.temporal == 2 { 0x20 } else { 0 };
    let layer = tag.temporal << 6 | u8::from(vp8.sync) << 5;
    let [high, low] = vp8.picture_id.to_be_bytes();
    let mut out = vec![0x80 | unreferenced | start, 0xe0, 0x80 | high, low, vp8.tl0, layer];
    if tag.is_first() {
        // Frame tag (RFC 6386 §9.1): the lowest bit is 0 for a key frame; a start code and the size follow then.
        out.extend([if tag.key { 0x10 } else { 0x11 }, 0x02, 0x00]);
        if tag.key {
            out.extend([0x9d, 0x01, 0x2a]);
            out.extend(tag.width.to_le_bytes());
            out.extend(vp8.height.to_le_bytes());
        }
    }
    tag.finish(out, octets)
}

/// What a VP9 payload says about itself, besides its tag.
#[derive(Debug, Clone)]
pub struct Vp9 {
    /// 15 bits.
    pub picture_id: u16,
    pub tl0: u8,
    pub sync: bool,
    /// The picture is one with which a decoder can start; of all its layers.
    pub key_picture: bool,
    /// The sizes of all spatial layers: goes into the first packet of a key picture.
    pub sizes: Vec<(u16, u16)>,
    /// Highest spatial layer of the stream: nothing above needs it.
    pub is_top: bool,
}

/// A VP9 payload in non-flexible mode (RFC 9628 §4.2), as browsers send L3T3_KEY.
pub fn vp9(tag: &Tag, vp9: &Vp9, octets: usize) -> Vec<u8> {
    const I: u8 = 0x80;
    const P: u8 = 0x40;
    const L: u8 = 0x20;
    const B: u8 = 0x08;
    const E: u8 = 0x04;
    const V: u8 = 0x02;
    const Z: u8 = 0x01;
    let structure = vp9.key_picture && tag.spatial == 0 && tag.is_first();
    let mut flags = I | L;
    flags |= if vp9.key_picture { 0 } else { P };
    flags |= if tag.is_first() { B } else { 0 };
    flags |= if tag.is_last() { E } else { 0 };
    flags |= if structure { V } else { 0 };
    flags |= if vp9.is_top || !vp9.key_picture { Z } else { 0 };
    let [high, low] = vp9.picture_id.to_be_bytes();
    // Only key pictures predict from the layer below.
    let depends = u8::from(vp9.key_picture && tag.spatial > 0);
    let layer = tag.temporal << 5 | u8::from(vp9.sync) << 4 | tag.spatial << 1 | depends;
    let mut out = vec![flags, 0x80 | high, low, layer, vp9.tl0];
    if structure {
        // N_S, Y (sizes follow), no picture group.
        out.push((vp9.sizes.len() as u8 - 1) << 5 | 0x10);
        for (width, height) in &vp9.sizes {
            out.extend(width.to_be_bytes());
            out.extend(height.to_be_bytes());
        }
    }
    if tag.is_first() {
        // Frame marker 2, profile 0, show_existing 0, frame_type: 0 for a key frame (VP9 bitstream specification §6.2).
        out.push(if tag.key { 0x82 } else { 0x86 });
    }
    tag.finish(out, octets)
}

/// The counters in a payload made by [`vp8`] or [`vp9`]: picture id, TL0PICIDX. `None` where they are missing.
pub fn counters(is_vp9: bool, payload: &[u8]) -> Option<(u16, u8)> {
    let (id, tl0) = match payload {
        [first, id, low, _, tl0, ..] if is_vp9 && first & 0xa0 == 0xa0 && id & 0x80 != 0 => ([*id & 0x7f, *low], *tl0),
        [first, bits, id, low, tl0, ..] if !is_vp9 && first & 0x80 != 0 && bits & 0xc0 == 0xc0 && id & 0x80 != 0 => {
            ([*id & 0x7f, *low], *tl0)
        }
        _ => return None,
    };
    Some((u16::from_be_bytes(id), tl0))
}
