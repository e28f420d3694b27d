//! One subscriber's slot within a track: what feeds it, and what becomes of each packet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use str0m::format::Codec;
use str0m::rtp::UserExtensionValues;

use super::cache::{Cached, Extent, Group};
use super::encoding::Encoding;
use super::frame::{Frame, Point};
use super::held::Content;
use super::layout::{Layout, Limit};
use super::rewrite::{Numbers, Rewriter};
use super::select::{Gap, Selection};
use super::{Counters, DependencyDescriptor, Forward, Layer, Origin, Slot, Target};

/// A slot and its source.
#[derive(Debug)]
pub struct Subscription {
    pub slot: Slot,
    pub target: Target,
    /// The encoding that should be forwarded, and how much of it. `None`: nothing, or no packet of the track was ever seen.
    pub goal: Option<Goal>,
    /// The layer that was last reported.
    pub reported: Option<Layer>,
    rewriter: Rewriter,
    /// What is being forwarded. `None`: waiting for a start.
    source: Option<Source>,
}

/// What a target stands for at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Goal {
    pub encoding: usize,
    pub limit: Limit,
}

/// A run of packets with one numbering: a restart of the encoding is another generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceKey {
    pub encoding: usize,
    pub generation: u32,
}

#[derive(Debug)]
struct Source {
    key: SourceKey,
    selection: Selection,
}

/// A packet as all subscriptions see it.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    pub numbers: &'a Numbers,
    pub frame: &'a Frame,
    pub content: &'a Content,
}

impl Subscription {
    /// With the numbering that the slot has had so far.
    pub fn new(slot: Slot, target: Target, mut rewriter: Rewriter) -> Self {
        rewriter.detach();
        Subscription { slot, target, goal: None, reported: None, rewriter, source: None }
    }

    pub fn into_rewriter(self) -> Rewriter {
        self.rewriter
    }

    pub fn source(&self) -> Option<SourceKey> {
        self.source.as_ref().map(|source| source.key)
    }

    /// Forwards nothing until the next start.
    pub fn detach(&mut self) {
        self.source = None;
        self.rewriter.detach();
    }

    /// Takes a new goal over; `encoding` is the goal's.
    pub fn set_goal(&mut self, now: Instant, goal: Option<Goal>, encoding: Option<&Encoding>) {
        self.goal = goal;
        let (Some(goal), Some(encoding)) = (goal, encoding) else { return };
        let limit = self.readable(goal.limit, encoding.codec());
        if let Some(source) = self.source.as_mut().filter(|source| source.key.encoding == goal.encoding) {
            source.selection.set_limit(now, limit, &encoding.layout);
        }
    }

    /// Whether the slot's receiver reads the dependency descriptor. It is not sent to one that does not.
    pub fn set_reads_descriptors(&mut self, reads: bool) {
        self.rewriter.set_reads_descriptors(reads);
    }

    /// A key frame of the encoding would be used.
    pub fn waits_for(&self, now: Instant, encoding: usize) -> bool {
        self.goal.is_some_and(|goal| goal.encoding == encoding)
            && self.source.as_ref().is_none_or(|s| s.key.encoding != encoding || s.selection.needs_keyframe(now))
    }

    /// The layer that is sent now.
    pub fn forwarding(&self, encodings: &[Encoding]) -> Option<Layer> {
        let source = self.source.as_ref()?;
        let encoding = encodings.get(source.key.encoding)?;
        let (spatial, temporal) = encoding.layout.layer(source.selection.point(), encoding.heard());
        Some(Layer { encoding: u8::try_from(source.key.encoding).ok()?, spatial, temporal })
    }

    /// Whether the source's packets have come so far ahead of the last one that the slot has to start anew.
    pub fn is_out_of_reach(&self, key: SourceKey, numbers: &Numbers) -> bool {
        self.source() == Some(key) && self.rewriter.is_out_of_reach(numbers)
    }

    /// Whether a key frame that starts is to be the slot's next source.
    pub fn wants_start(&self, key: SourceKey) -> bool {
        if self.target == Target::Paused || self.source() == Some(key) {
            return false;
        }
        // Whoever has nothing takes any picture; whoever has one changes only to the encoding chosen for it.
        self.source.is_none() || self.goal.is_some_and(|goal| goal.encoding == key.encoding)
    }

    /// Starts with the first packet of a key frame.
    pub fn start(&mut self, key: SourceKey, packet: Packet<'_>, layout: &Layout, counters: &mut Counters) {
        counters.switches += u64::from(self.rewriter.has_sent());
        self.rewriter.attach(packet.numbers);
        let selection = self.select(key, packet, None, layout);
        self.source = Some(Source { key, selection });
    }

    fn select(&self, key: SourceKey, first: Packet<'_>, point: Option<Point>, layout: &Layout) -> Selection {
        let limit = self.limit(key, first.content.codec);
        Selection::start(first.numbers.seq, first.numbers.time, first.frame, limit, point, layout)
    }

    /// How much of an encoding the slot is to get.
    fn limit(&self, key: SourceKey, codec: Codec) -> Limit {
        let goal = self.goal.filter(|goal| goal.encoding == key.encoding);
        self.readable(goal.map_or(Limit::NONE, |goal| goal.limit), codec)
    }

    /// Without the descriptor libwebrtc takes the frames of several AV1 layers for one, and can decode none of them.
    fn readable(&self, limit: Limit, codec: Codec) -> Limit {
        match codec {
            Codec::Av1 if !self.rewriter.reads_descriptors() => Limit { spatial: 0, ..limit },
            _ => limit,
        }
    }

    /// Starts with a kept group, the target's or as much of it as `replay_max` octets allow. `false`: there is none.
    pub fn replay(
        &mut self,
        now: Instant,
        key: SourceKey,
        encoding: &Encoding,
        replay_max: usize,
        counters: &mut Counters,
        out: &mut Vec<Forward>,
    ) -> bool {
        let limit = self.limit(key, encoding.codec());
        let pictures = if self.source.is_some() { SWITCH_PICTURES_MAX } else { usize::MAX };
        let most = Extent { octets: replay_max, pictures };
        let Some(point) = encoding.replay_point(now, limit, most) else { return false };
        let Some(pictures) = Pictures::of(&encoding.cache, now, point) else { return false };
        let (first, newest) = (pictures.first, pictures.newest);

        counters.switches += u64::from(self.rewriter.has_sent());
        counters.replays += 1;
        self.rewriter.attach_replay(&first.numbers, &pictures.times, &newest.numbers);
        let packet = Packet { numbers: &first.numbers, frame: &first.frame, content: &first.content };
        let selection = self.select(key, packet, Some(point), &encoding.layout);
        self.source = Some(Source { key, selection });
        for cached in encoding.cache.packets(now) {
            // As if it had been made when it is sent, so that time and clock keep step.
            let age = pictures.age_of(cached);
            let arrival = newest.numbers.arrival.checked_sub(age).unwrap_or(newest.numbers.arrival);
            let numbers = Numbers { arrival, ..cached.numbers };
            let packet = Packet { numbers: &numbers, frame: &cached.frame, content: &cached.content };
            self.take(now, packet, &encoding.layout, true, counters, out);
        }
        if let Some(source) = &mut self.source {
            source.selection.end_replay();
            source.selection.judge(now, &encoding.layout);
        }
        true
    }

    /// Forwards or withholds a packet of the source.
    pub fn take(
        &mut self,
        now: Instant,
        packet: Packet<'_>,
        layout: &Layout,
        is_video: bool,
        counters: &mut Counters,
        out: &mut Vec<Forward>,
    ) {
        let Packet { numbers, frame, content } = packet;
        let Some(source) = &mut self.source else { return };
        let selection = &mut source.selection;
        let next = self.rewriter.next_in().unwrap_or(0);
        let is_newest = numbers.seq >= next;
        let mut marker = content.marker;
        if is_video {
            if is_newest {
                let follows = numbers.seq == next;
                if !follows {
                    selection.note_gap(layout);
                }
                selection.turn(now, numbers.seq, numbers.time, frame, follows, layout);
            }
            // The common case is that nothing has to be decided.
            if !selection.takes_everything() {
                let point = selection.takes(numbers.seq, frame);
                if is_newest
                    && numbers.seq > next
                    && let Gap::Withheld(pictures) = selection.gap(numbers.seq, frame, numbers.time, point.is_some())
                {
                    self.rewriter.withhold_missing(numbers, pictures);
                }
                selection.note(frame, numbers.time, content.marker, point.is_some(), is_newest);
                let Some(point) = point else {
                    self.rewriter.withhold(numbers);
                    counters.dropped_layer += 1;
                    return;
                };
                marker = Selection::is_last(point, frame, content.marker);
            }
        }
        let Some(rewritten) = self.rewriter.rewrite(numbers) else {
            counters.dropped_late += 1;
            return;
        };
        counters.forwarded += 1;
        let payload = match (rewritten.vp9_patch, &numbers.vp9) {
            (Some((picture_id, tl0_pic_idx)), Some(vp9)) => vp9.patched(&content.payload, picture_id, tl0_pic_idx),
            _ => Arc::clone(&content.payload),
        };
        let mut ext = content.ext.clone();
        if !self.rewriter.reads_descriptors() {
            ext.user_values = UserExtensionValues::default();
        } else if let Some(number) = rewritten.frame_number
            && let Some(descriptor) = content.ext.user_values.get::<DependencyDescriptor>()
        {
            ext.user_values.set(descriptor.with_frame_number(number));
        }
        out.push(Forward {
            slot: self.slot,
            codec: content.codec,
            red: content.red,
            inner_pt: content.inner_pt,
            seq_no: rewritten.seq_no,
            time: rewritten.time,
            marker,
            payload,
            ext,
            vp8_patch: rewritten.vp8_patch,
            nackable: is_video,
            origin: Origin { ssrc: content.ssrc, time: numbers.time, clock_rate: numbers.clock_rate },
            arrival: numbers.arrival,
        });
    }
}

/// The pictures of a kept group that a slot is about to get.
struct Pictures<'a> {
    first: &'a Cached,
    /// The first packet of the newest one.
    newest: &'a Cached,
    /// Their times, in order.
    times: Vec<u32>,
}

impl<'a> Pictures<'a> {
    fn of(group: &'a Group, now: Instant, point: Point) -> Option<Pictures<'a>> {
        let first = group.packets(now).next()?;
        let mut newest = first;
        let mut times = vec![first.numbers.time];
        for cached in group.packets(now).filter(|p| p.frame.present & point.bit() != 0) {
            if cached.numbers.time != newest.numbers.time {
                newest = cached;
                times.push(cached.numbers.time);
            }
        }
        Some(Pictures { first, newest, times })
    }

    /// How much before the newest picture the packet's is said to have been.
    fn age_of(&self, cached: &Cached) -> Duration {
        let position = self.times.iter().rposition(|time| *time == cached.numbers.time);
        let back = position.map_or(0, |position| self.times.len() - 1 - position);
        Duration::from_millis(back as u64)
    }
}

/// Pictures in a replay to a slot that is sent something already. libwebrtc calls every gap a freeze that is longer than the
/// mean of the last 30 pictures by 150 ms, and those of a replay come with none.
const SWITCH_PICTURES_MAX: usize = 16;
