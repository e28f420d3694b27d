//! One encoding of a track: one SSRC at a time, and what is learned and kept of it.

use std::time::{Duration, Instant};

use str0m::format::Codec;
use str0m::media::Rid;
use str0m::rtp::ExtensionValues;
use str0m::rtp::vla::VideoLayersAllocation;

use super::cache::{Extent, Group};
use super::codec::{self, Inspection, Malformed};
use super::demand::{Demand, Presence};
use super::dependency;
use super::frame::{Frame, Point};
use super::held::{Content, Held};
use super::keyframe::Throttle;
use super::layout::{Layout, Limit, SizeSource};
use super::numbering::{Padding, Refused, Window};
use super::rewrite::Numbers;
use super::{DependencyDescriptor, Incoming, SfuConfig};

/// What is known of an encoding.
#[derive(Debug)]
pub struct Encoding {
    pub rid: Option<Rid>,
    pub generation: u32,
    pub keyframe: Throttle,
    pub held: Held,
    pub cache: Group,
    pub layout: Layout,
    pub demand: Demand,
    /// The best encoding of its track, or the only one.
    pub is_high: bool,
    ssrc: u32,
    codec: Codec,
    window: Window,
    padding: Padding,
    /// The SSRC before this one, and when it was left.
    retired: Option<(u32, Instant)>,
    heard: Instant,
    /// The RTP time of the last key frame that started.
    keyframe_time: Option<u32>,
    /// Its place in the publisher's allocation.
    allocation_index: Option<u8>,
    /// When the publisher said that it does not send it.
    disabled: Option<Instant>,
}

/// A packet's place in the numbering of its encoding.
#[derive(Debug, Clone, Copy)]
pub struct Accepted {
    /// Without the numbers of padding.
    pub seq: u64,
    /// Nothing newer was seen.
    pub is_newest: bool,
    /// So many numbers before it are still to come, when it is the newest.
    pub skipped: u64,
}

impl Encoding {
    pub fn new(now: Instant, packet: &Incoming<'_>, generation: u32) -> Self {
        Encoding {
            rid: packet.rid,
            generation,
            keyframe: Throttle::default(),
            held: Held::default(),
            cache: Group::default(),
            layout: Layout::default(),
            demand: Demand::new(now),
            is_high: false,
            ssrc: packet.ssrc,
            codec: packet.codec,
            window: Window::new(),
            padding: Padding::default(),
            retired: None,
            heard: now,
            keyframe_time: None,
            allocation_index: None,
            disabled: None,
        }
    }

    pub fn is_alive(&self, now: Instant) -> bool {
        // One that was told to stop is known to have done so sooner.
        let silence_max = if self.demand.is_told() { DEAD_AFTER } else { STOPPED_AFTER };
        now.saturating_duration_since(self.heard) < silence_max && self.disabled.is_none_or(|at| self.heard > at)
    }

    pub fn presence(&self, now: Instant) -> Presence {
        self.demand.presence(now, self.is_alive(now))
    }

    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// When the last packet came.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// Over the second before its last packet, so that a pause (a screen that does not change) is no decline.
    pub fn bitrate(&self) -> u64 {
        self.layout.bitrate(self.heard)
    }

    /// The pixels of its largest layer; 0: not known.
    pub fn area(&self) -> u32 {
        self.layout.area(self.heard)
    }

    pub fn interval(&self, config: &SfuConfig) -> Duration {
        if self.is_high { config.keyframe_high } else { config.keyframe_low }
    }

    /// Takes a packet's number. A numbering that begins anew gets `generation`.
    pub fn accept(
        &mut self,
        now: Instant,
        packet: &Incoming<'_>,
        is_video: bool,
        generation: u32,
    ) -> Result<Accepted, Refused> {
        let seq = *packet.seq_no;
        if packet.ssrc != self.ssrc {
            let is_straggler = self
                .retired
                .is_some_and(|(ssrc, left)| ssrc == packet.ssrc && now.saturating_duration_since(left) < STRAGGLERS);
            if is_straggler {
                return Err(Refused::Late);
            }
            self.retired = Some((self.ssrc, now));
            self.restart(packet, generation);
        } else if is_video && packet.codec != self.codec {
            if self.window.highest().is_some_and(|highest| seq <= highest) {
                return Err(Refused::Late);
            }
            self.restart(packet, generation);
        }

        let next = self.window.highest().map_or(0, |highest| highest.saturating_add(1));
        let is_newest = self.window.insert(seq)?;
        match self.presence(now) {
            Presence::Live => {}
            presence => self.layout.resume(now, self.heard, presence == Presence::Paused),
        }
        self.heard = now;
        self.demand.on_packet();
        if packet.payload.is_empty() {
            if is_newest {
                self.padding.remove(seq);
            }
            return Err(Refused::Empty);
        }
        let skipped = seq.saturating_sub(next);
        let seq = self.padding.compact(seq).ok_or(Refused::Late)?;
        Ok(Accepted { seq, is_newest, skipped })
    }

    fn restart(&mut self, packet: &Incoming<'_>, generation: u32) {
        self.ssrc = packet.ssrc;
        self.codec = packet.codec;
        self.generation = generation;
        self.window = Window::new();
        self.padding = Padding::default();
        self.held = Held::default();
        self.cache.clear();
        self.layout.restart();
        self.keyframe_time = None;
    }

    /// Reads a video packet's descriptors and learns from them. `true`: layers came, or changed their size.
    pub fn inspect(
        &mut self,
        now: Instant,
        packet: &Incoming<'_>,
        accepted: Accepted,
    ) -> Result<(Numbers, Frame, bool), Malformed> {
        let inspection = codec::inspect(packet.codec, packet.payload)?;
        let (frame, descriptor) = self.describe(&inspection, packet.ext, packet.marker);
        let (scheme, revision) = (self.layout.scheme(), self.layout.revision());
        if let Some(mut descriptor) = descriptor {
            self.layout.learn(&mut descriptor, accepted.is_newest);
        }
        let mut is_changed = (scheme, revision) != (self.layout.scheme(), self.layout.revision());
        if let Some((width, height)) = inspection.size {
            is_changed |= self.layout.set_size(0, width, height, SizeSource::Header);
        }
        for (spatial, (width, height)) in inspection.sizes.iter().flat_map(|s| s.as_slice()).enumerate() {
            is_changed |= self.layout.set_size(spatial, *width, *height, SizeSource::Structure);
        }
        if frame.starts_keyframe {
            self.keyframe_time = Some(packet.time);
        }
        let is_keyframe = self.keyframe_time == Some(packet.time);
        is_changed |= self.layout.count(now, self.heard, &frame, packet.time, packet.payload.len(), is_keyframe);

        let raw = packet.ext.user_values.get::<DependencyDescriptor>();
        let numbers = Numbers {
            seq: accepted.seq,
            time: packet.time,
            clock_rate: packet.clock_rate,
            arrival: packet.arrival,
            vp8: inspection.vp8,
            vp9: inspection.vp9,
            frame_number: raw.and_then(DependencyDescriptor::frame_number),
        };
        Ok((numbers, frame, is_changed))
    }

    /// The frame of a packet that was kept: by now more may be known than when it came.
    pub fn frame_of(&self, content: &Content) -> Frame {
        match codec::inspect(content.codec, &content.payload) {
            Ok(inspection) => self.describe(&inspection, &content.ext, content.marker).0,
            Err(Malformed) => Frame::plain(false, content.marker),
        }
    }

    fn describe(
        &self,
        inspection: &Inspection,
        ext: &ExtensionValues,
        marker: bool,
    ) -> (Frame, Option<dependency::Descriptor>) {
        let raw = ext.user_values.get::<DependencyDescriptor>();
        let Some(descriptor) = raw.and_then(|raw| self.layout.read(raw)) else {
            // Points are decode targets then, of which the payload knows nothing.
            let frame = if self.layout.has_decode_targets() {
                Frame::plain(inspection.keyframe_start, marker)
            } else {
                Frame::of_payload(inspection, marker)
            };
            return (frame, None);
        };
        let mut frame = Frame::of_descriptor(&descriptor);
        let is_intra = descriptor.template.references.as_slice().is_empty() && descriptor.starts;
        frame.starts_keyframe |= inspection.keyframe_start && is_intra;
        (frame, Some(descriptor))
    }

    /// Takes over what the publisher says about its encodings, this one being at `index`.
    pub fn set_allocation_index(&mut self, index: u8) {
        self.allocation_index = Some(index);
    }

    /// `true`: it changed something. Encodings whose place in the allocation is not known yet keep what they have.
    /// `is_sent`: it arrives, whatever is said about it.
    pub fn allocate(&mut self, now: Instant, allocation: &VideoLayersAllocation, is_sent: bool) -> bool {
        let Some(index) = self.allocation_index else { return false };
        let layers = allocation.simulcast_streams.get(usize::from(index)).map_or(&[][..], |s| &s.spatial_layers);
        let was_alive = self.is_alive(now);
        let is_disabled = !is_sent && layers.iter().all(|layer| layer.temporal_layers.is_empty());
        self.disabled = is_disabled.then_some(now);
        let mut is_changed = was_alive != self.is_alive(now);
        for (spatial, layer) in layers.iter().enumerate() {
            if let Some(size) = &layer.resolution_and_framerate {
                is_changed |= self.layout.set_size(spatial, size.width, size.height, SizeSource::Allocation);
            }
        }
        is_changed
    }

    /// The point at which the kept group is to be sent: what the limit stands for, or the highest below that is no more than
    /// `most`. `None`: there is no group, or none so small.
    pub fn replay_point(&self, now: Instant, limit: Limit, most: Extent) -> Option<Point> {
        let wanted = self.layout.point_at_keyframe(limit);
        let below = self.layout.points_within(limit);
        let mut points = std::iter::once(wanted).chain(below);
        points.find(|point| {
            let extent = self.cache.extent(now, *point);
            extent.is_some_and(|extent| extent.octets <= most.octets && extent.pictures <= most.pictures)
        })
    }
}

/// An encoding that is silent for so long is dead. Shorter takes a low frame rate for a failure.
pub const DEAD_AFTER: Duration = Duration::from_millis(1500);
/// The same for one that was told to stop. Shorter takes the end of its frame rate for the end.
const STOPPED_AFTER: Duration = Duration::from_millis(500);
/// How long packets of an SSRC that was left are stragglers, not a return.
const STRAGGLERS: Duration = Duration::from_secs(1);
