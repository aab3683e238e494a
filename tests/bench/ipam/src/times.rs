//! Durations, summed up.

use std::time::{Duration, Instant};

/// Times of one thing, in microseconds.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<f64>);

impl Times {
    pub fn add(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1e6);
    }

    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Waits for something, and adds how long it took.
    pub async fn time<T>(&mut self, work: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let result = work.await;
        self.add(start.elapsed());
        result
    }

    /// The value below which `share` of the times are.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = (share * sorted.len() as f64) as usize;
        sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

#[test]
fn quantiles_are_of_the_sorted_times() {
    let mut times = Times::default();
    for n in (1..=100).rev() {
        times.add(Duration::from_micros(n));
    }
    assert_eq!(
        (times.median().round(), times.quantile(0.99).round(), times.quantile(1.0).round()),
        (51.0, 100.0, 100.0)
    );
}
