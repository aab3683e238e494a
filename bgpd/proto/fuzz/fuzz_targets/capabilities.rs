//! Lists of capabilities, in parameters of both lengths (RFC 5492, RFC 9072): both say the same.
#![no_main]

use bgp_proto::wire::open::Open;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let caps = &data[..data.len().min(253)];
    let fixed = [4, 0xfd, 0xe9, 0, 90, 10, 0, 0, 1];
    let len = caps.len() as u8;
    let short = [&fixed[..], &[len + 2, 2, len], caps].concat();
    let long = [&fixed[..], &[255, 255, 0, 0, 2, 0, len], caps].concat();
    let mut long = long;
    long[11..13].copy_from_slice(&(u16::from(len) + 3).to_be_bytes());
    let (a, b) = (Open::read(&short), Open::read(&long));
    assert_eq!(a, b);
    if let Ok(open) = a {
        // A peer has nothing in common with us that we do not have.
        let common = open.capabilities.common(&Default::default());
        assert!(!common.ipv4 && !common.ipv6 && common.graceful_restart.is_none());
        assert!(open.capabilities.long_lived.is_none() || open.capabilities.graceful_restart.is_some());
    }
});
