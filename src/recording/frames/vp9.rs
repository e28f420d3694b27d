//! VP9 (RFC 9628): a picture is the frames of all its spatial layers, which have one RTP time.
//!
//! A block of a file is one superframe (VP9 bitstream specification, Annex B), which ends with an index where it has several
//! frames, and of which only the last one is shown. Encoders say of every layer that it is shown, since they do not know
//! which one a receiver has as its highest. libvpx does not mind and shows the last one; FFmpeg, and what is built upon it,
//! shows all, with one time and different sizes. So those below the highest are hidden here: the header of a frame is written
//! anew with another bit. Without an index libvpx looks for another frame behind the first, and FFmpeg does not.

use super::video::{Depacketizer, Key, Whole};
use super::{Fragments, Gathered, Unusable};
use crate::recording::feed::Packet;
use crate::webm::vp9::{self, Header, Keyframe, References};

#[derive(Debug, Default)]
pub(super) struct Vp9 {
    picture: Picture,
    references: References,
}

/// A picture as it grows.
#[derive(Debug, Default)]
struct Picture {
    /// Of all layers.
    parts: Fragments,
    /// Where the frame of each layer ends in them, ascending.
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

/// The frame of a layer.
#[derive(Debug)]
struct Layer {
    start: usize,
    end: usize,
    /// Its first octets, so many.
    head: (usize, [u8; HEADER_MAX]),
    /// `None`: it makes no sense to us, which is for a decoder to judge.
    header: Option<Header>,
}

impl Depacketizer for Vp9 {
    fn begin(&mut self, _: bool) {
        self.picture = Picture::default();
    }

    fn push(&mut self, packet: &Packet) -> Result<(), Unusable> {
        let descriptor = Descriptor::parse(&packet.payload).ok_or(Unusable)?;
        let data = packet.payload.get(descriptor.length..).filter(|data| !data.is_empty()).ok_or(Unusable)?;
        let picture = &mut self.picture;
        let is_first = picture.ends.is_empty();
        if descriptor.starts {
            let is_above = descriptor.spatial > picture.spatial && picture.ends.len() < vp9::FRAMES_MAX;
            if !is_first && !is_above {
                return Err(Unusable);
            }
            if is_first && descriptor.spatial == 0 && !descriptor.is_predicted {
                picture.key = Keyframe::parse(data);
            }
            picture.ends.push(picture.parts.size);
        } else if is_first || picture.is_ended || descriptor.spatial != picture.spatial {
            return Err(Unusable);
        }
        if !descriptor.sizes.is_empty() {
            picture.sizes = descriptor.sizes;
        }
        (picture.spatial, picture.is_ended) = (descriptor.spatial, descriptor.ends);
        picture.has_index |= descriptor.ends && data.last().is_some_and(|last| vp9::ends_index(*last));
        picture.parts.push(&packet.payload, descriptor.length..packet.payload.len())?;
        if let Some(end) = picture.ends.last_mut() {
            *end = picture.parts.size;
        }
        Ok(())
    }

    /// E of the last packet says so (§4.2); whether another layer would have followed does not matter, since it does not.
    fn may_be_whole(&self) -> bool {
        self.picture.is_ended
    }

    fn is_keyframe(&self) -> bool {
        self.picture.key.is_some()
    }

    fn finish(&mut self) -> Result<Option<Whole>, Unusable> {
        let picture = std::mem::take(&mut self.picture);
        if picture.ends.is_empty() {
            return Ok(None);
        }
        if picture.ends.len() > 1 && picture.has_index {
            return Err(Unusable);
        }
        let layers = picture.layers(&mut self.references);
        let key = picture.key.map(|key| Key {
            size: Some(picture.size(&key, &layers)),
            private: key.features.map(|features| features.encode()).unwrap_or_default(),
        });
        let mut gathered = Gathered::default();
        picture.write(&layers, &mut gathered)?;
        Ok(Some(Whole { payload: gathered.take(), key }))
    }

    fn forget(&mut self) {
        self.references = References::default();
    }
}

impl Picture {
    fn layers(&self, references: &mut References) -> Vec<Layer> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        let layers = starts.zip(self.ends.iter().copied()).map(|(start, end)| {
            let (count, bytes) = self.parts.peek(start);
            let count = count.min(end - start);
            Layer { start, end, head: (count, bytes), header: references.next(bytes.get(..count).unwrap_or(&[])) }
        });
        layers.collect()
    }

    /// Of the highest layer that is there.
    fn size(&self, key: &Keyframe, layers: &[Layer]) -> (u32, u32) {
        let said = self.sizes.get(usize::from(self.spatial)).filter(|size| size.0 > 0 && size.1 > 0);
        let said = said.map(|size| (size.0.into(), size.1.into()));
        let top = layers.last().and_then(|layer| layer.header).map(|header| (header.width, header.height));
        match layers {
            [_] => (key.width, key.height),
            _ => said.or(top).unwrap_or((key.width, key.height)),
        }
    }

    /// All frames, the lower ones hidden, and an index.
    fn write(&self, layers: &[Layer], out: &mut Gathered) -> Result<(), Unusable> {
        let mut sizes = Vec::with_capacity(layers.len());
        for (index, layer) in layers.iter().enumerate() {
            let before = out.len();
            let mut start = layer.start;
            if let Some((header, length)) = layers.get(index + 1).and_then(|above| layer.hidden(above)) {
                push_own(out, &header)?;
                start += length;
            }
            for (packet, range) in self.parts.slices(start, layer.end) {
                out.push(packet, range)?;
            }
            sizes.push((out.len() - before) as u32);
        }
        if sizes.len() > 1 {
            push_own(out, &vp9::index(&sizes))?;
        }
        Ok(())
    }
}

impl Layer {
    /// What takes the place of so many octets of it, if the one above is shown instead.
    fn hidden(&self, above: &Layer) -> Option<(Vec<u8>, usize)> {
        let (header, above) = (self.header?, above.header?);
        if !above.is_error_resilient && (above.width, above.height) == (header.width, header.height) {
            return None; // that one would be decoded in another way
        }
        header.hidden(self.head.1.get(..self.head.0)?)
    }
}

fn push_own(out: &mut Gathered, bytes: &[u8]) -> Result<(), Unusable> {
    bytes.chunks(OWN_MAX).try_for_each(|part| out.push_own(part))
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

/// Octets of an uncompressed header, with everything that may be in it.
const HEADER_MAX: usize = 128;
const I: u8 = 0x80;
const P: u8 = 0x40;
const L: u8 = 0x20;
const F: u8 = 0x10;
const B: u8 = 0x08;
const E: u8 = 0x04;
const V: u8 = 0x02;
/// What [`Payload::push_own`](crate::recording::block::Payload::push_own) takes at a time.
const OWN_MAX: usize = 16;
