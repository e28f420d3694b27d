//! When a publisher is asked for a key frame: coalesced and throttled, per encoding, for the whole room.
//!
//! Two wishes exist. A *request* comes from a subscriber that lost something and is forgotten once passed on. A *standing
//! wish* exists while a subscription waits for a key frame to start with; it is passed on again and again until one comes.

use std::time::{Duration, Instant};

/// The wishes for one encoding. Sends at most one request per interval; what comes inside the interval waits for its end.
#[derive(Debug, Default)]
pub struct Throttle {
    sent: Option<Instant>,
    requested: Option<Instant>,
    standing: Option<Instant>,
}

impl Throttle {
    /// A subscriber asks. `false` when it was merged with a request that waits already.
    pub fn request(&mut self, now: Instant) -> bool {
        if self.requested.is_some() {
            return false;
        }
        self.requested = Some(now);
        true
    }

    /// Some subscription waits for a key frame of this encoding.
    pub fn set_standing(&mut self, now: Instant) {
        self.standing.get_or_insert(now);
    }

    /// Whether some subscription waits for a key frame of this encoding.
    pub fn is_standing(&self) -> bool {
        self.standing.is_some()
    }

    /// No subscription waits any longer.
    pub fn withdraw_standing(&mut self) {
        self.standing = None;
    }

    /// A key frame came: whoever asked has it. The interval since the last request goes on.
    pub fn on_keyframe(&mut self) {
        self.requested = None;
        self.standing = None;
    }

    /// Forgets every wish.
    pub fn clear(&mut self) {
        self.on_keyframe();
    }

    /// When the next request is to be sent; `None` when nobody wants one.
    pub fn due(&self, interval: Duration) -> Option<Instant> {
        let since = match (self.requested, self.standing) {
            (Some(a), Some(b)) => a.min(b),
            (a, b) => a.or(b)?,
        };
        Some(self.sent.map_or(since, |sent| since.max(sent + interval)))
    }

    /// `true` when a request is due and so to be sent now.
    pub fn take(&mut self, now: Instant, interval: Duration) -> bool {
        if self.due(interval).is_none_or(|due| due > now) {
            return false;
        }
        self.sent = Some(now);
        self.requested = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Step {
        Request { merged: bool },
        Standing(bool),
        KeyFrame,
        Take(bool),
        Due(Option<u64>),
    }
    use Step::*;

    /// Steps at milliseconds, interval 200 ms.
    fn check(name: &str, steps: &[(u64, Step)]) {
        let start = Instant::now();
        let interval = Duration::from_millis(200);
        let mut throttle = Throttle::default();
        for (ms, step) in steps {
            let now = start + Duration::from_millis(*ms);
            match step {
                Request { merged } => assert_eq!(throttle.request(now), !merged, "{name} at {ms}"),
                Standing(true) => throttle.set_standing(now),
                Standing(false) => throttle.withdraw_standing(),
                KeyFrame => throttle.on_keyframe(),
                Take(expect) => assert_eq!(throttle.take(now, interval), *expect, "{name} at {ms}"),
                Due(expect) => {
                    let expect = expect.map(|ms| start + Duration::from_millis(ms));
                    assert_eq!(throttle.due(interval), expect, "{name} at {ms}");
                }
            }
        }
    }

    #[test]
    fn rows() {
        check("nothing wanted", &[(0, Due(None)), (0, Take(false))]);
        check("passed on once", &[(0, Request { merged: false }), (0, Take(true)), (0, Take(false)), (900, Due(None))]);
        check(
            "inside the interval: deferred, not lost, and merged",
            &[
                (0, Request { merged: false }),
                (0, Take(true)),
                (50, Request { merged: false }),
                (60, Request { merged: true }),
                (60, Due(Some(200))),
                (199, Take(false)),
                (200, Take(true)),
                (400, Take(false)),
            ],
        );
        check(
            "a key frame meanwhile drops what waits, and the interval goes on",
            &[
                (0, Request { merged: false }),
                (0, Take(true)),
                (50, Request { merged: false }),
                (100, KeyFrame),
                (200, Take(false)),
                (150, Request { merged: false }),
                (150, Due(Some(200))),
            ],
        );
        check(
            "a standing wish is repeated until a key frame",
            &[
                (10, Standing(true)),
                (10, Take(true)),
                (20, Standing(true)),
                (20, Due(Some(210))),
                (210, Take(true)),
                (410, Take(true)),
                (450, KeyFrame),
                (900, Take(false)),
            ],
        );
        check("a withdrawn wish is not sent", &[(0, Standing(true)), (0, Standing(false)), (0, Take(false))]);
    }
}
