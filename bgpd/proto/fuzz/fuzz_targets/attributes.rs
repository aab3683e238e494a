//! Attributes: what was read is written for a four-octet session, and read from there the same.
#![no_main]

use std::net::IpAddr;

use bgp_fuzz::{body, context};
use bgp_proto::af::{Family, V4, V6};
use bgp_proto::wire::attribute::{self, Context};
use bgp_proto::wire::iana;
use bgp_proto::wire::nlri::paths;
use bgp_proto::wire::pack::{Layout, MpNextHop};
use bgp_proto::wire::update::Update;
use bgp_proto::wire::{MAX_EXTENDED_MESSAGE_LEN, frame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((cx, octets)) = context(data) else { return };
    let Ok(update) = Update::read(&cx, octets) else { return };
    for (family, list, attributes) in &update.announced {
        let ids = cx.has_path_ids(*family);
        let mut written = Vec::new();
        let mut mp = None;
        attributes.write(&mut written, |out| match (family, attributes.next_hop) {
            (Family::Ipv4, IpAddr::V4(a)) => attribute::write(out, iana::TRANSITIVE, iana::NEXT_HOP, &a.octets()),
            (_, address) => mp = Some(MpNextHop { address, link_local: attributes.link_local }),
        });
        let layout = Layout { max_len: MAX_EXTENDED_MESSAGE_LEN, add_path: ids };
        if !layout.fits(written.len(), mp.as_ref()) {
            continue;
        }
        let mut out = Vec::new();
        match family {
            Family::Ipv4 => layout.write_reach::<V4>(&mut out, &written, mp.as_ref(), paths(list, ids)),
            Family::Ipv6 => layout.write_reach::<V6>(&mut out, &written, mp.as_ref(), paths(list, ids)),
        }
        let mut rest = &out[..];
        // MED and LOCAL_PREF are kept as they came; a session to the inside has them all.
        let inside = Context {
            four_octet_as: true,
            ibgp: attributes.local_pref.is_some(),
            extended_messages: true,
            extended_next_hop: true,
            first_as: None,
            ..cx
        };
        while let Ok(Some(message)) = frame(rest, MAX_EXTENDED_MESSAGE_LEN) {
            let again = Update::read(&inside, message.body).expect("what is written can be read");
            assert!(again.errors.is_empty(), "{:?}", again.errors);
            for (_, _, a) in &again.announced {
                assert_eq!(a, attributes);
            }
            rest = &rest[message.len..];
        }
        assert!(rest.is_empty());
        // Two octets a number and back: nothing but the numbers changes.
        let (narrow, _) = attribute::narrow_path(attributes.as_path());
        assert_eq!(narrow.len() + 2 * attributes.ases().count(), attributes.as_path().len());
    }
    let _ = body(|out| bgp_proto::wire::write_keepalive(out));
});
