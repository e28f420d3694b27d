//! When a key frame is asked for: to begin with, after a loss, and so that a file can be sought in.
//!
//! A machine per video track. A wish is repeated until a key frame comes, after `REPEATS`; the shard throttles what all
//! subscribers of a track ask for together.

use std::time::{Duration, Instant};

/// The wishes for one track.
#[derive(Debug, Default)]
pub struct Keyframes {
    /// Nothing can be shown without one.
    needed: bool,
    /// When the last one came.
    last: Option<Instant>,
    /// When the last packet came.
    heard: Option<Instant>,
    asked: Option<Instant>,
    /// How often, since the last one.
    times: usize,
}

impl Keyframes {
    /// A packet came. `true`: [`due`](Self::due) may be sooner than it was.
    pub fn on_packet(&mut self, now: Instant) -> bool {
        self.heard.replace(now).is_none_or(|heard| now > heard + QUIET / 2)
    }

    /// Whether frames are dropped until there is a key frame. `true`: [`due`](Self::due) may be sooner than it was.
    pub fn set_needed(&mut self, needed: bool) -> bool {
        !std::mem::replace(&mut self.needed, needed) && needed
    }

    /// One came, whole.
    pub fn on_keyframe(&mut self, now: Instant) {
        *self = Keyframes { last: Some(now), heard: self.heard, ..Keyframes::default() };
    }

    /// One is wanted at once, whatever was asked for before.
    pub fn restart(&mut self, now: Instant) {
        *self = Keyframes { needed: true, last: None, heard: Some(now), asked: None, times: 0 };
    }

    /// When to ask next, if packets come until then. `None`: not before one comes.
    pub fn due(&self, interval: Duration) -> Option<Instant> {
        let heard = self.heard?;
        let wanted = match self.last {
            Some(last) if !self.needed => last + interval,
            _ => heard,
        };
        Some(self.asked.map_or(wanted, |asked| wanted.max(asked + repeat(self.times))))
    }

    /// Whether to ask now; then it is counted as done.
    pub fn take(&mut self, now: Instant, interval: Duration) -> bool {
        let is_quiet = self.heard.is_none_or(|heard| now > heard + QUIET);
        if is_quiet || self.due(interval).is_none_or(|due| due > now) {
            return false;
        }
        self.asked = Some(now);
        self.times += 1;
        true
    }
}

fn repeat(times: usize) -> Duration {
    REPEATS[times.clamp(1, REPEATS.len()) - 1]
}

/// How long an answer is waited for, again and again. The first is more than the way there and back and a frame; the last
/// is for those who cannot be helped by asking.
const REPEATS: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_millis(1000),
    Duration::from_millis(2000),
    Duration::from_millis(4000),
    Duration::from_millis(5000),
];
/// After so long without a packet a track is not asked any more: it is muted, suspended, or gone.
const QUIET: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    enum Step {
        Restart,
        /// Packets every 20 ms until then. Whether frames need a key frame.
        Packets(u64, bool),
        Keyframe,
    }
    use Step::*;

    /// Steps, and the milliseconds at which it is asked.
    fn check(name: &str, steps: &[Step], quiet_until: u64, expect: &[u64]) {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut keyframes = Keyframes::default();
        let (mut ms, mut asked) = (0, Vec::new());
        let mut look = |keyframes: &mut Keyframes, ms| {
            if keyframes.take(at(ms), Duration::from_secs(10)) {
                asked.push(ms);
            }
        };
        for step in steps {
            match step {
                Restart => keyframes.restart(at(ms)),
                Keyframe => keyframes.on_keyframe(at(ms)),
                Packets(until, needed) => {
                    while ms < *until {
                        keyframes.on_packet(at(ms));
                        keyframes.set_needed(*needed);
                        look(&mut keyframes, ms);
                        ms += 20;
                    }
                }
            }
            look(&mut keyframes, ms);
        }
        while ms < quiet_until {
            ms += 20;
            look(&mut keyframes, ms);
        }
        assert_eq!(asked, expect, "{name}");
    }

    #[test]
    fn rows() {
        check("nothing comes", &[], 60_000, &[]);
        check("at the start, and no more when nothing comes", &[Restart], 60_000, &[0, 500, 1500]);
        check(
            "longer and longer",
            &[Restart, Packets(30_000, true)],
            0,
            &[0, 500, 1500, 3500, 7500, 12_500, 17_500, 22_500, 27_500],
        );
        check("answered", &[Restart, Packets(100, true), Keyframe, Packets(9_000, false)], 9_000, &[0]);
        check(
            "for seeking",
            &[Restart, Packets(100, true), Keyframe, Packets(11_000, false), Keyframe, Packets(21_020, false)],
            0,
            &[0, 10_100, 10_600, 21_000],
        );
        check(
            "after a loss at once",
            &[Restart, Keyframe, Packets(3_000, false), Packets(3_600, true), Keyframe, Packets(4_000, false)],
            0,
            &[0, 3_000, 3_500],
        );
    }
}
