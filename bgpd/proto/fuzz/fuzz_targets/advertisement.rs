//! Router Advertisements and Solicitations (RFC 4861), as bgpd reads them off a link: what is heard is what the sections on
//! validity let pass.
#![no_main]

// Of the program bgpd, which is no library.
#[allow(dead_code)]
#[path = "../../../src/unnumbered/message.rs"]
mod message;

use std::net::Ipv6Addr;

use libfuzzer_sys::fuzz_target;
use message::{Received, advertisement, read, solicitation};

fuzz_target!(|data: &[u8]| {
    let from = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let heard = read(data, from, 3);
    match heard {
        Some(Received::Advertisement { index, from: router }) => {
            assert_eq!((index, router, data[0], data[1]), (3, from, 134, 0));
            assert!(data.len() >= advertisement().len());
        }
        Some(Received::Solicitation { index }) => {
            assert_eq!((index, data[0], data[1]), (3, 133, 0));
            assert!(data.len() >= solicitation().len());
        }
        None => {}
    }
    // RFC 4861 section 6.1.2: a router speaks from a link-local address.
    let global = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    assert!(!matches!(read(data, global, 3), Some(Received::Advertisement { .. })));
    // One option more or less, whole and with a length, changes nothing.
    if heard.is_some() {
        assert_eq!(read(&[data, &[5, 1, 0, 0, 0, 0, 5, 0xdc]].concat(), from, 3), heard);
        assert_eq!(read(&[data, &[5, 0, 0, 0, 0, 0, 5, 0xdc]].concat(), from, 3), None);
    }
});
