//! Frames out of packets: what belongs together is put together, per codec, as a file wants it.
//!
//! An [`Assembler`] for each track is fed with its packets in order and appends whole frames to a queue. Payload stays where
//! it is: a frame is a list of slices of its packets, with a few octets of ours between them. It does not wait, reorder or
//! know any time but that of RTP: that is the business of `jitter` and `clock`.
//!
//! Video begins, and begins again after anything is missing, at a key frame: after a loss, when what follows is another SSRC,
//! when a frame is malformed or cut. A frame is cut where its last packet has no marker and the next one has another time or
//! SSRC; forwarding changes encodings like this, and then a key frame comes anyway. Only VP9 and AV1 say of their last packet
//! by other means that it is the last one, or may be.
//!
//! - `video`: the rules above, the same for every codec.
//! - `vp8` (RFC 7741), `vp9` (RFC 9628), `av1` (the RTP payload format of AOMedia), `h264` (RFC 6184): what is a frame, a key
//!   frame, and private data.
//! - [`opus`] (RFC 7587) and `red` (RFC 2198): sound.

mod av1;
mod h264;
pub mod opus;
mod red;
mod video;
mod vp8;
mod vp9;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use str0m::media::MediaKind;

use super::block::{Description, Payload};
use super::feed::Packet;
use crate::webm;

/// A whole frame (video) or packet (sound), as a file wants it.
#[derive(Debug, Clone)]
pub struct Frame {
    pub ssrc: u32,
    /// RTP time, the publisher's.
    pub time: u32,
    /// Of `time`, in Hz.
    pub clock_rate: u32,
    /// Of the packet that completed it.
    pub arrival: Instant,
    /// Whether it can be decoded without any other; always, for sound.
    pub is_keyframe: bool,
    /// Pixels, with every key frame of which they can be read.
    pub size: Option<(u32, u32)>,
    /// Sound: how much is heard, at 48 kHz. 0 for video.
    pub samples: u32,
    pub payload: Payload,
    /// With the first frame, and where the codec or its private data change, which is at a key frame: the file needs another
    /// track from here on.
    pub begins: Option<Description>,
}

/// What became of a track's packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that came out.
    pub frames: u64,
    /// Frames of which something came, and that did not come out. Of what was lost altogether nothing is known here.
    pub dropped: u64,
    /// Of `frames`, those that were found in the redundancy of a later packet.
    pub recovered: u64,
}

/// Puts the frames of one track together.
#[derive(Debug)]
pub struct Assembler {
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    Sound(opus::Sound),
    Video(video::Video),
}

impl Assembler {
    pub fn new(kind: MediaKind) -> Self {
        let inner = match kind {
            MediaKind::Audio => Inner::Sound(opus::Sound::default()),
            MediaKind::Video => Inner::Video(video::Video::default()),
        };
        Assembler { inner }
    }

    /// Packets in the order of `seq_no`, each once. `lost_before`: how many are missing for good between the former one and
    /// this. One of a codec that is not recorded, or not of this kind, is dropped.
    pub fn handle(&mut self, packet: &Packet, lost_before: u64, out: &mut VecDeque<Frame>) {
        match &mut self.inner {
            Inner::Sound(sound) => sound.handle(packet, lost_before, out),
            Inner::Video(video) => video.handle(packet, lost_before, out),
        }
    }

    /// Nothing follows what came (mute, pause, another connection): an unfinished frame is dropped, and video begins again at
    /// a key frame.
    pub fn reset(&mut self) {
        match &mut self.inner {
            Inner::Sound(sound) => sound.reset(),
            Inner::Video(video) => video.reset(),
        }
    }

    /// Video: nothing can be written until a key frame comes, and none is coming in.
    pub fn wants_keyframe(&self) -> bool {
        match &self.inner {
            Inner::Sound(_) => false,
            Inner::Video(video) => video.wants_keyframe(),
        }
    }

    pub fn counters(&self) -> Counters {
        match &self.inner {
            Inner::Sound(sound) => sound.counters,
            Inner::Video(video) => video.counters,
        }
    }
}

/// A packet or frame makes no sense, or is more than a file takes. The frame is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unusable;

/// What is gathered of a frame, within [`webm::muxer::PAYLOAD_MAX`] octets and [`PIECES_MAX`] pieces.
#[derive(Debug, Default)]
struct Gathered {
    payload: Payload,
    pieces: usize,
}

impl Gathered {
    fn push(&mut self, packet: &Arc<[u8]>, range: Range<usize>) -> Result<(), Unusable> {
        self.admit(range.len())?;
        self.payload.push(packet, range);
        Ok(())
    }

    /// Octets of our own; not more than 16 of them.
    fn push_own(&mut self, bytes: &[u8]) -> Result<(), Unusable> {
        self.admit(bytes.len())?;
        self.payload.push_own(bytes);
        Ok(())
    }

    fn admit(&mut self, size: usize) -> Result<(), Unusable> {
        if self.pieces >= PIECES_MAX || self.payload.len() + size > webm::muxer::PAYLOAD_MAX {
            return Err(Unusable);
        }
        self.pieces += 1;
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }

    fn len(&self) -> usize {
        self.payload.len()
    }

    /// All of it; nothing is left.
    fn take(&mut self) -> Payload {
        std::mem::take(self).payload
    }
}

/// Parts of packets whose place in a frame is not known before the last one is there: a NAL unit, an OBU. Bounded like
/// [`Gathered`].
#[derive(Debug, Default)]
struct Fragments {
    parts: Vec<(Arc<[u8]>, Range<usize>)>,
    size: usize,
}

impl Fragments {
    fn push(&mut self, packet: &Arc<[u8]>, range: Range<usize>) -> Result<(), Unusable> {
        if self.parts.len() >= PIECES_MAX || self.size + range.len() > webm::muxer::PAYLOAD_MAX {
            return Err(Unusable);
        }
        self.size += range.len();
        self.parts.push((packet.clone(), range));
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    fn clear(&mut self) {
        self.parts.clear();
        self.size = 0;
    }

    /// The octets from `start` to `end` of the whole, as parts of packets.
    fn slices(&self, start: usize, end: usize) -> impl Iterator<Item = (&Arc<[u8]>, Range<usize>)> {
        let mut at = 0;
        self.parts.iter().filter_map(move |(packet, range)| {
            let (from, to) = (start.max(at) - at, end.max(at) - at);
            at += range.len();
            let part = range.start + from.min(range.len())..range.start + to.min(range.len());
            (!part.is_empty()).then_some((packet, part))
        })
    }

    /// Up to `N` octets from `start`: how many there are, and they.
    fn peek<const N: usize>(&self, start: usize) -> (usize, [u8; N]) {
        let mut bytes = [0; N];
        let mut count = 0;
        for (packet, range) in self.slices(start, start + N) {
            let part = packet.get(range).unwrap_or(&[]);
            if let Some(room) = bytes.get_mut(count..count + part.len()) {
                room.copy_from_slice(part);
                count += part.len();
            }
        }
        (count, bytes)
    }

    /// A copy of the octets from `start` to `end`: parameter sets and sequence headers, for private data.
    fn copy(&self, start: usize, end: usize) -> Vec<u8> {
        self.slices(start, end).filter_map(|(packet, range)| packet.get(range)).flatten().copied().collect()
    }
}

/// Packets of a frame, roughly: twelve times what a frame of 4K at the highest quality has. Each keeps its packet in memory.
const PIECES_MAX: usize = 16_384;
