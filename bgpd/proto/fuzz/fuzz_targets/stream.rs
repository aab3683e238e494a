//! A receive buffer: messages are found one after another, and the same ones whatever arrives together.
#![no_main]

use bgp_proto::wire::{MAX_EXTENDED_MESSAGE_LEN, MAX_MESSAGE_LEN, frame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for max_len in [MAX_MESSAGE_LEN, MAX_EXTENDED_MESSAGE_LEN] {
        let mut rest = data;
        while let Ok(Some(message)) = frame(rest, max_len) {
            assert!(message.len <= max_len && message.len == message.body.len() + 19);
            let alone = frame(&rest[..message.len], max_len);
            assert_eq!(alone, Ok(Some(message)));
            let len = alone.expect("as before").expect("as before").len;
            // Whatever is missing of it, it is waited for.
            assert_eq!(frame(&rest[..len - 1], max_len), Ok(None));
            rest = &rest[len..];
        }
    }
});
