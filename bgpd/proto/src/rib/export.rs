//! What a peer is told: export rules, the attributes of its session, UPDATEs packed by attribute set.

use std::net::{IpAddr, Ipv6Addr};

use super::import::{RouteView, operate};
use super::{AdjOut, AttrId, Entry, LOCAL, PeerIndex, PeerInfo, Shared, Table};
use crate::af::{Family, Key};
use crate::policy::{Action, Policy};
use crate::rib::decision::DEFAULT_LOCAL_PREF;
use crate::wire::attribute::{self, Attributes, narrow_path, prepend_path};
use crate::wire::iana::{self, MessageType, OPTIONAL, TRANSITIVE};
use crate::wire::update::write_end_of_rib;
use crate::wire::{HEADER_LEN, MAX_MESSAGE_LEN, write_message};

/// What MP_REACH_NLRI of IPv6 takes beside the prefixes: attribute header, AFI, SAFI, one next hop, reserved octet.
const MP_REACH_OVERHEAD: usize = 4 + 2 + 1 + 1 + 16 + 1;
/// The longest prefix.
const NLRI_LEN: usize = 17;
/// Entries looked at together: enough to pack well, few enough to stop near the limit.
const CHUNK: usize = 4096;

/// How routes go out to a peer.
#[derive(Clone, Debug)]
pub struct ExportConfig {
    pub policy: Policy,
    /// Put our own address in as next hop of learned routes.
    pub next_hop_self: bool,
    /// Our end of the session.
    pub local_address: IpAddr,
    /// An address of ours of the other family, if there is one: next hop of that family's routes.
    pub other_address: Option<IpAddr>,
    /// Our link-local address on the peer's link, beside the global one in next hops (RFC 2545 section 3).
    pub link_local_next_hop: Option<Ipv6Addr>,
    pub four_octet_as: bool,
}

impl ExportConfig {
    /// To a peer with four-octet numbers, next hops unchanged.
    pub fn new(local_address: IpAddr) -> ExportConfig {
        ExportConfig {
            policy: Policy::default(),
            next_hop_self: false,
            local_address,
            other_address: None,
            link_local_next_hop: None,
            four_octet_as: true,
        }
    }
}

/// Appends UPDATEs until `out` has about `limit` octets; whether there is more.
pub(super) fn write_updates<K: Key>(
    table: &Table<K>,
    shared: &mut Shared,
    peer: PeerIndex,
    complete: bool,
    out: &mut Vec<u8>,
    limit: usize,
) -> bool {
    let Some(mut adj) = shared.slot_mut(peer).and_then(|s| s.out[K::FAMILY as usize].take()) else {
        return false;
    };
    let mut chunk = Vec::new();
    while out.len() < limit && !adj.is_idle() {
        next_chunk(&mut adj, table.entries().len() as u32, &mut chunk);
        write_chunk(table, shared, peer, &mut adj, &chunk, out);
    }
    if adj.is_idle() && adj.end_of_rib_due && complete {
        adj.end_of_rib_due = false;
        write_end_of_rib(out, K::FAMILY);
    }
    let more = !adj.is_idle();
    if let Some(slot) = shared.slot_mut(peer) {
        slot.out[K::FAMILY as usize] = Some(adj);
    }
    more
}

/// The next entries to look at: changes first, then the walk over all.
fn next_chunk(adj: &mut AdjOut, entries: u32, chunk: &mut Vec<u32>) {
    chunk.clear();
    if adj.pending_at < adj.pending.len() {
        let end = adj.pending.len().min(adj.pending_at + CHUNK);
        chunk.extend_from_slice(&adj.pending[adj.pending_at..end]);
        adj.pending_at = end;
        chunk.iter().for_each(|&at| {
            adj.pending_bits.remove(at);
        });
        if end == adj.pending.len() {
            adj.pending_at = 0;
            adj.pending.clear();
            if adj.pending.capacity() > 16 * CHUNK {
                adj.pending = Vec::new();
            }
        }
    } else if let Some(from) = adj.feed {
        let end = entries.min(from.saturating_add(CHUNK as u32));
        chunk.extend(from..end);
        adj.feed = (end < entries).then_some(end);
    }
}

fn write_chunk<K: Key>(
    table: &Table<K>,
    shared: &mut Shared,
    peer: PeerIndex,
    adj: &mut AdjOut,
    chunk: &[u32],
    out: &mut Vec<u8>,
) {
    let mut reach: Vec<(AttrId, PeerIndex, u32)> = Vec::with_capacity(chunk.len());
    let mut unreach: Vec<K> = Vec::new();
    let mut made: Vec<AttrId> = Vec::new();
    let accepts_all = shared.peer(peer).is_some_and(|p| p.export.policy.accepts_all(K::FAMILY));
    for &at in chunk {
        let entry = &table.entries()[at as usize];
        match exported(shared, peer, entry, accepts_all, &mut made) {
            Some((id, source)) => reach.push((id, source, at)),
            None if adj.advertised.remove(at) => {
                adj.count -= 1;
                unreach.push(entry.key);
            }
            None => {}
        }
    }
    reach.sort_by_key(|&(id, source, _)| (id, source));
    let Some(info) = shared.peer(peer) else {
        return;
    };
    let mut attributes = Vec::new();
    for run in reach.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
        let (id, source, _) = run[0];
        let set = &shared.attrs.get(id).attributes;
        attributes.clear();
        let next_hop = next_hop(info, set, source);
        write_attributes(&mut attributes, K::FAMILY, info, set, shared.peer(source), next_hop);
        let keys = run.iter().map(|r| table.entries()[r.2 as usize].key);
        // RFC 4271 section 9.2: what does not fit into an UPDATE is not announced.
        let mp = if K::FAMILY == Family::Ipv6 { MP_REACH_OVERHEAD } else { 0 };
        let fits = HEADER_LEN + 4 + mp + attributes.len() + NLRI_LEN <= MAX_MESSAGE_LEN;
        for &(_, _, at) in run {
            let changed = if fits { adj.advertised.insert(at) } else { adj.advertised.remove(at) };
            match (fits, changed) {
                (true, true) => adj.count += 1,
                (false, true) => {
                    adj.count -= 1;
                    unreach.push(table.entries()[at as usize].key);
                }
                (_, false) => {}
            }
        }
        if fits {
            write_reach(out, &attributes, next_hop, keys);
        }
    }
    write_unreach(out, &unreach);
    for id in made {
        shared.attrs.release(id);
    }
}

/// The set to send for an entry and where it comes from; `None`: the peer must not have it. Sets that a policy makes are
/// noted in `made`: their reference is the caller's to release.
fn exported<K: Key>(
    shared: &mut Shared,
    peer: PeerIndex,
    entry: &Entry<K>,
    accepts_all: bool,
    made: &mut Vec<AttrId>,
) -> Option<(AttrId, PeerIndex)> {
    let best = *entry.best()?;
    let to = shared.peer(peer)?;
    if best.peer == peer || !may_pass(shared.peer(best.peer), to) {
        return None;
    }
    let set = shared.attrs.get(best.used);
    if set.no_advertise || (set.no_export && to.is_ebgp) {
        return None;
    }
    let is_local = best.peer == LOCAL;
    if is_local && Family::of(to.export.local_address) != K::FAMILY {
        return None; // There is no address of ours to give as next hop.
    }
    if accepts_all {
        return Some((best.used, best.peer));
    }
    let prefix = entry.key.prefix();
    let origin = if is_local { shared.origins.get(&prefix) } else { None };
    let route = RouteView {
        prefix,
        attributes: &set.attributes,
        interface: origin.and_then(|o| o.interface.as_deref()),
        is_local,
        is_ebgp: to.is_ebgp,
    };
    let changed = match to.export.policy.decide(&route) {
        Some(rule) if rule.action == Action::Accept => operate(&rule.operations, &set.attributes),
        Some(_) => return None,
        None if is_local => origin.is_some_and(|o| o.export).then_some(None)?,
        None => (to.export.policy.default == Action::Accept).then_some(None)?,
    };
    let id = match changed {
        None => best.used,
        Some(changed) => {
            let id = shared.attrs.intern(changed);
            made.push(id);
            id
        }
    };
    Some((id, best.peer))
}

/// RFC 4271 section 9.2: what one iBGP peer said is not for another, unless RFC 4456 section 6 lets a reflector pass it on.
fn may_pass(from: Option<&PeerInfo>, to: &PeerInfo) -> bool {
    match from {
        Some(from) if !from.is_ebgp && !to.is_ebgp => from.rr_client || to.rr_client,
        _ => true,
    }
}

/// RFC 4271 section 5.1.3.
fn next_hop(to: &PeerInfo, set: &Attributes, source: PeerIndex) -> IpAddr {
    let own = to.export.local_address;
    let same_family = Family::of(own) == Family::of(set.next_hop);
    if source == LOCAL || (to.export.next_hop_self && same_family) { own } else { set.next_hop }
}

/// Appends the attributes for a peer. NEXT_HOP is for IPv4; MP_REACH_NLRI is written with the prefixes.
fn write_attributes(
    out: &mut Vec<u8>,
    family: Family,
    to: &PeerInfo,
    set: &Attributes,
    from: Option<&PeerInfo>,
    next_hop: IpAddr,
) {
    attribute::write(out, TRANSITIVE, iana::ORIGIN, &[set.origin]);
    let mut path = Vec::new();
    // RFC 4271 section 5.1.2: our own AS goes in front for other ASes only.
    let own = [to.local_as];
    prepend_path(&mut path, if to.is_ebgp { &own } else { &[] }, set.as_path());
    let mut as4_path = None;
    if to.export.four_octet_as {
        attribute::write(out, TRANSITIVE, iana::AS_PATH, &path);
    } else {
        let (narrow, replaced) = narrow_path(&path);
        attribute::write(out, TRANSITIVE, iana::AS_PATH, &narrow);
        as4_path = replaced.then_some(path);
    }
    if let (Family::Ipv4, IpAddr::V4(address)) = (family, next_hop) {
        attribute::write(out, TRANSITIVE, iana::NEXT_HOP, &address.octets());
    }
    if !to.is_ebgp {
        // RFC 4271 section 5.1.4: MED of another AS goes no further than our own; section 5.1.5.
        if let Some(med) = set.med {
            attribute::write(out, OPTIONAL, iana::MULTI_EXIT_DISC, &med.to_be_bytes());
        }
        let local_pref = set.local_pref.unwrap_or(DEFAULT_LOCAL_PREF);
        attribute::write(out, TRANSITIVE, iana::LOCAL_PREF, &local_pref.to_be_bytes());
    }
    let reflected = from.filter(|from| !from.is_ebgp && !to.is_ebgp);
    let mut as4_aggregator = None;
    for a in set.iter() {
        match a.kind {
            iana::AS_PATH | iana::ORIGINATOR_ID | iana::CLUSTER_LIST => {}
            iana::AGGREGATOR if !to.export.four_octet_as && a.value.len() == 8 => {
                let asn = u32::from_be_bytes([a.value[0], a.value[1], a.value[2], a.value[3]]);
                let short = u16::try_from(asn).unwrap_or_else(|_| {
                    as4_aggregator = Some(a.value);
                    iana::AS_TRANS
                });
                let value = [&short.to_be_bytes()[..], &a.value[4..]].concat();
                attribute::write(out, a.flags, a.kind, &value);
            }
            _ => attribute::write(out, a.flags, a.kind, a.value),
        }
    }
    if let Some(from) = reflected {
        // RFC 4456 section 8.
        let originator = set.originator_id().unwrap_or(from.router_id);
        attribute::write(out, OPTIONAL, iana::ORIGINATOR_ID, &originator.octets());
        let own = to.cluster_id.unwrap_or(to.local_router_id);
        let list = [&own.octets()[..], set.value(iana::CLUSTER_LIST)].concat();
        attribute::write(out, OPTIONAL, iana::CLUSTER_LIST, &list);
    }
    if let Some(path) = as4_path {
        attribute::write(out, OPTIONAL | TRANSITIVE, iana::AS4_PATH, &path);
    }
    if let Some(value) = as4_aggregator {
        attribute::write(out, OPTIONAL | TRANSITIVE, iana::AS4_AGGREGATOR, value);
    }
}

/// Appends UPDATEs with as many prefixes each as fit. The attributes leave room for one.
fn write_reach<K: Key>(out: &mut Vec<u8>, attributes: &[u8], next_hop: IpAddr, keys: impl Iterator<Item = K>) {
    let mut keys = keys.peekable();
    while keys.peek().is_some() {
        let start = out.len();
        write_message(out, MessageType::Update, |out| {
            out.extend_from_slice(&[0, 0]);
            let lengths = out.len();
            out.extend_from_slice(&[0, 0]);
            let mp = (K::FAMILY == Family::Ipv6).then(|| {
                // RFC 7606 section 5.1: MP_REACH_NLRI first.
                out.extend_from_slice(&[OPTIONAL | iana::EXTENDED_LENGTH, iana::MP_REACH_NLRI, 0, 0]);
                let at = out.len();
                out.extend_from_slice(&K::FAMILY.afi().to_be_bytes());
                let octets = match next_hop {
                    IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
                    IpAddr::V6(a) => a.octets(),
                };
                out.extend_from_slice(&[1, 16]);
                out.extend_from_slice(&octets);
                out.push(0);
                at
            });
            if mp.is_none() {
                out.extend_from_slice(attributes);
                patch(out, lengths);
            }
            let tail = if mp.is_some() { attributes.len() } else { 0 };
            while out.len() - start + tail + NLRI_LEN <= MAX_MESSAGE_LEN {
                let Some(key) = keys.next() else { break };
                key.write(out);
            }
            if let Some(at) = mp {
                patch(out, at - 2);
                out.extend_from_slice(attributes);
                patch(out, lengths);
            }
        });
    }
}

/// Appends UPDATEs that withdraw.
fn write_unreach<K: Key>(out: &mut Vec<u8>, keys: &[K]) {
    let mut keys = keys.iter().peekable();
    while keys.peek().is_some() {
        let start = out.len();
        write_message(out, MessageType::Update, |out| {
            let lengths = out.len();
            out.extend_from_slice(&[0, 0]);
            if K::FAMILY == Family::Ipv6 {
                out.extend_from_slice(&[0, 0, OPTIONAL | iana::EXTENDED_LENGTH, iana::MP_UNREACH_NLRI, 0, 0]);
            }
            let at = out.len();
            if K::FAMILY == Family::Ipv6 {
                out.extend_from_slice(&[0, 2, 1]);
            }
            while out.len() - start + NLRI_LEN + 2 <= MAX_MESSAGE_LEN {
                let Some(key) = keys.next() else { break };
                key.write(out);
            }
            if K::FAMILY == Family::Ipv6 {
                patch(out, at - 2);
                patch(out, lengths + 2);
            } else {
                patch(out, lengths);
                out.extend_from_slice(&[0, 0]);
            }
        });
    }
}

/// Writes the number of octets that follow a two-octet length into it.
fn patch(out: &mut [u8], at: usize) {
    let len = (out.len() - at - 2) as u16;
    out[at..at + 2].copy_from_slice(&len.to_be_bytes());
}

/// Whether a set's communities keep it here (RFC 1997): not to anybody, not to another AS.
pub(super) fn bounds(attributes: &Attributes) -> (bool, bool) {
    let mut bounds = (false, false);
    for community in attributes.communities() {
        bounds.0 |= community == iana::NO_ADVERTISE;
        bounds.1 |= matches!(community, iana::NO_EXPORT | iana::NO_EXPORT_SUBCONFED);
    }
    bounds
}
