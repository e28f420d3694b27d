//! One clock for all tracks: from RTP time, which every SSRC counts for itself, to time on the clock of this machine.
//!
//! ```text
//!   RTP time ─► line: through the sender reports of the SSRC ─► time of the sender ─► + offset of the sender ─► our time
//!          └──► without reports: + offset of the SSRC ──────────────────────────────────────────────────────────────┘
//! ```
//!
//! What a participant sends has one clock (the NTP time of its reports), and so one offset for all its tracks: how they
//! relate to each other comes from reports alone, and no network changes it. An offset is the smallest that was seen of
//! arrival minus sending, over a while: of the packet that was under way for the shortest time. Participants relate to each
//! other by that, as well as their least delays agree.
//!
//! Nothing is believed at once. A report that does not fit the others of its SSRC is put aside until three agree; then either the
//! sender's clock was set (all its tracks go on as before), or RTP time has jumped, and arrivals say which. A correction is
//! spread over time: a fifth of what elapses at most. RTP time that jumps by `JUMP_NS` against arrival begins anew.
//!
//! Times are nanoseconds since the beginning of the recording, pauses included, and may be before it. See RFC 3550 §6.4.1.

use std::time::{Duration, Instant, SystemTime};

use super::feed::Report;
use crate::base::UserId;

mod line;
mod offset;

#[cfg(test)]
mod tests;

use line::{Line, Point, Verdict};
use offset::{Drift, Offset};

/// The clocks of all who send.
#[derive(Debug)]
pub struct Clock {
    origin: Instant,
    senders: Vec<Sender>,
}

/// What a track needs of it.
#[derive(Debug)]
pub struct TrackClock {
    sender: usize,
    ssrcs: Vec<Ssrc>,
    /// Of the last packet, in `ssrcs`.
    current: usize,
    /// By how much later than its reports say the track arrives: encoding takes longer than for others of the sender. `None`: it
    /// has had none.
    excess_ns: Option<i64>,
    /// What that is taken for until then.
    assumed_ns: i64,
    first_ns: Option<i64>,
    last: Option<Placed>,
    /// RTP time has begun anew since the last frame.
    has_jumped: bool,
    /// Being corrected by more than [`SLEW_NOTED_NS`].
    slewing: bool,
    slewed: Option<i64>,
    drift: Drift,
}

/// A participant's clock.
#[derive(Debug)]
struct Sender {
    /// `None`: has left.
    user: Option<UserId>,
    tracks: usize,
    /// The NTP time that is zero here.
    base: Option<SystemTime>,
    /// By how much that clock was set since, to be taken off what reports say.
    step_ns: i64,
    /// Arrival − time of the sender.
    offset: Offset,
    /// When a report was last believed.
    accepted_ns: Option<i64>,
    /// Lines of another epoch are of a clock that is not believed any more.
    epoch: u32,
}

#[derive(Debug)]
struct Ssrc {
    ssrc: u32,
    clock_rate: u32,
    ns_per_tick: f64,
    /// RTP time of the last packet, on the wire and extended.
    time: u32,
    extended: i64,
    /// When it last sent.
    used_ns: i64,
    /// Arrival − RTP time.
    offset: Offset,
    /// Since when all packets come so late that its time cannot be what it was.
    late_since: Option<i64>,
    /// Since when, and how many, packets have a time before the latest.
    back: Option<(i64, u32)>,
    line: Line,
    /// Of the sender, when the line began.
    epoch: u32,
}

/// Where the last frame was put.
#[derive(Debug, Clone, Copy)]
struct Placed {
    ssrc: u32,
    extended: i64,
    /// Where it belonged.
    ideal_ns: i64,
    out_ns: i64,
}

impl Clock {
    /// `origin`: time 0.
    pub fn new(origin: Instant) -> Self {
        Clock { origin, senders: Vec::new() }
    }

    /// Since time 0.
    pub fn ns(&self, at: Instant) -> i64 {
        match at.checked_duration_since(self.origin) {
            Some(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
            None => i64::try_from((self.origin - at).as_nanos()).map_or(i64::MIN, |before| -before),
        }
    }

    /// A track of this participant.
    pub fn add(&mut self, user: &UserId) -> TrackClock {
        let known = self.senders.iter().position(|sender| sender.user.as_ref() == Some(user));
        let sender = known.or_else(|| self.senders.iter().position(Sender::is_free)).unwrap_or(self.senders.len());
        if known.is_none() {
            let new = Sender::new(user.clone());
            match self.senders.get_mut(sender) {
                Some(free) => *free = new,
                None => self.senders.push(new),
            }
        }
        self.senders[sender].tracks += 1;
        TrackClock {
            sender,
            ssrcs: Vec::new(),
            current: 0,
            excess_ns: None,
            assumed_ns: 0,
            first_ns: None,
            last: None,
            has_jumped: false,
            slewing: false,
            slewed: None,
            drift: Drift::default(),
        }
    }

    /// The track is no more.
    pub fn remove(&mut self, track: TrackClock) {
        self.senders[track.sender].tracks -= 1;
    }

    /// The participant has left: whoever comes under the same name has another clock.
    pub fn forget(&mut self, user: &UserId) {
        for sender in &mut self.senders {
            if sender.user.as_ref() == Some(user) {
                sender.user = None;
            }
        }
    }

    /// Learns from the arrival of a packet, in the order in which they arrive.
    pub fn handle_packet(&mut self, track: &mut TrackClock, ssrc: u32, time: u32, clock_rate: u32, arrival: Instant) {
        let at = self.ns(arrival);
        let current = track.enter(ssrc, time, clock_rate, at);
        track.current = current;
        let source = &mut track.ssrcs[current];
        if source.on_packet(time, at) {
            track.drift = Drift::default();
            track.has_jumped = true;
        }
        if source.is_lined(at, self.senders[track.sender].epoch) && !source.line.is_doubted() {
            let sent = source.line.at(source.extended);
            self.senders[track.sender].offset.add(at, at.saturating_sub(sent));
        }
        track.drift.add(source.ssrc, at, source.offset.least());
    }

    /// Learns from a packet that is not recorded, maybe of another encoding than the one that is.
    pub fn handle_arrival(&mut self, track: &mut TrackClock, ssrc: u32, time: u32, clock_rate: u32, arrival: Instant) {
        let (current, is_first) = (track.current, track.ssrcs.is_empty());
        let drift = std::mem::take(&mut track.drift);
        self.handle_packet(track, ssrc, time, clock_rate, arrival);
        track.drift = drift;
        if !is_first {
            track.current = current;
        }
    }

    /// Whether reports say where the track's frames belong, so that arrivals do not matter.
    pub fn is_told(&self, track: &TrackClock) -> bool {
        let epoch = self.senders[track.sender].epoch;
        track.ssrcs.get(track.current).is_some_and(|source| source.is_lined(source.used_ns, epoch))
    }

    /// Learns from a report.
    pub fn handle_report(&mut self, track: &mut TrackClock, report: &Report) {
        let at = self.ns(report.arrival);
        let sender = &mut self.senders[track.sender];
        let Some(ntp) = sender.ntp(report.ntp) else { return };
        let index = track.enter(report.ssrc, report.time, report.clock_rate, at);
        let excess = if index == track.current { track.excess(sender, at) } else { 0 };
        let source = &mut track.ssrcs[index];
        let Some(extended) = source.extend(report.time) else { return };
        // What the report should say, going by arrivals.
        let arrived = if source.offset.is_known() { source.arrival_of(extended) } else { at };
        let expected = sender.offset.is_recent(at).then(|| (arrived - excess).saturating_sub(sender.offset.applied));
        let rate = source.ns_per_tick;
        if source.epoch != sender.epoch {
            source.line = Line::default();
            source.epoch = sender.epoch;
        }
        match source.line.handle(Point { extended, ntp }, at, rate, expected) {
            Verdict::Aside => return,
            Verdict::Accepted if expected.is_none() => {
                if sender.offset.is_known() {
                    sender.begin_anew();
                    source.epoch = sender.epoch;
                }
                // The report is a packet, too, and may be later than those before it: others are compared with the earliest.
                sender.offset.add(at, at.min(arrived) - ntp);
            }
            Verdict::Accepted => {}
            Verdict::Jumped => sender.offset.review(),
            Verdict::Stepped(by) => sender.step_ns = sender.step_ns.saturating_add(by),
            Verdict::Foreign => {
                if sender.accepted_ns.is_some_and(|accepted| at - accepted <= FOREIGN_NS) {
                    return;
                }
                // All that it disagrees with is old.
                source.line.adopt(at, rate);
                sender.begin_anew();
                source.epoch = sender.epoch;
                sender.offset.add(at, at - ntp);
            }
        }
        sender.accepted_ns = Some(at);
    }

    /// Where a frame belongs. `arrival`: of its packets. Later than the one before, unless its RTP time is not.
    pub fn place(&self, track: &mut TrackClock, ssrc: u32, time: u32, clock_rate: u32, arrival: Instant) -> i64 {
        let at = self.ns(arrival);
        let index = track.enter(ssrc, time, clock_rate, at);
        let source = &track.ssrcs[index];
        let extended = source.extended + ticks(source.time, time);
        let arrived = if source.offset.is_known() { source.arrival_of(extended) } else { at };
        let is_lined = source.is_lined(at, self.senders[track.sender].epoch);
        let ideal = match is_lined {
            true => source.line.at(extended).saturating_add(self.senders[track.sender].offset.applied),
            false => arrived - track.excess(&self.senders[track.sender], at),
        };
        // Of another time, or from before a jump.
        let is_lost = ideal.abs_diff(at) > JUMP_NS as u64;
        if is_lined && !is_lost {
            track.excess_ns = Some((arrived - ideal).clamp(-EXCESS_MAX_NS, EXCESS_MAX_NS));
        }
        let ideal = if is_lost { at } else { ideal.min(at + AHEAD_MAX_NS) };
        let elapsed = ((extended - track.last.map_or(0, |last| last.extended)) as f64 * source.ns_per_tick) as i64;
        let out = track.approach(ssrc, ideal, elapsed);
        track.first_ns.get_or_insert(out);
        track.last = Some(Placed { ssrc, extended, ideal_ns: ideal, out_ns: out });
        out
    }
}

impl TrackClock {
    /// Until reports say better, its packets arrive later than those of others of its sender by this.
    pub fn assume_excess(&mut self, excess: Duration) {
        self.assumed_ns = i64::try_from(excess.as_nanos()).map_or(EXCESS_MAX_NS, |ns| ns.min(EXCESS_MAX_NS));
    }

    /// Where nothing has reports, all tracks go by arrivals alike.
    fn excess(&self, sender: &Sender, at: i64) -> i64 {
        self.excess_ns.unwrap_or(if sender.offset.is_recent(at) { self.assumed_ns } else { 0 })
    }

    /// By how much a correction that has begun since the last call will move the track, if that is worth a note.
    pub fn take_slewed(&mut self) -> Option<i64> {
        self.slewed.take()
    }

    /// By how much the sender's RTP clock runs faster than ours, in parts of a million. 0: not known yet.
    pub fn drift_ppm(&self) -> i32 {
        self.drift.ppm()
    }

    /// The index of an SSRC, which is made when it is not known.
    fn enter(&mut self, ssrc: u32, time: u32, clock_rate: u32, at: i64) -> usize {
        if let Some(current) = self.ssrcs.get(self.current)
            && current.ssrc == ssrc
            && current.clock_rate == clock_rate
        {
            return self.current;
        }
        let new = || Ssrc::new(ssrc, time, clock_rate, at);
        if let Some(index) = self.ssrcs.iter().position(|source| source.ssrc == ssrc) {
            if self.ssrcs[index].clock_rate != clock_rate {
                self.ssrcs[index] = new();
            }
            return index;
        }
        if self.ssrcs.len() < SSRCS_MAX {
            self.ssrcs.push(new());
            return self.ssrcs.len() - 1;
        }
        let others = (0..self.ssrcs.len()).filter(|index| *index != self.current);
        let oldest = others.min_by_key(|index| self.ssrcs[*index].used_ns).expect("more than one");
        self.ssrcs[oldest] = new();
        oldest
    }

    /// From where the last frame was put towards where this one belongs. `elapsed`: RTP time since, of the same SSRC.
    fn approach(&mut self, ssrc: u32, ideal: i64, elapsed: i64) -> i64 {
        let Some(last) = self.last else { return ideal };
        let elapsed = if last.ssrc == ssrc { elapsed } else { ideal - last.ideal_ns };
        let has_jumped = std::mem::take(&mut self.has_jumped);
        // Any other is a jump, or an SSRC that was looked up anew.
        if has_jumped && ideal > last.out_ns || elapsed.abs() > JUMP_NS {
            return ideal;
        }
        let uncorrected = last.out_ns + elapsed;
        let error = ideal - uncorrected;
        self.note_slew(error);
        let is_young = self.first_ns.is_some_and(|first| uncorrected - first < YOUNG_NS);
        if elapsed > FREE_NS || error.abs() > JUMP_NS || (is_young && error > 0) {
            return ideal;
        }
        let most = elapsed.max(0) / SLEW_PART;
        uncorrected + error.clamp(-most, most)
    }

    fn note_slew(&mut self, error: i64) {
        if !self.slewing && error.abs() > SLEW_NOTED_NS {
            self.slewing = true;
            self.slewed = Some(error);
        } else if self.slewing && error.abs() < SLEW_NOTED_NS / 8 {
            self.slewing = false;
        }
    }
}

impl Sender {
    fn new(user: UserId) -> Self {
        Sender {
            user: Some(user),
            tracks: 0,
            base: None,
            step_ns: 0,
            offset: Offset::default(),
            accepted_ns: None,
            epoch: 0,
        }
    }

    /// Nothing of what was known is true any more.
    fn begin_anew(&mut self) {
        self.offset = Offset::default();
        self.epoch += 1;
    }

    fn is_free(&self) -> bool {
        self.user.is_none() && self.tracks == 0
    }

    /// Time of the sender as it is counted here. `None`: centuries from the others.
    fn ntp(&mut self, ntp: SystemTime) -> Option<i64> {
        let base = *self.base.get_or_insert(ntp);
        let ns = match ntp.duration_since(base) {
            Ok(after) => i64::try_from(after.as_nanos()).ok()?,
            Err(before) => -i64::try_from(before.duration().as_nanos()).ok()?,
        };
        let ns = ns.checked_sub(self.step_ns)?;
        (ns.unsigned_abs() < NTP_MAX_NS as u64).then_some(ns)
    }
}

impl Ssrc {
    fn new(ssrc: u32, time: u32, clock_rate: u32, at: i64) -> Self {
        Ssrc {
            ssrc,
            clock_rate,
            ns_per_tick: 1e9 / f64::from(clock_rate.max(1)),
            time,
            extended: i64::from(time),
            used_ns: at,
            offset: Offset::default(),
            late_since: None,
            back: None,
            line: Line::default(),
            epoch: 0,
        }
    }

    /// `true`: its time began anew.
    fn on_packet(&mut self, time: u32, at: i64) -> bool {
        self.used_ns = self.used_ns.max(at);
        let step = ticks(self.time, time);
        let extended = self.extended + step;
        let offset = at - self.nominal(extended);
        let early = if self.offset.is_known() { self.offset.applied.saturating_sub(offset) } else { 0 };
        // Nothing arrives before it is sent, but everything may be late for a while.
        let is_late = early < -JUMP_NS;
        self.late_since = is_late.then(|| self.late_since.unwrap_or(at));
        self.back = match self.back {
            _ if step >= 0 => None,
            Some((since, packets)) => Some((since, packets + 1)),
            None => Some((at, 1)),
        };
        let is_jump = early > JUMP_NS
            || (early > EARLY_NS && self.offset.is_settled(at))
            || self.late_since.is_some_and(|since| at - since > LATE_NS)
            || self.back.is_some_and(|(since, packets)| at - since > LATE_NS && packets >= BACK_PACKETS)
            || (!self.offset.is_known() && self.nominal(step).abs() > REPORT_AGE_MAX_NS);
        if is_jump {
            *self = Ssrc::new(self.ssrc, time, self.clock_rate, at);
            let offset = at - self.nominal(self.extended);
            self.offset.add(at, offset);
            return true;
        }
        // What was retransmitted does not turn back the extension.
        if step > 0 {
            (self.time, self.extended) = (time, extended);
        }
        if !is_late {
            self.offset.add(at, offset);
        }
        false
    }

    /// Whether its reports say something about `at`.
    fn is_lined(&self, at: i64, epoch: u32) -> bool {
        self.epoch == epoch && self.line.is_fresh(at)
    }

    /// RTP time that is not far from the last packet's.
    fn extend(&self, time: u32) -> Option<i64> {
        let step = ticks(self.time, time);
        (self.nominal(step).abs() <= REPORT_AGE_MAX_NS).then_some(self.extended + step)
    }

    fn nominal(&self, ticks: i64) -> i64 {
        (ticks as f64 * self.ns_per_tick) as i64
    }

    /// When a packet of that time arrives that is not held up.
    fn arrival_of(&self, extended: i64) -> i64 {
        self.nominal(extended) + self.offset.applied
    }
}

/// From one RTP time to another that is less than half of all away.
fn ticks(from: u32, to: u32) -> i64 {
    i64::from(to.wrapping_sub(from) as i32)
}

const MS: i64 = 1_000_000;
const SECOND: i64 = 1000 * MS;

/// SSRCs of a track of which something is known: three encodings and as many that were before.
const SSRCS_MAX: usize = 8;
/// Further off than this is another time, not a delay.
const JUMP_NS: i64 = 5 * SECOND;
/// All packets have to be late by [`JUMP_NS`] for so long. What was held up by a network comes all at once.
const LATE_NS: i64 = 500 * MS;
/// Nothing is earlier than the earliest by this, once that is known.
const EARLY_NS: i64 = 300 * MS;
/// So many packets, over [`LATE_NS`], that all have a time from before are not retransmitted: the time has gone back.
const BACK_PACKETS: u32 = 5;
/// Reports and packets of an SSRC are not further apart in RTP time.
const REPORT_AGE_MAX_NS: i64 = 60 * SECOND;
/// After so long a line or an offset says nothing any more: at 200 ppm, 12 ms are off.
const STALE_NS: i64 = 60 * SECOND;
/// A sender disagrees with all else that it said, and nothing agreed for so long.
const FOREIGN_NS: i64 = 15 * SECOND;
/// Between two times of a sender: more than from the beginning of NTP time, which some send who have no clock, until today.
const NTP_MAX_NS: i64 = i64::MAX / 2;
/// What reports can claim that a track is later than others of its sender.
const EXCESS_MAX_NS: i64 = SECOND;
/// No frame is put further than this after its arrival, whatever reports say: their noise and that of lines, and no more.
const AHEAD_MAX_NS: i64 = 200 * MS;

/// The part of elapsed time by which a track is corrected at most: 200 ms are gone in a second. A larger one would be heard.
const SLEW_PART: i64 = 5;
/// After so long without a frame nobody hears a correction.
const FREE_NS: i64 = 200 * MS;
/// So long after its first frame a track may jump ahead.
const YOUNG_NS: i64 = SECOND;
const SLEW_NOTED_NS: i64 = 40 * MS;
