//! One clock for all tracks: from RTP time, which every SSRC counts for itself, to time on the clock of this machine.
//!
//! ```text
//!   RTP time ─► line: through the sender reports of the SSRC ─► time of the sender ─► + offset of the sender ─► our time
//!          └──► without reports: + offset of the SSRC ──────────────────────────────────────────────────────────────┘
//! ```
//!
//! What a participant sends has one clock (the NTP time of its reports), and so one offset for all its tracks: how they
//! relate to each other comes from reports alone, and no network changes it. An offset is the smallest that was seen of
//! arrival minus sending, over a while: the packet that was under way for the shortest time. Participants relate to each other by that, as
//! well as their least delays agree.
//!
//! Nothing is believed at once. A report that does not fit the others of its SSRC is put aside until three agree; then either the
//! sender's clock was set (all its tracks go on as before), or RTP time has jumped, and arrivals say which. A correction is
//! spread over time: a fifth of what elapses at most. RTP time that jumps by [`JUMP_NS`] against arrival begins anew.
//!
//! Times are nanoseconds since the beginning of the recording, pauses included, and may be before it. See RFC 3550 §6.4.1.

use std::collections::VecDeque;
use std::time::{Instant, SystemTime};

use super::feed::Report;
use crate::base::UserId;

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
    /// By how much later than its reports say the track arrives: encoding takes longer than for others of the sender.
    excess_ns: i64,
    first_ns: Option<i64>,
    last: Option<Placed>,
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
    line: Line,
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
            excess_ns: 0,
            first_ns: None,
            last: None,
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
        }
        if source.line.is_fresh(at) && source.line.doubts.is_empty() {
            let sent = source.line.at(source.extended);
            self.senders[track.sender].offset.add(at, at - sent);
        }
        track.drift.add(source.ssrc, at, source.offset.least());
    }

    /// Learns from a report.
    pub fn handle_report(&mut self, track: &mut TrackClock, report: &Report) {
        let at = self.ns(report.arrival);
        let sender = &mut self.senders[track.sender];
        let Some(ntp) = sender.ntp(report.ntp) else { return };
        let index = track.enter(report.ssrc, report.time, report.clock_rate, at);
        let excess = if index == track.current { track.excess_ns } else { 0 };
        let source = &mut track.ssrcs[index];
        let Some(extended) = source.extend(report.time) else { return };
        // What the report should say, going by arrivals.
        let arrived = if source.offset.is_known() { source.arrival_of(extended) } else { at };
        let expected = sender.offset.is_recent(at).then(|| arrived - excess - sender.offset.applied);
        let rate = source.ns_per_tick;
        match source.line.handle(Point { extended, ntp }, at, rate, expected) {
            Verdict::Accepted => sender.accepted_ns = Some(at),
            Verdict::Aside => {}
            Verdict::Jumped => {
                sender.offset.review();
                sender.accepted_ns = Some(at);
            }
            Verdict::Stepped(by) => {
                sender.step_ns = sender.step_ns.saturating_add(by);
                sender.accepted_ns = Some(at);
            }
            Verdict::Foreign => {
                // All that it could disagree with is old.
                if sender.accepted_ns.is_none_or(|accepted| at - accepted > FOREIGN_NS) {
                    sender.offset = Offset::default();
                    source.line.adopt(at, rate);
                    sender.accepted_ns = Some(at);
                }
            }
        }
    }

    /// Where a frame belongs. `arrival`: of its packets. Later than the one before, unless its RTP time is not.
    pub fn place(&self, track: &mut TrackClock, ssrc: u32, time: u32, clock_rate: u32, arrival: Instant) -> i64 {
        let at = self.ns(arrival);
        let index = track.enter(ssrc, time, clock_rate, at);
        let source = &track.ssrcs[index];
        let extended = source.extended + ticks(source.time, time);
        let arrived = if source.offset.is_known() { source.arrival_of(extended) } else { at };
        let ideal = if source.line.is_fresh(at) {
            let ideal = source.line.at(extended) + self.senders[track.sender].offset.applied;
            track.excess_ns = (arrived - ideal).clamp(-EXCESS_MAX_NS, EXCESS_MAX_NS);
            ideal
        } else {
            arrived - track.excess_ns
        };
        // Of another time, or from before a jump.
        let ideal = if (ideal - at).abs() > JUMP_NS { at } else { ideal.min(at + AHEAD_MAX_NS) };
        let elapsed = ((extended - track.last.map_or(0, |last| last.extended)) as f64 * source.ns_per_tick) as i64;
        let out = track.approach(ssrc, ideal, elapsed);
        track.first_ns.get_or_insert(out);
        track.last = Some(Placed { ssrc, extended, ideal_ns: ideal, out_ns: out });
        out
    }
}

impl TrackClock {
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
        // Any other is a jump, or an SSRC that was looked up anew.
        if elapsed.abs() > JUMP_NS {
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
        Sender { user: Some(user), tracks: 0, base: None, step_ns: 0, offset: Offset::default(), accepted_ns: None }
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
        (ns.abs() < NTP_MAX_NS).then_some(ns)
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
            line: Line::default(),
        }
    }

    /// `true`: its time began anew.
    fn on_packet(&mut self, time: u32, at: i64) -> bool {
        self.used_ns = self.used_ns.max(at);
        let step = ticks(self.time, time);
        let extended = self.extended + step;
        let offset = at - self.nominal(extended);
        let early = if self.offset.is_known() { self.offset.applied - offset } else { 0 };
        // Nothing arrives before it is sent, but everything may be late for a while.
        let is_late = early < -JUMP_NS;
        let late_since = is_late.then(|| self.late_since.unwrap_or(at));
        self.late_since = late_since;
        let is_jump = early > JUMP_NS
            || late_since.is_some_and(|since| at - since > LATE_NS)
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

/// The smallest of what was seen over a while, followed without steps once it is known well.
#[derive(Debug, Default)]
struct Offset {
    applied: i64,
    /// `None`: nothing was seen yet.
    since: Option<i64>,
    /// After an interruption: when to believe what was seen since.
    settles: Option<i64>,
    updated: i64,
    least: Least,
}

impl Offset {
    fn is_known(&self) -> bool {
        self.since.is_some()
    }

    fn is_recent(&self, at: i64) -> bool {
        self.since.is_some() && at - self.updated < STALE_NS
    }

    fn least(&self) -> i64 {
        self.least.value
    }

    /// What was seen of late is not true.
    fn review(&mut self) {
        self.least = Least::default();
    }

    fn add(&mut self, at: i64, value: i64) {
        let is_new = self.least.add(at, value);
        let Some(since) = self.since else {
            *self = Offset { applied: value, since: Some(at), updated: at, ..std::mem::take(self) };
            return;
        };
        if is_new {
            self.since = Some(at);
            self.settles = Some(at + SETTLE_NS);
        }
        let elapsed = (at - self.updated).max(0);
        self.updated += elapsed;
        let error = self.least.value - self.applied;
        if error == 0 {
            return;
        }
        let is_settled = self.settles.is_some_and(|settles| at >= settles);
        if error.abs() > STEP_NS || is_settled || (error < 0 && at - since < SETTLED_NS) {
            // A packet that came early proves that the others were late; one that is late proves nothing until all are.
            if error < 0 || is_settled || self.settles.is_none() {
                self.applied = self.least.value;
            }
        } else if error < 0 {
            self.applied += error.max(-elapsed / DOWN_PART);
        } else if self.settles.is_none() {
            self.applied += error.min(elapsed / UP_PART);
        }
        if is_settled {
            self.settles = None;
        }
    }
}

/// The least of a sliding window.
#[derive(Debug)]
struct Least {
    value: i64,
    buckets: [i64; BUCKETS],
    /// The one being filled, and when it is full.
    index: usize,
    until: i64,
}

impl Default for Least {
    fn default() -> Self {
        Least { value: i64::MAX, buckets: [i64::MAX; BUCKETS], index: 0, until: i64::MIN }
    }
}

impl Least {
    /// `true`: nothing else is in the window.
    fn add(&mut self, at: i64, value: i64) -> bool {
        let mut is_new = false;
        if at >= self.until {
            is_new = self.advance(at);
            self.buckets[self.index] = value;
            self.value = self.buckets.iter().copied().min().unwrap_or(value);
        }
        if value < self.buckets[self.index] {
            self.buckets[self.index] = value;
            self.value = self.value.min(value);
        }
        is_new
    }

    fn advance(&mut self, at: i64) -> bool {
        let ahead = at.saturating_sub(self.until) / BUCKET_NS;
        if ahead >= BUCKETS as i64 || self.until == i64::MIN {
            *self = Least { until: at + BUCKET_NS, ..Least::default() };
            return true;
        }
        for _ in 0..=ahead {
            self.index = (self.index + 1) % BUCKETS;
            self.buckets[self.index] = i64::MAX;
        }
        self.until += (ahead + 1) * BUCKET_NS;
        self.buckets.iter().all(|bucket| *bucket == i64::MAX)
    }
}

/// What a report says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Point {
    extended: i64,
    ntp: i64,
}

/// RTP time and time of the sender: a straight line through the reports of an SSRC.
#[derive(Debug, Default)]
struct Line {
    /// Those that are believed, oldest first.
    points: VecDeque<Point>,
    /// Those that agree with each other, but not with the line.
    doubts: Vec<Point>,
    /// How many did not agree with the line, one after another.
    doubtful: u32,
    /// That was too often: none of them is believed alone any more.
    is_distrusted: bool,
    /// Through which the line goes.
    middle: Option<Point>,
    ns_per_tick: f64,
    updated: i64,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Accepted,
    /// Not believed (yet).
    Aside,
    /// Right, while the line was wrong since RTP time has jumped, and so was what was seen with it.
    Jumped,
    /// Right, but for the sender's clock, which was set by so many nanoseconds.
    Stepped(i64),
    /// Consistent, and far from all else that the sender says.
    Foreign,
}

impl Line {
    /// Says something about `at`.
    fn is_fresh(&self, at: i64) -> bool {
        self.middle.is_some() && at - self.updated < STALE_NS
    }

    /// Time of the sender. There has to be a line.
    fn at(&self, extended: i64) -> i64 {
        let Some(middle) = self.middle else { return 0 };
        middle.ntp + ((extended - middle.extended) as f64 * self.ns_per_tick) as i64
    }

    /// `expected`: what the report should say going by arrivals, if anything is known of the sender.
    fn handle(&mut self, point: Point, at: i64, rate: f64, expected: Option<i64>) -> Verdict {
        if self.points.back() == Some(&point) || self.doubts.last() == Some(&point) {
            return Verdict::Aside;
        }
        if !self.is_fresh(at) {
            self.middle = None;
            self.points.clear();
        }
        let off = expected.map_or(0, |expected| point.ntp - expected);
        let is_plausible = match self.middle {
            Some(_) => (point.ntp - self.at(point.extended)).abs() <= DOUBT_NS,
            None => off.abs() <= PLAUSIBLE_NS && !self.is_distrusted,
        };
        if is_plausible {
            self.accept(point, at, rate);
            return Verdict::Accepted;
        }
        if !self.doubt(point, rate) {
            return Verdict::Aside;
        }
        match expected {
            Some(expected) if self.middle.is_some() => self.decide(point, at, rate, expected),
            Some(_) if off.abs() > JUMP_NS => Verdict::Foreign,
            _ => {
                self.adopt(at, rate);
                Verdict::Accepted
            }
        }
    }

    /// Three agree that the line is wrong. Arrivals say whether RTP time jumped or the sender's clock did.
    fn decide(&mut self, point: Point, at: i64, rate: f64, expected: i64) -> Verdict {
        let line = self.at(point.extended);
        if (line - expected).abs() >= (point.ntp - expected).abs() {
            self.adopt(at, rate);
            return Verdict::Jumped;
        }
        self.accept(Point { ntp: line, ..point }, at, rate);
        Verdict::Stepped(point.ntp - line)
    }

    /// Whether there are enough of a kind.
    fn doubt(&mut self, point: Point, rate: f64) -> bool {
        let agrees = self.doubts.last().is_some_and(|last| {
            let elapsed = ((point.extended - last.extended) as f64 * rate) as i64;
            elapsed > 0 && (point.ntp - last.ntp - elapsed).abs() <= DOUBT_NS
        });
        if !agrees {
            self.doubts.clear();
        }
        self.doubts.push(point);
        self.doubtful += 1;
        if self.doubtful >= DOUBTFUL_MAX {
            // Reports of this SSRC say nothing.
            *self = Line { doubts: std::mem::take(&mut self.doubts), is_distrusted: true, ..Line::default() };
        }
        self.doubts.len() >= AGREE
    }

    /// Goes by those that were doubted, from here on.
    fn adopt(&mut self, at: i64, rate: f64) {
        self.points.clear();
        let mut doubts = std::mem::take(&mut self.doubts);
        if let Some(last) = doubts.pop() {
            self.points.extend(doubts);
            self.accept(last, at, rate);
        }
    }

    fn accept(&mut self, point: Point, at: i64, rate: f64) {
        if self.points.len() >= POINTS_MAX {
            self.points.pop_front();
        }
        self.points.push_back(point);
        self.doubts.clear();
        self.doubtful = 0;
        self.updated = at;
        self.fit(rate);
    }

    /// Medians of slopes and of distances (Theil and Sen), which a third of outliers does not move.
    fn fit(&mut self, rate: f64) {
        let (Some(first), Some(last)) = (self.points.front(), self.points.back()) else { return };
        let span = (last.extended - first.extended) as f64 * rate;
        self.ns_per_tick = rate;
        if self.points.len() >= SLOPE_POINTS && span >= SLOPE_SPAN_NS {
            let mut slopes = Vec::with_capacity(POINTS_MAX * POINTS_MAX / 2);
            for (n, a) in self.points.iter().enumerate() {
                for b in self.points.range(n + 1..).filter(|b| b.extended > a.extended) {
                    slopes.push((b.ntp - a.ntp) as f64 / (b.extended - a.extended) as f64);
                }
            }
            if let Some(slope) = median(&mut slopes) {
                self.ns_per_tick = slope.clamp(rate * (1.0 - SLOPE_MAX), rate * (1.0 + SLOPE_MAX));
            }
        }
        let distance = |point: &Point| {
            let elapsed = (point.extended - last.extended) as f64 * self.ns_per_tick;
            (point.ntp - last.ntp) as f64 - elapsed
        };
        let mut distances: Vec<f64> = self.points.iter().map(distance).collect();
        let by = median(&mut distances).unwrap_or(0.0);
        self.middle = Some(Point { ntp: last.ntp + by as i64, ..*last });
    }
}

fn median(values: &mut [f64]) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    let middle = values.len() / 2;
    Some(*values.select_nth_unstable_by(middle, f64::total_cmp).1)
}

/// How an SSRC's clock runs against ours, by its smallest offsets, far apart.
#[derive(Debug, Default)]
struct Drift {
    ssrc: u32,
    began: Option<i64>,
    reference: Option<(i64, i64)>,
    last: (i64, i64),
}

impl Drift {
    fn add(&mut self, ssrc: u32, at: i64, least: i64) {
        if self.ssrc != ssrc || self.began.is_none() {
            *self = Drift { ssrc, began: Some(at), ..Drift::default() };
        }
        self.last = (at, least);
        if self.reference.is_none() && self.began.is_some_and(|began| at - began >= WINDOW_NS) {
            self.reference = Some(self.last);
        }
    }

    fn ppm(&self) -> i32 {
        let Some((at, least)) = self.reference else { return 0 };
        let elapsed = self.last.0 - at;
        if elapsed < DRIFT_SPAN_NS {
            return 0;
        }
        ((least - self.last.1) as f64 / elapsed as f64 * 1e6).round() as i32
    }
}

const MS: i64 = 1_000_000;
const SECOND: i64 = 1000 * MS;

/// SSRCs of a track of which something is known: three encodings and as many that were before.
const SSRCS_MAX: usize = 8;
/// Further off than this is another time, not a delay.
const JUMP_NS: i64 = 5 * SECOND;
/// All packets have to be late by [`JUMP_NS`] for so long. What was held up by a network comes all at once.
const LATE_NS: i64 = 500 * MS;
/// Reports and packets of an SSRC are not further apart in RTP time.
const REPORT_AGE_MAX_NS: i64 = 60 * SECOND;
/// After so long a line or an offset says nothing any more: at 200 ppm, 12 ms are off.
const STALE_NS: i64 = 60 * SECOND;
/// A sender disagrees with all else that it said, and nothing agreed for so long.
const FOREIGN_NS: i64 = 15 * SECOND;
const NTP_MAX_NS: i64 = i64::MAX / 8;
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

/// The window of an offset: long enough that some packet of a bad network is on time, short enough that 200 ppm are 4 ms.
const WINDOW_NS: i64 = BUCKETS as i64 * BUCKET_NS;
const BUCKETS: usize = 10;
const BUCKET_NS: i64 = 2 * SECOND;
/// While it is so young, an offset follows every packet that is earlier.
const SETTLED_NS: i64 = 10 * SECOND;
/// After an interruption that was longer than the window, so long is looked before anything is believed to be late.
const SETTLE_NS: i64 = 2 * SECOND;
/// Later it goes down by 50 ms in a second, since a packet that is early is a proof,
const DOWN_PART: i64 = 20;
/// and up by 5 ms, since one that is late is none; 200 ppm are 0.2 ms.
const UP_PART: i64 = 200;
/// It is another network path, not a change of one.
const STEP_NS: i64 = 500 * MS;

/// What a report may be off from the line. Some senders' are rounded to video frames, or to ticks of 15 ms.
const DOUBT_NS: i64 = 50 * MS;
/// What the first report of an SSRC may be off from arrivals.
const PLAUSIBLE_NS: i64 = 500 * MS;
/// So many doubtful reports in a row that agree are believed.
const AGREE: usize = 3;
/// So many in a row that do not agree, and none is believed any more.
const DOUBTFUL_MAX: u32 = 8;
/// Reports that a line goes through: 24 to 120 s of a browser's.
const POINTS_MAX: usize = 24;
/// With fewer, or closer ones, the noise of reports would be more than the drift of clocks.
const SLOPE_POINTS: usize = 5;
const SLOPE_SPAN_NS: f64 = 15.0 * 1e9;
/// No clock is worse.
const SLOPE_MAX: f64 = 1e-3;

const DRIFT_SPAN_NS: i64 = 20 * SECOND;
