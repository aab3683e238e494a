//! Hexadecimal text as `bgpctl decode` takes it: what is read is written and read the same.
#![no_main]

use bgp_proto::wire::community::hex;
use bgp_proto::wire::judge::parse_hex;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(octets) = parse_hex(text)
    {
        assert!(octets.len() <= text.len() / 2);
        assert_eq!(parse_hex(&hex(&octets)).as_deref(), Ok(&octets[..]));
    }
});
