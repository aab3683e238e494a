//! Lists of prefixes: a well-formed list is read to its end, and written the same but for bits beyond the lengths.
#![no_main]

use bgp_proto::af::{Key, V4, V6};
use bgp_proto::wire::nlri::{is_well_formed, paths, write};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for add_path in [false, true] {
        check::<V4>(data, add_path);
        check::<V6>(data, add_path);
    }
});

fn check<K: Key>(list: &[u8], add_path: bool) {
    let all: Vec<(u32, K)> = paths(list, add_path).collect();
    let mut written = Vec::new();
    all.iter().for_each(|&(id, key)| write(&mut written, add_path.then_some(id), key));
    if is_well_formed(K::FAMILY.bits(), add_path, list) {
        assert_eq!(written.len(), list.len());
        assert_eq!(paths::<K>(&written, add_path).collect::<Vec<_>>(), all);
        assert!(all.iter().all(|(_, key)| K::from_prefix(key.prefix()) == Some(*key)));
    }
}
