//! What the reports of an SSRC say: RTP time and the sender's time, as a straight line, in spite of some of them.

use std::collections::VecDeque;

use super::{JUMP_NS, MS, STALE_NS};

/// What a report says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) extended: i64,
    pub(super) ntp: i64,
}

/// RTP time and time of the sender: a straight line through the reports of an SSRC.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Those that are believed, oldest first.
    points: VecDeque<Point>,
    /// Those that agree with each other, but not with the line.
    doubts: Vec<Point>,
    /// How many more did not agree with the line than did.
    doubtful: u32,
    /// That was too often: none of them is believed alone any more.
    is_distrusted: bool,
    /// Through which the line goes.
    middle: Option<Point>,
    ns_per_tick: f64,
    updated: i64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
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
    pub(super) fn is_fresh(&self, at: i64) -> bool {
        self.middle.is_some() && at - self.updated < STALE_NS
    }

    /// The last report did not agree.
    pub(super) fn is_doubted(&self) -> bool {
        !self.doubts.is_empty()
    }

    #[cfg(test)]
    pub(super) fn is_small(&self) -> bool {
        self.points.len() <= POINTS_MAX && self.doubts.len() <= AGREE
    }

    /// Time of the sender. There has to be a line.
    pub(super) fn at(&self, extended: i64) -> i64 {
        let Some(middle) = self.middle else { return 0 };
        middle.ntp.saturating_add(((extended - middle.extended) as f64 * self.ns_per_tick) as i64)
    }

    /// `expected`: what the report should say going by arrivals, if anything is known of the sender.
    pub(super) fn handle(&mut self, point: Point, at: i64, rate: f64, expected: Option<i64>) -> Verdict {
        if self.points.back() == Some(&point) || self.doubts.last() == Some(&point) {
            return Verdict::Aside;
        }
        if !self.is_fresh(at) {
            self.middle = None;
            self.points.clear();
        }
        let off = expected.map_or(0, |expected| point.ntp.abs_diff(expected));
        let is_plausible = match self.middle {
            Some(_) => point.ntp.abs_diff(self.at(point.extended)) <= DOUBT_NS,
            None => off <= PLAUSIBLE_NS && !self.is_distrusted,
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
            Some(_) if off > JUMP_NS as u64 => Verdict::Foreign,
            _ => {
                self.adopt(at, rate);
                Verdict::Accepted
            }
        }
    }

    /// Three agree that the line is wrong. Arrivals say whether RTP time jumped or the sender's clock did.
    fn decide(&mut self, point: Point, at: i64, rate: f64, expected: i64) -> Verdict {
        let line = self.at(point.extended);
        if line.abs_diff(expected) >= point.ntp.abs_diff(expected) {
            self.adopt(at, rate);
            return Verdict::Jumped;
        }
        self.accept(Point { ntp: line, ..point }, at, rate);
        Verdict::Stepped(point.ntp.saturating_sub(line))
    }

    /// Whether there are enough of a kind.
    fn doubt(&mut self, point: Point, rate: f64) -> bool {
        let agrees = self.doubts.last().is_some_and(|last| {
            let elapsed = ((point.extended - last.extended) as f64 * rate) as i64;
            elapsed > 0 && point.ntp.abs_diff(last.ntp.saturating_add(elapsed)) <= DOUBT_NS
        });
        if !agrees {
            self.doubts.clear();
        } else if self.doubts.len() >= AGREE {
            self.doubts.remove(0);
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
    pub(super) fn adopt(&mut self, at: i64, rate: f64) {
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
        self.doubtful = self.doubtful.saturating_sub(1);
        self.updated = at;
        self.fit(rate);
    }

    /// The median of slopes (Theil and Sen), which a third of outliers does not move, and nearly the least of distances: what
    /// libwebrtc says of sound is late by chance and never early, by up to 17 ms where redundancy is sent (it takes RTP time to run at
    /// 8 kHz since the last packet) and by more when it has much to do.
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
            if let Some(slope) = quantile(&mut slopes, 2) {
                self.ns_per_tick = slope.clamp(rate * (1.0 - SLOPE_MAX), rate * (1.0 + SLOPE_MAX));
            }
        }
        let distance = |point: &Point| {
            let elapsed = (point.extended - last.extended) as f64 * self.ns_per_tick;
            (point.ntp - last.ntp) as f64 - elapsed
        };
        let mut distances: Vec<f64> = self.points.iter().map(distance).collect();
        let by = quantile(&mut distances, 8).unwrap_or(0.0);
        self.middle = Some(Point { ntp: last.ntp + by as i64, ..*last });
    }
}

/// The value that one in `part` is below.
fn quantile(values: &mut [f64], part: usize) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    let place = values.len() / part;
    Some(*values.select_nth_unstable_by(place, f64::total_cmp).1)
}

/// What a report may be off from the line. Some senders' are rounded to video frames, or to ticks of 15 ms.
const DOUBT_NS: u64 = 50 * MS as u64;
/// What the first report of an SSRC may be off from arrivals.
const PLAUSIBLE_NS: u64 = 250 * MS as u64;
/// So many doubtful reports in a row that agree are believed.
const AGREE: usize = 3;
/// So many more that do not agree than do, and none is believed alone any more.
const DOUBTFUL_MAX: u32 = 6;
/// Reports that a line goes through: 24 to 120 s of a browser's.
const POINTS_MAX: usize = 24;
/// With fewer, or closer ones, the noise of reports would be more than the drift of clocks.
const SLOPE_POINTS: usize = 5;
const SLOPE_SPAN_NS: f64 = 15.0 * 1e9;
/// No clock is worse.
const SLOPE_MAX: f64 = 1e-3;
