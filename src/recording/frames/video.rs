//! What all video codecs have in common: where frames begin and end, and when only a key frame helps.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::time::Instant;

use str0m::format::Codec;

use super::{Counters, Frame, Unusable, av1, h264, vp8, vp9};
use crate::recording::block::{Description, Payload};
use crate::recording::feed::Packet;
use crate::webm;

/// What is special about a codec: one frame of it, as it grows.
pub(super) trait Depacketizer: Debug + Send {
    /// Another frame begins with the next packet, if one does; what was gathered is dropped. `follows_loss`: what is missing
    /// right before that packet may have been of the same frame.
    fn begin(&mut self, follows_loss: bool);
    /// Takes the next packet of the frame. Errors: it cannot be, in this place.
    fn push(&mut self, packet: &Packet) -> Result<(), Unusable>;
    /// Whether the frame may be whole although no packet had a marker.
    fn may_be_whole(&self) -> bool {
        false
    }
    /// Whether it is a key frame, as far as can be seen.
    fn is_keyframe(&self) -> bool;
    /// Everything of the frame is there. `None`: it was nothing for a file, e.g. parameter sets alone. Errors: it is no frame.
    fn finish(&mut self) -> Result<Option<Whole>, Unusable>;
    /// What follows has nothing to do with what was.
    fn forget(&mut self) {}
}

/// A frame with all its packets.
#[derive(Debug)]
pub(super) struct Whole {
    pub payload: Payload,
    /// `None`: it is no key frame.
    pub key: Option<Key>,
}

/// What a key frame says.
#[derive(Debug, Default)]
pub(super) struct Key {
    pub size: Option<(u32, u32)>,
    /// CodecPrivate of what begins here.
    pub private: Vec<u8>,
}

/// The assembler of a video track.
#[derive(Debug)]
pub(super) struct Video {
    current: Option<Current>,
    ssrc: Option<u32>,
    open: Option<Open>,
    /// Nothing goes out until a key frame is whole.
    waits: bool,
    /// What the last `begins` said.
    described: Option<(webm::Codec, Vec<u8>)>,
    /// SSRC and time of the last frame that was dropped, which is counted once.
    dropped: Option<(u32, u32)>,
    pub counters: Counters,
}

#[derive(Debug)]
struct Current {
    /// As packets say it.
    codec: Codec,
    name: webm::Codec,
    depacketizer: Box<dyn Depacketizer>,
}

/// The frame that is being gathered.
#[derive(Debug, Clone, Copy)]
struct Open {
    ssrc: u32,
    time: u32,
    clock_rate: u32,
    /// Of its latest packet.
    arrival: Instant,
}

impl Default for Video {
    fn default() -> Self {
        Video {
            current: None,
            ssrc: None,
            open: None,
            waits: true,
            described: None,
            dropped: None,
            counters: Counters::default(),
        }
    }
}

impl Video {
    pub fn handle(&mut self, packet: &Packet, lost_before: u64, out: &mut VecDeque<Frame>) {
        if self.current.as_ref().is_none_or(|current| current.codec != packet.codec) {
            self.interrupt();
            self.current = Current::of(packet.codec);
        }
        if self.ssrc.is_some_and(|ssrc| ssrc != packet.ssrc) {
            self.interrupt();
            if let Some(current) = &mut self.current {
                current.depacketizer.forget();
            }
        }
        self.ssrc = Some(packet.ssrc);
        if lost_before > 0 {
            self.interrupt();
        }
        // Padding has a number and says nothing.
        if packet.payload.is_empty() && !packet.marker {
            return;
        }
        if self.open.is_some_and(|open| open.time != packet.time) {
            self.end_without_marker(out);
        }
        self.take(packet, lost_before > 0, out);
    }

    pub fn reset(&mut self) {
        self.interrupt();
        self.dropped = None;
    }

    pub fn wants_keyframe(&self) -> bool {
        self.waits && !(self.open.is_some() && self.current.as_ref().is_some_and(|c| c.depacketizer.is_keyframe()))
    }

    /// The packet belongs to the open frame, or begins one.
    fn take(&mut self, packet: &Packet, follows_loss: bool, out: &mut VecDeque<Frame>) {
        let Some(current) = &mut self.current else { return self.drop_frame(packet.ssrc, packet.time) };
        if self.open.is_none() {
            current.depacketizer.begin(follows_loss);
        }
        let Packet { ssrc, time, clock_rate, arrival, .. } = *packet;
        self.open = Some(Open { ssrc, time, clock_rate, arrival });
        if !packet.payload.is_empty() && current.depacketizer.push(packet).is_err() {
            self.interrupt();
        } else if packet.marker {
            self.end(out);
        }
    }

    /// The next packet has another time, and nothing is missing in between.
    fn end_without_marker(&mut self, out: &mut VecDeque<Frame>) {
        match &self.current {
            Some(current) if current.depacketizer.may_be_whole() => self.end(out),
            _ => self.interrupt(),
        }
    }

    /// The open frame is whole.
    fn end(&mut self, out: &mut VecDeque<Frame>) {
        let (Some(open), Some(current)) = (self.open, &mut self.current) else { return };
        let whole = match current.depacketizer.finish() {
            Ok(Some(whole)) if whole.key.is_some() || !self.waits => whole,
            // Nothing that is missed.
            Ok(None) => {
                self.open = None;
                return;
            }
            Ok(Some(_)) | Err(Unusable) => return self.interrupt(),
        };
        self.open = None;
        self.waits = false;
        self.counters.frames += 1;
        let is_keyframe = whole.key.is_some();
        let size = whole.key.as_ref().and_then(|key| key.size);
        let begins = whole.key.and_then(|key| self.describe(key));
        out.push_back(Frame {
            ssrc: open.ssrc,
            time: open.time,
            clock_rate: open.clock_rate,
            arrival: open.arrival,
            is_keyframe,
            size,
            samples: 0,
            payload: whole.payload,
            begins,
        });
    }

    /// What the file has to be told, unless it was.
    fn describe(&mut self, key: Key) -> Option<Description> {
        let codec = &self.current.as_ref()?.name;
        if self.described.as_ref().is_some_and(|(known, private)| known == codec && *private == key.private) {
            return None;
        }
        self.described = Some((codec.clone(), key.private.clone()));
        // A file has to say something; what is true a decoder reads from the parameter sets.
        let (width, height) = key.size.unwrap_or((1, 1));
        Some(Description {
            media: webm::Media::Video(webm::Video { width, height, display: None }),
            codec: codec.clone(),
            private: key.private,
            codec_delay_ns: 0,
            seek_pre_roll_ns: 0,
            default_duration_ns: None,
        })
    }

    /// Something is missing: only a key frame helps.
    fn interrupt(&mut self) {
        if let Some(open) = self.open.take() {
            self.drop_frame(open.ssrc, open.time);
        }
        if let Some(current) = &mut self.current {
            current.depacketizer.begin(false);
        }
        self.waits = true;
    }

    fn drop_frame(&mut self, ssrc: u32, time: u32) {
        if self.dropped != Some((ssrc, time)) {
            self.dropped = Some((ssrc, time));
            self.counters.dropped += 1;
        }
    }
}

impl Current {
    /// `None`: not recorded.
    fn of(codec: Codec) -> Option<Current> {
        let (name, depacketizer): (_, Box<dyn Depacketizer>) = match codec {
            Codec::Vp8 => (webm::Codec::Vp8, Box::new(vp8::Vp8::default())),
            Codec::Vp9 => (webm::Codec::Vp9, Box::new(vp9::Vp9::default())),
            Codec::Av1 => (webm::Codec::Av1, Box::new(av1::Av1::default())),
            Codec::H264 => (webm::Codec::H264, Box::new(h264::H264::default())),
            _ => return None,
        };
        Some(Current { codec, name, depacketizer })
    }
}
