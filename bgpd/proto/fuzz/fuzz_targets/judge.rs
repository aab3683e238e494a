//! The explanation of octets, and that its verdict is that of a session.
#![no_main]

use bgp_fuzz::{context, message};
use bgp_proto::wire::MessageType;
use bgp_proto::wire::judge::{Verb, judge};
use bgp_proto::wire::update::Update;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((cx, octets)) = context(data) else { return };
    let _ = judge(&cx, octets);
    for kind in [MessageType::Open, MessageType::Update, MessageType::Notification, MessageType::RouteRefresh] {
        let message = message(kind, octets);
        let judged = judge(&cx, &message);
        if kind == MessageType::Update && message.len() <= cx.max_message_len() && octets.len() >= 4 {
            let resets = Update::read(&cx, &message[19..]).is_err();
            assert_eq!(judged[0].verdict.action == Verb::SessionReset, resets);
        }
    }
});
