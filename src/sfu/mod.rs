//! Forwarding: the published tracks of one room, who takes them, and what each subscriber is sent.
//!
//! One [`Sfu`] per room, driven by [`crate::shard`]: decrypted packets in, [`Forward`]s and [`KeyframeRequest`]s out. Knows
//! nothing of connections, SDP or sockets; a subscriber is a [`Slot`].
//!
//! ```text
//! Incoming ─► encoding: number taken once, padding out ─► frame: where it ends, which points it belongs to
//!                                         │                  └─► layout: layers, sizes, rates    cache: since the key frame
//!    each subscription: its source? else may it start here? ─► select: is it for this slot? ─► rewrite ─► Forward
//!
//! Target ─► choose: which encoding, how much of it ─► waits for a key frame ─► keyframe (throttle) ─► KeyframeRequest
//!                                                 └─► demand: does anybody watch it? ─► Event
//! ```
//!
//! Invariants, for every slot: an outgoing sequence number never carries two payloads; video starts and changes its source
//! only at the start of a key frame; time does not go back at a change; nothing is sent that needs what was withheld.
//!
//! A switch does not wait for the former source's frame to end: publishers interleave the packets of their encodings, so that
//! would seldom happen. A frame that was cut has no marker and is discarded by the receiver, at the key frame it is given then.
//!
//! H.264 and AV1 payloads are never changed, and VP8's only where they are serialised. A slot whose source has changed gets
//! copies of VP9 payloads, with picture ids and TL0PICIDX that go on: libwebrtc takes a scalability structure that it has for
//! a TL0PICIDX before the one that comes with it, so that after a random jump it may go by another source's.
//!
//! See RFC 8853 (simulcast), RFC 7741 §4.2 (VP8 counters), RFC 6464 (audio level).

pub mod allocate;
pub mod bits;
mod cache;
mod choose;
pub mod codec;
mod demand;
pub mod dependency;
mod encoding;
mod frame;
mod h264;
mod held;
pub mod keyframe;
pub mod layer;
mod layout;
pub mod level;
mod numbering;
mod rate;
pub mod rewrite;
mod select;
pub mod speaker;
mod subscription;
mod track;
pub mod vp9;

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use str0m::format::Codec;
use str0m::media::{MediaKind, Mid, Pt, Rid};
use str0m::rtp::{ExtensionValues, SeqNo, Vp8Patch};

use crate::base::{ParticipantKey, TrackId};

pub use dependency::DependencyDescriptor;
pub use layer::{Event, Layer, LayerInfo, Target};

use rewrite::Rewriter;
use track::Track;

/// An outgoing stream: one m-line of one subscriber, so one SSRC of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot {
    pub participant: ParticipantKey,
    pub mid: Mid,
}

/// What arrived, already decrypted: one packet of one encoding of one track.
#[derive(Debug, Clone)]
pub struct Incoming<'a> {
    pub track: TrackId,
    /// The encoding's name; `None` without simulcast.
    pub rid: Option<Rid>,
    pub codec: Codec,
    /// The payload is RFC 2198 (redundant audio); `codec` is the one inside.
    pub red: bool,
    /// The publisher's payload type of `codec`.
    pub inner_pt: Pt,
    /// Extended, of this SSRC.
    pub seq_no: SeqNo,
    pub ssrc: u32,
    /// RTP time.
    pub time: u32,
    /// Of `time`, in Hz.
    pub clock_rate: u32,
    pub marker: bool,
    /// Without padding; empty when the packet was nothing else.
    pub payload: &'a Arc<[u8]>,
    pub ext: &'a ExtensionValues,
    pub arrival: Instant,
}

/// One packet for one subscriber. The payload is shared, never copied.
#[derive(Debug, Clone)]
pub struct Forward {
    pub slot: Slot,
    pub codec: Codec,
    /// The payload is RFC 2198; the block headers inside name `inner_pt`.
    pub red: bool,
    /// The publisher's payload type of `codec`.
    pub inner_pt: Pt,
    /// Extended, of the slot. The first one of a slot is below 2^15.
    pub seq_no: SeqNo,
    /// RTP time of the slot.
    pub time: u32,
    pub marker: bool,
    pub payload: Arc<[u8]>,
    /// Only values that mean something to a subscriber: audio level, voice activity, orientation, capture time, content
    /// type, playout delay.
    pub ext: ExtensionValues,
    /// To be applied to `payload` when it is serialised.
    pub vp8_patch: Option<Vp8Patch>,
    /// Worth keeping for retransmission: video.
    pub nackable: bool,
    pub origin: Origin,
    pub arrival: Instant,
}

/// Which packet of the publisher's one was made of, for whoever compares it with what the publisher says of its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    pub ssrc: u32,
    /// RTP time.
    pub time: u32,
    /// Of `time`, in Hz.
    pub clock_rate: u32,
}

/// The publisher of `track` is to be asked for a key frame of this encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyframeRequest {
    pub track: TrackId,
    pub rid: Option<Rid>,
}

/// The limits of forwarding.
#[derive(Debug, Clone)]
pub struct SfuConfig {
    /// At most one key-frame request per interval for an encoding that is not the best of its track.
    pub keyframe_low: Duration,
    /// The same for the best or only encoding. Key frames are large: shorter costs the publisher bandwidth.
    pub keyframe_high: Duration,
    /// Encodings per track; packets of more are dropped.
    pub encodings_max: usize,
    /// Octets kept of each encoding since its last key frame, for those who come later. A group that grows larger is dropped,
    /// and who comes then has to wait for the publisher.
    pub cache_max: usize,
    /// A track's encodings are all wanted for so long, so that its layers can be learned.
    pub learning: Duration,
    /// An encoding that nobody watches for so long may stop. Shorter makes it stop and go with every change of the picture.
    pub unwanted_after: Duration,
    /// Octets of payload; larger ones are dropped, since they do not fit a datagram after encryption.
    pub payload_max: usize,
    /// Of the numbers that slots start with. Give each room another one.
    pub seed: u64,
}

impl Default for SfuConfig {
    fn default() -> Self {
        SfuConfig {
            keyframe_low: Duration::from_millis(200),
            keyframe_high: Duration::from_millis(500),
            encodings_max: 3,
            cache_max: 256 * 1024,
            learning: Duration::from_secs(10),
            unwanted_after: Duration::from_secs(5),
            payload_max: 1400,
            seed: 0,
        }
    }
}

/// What happened since the room began. A packet that is dropped before it is forwarded to anybody counts once, else once per
/// subscriber.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub forwarded: u64,
    /// Payload larger than [`SfuConfig::payload_max`].
    pub dropped_payload_size: u64,
    /// Nothing but padding.
    pub dropped_empty: u64,
    /// A VP8 descriptor that makes no sense.
    pub dropped_malformed: u64,
    /// The number was seen already.
    pub dropped_duplicate: u64,
    /// Older than a switch, or than what is remembered.
    pub dropped_late: u64,
    /// A subscription waits for a key frame and this is none.
    pub dropped_no_keyframe: u64,
    /// Of a layer that a subscription is not to get.
    pub dropped_layer: u64,
    /// A track that is not published, or an encoding too many.
    pub dropped_unknown: u64,
    pub keyframe_requests_sent: u64,
    /// Requests from subscribers that another one stands for.
    pub keyframe_requests_merged: u64,
    /// A slot that had sent something changed its source.
    pub switches: u64,
    /// A slot started with a key frame that was kept.
    pub replays: u64,
}

/// The forwarding of one room.
#[derive(Debug)]
pub struct Sfu {
    config: SfuConfig,
    random: fastrand::Rng,
    tracks: FxHashMap<TrackId, Track>,
    slots: FxHashMap<Slot, Place>,
    /// Tracks of which a key frame may be wanted; bounded by the number of tracks.
    listed: Vec<TrackId>,
    /// The last answer of [`Sfu::loudest`].
    speakers: Vec<TrackId>,
    /// When to look at what only time changes; `None` while nothing moves.
    check_at: Option<Instant>,
    /// The latest `now`, for the commands that bring none.
    clock: Option<Instant>,
    /// Bounded by what one input can change, since it is polled after each: a few for every slot, encoding and track.
    events: VecDeque<Event>,
    counters: Counters,
}

/// Where a slot's numbering is. It outlives every subscription: the receiver sees one SSRC for ever.
#[derive(Debug)]
enum Place {
    Parked(Rewriter),
    In(TrackId),
}

impl Sfu {
    pub fn new(config: SfuConfig) -> Self {
        let random = fastrand::Rng::with_seed(config.seed);
        Sfu {
            config,
            random,
            tracks: FxHashMap::default(),
            slots: FxHashMap::default(),
            listed: Vec::new(),
            speakers: Vec::new(),
            check_at: None,
            clock: None,
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// A track may be subscribed to from now on. Publishing it again changes nothing.
    pub fn publish(&mut self, track: TrackId, kind: MediaKind) {
        self.tracks.entry(track).or_insert_with(|| Track::new(kind));
    }

    /// The track is gone; its slots carry nothing until they are subscribed to another.
    pub fn unpublish(&mut self, track: TrackId) {
        let Some(removed) = self.tracks.remove(&track) else { return };
        for (slot, rewriter) in removed.into_slots() {
            self.slots.insert(slot, Place::Parked(rewriter));
        }
        self.events.retain(|event| match event {
            Event::LayerChanged { track: of, .. }
            | Event::LayersChanged { track: of }
            | Event::EncodingWanted { track: of, .. } => *of != track,
        });
        self.listed.retain(|listed| *listed != track);
        self.speakers.retain(|speaker| *speaker != track);
    }

    /// Stops forwarding at once, or allows it again: video goes on at a key frame, which is asked for.
    pub fn set_muted(&mut self, track: TrackId, muted: bool) {
        let Some(found) = self.tracks.get_mut(&track) else { return };
        if found.is_muted() != muted {
            found.set_muted(self.clock, muted);
            self.settle(track);
        }
    }

    /// The slot carries `track` from now on, in place of what it carried. Its own numbering goes on. `false`: the track is
    /// not published, and the slot carries nothing.
    ///
    /// `replay_max`: octets of a kept key frame and what followed it that may be sent to the slot at once, into `out`.
    pub fn subscribe(
        &mut self,
        now: Instant,
        slot: Slot,
        track: TrackId,
        target: Target,
        replay_max: usize,
        out: &mut Vec<Forward>,
    ) -> bool {
        self.clock = Some(now);
        if self.subscribed(slot) == Some(track) {
            self.set_target(now, slot, target, replay_max, out);
            return true;
        }
        self.unsubscribe(slot);
        let rewriter = match self.slots.remove(&slot) {
            Some(Place::Parked(rewriter)) => rewriter,
            _ => Rewriter::new(&mut self.random),
        };
        let Some(found) = self.tracks.get_mut(&track) else {
            self.slots.insert(slot, Place::Parked(rewriter));
            return false;
        };
        found.subscribe(now, slot, rewriter, target);
        found.replay(now, slot, replay_max, &mut self.counters, out);
        self.slots.insert(slot, Place::In(track));
        self.settle(track);
        true
    }

    /// What a slot is to be sent of the track it carries. What it is sent moves there as soon as the receiver can follow.
    pub fn set_target(&mut self, now: Instant, slot: Slot, target: Target, replay_max: usize, out: &mut Vec<Forward>) {
        self.clock = Some(now);
        let Some(id) = self.subscribed(slot) else { return };
        let Some(track) = self.tracks.get_mut(&id) else { return };
        track.set_target(now, slot, target);
        track.replay(now, slot, replay_max, &mut self.counters, out);
        self.settle(id);
    }

    /// Whether the receiver behind a slot negotiated the dependency descriptor; it is taken to have it until this is said.
    /// Without it the slot is sent none, and of AV1 only the lowest spatial layer.
    pub fn set_reads_descriptors(&mut self, slot: Slot, reads: bool) {
        let (now, random) = (self.clock, &mut self.random);
        match self.slots.entry(slot).or_insert_with(|| Place::Parked(Rewriter::new(random))) {
            Place::Parked(rewriter) => rewriter.set_reads_descriptors(reads),
            Place::In(track) => {
                let track = *track;
                if let Some(found) = self.tracks.get_mut(&track) {
                    found.set_reads_descriptors(now, slot, reads);
                }
                self.settle(track);
            }
        }
    }

    /// Ends at once what a slot is sent; it goes on with a key frame of what it is to be sent. For a line that is flooded, where
    /// going on until then would only delay that.
    pub fn cut(&mut self, now: Instant, slot: Slot) {
        self.clock = Some(now);
        let Some(id) = self.subscribed(slot) else { return };
        let Some(track) = self.tracks.get_mut(&id) else { return };
        track.cut(now, slot);
        self.settle(id);
    }

    /// Appends what can be chosen of a track: ascending by resolution, then by frame rate.
    pub fn layers(&self, now: Instant, track: TrackId, out: &mut Vec<LayerInfo>) {
        if let Some(track) = self.tracks.get(&track) {
            track.layers(now, out);
        }
    }

    /// The layer that a slot is being sent; `None` while it is sent nothing.
    pub fn forwarding(&self, slot: Slot) -> Option<Layer> {
        self.tracks.get(&self.subscribed(slot)?)?.forwarding(slot)
    }

    /// To be called at [`poll_timeout`](Self::poll_timeout).
    pub fn handle_timeout(&mut self, now: Instant) {
        self.clock = Some(now);
        if self.check_at.is_none_or(|at| at > now) {
            return;
        }
        self.check_at = None;
        for (id, track) in &mut self.tracks {
            if track.check(now) {
                self.check_at = Some(now + CHECK_INTERVAL);
            }
            track.report(*id, now, &self.config, &mut self.events);
            track.list(*id, &self.config, &mut self.listed);
        }
    }

    /// After something happened to a track: what follows from that for the room.
    fn settle(&mut self, id: TrackId) {
        let (Some(now), Some(track)) = (self.clock, self.tracks.get_mut(&id)) else { return };
        track.report(id, now, &self.config, &mut self.events);
        track.list(id, &self.config, &mut self.listed);
        if track.kind.is_video() {
            self.check_at.get_or_insert(now + CHECK_INTERVAL);
        }
    }

    /// What happened, oldest first; to be asked until `None` after every input.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The slot carries nothing. Its numbering is kept for the next subscription.
    pub fn unsubscribe(&mut self, slot: Slot) {
        let Some(Place::In(track)) = self.slots.get(&slot) else { return };
        let now = self.clock;
        let rewriter = self.tracks.get_mut(track).and_then(|track| track.unsubscribe(now, slot));
        let rewriter = rewriter.expect("a slot that is in a track is one of its subscriptions");
        let track = *track;
        self.slots.insert(slot, Place::Parked(rewriter));
        self.settle(track);
    }

    /// Forgets all slots of a participant, with their numberings. Their tracks are unpublished by the caller.
    ///
    /// Also to be called when a participant's connection is replaced: new SRTP keys need numbers from the start.
    pub fn remove_participant(&mut self, participant: ParticipantKey) {
        let (now, tracks) = (self.clock, &mut self.tracks);
        self.slots.retain(|slot, place| {
            if slot.participant != participant {
                return true;
            }
            if let Place::In(track) = place
                && let Some(track) = tracks.get_mut(track)
            {
                track.unsubscribe(now, *slot);
            }
            false
        });
    }

    /// What a slot carries.
    pub fn subscribed(&self, slot: Slot) -> Option<TrackId> {
        match self.slots.get(&slot) {
            Some(Place::In(track)) => Some(*track),
            _ => None,
        }
    }

    /// The slots that carry a track.
    pub fn subscribers(&self, track: TrackId) -> impl Iterator<Item = Slot> + '_ {
        self.tracks.get(&track).into_iter().flat_map(Track::slots)
    }

    /// Takes one packet and appends what is to be sent to `out`. Allocates nothing but what `out` needs to grow.
    pub fn handle_rtp(&mut self, now: Instant, packet: Incoming<'_>, out: &mut Vec<Forward>) {
        self.clock = Some(now);
        let Some(track) = self.tracks.get_mut(&packet.track) else {
            self.counters.dropped_unknown += 1;
            return;
        };
        if packet.payload.len() > self.config.payload_max {
            // Its number stays free, so that subscribers know that something is missing.
            self.counters.dropped_payload_size += 1;
            return;
        }
        track.handle_rtp(now, &packet, &self.config, &mut self.counters, out);
        self.settle(packet.track);
    }

    /// A subscriber sent PLI or FIR.
    pub fn handle_keyframe_request(&mut self, now: Instant, slot: Slot) {
        self.clock = Some(now);
        let Some(id) = self.subscribed(slot) else { return };
        let Some(track) = self.tracks.get_mut(&id) else { return };
        let merged = track.request_keyframe(now, slot) == Some(false);
        self.counters.keyframe_requests_merged += u64::from(merged);
        self.settle(id);
    }

    /// A key-frame request that is due; to be asked until `None`, after every input and at [`poll_timeout`](Self::poll_timeout).
    pub fn poll_keyframe_request(&mut self, now: Instant) -> Option<KeyframeRequest> {
        self.clock = Some(now);
        let mut index = 0;
        while let Some(id) = self.listed.get(index).copied() {
            let Some(track) = self.tracks.get_mut(&id) else {
                self.listed.swap_remove(index);
                continue;
            };
            if let Some(rid) = track.take_keyframe_request(now, &self.config) {
                self.counters.keyframe_requests_sent += 1;
                return Some(KeyframeRequest { track: id, rid });
            }
            if track.keyframe_due(&self.config).is_none() {
                track.is_listed = false;
                self.listed.swap_remove(index);
                continue;
            }
            index += 1;
        }
        None
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) and to poll; `None`: not before another input.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let keyframe = self.keyframe_due();
        keyframe.into_iter().chain(self.check_at).min()
    }

    /// When [`poll_keyframe_request`](Self::poll_keyframe_request) has something to say.
    fn keyframe_due(&self) -> Option<Instant> {
        let tracks = self.listed.iter().filter_map(|id| self.tracks.get(id));
        tracks.filter_map(|track| track.keyframe_due(&self.config)).min()
    }

    /// The level of every audio track in dBov, 0 the loudest, [`level::SILENCE`] for nothing; in no order.
    pub fn levels(&self, now: Instant) -> impl Iterator<Item = (TrackId, i8)> + '_ {
        let audio = self.tracks.iter().filter(|(_, track)| track.kind.is_audio());
        audio.map(move |(id, track)| (*id, track.level.current(now)))
    }

    /// The `n` loudest audio tracks with their level, loudest first; silent ones are not among them.
    ///
    /// Who was among them at the last call stays unless somebody is clearly louder: so ask with one `n`, and regularly.
    pub fn loudest(&mut self, now: Instant, n: usize) -> Vec<(TrackId, i8)> {
        let mut ranked: Vec<(i16, TrackId, i8)> = Vec::new();
        for (id, track) in self.tracks.iter().filter(|(_, track)| track.kind.is_audio()) {
            let rank = track.level.rank(now);
            if rank > level::SILENCE {
                let bonus = if self.speakers.contains(id) { LOUDEST_MARGIN_DB } else { 0 };
                ranked.push((i16::from(rank) + bonus, *id, track.level.current(now)));
            }
        }
        ranked.sort_unstable_by_key(|(rank, id, _)| (Reverse(*rank), *id));
        ranked.truncate(n);
        self.speakers.clear();
        self.speakers.extend(ranked.iter().map(|(_, id, _)| *id));
        ranked.into_iter().map(|(_, id, level)| (id, level)).collect()
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

/// How often to look at what only time changes: silence, and demand. Shorter costs idle rooms, longer reports later.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// How much louder than one of the loudest somebody has to be to take the place. Less flickers, more is deaf to a quiet voice.
const LOUDEST_MARGIN_DB: i16 = 6;
