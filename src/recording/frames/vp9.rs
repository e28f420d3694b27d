//! VP9 (RFC 9628): a picture is the frames of all its spatial layers, which have one RTP time.
//!
//! A block of a file is one superframe. Several layer frames get an index behind them (VP9 bitstream specification, Annex B):
//! without it a decoder takes them for one frame with something behind.

use super::video::{Depacketizer, Key, Whole};
use super::{Gathered, Unusable};
use crate::recording::feed::Packet;
use crate::webm::vp9::{self, Keyframe};

#[derive(Debug, Default)]
pub(super) struct Vp9 {
    gathered: Gathered,
    /// Where each layer's frame ends in what was gathered, ascending; that of the last one grows.
    ends: Vec<usize>,
    /// The spatial layer of the last one, and whether its last packet was there.
    spatial: u8,
    is_ended: bool,
    /// One of the frames is a superframe of its own.
    has_index: bool,
    key: Option<Keyframe>,
    /// The scalability structure's: width and height by spatial layer.
    sizes: Vec<(u16, u16)>,
}

impl Depacketizer for Vp9 {
    fn begin(&mut self, _: bool) {
        *self = Vp9::default();
    }

    fn push(&mut self, packet: &Packet) -> Result<(), Unusable> {
        let descriptor = Descriptor::parse(&packet.payload).ok_or(Unusable)?;
        let data = packet.payload.get(descriptor.length..).filter(|data| !data.is_empty()).ok_or(Unusable)?;
        let is_first = self.ends.is_empty();
        if descriptor.starts {
            let is_above = is_first || (descriptor.spatial > self.spatial && self.ends.len() < vp9::FRAMES_MAX);
            if !is_above {
                return Err(Unusable);
            }
            if is_first && descriptor.spatial == 0 && !descriptor.is_predicted {
                self.key = Keyframe::parse(data);
            }
            self.ends.push(self.gathered.len());
        } else if is_first || self.is_ended || descriptor.spatial != self.spatial {
            return Err(Unusable);
        }
        if !descriptor.sizes.is_empty() {
            self.sizes = descriptor.sizes;
        }
        (self.spatial, self.is_ended) = (descriptor.spatial, descriptor.ends);
        self.gathered.push(&packet.payload, descriptor.length..packet.payload.len())?;
        if let Some(end) = self.ends.last_mut() {
            *end = self.gathered.len();
        }
        self.has_index |= descriptor.ends && data.last().is_some_and(|last| vp9::ends_index(*last));
        Ok(())
    }

    /// E of the last packet says so (§4.2); whether another layer would have followed does not matter, since it does not.
    fn may_be_whole(&self) -> bool {
        self.is_ended
    }

    fn is_keyframe(&self) -> bool {
        self.key.is_some()
    }

    fn finish(&mut self) -> Result<Option<Whole>, Unusable> {
        if self.ends.is_empty() {
            return Ok(None);
        }
        if self.ends.len() > 1 {
            if self.has_index {
                return Err(Unusable);
            }
            let starts = [0].into_iter().chain(self.ends.iter().copied());
            let sizes: Vec<u32> = starts.zip(&self.ends).map(|(start, end)| (end - start) as u32).collect();
            for part in vp9::index(&sizes).chunks(OWN_MAX) {
                self.gathered.push_own(part)?;
            }
        }
        let key = self.key.take().map(|key| Key {
            size: Some(self.size(&key)),
            private: key.features.map(|features| features.encode()).unwrap_or_default(),
        });
        Ok(Some(Whole { payload: self.gathered.take(), key }))
    }
}

impl Vp9 {
    /// Of the highest layer that is there.
    fn size(&self, key: &Keyframe) -> (u32, u32) {
        match self.sizes.get(usize::from(self.spatial)) {
            Some((width, height)) if self.ends.len() > 1 => (u32::from(*width), u32::from(*height)),
            _ => (key.width, key.height),
        }
    }
}

/// What stands before the payload (§4.2).
#[derive(Debug, Default)]
struct Descriptor {
    /// B and E: the first and the last packet of a layer's frame.
    starts: bool,
    ends: bool,
    /// P: it needs an earlier picture.
    is_predicted: bool,
    spatial: u8,
    sizes: Vec<(u16, u16)>,
    /// In octets.
    length: usize,
}

impl Descriptor {
    /// `None`: cut short.
    fn parse(payload: &[u8]) -> Option<Descriptor> {
        let mut rest = payload;
        let flags = octet(&mut rest)?;
        let has = |bit: u8| flags & bit != 0;
        let mut descriptor = Descriptor { is_predicted: has(P), starts: has(B), ends: has(E), ..Descriptor::default() };
        if has(I) && octet(&mut rest)? & 0x80 != 0 {
            octet(&mut rest)?;
        }
        if has(L) {
            descriptor.spatial = octet(&mut rest)? >> 1 & 0x07;
            if !has(F) {
                octet(&mut rest)?; // TL0PICIDX
            }
        }
        if has(F) && has(P) {
            // Up to three references; the lowest bit says that another follows.
            for _ in 0..3 {
                if octet(&mut rest)? & 0x01 == 0 {
                    break;
                }
            }
        }
        if has(V) {
            descriptor.sizes = structure(&mut rest)?;
        }
        descriptor.length = payload.len() - rest.len();
        Some(descriptor)
    }
}

/// Reads over the scalability structure (§4.2.1): the sizes in it, if it has some.
fn structure(rest: &mut &[u8]) -> Option<Vec<(u16, u16)>> {
    let head = octet(rest)?;
    let mut sizes = Vec::new();
    if head & 0x10 != 0 {
        for _ in 0..(head >> 5) + 1 {
            let mut pixels = || Some(u16::from_be_bytes([octet(rest)?, octet(rest)?]));
            sizes.push((pixels()?, pixels()?));
        }
    }
    if head & 0x08 != 0 {
        for _ in 0..octet(rest)? {
            let references = octet(rest)? >> 2 & 0x03;
            for _ in 0..references {
                octet(rest)?;
            }
        }
    }
    Some(sizes)
}

fn octet(rest: &mut &[u8]) -> Option<u8> {
    rest.split_off_first().copied()
}

const I: u8 = 0x80;
const P: u8 = 0x40;
const L: u8 = 0x20;
const F: u8 = 0x10;
const B: u8 = 0x08;
const E: u8 = 0x04;
const V: u8 = 0x02;
/// What [`Payload::push_own`](crate::recording::block::Payload::push_own) takes at a time.
const OWN_MAX: usize = 16;
