//! NOTIFICATION: read, written, told in words that are safe for a terminal.
#![no_main]

use bgp_fuzz::body;
use bgp_proto::wire::Notification;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(data) = data.get(..data.len().min(4000)).filter(|d| d.len() >= 2) else { return };
    let notification = Notification::read(data);
    assert_eq!(body(|out| notification.write(out)), data);
    assert!(!notification.describe().chars().any(char::is_control));
    assert!(notification.shutdown_text().is_none_or(|t| t.len() <= 255));
    assert_eq!(notification.clone().hard_reset().inner(), Some(notification));
});
