//! Lists of prefixes (RFC 4271 section 4.3; RFC 4760 section 5): a length in bits, then as many octets as it needs. With
//! add-path (RFC 7911 section 3) each has a path identifier of four octets before it.

use crate::af::Key;

/// Octets of a path identifier.
pub const PATH_ID_LEN: usize = 4;

/// Whether every prefix of the list is whole and no longer than the family allows.
pub fn is_well_formed(bits: u8, add_path: bool, mut list: &[u8]) -> bool {
    let id_len = if add_path { PATH_ID_LEN } else { 0 };
    while !list.is_empty() {
        let Some((&len, rest)) = list.get(id_len..).and_then(<[u8]>::split_first) else {
            return false;
        };
        let octets = usize::from(len.div_ceil(8));
        if len > bits || rest.len() < octets {
            return false;
        }
        list = &rest[octets..];
    }
    true
}

/// Iterates over a list; ends early at what is not well formed.
pub struct Paths<'a, K> {
    list: &'a [u8],
    add_path: bool,
    key: std::marker::PhantomData<K>,
}

/// The prefixes of a list with their path identifiers, 0 where the list has none.
pub fn paths<K: Key>(list: &[u8], add_path: bool) -> Paths<'_, K> {
    Paths { list, add_path, key: std::marker::PhantomData }
}

/// The prefixes of a list without path identifiers.
pub fn prefixes<K: Key>(list: &[u8]) -> impl Iterator<Item = K> {
    paths(list, false).map(|(_, key)| key)
}

impl<K: Key> Iterator for Paths<'_, K> {
    type Item = (u32, K);

    #[inline]
    fn next(&mut self) -> Option<(u32, K)> {
        let (id, list) = match self.add_path {
            true => {
                let (id, list) = self.list.split_first_chunk::<PATH_ID_LEN>()?;
                (u32::from_be_bytes(*id), list)
            }
            false => (0, self.list),
        };
        let (&len, rest) = list.split_first()?;
        self.list = rest.get(usize::from(len.div_ceil(8))..)?;
        Some((id, K::from_wire(len, rest)))
    }
}

/// Appends one prefix, with a path identifier where the session has add-path.
#[inline]
pub fn write<K: Key>(out: &mut Vec<u8>, path_id: Option<u32>, key: K) {
    if let Some(id) = path_id {
        out.extend_from_slice(&id.to_be_bytes());
    }
    key.write(out);
}
