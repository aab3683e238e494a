//! All randomness of an episode: from a seed, written down, and replayed from what was written down, so that a failing schedule can be
//! cut shorter.

use std::time::{Duration, Instant};

/// A source of choices.
#[derive(Clone, Debug)]
pub struct Choices {
    state: u64,
    made: Vec<u32>,
    replayed: Option<Vec<u32>>,
}

impl Choices {
    pub fn from_seed(seed: u64) -> Self {
        Self { state: seed, made: vec![], replayed: None }
    }

    /// The choices that were made before; after the last one every choice is the first of its kind.
    pub fn replaying(made: Vec<u32>) -> Self {
        Self { state: 0, made: vec![], replayed: Some(made) }
    }

    /// A number below `n`, which is not zero. Zero is the simplest.
    pub fn below(&mut self, n: usize) -> usize {
        let bits = match &self.replayed {
            Some(made) => made.get(self.made.len()).copied().unwrap_or_default(),
            None => (split_mix(&mut self.state) >> 32) as u32,
        };
        let n = u32::try_from(n).expect("choices are among few");
        self.made.push(bits % n);
        (bits % n) as usize
    }

    /// True in `permille` of 1,000 cases; false is the simplest.
    pub fn chance(&mut self, permille: usize) -> bool {
        self.below(1000) >= 1000 - permille
    }

    /// One of a list that is not empty.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// What was chosen so far.
    pub fn made(&self) -> &[u32] {
        &self.made
    }
}

/// The next number of SplitMix64.
pub fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A shorter list of choices that still fails: parts are left out, ever smaller ones, as long as `fails` says what it made of the rest
/// there is time.
pub fn shrink(mut made: Vec<u32>, time: Duration, fails: impl Fn(Vec<u32>) -> Option<Vec<u32>>) -> Vec<u32> {
    let end = Instant::now() + time;
    let mut size = made.len() / 2;
    while size > 0 && Instant::now() < end {
        let mut at = 0;
        let before = made.len();
        while at < made.len() && Instant::now() < end {
            let mut shorter = made.clone();
            shorter.drain(at..(at + size).min(made.len()));
            match fails(shorter) {
                Some(failed) if failed.len() < made.len() => made = failed,
                _ => at += size,
            }
        }
        if made.len() == before || size > made.len() {
            size = (size / 2).min(made.len() / 2);
        }
    }
    made
}

#[test]
fn a_replay_makes_the_same_choices_and_shrinking_keeps_the_failure() {
    let mut first = Choices::from_seed(7);
    let numbers: Vec<usize> = (0..100).map(|_| first.below(10)).collect();
    let mut second = Choices::replaying(first.made().to_vec());
    assert_eq!((0..100).map(|_| second.below(10)).collect::<Vec<_>>(), numbers);
    assert_eq!(second.below(10), 0);
    // What fails is that two nines were chosen.
    let fails = |made: Vec<u32>| (made.iter().filter(|n| **n == 9).count() >= 2).then_some(made);
    assert_eq!(shrink(first.made().to_vec(), Duration::from_secs(10), fails), [9, 9]);
}
