//! A set of entry numbers from which the lowest are taken first.

const BITS: u32 = u64::BITS;

/// One bit an entry, so that a peer that never reads costs an eighth of an octet a prefix.
///
/// Invariant: no bit is set in the words below `low` and from `high` on; `len` bits are set in all.
#[derive(Clone, Debug, Default)]
pub struct EntrySet {
    words: Vec<u64>,
    len: u32,
    low: u32,
    high: u32,
}

impl EntrySet {
    pub fn contains(&self, at: u32) -> bool {
        self.words.get((at / BITS) as usize).is_some_and(|w| w >> (at % BITS) & 1 != 0)
    }

    pub fn len(&self) -> u32 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it was not there before.
    pub fn insert(&mut self, at: u32) -> bool {
        let word = at / BITS;
        if word as usize >= self.words.len() {
            self.words.resize(word as usize + 1, 0);
        }
        let bit = 1 << (at % BITS);
        let slot = &mut self.words[word as usize];
        if *slot & bit != 0 {
            return false;
        }
        *slot |= bit;
        if self.len == 0 {
            (self.low, self.high) = (word, word + 1);
        } else {
            self.low = self.low.min(word);
            self.high = self.high.max(word + 1);
        }
        self.len += 1;
        true
    }

    /// Whether it was there.
    pub fn remove(&mut self, at: u32) -> bool {
        let was = self.contains(at);
        if was {
            self.words[(at / BITS) as usize] &= !(1 << (at % BITS));
            self.len -= 1;
        }
        was
    }

    /// Moves the lowest numbers to `taken`, at most `count`, ascending.
    pub fn take(&mut self, count: usize, taken: &mut Vec<u32>) {
        let mut left = count.min(self.len as usize);
        while left > 0 {
            let word = &mut self.words[self.low as usize];
            while *word != 0 && left > 0 {
                taken.push(self.low * BITS + word.trailing_zeros());
                *word &= *word - 1;
                self.len -= 1;
                left -= 1;
            }
            if *word == 0 {
                self.low += 1;
            }
        }
    }

    /// All numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let words = if self.is_empty() { &[][..] } else { &self.words[self.low as usize..self.high as usize] };
        words.iter().zip(self.low..).flat_map(|(&word, i)| {
            let mut word = word;
            std::iter::from_fn(move || {
                let at = (word != 0).then(|| i * BITS + word.trailing_zeros())?;
                word &= word - 1;
                Some(at)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_come_first_and_each_once() {
        let mut set = EntrySet::default();
        for at in [700, 3, 64, 3, 63, 0] {
            set.insert(at);
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 3, 63, 64, 700]);
        assert!(set.remove(63) && !set.remove(63) && !set.contains(63));
        let mut taken = Vec::new();
        set.take(2, &mut taken);
        assert!(set.insert(1), "below what was taken");
        set.take(9, &mut taken);
        assert_eq!(taken, [0, 3, 1, 64, 700]);
        assert!(set.is_empty() && set.iter().next().is_none());
        assert!(set.insert(5));
        assert_eq!((set.len(), set.iter().next()), (1, Some(5)));
    }
}
