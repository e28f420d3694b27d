//! Token bucket.

use std::time::{Duration, Instant};

/// Allows `per_second` on average and `burst` at once.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    /// Millitokens, so that slow rates do not lose fractions.
    level: u64,
    burst: u64,
    per_second: u64,
    at: Instant,
}

impl TokenBucket {
    pub fn new(now: Instant, per_second: u32, burst: u32) -> Self {
        let burst = u64::from(burst) * 1000;
        TokenBucket { level: burst, burst, per_second: u64::from(per_second), at: now }
    }

    /// Takes one token; `false` when there is none.
    pub fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.at);
        let earned = (elapsed.min(Duration::from_secs(3600)).as_micros() as u64) * self.per_second / 1000;
        if earned > 0 {
            self.level = (self.level + earned).min(self.burst);
            self.at = now;
        }
        if self.level < 1000 {
            return false;
        }
        self.level -= 1000;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(start, 10, 3);
        assert_eq!((0..5).filter(|_| bucket.take(start)).count(), 3);
        let later = start + Duration::from_millis(250);
        assert_eq!((0..5).filter(|_| bucket.take(later)).count(), 2);
        // What is earned never exceeds the burst, however long nobody asked.
        let much_later = start + Duration::from_secs(1_000_000);
        assert_eq!((0..9).filter(|_| bucket.take(much_later)).count(), 3);
    }

    #[test]
    fn frequent_refusals_do_not_stop_refilling() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(start, 1, 1);
        assert!(bucket.take(start));
        let taken = (1..=2_000).filter(|ms| bucket.take(start + Duration::from_millis(*ms))).count();
        assert_eq!(taken, 2);
    }
}
