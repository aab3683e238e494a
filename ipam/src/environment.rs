//! What the allocator takes from outside the store: the time, and randomness. A simulation gives its own, so that a run is a function
//! of its seed.

use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::time::Duration;

use jiff::Timestamp;

/// Time and randomness.
pub trait Environment: Send + Sync + 'static {
    fn now(&self) -> Timestamp;

    /// Different at each call; no secret depends on it.
    fn random(&self) -> u64;

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// The machine's.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Environment for System {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn random(&self) -> u64 {
        // The keys of a RandomState differ each time.
        RandomState::new().hash_one(0)
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(duration))
    }
}
