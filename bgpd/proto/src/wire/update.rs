//! UPDATE, parsed in place (RFC 4271 section 4.3, RFC 4760), with the error handling of RFC 7606.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::attribute::{Attributes, Context, Malformed, Remedy};
use super::iana::{self, MessageType};
use super::nlri::is_well_formed;
use super::walk::{self, Fatal, NextHop, Walk, is_host};
use super::{Notification, write_message};
use crate::af::Family;

/// What an UPDATE says. Lists of prefixes are well formed; they have path identifiers where the context says so.
#[derive(Debug, Default)]
pub struct Update<'a> {
    /// Prefixes that are gone: the withdrawn routes, MP_UNREACH_NLRI, and with treat-as-withdraw the announced ones.
    pub withdrawn: Vec<(Family, &'a [u8])>,
    /// Prefixes with these attributes. `Attributes` differ between families only in the next hop.
    pub announced: Vec<(Family, &'a [u8], Attributes)>,
    /// RFC 4724 section 2.
    pub end_of_rib: Option<Family>,
    /// What was wrong and was mended.
    pub errors: Vec<Malformed>,
}

/// Why an UPDATE ends the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reset {
    pub notification: Notification,
    pub reason: &'static str,
    /// The section that asks for it.
    pub rule: &'static str,
}

impl Reset {
    fn new(subcode: u8, data: &[u8], reason: &'static str, rule: &'static str) -> Reset {
        Reset { notification: Notification::update(subcode, data), reason, rule }
    }

    fn list(reason: &'static str, rule: &'static str) -> Reset {
        Reset::new(iana::MALFORMED_ATTRIBUTE_LIST, &[], reason, rule)
    }

    /// RFC 7606 section 7.11 leaves what RFC 4760 section 7 says.
    fn unreadable(reason: &'static str) -> Reset {
        Reset::new(iana::OPTIONAL_ATTRIBUTE_ERROR, &[], reason, "RFC 7606 section 5.3")
    }
}

impl<'a> Update<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// The NOTIFICATION where RFC 7606 keeps the session reset.
    pub fn read(cx: &Context, body: &'a [u8]) -> Result<Update<'a>, Notification> {
        Update::examine(cx, body).map_err(|reset| reset.notification)
    }

    /// [`Update::read`] with the reason for a reset.
    ///
    /// # Errors
    /// Where RFC 7606 keeps the session reset.
    pub fn examine(cx: &Context, body: &'a [u8]) -> Result<Update<'a>, Reset> {
        let overrun = |reason| move || Reset::list(reason, "RFC 7606 section 3 (b)");
        let (withdrawn, rest) = split_list(body).ok_or_else(overrun("withdrawn routes are longer than the message"))?;
        let (list, nlri) = split_list(rest).ok_or_else(overrun("attributes are longer than the message"))?;
        let ids = cx.has_path_ids(Family::Ipv4);
        if !is_well_formed(32, ids, withdrawn) || !is_well_formed(32, ids, nlri) {
            let reason = "a prefix is too long, or cut";
            return Err(Reset::new(iana::INVALID_NETWORK_FIELD, &[], reason, "RFC 7606 section 5.3"));
        }
        let mut update = Update::default();
        if withdrawn.is_empty() && list.is_empty() && nlri.is_empty() {
            update.end_of_rib = Some(Family::Ipv4);
            return Ok(update);
        }
        let mut found = walk::walk(cx, list).map_err(|fatal| match fatal {
            Fatal::Repeated => Reset::list("MP_REACH_NLRI or MP_UNREACH_NLRI twice", "RFC 7606 section 3 (g)"),
            Fatal::UnrecognizedWellKnown(octets) => {
                let subcode = iana::UNRECOGNIZED_WELL_KNOWN_ATTRIBUTE;
                Reset::new(subcode, octets, "a well-known attribute that is not known", "RFC 4271 section 6.3")
            }
        })?;
        update.errors = std::mem::take(&mut found.errors);
        if !withdrawn.is_empty() {
            update.withdrawn.push((Family::Ipv4, withdrawn));
        }
        // The list has no other attribute.
        let is_all = |value: &[u8]| list.len() == value.len() + 3 + usize::from(list[0] >> 4 & 1);
        if let Some(value) = found.mp_unreach {
            let (family, prefixes) = read_mp_unreach(cx, value)?;
            if let Some(family) = family {
                if prefixes.is_empty() && is_all(value) {
                    update.end_of_rib = Some(family);
                } else if !prefixes.is_empty() {
                    update.withdrawn.push((family, prefixes));
                }
            }
        }
        let mp_reach = found.mp_reach.map(|value| read_mp_reach(cx, value)).transpose()?;
        // What another family announces cannot be seen.
        let is_empty = |mp: &Option<MpReach<'_>>| mp.as_ref().is_some_and(|mp| mp.nlri.is_empty());
        let reachable = !nlri.is_empty() || mp_reach.as_ref().is_some_and(|mp| !is_empty(mp));
        if update.withdraws() && !reachable && !found.mp_unreach.is_some_and(is_all) {
            // Without prefixes there is nothing to withdraw, and they may have been lost.
            return Err(Reset::list("an error and no prefix to withdraw", "RFC 7606 section 5.2"));
        }
        if reachable {
            update.announce(cx, nlri, mp_reach.flatten(), found);
        }
        update.withdrawn.retain(|w| cx.family(w.0));
        update.announced.retain(|a| cx.family(a.0));
        Ok(update)
    }

    /// Whether an error made withdrawals of what was announced.
    pub fn withdraws(&self) -> bool {
        self.errors.iter().any(|e| e.remedy == Remedy::TreatAsWithdraw)
    }

    fn announce(&mut self, cx: &Context, nlri: &'a [u8], mp: Option<MpReach<'a>>, mut found: Walk<'a>) {
        let mut wrong = |kind, reason, rule| {
            self.errors.push(Malformed { kind, remedy: Remedy::TreatAsWithdraw, reason, rule });
        };
        // ORIGIN, AS_PATH, for the NLRI field NEXT_HOP, and from inside LOCAL_PREF are mandatory.
        let mut missing = |kind| wrong(kind, "missing", "RFC 7606 section 3 (d)");
        if found.origin.is_none() {
            missing(iana::ORIGIN);
        }
        if found.as_path.is_none() {
            missing(iana::AS_PATH);
        }
        if !nlri.is_empty() && found.next_hop.is_none() {
            missing(iana::NEXT_HOP);
        }
        // RFC 4271 section 5.1.5: in every UPDATE to an internal peer.
        if cx.ibgp && found.local_pref.is_none() {
            missing(iana::LOCAL_PREF);
        }
        // Beside prefixes of MP_REACH_NLRI alone it is ignored (RFC 4760 section 3).
        if !nlri.is_empty() && found.next_hop.is_some_and(|a| !is_host(a.into())) {
            wrong(iana::NEXT_HOP, "not the address of a host", "RFC 7606 section 7.3");
        }
        if mp.as_ref().is_some_and(|mp| !is_host(mp.next_hop.address)) {
            wrong(iana::MP_REACH_NLRI, "the next hop is not the address of a host", "RFC 7606 section 7.11");
        }
        let withdraw = self.withdraws();
        let lists = [
            (!nlri.is_empty()).then(|| {
                let address = found.next_hop.unwrap_or(Ipv4Addr::UNSPECIFIED).into();
                (Family::Ipv4, NextHop { address, link_local: None }, nlri)
            }),
            mp.filter(|mp| !mp.nlri.is_empty()).map(|mp| (mp.family, mp.next_hop, mp.nlri)),
        ];
        let mut base: Option<Attributes> = None;
        for (family, next_hop, prefixes) in lists.into_iter().flatten() {
            // RFC 4271 section 5.1.3: a route through ourselves is not used; what was there before is replaced.
            if withdraw || next_hop.address == cx.local_address {
                self.withdrawn.push((family, prefixes));
                continue;
            }
            let attributes = match &base {
                Some(base) => {
                    let NextHop { address: next_hop, link_local } = next_hop;
                    Attributes { next_hop, link_local, ..base.clone() }
                }
                None => found.attributes(cx, found.origin.unwrap_or(2), next_hop),
            };
            if nlri.is_empty() {
                return self.announced.push((family, prefixes, attributes));
            }
            base.get_or_insert_with(|| attributes.clone());
            self.announced.push((family, prefixes, attributes));
        }
    }
}

/// A readable MP_REACH_NLRI of a family of ours.
struct MpReach<'a> {
    family: Family,
    next_hop: NextHop,
    nlri: &'a [u8],
}

/// RFC 4760 section 3; `None` for a family that is not ours.
fn read_mp_reach<'a>(cx: &Context, value: &'a [u8]) -> Result<Option<MpReach<'a>>, Reset> {
    let cut = || Reset::unreadable("MP_REACH_NLRI is cut");
    let (&[a, b, safi, len], rest) = value.split_first_chunk::<4>().ok_or_else(cut)?;
    let Some(family) = Family::from_wire(u16::from_be_bytes([a, b]), safi) else {
        return Ok(None);
    };
    // A reserved octet stands between the two.
    let (next_hop, nlri) = rest.split_at_checked(usize::from(len)).ok_or_else(cut)?;
    let (_, nlri) = nlri.split_first().ok_or_else(cut)?;
    let next_hop = read_next_hop(cx, family, next_hop)
        .ok_or_else(|| Reset::unreadable("the next hop's length is not one of its family"))?;
    if !is_well_formed(family.bits(), cx.has_path_ids(family), nlri) {
        return Err(Reset::unreadable("a prefix in MP_REACH_NLRI is too long, or cut"));
    }
    Ok(Some(MpReach { family, next_hop, nlri }))
}

/// The next hop of MP_REACH_NLRI: RFC 2545 section 3, RFC 8950 section 3. `None`: a length that the family does not have.
fn read_next_hop(cx: &Context, family: Family, octets: &[u8]) -> Option<NextHop> {
    if let (Family::Ipv4, &[a, b, c, d]) = (family, octets) {
        return Some(NextHop { address: Ipv4Addr::new(a, b, c, d).into(), link_local: None });
    }
    if family == Family::Ipv4 && !cx.extended_next_hop {
        return None;
    }
    let (global, rest) = octets.split_first_chunk::<16>()?;
    let global = Ipv6Addr::from(*global);
    let link_local = match rest.first_chunk::<16>() {
        Some(second) if rest.len() == 16 => Some(Ipv6Addr::from(*second)).filter(Ipv6Addr::is_unicast_link_local),
        None if rest.is_empty() => None,
        _ => return None,
    };
    // A speaker without a global address says :: (BIRD), or its link-local one twice.
    match link_local {
        Some(link_local) if global.is_unspecified() => {
            Some(NextHop { address: link_local.into(), link_local: Some(link_local) })
        }
        _ => Some(NextHop { address: global.into(), link_local }),
    }
}

/// RFC 4760 section 4.
fn read_mp_unreach<'a>(cx: &Context, value: &'a [u8]) -> Result<(Option<Family>, &'a [u8]), Reset> {
    let (&[a, b, safi], prefixes) =
        value.split_first_chunk::<3>().ok_or_else(|| Reset::unreadable("MP_UNREACH_NLRI is cut"))?;
    let family = Family::from_wire(u16::from_be_bytes([a, b]), safi);
    match family {
        Some(f) if !is_well_formed(f.bits(), cx.has_path_ids(f), prefixes) => {
            Err(Reset::unreadable("a prefix in MP_UNREACH_NLRI is too long, or cut"))
        }
        _ => Ok((family, prefixes)),
    }
}

/// A list behind its length in two octets, and what follows it.
fn split_list(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = body.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))
}

/// Appends End-of-RIB (RFC 4724 section 2).
pub fn write_end_of_rib(out: &mut Vec<u8>, family: Family) {
    write_message(out, MessageType::Update, |out| match family {
        Family::Ipv4 => out.extend_from_slice(&[0; 4]),
        Family::Ipv6 => out.extend_from_slice(&[0, 0, 0, 6, iana::OPTIONAL, iana::MP_UNREACH_NLRI, 3, 0, 2, 1]),
    });
}
