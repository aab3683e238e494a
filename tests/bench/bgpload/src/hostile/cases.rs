//! The cases: what is sent, when, and what the RFCs ask for.

use std::net::Ipv4Addr;

use crate::engine::{nth_addr, router_id};
use crate::wire::{self, HDR, KEEPALIVE, NOTIFICATION, OPEN, UPDATE, attr, update};
use crate::{Common, Mode};

/// An AS number that marks the path of a hostile UPDATE.
const MARK: u32 = 4242;

/// When the hostile bytes are sent.
#[derive(Clone, Copy, PartialEq)]
pub enum Phase {
    /// in place of our OPEN
    Open,
    /// after our OPEN was answered, in place of our KEEPALIVE
    Confirm,
    /// in an established session in which the case's prefix was announced
    Up,
    /// not at all: establish with a hold time of 3 s and fall silent
    Silent,
    /// from an address that is no peer
    Stranger,
}

/// Which kind of session a case is for.
#[derive(Clone, Copy, PartialEq)]
pub enum For {
    Ebgp,
    Ibgp,
}

/// One malformed or unexpected input.
pub struct Case {
    pub name: &'static str,
    /// Where the expectation comes from.
    pub rfc: &'static str,
    /// what the RFC asks for; any of these is right
    pub must: &'static [&'static str],
    /// what it allows, or what is commonly done and does no harm
    pub may: &'static [&'static str],
    pub phase: Phase,
    pub mode: For,
    pub bytes: Vec<u8>,
    /// the attribute type under test, to tell whether the speaker passed it on
    pub code: u8,
}

/// What a case's UPDATE is built of; everything is valid until changed.
#[derive(Clone)]
pub struct Parts {
    pub asn: u32,
    pub ibgp: bool,
    pub prefix: [u8; 3],
    pub next_hop: Ipv4Addr,
}

impl Parts {
    fn path(&self, marked: bool) -> Vec<u8> {
        let mut ases = vec![];
        if !self.ibgp {
            ases.push(self.asn);
        }
        if marked {
            ases.push(MARK);
        }
        ases.push(3333);
        let mut v = vec![2, ases.len() as u8];
        ases.iter().for_each(|a| v.extend_from_slice(&a.to_be_bytes()));
        v
    }

    /// The valid attributes, less those in `skip`.
    pub fn attrs(&self, skip: &[u8], marked: bool) -> Vec<u8> {
        let mut b = Vec::new();
        let mut put = |flags, code, v: &[u8]| {
            if !skip.contains(&code) {
                attr(&mut b, flags, code, v);
            }
        };
        put(0x40, 1, &[0]);
        put(0x40, 2, &self.path(marked));
        put(0x40, 3, &self.next_hop.octets());
        if self.ibgp {
            put(0x40, 5, &100u32.to_be_bytes());
        }
        b
    }

    pub fn nlri(&self) -> Vec<u8> {
        vec![16, self.prefix[0], self.prefix[1]]
    }

    /// The UPDATE with attribute `code` replaced by `flags`, `val`.
    fn with(&self, flags: u8, code: u8, val: &[u8]) -> Vec<u8> {
        let mut a = self.attrs(&[code], true);
        attr(&mut a, flags, code, val);
        update(&[], &a, &self.nlri())
    }

    /// The UPDATE with raw attribute bytes appended.
    fn raw(&self, extra: &[u8]) -> Vec<u8> {
        let mut a = self.attrs(&[], true);
        a.extend_from_slice(extra);
        update(&[], &a, &self.nlri())
    }
}

fn message(kind: u8, len: u16, body: &[u8]) -> Vec<u8> {
    let mut b = vec![0xff; 16];
    b.extend_from_slice(&len.to_be_bytes());
    b.push(kind);
    b.extend_from_slice(body);
    b
}

fn seq(ases: &[u32]) -> Vec<u8> {
    let mut v = vec![2, ases.len() as u8];
    ases.iter().for_each(|a| v.extend_from_slice(&a.to_be_bytes()));
    v
}

/// All cases; case i uses the i-th sender address and the prefixes 20.i/16 and 21.i/16.
pub fn cases(c: &Common) -> Vec<Case> {
    let mut v: Vec<Case> = Vec::new();
    let ibgp = c.mode == Mode::Ibgp;
    let asn = if ibgp { c.dut_as } else { c.sender_as };
    let local = |i: usize| nth_addr(c.sender_base, i as u32);
    let parts = |i: usize| Parts { asn, ibgp, prefix: [20, i as u8, 0], next_hop: c.next_hop };
    let id = |i: usize| router_id(local(i)).octets();
    let caps = |asn: u32| {
        let p =
            wire::OpenParams { asn, hold: 240, id: Ipv4Addr::UNSPECIFIED, v4: true, v6: false, route_refresh: true };
        wire::capabilities(&p)
    };
    let opt = |caps: &[u8]| {
        let mut o = vec![2, caps.len() as u8];
        o.extend_from_slice(caps);
        o
    };
    let good = |i: usize| wire::open_raw(4, wire::as2(asn), 240, id(i), &opt(&caps(asn)));

    macro_rules! case {
        ($mode:ident $phase:ident $name:literal, $rfc:literal, [$($must:literal),*], [$($may:literal),*], $code:expr, |$i:ident, $p:ident| $bytes:expr) => {{
            let $i = v.len();
            #[allow(unused_variables)]
            let $p = parts($i);
            let bytes: Vec<u8> = $bytes;
            v.push(Case { name: $name, rfc: $rfc, must: &[$($must),*], may: &[$($may),*], phase: Phase::$phase,
                          mode: For::$mode, bytes, code: $code });
        }};
    }

    // message header, RFC 4271 section 6.1
    case!(Ebgp Open "header: marker of zeros", "4271 6.1", ["notify 1/1"], [], 0, |i, p| { let mut m = good(i); m[..16].fill(0); m });
    case!(Ebgp Open "header: length 18", "4271 6.1", ["notify 1/2"], [], 0, |i, p| { let mut m = good(i); m[17] = 18; m });
    case!(Ebgp Open "header: length 0", "4271 6.1", ["notify 1/2"], [], 0, |i, p| { let mut m = good(i); m[16] = 0; m[17] = 0; m });
    case!(Ebgp Open "header: length 4097", "4271 6.1", ["notify 1/2"], [], 0, |i, p| { let mut m = message(OPEN, 4097, &good(i)[19..]); m.resize(4097, 0); m });
    case!(Ebgp Open "header: length 65535", "4271 6.1", ["notify 1/2"], [], 0, |i, p| message(OPEN, 65535, &good(i)[19..]));
    case!(Ebgp Open "header: type 0", "4271 6.1", ["notify 1/3"], [], 0, |i, p| message(0, 19, &[]));
    case!(Ebgp Open "header: type 99", "4271 6.1", ["notify 1/3"], [], 0, |i, p| message(99, 19, &[]));
    case!(Ebgp Open "OPEN of 28 octets", "4271 6.1", ["notify 1/2"], [], 0, |i, p| message(OPEN, 28, &good(i)[19..28]));
    case!(Ebgp Up "KEEPALIVE of 20 octets", "4271 6.1", ["notify 1/2"], [], 0, |i, p| message(KEEPALIVE, 20, &[0]));
    case!(Ebgp Up "UPDATE of 22 octets", "4271 6.1", ["notify 1/2"], ["notify 3/1"], 0, |i, p| message(UPDATE, 22, &[0, 0, 0]));
    case!(Ebgp Up "NOTIFICATION of 20 octets", "4271 6.1, 6.4", ["notify 1/2", "closed"], [], 0, |i, p| message(NOTIFICATION, 20, &[6]));
    case!(Ebgp Up "header: bad marker, established", "4271 6.1", ["notify 1/1"], [], 0, |i, p| { let mut m = wire::keepalive(); m[3] = 0; m });
    case!(Ebgp Up "64 octets of garbage", "4271 6.1", ["notify 1/1"], [], 0, |i, p| (0..64u8).map(|x| x.wrapping_mul(37)).collect());
    case!(Ebgp Up "UPDATE of 5000 octets, no extended messages", "4271 6.1, 8654", ["notify 1/2"], [], 0, |i, p| {
        let mut m = message(UPDATE, 5000, &[0, 0, 0, 0]); m.resize(5000, 0); m });
    case!(Ebgp Up "header: type 99, established", "4271 6.1", ["notify 1/3"], [], 0, |i, p| message(99, 19, &[]));

    // OPEN, section 6.2
    case!(Ebgp Open "OPEN: version 3", "4271 6.2", ["notify 2/1"], [], 0, |i, p| wire::open_raw(3, wire::as2(asn), 240, id(i), &opt(&caps(asn))));
    case!(Ebgp Open "OPEN: version 5", "4271 6.2", ["notify 2/1"], [], 0, |i, p| wire::open_raw(5, wire::as2(asn), 240, id(i), &opt(&caps(asn))));
    case!(Ebgp Open "OPEN: wrong AS", "4271 6.2", ["notify 2/2"], [], 0, |i, p| wire::open_raw(4, 64999, 240, id(i), &opt(&caps(64999))));
    case!(Ebgp Open "OPEN: AS 0", "7607 2", ["notify 2/2"], [], 0, |i, p| wire::open_raw(4, 0, 240, id(i), &opt(&caps(0))));
    case!(Ebgp Open "OPEN: 4-octet AS 0, 2-octet AS right", "6793, 7607", ["notify 2/2"], [], 0, |i, p| wire::open_raw(4, wire::as2(asn), 240, id(i), &opt(&caps(0))));
    case!(Ebgp Open "OPEN: 4-octet AS unlike the 2-octet AS", "6793", ["notify 2/2"], [], 0, |i, p| wire::open_raw(4, wire::as2(asn), 240, id(i), &opt(&caps(65009))));
    case!(Ebgp Open "OPEN: router ID 0.0.0.0", "4271 6.2, 6286", ["notify 2/3"], [], 0, |i, p| wire::open_raw(4, wire::as2(asn), 240, [0; 4], &opt(&caps(asn))));
    case!(Ebgp Open "OPEN: hold time 1", "4271 6.2", ["notify 2/6"], [], 0, |i, p| wire::open_raw(4, wire::as2(asn), 1, id(i), &opt(&caps(asn))));
    case!(Ebgp Open "OPEN: hold time 2", "4271 6.2", ["notify 2/6"], [], 0, |i, p| wire::open_raw(4, wire::as2(asn), 2, id(i), &opt(&caps(asn))));
    case!(Ebgp Open "OPEN: hold time 0", "4271 6.2", ["established"], ["notify 2/6"], 0, |i, p| wire::open_raw(4, wire::as2(asn), 0, id(i), &opt(&caps(asn))));
    case!(Ebgp Open "OPEN: unknown optional parameter 99", "4271 6.2", ["notify 2/4"], [], 0, |i, p| { let mut o = vec![99, 2, 0, 0]; o.extend(opt(&caps(asn))); wire::open_raw(4, wire::as2(asn), 240, id(i), &o) });
    case!(Ebgp Open "OPEN: authentication parameter 1", "4271 4.2", ["notify 2/4"], ["notify 2/5"], 0, |i, p| wire::open_raw(4, wire::as2(asn), 240, id(i), &[1, 2, 0, 0]));
    case!(Ebgp Open "OPEN: parameter overruns the message", "4271 6.2", ["notify 2/0"], ["notify 1/2"], 0, |i, p| { let mut o = opt(&caps(asn)); o[1] += 9; wire::open_raw(4, wire::as2(asn), 240, id(i), &o) });
    case!(Ebgp Open "OPEN: parameters overrun the message", "4271 6.2", ["notify 2/0"], ["notify 1/2"], 0, |i, p| { let mut m = good(i); m[28] += 9; m });
    case!(Ebgp Open "OPEN: capability overruns its parameter", "5492, 4271 6.2", ["notify 2/0"], [], 0, |i, p| { let mut k = caps(asn); let n = k.len(); k[n - 5] = 40; wire::open_raw(4, wire::as2(asn), 240, id(i), &opt(&k)) });
    case!(Ebgp Open "OPEN: one-octet parameter block", "4271 6.2", ["notify 2/0"], ["notify 1/2"], 0, |i, p| wire::open_raw(4, wire::as2(asn), 240, id(i), &[2]));
    case!(Ebgp Open "OPEN: multiprotocol capability of 3 octets", "4760 8, 4271 6.2", ["notify 2/0"], ["established"], 0, |i, p| wire::open_raw(4, wire::as2(asn), 240, id(i), &opt(&[1, 3, 0, 1, 0, 65, 4, 0, 0, 0xfd, 0xe9])));
    case!(Ebgp Open "OPEN: unknown capability 200", "5492 3", ["established"], [], 0, |i, p| { let mut k = caps(asn); k.extend([200, 3, 1, 2, 3]); wire::open_raw(4, wire::as2(asn), 240, id(i), &opt(&k)) });
    case!(Ebgp Open "OPEN: no capabilities", "4271, 5492", ["established"], [], 0, |i, p| wire::open_raw(4, wire::as2(asn), 240, id(i), &[]));
    case!(Ebgp Open "OPEN: the same capability twice", "5492 4", ["established"], [], 0, |i, p| { let mut k = caps(asn); k.extend(caps(asn)); wire::open_raw(4, wire::as2(asn), 240, id(i), &opt(&k)) });
    case!(Ebgp Open "OPEN: extended optional parameters", "9072", ["established"], ["notify 2/0", "notify 2/4"], 0, |i, p| {
        let k = caps(asn); let mut o = vec![255]; o.extend(((k.len() + 3) as u16).to_be_bytes()); o.push(2); o.extend((k.len() as u16).to_be_bytes()); o.extend(k);
        let mut m = wire::open_raw(4, wire::as2(asn), 240, id(i), &o); m[28] = 255; m });

    // state machine, RFC 4271 section 6.6, RFC 6608
    case!(Ebgp Open "KEEPALIVE in place of OPEN", "4271 6.6, 6608", ["notify 5/1"], ["notify 5/0"], 0, |i, p| wire::keepalive());
    case!(Ebgp Open "UPDATE in place of OPEN", "4271 6.6, 6608", ["notify 5/1"], ["notify 5/0"], 0, |i, p| update(&[], &p.attrs(&[], true), &p.nlri()));
    case!(Ebgp Confirm "UPDATE in place of the first KEEPALIVE", "4271 6.6, 6608", ["notify 5/2"], ["notify 5/0"], 0, |i, p| update(&[], &p.attrs(&[], true), &p.nlri()));
    case!(Ebgp Up "OPEN when established", "4271 6.6, 6608", ["notify 5/3"], ["notify 5/0", "notify 6/7"], 0, |i, p| good(i));
    case!(Ebgp Silent "hold time 3 s, then silence", "4271 6.5", ["notify 4/0"], [], 0, |i, p| vec![]);
    case!(Ebgp Stranger "an address that is no peer", "4271 8, 4486", ["notify 6/5", "closed", "refused"], ["notify 2/2", "no answer"], 0, |i, p| good(i));
    case!(Ebgp Up "NOTIFICATION with code 99/99", "4271 6.4", ["closed"], [], 0, |i, p| message(NOTIFICATION, 21, &[99, 99]));

    // UPDATE: lengths, RFC 7606 sections 3 to 5
    case!(Ebgp Up "withdrawn length overruns", "4271 6.3, 7606 3a", ["notify 3/1"], [], 0, |i, p| message(UPDATE, 27, &[0, 90, 0, 0, 0, 0, 0, 0]));
    case!(Ebgp Up "attribute length overruns", "4271 6.3, 7606 3a", ["notify 3/1"], [], 0, |i, p| { let mut m = update(&[], &p.attrs(&[], true), &p.nlri()); m[22] += 99; m });
    case!(Ebgp Up "last attribute overruns the attributes", "7606 4", ["withdraw"], ["notify 3/1", "notify 3/5"], 0, |i, p| p.raw(&[0xc0, 8, 40, 0, 1, 0, 1]));
    case!(Ebgp Up "two octets left of an attribute", "7606 4", ["withdraw"], ["notify 3/1"], 0, |i, p| p.raw(&[0xc0, 8]));
    case!(Ebgp Up "extended-length attribute cut in its length", "7606 4", ["withdraw"], ["notify 3/1"], 0, |i, p| p.raw(&[0xd0, 8, 0]));

    // flags
    case!(Ebgp Up "ORIGIN flagged optional", "7606 3c", ["withdraw"], [], 1, |i, p| p.with(0xc0, 1, &[0]));
    case!(Ebgp Up "ORIGIN flagged non-transitive", "7606 3c", ["withdraw"], [], 1, |i, p| p.with(0x00, 1, &[0]));
    case!(Ebgp Up "AS_PATH flagged optional", "7606 3c", ["withdraw"], [], 2, |i, p| p.with(0xc0, 2, &p.path(true)));
    case!(Ebgp Up "NEXT_HOP flagged optional", "7606 3c", ["withdraw"], [], 3, |i, p| p.with(0x80, 3, &p.next_hop.octets()));
    case!(Ebgp Up "MED flagged well-known", "7606 3c", ["withdraw"], [], 4, |i, p| p.with(0x40, 4, &[0, 0, 0, 9]));
    case!(Ebgp Up "COMMUNITIES flagged well-known", "7606 3c", ["withdraw"], [], 8, |i, p| p.with(0x40, 8, &[0, 1, 0, 1]));
    case!(Ebgp Up "flags: the four unused bits set", "4271 4.3", ["accepted"], [], 1, |i, p| { let mut m = update(&[], &p.attrs(&[], true), &p.nlri()); m[23] |= 0x0f; m });
    case!(Ebgp Up "extended length on a short attribute", "4271 4.3", ["accepted"], [], 1, |i, p| { let mut a = vec![0x50, 1, 0, 1, 0]; a.extend(p.attrs(&[1], true)); update(&[], &a, &p.nlri()) });

    // each attribute, RFC 7606 section 7
    case!(Ebgp Up "ORIGIN of 2 octets", "7606 7.1", ["withdraw"], [], 1, |i, p| p.with(0x40, 1, &[0, 0]));
    case!(Ebgp Up "ORIGIN of 0 octets", "7606 7.1", ["withdraw"], [], 1, |i, p| p.with(0x40, 1, &[]));
    case!(Ebgp Up "ORIGIN value 5", "7606 7.1", ["withdraw"], [], 1, |i, p| p.with(0x40, 1, &[5]));
    case!(Ebgp Up "AS_PATH: segment type 9", "7606 7.2", ["withdraw"], [], 2, |i, p| { let mut s = p.path(true); s[0] = 9; p.with(0x40, 2, &s) });
    case!(Ebgp Up "AS_PATH: empty segment", "7606 7.2", ["withdraw"], [], 2, |i, p| { let mut s = p.path(true); s.extend([2, 0]); p.with(0x40, 2, &s) });
    case!(Ebgp Up "AS_PATH: segment overruns", "7606 7.2", ["withdraw"], [], 2, |i, p| { let mut s = p.path(true); s[1] += 1; p.with(0x40, 2, &s) });
    case!(Ebgp Up "AS_PATH: one octet left", "7606 7.2", ["withdraw"], [], 2, |i, p| { let mut s = p.path(true); s.push(2); p.with(0x40, 2, &s) });
    case!(Ebgp Up "AS_PATH: confederation segment from outside", "5065 5, 7606 7.2", ["withdraw"], [], 2, |i, p| { let mut s = vec![3, 1, 0, 0, 0xfd, 0xea]; s.extend(p.path(true)); p.with(0x40, 2, &s) });
    case!(Ebgp Up "AS_PATH: AS 0", "7607 2", ["withdraw"], [], 2, |i, p| p.with(0x40, 2, &seq(&[asn, MARK, 0])));
    case!(Ebgp Up "AS_PATH: our own AS (a loop)", "4271 9.1.2", ["withdraw"], [], 2, |i, p| p.with(0x40, 2, &seq(&[asn, MARK, c.dut_as])));
    case!(Ebgp Up "AS_PATH: first AS is not the peer's", "4271 6.3", ["withdraw"], ["accepted", "notify 3/11"], 2, |i, p| p.with(0x40, 2, &seq(&[MARK, 3333])));
    case!(Ebgp Up "AS_PATH: empty, from outside", "4271 5.1.2, 6.3", ["withdraw"], ["accepted", "notify 3/11"], 2, |i, p| p.with(0x40, 2, &[]));
    case!(Ebgp Up "AS_PATH: 900 hops", "4271", ["accepted", "withdraw"], [], 2, |i, p| {
        let mut s = seq(&[asn, MARK]); for _ in 0..4 { s.extend(seq(&vec![3333; 225])); } p.with(0x40, 2, &s) });
    case!(Ebgp Up "NEXT_HOP of 3 octets", "7606 7.3", ["withdraw"], [], 3, |i, p| p.with(0x40, 3, &[198, 18, 0]));
    case!(Ebgp Up "NEXT_HOP of 16 octets", "7606 7.3", ["withdraw"], [], 3, |i, p| p.with(0x40, 3, &[0x20; 16]));
    case!(Ebgp Up "NEXT_HOP 0.0.0.0", "4271 6.3", ["withdraw"], ["notify 3/8"], 3, |i, p| p.with(0x40, 3, &[0; 4]));
    case!(Ebgp Up "NEXT_HOP 224.0.0.1", "4271 6.3", ["withdraw"], ["notify 3/8"], 3, |i, p| p.with(0x40, 3, &[224, 0, 0, 1]));
    case!(Ebgp Up "NEXT_HOP is the speaker itself", "4271 5.1.3, 6.3", ["withdraw"], ["kept"], 3, |i, p| p.with(0x40, 3, &[127, 0, 0, 1]));
    case!(Ebgp Up "MED of 3 octets", "7606 7.4", ["withdraw"], [], 4, |i, p| p.with(0x80, 4, &[0, 0, 9]));
    case!(Ebgp Up "LOCAL_PREF from outside", "4271 5.1.5, 7606 7.5", ["discarded"], [], 5, |i, p| p.with(0x40, 5, &[0, 0, 0, 9]));
    case!(Ebgp Up "LOCAL_PREF of 3 octets from outside", "7606 7.5", ["discarded"], ["withdraw"], 5, |i, p| p.with(0x40, 5, &[0, 0, 9]));
    case!(Ebgp Up "ATOMIC_AGGREGATE of 1 octet", "7606 7.6", ["discarded"], ["withdraw"], 6, |i, p| p.with(0x40, 6, &[0]));
    case!(Ebgp Up "AGGREGATOR of 6 octets", "7606 7.7", ["discarded"], ["withdraw"], 7, |i, p| p.with(0xc0, 7, &[0xfd, 0xe9, 10, 0, 0, 1]));
    case!(Ebgp Up "AGGREGATOR with AS 0", "7607 2", ["discarded"], ["withdraw"], 7, |i, p| p.with(0xc0, 7, &[0, 0, 0, 0, 10, 0, 0, 1]));
    case!(Ebgp Up "COMMUNITIES of 3 octets", "7606 7.8", ["withdraw"], [], 8, |i, p| p.with(0xc0, 8, &[0, 1, 0]));
    case!(Ebgp Up "COMMUNITIES of 0 octets", "7606 7.8", ["withdraw"], ["discarded"], 8, |i, p| p.with(0xc0, 8, &[]));
    case!(Ebgp Up "ORIGINATOR_ID from outside", "7606 7.9", ["discarded"], [], 9, |i, p| p.with(0x80, 9, &[9, 9, 9, 9]));
    case!(Ebgp Up "CLUSTER_LIST from outside", "7606 7.10", ["discarded"], [], 10, |i, p| p.with(0x80, 10, &[9, 9, 9, 9]));
    case!(Ebgp Up "EXTENDED COMMUNITIES of 7 octets", "7606 7.14", ["withdraw"], [], 16, |i, p| p.with(0xc0, 16, &[0, 2, 0, 1, 0, 0, 0]));
    case!(Ebgp Up "LARGE_COMMUNITY of 11 octets", "8092 6", ["withdraw"], [], 32, |i, p| p.with(0xc0, 32, &[1; 11]));
    case!(Ebgp Up "AS4_PATH from a 4-octet speaker", "6793 4.1, 6", ["discarded"], [], 17, |i, p| p.with(0xc0, 17, &seq(&[asn, 70_000])));

    // attributes missing, repeated, unknown
    case!(Ebgp Up "no ORIGIN", "7606 3d", ["withdraw"], [], 1, |i, p| update(&[], &p.attrs(&[1], true), &p.nlri()));
    case!(Ebgp Up "no AS_PATH", "7606 3d", ["withdraw"], [], 2, |i, p| update(&[], &p.attrs(&[2], true), &p.nlri()));
    case!(Ebgp Up "no NEXT_HOP", "7606 3d", ["withdraw"], [], 3, |i, p| update(&[], &p.attrs(&[3], true), &p.nlri()));
    case!(Ebgp Up "NLRI but no attributes", "7606 3d", ["withdraw"], ["notify 3/3"], 0, |i, p| update(&[], &[], &p.nlri()));
    case!(Ebgp Up "ORIGIN twice", "7606 3g", ["accepted"], [], 1, |i, p| p.raw(&[0x40, 1, 1, 2]));
    case!(Ebgp Up "MP_REACH_NLRI twice", "7606 3g", ["notify 3/1"], [], 14, |i, p| {
        let mp = [0x80, 14, 12, 0, 1, 1, 4, 198, 18, 0, 1, 0, 16, 22, i as u8]; let mut x = mp.to_vec(); x.extend(mp); p.raw(&x) });
    case!(Ebgp Up "unknown well-known attribute 99", "4271 6.3", ["notify 3/2"], ["withdraw"], 99, |i, p| p.raw(&[0x40, 99, 1, 7]));
    case!(Ebgp Up "unknown optional transitive attribute 99", "4271 5, 9", ["passed on, partial"], [], 99, |i, p| p.raw(&[0xc0, 99, 1, 7]));
    case!(Ebgp Up "unknown optional non-transitive attribute 98", "4271 5, 9", ["discarded"], [], 98, |i, p| p.raw(&[0x80, 98, 1, 7]));
    case!(Ebgp Up "4096 octets of UPDATE", "4271 4, 9.2", ["accepted", "passed on, partial", "withdraw"], ["kept"], 99, |i, p| {
        let room = 4096 - HDR - 4 - p.attrs(&[], true).len() - 4 - 3; p.with(0xd0, 99, &vec![7; room]) });

    // NLRI
    case!(Ebgp Up "NLRI: prefix of 33 bits", "7606 5.3, 4271 6.3", ["notify 3/10"], ["notify 3/1"], 0, |i, p| update(&[], &p.attrs(&[], true), &[33, 20, i as u8, 0, 0, 0]));
    case!(Ebgp Up "NLRI: prefix cut short", "7606 5.3, 4271 6.3", ["notify 3/10"], ["notify 3/1"], 0, |i, p| update(&[], &p.attrs(&[], true), &[24, 20, i as u8]));
    case!(Ebgp Up "withdrawn: prefix of 33 bits", "7606 5.3, 4271 6.3", ["notify 3/10"], ["notify 3/1"], 0, |i, p| update(&[33, 20, i as u8, 0, 0, 0], &[], &[]));
    case!(Ebgp Up "NLRI: host bits set", "4271 4.3", ["accepted"], [], 0, |i, p| update(&[], &p.attrs(&[], true), &[12, 20, 16 + (i as u8 % 16), 16, p.prefix[0], p.prefix[1]]));
    case!(Ebgp Up "NLRI: a multicast prefix", "4271 6.3", ["kept"], [], 0, |i, p| update(&[], &p.attrs(&[], true), &[16, 224, i as u8]));
    case!(Ebgp Up "withdraws and announces one prefix", "4271 4.3", ["accepted"], [], 0, |i, p| update(&p.nlri(), &p.attrs(&[], true), &p.nlri()));
    case!(Ebgp Up "withdraws what was never announced", "4271", ["kept"], [], 0, |i, p| update(&[16, 23, i as u8], &[], &[]));
    case!(Ebgp Up "attributes but no NLRI", "4271 4.3", ["kept"], [], 0, |i, p| update(&[], &p.attrs(&[], true), &[]));
    case!(Ebgp Up "MP_REACH_NLRI of 2 octets", "7606 5.3, 7.11", ["notify 3/9"], ["notify 3/1", "notify 3/5"], 14, |i, p| p.with(0x80, 14, &[0, 1]));
    case!(Ebgp Up "MP_REACH_NLRI: next hop of 3 octets", "7606 7.11", ["notify 3/9"], ["notify 3/1", "notify 3/8", "withdraw"], 14, |i, p| p.with(0x80, 14, &[0, 1, 1, 3, 198, 18, 0, 0, 16, 22, i as u8]));
    case!(Ebgp Up "MP_REACH_NLRI: next hop overruns", "7606 7.11", ["notify 3/9"], ["notify 3/1", "notify 3/8", "withdraw"], 14, |i, p| p.with(0x80, 14, &[0, 1, 1, 200, 198, 18, 0, 0, 16, 22, i as u8]));
    case!(Ebgp Up "MP_REACH_NLRI: prefix of 33 bits", "7606 5.3", ["notify 3/9", "notify 3/10"], ["notify 3/1"], 14, |i, p| p.with(0x80, 14, &[0, 1, 1, 4, 198, 18, 0, 1, 0, 33, 22, i as u8, 0, 0, 0]));
    case!(Ebgp Up "MP_UNREACH_NLRI of 2 octets", "7606 5.3, 7.12", ["notify 3/9"], ["notify 3/1", "notify 3/5"], 15, |i, p| update(&[], &[0x80, 15, 2, 0, 1], &[]));
    case!(Ebgp Up "MP_REACH_NLRI: family that was not negotiated", "4760 7", ["kept", "accepted", "notify 3/9"], [], 14, |i, p| p.with(0x80, 14, &[0, 1, 128, 4, 198, 18, 0, 1, 0, 16, 22, i as u8]));
    case!(Ebgp Up "ROUTE-REFRESH of 22 octets", "2918, 7313 5", ["kept", "notify 7/1", "notify 1/2"], [], 0, |i, p| message(5, 22, &[0, 1, 0]));
    case!(Ebgp Up "ROUTE-REFRESH: family that was not negotiated", "2918 4", ["kept"], [], 0, |i, p| message(5, 23, &[0, 25, 0, 70]));

    // iBGP only
    case!(Ibgp Open "OPEN: the speaker's own router ID", "6286 2.1", ["notify 2/3"], [], 0, |i, p| wire::open_raw(4, wire::as2(asn), 240, [10, 0, 0, 1], &opt(&caps(asn))));
    case!(Ibgp Up "no LOCAL_PREF from inside", "7606 3d", ["withdraw"], ["accepted"], 5, |i, p| update(&[], &p.attrs(&[5], true), &p.nlri()));
    case!(Ibgp Up "LOCAL_PREF of 3 octets", "7606 7.5", ["withdraw"], [], 5, |i, p| p.with(0x40, 5, &[0, 0, 9]));
    case!(Ibgp Up "ORIGINATOR_ID of 3 octets", "7606 7.9", ["withdraw"], [], 9, |i, p| p.with(0x80, 9, &[9, 9, 9]));
    case!(Ibgp Up "ORIGINATOR_ID is the speaker's (a loop)", "4456 8", ["withdraw"], [], 9, |i, p| p.with(0x80, 9, &[10, 0, 0, 1]));
    case!(Ibgp Up "CLUSTER_LIST of 3 octets", "7606 7.10", ["withdraw"], [], 10, |i, p| p.with(0x80, 10, &[9, 9, 9]));
    case!(Ibgp Up "CLUSTER_LIST of 0 octets", "7606 7.10", ["withdraw"], ["accepted"], 10, |i, p| p.with(0x80, 10, &[]));
    case!(Ibgp Up "CLUSTER_LIST holds the speaker's ID (a loop)", "4456 8", ["withdraw"], [], 10, |i, p| p.with(0x80, 10, &[10, 0, 0, 1]));
    v
}
