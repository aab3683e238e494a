//! ROUTE-REFRESH: read, and written the same.
#![no_main]

use bgp_fuzz::body;
use bgp_proto::wire::RouteRefresh;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for enhanced in [false, true] {
        match RouteRefresh::read(enhanced, data) {
            Ok(Some(refresh)) => assert_eq!(body(|out| refresh.write(out)), data),
            Ok(None) => {}
            Err(n) if (n.code, n.subcode) == (7, 1) => assert!(enhanced && data.len() != 4),
            Err(n) => assert!((n.code, n.subcode) == (1, 2) && data.len() < 4),
        }
    }
});
