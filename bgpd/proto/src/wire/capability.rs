//! Capabilities (RFC 5492): what a speaker says of itself, and what two speakers have in common.

use super::iana::{self, Role};
use crate::af::Family;

/// Restart time has 12 bits (RFC 4724 section 3).
pub const MAX_RESTART_TIME: u16 = 0x0fff;
/// Stale time has 24 bits (RFC 9494 section 3).
pub const MAX_STALE_TIME: u32 = 0x00ff_ffff;
/// Octets of each name in the FQDN capability.
const MAX_NAME: usize = 64;

/// The capabilities of a speaker, as far as they are used here or are worth showing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Multiprotocol, for the families of ours. A peer without any has IPv4 (RFC 4760 section 8).
    pub ipv4: bool,
    pub ipv6: bool,
    pub route_refresh: bool,
    /// RFC 7313.
    pub enhanced_route_refresh: bool,
    pub four_octet_as: bool,
    /// RFC 8654.
    pub extended_messages: bool,
    pub graceful_restart: Option<GracefulRestart>,
    /// RFC 9494; never without graceful restart.
    pub long_lived: Option<LongLived>,
    /// Of each family (RFC 7911).
    pub add_path: [AddPath; 2],
    /// RFC 8950: IPv4 unicast with an IPv6 next hop.
    pub extended_next_hop: bool,
    /// RFC 9234: the octet, which may be no role that is known ([`Role::from_wire`]).
    pub role: Option<u8>,
    /// draft-walton-bgp-hostname-capability.
    pub fqdn: Option<Fqdn>,
    /// Codes that are not understood, or whose contents are not; each once, for display.
    pub unknown: Vec<u8>,
}

/// RFC 4724 section 3, RFC 8538 section 2.
///
/// ```text
///  |R|N|  |   restart time, 12   |   then of each family:  AFI, 16 | SAFI, 8 |F|      |
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GracefulRestart {
    /// R: the speaker has restarted. Several set it always: it proves nothing.
    pub restarting: bool,
    /// N: a NOTIFICATION or the hold timer keeps the routes too; a Hard Reset does not (RFC 8538).
    pub notification: bool,
    /// Seconds.
    pub restart_time: u16,
    /// F of each family; `None` where the family is not listed: it has no End-of-RIB promise of forwarding.
    pub ipv4: Option<bool>,
    pub ipv6: Option<bool>,
}

/// RFC 9494 section 3; `None` where the family is not listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LongLived {
    pub ipv4: Option<LongLivedFamily>,
    pub ipv6: Option<LongLivedFamily>,
}

/// ```text
///  |   AFI, 16   | SAFI, 8 |F|     |   long-lived stale time, 24   |
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LongLivedFamily {
    /// F: forwarding state was preserved.
    pub preserved: bool,
    /// Seconds, at most [`MAX_STALE_TIME`].
    pub stale_time: u32,
}

/// Whether a speaker can send and can receive several paths of a prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddPath {
    pub send: bool,
    pub receive: bool,
}

/// The name of a speaker's host and of its domain, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fqdn {
    pub host: String,
    pub domain: String,
}

impl Capabilities {
    pub fn family(&self, family: Family) -> bool {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }

    /// What a session of ours with a peer has, seen from our side: `add_path.send` is whether we may send several paths. What
    /// describes one side only (restart times, role, names) is the peer's, where we have the capability too.
    pub fn common(&self, peer: &Capabilities) -> Capabilities {
        let both = |f: fn(&Capabilities) -> bool| f(self) && f(peer);
        let add_path = |family: Family| {
            let (own, theirs) = (self.add_path[family as usize], peer.add_path[family as usize]);
            let negotiated = self.family(family) && peer.family(family);
            AddPath {
                send: negotiated && own.send && theirs.receive,
                receive: negotiated && own.receive && theirs.send,
            }
        };
        Capabilities {
            ipv4: both(|c| c.ipv4),
            ipv6: both(|c| c.ipv6),
            route_refresh: both(|c| c.route_refresh),
            enhanced_route_refresh: both(|c| c.enhanced_route_refresh),
            four_octet_as: both(|c| c.four_octet_as),
            extended_messages: both(|c| c.extended_messages),
            graceful_restart: peer.graceful_restart.filter(|_| self.graceful_restart.is_some()),
            long_lived: peer.long_lived.filter(|_| self.long_lived.is_some()),
            add_path: [add_path(Family::Ipv4), add_path(Family::Ipv6)],
            // RFC 8950 section 4: IPv4 over IPv6 needs the capability of both.
            extended_next_hop: both(|c| c.ipv4 && c.extended_next_hop),
            role: peer.role.filter(|_| self.role.is_some()),
            fqdn: None,
            unknown: Vec::new(),
        }
    }

    /// RFC 9234 section 4.2: whether the roles fit; a side that says none fits with every role.
    pub fn roles_fit(&self, peer: &Capabilities) -> bool {
        match (self.role, peer.role) {
            (Some(own), Some(theirs)) => Role::from_wire(own).is_some_and(|r| r.counterpart() as u8 == theirs),
            _ => true,
        }
    }

    /// Reads the contents of one capability; false: they are not understood.
    fn read(&mut self, code: u8, value: &[u8]) -> Result<bool, ListError> {
        Ok(match (code, value) {
            (iana::CAP_MULTIPROTOCOL, &[a, b, _, safi]) => {
                match Family::from_wire(u16::from_be_bytes([a, b]), safi) {
                    Some(Family::Ipv4) => self.ipv4 = true,
                    Some(Family::Ipv6) => self.ipv6 = true,
                    None => {}
                }
                true
            }
            (iana::CAP_ROUTE_REFRESH, []) => set(&mut self.route_refresh),
            (iana::CAP_ENHANCED_ROUTE_REFRESH, []) => set(&mut self.enhanced_route_refresh),
            (iana::CAP_EXTENDED_MESSAGE, []) => set(&mut self.extended_messages),
            (iana::CAP_FOUR_OCTET_AS, [_, _, _, _]) => set(&mut self.four_octet_as),
            // RFC 4271 section 6.2: recognized but malformed. Without these nothing is known of the families or of the AS;
            // any other capability can as well be ignored.
            (iana::CAP_MULTIPROTOCOL | iana::CAP_FOUR_OCTET_AS, _) => return Err(ListError::Malformed),
            (iana::CAP_EXTENDED_NEXT_HOP, list) => {
                // RFC 8950 section 4: AFI, SAFI in two octets, next hop AFI.
                self.extended_next_hop |= list.chunks_exact(6).any(|t| t == [0, 1, 0, 1, 0, 2]);
                list.len().is_multiple_of(6)
            }
            (iana::CAP_ROLE, &[role]) => {
                // RFC 9234 section 4.2: several roles that differ are a mismatch.
                if self.role.replace(role).is_some_and(|before| before != role) {
                    return Err(ListError::Roles);
                }
                true
            }
            (iana::CAP_GRACEFUL_RESTART, value) => {
                self.graceful_restart = read_graceful_restart(value);
                self.graceful_restart.is_some()
            }
            (iana::CAP_LONG_LIVED_GRACEFUL_RESTART, list) if list.len().is_multiple_of(7) => {
                self.long_lived = Some(read_long_lived(list));
                true
            }
            (iana::CAP_ADD_PATH, list) => read_add_path(list).map(|a| self.add_path = a).is_some(),
            (iana::CAP_FQDN, value) => read_fqdn(value).map(|f| self.fqdn = Some(f)).is_some(),
            _ => false,
        })
    }

    /// Reads the contents of a capabilities parameter into `self`; the four-octet AS number comes back.
    ///
    /// # Errors
    /// See [`ListError`].
    pub(super) fn read_list(&mut self, mut list: &[u8]) -> Result<ListFound, ListError> {
        let mut found = ListFound::default();
        while !list.is_empty() {
            let (code, value, rest) = split(list).ok_or(ListError::Malformed)?;
            list = rest;
            found.multiprotocol |= code == iana::CAP_MULTIPROTOCOL;
            if let (iana::CAP_FOUR_OCTET_AS, Some(asn)) = (code, value.first_chunk::<4>()) {
                found.asn = Some(u32::from_be_bytes(*asn));
            }
            if !self.read(code, value)? && !self.unknown.contains(&code) {
                self.unknown.push(code);
            }
        }
        Ok(found)
    }

    /// Appends every capability, one after another.
    pub(super) fn write_list(&self, out: &mut Vec<u8>, asn: u32) {
        for family in Family::ALL.into_iter().filter(|&f| self.family(f)) {
            let afi = family.afi().to_be_bytes();
            write(out, iana::CAP_MULTIPROTOCOL, &[afi[0], afi[1], 0, Family::SAFI]);
        }
        if self.route_refresh {
            write(out, iana::CAP_ROUTE_REFRESH, &[]);
        }
        if self.extended_next_hop {
            write(out, iana::CAP_EXTENDED_NEXT_HOP, &[0, 1, 0, 1, 0, 2]);
        }
        if self.extended_messages {
            write(out, iana::CAP_EXTENDED_MESSAGE, &[]);
        }
        if let Some(role) = self.role {
            write(out, iana::CAP_ROLE, &[role]);
        }
        if let Some(gr) = &self.graceful_restart {
            write(out, iana::CAP_GRACEFUL_RESTART, &gr.value());
        }
        if self.four_octet_as {
            write(out, iana::CAP_FOUR_OCTET_AS, &asn.to_be_bytes());
        }
        if self.add_path != [AddPath::default(); 2] {
            write(out, iana::CAP_ADD_PATH, &add_path_value(&self.add_path));
        }
        if self.enhanced_route_refresh {
            write(out, iana::CAP_ENHANCED_ROUTE_REFRESH, &[]);
        }
        // RFC 9494 section 4.2: never without graceful restart.
        if let Some(llgr) = self.long_lived.filter(|_| self.graceful_restart.is_some()) {
            write(out, iana::CAP_LONG_LIVED_GRACEFUL_RESTART, &llgr.value());
        }
        if let Some(fqdn) = &self.fqdn {
            write(out, iana::CAP_FQDN, &fqdn.value());
        }
    }
}

impl GracefulRestart {
    /// F of a family, `None` if it is not listed.
    pub fn forwarding(&self, family: Family) -> Option<bool> {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }

    fn value(&self) -> Vec<u8> {
        let r = if self.restarting { 0x8000 } else { 0 };
        let n = if self.notification { 0x4000 } else { 0 };
        let mut value = (r | n | self.restart_time.min(MAX_RESTART_TIME)).to_be_bytes().to_vec();
        for (family, preserved) in Family::ALL.into_iter().filter_map(|f| self.forwarding(f).map(|p| (f, p))) {
            value.extend_from_slice(&family.afi().to_be_bytes());
            value.extend_from_slice(&[Family::SAFI, if preserved { 0x80 } else { 0 }]);
        }
        value
    }
}

impl LongLived {
    /// What is said of a family, `None` if it is not listed.
    pub fn family(&self, family: Family) -> Option<LongLivedFamily> {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }

    fn value(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(14);
        for (family, f) in Family::ALL.into_iter().filter_map(|f| self.family(f).map(|l| (f, l))) {
            value.extend_from_slice(&family.afi().to_be_bytes());
            value.extend_from_slice(&[Family::SAFI, if f.preserved { 0x80 } else { 0 }]);
            value.extend_from_slice(&f.stale_time.min(MAX_STALE_TIME).to_be_bytes()[1..]);
        }
        value
    }
}

impl Fqdn {
    fn value(&self) -> Vec<u8> {
        let mut value = Vec::new();
        for name in [&self.host, &self.domain] {
            let mut len = name.len().min(MAX_NAME);
            while !name.is_char_boundary(len) {
                len -= 1;
            }
            value.push(len as u8);
            value.extend_from_slice(&name.as_bytes()[..len]);
        }
        value
    }
}

/// What a list says beside [`Capabilities`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ListFound {
    /// Any family, also one that is not ours.
    pub multiprotocol: bool,
    pub asn: Option<u32>,
}

/// Why an OPEN is refused for its capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListError {
    /// A capability is longer than the list, or one that a session rests on has not its length.
    Malformed,
    /// Two roles that differ.
    Roles,
}

/// Takes a capability off the front of a list: code, value, and what follows.
pub(super) fn split(list: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[code, len], rest) = list.split_first_chunk::<2>()?;
    let (value, rest) = rest.split_at_checked(usize::from(len))?;
    Some((code, value, rest))
}

fn write(out: &mut Vec<u8>, code: u8, value: &[u8]) {
    out.extend_from_slice(&[code, value.len() as u8]);
    out.extend_from_slice(value);
}

fn set(flag: &mut bool) -> bool {
    *flag = true;
    true
}

fn read_graceful_restart(value: &[u8]) -> Option<GracefulRestart> {
    let (head, families) = value.split_first_chunk::<2>()?;
    let head = u16::from_be_bytes(*head);
    let mut gr = GracefulRestart {
        restarting: head & 0x8000 != 0,
        notification: head & 0x4000 != 0,
        restart_time: head & MAX_RESTART_TIME,
        ..GracefulRestart::default()
    };
    for f in families.chunks_exact(4) {
        let preserved = Some(f[3] & 0x80 != 0);
        match Family::from_wire(u16::from_be_bytes([f[0], f[1]]), f[2]) {
            Some(Family::Ipv4) => gr.ipv4 = preserved,
            Some(Family::Ipv6) => gr.ipv6 = preserved,
            None => {}
        }
    }
    Some(gr)
}

fn read_long_lived(list: &[u8]) -> LongLived {
    let mut llgr = LongLived::default();
    for f in list.chunks_exact(7) {
        let said =
            LongLivedFamily { preserved: f[3] & 0x80 != 0, stale_time: u32::from_be_bytes([0, f[4], f[5], f[6]]) };
        match Family::from_wire(u16::from_be_bytes([f[0], f[1]]), f[2]) {
            Some(Family::Ipv4) => llgr.ipv4 = Some(said),
            Some(Family::Ipv6) => llgr.ipv6 = Some(said),
            None => {}
        }
    }
    llgr
}

/// RFC 7911 section 4: AFI, SAFI, and 1 receive, 2 send, 3 both. Any other value makes the capability not understood.
fn read_add_path(list: &[u8]) -> Option<[AddPath; 2]> {
    if !list.len().is_multiple_of(4) {
        return None;
    }
    let mut add_path = [AddPath::default(); 2];
    for f in list.chunks_exact(4) {
        if !(1..=3).contains(&f[3]) {
            return None;
        }
        if let Some(family) = Family::from_wire(u16::from_be_bytes([f[0], f[1]]), f[2]) {
            add_path[family as usize] = AddPath { receive: f[3] & 1 != 0, send: f[3] & 2 != 0 };
        }
    }
    Some(add_path)
}

fn add_path_value(add_path: &[AddPath; 2]) -> Vec<u8> {
    let mut value = Vec::with_capacity(8);
    for family in Family::ALL {
        let a = add_path[family as usize];
        if a.send || a.receive {
            value.extend_from_slice(&family.afi().to_be_bytes());
            value.extend_from_slice(&[Family::SAFI, u8::from(a.receive) | u8::from(a.send) << 1]);
        }
    }
    value
}

fn read_fqdn(value: &[u8]) -> Option<Fqdn> {
    let (host, rest) = read_name(value)?;
    // The domain may be left out.
    let (domain, _) = if rest.is_empty() { (String::new(), rest) } else { read_name(rest)? };
    Some(Fqdn { host, domain })
}

/// A name behind its length; names that are no UTF-8 are not understood.
fn read_name(value: &[u8]) -> Option<(String, &[u8])> {
    let (&len, rest) = value.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(len))?;
    Some((std::str::from_utf8(name).ok()?.to_owned(), rest))
}
