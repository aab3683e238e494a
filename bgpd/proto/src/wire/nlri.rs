//! Lists of prefixes (RFC 4271 section 4.3; RFC 4760 section 5): a length in bits, then as many octets as it needs.

use crate::af::Key;

/// Whether every prefix of the list is whole and no longer than the family allows.
pub fn is_well_formed(bits: u8, mut list: &[u8]) -> bool {
    while let Some((&len, rest)) = list.split_first() {
        let octets = usize::from(len.div_ceil(8));
        if len > bits || rest.len() < octets {
            return false;
        }
        list = &rest[octets..];
    }
    true
}

/// Iterates over a list; ends early at what is not well formed.
pub struct Prefixes<'a, K> {
    list: &'a [u8],
    key: std::marker::PhantomData<K>,
}

/// The prefixes of a list.
pub fn prefixes<K: Key>(list: &[u8]) -> Prefixes<'_, K> {
    Prefixes { list, key: std::marker::PhantomData }
}

impl<K: Key> Iterator for Prefixes<'_, K> {
    type Item = K;

    fn next(&mut self) -> Option<K> {
        let (&len, rest) = self.list.split_first()?;
        let octets = rest.get(..usize::from(len.div_ceil(8)))?;
        self.list = &rest[octets.len()..];
        Some(K::from_wire(len, octets))
    }
}
