//! How loud each audio track is, from the level its publisher writes into every packet (RFC 6464).
//!
//! Levels are in dBov: 0 is the loudest there is, -127 is silence.

use std::time::{Duration, Instant};

/// The level of a track that is silent, muted or was not heard lately.
pub const SILENCE: i8 = -127;

/// The smoothed level of one track.
#[derive(Debug, Default)]
pub struct Level {
    state: Option<State>,
}

#[derive(Debug)]
struct State {
    smoothed: f32,
    heard: Instant,
    /// The highest smoothed level of late, and when it was.
    peak: (f32, Instant),
}

impl Level {
    /// Notes the level of one packet. Values outside -127..=0 are clamped.
    pub fn on_packet(&mut self, arrival: Instant, dbov: i8) {
        let dbov = f32::from(dbov.clamp(SILENCE, 0));
        let state = self.state.get_or_insert(State {
            smoothed: f32::from(SILENCE),
            heard: arrival.checked_sub(PACKET).unwrap_or(arrival),
            peak: (f32::from(SILENCE), arrival),
        });
        let elapsed = arrival.saturating_duration_since(state.heard);
        let weight = 1.0 - (-elapsed.as_secs_f32() / SMOOTHING.as_secs_f32()).exp();
        state.smoothed += (dbov - state.smoothed) * weight;
        state.heard = state.heard.max(arrival);
        if state.smoothed >= state.peak.0 || arrival.saturating_duration_since(state.peak.1) >= HOLD {
            state.peak = (state.smoothed, arrival);
        }
    }

    /// Forgets what was heard.
    pub fn clear(&mut self) {
        self.state = None;
    }

    /// The smoothed level in dBov.
    pub fn current(&self, now: Instant) -> i8 {
        self.fresh(now).map_or(SILENCE, |state| state.smoothed.round() as i8)
    }

    /// The level by which speakers are ranked: the peak is held for a moment, so that the pause between two words changes
    /// nothing.
    pub fn rank(&self, now: Instant) -> i8 {
        self.fresh(now).map_or(SILENCE, |state| {
            let held = now.saturating_duration_since(state.peak.1) < HOLD;
            let level = if held { state.peak.0.max(state.smoothed) } else { state.smoothed };
            level.round() as i8
        })
    }

    fn fresh(&self, now: Instant) -> Option<&State> {
        self.state.as_ref().filter(|state| now.saturating_duration_since(state.heard) < STALE)
    }
}

/// Time constant of the smoothing. Shorter lets a click win, longer is late at the first word.
const SMOOTHING: Duration = Duration::from_millis(50);
/// What a first packet counts for.
const PACKET: Duration = Duration::from_millis(20);
/// How long a peak counts for the ranking. Shorter flickers between words.
const HOLD: Duration = Duration::from_millis(300);
/// Without a packet for so long a track is silent. Opus in DTX sends one every 400 ms.
const STALE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_hold_and_silence() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut level = Level::default();
        assert_eq!(level.current(start), SILENCE);

        level.on_packet(at(0), -20);
        let first = level.current(at(0));
        assert!((-110..=-70).contains(&first), "one packet is not yet speech: {first}");
        for n in 1..20 {
            level.on_packet(at(n * 20), -20);
        }
        assert!((-21..=-20).contains(&level.current(at(380))));

        // A pause: the level falls, the rank holds for 300 ms.
        for n in 20..30 {
            level.on_packet(at(n * 20), -90);
        }
        assert!(level.current(at(580)) < -80);
        assert!(level.rank(at(580)) >= -21);
        for n in 30..40 {
            level.on_packet(at(n * 20), -90);
        }
        assert!(level.rank(at(780)) < -60);
        assert_eq!(level.current(at(780 + 500)), SILENCE);
        assert_eq!(level.rank(at(780 + 500)), SILENCE);
    }

    #[test]
    fn values_outside_the_range_and_late_packets() {
        let start = Instant::now();
        let mut level = Level::default();
        for n in 0..100 {
            level.on_packet(start + Duration::from_millis(n * 20), i8::MAX);
        }
        let end = start + Duration::from_millis(2000);
        assert_eq!(level.current(end), 0);
        level.on_packet(start, i8::MIN);
        assert_eq!(level.current(end), 0, "a packet from the past has no weight");
        level.clear();
        assert_eq!(level.current(end), SILENCE);
    }
}
