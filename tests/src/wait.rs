//! Waiting on conditions. Tests never sleep for a fixed time: they say what they wait for, and fail
//! with that when it does not come.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const EVERY: Duration = Duration::from_millis(25);

/// Waits until `look` returns something, and returns it.
///
/// # Panics
/// When it did not within `limit`, with `what` was waited for.
pub async fn until<T, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {} s in vain until {what}", limit.as_secs());
        tokio::time::sleep(EVERY).await;
    }
}

/// Waits until `look` succeeds; the panic also shows why it last did not.
///
/// # Panics
/// When it did not within `limit`.
pub async fn until_ok<T, E, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> T
where
    E: Debug,
    F: Future<Output = Result<T, E>>,
{
    let deadline = Instant::now() + limit;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(error) => {
                assert!(Instant::now() < deadline, "waited {} s in vain until {what}: {error:?}", limit.as_secs());
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}
