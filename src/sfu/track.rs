//! One published track: its encodings as they are learned from packets, and the subscriptions that take it.
//!
//! Packets in; forwards and wishes for key frames out. Which encoding a subscription should get is decided in one place,
//! [`select_target`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use str0m::format::Codec;
use str0m::media::{MediaKind, Pt, Rid};
use str0m::rtp::ExtensionValues;

use super::codec::{self, Inspection};
use super::keyframe::Throttle;
use super::level::Level;
use super::rewrite::{Numbers, Rewriter};
use crate::base::TrackId;

use super::{Counters, Event, Forward, Incoming, Layer, LayerInfo, SfuConfig, Slot, Target};

/// A published track.
#[derive(Debug)]
pub(super) struct Track {
    pub kind: MediaKind,
    pub muted: bool,
    /// On the room's list of tracks that may want a key frame.
    pub is_listed: bool,
    pub level: Level,
    encodings: Vec<Encoding>,
    subscriptions: Vec<Subscription>,
    /// The generation of the next source; see [`SourceKey`].
    next_generation: u32,
    select_at: Option<Instant>,
    /// Something may have changed that is to be reported.
    is_changed: bool,
    encodings_reported: usize,
}

/// One subscriber's slot and what feeds it.
#[derive(Debug)]
pub(super) struct Subscription {
    pub slot: Slot,
    rewriter: Rewriter,
    /// What is being forwarded. `None`: waiting for a start.
    source: Option<SourceKey>,
    /// The encoding that should be forwarded. `None`: no packet of the track was ever seen.
    target: Option<usize>,
    wish: Target,
    /// The layer that was last reported.
    reported: Option<Layer>,
}

/// A run of packets with one numbering: a restart of the encoding is another generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SourceKey {
    encoding: usize,
    generation: u32,
}

impl Track {
    pub fn new(kind: MediaKind) -> Self {
        Track {
            kind,
            muted: false,
            is_listed: false,
            level: Level::default(),
            encodings: Vec::new(),
            subscriptions: Vec::new(),
            next_generation: 0,
            select_at: None,
            is_changed: false,
            encodings_reported: 0,
        }
    }

    pub fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        self.subscriptions.iter().map(|s| s.slot)
    }

    /// Adds a slot with the numbering it has had so far.
    pub fn subscribe(&mut self, now: Instant, slot: Slot, mut rewriter: Rewriter, wish: Target) {
        rewriter.detach();
        self.subscriptions.push(Subscription { slot, rewriter, source: None, target: None, wish, reported: None });
        self.select(now);
    }

    pub fn set_target(&mut self, now: Instant, slot: Slot, wish: Target) {
        let Some(subscription) = self.subscriptions.iter_mut().find(|s| s.slot == slot) else { return };
        subscription.wish = wish;
        if wish == Target::Paused {
            subscription.detach();
        }
        self.select(now);
    }

    pub fn forwarding(&self, slot: Slot) -> Option<Layer> {
        self.subscriptions.iter().find(|s| s.slot == slot)?.forwarding()
    }

    pub fn layers(&self, now: Instant, out: &mut Vec<LayerInfo>) {
        let first = out.len();
        for (index, encoding) in self.encodings.iter().enumerate().filter(|(_, e)| e.is_alive(now)) {
            out.push(LayerInfo {
                layer: Layer { encoding: index as u8, spatial: 0, temporal: 0 },
                rid: encoding.rid,
                bitrate: encoding.bitrate(),
                width: 0,
                height: 0,
                framerate: 0,
                is_live: true,
            });
        }
        if let Some(added) = out.get_mut(first..) {
            added.sort_by_key(|info| info.bitrate);
        }
    }

    /// Says what changed since the last call.
    pub fn report(&mut self, id: TrackId, events: &mut VecDeque<Event>) {
        if !std::mem::take(&mut self.is_changed) {
            return;
        }
        if self.kind.is_audio() {
            return;
        }
        if self.encodings_reported != self.encodings.len() {
            self.encodings_reported = self.encodings.len();
            events.push_back(Event::LayersChanged { track: id });
        }
        for subscription in &mut self.subscriptions {
            let layer = subscription.forwarding();
            if subscription.reported != layer {
                subscription.reported = layer;
                events.push_back(Event::LayerChanged { slot: subscription.slot, track: id, layer });
            }
        }
    }

    /// Gives the slot's numbering back.
    pub fn unsubscribe(&mut self, slot: Slot) -> Option<Rewriter> {
        let index = self.subscriptions.iter().position(|s| s.slot == slot)?;
        let subscription = self.subscriptions.swap_remove(index);
        self.withdraw_wishes();
        Some(subscription.rewriter)
    }

    /// Gives all slots and their numberings back.
    pub fn into_slots(self) -> impl Iterator<Item = (Slot, Rewriter)> {
        self.subscriptions.into_iter().map(|s| (s.slot, s.rewriter))
    }

    /// `now` is unknown only before anything was subscribed, when there is nothing to choose.
    pub fn set_muted(&mut self, now: Option<Instant>, muted: bool) {
        self.muted = muted;
        self.is_changed = true;
        self.level.clear();
        if muted {
            for subscription in &mut self.subscriptions {
                subscription.detach();
            }
            for encoding in &mut self.encodings {
                encoding.keyframe.clear();
            }
        } else if let Some(now) = now {
            self.select(now);
        }
    }

    /// `None` when there is nothing to ask: audio, muted, unknown slot, or a track that was never heard.
    /// `Some(false)` when the request was merged with one that waits.
    pub fn request_keyframe(&mut self, now: Instant, slot: Slot) -> Option<bool> {
        if self.kind.is_audio() || self.muted {
            return None;
        }
        let subscription = self.subscriptions.iter().find(|s| s.slot == slot)?;
        let index = subscription.source.map(|s| s.encoding).or(subscription.target)?;
        Some(self.encodings.get_mut(index)?.keyframe.request(now))
    }

    /// Joins the list of tracks that may want a key frame, if this one does and is not on it.
    pub fn list(&mut self, id: TrackId, config: &SfuConfig, listed: &mut Vec<TrackId>) {
        if !self.is_listed && self.keyframe_due(config).is_some() {
            self.is_listed = true;
            listed.push(id);
        }
    }

    /// When a key frame is to be asked for next; `None` while nobody wants one.
    pub fn keyframe_due(&self, config: &SfuConfig) -> Option<Instant> {
        self.encodings.iter().filter_map(|e| e.keyframe.due(e.interval(config))).min()
    }

    /// The encoding to ask now, once per call.
    pub fn take_keyframe_request(&mut self, now: Instant, config: &SfuConfig) -> Option<Option<Rid>> {
        let due = self.encodings.iter_mut().find_map(|e| {
            let interval = e.interval(config);
            e.keyframe.take(now, interval).then_some(e.rid)
        })?;
        Some(due)
    }

    pub fn handle_rtp(
        &mut self,
        now: Instant,
        packet: &Incoming<'_>,
        config: &SfuConfig,
        counters: &mut Counters,
        out: &mut Vec<Forward>,
    ) {
        let is_video = self.kind.is_video();
        let Some(index) = self.encoding_of(now, packet, config) else {
            counters.dropped_unknown += 1;
            return;
        };
        let generation = self.next_generation;
        let Some(encoding) = self.encodings.get_mut(index) else { return };
        let accepted = encoding.accept(now, packet, is_video, generation);
        if encoding.generation == generation {
            // A numbering began: an encoding seen first, or one that started anew.
            self.next_generation = generation.wrapping_add(1);
            for subscription in &mut self.subscriptions {
                if subscription.source.is_some_and(|s| s.encoding == index && s.generation != generation) {
                    subscription.detach();
                }
            }
            self.select(now);
        }
        let Accepted { seq, is_newest } = match accepted {
            Ok(accepted) => accepted,
            Err(Refused::Empty) => return counters.dropped_empty += 1,
            Err(Refused::Late) => return counters.dropped_late += 1,
            Err(Refused::Duplicate) => return counters.dropped_duplicate += 1,
        };

        let inspection = if is_video {
            let Ok(inspection) = codec::inspect(packet.codec, packet.payload) else {
                counters.dropped_malformed += 1;
                return;
            };
            inspection
        } else {
            if let (Some(level), false) = (packet.ext.audio_level, self.muted) {
                self.level.on_packet(packet.arrival, level);
            }
            Inspection { keyframe_start: true, vp8: None }
        };
        let numbers = Numbers {
            seq,
            time: packet.time,
            clock_rate: packet.clock_rate,
            arrival: packet.arrival,
            vp8: inspection.vp8,
        };
        // Something may start with a packet only if everything after it is still to come, or was kept.
        let Some(encoding) = self.encodings.get_mut(index) else { return };
        let can_start = inspection.keyframe_start && (is_newest || encoding.held.has_all_after(seq));
        if encoding.keyframe.is_standing() && !can_start {
            encoding.held.push(is_newest, numbers, packet);
        }

        if self.select_at.is_none_or(|at| at <= now) {
            self.select(now);
        }
        if is_video
            && can_start
            && let Some(encoding) = self.encodings.get_mut(index)
        {
            encoding.keyframe.on_keyframe();
        }
        if self.muted || self.subscriptions.is_empty() {
            return;
        }

        let Some(source) = self.encodings.get(index).map(|e| SourceKey { encoding: index, generation: e.generation })
        else {
            return;
        };
        let content = Content::of(packet);
        let held = match self.encodings.get_mut(index) {
            Some(encoding) if can_start => encoding.held.take_after(seq),
            _ => Vec::new(),
        };
        let mut changed = false;
        for subscription in &mut self.subscriptions {
            if subscription.source == Some(source) && subscription.rewriter.is_out_of_reach(&numbers) {
                subscription.detach();
                changed = true;
            }
            let mut starts = false;
            if subscription.source != Some(source) {
                // Whoever has nothing takes any picture; whoever has one changes only to the encoding chosen for it.
                let wants = subscription.wish != Target::Paused
                    && (subscription.source.is_none() || subscription.target == Some(index));
                if !(wants && can_start) {
                    if subscription.source.is_none() && subscription.wish != Target::Paused {
                        counters.dropped_no_keyframe += 1;
                    }
                    continue;
                }
                if subscription.rewriter.has_sent() {
                    counters.switches += 1;
                }
                subscription.rewriter.attach(&numbers);
                subscription.source = Some(source);
                changed = true;
                starts = true;
            }
            subscription.forward(&numbers, &content, is_video, counters, out);
            if starts {
                for (numbers, content) in &held {
                    subscription.forward(numbers, content, is_video, counters, out);
                }
            }
        }
        if changed {
            self.update_wishes(now);
        }
    }

    /// Finds or learns the encoding a packet belongs to; `None` when the track has as many as it may have.
    fn encoding_of(&mut self, now: Instant, packet: &Incoming<'_>, config: &SfuConfig) -> Option<usize> {
        if let Some(index) = self.encodings.iter().position(|e| e.rid == packet.rid) {
            return Some(index);
        }
        let generation = self.next_generation;
        if self.encodings.len() < config.encodings_max {
            self.encodings.push(Encoding::new(now, packet, generation));
            return Some(self.encodings.len() - 1);
        }
        let index = self.encodings.iter().position(|e| !e.is_alive(now))?;
        let replaced = self.encodings.get_mut(index)?;
        *replaced = Encoding::new(now, packet, generation);
        Some(index)
    }

    /// Chooses anew what every subscription should get, and asks for the key frames that takes.
    fn select(&mut self, now: Instant) {
        self.select_at = Some(now + SELECT_INTERVAL);
        let best = best_alive(&self.encodings, now).or((!self.encodings.is_empty()).then_some(0));
        for (index, encoding) in self.encodings.iter_mut().enumerate() {
            encoding.is_high = Some(index) == best;
        }
        for subscription in &mut self.subscriptions {
            let current = subscription.source.map(|s| s.encoding);
            subscription.target = match subscription.wish {
                Target::Best => select_target(&self.encodings, current, now),
                Target::Paused => None,
                Target::Layer(layer) => {
                    let index = usize::from(layer.encoding);
                    let is_there = self.encodings.get(index).is_some_and(|e| e.is_alive(now));
                    if is_there { Some(index) } else { select_target(&self.encodings, current, now) }
                }
            };
        }
        self.update_wishes(now);
    }

    /// An encoding has a standing wish for a key frame while a subscription waits to start with it.
    fn update_wishes(&mut self, now: Instant) {
        self.is_changed = true;
        let is_possible = self.kind.is_video() && !self.muted;
        for (index, encoding) in self.encodings.iter_mut().enumerate() {
            if is_possible && self.subscriptions.iter().any(|s| s.waits_for(index)) {
                encoding.keyframe.set_standing(now);
            } else {
                encoding.keyframe.withdraw_standing();
                encoding.held.packets.clear();
            }
        }
    }

    /// The part of [`update_wishes`](Self::update_wishes) that a subscription's end can cause.
    fn withdraw_wishes(&mut self) {
        for (index, encoding) in self.encodings.iter_mut().enumerate() {
            if !self.subscriptions.iter().any(|s| s.waits_for(index)) {
                encoding.keyframe.withdraw_standing();
            }
        }
    }
}

impl Subscription {
    fn forward(
        &mut self,
        numbers: &Numbers,
        content: &Content,
        is_video: bool,
        counters: &mut Counters,
        out: &mut Vec<Forward>,
    ) {
        let Some(rewritten) = self.rewriter.rewrite(numbers) else {
            counters.dropped_late += 1;
            return;
        };
        counters.forwarded += 1;
        out.push(Forward {
            slot: self.slot,
            codec: content.codec,
            red: content.red,
            inner_pt: content.inner_pt,
            seq_no: rewritten.seq_no,
            time: rewritten.time,
            marker: content.marker,
            payload: content.payload.clone(),
            ext: content.ext.clone(),
            vp8_patch: rewritten.vp8_patch,
            nackable: is_video,
            arrival: numbers.arrival,
        });
    }

    fn forwarding(&self) -> Option<Layer> {
        let encoding = u8::try_from(self.source?.encoding).ok()?;
        Some(Layer { encoding, spatial: 0, temporal: 0 })
    }

    fn waits_for(&self, encoding: usize) -> bool {
        self.target == Some(encoding) && self.source.is_none_or(|source| source.encoding != encoding)
    }

    fn detach(&mut self) {
        self.source = None;
        self.rewriter.detach();
    }
}

/// The encoding a subscription should get: the best that is alive, where a better one has to be better by a clear margin
/// to be worth a key frame. With none alive the present one, else the one heard last. `None`: none was ever heard.
fn select_target(encodings: &[Encoding], current: Option<usize>, now: Instant) -> Option<usize> {
    let Some(best) = best_alive(encodings, now) else {
        return current.or_else(|| encodings.iter().enumerate().max_by_key(|(_, e)| e.heard).map(|(index, _)| index));
    };
    let Some((current, present)) = current.and_then(|index| Some((index, encodings.get(index)?))) else {
        return Some(best);
    };
    let margin = encodings.get(best).is_some_and(|e| e.bitrate() * 4 > present.bitrate() * 5);
    Some(if present.is_alive(now) && !margin { current } else { best })
}

/// The encoding that is alive and has the highest bitrate.
fn best_alive(encodings: &[Encoding], now: Instant) -> Option<usize> {
    let alive = encodings.iter().enumerate().filter(|(_, e)| e.is_alive(now));
    alive.max_by_key(|(_, e)| e.bitrate()).map(|(index, _)| index)
}

/// The extension values a subscriber may see. The rest names things of the publisher's connection (mid, rid, transport
/// sequence numbers).
fn whitelist(ext: &ExtensionValues) -> ExtensionValues {
    ExtensionValues {
        audio_level: ext.audio_level,
        voice_activity: ext.voice_activity,
        video_orientation: ext.video_orientation,
        video_content_type: ext.video_content_type,
        abs_capture_time: ext.abs_capture_time,
        play_delay_min: ext.play_delay_min,
        play_delay_max: ext.play_delay_max,
        ..ExtensionValues::default()
    }
}

/// One encoding of a track: one SSRC at a time.
#[derive(Debug)]
struct Encoding {
    rid: Option<Rid>,
    ssrc: u32,
    codec: Codec,
    generation: u32,
    window: Window,
    padding: Padding,
    /// The SSRC before this one, and when it was left.
    retired: Option<(u32, Instant)>,
    heard: Instant,
    rate: Rate,
    keyframe: Throttle,
    held: Held,
    /// The best encoding of its track, or the only one.
    is_high: bool,
}

/// A packet's place in the numbering of its encoding.
#[derive(Debug, Clone, Copy)]
struct Accepted {
    /// Without the numbers of padding.
    seq: u64,
    /// Nothing newer was seen.
    is_newest: bool,
}

#[derive(Debug, Clone, Copy)]
enum Refused {
    Empty,
    Late,
    Duplicate,
}

impl Encoding {
    fn new(now: Instant, packet: &Incoming<'_>, generation: u32) -> Self {
        Encoding {
            rid: packet.rid,
            ssrc: packet.ssrc,
            codec: packet.codec,
            generation,
            window: Window::new(),
            padding: Padding::default(),
            retired: None,
            heard: now,
            rate: Rate::default(),
            keyframe: Throttle::default(),
            held: Held::default(),
            is_high: false,
        }
    }

    fn is_alive(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.heard) < DEAD_AFTER
    }

    /// Over the second before its last packet, so that a pause (a screen that does not change) is no decline.
    fn bitrate(&self) -> u64 {
        self.rate.bits(self.heard)
    }

    fn interval(&self, config: &SfuConfig) -> Duration {
        if self.is_high { config.keyframe_high } else { config.keyframe_low }
    }

    /// Takes a packet's number. A numbering that begins anew gets `generation`.
    fn accept(
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

        let is_newest = self.window.insert(seq)?;
        self.heard = now;
        self.rate.add(now, packet.payload.len());
        if packet.payload.is_empty() {
            if is_newest {
                self.padding.remove(seq);
            }
            return Err(Refused::Empty);
        }
        let seq = self.padding.compact(seq).ok_or(Refused::Late)?;
        Ok(Accepted { seq, is_newest })
    }

    fn restart(&mut self, packet: &Incoming<'_>, generation: u32) {
        self.ssrc = packet.ssrc;
        self.codec = packet.codec;
        self.generation = generation;
        self.window = Window::new();
        self.padding = Padding::default();
        self.held = Held::default();
    }
}

/// What of a packet is the same for every subscriber.
#[derive(Debug, Clone)]
struct Content {
    codec: Codec,
    red: bool,
    inner_pt: Pt,
    marker: bool,
    payload: Arc<[u8]>,
    ext: ExtensionValues,
}

impl Content {
    fn of(packet: &Incoming<'_>) -> Self {
        Content {
            codec: packet.codec,
            red: packet.red,
            inner_pt: packet.inner_pt,
            marker: packet.marker,
            payload: packet.payload.clone(),
            ext: whitelist(packet.ext),
        }
    }
}

/// The packets that came while some subscription waits to start.
///
/// The first packet of a key frame may come after the others: overtaken on the way, or lost and sent again. Without them
/// that key frame would be of no use, and on a path with much jitter so would be most. Payloads are shared, not copied.
#[derive(Debug, Default)]
struct Held {
    packets: VecDeque<(Numbers, Content)>,
    /// Everything that came with this number or a higher one is in `packets`, when that is not empty.
    complete_from: u64,
}

impl Held {
    /// A third of a second at 400 packets a second; the oldest goes when it is full. More only costs memory while
    /// somebody waits.
    const MAX: usize = 128;

    fn push(&mut self, is_newest: bool, numbers: Numbers, packet: &Incoming<'_>) {
        if self.packets.is_empty() {
            // What is newer than this one and came before it is gone.
            if !is_newest {
                return;
            }
            self.complete_from = numbers.seq;
        }
        self.packets.push_back((numbers, Content::of(packet)));
        if self.packets.len() > Held::MAX
            && let Some((oldest, _)) = self.packets.pop_front()
        {
            self.complete_from = self.complete_from.max(oldest.seq + 1);
        }
    }

    /// Whether everything that came after the packet `seq` in the numbering is here.
    fn has_all_after(&self, seq: u64) -> bool {
        !self.packets.is_empty() && seq + 1 >= self.complete_from
    }

    /// What follows the packet `seq`, in order. Nothing is held any longer.
    fn take_after(&mut self, seq: u64) -> Vec<(Numbers, Content)> {
        let mut packets: Vec<_> = self.packets.drain(..).filter(|(numbers, _)| numbers.seq > seq).collect();
        packets.sort_unstable_by_key(|(numbers, _)| numbers.seq);
        packets
    }
}

/// Which of the latest numbers were seen, so that none is forwarded twice: SRTP must not encrypt two payloads under one number.
#[derive(Debug)]
struct Window {
    highest: Option<u64>,
    /// Bit n of the ring stands for the number that is n modulo the size.
    seen: [u64; Window::SIZE as usize / 64],
}

impl Window {
    /// Three seconds at 340 packets a second; a packet that is later than that is of no use.
    const SIZE: u64 = 1024;

    fn new() -> Self {
        Window { highest: None, seen: [0; Window::SIZE as usize / 64] }
    }

    fn highest(&self) -> Option<u64> {
        self.highest
    }

    /// Notes a number; `Ok(true)` when it is the highest so far.
    fn insert(&mut self, seq: u64) -> Result<bool, Refused> {
        let is_newest = match self.highest {
            None => true,
            Some(highest) if seq > highest => {
                if seq - highest >= Window::SIZE {
                    self.seen.fill(0);
                } else {
                    for skipped in highest + 1..seq {
                        *self.word(skipped) &= !Window::bit(skipped);
                    }
                }
                true
            }
            Some(highest) => {
                if highest - seq >= Window::SIZE {
                    return Err(Refused::Late);
                }
                if *self.word(seq) & Window::bit(seq) != 0 {
                    return Err(Refused::Duplicate);
                }
                false
            }
        };
        *self.word(seq) |= Window::bit(seq);
        if is_newest {
            self.highest = Some(seq);
        }
        Ok(is_newest)
    }

    fn word(&mut self, seq: u64) -> &mut u64 {
        &mut self.seen[(seq % Window::SIZE / 64) as usize]
    }

    fn bit(seq: u64) -> u64 {
        1 << (seq % 64)
    }
}

/// Takes the numbers of padding out of the numbering.
///
/// A publisher without RTX fills bandwidth probes with empty packets of the media's own SSRC. They are of no use to
/// subscribers (each gets its own padding), and a hole in their place would be NACKed in vain and would stop a receiver that
/// finds frame references by sequence number (H.264). So what follows moves down. An empty packet that comes late leaves a
/// hole, because what follows it is out already.
#[derive(Debug, Default)]
struct Padding {
    /// How many numbers were taken out altogether.
    removed: u64,
    /// The latest of them, ascending; at most [`Padding::KEPT`].
    recent: VecDeque<u64>,
}

impl Padding {
    /// More than any burst of probes that can be reordered with media.
    const KEPT: usize = 64;

    fn remove(&mut self, seq: u64) {
        if self.recent.len() >= Padding::KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(seq);
        self.removed += 1;
    }

    /// `None` for a number that was taken out, or so old that its place is forgotten.
    fn compact(&self, seq: u64) -> Option<u64> {
        let later = self.recent.iter().rev().take_while(|removed| **removed >= seq).count();
        if later == 0 {
            return seq.checked_sub(self.removed);
        }
        let is_removed = self.recent.binary_search(&seq).is_ok();
        let is_forgotten = later == self.recent.len() && self.removed > later as u64;
        if is_removed || is_forgotten {
            return None;
        }
        seq.checked_sub(self.removed - later as u64)
    }
}

/// The bitrate over the last second.
#[derive(Debug, Default)]
struct Rate {
    /// Bytes per tenth of a second; the newest is at `tenth` modulo the size.
    bytes: [u32; Rate::TENTHS as usize],
    began: Option<Instant>,
    tenth: u64,
}

impl Rate {
    const TENTHS: u64 = 10;

    fn add(&mut self, now: Instant, bytes: usize) {
        let tenth = self.tenth_of(now);
        self.began.get_or_insert(now);
        for skipped in (self.tenth + 1..=tenth).rev().take(Rate::TENTHS as usize) {
            *self.bucket(skipped) = 0;
        }
        self.tenth = self.tenth.max(tenth);
        let newest = self.tenth;
        let bucket = self.bucket(newest);
        *bucket = bucket.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// Bits in the last second.
    fn bits(&self, now: Instant) -> u64 {
        let passed = self.tenth_of(now).saturating_sub(self.tenth);
        let kept = Rate::TENTHS.saturating_sub(passed);
        let bytes = (0..kept).filter_map(|back| {
            let tenth = self.tenth.checked_sub(back)?;
            self.bytes.get((tenth % Rate::TENTHS) as usize)
        });
        bytes.map(|bytes| u64::from(*bytes) * 8).sum()
    }

    fn tenth_of(&self, now: Instant) -> u64 {
        self.began.map_or(0, |began| now.saturating_duration_since(began).as_millis() as u64 / 100)
    }

    fn bucket(&mut self, tenth: u64) -> &mut u32 {
        &mut self.bytes[(tenth % Rate::TENTHS) as usize]
    }
}

/// An encoding that is silent for so long is dead. Shorter takes a low frame rate for a failure.
const DEAD_AFTER: Duration = Duration::from_millis(1500);
/// How often the choice of encodings is looked at. Shorter costs time per packet, longer reacts later.
const SELECT_INTERVAL: Duration = Duration::from_millis(100);
/// How long packets of an SSRC that was left are stragglers, not a return.
const STRAGGLERS: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_takes_every_number_once() {
        let rows: &[(u64, &str)] = &[
            (1000, "newest"),
            (1000, "duplicate"),
            (999, "late in order"),
            (999, "duplicate"),
            (1003, "newest"),
            (1001, "late in order"),
            (1001, "duplicate"),
            (1002, "late in order"),
            (1000, "duplicate"),
            (2026, "newest"),
            (1002, "too late"),
            (1003, "duplicate"),
            (1004, "late in order"),
            (2026 + 5000, "newest"),
            (2026 + 5000 - 1023, "late in order"),
            (2026 + 5000 - 1023, "duplicate"),
            (2026 + 5000 - 1024, "too late"),
            (u64::MAX, "newest"),
            (u64::MAX, "duplicate"),
            (0, "too late"),
        ];
        let mut window = Window::new();
        for (row, (seq, expect)) in rows.iter().enumerate() {
            let verdict = match window.insert(*seq) {
                Ok(true) => "newest",
                Ok(false) => "late in order",
                Err(Refused::Late) => "too late",
                Err(Refused::Duplicate) => "duplicate",
                Err(Refused::Empty) => "empty",
            };
            assert_eq!(verdict, *expect, "row {row}: {seq}");
        }
    }

    #[test]
    fn window_agrees_with_a_set() {
        let mut random = fastrand::Rng::with_seed(11);
        let mut window = Window::new();
        let mut seen = std::collections::HashSet::new();
        let mut newest = 5000u64;
        for _ in 0..50_000 {
            let seq = newest + random.u64(0..60) - 40;
            let fresh = seen.insert(seq);
            newest = newest.max(seq);
            assert_eq!(window.insert(seq).is_ok(), fresh, "{seq}");
        }
    }

    #[test]
    fn padding_leaves_no_holes_and_no_number_twice() {
        let mut padding = Padding::default();
        assert_eq!(padding.compact(10), Some(10));
        padding.remove(11);
        padding.remove(13);
        let out: Vec<_> = (9..17).map(|seq| padding.compact(seq)).collect();
        assert_eq!(out, [Some(9), Some(10), None, Some(11), None, Some(12), Some(13), Some(14)]);
        for seq in 100..100 + Padding::KEPT as u64 {
            padding.remove(seq);
        }
        assert_eq!(padding.compact(99), None, "older than what is kept");
        assert_eq!(padding.compact(164), Some(164 - 66));
    }

    #[test]
    fn rate_of_the_last_second() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut rate = Rate::default();
        assert_eq!(rate.bits(start), 0);
        for n in 0..300 {
            rate.add(at(n * 10), 125);
        }
        assert_eq!(rate.bits(at(2990)), 100 * 1000);
        assert_eq!(rate.bits(at(3490)), 50 * 1000);
        assert_eq!(rate.bits(at(60_000)), 0);
        rate.add(at(60_000), 125);
        assert_eq!(rate.bits(at(60_000)), 1000);
        // A clock that goes back counts for the newest tenth.
        rate.add(at(0), 125);
        assert_eq!(rate.bits(at(60_000)), 2000);
    }
}
