//! OPEN: what is read is written, and read again, the same.
#![no_main]

use bgp_fuzz::body;
use bgp_proto::wire::open::Open;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(mut open) = Open::read(data) else { return };
    // Codes that are not understood are for display, and not written.
    open.capabilities.unknown.clear();
    if !open.capabilities.four_octet_as {
        assert!(open.asn <= u16::MAX.into());
    }
    let written = body(|out| open.write(out));
    let again = Open::read(&written).expect("what is written can be read");
    if let Some(fqdn) = &mut open.capabilities.fqdn {
        // Names are cut to 64 octets.
        let cut = again.capabilities.fqdn.clone().expect("the capability is written");
        assert!(fqdn.host.starts_with(&cut.host) && fqdn.domain.starts_with(&cut.domain));
        *fqdn = cut;
    }
    if !open.capabilities.ipv4 && !open.capabilities.ipv6 {
        // Only families of others: without any there would be IPv4.
        open.capabilities.ipv4 = true;
    }
    assert_eq!(again, open);
});
