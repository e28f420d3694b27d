//! The numbers of one encoding as they arrive: which were seen, and which were nothing but padding.

use std::collections::VecDeque;

/// Why a packet's number is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Empty,
    Late,
    Duplicate,
}

/// Which of the latest numbers were seen, so that none is forwarded twice: SRTP must not encrypt two payloads under one number.
#[derive(Debug)]
pub struct Window {
    highest: Option<u64>,
    /// Bit n of the ring stands for the number that is n modulo the size.
    seen: [u64; Window::SIZE as usize / 64],
}

impl Window {
    /// Three seconds at 340 packets a second; a packet that is later than that is of no use.
    const SIZE: u64 = 1024;

    pub fn new() -> Self {
        Window { highest: None, seen: [0; Window::SIZE as usize / 64] }
    }

    pub fn highest(&self) -> Option<u64> {
        self.highest
    }

    /// Notes a number; `Ok(true)` when it is the highest so far.
    pub fn insert(&mut self, seq: u64) -> Result<bool, Refused> {
        let is_newest = match self.highest {
            None => true,
            Some(highest) if seq > highest => {
                if seq - highest >= Window::SIZE {
                    self.seen.fill(0);
                } else {
                    for skipped in highest + 1..seq {
                        *self.word(skipped) &= !Window::bit(skipped);
                    }
                }
                true
            }
            Some(highest) => {
                if highest - seq >= Window::SIZE {
                    return Err(Refused::Late);
                }
                if *self.word(seq) & Window::bit(seq) != 0 {
                    return Err(Refused::Duplicate);
                }
                false
            }
        };
        *self.word(seq) |= Window::bit(seq);
        if is_newest {
            self.highest = Some(seq);
        }
        Ok(is_newest)
    }

    fn word(&mut self, seq: u64) -> &mut u64 {
        &mut self.seen[(seq % Window::SIZE / 64) as usize]
    }

    fn bit(seq: u64) -> u64 {
        1 << (seq % 64)
    }
}

/// Takes the numbers of padding out of the numbering.
///
/// A publisher without RTX fills bandwidth probes with empty packets of the media's own SSRC. They are of no use to
/// subscribers (each gets its own padding), and a hole in their place would be NACKed in vain and would stop a receiver that
/// finds frame references by sequence number (H.264). So what follows moves down. An empty packet that comes late leaves a
/// hole, because what follows it is out already.
#[derive(Debug, Default)]
pub struct Padding {
    /// How many numbers were taken out altogether.
    removed: u64,
    /// The latest of them, ascending; at most [`Padding::KEPT`].
    recent: VecDeque<u64>,
}

impl Padding {
    /// More than any burst of probes that can be reordered with media.
    const KEPT: usize = 64;

    pub fn remove(&mut self, seq: u64) {
        if self.recent.len() >= Padding::KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(seq);
        self.removed += 1;
    }

    /// `None` for a number that was taken out, or so old that its place is forgotten.
    pub fn compact(&self, seq: u64) -> Option<u64> {
        let later = self.recent.iter().rev().take_while(|removed| **removed >= seq).count();
        if later == 0 {
            return seq.checked_sub(self.removed);
        }
        let is_removed = self.recent.binary_search(&seq).is_ok();
        let is_forgotten = later == self.recent.len() && self.removed > later as u64;
        if is_removed || is_forgotten {
            return None;
        }
        seq.checked_sub(self.removed - later as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_takes_every_number_once() {
        let rows: &[(u64, &str)] = &[
            (1000, "newest"),
            (1000, "duplicate"),
            (999, "late in order"),
            (999, "duplicate"),
            (1003, "newest"),
            (1001, "late in order"),
            (1001, "duplicate"),
            (1002, "late in order"),
            (1000, "duplicate"),
            (2026, "newest"),
            (1002, "too late"),
            (1003, "duplicate"),
            (1004, "late in order"),
            (2026 + 5000, "newest"),
            (2026 + 5000 - 1023, "late in order"),
            (2026 + 5000 - 1023, "duplicate"),
            (2026 + 5000 - 1024, "too late"),
            (u64::MAX, "newest"),
            (u64::MAX, "duplicate"),
            (0, "too late"),
        ];
        let mut window = Window::new();
        for (row, (seq, expect)) in rows.iter().enumerate() {
            let verdict = match window.insert(*seq) {
                Ok(true) => "newest",
                Ok(false) => "late in order",
                Err(Refused::Late) => "too late",
                Err(Refused::Duplicate) => "duplicate",
                Err(Refused::Empty) => "empty",
            };
            assert_eq!(verdict, *expect, "row {row}: {seq}");
        }
    }

    #[test]
    fn window_agrees_with_a_set() {
        let mut random = fastrand::Rng::with_seed(11);
        let mut window = Window::new();
        let mut seen = std::collections::HashSet::new();
        let mut newest = 5000u64;
        for _ in 0..50_000 {
            let seq = newest + random.u64(0..60) - 40;
            let fresh = seen.insert(seq);
            newest = newest.max(seq);
            assert_eq!(window.insert(seq).is_ok(), fresh, "{seq}");
        }
    }

    #[test]
    fn padding_leaves_no_holes_and_no_number_twice() {
        let mut padding = Padding::default();
        assert_eq!(padding.compact(10), Some(10));
        padding.remove(11);
        padding.remove(13);
        let out: Vec<_> = (9..17).map(|seq| padding.compact(seq)).collect();
        assert_eq!(out, [Some(9), Some(10), None, Some(11), None, Some(12), Some(13), Some(14)]);
        for seq in 100..100 + Padding::KEPT as u64 {
            padding.remove(seq);
        }
        assert_eq!(padding.compact(99), None, "older than what is kept");
        assert_eq!(padding.compact(164), Some(164 - 66));
    }
}
