//! UPDATE, parsed in place (RFC 4271 section 4.3, RFC 4760), with the error handling of RFC 7606; ROUTE-REFRESH.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::attribute::{self, Attributes, Context, Fatal, Malformed, Remedy, Walk};
use super::iana::{self, MessageType};
use super::nlri::is_well_formed;
use super::{Notification, write_message};
use crate::af::Family;

/// What an UPDATE says. Lists of prefixes are well formed.
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

impl<'a> Update<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// The NOTIFICATION where RFC 7606 keeps the session reset.
    pub fn read(cx: &Context, body: &'a [u8]) -> Result<Update<'a>, Notification> {
        let list_error = || Notification::update(iana::MALFORMED_ATTRIBUTE_LIST, &[]);
        let (withdrawn, rest) = split_list(body).ok_or_else(list_error)?;
        let (list, nlri) = split_list(rest).ok_or_else(list_error)?;
        // RFC 7606 section 5.3.
        if !is_well_formed(32, withdrawn) || !is_well_formed(32, nlri) {
            return Err(Notification::update(iana::INVALID_NETWORK_FIELD, &[]));
        }
        let mut update = Update::default();
        if withdrawn.is_empty() && list.is_empty() && nlri.is_empty() {
            update.end_of_rib = Some(Family::Ipv4);
            return Ok(update);
        }
        let mut found = attribute::walk(cx, list).map_err(|fatal| match fatal {
            Fatal::Repeated => list_error(),
            Fatal::UnrecognizedWellKnown(octets) => {
                Notification::update(iana::UNRECOGNIZED_WELL_KNOWN_ATTRIBUTE, octets)
            }
        })?;
        update.errors = std::mem::take(&mut found.errors);
        if !withdrawn.is_empty() {
            update.withdrawn.push((Family::Ipv4, withdrawn));
        }
        if let Some(value) = found.mp_unreach {
            let (family, prefixes) = read_mp_unreach(value)?;
            if let Some(family) = family {
                if prefixes.is_empty() && list.len() == value.len() + 3 + usize::from(list[0] >> 4 & 1) {
                    update.end_of_rib = Some(family);
                } else if !prefixes.is_empty() {
                    update.withdrawn.push((family, prefixes));
                }
            }
        }
        let mp_reach = found.mp_reach.map(read_mp_reach).transpose()?;
        let reachable = !nlri.is_empty() || mp_reach.is_some();
        if update.withdraws() && !reachable {
            // RFC 7606 section 5.2: without prefixes there is nothing to withdraw, and they may have been lost.
            return Err(list_error());
        }
        if reachable {
            update.announce(cx, nlri, mp_reach.flatten(), found);
        }
        let negotiated = |family| match family {
            Family::Ipv4 => cx.ipv4,
            Family::Ipv6 => cx.ipv6,
        };
        update.withdrawn.retain(|w| negotiated(w.0));
        update.announced.retain(|a| negotiated(a.0));
        Ok(update)
    }

    fn withdraws(&self) -> bool {
        self.errors.iter().any(|e| e.remedy == Remedy::TreatAsWithdraw)
    }

    fn announce(&mut self, cx: &Context, nlri: &'a [u8], mp: Option<MpReach<'a>>, mut found: Walk<'a>) {
        // RFC 7606 section 3 (d): ORIGIN, AS_PATH and, for the NLRI field, NEXT_HOP are mandatory.
        let mut missing = |kind| self.errors.push(Malformed { kind, remedy: Remedy::TreatAsWithdraw });
        if found.origin.is_none() {
            missing(iana::ORIGIN);
        }
        if found.as_path.is_none() {
            missing(iana::AS_PATH);
        }
        if !nlri.is_empty() && found.next_hop.is_none() {
            missing(iana::NEXT_HOP);
        }
        if mp.as_ref().is_some_and(|mp| !attribute::is_host(mp.next_hop)) {
            missing(iana::MP_REACH_NLRI);
        }
        let withdraw = self.withdraws();
        let lists = [
            (!nlri.is_empty()).then(|| (Family::Ipv4, found.next_hop.unwrap_or(Ipv4Addr::UNSPECIFIED).into(), nlri)),
            mp.map(|mp| (mp.family, mp.next_hop, mp.nlri)),
        ];
        let mut base = None;
        for (family, next_hop, prefixes) in lists.into_iter().flatten() {
            // RFC 4271 section 5.1.3: a route through ourselves is not used; what was there before is replaced.
            if withdraw || next_hop == cx.local_address {
                self.withdrawn.push((family, prefixes));
                continue;
            }
            let attributes =
                base.get_or_insert_with(|| found.attributes(cx, found.origin.unwrap_or(2), next_hop)).clone();
            self.announced.push((family, prefixes, Attributes { next_hop, ..attributes }));
        }
    }
}

/// A readable MP_REACH_NLRI of a family of ours.
struct MpReach<'a> {
    family: Family,
    next_hop: IpAddr,
    nlri: &'a [u8],
}

/// RFC 4760 section 3; `None` for a family that is not ours.
fn read_mp_reach(value: &[u8]) -> Result<Option<MpReach<'_>>, Notification> {
    // RFC 7606 section 7.11, RFC 4760 section 7.
    let unreadable = || Notification::update(iana::OPTIONAL_ATTRIBUTE_ERROR, &[]);
    let (&[a, b, safi, len], rest) = value.split_first_chunk::<4>().ok_or_else(unreadable)?;
    let Some(family) = Family::from_wire(u16::from_be_bytes([a, b]), safi) else {
        return Ok(None);
    };
    let len = usize::from(len);
    if rest.len() < len + 1 {
        return Err(unreadable());
    }
    let (next_hop, nlri) = (&rest[..len], &rest[len + 1..]);
    let next_hop: IpAddr = match (family, next_hop) {
        (Family::Ipv4, &[a, b, c, d]) => Ipv4Addr::new(a, b, c, d).into(),
        // RFC 2545 section 3: the global address, perhaps a link-local one after it, which is not used.
        (Family::Ipv6, [..]) if len == 16 || len == 32 => {
            let global: [u8; 16] = next_hop[..16].try_into().map_err(|_| unreadable())?;
            Ipv6Addr::from(global).into()
        }
        _ => return Err(unreadable()),
    };
    if !is_well_formed(family.bits(), nlri) {
        return Err(unreadable());
    }
    Ok(Some(MpReach { family, next_hop, nlri }))
}

/// RFC 4760 section 4.
fn read_mp_unreach(value: &[u8]) -> Result<(Option<Family>, &[u8]), Notification> {
    let unreadable = || Notification::update(iana::OPTIONAL_ATTRIBUTE_ERROR, &[]);
    let (&[a, b, safi], prefixes) = value.split_first_chunk::<3>().ok_or_else(unreadable)?;
    let family = Family::from_wire(u16::from_be_bytes([a, b]), safi);
    match family {
        Some(f) if !is_well_formed(f.bits(), prefixes) => Err(unreadable()),
        _ => Ok((family, prefixes)),
    }
}

/// A list behind its length in two octets, and what follows it.
fn split_list(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = body.split_first_chunk::<2>()?;
    let len = usize::from(u16::from_be_bytes(*len));
    (rest.len() >= len).then(|| rest.split_at(len))
}

/// Appends End-of-RIB (RFC 4724 section 2).
pub fn write_end_of_rib(out: &mut Vec<u8>, family: Family) {
    write_message(out, MessageType::Update, |out| match family {
        Family::Ipv4 => out.extend_from_slice(&[0; 4]),
        Family::Ipv6 => out.extend_from_slice(&[0, 0, 0, 6, iana::OPTIONAL, iana::MP_UNREACH_NLRI, 3, 0, 2, 1]),
    });
}

/// The family of a ROUTE-REFRESH (RFC 2918 section 3) that asks for routes; `None` for another family, or the marks of RFC 7313.
pub fn read_route_refresh(body: &[u8]) -> Option<Family> {
    match *body {
        [a, b, 0, safi] => Family::from_wire(u16::from_be_bytes([a, b]), safi),
        _ => None,
    }
}
