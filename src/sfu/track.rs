//! One published track: its encodings as they are learned from packets, and the subscriptions that take it.
//!
//! Packets in; forwards, wishes for key frames and events out. What a subscription should get is decided in [`choose`], what
//! becomes of a packet in [`super::subscription`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use str0m::media::{MediaKind, Rid};
use str0m::rtp::vla::VideoLayersAllocation;

use super::cache::Cached;
use super::choose;
use super::encoding::{Accepted, Encoding};
use super::frame::Frame;
use super::held::Content;
use super::layout::Figures;
use super::level::Level;
use super::numbering::Refused;
use super::rewrite::{Numbers, Rewriter};
use super::subscription::{Packet, SourceKey, Subscription};
use super::{Counters, Event, Forward, Incoming, Layer, LayerInfo, SfuConfig, Slot, Target};
use crate::base::TrackId;

/// A published track.
#[derive(Debug)]
pub(super) struct Track {
    pub kind: MediaKind,
    /// On the room's list of tracks that may want a key frame.
    pub is_listed: bool,
    pub level: Level,
    encodings: Vec<Encoding>,
    subscriptions: Vec<Subscription>,
    is_muted: bool,
    /// Since when, if it is and that is known.
    muted_at: Option<Instant>,
    /// When its first packet came.
    born: Option<Instant>,
    /// The generation of the next source; see [`SourceKey`].
    next_generation: u32,
    select_at: Option<Instant>,
    /// Something may have changed that is to be reported.
    is_changed: bool,
    /// The layers as they were reported last, and room to compare with.
    reported: Vec<LayerInfo>,
    layers: Vec<LayerInfo>,
    figures: Vec<Figures>,
}

impl Track {
    pub fn new(kind: MediaKind) -> Self {
        Track {
            kind,
            is_listed: false,
            level: Level::default(),
            encodings: Vec::new(),
            subscriptions: Vec::new(),
            is_muted: false,
            muted_at: None,
            born: None,
            next_generation: 0,
            select_at: None,
            is_changed: false,
            reported: Vec::new(),
            layers: Vec::new(),
            figures: Vec::new(),
        }
    }

    pub fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        self.subscriptions.iter().map(|s| s.slot)
    }

    /// Adds a slot with the numbering it has had so far.
    pub fn subscribe(&mut self, now: Instant, slot: Slot, rewriter: Rewriter, target: Target) {
        self.subscriptions.push(Subscription::new(slot, target, rewriter));
        self.select(now);
    }

    pub fn set_target(&mut self, now: Instant, slot: Slot, target: Target) {
        let Some(subscription) = self.subscriptions.iter_mut().find(|s| s.slot == slot) else { return };
        subscription.target = target;
        if target == Target::Paused {
            subscription.detach();
        }
        self.select(now);
    }

    /// Whether the slot's receiver reads the dependency descriptor.
    pub fn set_reads_descriptors(&mut self, now: Option<Instant>, slot: Slot, reads: bool) {
        if let Some(subscription) = self.subscriptions.iter_mut().find(|s| s.slot == slot) {
            subscription.set_reads_descriptors(reads);
        }
        if let Some(now) = now {
            self.select(now);
        }
    }

    pub fn cut(&mut self, now: Instant, slot: Slot) {
        let Some(subscription) = self.subscriptions.iter_mut().find(|s| s.slot == slot) else { return };
        if self.kind.is_video() {
            subscription.detach();
            self.select(now);
        }
    }

    /// Sends a slot that waits what is kept of its goal, or of the nearest encoding below.
    pub fn replay(
        &mut self,
        now: Instant,
        slot: Slot,
        replay_max: usize,
        counters: &mut Counters,
        out: &mut Vec<Forward>,
    ) {
        if self.is_muted || self.kind.is_audio() {
            return;
        }
        let Some(subscription) = self.subscriptions.iter_mut().find(|s| s.slot == slot) else { return };
        let Some(goal) = subscription.goal.filter(|goal| subscription.waits_for(now, goal.encoding)) else { return };
        let mut candidates = vec![goal.encoding];
        if subscription.source().is_none() {
            candidates.extend(choose::fallbacks(&self.encodings, goal, now));
        }
        for index in candidates {
            let Some(encoding) = self.encodings.get(index).filter(|e| e.is_alive(now)) else { continue };
            let key = SourceKey { encoding: index, generation: encoding.generation };
            if subscription.replay(now, key, encoding, replay_max, counters, out) {
                self.update_wishes(now);
                return;
            }
        }
    }

    /// Gives the slot's numbering back. `now` is unknown only before there is anything to withdraw.
    pub fn unsubscribe(&mut self, now: Option<Instant>, slot: Slot) -> Option<Rewriter> {
        let index = self.subscriptions.iter().position(|s| s.slot == slot)?;
        let subscription = self.subscriptions.swap_remove(index);
        if let Some(now) = now {
            self.update_wishes(now);
        }
        Some(subscription.into_rewriter())
    }

    /// Gives all slots and their numberings back.
    pub fn into_slots(self) -> impl Iterator<Item = (Slot, Rewriter)> {
        self.subscriptions.into_iter().map(|s| (s.slot, s.into_rewriter()))
    }

    pub fn is_muted(&self) -> bool {
        self.is_muted
    }

    /// `now` is unknown only before anything was subscribed or arrived, when there is nothing to choose.
    pub fn set_muted(&mut self, now: Option<Instant>, is_muted: bool) {
        self.level.clear();
        self.is_changed = true;
        self.is_muted = is_muted;
        let since = std::mem::replace(&mut self.muted_at, now.filter(|_| is_muted));
        if is_muted {
            for subscription in &mut self.subscriptions {
                subscription.detach();
            }
            for encoding in &mut self.encodings {
                encoding.keyframe.clear();
                encoding.held.clear();
                // What was said before must not be heard by those who come later.
                encoding.cache.clear();
            }
            return;
        }
        let Some(now) = now else { return };
        for encoding in &mut self.encodings {
            encoding.demand.forgive(now);
            if since.is_some_and(|since| encoding.is_alive(since)) {
                encoding.demand.expect(now);
            }
        }
        self.select(now);
    }

    /// While the track is muted nothing is said about its encodings by their silence.
    fn judged_at(&self, now: Instant) -> Instant {
        self.muted_at.unwrap_or(now)
    }

    pub fn layers(&self, now: Instant, out: &mut Vec<LayerInfo>) {
        if self.kind.is_video() {
            choose::layers(&self.encodings, self.judged_at(now), &mut Vec::new(), out);
        }
    }

    pub fn forwarding(&self, slot: Slot) -> Option<Layer> {
        self.subscriptions.iter().find(|s| s.slot == slot)?.forwarding(&self.encodings)
    }

    /// `None` when there is nothing to ask: audio, muted, unknown slot, or a track that was never heard.
    /// `Some(false)` when the request was merged with one that waits.
    pub fn request_keyframe(&mut self, now: Instant, slot: Slot) -> Option<bool> {
        if self.kind.is_audio() || self.is_muted {
            return None;
        }
        let subscription = self.subscriptions.iter().find(|s| s.slot == slot)?;
        let index = subscription.source().map(|s| s.encoding).or(subscription.goal.map(|goal| goal.encoding))?;
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

    /// Looks at what only time changes. `true`: there is more to come.
    pub fn check(&mut self, now: Instant) -> bool {
        if self.kind.is_audio() || self.is_muted {
            return false;
        }
        self.select(now);
        // Of one that is gone or paused only a packet brings news.
        self.encodings.iter().any(|e| e.is_alive(now) || e.demand.is_awaited(now))
    }

    /// Says what changed since the last call.
    pub fn report(&mut self, id: TrackId, now: Instant, config: &SfuConfig, events: &mut VecDeque<Event>) {
        if !std::mem::take(&mut self.is_changed) || self.kind.is_audio() {
            return;
        }
        self.layers.clear();
        choose::layers(&self.encodings, self.judged_at(now), &mut self.figures, &mut self.layers);
        let shape = |info: &LayerInfo| (info.layer, info.rid, info.width, info.height, info.is_live);
        // In whatever order: frame rates and bitrates change all the time.
        self.layers.sort_unstable_by_key(|info| info.layer);
        if !self.layers.iter().map(shape).eq(self.reported.iter().map(shape)) {
            std::mem::swap(&mut self.layers, &mut self.reported);
            events.push_back(Event::LayersChanged { track: id });
        }
        for subscription in &mut self.subscriptions {
            let layer = subscription.forwarding(&self.encodings);
            if subscription.reported != layer {
                subscription.reported = layer;
                events.push_back(Event::LayerChanged { slot: subscription.slot, track: id, layer });
            }
        }
        self.report_demand(id, now, config, events);
    }

    fn report_demand(&mut self, id: TrackId, now: Instant, config: &SfuConfig, events: &mut VecDeque<Event>) {
        let Some(born) = self.born.filter(|_| !self.is_muted) else { return };
        for index in 0..self.encodings.len() {
            let is_named = self.subscriptions.iter().any(|s| {
                s.source().is_some_and(|source| source.encoding == index)
                    || choose::names(&self.encodings, s.target, s.goal, index, now)
            });
            let Some(encoding) = self.encodings.get_mut(index) else { return };
            let is_alive = encoding.is_alive(now);
            let told = encoding.demand.update(now, is_named, is_alive, born + config.learning, config.unwanted_after);
            if let Some(wanted) = told {
                events.push_back(Event::EncodingWanted { track: id, rid: encoding.rid, wanted });
            }
        }
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
        self.born.get_or_insert(now);
        let Some(index) = self.encoding_of(now, packet, config) else {
            counters.dropped_unknown += 1;
            return;
        };
        let generation = self.next_generation;
        let Some(encoding) = self.encodings.get_mut(index) else { return };
        let was_alive = encoding.is_alive(now);
        let accepted = encoding.accept(now, packet, is_video, generation);
        if encoding.generation == generation {
            // A numbering began: an encoding seen first, or one that started anew.
            self.next_generation = generation.wrapping_add(1);
            for subscription in &mut self.subscriptions {
                if subscription.source().is_some_and(|s| s.encoding == index && s.generation != generation) {
                    subscription.detach();
                }
            }
            self.select_at = None;
        } else if !was_alive {
            self.select_at = None;
        }
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(refused) => {
                match refused {
                    Refused::Empty => counters.dropped_empty += 1,
                    Refused::Late => counters.dropped_late += 1,
                    Refused::Duplicate => counters.dropped_duplicate += 1,
                }
                if self.select_at.is_none() {
                    self.select(now);
                }
                return;
            }
        };
        let Some((numbers, frame)) = self.inspect(now, index, packet, accepted, counters) else { return };
        self.distribute(now, index, packet, (numbers, frame, accepted), config, counters, out);
    }

    fn inspect(
        &mut self,
        now: Instant,
        index: usize,
        packet: &Incoming<'_>,
        accepted: Accepted,
        counters: &mut Counters,
    ) -> Option<(Numbers, Frame)> {
        if self.kind.is_audio() {
            if let (Some(level), false) = (packet.ext.audio_level, self.is_muted) {
                self.level.on_packet(packet.arrival, level);
            }
            let numbers = Numbers {
                seq: accepted.seq,
                time: packet.time,
                clock_rate: packet.clock_rate,
                arrival: packet.arrival,
                vp8: None,
                vp9: None,
                frame_number: None,
            };
            return Some((numbers, Frame::plain(true, packet.marker)));
        }
        let encoding = self.encodings.get_mut(index)?;
        let Ok((numbers, frame, is_changed)) = encoding.inspect(now, packet, accepted) else {
            counters.dropped_malformed += 1;
            return None;
        };
        self.is_changed |= is_changed;
        if let Some(allocation) = packet.ext.user_values.get::<VideoLayersAllocation>()
            && accepted.is_newest
        {
            encoding.set_allocation_index(allocation.current_simulcast_stream_index);
            for (other, encoding) in self.encodings.iter_mut().enumerate() {
                self.is_changed |= encoding.allocate(now, allocation, other == index);
            }
        }
        Some((numbers, frame))
    }

    /// Gives an accepted packet to all subscriptions.
    #[expect(clippy::too_many_arguments, reason = "all of them are the packet's, or where it goes")]
    fn distribute(
        &mut self,
        now: Instant,
        index: usize,
        packet: &Incoming<'_>,
        (numbers, frame, accepted): (Numbers, Frame, Accepted),
        config: &SfuConfig,
        counters: &mut Counters,
        out: &mut Vec<Forward>,
    ) {
        let is_video = self.kind.is_video();
        let is_muted = self.is_muted;
        if self.select_at.is_none_or(|at| at <= now) {
            self.select(now);
        }
        // Something may start with a packet only if everything after it is still to come, or was kept.
        let Some(encoding) = self.encodings.get_mut(index) else { return };
        let can_start = frame.starts_keyframe && (accepted.is_newest || encoding.held.has_all_after(numbers.seq));
        if encoding.keyframe.is_standing() && !can_start {
            encoding.held.push(accepted, numbers, packet);
        }
        if is_video && can_start {
            encoding.keyframe.on_keyframe();
        }
        let held = if can_start { encoding.held.take_after(numbers.seq) } else { Vec::new() };
        if is_muted || (self.subscriptions.is_empty() && !is_video) {
            return;
        }
        let content = Content::of(packet);
        let held: Vec<Cached> = held
            .into_iter()
            .map(|(numbers, content)| Cached { frame: encoding.frame_of(&content), numbers, content })
            .collect();
        if is_video {
            let size = (numbers.seq, content.payload.len());
            let max = config.cache_max;
            encoding.cache.push(now, can_start, size, max, || Cached { numbers, frame, content: content.clone() });
            for cached in &held {
                let size = (cached.numbers.seq, cached.content.payload.len());
                encoding.cache.push(now, false, size, max, || cached.clone());
            }
        }

        let key = SourceKey { encoding: index, generation: encoding.generation };
        let layout = &encoding.layout;
        let packet = Packet { numbers: &numbers, frame: &frame, content: &content };
        let mut changed = can_start;
        for subscription in &mut self.subscriptions {
            if subscription.is_out_of_reach(key, &numbers) {
                subscription.detach();
                changed = true;
            }
            let starts = can_start && subscription.wants_start(key);
            if starts {
                subscription.start(key, packet, layout, counters);
                changed = true;
            } else if subscription.source() != Some(key) {
                if subscription.source().is_none() && subscription.target != Target::Paused {
                    counters.dropped_no_keyframe += 1;
                }
                continue;
            }
            subscription.take(now, packet, layout, is_video, counters, out);
            if starts {
                for cached in &held {
                    let packet = Packet { numbers: &cached.numbers, frame: &cached.frame, content: &cached.content };
                    subscription.take(now, packet, layout, is_video, counters, out);
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
        let best = choose::best_alive(&self.encodings, now).or((!self.encodings.is_empty()).then_some(0));
        for (index, encoding) in self.encodings.iter_mut().enumerate() {
            encoding.is_high = Some(index) == best;
        }
        for subscription in &mut self.subscriptions {
            let current = subscription.source().map(|s| s.encoding);
            let goal = choose::goal(&self.encodings, subscription.target, current, now);
            subscription.set_goal(now, goal, goal.and_then(|goal| self.encodings.get(goal.encoding)));
        }
        self.update_wishes(now);
    }

    /// An encoding has a standing wish for a key frame while a subscription waits to start with it.
    fn update_wishes(&mut self, now: Instant) {
        self.is_changed = true;
        let is_possible = self.kind.is_video() && !self.is_muted;
        for (index, encoding) in self.encodings.iter_mut().enumerate() {
            if is_possible && self.subscriptions.iter().any(|s| s.waits_for(now, index)) {
                encoding.keyframe.set_standing(now);
            } else {
                encoding.keyframe.withdraw_standing();
                encoding.held.clear();
            }
        }
    }
}

/// How often the choice of encodings is looked at. Shorter costs time per packet, longer reacts later.
const SELECT_INTERVAL: Duration = Duration::from_millis(100);
