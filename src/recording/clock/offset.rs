//! The difference of two clocks, seen through a network: the smallest of arrival minus sending, over a while.

use super::{MS, SECOND, STALE_NS};

/// The smallest of what was seen over a while, followed without steps once it is known well.
#[derive(Debug, Default)]
pub(super) struct Offset {
    /// What to go by.
    pub(super) applied: i64,
    /// `None`: nothing was seen yet.
    since: Option<i64>,
    /// After an interruption: when to believe what was seen since.
    settles: Option<i64>,
    updated: i64,
    least: Least,
}

impl Offset {
    pub(super) fn is_known(&self) -> bool {
        self.since.is_some()
    }

    /// It was looked at for long enough to know how early a packet can be.
    pub(super) fn is_settled(&self, at: i64) -> bool {
        self.since.is_some_and(|since| at - since >= SETTLED_NS)
    }

    pub(super) fn is_recent(&self, at: i64) -> bool {
        self.since.is_some() && at - self.updated < STALE_NS
    }

    pub(super) fn least(&self) -> i64 {
        self.least.value
    }

    /// What was seen of late is not true.
    pub(super) fn review(&mut self) {
        self.least = Least::default();
    }

    pub(super) fn add(&mut self, at: i64, value: i64) {
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
        let error = self.least.value.saturating_sub(self.applied);
        if error == 0 {
            return;
        }
        let is_settled = self.settles.is_some_and(|settles| at >= settles);
        if error.unsigned_abs() > STEP_NS as u64 || is_settled || (error < 0 && at - since < SETTLED_NS) {
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
pub(super) struct Least {
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
    pub(super) fn add(&mut self, at: i64, value: i64) -> bool {
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

/// How an SSRC's clock runs against ours, by its smallest offsets, far apart.
#[derive(Debug, Default)]
pub(super) struct Drift {
    ssrc: u32,
    began: Option<i64>,
    reference: Option<(i64, i64)>,
    last: (i64, i64),
}

impl Drift {
    pub(super) fn add(&mut self, ssrc: u32, at: i64, least: i64) {
        if self.ssrc != ssrc || self.began.is_none() {
            *self = Drift { ssrc, began: Some(at), ..Drift::default() };
        }
        self.last = (at, least);
        if self.reference.is_none() && self.began.is_some_and(|began| at - began >= WINDOW_NS) {
            self.reference = Some(self.last);
        }
    }

    pub(super) fn ppm(&self) -> i32 {
        let Some((at, least)) = self.reference else { return 0 };
        let elapsed = self.last.0 - at;
        if elapsed < DRIFT_SPAN_NS {
            return 0;
        }
        (least.saturating_sub(self.last.1) as f64 / elapsed as f64 * 1e6).round() as i32
    }
}

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

/// Before it has run for so long, nothing is said about a drift.
const DRIFT_SPAN_NS: i64 = 20 * SECOND;
