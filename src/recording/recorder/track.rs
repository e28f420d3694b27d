//! One track of a recording: its packets in order, its frames as blocks, silence where there are none, what is missing.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use str0m::media::MediaKind;

use super::super::clock::{Clock, TrackClock};
use super::super::feed::{Packet, TrackInfo};
use super::super::frames::{self, Assembler, Frame};
use super::super::interleave::Interleaver;
use super::super::jitter::{Arrived, Jitter};
use super::super::keyframe::Keyframes;
use super::super::{Block, Description, Note, Payload, Quality};
use super::Config;
use crate::webm::track::NUMBER_MAX;

/// Where blocks and notes go, and what all tracks share of the recording's time.
#[derive(Debug)]
pub(super) struct Output {
    pub interleaver: Interleaver,
    /// Empty but while a packet is taken apart.
    pub frames: VecDeque<Frame>,
    pub notes: VecDeque<Note>,
    /// The file's next track number.
    pub number: u32,
    /// Nanoseconds that the recording was paused.
    pub paused_ns: i64,
    /// Where it went on after the last pause: nothing from before it is written any more.
    pub floor_ns: i64,
    /// Of the recording, now.
    pub position_ns: i64,
}

impl Output {
    /// The oldest go when nobody takes them.
    fn note(&mut self, note: Note) {
        if self.notes.len() >= NOTES_MAX {
            self.notes.pop_front();
        }
        self.notes.push_back(note);
    }
}

#[derive(Debug)]
pub(super) struct Track {
    pub source: u32,
    pub kind: MediaKind,
    pub clock: TrackClock,
    pub jitter: Jitter,
    pub keyframes: Keyframes,
    pub is_muted: bool,
    /// Its packets bring earlier ones again (RFC 2198).
    is_redundant: bool,
    assembler: Assembler,
    /// The first frames, until it is known how early its packets can be.
    first: First,
    /// The position at which the last packet came.
    heard_ns: Option<i64>,
    /// The file's track.
    number: Option<u32>,
    /// To be said with the next block, which gets another number.
    begins: Option<Description>,
    ssrc: Option<u32>,
    size: Option<(u32, u32)>,
    /// Time of the last block, and where it ends, which for video is the same.
    last_ns: Option<i64>,
    end_ns: i64,
    /// Where the last block would end if there were no time between any two: for those who play them so.
    sound_ns: i64,
    /// Where the last block that was sent ends, as against silence.
    heard_until_ns: i64,
    /// What is heard when there is nothing, of the kind of the last packet.
    silence: &'static [u8],
    /// Silence is being written, since nothing comes.
    is_filling: bool,
    loss: Option<Gap>,
    /// Packets that the shard dropped, of which the numbers have not told yet.
    overflowed: u64,
    gap: Option<Gap>,
    keyframe_ns: Option<i64>,
    counters: Counters,
}

/// What is done with the frames that a track begins with.
///
/// The clock goes by the packets that were under way for the shortest time, and all that a track begins with may be late: a first key
/// frame is large, and whoever has just come is busy. So the first frames wait for what comes next, no longer than other tracks
/// would wait for this one anyway, or, of pictures, until a report tells.
#[derive(Debug)]
enum First {
    Awaited,
    /// The position at which the first of them came.
    Waiting(i64, VecDeque<Frame>),
    Placed,
}

#[derive(Debug, Default)]
struct Counters {
    frames: u64,
    dropped: u64,
    gaps: u64,
    keyframes: u64,
    keyframe_interval_ns: i64,
}

/// Something is missing.
#[derive(Debug, Clone, Copy)]
struct Gap {
    from_ns: i64,
    to_ns: i64,
    packets: u64,
}

impl Track {
    /// When what a report tells the time of was heard or seen. libwebrtc, which is what browsers have, knows that of pictures; of
    /// sound it says when the packet left, which is not before all of it was heard. And what is heard of a packet of Opus is what
    /// the encoder has heard a little before (RFC 7845 §4.2), since a call's sound has no beginning at which that is taken off.
    pub fn heard_at(&self, told: SystemTime) -> SystemTime {
        let late = match self.kind {
            MediaKind::Audio if self.is_redundant => PACKET + LOOK_AHEAD + RED_LATE,
            MediaKind::Audio => PACKET + LOOK_AHEAD,
            MediaKind::Video => Duration::ZERO,
        };
        told.checked_sub(late).unwrap_or(told)
    }

    pub fn new(now: Instant, info: &TrackInfo, mut clock: TrackClock, config: &Config) -> Self {
        if info.kind == MediaKind::Audio {
            clock.assume_excess(SOUND_EXCESS);
        }
        let mut keyframes = Keyframes::default();
        if info.kind == MediaKind::Video {
            keyframes.restart(now);
        }
        Track {
            source: info.number,
            kind: info.kind,
            clock,
            jitter: Jitter::new(config.reorder),
            keyframes,
            is_muted: false,
            is_redundant: false,
            assembler: Assembler::new(info.kind),
            first: First::Awaited,
            heard_ns: None,
            number: None,
            begins: None,
            ssrc: None,
            size: None,
            last_ns: None,
            end_ns: 0,
            sound_ns: 0,
            heard_until_ns: 0,
            silence: &[],
            is_filling: false,
            loss: None,
            overflowed: 0,
            gap: None,
            keyframe_ns: None,
            counters: Counters::default(),
        }
    }

    /// A packet, which the clock has seen already. `true`: perhaps a key frame is to be asked for.
    pub fn handle_packet(&mut self, now: Instant, packet: &Packet, clock: &Clock, out: &mut Output) -> bool {
        self.heard_ns = Some(out.position_ns);
        self.is_redundant = packet.red;
        match self.jitter.handle_packet(now, packet) {
            Arrived::Next => self.assemble(now, packet, 0, clock, out),
            Arrived::Kept => self.take(now, clock, out),
            Arrived::Dropped => {}
        }
        self.hold_others(out);
        let (is_heard, is_needed) = (self.keyframes.on_packet(now), self.needs_keyframe());
        self.kind == MediaKind::Video && (is_heard || is_needed)
    }

    /// What can be used by now of what waits.
    pub fn take(&mut self, now: Instant, clock: &Clock, out: &mut Output) {
        while let Some(ordered) = self.jitter.pop(now) {
            if ordered.restarted {
                self.assembler.reset();
                let lost = self.overflowed.max(1);
                self.on_loss(lost, out);
            } else if ordered.lost_before > 0 {
                self.on_loss(ordered.lost_before, out);
            }
            self.assemble(now, &ordered.packet, ordered.lost_before, clock, out);
        }
    }

    /// Everything that waits, whatever is missing.
    pub fn drain(&mut self, now: Instant, clock: &Clock, out: &mut Output) {
        self.jitter.give_up_holes();
        self.take(now, clock, out);
        self.put_first(i64::MAX, clock, out);
    }

    /// What time brings: holes that are given up, silence, a gap that is over. `true`: perhaps a key frame is to be asked for.
    pub fn handle_timeout(&mut self, now: Instant, clock: &Clock, out: &mut Output) -> bool {
        self.take(now, clock, out);
        self.put_first(out.position_ns, clock, out);
        self.fill_by_time(out);
        if self.is_still(out.position_ns) {
            out.interleaver.set_holds(self.source, false);
        }
        if self.gap.is_some_and(|gap| gap.to_ns + GAP_JOIN_NS + SILENCE_LAG_NS < out.position_ns) {
            self.end_gap(out);
        }
        self.needs_keyframe()
    }

    /// At which position the first frames have waited for long enough.
    pub fn first_ns(&self, clock: &Clock) -> Option<i64> {
        match self.first {
            First::Waiting(since_ns, _) if self.kind == MediaKind::Audio || clock.is_told(&self.clock) => {
                Some(since_ns + FIRST_WAIT_NS)
            }
            First::Waiting(since_ns, _) => Some(since_ns + FIRST_TOLD_NS),
            First::Awaited | First::Placed => None,
        }
    }

    /// At which position silence is to be written at the latest.
    pub fn fill_ns(&self, position_ns: i64) -> Option<i64> {
        if self.silence.is_empty() || self.number.is_none() {
            return None;
        }
        let after = match (self.is_filling, self.is_still(position_ns)) {
            (true, true) => STILL_STEP_NS,
            (true, false) => SILENCE_LAG_NS + FILL_STEP_NS,
            (false, _) => SILENCE_LAG_NS + SILENCE_AFTER_NS + SILENCE_NS,
        };
        Some(self.end_ns + after)
    }

    /// Nothing is to be expected of it before something changes: its silence need not wait, nor need others.
    fn is_still(&self, position_ns: i64) -> bool {
        let quiet_ns = if self.is_muted { SILENCE_LAG_NS } else { QUIET_NS };
        self.heard_ns.is_none_or(|heard| position_ns >= heard + quiet_ns)
    }

    /// Whenever there is an occasion, so that silence is written before what is later than it.
    fn fill_by_time(&mut self, out: &mut Output) {
        if self.silence.is_empty() {
            return;
        }
        let lag_ns = if self.is_still(out.position_ns) { 0 } else { SILENCE_LAG_NS };
        let until_ns = out.position_ns - lag_ns;
        if self.is_filling || until_ns >= self.end_ns + SILENCE_AFTER_NS + SILENCE_NS {
            self.fill(until_ns, FILL_MAX, out);
        }
    }

    /// Tells the wishes.
    fn needs_keyframe(&mut self) -> bool {
        self.keyframes.set_needed(self.assembler.wants_keyframe())
    }

    pub fn set_muted(&mut self, now: Instant, muted: bool, out: &mut Output) {
        if self.is_muted == muted {
            return;
        }
        self.is_muted = muted;
        self.keyframe_ns = None;
        match self.kind {
            MediaKind::Video if muted => out.interleaver.set_holds(self.source, false),
            MediaKind::Video => self.keyframes.restart(now),
            // What is under way is still waited for.
            MediaKind::Audio => {}
        }
    }

    pub fn on_overflow(&mut self, packets: u32) {
        self.overflowed = self.overflowed.saturating_add(u64::from(packets));
    }

    /// After a pause: nothing is known of what was between.
    pub fn restart(&mut self, now: Instant) {
        self.jitter.reset();
        self.assembler.reset();
        self.loss = None;
        self.overflowed = 0;
        self.is_filling = false;
        self.keyframe_ns = None;
        if self.kind == MediaKind::Video {
            self.keyframes.restart(now);
        }
    }

    /// Nothing comes any more, or not before a restart: sound lasts until `position_ns` if it `goes_on`.
    pub fn end(&mut self, position_ns: i64, goes_on: bool, out: &mut Output) {
        if goes_on && !self.silence.is_empty() {
            self.fill(position_ns - SILENCE_NS, FILL_ALL_MAX, out);
        }
        if let Some(loss) = self.loss.take() {
            self.add_gap(Gap { to_ns: position_ns.max(loss.from_ns), ..loss }, out);
        }
        self.end_gap(out);
    }

    /// The last gap is told of.
    fn end_gap(&mut self, out: &mut Output) {
        if let Some(gap) = self.gap.take() {
            let duration = Duration::from_nanos((gap.to_ns - gap.from_ns).max(0) as u64);
            let at_ns = gap.from_ns.max(0) as u64;
            out.note(Note::Gap { source: self.source, at_ns, duration, packets: gap.packets });
        }
    }

    pub fn quality(&self) -> Quality {
        let (packets, frames) = (self.jitter.counters(), self.assembler.counters());
        Quality {
            packets: packets.packets,
            lost: packets.lost,
            recovered: packets.recovered + frames.recovered,
            frames: self.counters.frames,
            dropped: self.counters.dropped + frames.dropped,
            gaps: self.counters.gaps,
            keyframes: self.counters.keyframes,
            keyframe_interval_ms: (self.counters.keyframe_interval_ns / 1_000_000) as u64,
            drift_ppm: self.clock.drift_ppm(),
        }
    }

    fn assemble(&mut self, now: Instant, packet: &Packet, lost_before: u64, clock: &Clock, out: &mut Output) {
        let mut frames = std::mem::take(&mut out.frames);
        self.assembler.handle(packet, lost_before, &mut frames);
        for frame in frames.drain(..) {
            if self.kind == MediaKind::Video && frame.is_keyframe {
                self.keyframes.on_keyframe(now);
            }
            self.put_or_wait(frame, clock, out);
        }
        out.frames = frames;
    }

    fn put_or_wait(&mut self, frame: Frame, clock: &Clock, out: &mut Output) {
        match &mut self.first {
            First::Placed => self.put(frame, clock, out),
            First::Awaited => self.first = First::Waiting(out.position_ns, VecDeque::from([frame])),
            First::Waiting(_, frames) => {
                frames.push_back(frame);
                let until_ns = if frames.len() < FIRST_MAX { out.position_ns } else { i64::MAX };
                self.put_first(until_ns, clock, out);
            }
        }
    }

    /// The first frames, when they have waited for long enough.
    fn put_first(&mut self, position_ns: i64, clock: &Clock, out: &mut Output) {
        if self.first_ns(clock).is_none_or(|at_ns| position_ns < at_ns) {
            return;
        }
        if let First::Waiting(_, frames) = std::mem::replace(&mut self.first, First::Placed) {
            for frame in frames {
                self.put(frame, clock, out);
            }
        }
    }

    fn on_loss(&mut self, packets: u64, out: &Output) {
        self.overflowed = 0;
        let from_ns = if self.last_ns.is_some() { self.heard_until_ns } else { out.position_ns };
        self.loss.get_or_insert(Gap { from_ns, to_ns: from_ns, packets: 0 }).packets += packets;
    }

    fn put(&mut self, mut frame: Frame, clock: &Clock, out: &mut Output) {
        if let Some(begins) = frame.begins.take() {
            self.begins = Some(begins);
        }
        let placed = clock.place(&mut self.clock, frame.ssrc, frame.time, frame.clock_rate, frame.arrival);
        let Some(at_ns) = self.time_of(placed - out.paused_ns, out) else {
            self.counters.dropped += 1;
            return;
        };
        if !self.begin(at_ns, out) {
            return;
        }
        if let Some(by_ns) = self.clock.take_slewed() {
            out.note(Note::Slewed { source: self.source, at_ns: at_ns as u64, by_ns });
        }
        self.end_loss(at_ns, out);
        let duration_ns = (self.kind == MediaKind::Audio).then(|| duration_of(frame.samples));
        if self.kind == MediaKind::Audio
            && let Some(toc) = frame.payload.slices().next().and_then(<[u8]>::first)
        {
            self.silence = frames::opus::silence(*toc);
        }
        let begins = self.begins.take();
        let size = self.changed_size(&frame, begins.is_some(), at_ns, out);
        if self.kind == MediaKind::Video && frame.is_keyframe {
            self.on_keyframe(at_ns);
        }
        self.counters.frames += 1;
        self.write(begins, size, at_ns, frame.is_keyframe, duration_ns, frame.payload, out);
        self.heard_until_ns = self.end_ns;
    }

    /// The time of a frame that belongs to `at_ns`, after silence up to there. `None`: it comes too late, or too early to be true.
    fn time_of(&mut self, at_ns: i64, out: &mut Output) -> Option<i64> {
        if self.kind == MediaKind::Audio && at_ns < out.floor_ns {
            return None;
        }
        let Some(last_ns) = self.last_ns else {
            // Others have not waited for it longer than that.
            let earliest_ns = out.interleaver.written_ns() - BEFORE_MAX_NS;
            return Some(at_ns.max(out.floor_ns).max(earliest_ns));
        };
        if self.kind == MediaKind::Audio {
            // Silence is there already.
            let most_ns = if self.is_filling { SILENCE_NS / 2 } else { OVERLAP_MAX_NS };
            if at_ns < self.end_ns - most_ns {
                return None;
            }
            let debt_ns = at_ns - self.sound_ns;
            if at_ns - self.end_ns > SILENCE_AFTER_NS || debt_ns > SILENCE_AFTER_NS || self.is_filling {
                self.fill(at_ns - SILENCE_NS, FILL_ALL_MAX, out);
            }
            self.is_filling = false;
        }
        let last_ns = self.last_ns.unwrap_or(last_ns);
        let at_ns = at_ns.max(out.floor_ns).max(last_ns + TICK_NS);
        (at_ns <= out.position_ns + AHEAD_MAX_NS).then_some(at_ns)
    }

    /// Whether there is a number in the file for the next block, and room for it.
    fn begin(&mut self, at_ns: i64, out: &mut Output) -> bool {
        let is_full = out.interleaver.is_full();
        if self.begins.is_some() && !is_full {
            self.number = (out.number <= NUMBER_MAX).then_some(out.number);
            out.number = (out.number + 1).min(NUMBER_MAX + 1);
        }
        let fits = self.number.is_some() && !is_full;
        if !fits {
            self.counters.dropped += 1;
            self.add_gap(Gap { from_ns: at_ns, to_ns: at_ns, packets: 1 }, out);
        }
        fits
    }

    /// The picture's size, when the file has to be told; notes what has changed.
    fn changed_size(&mut self, frame: &Frame, begins: bool, at_ns: i64, out: &mut Output) -> Option<(u32, u32)> {
        let before = (self.ssrc.replace(frame.ssrc), self.size);
        let size = frame.size.filter(|size| begins || self.size != Some(*size));
        self.size = size.or(self.size);
        let is_other = before.0.is_some_and(|ssrc| ssrc != frame.ssrc) || (before.1.is_some() && before.1 != self.size);
        if is_other {
            out.note(Note::Changed { source: self.source, at_ns: at_ns as u64, size: self.size });
        }
        size
    }

    fn on_keyframe(&mut self, at_ns: i64) {
        if let Some(last) = self.keyframe_ns.replace(at_ns) {
            self.counters.keyframe_interval_ns = self.counters.keyframe_interval_ns.max(at_ns - last);
        }
        self.counters.keyframes += 1;
    }

    /// A frame that follows what was lost: the gap ends, if there is one. What redundancy has restored leaves none.
    fn end_loss(&mut self, at_ns: i64, out: &mut Output) {
        if self.kind == MediaKind::Video && self.assembler.wants_keyframe() {
            return;
        }
        if let Some(loss) = self.loss.take()
            && (self.kind == MediaKind::Video || at_ns - loss.from_ns >= GAP_MIN_NS)
        {
            self.add_gap(Gap { to_ns: at_ns.max(loss.from_ns), ..loss }, out);
        }
    }

    /// Joins gaps that follow each other closely.
    fn add_gap(&mut self, gap: Gap, out: &mut Output) {
        if let Some(last) = &mut self.gap
            && gap.from_ns - last.to_ns < GAP_JOIN_NS
        {
            last.to_ns = gap.to_ns.max(last.to_ns);
            last.packets += gap.packets;
            return;
        }
        self.end_gap(out);
        self.counters.gaps += 1;
        self.gap = Some(gap);
    }

    /// Silence from the end of the last block, as long as a block begins before `until_ns`, and no more than so many.
    fn fill(&mut self, until_ns: i64, most: usize, out: &mut Output) {
        self.is_filling = true;
        let from_ns = self.last_ns.unwrap_or(0);
        for _ in 0..most {
            let at_ns = self.end_ns.max(from_ns + TICK_NS);
            if at_ns > until_ns || out.interleaver.is_full() || self.number.is_none() {
                return;
            }
            let mut payload = Payload::default();
            payload.push_own(self.silence);
            self.write(None, None, at_ns, true, Some(SILENCE_NS as u64), payload, out);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn write(
        &mut self,
        begins: Option<Description>,
        size: Option<(u32, u32)>,
        at_ns: i64,
        is_keyframe: bool,
        duration_ns: Option<u64>,
        payload: Payload,
        out: &mut Output,
    ) {
        let Some(number) = self.number else { return };
        let long_ns = duration_ns.unwrap_or(0) as i64;
        self.sound_ns = if self.last_ns.is_some() { self.sound_ns } else { at_ns } + long_ns;
        self.end_ns = at_ns + long_ns;
        self.last_ns = Some(at_ns);
        let source = self.source;
        let timestamp_ns = at_ns.max(0) as u64;
        let block = Block { source, number, begins, size, timestamp_ns, is_keyframe, duration_ns, payload };
        out.interleaver.push(source, block);
    }

    /// The others wait for this track as long as something is to be expected of it.
    fn hold_others(&self, out: &mut Output) {
        let brings_nothing = self.kind == MediaKind::Video && (self.is_muted || self.assembler.wants_keyframe());
        let has_begun = self.last_ns.is_some() || matches!(self.first, First::Waiting(..));
        out.interleaver.set_holds(self.source, has_begun && !brings_nothing);
    }
}

/// How long samples of 48 kHz are heard.
fn duration_of(samples: u32) -> u64 {
    if samples == 0 { SILENCE_NS as u64 } else { u64::from(samples) * 62_500 / 3 }
}

const MS: i64 = 1_000_000;
/// Of sound, as browsers send it.
const PACKET: Duration = Duration::from_millis(20);
/// A packet of sound leaves at least 27 ms after what is heard of it, see the two others; a picture when it is encoded,
/// which takes 10 ms for most and 50 for some.
const SOUND_EXCESS: Duration = Duration::from_millis(15);
/// Where redundancy is sent, which only browsers do, sound is later by so much still: their reports are by up to 17 ms more, see
/// `clock::line`, of which some is left while there are few of them, and sound is handed over in pieces of 10 ms. Measured in
/// Chromium.
const RED_LATE: Duration = Duration::from_millis(12);
/// Of libopus: 312 samples.
const LOOK_AHEAD: Duration = Duration::from_micros(6_500);

/// How long the first frames of a track wait: less than others wait for them, a batch included.
const FIRST_WAIT_NS: i64 = 400 * MS;
/// Pictures wait for a report that long, since all of the first may be late by a quarter of a second; browsers send one about half
/// a second after they begin. Those of sound come only after some.
const FIRST_TOLD_NS: i64 = 500 * MS;
/// So many, and no more: what a screen of 120 frames a second brings meanwhile, twice.
const FIRST_MAX: usize = 96;
/// How far a track may begin before what is written already.
const BEFORE_MAX_NS: i64 = 900 * MS;

/// A file counts milliseconds: two blocks of a track are never in the same, however they are rounded.
const TICK_NS: i64 = MS;
/// A packet of silence.
const SILENCE_NS: i64 = 20 * MS;
/// Less than this between two packets is left to the player's concealment.
const SILENCE_AFTER_NS: i64 = 60 * MS;
/// Silence is written when nothing can come any more that belongs there: a hole was waited for, and a batch was late.
const SILENCE_LAG_NS: i64 = 600 * MS;
/// For how much silence it is worth to wake up; of a track that is still; and how much is written at once at most.
const FILL_STEP_NS: i64 = 40 * MS;
const STILL_STEP_NS: i64 = 200 * MS;
const FILL_MAX: usize = 50;
/// How much before a packet, or an end.
const FILL_ALL_MAX: usize = 3000;
/// By how much sound may begin before what is written already ends: corrections of the clock. Anything else came too late.
const OVERLAP_MAX_NS: i64 = 100 * MS;
/// No block is further ahead of the time that it is.
const AHEAD_MAX_NS: i64 = 1000 * MS;
/// After so long without a packet nothing is expected of a track.
const QUIET_NS: i64 = 2000 * MS;
/// Gaps of a track that are closer than this are told of as one.
const GAP_JOIN_NS: i64 = 1000 * MS;
/// Less is missing than a packet of sound.
const GAP_MIN_NS: i64 = 10 * MS;
/// What nobody has taken.
const NOTES_MAX: usize = 1024;
