//! BFD control packets (RFC 5880 section 4.1): what is read is written the same.
#![no_main]

use bfd::packet::{LEN, Packet};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(packet) = Packet::read(data) {
        assert!(data.len() >= LEN);
        // An authentication section is not written.
        let plain = Packet { authenticated: false, ..packet };
        assert_eq!(Packet::read(&packet.write()), Ok(plain));
    }
});
