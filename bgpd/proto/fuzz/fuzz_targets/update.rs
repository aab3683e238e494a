//! UPDATE with every mix of what a session negotiates: lists are well formed, remedies are followed.
#![no_main]

use bgp_fuzz::context;
use bgp_proto::af::{Family, V4, V6};
use bgp_proto::wire::attribute::{Context, Remedy};
use bgp_proto::wire::nlri::{is_well_formed, paths};
use bgp_proto::wire::update::Update;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((cx, body)) = context(data) else { return };
    let Ok(update) = Update::read(&cx, body) else { return };
    for (family, list) in &update.withdrawn {
        check(&cx, *family, list);
    }
    let withdraws = update.errors.iter().any(|e| e.remedy == Remedy::TreatAsWithdraw);
    assert!(!withdraws || update.announced.is_empty(), "RFC 7606 section 3 (h): the strongest remedy");
    for (family, list, attributes) in &update.announced {
        check(&cx, *family, list);
        assert!(attributes.next_hop != cx.local_address);
        assert!(cx.extended_next_hop || *family == Family::Ipv6 || attributes.next_hop.is_ipv4());
        let kinds: Vec<u8> = attributes.iter().map(|a| a.kind).collect();
        assert!(kinds.is_sorted_by(|a, b| a < b), "ascending, each once: {kinds:?}");
        for error in &update.errors {
            assert!(attributes.value(error.kind).is_empty(), "what is discarded is gone");
        }
    }
});

fn check(cx: &Context, family: Family, list: &[u8]) {
    assert!(cx.family(family));
    let ids = cx.has_path_ids(family);
    assert!(is_well_formed(family.bits(), ids, list) && !list.is_empty());
    let count = match family {
        Family::Ipv4 => paths::<V4>(list, ids).count(),
        Family::Ipv6 => paths::<V6>(list, ids).count(),
    };
    assert!(count > 0);
}
