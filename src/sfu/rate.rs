//! The bitrate and frame rate of one layer, over a moving window.

use std::time::{Duration, Instant};

/// Octets and frames by tenths of a second. The octets of a key frame are spread over the time after it: what a receiver
/// needs for the layer does not double because somebody asked for a key frame.
#[derive(Debug)]
pub struct Rate {
    /// The newest tenth is at `tenth` modulo the size; up to [`Rate::SPREAD`] tenths to come are in use.
    bytes: [u32; Rate::SIZE],
    frames: [u8; Rate::SIZE],
    began: Instant,
    tenth: u64,
    /// What was measured before a pause; it counts until there is enough of what came after.
    before: Option<(u64, u64)>,
}

impl Rate {
    const SIZE: usize = 64;
    /// The window of the bitrate, in tenths.
    const BITS: u64 = 10;
    /// The window of the frame rate; longer, since a low one has few frames to count.
    const FRAMES: u64 = 20;
    /// A key frame is spread over so many tenths. Longer is smoother, and slower to see that key frames are frequent.
    const SPREAD: u64 = 30;

    pub fn new(now: Instant) -> Self {
        Rate { bytes: [0; Rate::SIZE], frames: [0; Rate::SIZE], began: now, tenth: 0, before: None }
    }

    pub fn add(&mut self, now: Instant, bytes: usize) {
        self.advance(now);
        self.put(self.tenth, bytes);
    }

    /// Octets of a key frame.
    pub fn add_keyframe(&mut self, now: Instant, bytes: usize) {
        self.advance(now);
        let share = bytes / Rate::SPREAD as usize;
        self.put(self.tenth, bytes - share * (Rate::SPREAD as usize - 1));
        for later in 1..Rate::SPREAD {
            self.put(self.tenth + later, share);
        }
    }

    pub fn add_frame(&mut self, now: Instant) {
        self.advance(now);
        if let Some(frames) = self.frames.get_mut(self.tenth as usize % Rate::SIZE) {
            *frames = frames.saturating_add(1);
        }
    }

    /// The layer goes on after a pause.
    pub fn resume(&mut self, now: Instant, heard: Instant) {
        let before = (self.bits(heard), self.deciframes(heard));
        *self = Rate { before: Some(before), ..Rate::new(now) };
    }

    /// Bits in the last second.
    pub fn bits(&self, now: Instant) -> u64 {
        let octets = |tenth: u64| self.bytes.get(tenth as usize % Rate::SIZE).copied().unwrap_or(0).into();
        let measured = self.per_second(now, Rate::BITS, self.tenth + Rate::SPREAD - 1, octets) * 8;
        match self.before {
            Some((before, _)) if self.tenth_of(now) < Rate::BITS => before,
            _ => measured,
        }
    }

    /// Frames in ten seconds at the present rate.
    pub fn deciframes(&self, now: Instant) -> u64 {
        let frames = |tenth: u64| -> u64 { self.frames.get(tenth as usize % Rate::SIZE).copied().unwrap_or(0).into() };
        match self.before {
            Some((_, before)) if self.tenth_of(now) < Rate::FRAMES => before,
            _ => self.per_second(now, Rate::FRAMES, self.tenth, |tenth| frames(tenth) * 10),
        }
    }

    /// The mean over the last whole tenths, or over what there is of them. Nothing is written beyond `last`.
    fn per_second(&self, now: Instant, window: u64, last: u64, of: impl Fn(u64) -> u64) -> u64 {
        // Before the first is whole it has to do.
        let end = self.tenth_of(now).max(self.tenth).max(1);
        let begin = end.saturating_sub(window);
        let sum: u64 = (begin..end.min(last + 1)).map(of).sum();
        let tenths = end - begin;
        (sum * 10 + tenths / 2) / tenths
    }

    fn put(&mut self, tenth: u64, bytes: usize) {
        if let Some(place) = self.bytes.get_mut(tenth as usize % Rate::SIZE) {
            *place = place.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        }
    }

    /// Empties the tenths that come into use.
    fn advance(&mut self, now: Instant) {
        let tenth = self.tenth_of(now);
        if tenth <= self.tenth {
            return;
        }
        let first = (self.tenth + 1).max(tenth.saturating_sub(Rate::SIZE as u64));
        for fresh in first..=tenth {
            if let Some(frames) = self.frames.get_mut(fresh as usize % Rate::SIZE) {
                *frames = 0;
            }
            if let Some(bytes) = self.bytes.get_mut((fresh + Rate::SPREAD) as usize % Rate::SIZE) {
                *bytes = 0;
            }
        }
        if tenth - self.tenth >= Rate::SIZE as u64 {
            self.bytes.fill(0);
        }
        self.tenth = tenth;
    }

    fn tenth_of(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_millis() as u64 / TENTH.as_millis() as u64
    }
}

const TENTH: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn rate_of_the_last_second() {
        let start = Instant::now();
        let at = |ms| at(start, ms);
        let mut rate = Rate::new(start);
        assert_eq!(rate.bits(start), 0);
        for n in 0..300 {
            rate.add(at(n * 10), 125);
            if n % 4 == 0 {
                rate.add_frame(at(n * 10));
            }
        }
        assert_eq!((rate.bits(at(2990)), rate.deciframes(at(2990))), (100 * 1000, 250));
        assert_eq!(rate.bits(at(3500)), 50 * 1000);
        assert_eq!((rate.bits(at(60_000)), rate.deciframes(at(60_000))), (0, 0));
        rate.add(at(60_000), 125);
        assert_eq!((rate.bits(at(60_000)), rate.bits(at(60_100))), (0, 1000));
        // A clock that goes back counts for the newest tenth.
        rate.add(at(0), 125);
        assert_eq!(rate.bits(at(60_100)), 2000);
    }

    #[test]
    fn the_first_tenths_count_as_a_second() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        for n in 0..10 {
            rate.add(at(start, n * 20), 250);
            rate.add_frame(at(start, n * 20));
        }
        assert_eq!((rate.bits(at(start, 190)), rate.deciframes(at(start, 190))), (100 * 1000, 500));
    }

    #[test]
    fn a_key_frame_is_no_jump() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        let mut seen = Vec::new();
        for n in 0..1000 {
            // A megabit per second, and a key frame of 60,000 octets after 4 s.
            rate.add(at(start, n * 10), 1250);
            if n == 400 {
                rate.add_keyframe(at(start, n * 10), 60_000);
            }
            seen.push(rate.bits(at(start, n * 10)));
        }
        let (least, most) = (seen[100..].iter().min().unwrap(), seen[100..].iter().max().unwrap());
        assert_eq!(*least, 1_000_000);
        assert!(*most < 1_200_000, "{most}");
        assert_eq!(*seen.last().unwrap(), 1_000_000);
    }

    #[test]
    fn a_key_frame_is_counted_once_altogether() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        rate.add(start, 0);
        rate.add_keyframe(at(start, 2000), 3001);
        let mut sum = 0;
        for tenth in 20..70 {
            rate.advance(at(start, tenth * 100));
            sum += rate.bits(at(start, tenth * 100));
        }
        // Every octet is in the window for ten tenths.
        assert_eq!(sum, 3001 * 8 * 10);
    }

    #[test]
    fn a_pause_keeps_the_figures_until_there_are_new_ones() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        for n in 0..200 {
            rate.add(at(start, n * 10), 125);
            rate.add_frame(at(start, n * 10));
        }
        let heard = at(start, 1990);
        assert_eq!((rate.bits(heard), rate.deciframes(heard)), (100_000, 1000));
        rate.resume(at(start, 60_000), heard);
        rate.add(at(start, 60_000), 125);
        assert_eq!((rate.bits(at(start, 60_000)), rate.deciframes(at(start, 60_000))), (100_000, 1000));
        for n in 0..300 {
            rate.add(at(start, 60_000 + n * 10), 250);
        }
        assert_eq!((rate.bits(at(start, 62_990)), rate.deciframes(at(start, 62_990))), (200_000, 0));
    }
}
