//! What is looked at anew several times a second: who speaks, what of each track everybody gets, who is still there.
//!
//! ```text
//!   levels ─► speakers ─► active-speaker, whose voice and picture go out
//!   estimates, layers, wishes ─► allocate ─► targets of the slots, bitrates to probe for
//!   sfu's events ─► layer-changed (subscriber), layers-wanted (publisher)
//! ```

use std::time::{Duration, Instant};

use str0m::media::{MediaKind, Rid};

use super::{Carried, RoomState, Shard, TimerKey, Wish};
use crate::base::{ParticipantKey, TrackId};
use crate::room::{Participant, Source};
use crate::sfu::allocate::{Allotment, Current, Subscription, Total};
use crate::sfu::speaker::Changes;
use crate::sfu::{self, Forward, Layer, LayerInfo, Sfu, Slot, Target};
use crate::signal::message::{
    self, ActiveSpeaker, EncodingWanted, LayerChanged, LayerReason, LayersWanted, Speaker, TrackRef,
};

use super::signaling::mid_text;

impl Carried {
    /// A screen stays as large as it is for [`SIZE_KEPT`] although that does not fit: most falls of an estimate are shorter, and
    /// a change of size costs a key frame each way and what could be read in between.
    fn keep_size(
        &mut self,
        now: Instant,
        allotment: &Allotment<usize>,
        layers: &[LayerInfo],
        total: &mut Total,
    ) -> Allotment<usize> {
        let same = |layer: Layer| move |info: &&LayerInfo| size_of(info.layer) == size_of(layer);
        let cheapest = match self.current {
            Current::Layer(current) => layers.iter().filter(same(current)).min_by_key(|info| info.bitrate),
            Current::Nothing | Current::Paused => None,
        };
        let Some(kept) = cheapest.filter(|kept| {
            let is_less =
                allotment.bitrate < kept.bitrate && allotment.layer.is_none_or(|to| size_of(to) != size_of(kept.layer));
            is_less && allotment.is_limited()
        }) else {
            self.short_since = None;
            return *allotment;
        };
        if now.saturating_duration_since(*self.short_since.get_or_insert(now)) >= SIZE_KEPT {
            return *allotment;
        }
        total.used += kept.bitrate - allotment.bitrate;
        Allotment { layer: Some(kept.layer), bitrate: kept.bitrate, ..*allotment }
    }

    /// Notes what was allotted. `true`: it is a worse layer than before for want of bandwidth.
    fn take(&mut self, allotment: &Allotment<usize>, has_wish: bool) -> bool {
        let (before, cost) = (self.current, self.bitrate);
        self.bitrate = allotment.bitrate;
        (self.wanted, self.current) = match allotment.layer {
            Some(layer) => (Target::Layer(layer), Current::Layer(layer)),
            None if allotment.is_paused() => (Target::Paused, Current::Paused),
            None => (Target::Best, Current::Nothing),
        };
        self.reason = match allotment.is_limited() {
            true => LayerReason::Bandwidth,
            false if has_wish => LayerReason::Wish,
            false => LayerReason::Source,
        };
        // The rate of one and the same layer swings all the time.
        allotment.is_limited() && self.current != before && allotment.bitrate < cost
    }
}

impl Shard {
    /// The regular look at one room.
    pub(super) fn tick(&mut self, now: Instant, index: usize) {
        self.listen(now, index);
        self.feed(now, index);
        let Some(state) = self.rooms.get(index) else { return };
        let keys: Vec<ParticipantKey> = state.room.participants().map(|(key, _)| key).collect();
        for key in keys {
            self.watch_presence(now, key);
            self.allocate(now, key);
            self.assess(now, key);
        }
        // The room may have ended with the last of them.
        if self.rooms.contains(index) {
            self.wheel.set(TimerKey::Tick(index).index(), now + TICK);
        }
    }

    /// Finds who speaks.
    fn listen(&mut self, now: Instant, index: usize) {
        let Some(state) = self.rooms.get_mut(index) else { return };
        let changes = state.speakers.handle_levels(now, state.sfu.levels(now));
        self.on_voices(now, index, changes);
    }

    /// Carries on what changed in who speaks and who is heard.
    pub(super) fn on_voices(&mut self, now: Instant, index: usize, changes: Changes) {
        let Some(state) = self.rooms.get_mut(index) else { return };
        if changes != Changes::default() {
            state.voices.clear();
            state.voices.extend(state.speakers.ranked_top());
            self.plan_all(index);
        }
        if changes.speakers {
            self.tell_speakers(now, index);
        }
    }

    fn tell_speakers(&mut self, now: Instant, index: usize) {
        let Some(state) = self.rooms.get(index) else { return };
        let mut speakers: Vec<Speaker<'_>> = Vec::new();
        for speaker in state.speakers.speakers() {
            let Some((owner, _)) = state.room.track(speaker.key) else { continue };
            let Some(user) = state.room.participant(owner).map(|p| &p.user) else { continue };
            // A shared tab that plays music is its owner's, like the microphone.
            if !speakers.iter().any(|s| s.user_id == user) {
                speakers.push(Speaker { user_id: user, level: speaker.loudness() });
            }
        }
        let users = speakers.iter().map(|speaker| speaker.user_id.clone()).collect();
        let text = message::encode("active-speaker", Some(&state.id), Some("sfu"), None, ActiveSpeaker { speakers });
        self.tell_others(index, None, text);
        self.tap_speakers(now, index, users);
    }

    /// The way to a client was estimated anew. What no longer fits is lowered at once, what fits now at the next look.
    pub(super) fn on_estimate(&mut self, now: Instant, key: ParticipantKey) {
        let Some(participant) = self.participant(key) else { return };
        let Some(peer) = &participant.peer else { return };
        if peer.estimate().is_some_and(|estimate| budget_of(estimate, peer.audio_sent()) < participant.allotted) {
            self.allocate(now, key);
        }
    }

    /// Decides what of each track this participant gets.
    pub(super) fn allocate(&mut self, now: Instant, key: ParticipantKey) {
        let Some(participant) = self.participants.get_mut(key.slot as usize).filter(|p| p.generation == key.generation)
        else {
            return;
        };
        let Some(peer) = participant.peer.as_mut().filter(|peer| peer.is_connected()) else { return };
        let Some(state) = self.rooms.get_mut(participant.room) else { return };
        let audio = peer.audio_sent();
        // What the most important picture takes at its smallest, by its importance.
        let mut least: Option<((u32, bool), u64)> = None;
        let mut flood_least = FLOOD_LEAST;

        self.allocator.clear();
        let voices = Voices::of(key, state, &participant.carried);
        for (place, carried) in participant.carried.iter_mut().enumerate() {
            let facts = TrackFacts::of(state, &participant.wishes, carried.track);
            if carried.kind == MediaKind::Audio {
                let is_heard = voices.has(carried.track) || facts.is_pinned();
                carried.wanted = if is_heard { Target::Best } else { Target::Paused };
            } else if facts.is_paused() {
                carried.wanted = Target::Paused;
                carried.current = Current::Paused;
                carried.reason = LayerReason::Wish;
            } else {
                self.layers.clear();
                state.sfu.layers(now, carried.track, &mut self.layers);
                let priority = facts.priority(state, voices.dominant);
                let cheapest = self.layers.iter().map(|layer| layer.bitrate).min().unwrap_or(0);
                if least.is_none_or(|(importance, _)| (priority, facts.is_screen) > importance) {
                    least = Some(((priority, facts.is_screen), cheapest));
                }
                if let (true, Current::Layer(current)) = (facts.is_screen, carried.current) {
                    let same = self.layers.iter().filter(|layer| layer.layer.encoding == current.encoding);
                    flood_least += same.map(|layer| layer.bitrate).min().unwrap_or(0);
                }
                let subscription = Subscription {
                    key: place,
                    priority,
                    is_screen: facts.is_screen,
                    caps: facts.caps(),
                    current: carried.current,
                };
                self.allocator.add(subscription, &self.layers);
            }
        }
        peer.set_least(now, least.map_or(0, |(_, rate)| estimate_for(rate, audio)), &mut self.sink);
        let estimate = peer.estimate();
        let budget = estimate.map_or(UNLIMITED, |estimate| budget_of(estimate, audio));
        let was_flooded = participant.is_flooded;
        participant.is_flooded = peer.stats().is_longer()
            && (was_flooded
                || budget < participant.allotted
                || peer.stats().loses()
                || peer.video_wait(now) > FLOOD_WAIT);
        let is_flooded = participant.is_flooded;
        // What waits on the line has to leave as well.
        let budget = if is_flooded { budget.min((budget / FLOOD_SHARE).max(flood_least)) } else { budget };
        // What leaves without having to wait fits, whatever is estimated: an estimate that falls too far shows in what waits.
        let passes = !peer.stats().is_longer() && !peer.stats().loses() && peer.video_wait(now) <= PASSES_WAIT;
        let is_doubted = passes && budget < participant.allotted;
        // Bitrates swing by an eighth.
        let budget = if is_doubted { budget.max(participant.allotted / 8 * 9) } else { budget };
        let may_raise = now >= participant.raise_after && !is_doubted;
        let mut total = self.allocator.allocate(budget, may_raise);
        let mut lowered = false;
        for allotment in self.allocator.allotments() {
            let has_wish = has_wish(&participant.wishes);
            let carried = &mut participant.carried[allotment.key];
            let before = carried.current;
            self.layers.clear();
            if TrackFacts::of(state, &participant.wishes, carried.track).is_screen {
                state.sfu.layers(now, carried.track, &mut self.layers);
            }
            let allotment = carried.keep_size(now, allotment, &self.layers, &mut total);
            if carried.take(&allotment, has_wish) {
                lowered = true;
                carried.lowers = !is_same_encoding(before, carried.current);
            }
        }
        participant.is_limited = total.is_limited;
        participant.allotted = total.used;
        if lowered {
            participant.raise_after = now + RAISE_PAUSE;
        }
        if let Some(estimate) = estimate {
            // Rates that hardly change are not told anew: each time the estimator may probe for them.
            let wishes = (total.minimum + audio, (total.desired + audio).max(DESIRED_MIN).max(kept_of(estimate)));
            if is_other(wishes.0, participant.bitrates.0) || is_other(wishes.1, participant.bitrates.1) {
                participant.bitrates = wishes;
                peer.set_bitrates(wishes.0, wishes.1, &mut self.sink);
                participant.dirty = true;
            }
        }
        let mut forwards = std::mem::take(&mut self.forwards);
        participant.replays.drain(now, estimate.unwrap_or(UNLIMITED));
        participant.direct(now, key, was_flooded, &mut state.sfu, &mut forwards);
        let index = participant.room;
        self.deliver(now, &mut forwards);
        self.forwards = forwards;
        self.touch(key);
        self.serve_sfu(now, index);
    }

    /// Passes on what the forwarding of a room has to say.
    pub(super) fn serve_sfu(&mut self, now: Instant, index: usize) {
        self.request_keyframes(now, index);
        while let Some(event) = self.rooms.get_mut(index).and_then(|state| state.sfu.poll_event()) {
            match event {
                sfu::Event::LayerChanged { slot, track, layer } => self.tell_layer(now, index, slot, track, layer),
                // Whoever takes the track is looked at again with the next tick, which is soon enough for a layer more;
                // one that is gone the sfu replaces by itself.
                sfu::Event::LayersChanged { .. } => {}
                sfu::Event::EncodingWanted { track, rid, wanted } => {
                    let Some(state) = self.rooms.get_mut(index) else { return };
                    note_wanted(state.wanted.entry(track).or_default(), rid, wanted);
                    self.tell_wanted(index, track);
                }
            }
        }
    }

    fn tell_layer(&mut self, now: Instant, index: usize, slot: Slot, track: TrackId, layer: Option<Layer>) {
        let Some(participant) = self.participant(slot.participant) else { return };
        let Some(carried) = participant.carried.iter().find(|c| c.mid == slot.mid && c.track == track) else { return };
        let paused = carried.target == Some(Target::Paused);
        // Between two layers there may be nothing for a moment, until a key frame comes.
        if carried.kind == MediaKind::Audio || layer.is_none() && !paused {
            return;
        }
        let reason = carried.reason;
        let state = &self.rooms[index];
        let Some((owner, _)) = state.sources.get(&track) else { return };
        let Some(user) = state.room.participant(*owner).map(|p| &p.user) else { return };
        self.layers.clear();
        state.sfu.layers(now, track, &mut self.layers);
        let layer = layer.map(|layer| match self.layers.iter().find(|info| info.layer == layer) {
            Some(info) => message::Layer { bitrate: None, ..described(info) },
            None => message::Layer {
                rid: None,
                spatial: layer.spatial,
                temporal: layer.temporal,
                width: None,
                height: None,
                framerate: None,
                bitrate: None,
            },
        });
        let mid = mid_text(slot.mid);
        let data = LayerChanged { mid: &mid, track_id: track, user_id: user, layer, paused, reason };
        let text = message::encode("layer-changed", Some(&state.id), Some(user.as_str()), None, data);
        self.send_to(slot.participant, text);
    }

    /// Tells a publisher which encodings of its track somebody watches.
    pub(super) fn tell_wanted(&mut self, index: usize, track: TrackId) {
        let Some(state) = self.rooms.get(index) else { return };
        let Some((owner, mid)) = state.sources.get(&track).copied() else { return };
        let Some(encodings) = state.wanted.get(&track) else { return };
        let mid = mid_text(mid);
        let data = LayersWanted { track_id: track, mid: &mid, encodings: encodings.clone() };
        let text = message::encode("layers-wanted", Some(&state.id), Some("sfu"), None, data);
        self.send_to(owner, text);
    }

    /// The layers of a track as clients are told of them.
    pub(super) fn layers_of(&self, now: Instant, state: &RoomState, track: TrackId) -> Vec<message::Layer> {
        let mut layers = Vec::new();
        state.sfu.layers(now, track, &mut layers);
        layers.iter().map(described).collect()
    }
}

impl super::Participant {
    /// Tells the forwarding what each line is to be sent from now on. On a flooded line a larger encoding ends at once.
    fn direct(&mut self, now: Instant, key: ParticipantKey, was_flooded: bool, sfu: &mut Sfu, out: &mut Vec<Forward>) {
        let Some(peer) = &mut self.peer else { return };
        for carried in &mut self.carried {
            let slot = Slot { participant: key, mid: carried.mid };
            let is_another = |layer| !is_same_encoding(Current::Layer(layer), carried.current);
            carried.lowers &= sfu.forwarding(slot).is_some_and(is_another);
            if self.is_flooded && carried.lowers {
                sfu.cut(now, slot);
                peer.forget_sent(carried.mid);
                carried.lowers = false;
            }
            if carried.target != Some(carried.wanted) {
                carried.target = Some(carried.wanted);
                let most = if self.is_flooded { 0 } else { self.replays.most(sfu.forwarding(slot).is_some()) };
                let before = out.len();
                sfu.set_target(now, slot, carried.wanted, most, out);
                self.replays.add(out[before..].iter().map(|forward| forward.payload.len()).sum());
            }
        }
        if was_flooded && !self.is_flooded {
            // What began while so much got lost may lack a packet that nobody asks for any more.
            for carried in self.carried.iter().filter(|c| c.kind == MediaKind::Video) {
                sfu.handle_keyframe_request(now, Slot { participant: key, mid: carried.mid });
            }
        }
    }
}

/// What somebody was sent at once of kept key-frame groups, and the line has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Replays {
    waiting: usize,
    /// Octets that the line takes in a second.
    rate: u64,
    drained: Option<Instant>,
}

impl Replays {
    /// The line takes `rate` bit/s, and has taken about as much since the last call.
    fn drain(&mut self, now: Instant, rate: u64) {
        self.rate = rate / 8;
        let elapsed = self.drained.replace(now).map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        self.waiting = self.waiting.saturating_sub(self.within(elapsed));
    }

    fn add(&mut self, octets: usize) {
        self.waiting += octets;
    }

    /// Octets that may be sent at once to a slot. Whoever sees nothing is waiting for them. Whoever sees something would see it
    /// stand until all have come, and has what is seen until the next key frame.
    fn most(&self, has_picture: bool) -> usize {
        let (one, all) = if has_picture { (SWITCH_REPLAY, SWITCH_REPLAY) } else { (REPLAY, REPLAY_ALL) };
        self.within(all).saturating_sub(self.waiting).min(self.within(one)).min(REPLAY_MAX)
    }

    fn within(&self, time: Duration) -> usize {
        usize::try_from(u128::from(self.rate) * time.as_millis() / 1000).unwrap_or(usize::MAX)
    }
}

/// The latest wish that names the track or its user.
fn wish_for<'a>(wishes: &'a [Wish], owner: Option<&Participant>, track: TrackId) -> Option<&'a Wish> {
    wishes.iter().rev().find(|wish| match &wish.what {
        TrackRef::Track(id) => *id == track,
        // A user's name covers all sessions of the user.
        TrackRef::User(id) => owner.is_some_and(|owner| owner.user == *id || owner.person == *id),
    })
}

fn has_wish(wishes: &[Wish]) -> bool {
    wishes.iter().any(|wish| wish.wanted)
}

/// What matters of a track for one subscriber.
pub(super) struct TrackFacts<'a> {
    pub owner: Option<ParticipantKey>,
    pub is_screen: bool,
    wish: Option<&'a Wish>,
}

impl<'a> TrackFacts<'a> {
    pub fn of(state: &RoomState, wishes: &'a [Wish], track: TrackId) -> Self {
        let found = state.room.track(track);
        let owner = found.map(|(owner, _)| owner);
        let is_screen = found.is_some_and(|(_, t)| matches!(t.meta.source, Source::Screen | Source::ScreenAudio));
        // Without a wish there is nothing to look up.
        let wish = if wishes.is_empty() {
            None
        } else {
            wish_for(wishes, owner.and_then(|owner| state.room.participant(owner)), track)
        };
        TrackFacts { owner, is_screen, wish }
    }

    pub fn is_wanted(&self, by_default: bool) -> bool {
        self.wish.map_or(by_default, |wish| wish.wanted)
    }

    /// Wanted by name: then it is heard, however quiet.
    pub fn is_pinned(&self) -> bool {
        self.wish.is_some_and(|wish| wish.wanted && !wish.paused)
    }

    pub fn is_paused(&self) -> bool {
        self.wish.is_some_and(|wish| wish.paused)
    }

    /// The subscriber's own order, 0 without a wish.
    pub fn rank(&self) -> u32 {
        self.wish.map_or(0, |wish| wish.priority)
    }

    fn caps(&self) -> sfu::allocate::Caps {
        self.wish.map(|wish| wish.caps).unwrap_or_default()
    }

    /// For the division of bandwidth: wishes first, then whoever speaks, then all alike.
    fn priority(&self, state: &RoomState, dominant: Option<TrackId>) -> u32 {
        let speaks = dominant.and_then(|track| state.sources.get(&track)).is_some_and(|(o, _)| Some(*o) == self.owner);
        self.rank().saturating_mul(4).saturating_add(if self.is_screen { 2 } else { u32::from(speaks) })
    }
}

/// Whom a subscriber hears.
struct Voices {
    /// `None`: everybody, since there are few.
    heard: Option<Vec<TrackId>>,
    dominant: Option<TrackId>,
}

impl Voices {
    fn of(key: ParticipantKey, state: &RoomState, carried: &[Carried]) -> Voices {
        let others = |track: &&TrackId| state.sources.get(track).is_some_and(|(owner, _)| *owner != key);
        let dominant = state.voices.iter().find(others).copied();
        let count = carried.iter().filter(|c| c.kind == MediaKind::Audio).count();
        let heard = (count > VOICES).then(|| state.voices.iter().filter(others).take(VOICES).copied().collect());
        Voices { heard, dominant }
    }

    fn has(&self, track: TrackId) -> bool {
        self.heard.as_ref().is_none_or(|heard| heard.contains(&track))
    }
}

fn note_wanted(encodings: &mut Vec<EncodingWanted>, rid: Option<Rid>, active: bool) {
    match encodings.iter_mut().find(|e| e.rid == rid) {
        Some(encoding) => encoding.active = active,
        None => encodings.push(EncodingWanted { rid, active }),
    }
}

pub(super) fn described(info: &LayerInfo) -> message::Layer {
    message::Layer {
        rid: info.rid,
        spatial: info.layer.spatial,
        temporal: info.layer.temporal,
        width: (info.width > 0).then_some(info.width),
        height: (info.height > 0).then_some(info.height),
        framerate: (info.framerate > 0).then_some(info.framerate),
        bitrate: Some(info.bitrate),
    }
}

/// What is left for video: an estimate is a mean, so a twentieth of it stays free.
fn budget_of(estimate: u64, audio: u64) -> u64 {
    (estimate - estimate / 20).saturating_sub(audio)
}

/// The estimate with which video of this rate may begin, see [`sfu::allocate`]: an eighth of the budget has to stay free.
fn estimate_for(rate: u64, audio: u64) -> u64 {
    (rate / 7 * 8 + audio) / 19 * 20 + 10_000
}

/// What layers of one size have in common.
fn size_of(layer: Layer) -> (impl Eq, u8) {
    (layer.encoding, layer.spatial)
}

fn is_same_encoding(a: Current, b: Current) -> bool {
    matches!((a, b), (Current::Layer(a), Current::Layer(b)) if a.encoding == b.encoding)
}

/// What is worth probing for so that an estimate is kept: while little is sent the estimator probes for twice of what it is told
/// from time to time, and takes what such a probe finds for all there is.
fn kept_of(estimate: u64) -> u64 {
    (estimate / 5 * 3).min(KEPT_MAX)
}

/// See [`Carried::keep_size`].
const SIZE_KEPT: Duration = Duration::from_millis(600);
/// Of a picture that is cut into packets, or a key frame, some wait for so long though everything fits.
const PASSES_WAIT: Duration = Duration::from_millis(100);

fn is_other(rate: u64, told: u64) -> bool {
    rate.abs_diff(told) > told / 20
}

/// Voices that are forwarded at a time, besides those that somebody asked for by name.
pub(super) const VOICES: usize = 3;
/// Shorter finds a new speaker sooner and costs time for every participant.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// After something was lowered for want of bandwidth nothing is raised for so long: the estimate has to show that it holds.
const RAISE_PAUSE: Duration = Duration::from_millis(2_000);
/// Video that waits so long while the round trip is longer than it was is more than the line takes. Less is what a key frame waits.
const FLOOD_WAIT: Duration = Duration::from_millis(50);
/// While a line is flooded, one of so many parts of what it takes may be new, so that what waits can leave; but always as much as
/// a small picture takes, or a screen that keeps its size, since a probe for more is over before anybody could read it again.
const FLOOD_SHARE: u64 = 4;
const FLOOD_LEAST: u64 = 150_000;
/// Where nothing is known of the bandwidth (a client without feedback), in bit/s.
const UNLIMITED: u64 = 1_000_000_000;
/// Worth knowing even while nothing is to be sent, in bit/s: whoever speaks next should have a picture at once.
const DESIRED_MIN: u64 = 600_000;
/// Bit/s; twice of it is enough for a large picture and more. Higher makes probes larger, every few seconds.
const KEPT_MAX: u64 = 1_500_000;
/// Of a kept key-frame group, what the line takes in this time may be sent at once.
const REPLAY: Duration = Duration::from_millis(350);
/// The same of all groups that somebody is sent who comes to a full room. Asking everybody for a key frame would take as much.
const REPLAY_ALL: Duration = Duration::from_secs(2);
/// The same where a picture is shown already, together with what was sent at once before. Longer is seen as a freeze: browsers
/// count one when a picture is late by 150 ms.
const SWITCH_REPLAY: Duration = Duration::from_millis(100);
const REPLAY_MAX: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_replayed_at_once_is_bounded_by_what_the_line_takes() {
        let began = Instant::now();
        let mut replays = Replays::default();
        // Row: milliseconds since the start, octets that are replayed then, and what may be replayed after that to somebody who
        // sees nothing, and to somebody who sees something. The line takes 100 octets in a millisecond.
        let rows = [
            (0, 0, 35_000, 10_000),
            (0, 6_000, 35_000, 4_000),
            (0, 6_000, 35_000, 0),
            (20, 0, 35_000, 0),
            (30, 0, 35_000, 1_000),
            (30, 171_000, 20_000, 0),
            (30, 20_000, 0, 0),
            (200, 0, 17_000, 0),
            (5_000, 0, 35_000, 10_000),
        ];
        for (number, (at, octets, nothing, something)) in rows.into_iter().enumerate() {
            replays.drain(began + Duration::from_millis(at), 800_000);
            replays.add(octets);
            assert_eq!((replays.most(false), replays.most(true)), (nothing, something), "row {number}");
        }
        replays.drain(began + Duration::from_millis(5_000), UNLIMITED);
        assert_eq!(replays.most(false), REPLAY_MAX, "however fast the line is");
    }

    /// What is lowered keeps everything from being raised for a while; a rate that swings must not, or nothing ever is.
    #[test]
    fn only_a_worse_layer_is_lower() {
        let layer = |encoding: u8| Layer { encoding, spatial: 0, temporal: 2 };
        let allotment = |encoding: Option<u8>, bitrate: u64| Allotment {
            key: 0,
            layer: encoding.map(layer),
            bitrate,
            ideal: Some(layer(2)),
        };
        let mut carried = Carried::new("v".into(), MediaKind::Video, TrackId(1));
        // Row: what is allotted, whether that is lower.
        let rows = [
            (allotment(Some(1), 500_000), false),
            (allotment(Some(1), 450_000), false),
            (allotment(Some(1), 550_000), false),
            (allotment(Some(0), 150_000), true),
            (allotment(Some(0), 140_000), false),
            (allotment(None, 0), true),
            (allotment(None, 0), false),
            (allotment(Some(0), 150_000), false),
            (allotment(Some(2), 1_500_000), false),
            (allotment(Some(2), 1_400_000), false),
        ];
        for (number, (allotment, is_lower)) in rows.into_iter().enumerate() {
            assert_eq!(carried.take(&allotment, false), is_lower, "row {number}: {allotment:?}");
        }
    }
}
