//! A growing set of entry numbers.

/// One bit an entry.
#[derive(Clone, Debug, Default)]
pub struct Bitmap {
    words: Vec<u64>,
}

impl Bitmap {
    pub fn contains(&self, at: u32) -> bool {
        self.words.get(at as usize / 64).is_some_and(|w| w >> (at % 64) & 1 != 0)
    }

    /// Whether it was not there before.
    pub fn insert(&mut self, at: u32) -> bool {
        let word = at as usize / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let fresh = self.words[word] >> (at % 64) & 1 == 0;
        self.words[word] |= 1 << (at % 64);
        fresh
    }

    /// Whether it was there.
    pub fn remove(&mut self, at: u32) -> bool {
        let Some(word) = self.words.get_mut(at as usize / 64) else {
            return false;
        };
        let was = *word >> (at % 64) & 1 != 0;
        *word &= !(1 << (at % 64));
        was
    }

    /// All numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().zip(0..).flat_map(|(&word, i)| {
            let mut word = word;
            std::iter::from_fn(move || {
                let at = (word != 0).then(|| i * u64::BITS + word.trailing_zeros())?;
                word &= word - 1;
                Some(at)
            })
        })
    }
}
