//! How long to wait before the next attempt.
//!
//! Each wait is half as long again as the one before, so a controller that comes up `t` after the agent costs at most
//! about `t/2` more, and a controller that is away for long is not hammered.

use std::time::Duration;

/// The first wait.
const FIRST: Duration = Duration::from_millis(100);
/// No wait is longer.
const LAST: Duration = Duration::from_secs(10);

/// Counts failed attempts since the last stream that worked.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failed: u32,
}

impl Backoff {
    /// The wait before the next attempt. `jitter` from 0 to 1: 1 takes the whole wait, 0 half of it.
    pub(super) fn wait(&mut self, jitter: f64) -> Duration {
        let whole = FIRST.as_secs_f64() * 1.5_f64.powi(self.failed.min(64) as i32);
        self.failed += 1;
        Duration::from_secs_f64(whole.min(LAST.as_secs_f64()) * (0.5 + jitter.clamp(0.0, 1.0) / 2.0))
    }

    /// A stream worked.
    pub(super) fn reset(&mut self) {
        self.failed = 0;
    }
}

/// A number from 0 to 1 that differs from process to process and from moment to moment. Good enough to spread
/// reconnects; nothing secret hangs on it.
pub(super) fn jitter() -> f64 {
    use std::hash::{BuildHasher as _, RandomState};
    let hash = RandomState::new().hash_one(std::time::SystemTime::now());
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}
