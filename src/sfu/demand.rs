//! Whether anybody watches an encoding, and what its publisher was told about that.

use std::time::{Duration, Instant};

/// What an encoding is for those who choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Packets arrive.
    Live,
    /// Its publisher was told that nobody watches it, or has just been told that somebody does: it can be chosen.
    Paused,
    /// It ended by itself.
    Gone,
}

/// The demand for one encoding.
#[derive(Debug)]
pub struct Demand {
    /// What the publisher was told last; it begins by sending.
    told: bool,
    /// When some slot named it last.
    named: Instant,
    /// When it was to go on after a pause; until it does.
    resumed: Option<Instant>,
}

impl Demand {
    pub fn new(now: Instant) -> Self {
        Demand { told: true, named: now, resumed: None }
    }

    /// A packet arrived.
    pub fn on_packet(&mut self) {
        self.resumed = None;
    }

    /// What came before `now` says nothing about whether it is watched.
    pub fn forgive(&mut self, now: Instant) {
        self.named = now;
    }

    /// It should go on soon, after something other than a lack of demand.
    pub fn expect(&mut self, now: Instant) {
        self.resumed = Some(now);
    }

    pub fn presence(&self, now: Instant, is_alive: bool) -> Presence {
        match is_alive {
            true => Presence::Live,
            false if !self.told || self.is_awaited(now) => Presence::Paused,
            false => Presence::Gone,
        }
    }

    /// `Some`: the publisher is to be told this. `learning_until`: before then everything is wanted.
    pub fn update(
        &mut self,
        now: Instant,
        is_named: bool,
        is_alive: bool,
        learning_until: Instant,
        unwanted_after: Duration,
    ) -> Option<bool> {
        if is_named {
            self.named = now;
            if self.told {
                return None;
            }
            self.told = true;
            if !is_alive {
                self.resumed = Some(now);
            }
            return Some(true);
        }
        // One that ended by itself has to be able to come back by itself.
        if !self.told || !is_alive || now < learning_until || now < self.named + unwanted_after {
            return None;
        }
        self.told = false;
        Some(false)
    }

    /// Whether the publisher was told that somebody watches it.
    pub fn is_told(&self) -> bool {
        self.told
    }

    /// It has been asked for and time may still tell that it does not come.
    pub fn is_awaited(&self, now: Instant) -> bool {
        self.resumed.is_some_and(|at| now.saturating_duration_since(at) < RESUME_MAX)
    }
}

/// How long an encoder may take to go on. Some wait for bandwidth; after so long it counts as gone, until it comes.
const RESUME_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        // Time in seconds, named?, alive?, what the publisher is told, and what the encoding is then.
        let rows: &[(u64, bool, bool, Option<bool>, Presence)] = &[
            (0, false, true, None, Presence::Live),
            (9, false, true, None, Presence::Live),
            (10, false, true, Some(false), Presence::Live),
            (11, false, false, None, Presence::Paused),
            (100, true, false, Some(true), Presence::Paused),
            (104, true, false, None, Presence::Paused),
            (105, true, false, None, Presence::Gone),
            (200, false, false, None, Presence::Gone),
            (300, false, true, Some(false), Presence::Live),
            (301, true, true, Some(true), Presence::Live),
            (304, false, true, None, Presence::Live),
            (305, false, true, None, Presence::Live),
            (306, false, true, Some(false), Presence::Live),
        ];
        let start = Instant::now();
        let mut demand = Demand::new(start);
        for (second, is_named, is_alive, told, presence) in rows {
            let now = start + Duration::from_secs(*second);
            if *is_alive {
                demand.on_packet();
            }
            let learning_until = start + Duration::from_secs(10);
            let answer = demand.update(now, *is_named, *is_alive, learning_until, Duration::from_secs(5));
            assert_eq!((answer, demand.presence(now, *is_alive)), (*told, *presence), "at {second}");
        }
    }
}
