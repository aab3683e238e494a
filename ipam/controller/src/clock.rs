//! The time by which grace periods pass: it begins at the machine's, and never jumps.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Timestamp,
    instant: Instant,
}

impl Clock {
    pub fn start() -> Self {
        Self { start: Timestamp::now(), instant: Instant::now() }
    }

    pub fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.instant.elapsed()).unwrap_or(SignedDuration::MAX);
        self.start.checked_add(elapsed).unwrap_or(Timestamp::MAX)
    }

    /// When that time is.
    pub fn instant_of(&self, time: Timestamp) -> Instant {
        let after = time.duration_since(self.start).max(SignedDuration::ZERO);
        self.instant + after.unsigned_abs()
    }
}
