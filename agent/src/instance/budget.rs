//! How often, and after which delays, an instance is started again.

use std::time::Duration;

/// Starts after an exit before an instance is given up.
pub const TRIES: u32 = 20;

/// How long an instance must have been ready for its tries to be forgotten.
pub const GOOD_TIME: Duration = Duration::from_secs(600);

const LONGEST: Duration = Duration::from_secs(300);

/// How long to wait before try number `attempt` (from 1): nothing before the first, 1 s before the
/// second, then doubling to 5 min; `jitter` (0 to 1) moves it by up to a tenth to either side, so
/// that apps that fell together do not return together.
#[must_use]
pub fn delay(attempt: u32, jitter: f64) -> Duration {
    if attempt <= 1 {
        return Duration::ZERO;
    }
    let doubled = Duration::from_secs(1).saturating_mul(1 << (attempt - 2).min(16));
    doubled.min(LONGEST).mul_f64(0.9 + 0.2 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_try_is_at_once_and_the_others_double_to_five_minutes() {
        let seconds: Vec<u64> = (1..=TRIES).map(|n| delay(n, 0.5).as_secs()).collect();
        assert_eq!(seconds[..10], [0, 1, 2, 4, 8, 16, 32, 64, 128, 256]);
        assert!(seconds[10..].iter().all(|s| *s == 300));
    }

    #[test]
    fn jitter_moves_a_delay_by_at_most_a_tenth() {
        assert_eq!(delay(4, 0.0), Duration::from_millis(3600));
        assert_eq!(delay(4, 1.0), Duration::from_millis(4400));
    }
}
