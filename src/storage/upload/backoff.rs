//! When to try again: exponential, with full jitter, so that all who wait for a store do not come back at once.

use std::time::Duration;

/// How long to wait after so many tries (from 1) without progress. A store that says when is not asked before.
pub fn delay(attempts: u32, retry_after: Option<Duration>, random: &mut fastrand::Rng) -> Duration {
    let most = DELAY_MIN.saturating_mul(1 << attempts.min(16)).min(DELAY_MAX);
    let delay = DELAY_MIN + (most - DELAY_MIN).mul_f64(random.f64());
    delay.max(retry_after.unwrap_or_default().min(RETRY_AFTER_MAX))
}

pub const DELAY_MIN: Duration = Duration::from_secs(1);
pub const DELAY_MAX: Duration = Duration::from_secs(5 * 60);
/// Without progress for so long, an upload is given up until somebody says otherwise.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Whatever a store says.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_a_second_and_five_minutes() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut longest = Duration::ZERO;
        for attempts in (0..40).chain([u32::MAX]) {
            for _ in 0..100 {
                let delay = delay(attempts, None, &mut random);
                assert!((DELAY_MIN..=DELAY_MAX).contains(&delay), "{attempts}: {delay:?}");
                assert!(attempts > 3 || delay <= Duration::from_secs(8));
                longest = longest.max(delay);
            }
        }
        assert!(longest > Duration::from_secs(280));
        assert_eq!(delay(1, Some(Duration::from_secs(90)), &mut random), Duration::from_secs(90));
        assert_eq!(delay(1, Some(Duration::MAX), &mut random), RETRY_AFTER_MAX);
    }
}
