//! What is made of the estimator's figures: str0m estimates, and this decides how far that is believed.
//!
//! Pure. Driven by [`super::Peer`] with what it measures.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The estimate of the way to the client, steadied.
///
/// str0m tells a mean over three seconds, which is good against flicker, and bad where the path has become another one: packets
/// leave by what it believes at the moment. So a rise counts at once, and so does a fall while the round trip says the same;
/// another fall, as jitter makes it for a moment, only as far as it lasts.
#[derive(Debug, Default)]
pub struct Steady {
    /// What was estimated of late, the newest last; at most [`STEADY_COUNT`].
    recent: VecDeque<u64>,
}

impl Steady {
    /// Takes the estimate of this moment, in bit/s, and gives the one to go by. `is_longer`: the round trip is.
    pub fn on_estimate(&mut self, present: u64, is_longer: bool) -> u64 {
        if self.recent.len() >= STEADY_COUNT {
            self.recent.pop_front();
        }
        self.recent.push_back(present);
        if is_longer {
            return present;
        }
        let mean = self.recent.iter().sum::<u64>() / self.recent.len() as u64;
        present.max(mean)
    }
}

/// A second of measurements. More makes pictures large that do not fit any more, fewer makes them small whenever there is jitter.
const STEADY_COUNT: usize = 10;

/// How far the estimator is to probe, in bit/s.
///
/// It probes for twice of what it is told, whatever it believes: for a large picture on a narrow line that is a burst that fills
/// the queue there, and what comes after it is lost. So it is told of a step more than is known to fit, and of the next one when
/// that fits too. What it is told seldom changes, since it probes with every rise.
#[derive(Debug, Default)]
pub struct Aim(u64);

impl Aim {
    pub fn of(&mut self, measured: u64, desired: u64) -> u64 {
        if measured >= self.0 || self.0 > measured / 2 * 5 {
            self.0 = measured / 2 * 3;
        }
        self.0.min(desired)
    }
}

/// When the estimator is to begin anew from what it believes, so that it probes for more.
///
/// By itself it may do that never again: after losses it neither raises its estimate nor probes as long as less is sent than
/// that allows, and less is sent as long as no layer more fits.
#[derive(Debug, Default)]
pub struct Trial {
    /// Since when nothing waits or gets lost, although more is wanted than is believed to fit.
    calm: Option<Instant>,
    /// What was believed at the last one.
    last: u64,
    /// It brought nothing.
    was_in_vain: bool,
}

impl Trial {
    pub fn is_due(&mut self, now: Instant, is_calm: bool, believed: u64) -> bool {
        let Some(since) = self.calm.filter(|_| is_calm) else {
            self.calm = is_calm.then_some(now);
            return false;
        };
        let pause = if self.was_in_vain { TRIAL_PAUSE_MAX } else { TRIAL_PAUSE };
        if now.saturating_duration_since(since) < pause {
            return false;
        }
        self.was_in_vain = believed < self.last / 4 * 5;
        (self.calm, self.last) = (Some(now), believed);
        true
    }
}

/// Shorter troubles a narrow line with probes more often, longer keeps those small whose line has become wide.
const TRIAL_PAUSE: Duration = Duration::from_secs(3);
const TRIAL_PAUSE_MAX: Duration = Duration::from_secs(6);

/// Whether an estimate that has room for nothing is doubted, without proof that more arrives.
#[derive(Debug)]
pub struct Doubt {
    raised: Option<Instant>,
    /// After the last raise proved wrong.
    pause: Duration,
    pause_max: Duration,
    not_before: Option<Instant>,
}

impl Doubt {
    pub fn new(pause_max: Duration) -> Doubt {
        Doubt { raised: None, pause: Duration::ZERO, pause_max, not_before: None }
    }

    pub fn holds(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| now >= at)
    }

    pub fn on_raise(&mut self, now: Instant) {
        self.raised = Some(now);
    }

    pub fn on_congestion(&mut self, now: Instant) {
        let is_ours = self.raised.take().is_some_and(|at| now.saturating_duration_since(at) < DOUBT_PROVES_WRONG);
        self.pause = if is_ours { (self.pause * 2).clamp(DOUBT_PAUSE_MIN, self.pause_max) } else { self.pause };
        self.not_before = Some(now + self.pause.max(DOUBT_PAUSE_MIN));
    }
}

/// Congestion that comes within this time after a raise is its doing.
const DOUBT_PROVES_WRONG: Duration = Duration::from_secs(5);
const DOUBT_PAUSE_MIN: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fall_counts_at_once_where_the_round_trip_says_the_same() {
        let mut steady = Steady::default();
        assert_eq!(steady.on_estimate(1_000_000, false), 1_000_000);
        // A moment of jitter, and then one of a queue.
        assert_eq!(steady.on_estimate(400_000, false), 700_000);
        assert_eq!(steady.on_estimate(400_000, true), 400_000);
        // A rise always does.
        assert_eq!(steady.on_estimate(3_000_000, false), 3_000_000);
        // What lasts is believed in the end.
        let last = (0..STEADY_COUNT).map(|_| steady.on_estimate(500_000, false)).last();
        assert_eq!(last, Some(500_000));
    }

    #[test]
    fn an_aim_is_a_step_further_and_seldom_changes() {
        let mut aim = Aim::default();
        // Row: what is measured, what is desired, what is aimed at.
        let rows = [
            (1_000, 5_000, 1_500),
            (1_300, 5_000, 1_500),
            (700, 5_000, 1_500),
            (1_000, 1_200, 1_200),
            (1_500, 5_000, 2_250),
            (4_000, 5_000, 5_000),
            (2_000, 5_000, 3_000),
            (500, 5_000, 750),
        ];
        for (number, (measured, desired, expected)) in rows.into_iter().enumerate() {
            assert_eq!(aim.of(measured, desired), expected, "row {number}");
        }
    }

    #[test]
    fn a_trial_comes_after_a_calm_while_and_less_often_when_it_brings_nothing() {
        let start = Instant::now();
        let mut trial = Trial::default();
        let mut due = |at: Duration, is_calm, believed| trial.is_due(start + at, is_calm, believed);
        let second = Duration::from_secs(1);
        assert!(!due(Duration::ZERO, true, 500_000));
        assert!(!due(2 * second, true, 500_000));
        // What is not calm begins the time anew.
        assert!(!due(Duration::from_millis(2500), false, 500_000));
        assert!(!due(3 * second, true, 500_000));
        assert!(!due(5 * second, true, 500_000));
        assert!(due(6 * second, true, 500_000));
        // The first is a gain over nothing; the second is none.
        assert!(!due(8 * second, true, 510_000));
        assert!(due(9 * second, true, 510_000));
        assert!(!due(12 * second, true, 510_000));
        assert!(due(15 * second, true, 900_000));
        // That one was worth it.
        assert!(due(18 * second, true, 900_000));
    }

    #[test]
    fn a_doubt_that_proves_wrong_waits_longer_each_time() {
        let second = Duration::from_secs(1);
        let mut now = Instant::now();
        let mut doubt = Doubt::new(8 * second);
        assert!(doubt.holds(now));
        for pause in [3, 6, 8, 8] {
            doubt.on_raise(now);
            now += second;
            doubt.on_congestion(now);
            assert!(!doubt.holds(now + pause * second - Duration::from_millis(1)), "{pause}");
            now += pause * second;
            assert!(doubt.holds(now), "{pause}");
        }
    }
}
