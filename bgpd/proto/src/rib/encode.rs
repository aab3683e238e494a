//! UPDATEs as a group's peers get them: the attributes of their sessions, prefixes packed by attribute set.

use std::net::IpAddr;

use super::decision::DEFAULT_LOCAL_PREF;
use super::export::Reach;
use super::group::Terms;
use super::path_items::PathItems;
use super::{LOCAL, PeerIndex, PeerInfo, Shared, Table};
use crate::af::{Family, Key};
use crate::wire::as_path::{narrow_path, prepend_path};
use crate::wire::attribute::{self, Attributes, Raw};
use crate::wire::iana::{self, OPTIONAL, TRANSITIVE};
use crate::wire::pack::{Layout, MpNextHop};
use crate::wire::{MAX_EXTENDED_MESSAGE_LEN, MAX_MESSAGE_LEN};

/// The T bit of an extended community's type (RFC 4360 section 2).
const NON_TRANSITIVE: u8 = 0x40;

/// What goes into NEXT_HOP or MP_REACH_NLRI.
pub(super) type NextHop = MpNextHop;

impl Terms {
    /// An address of ours that can be the next hop of a family's routes: the session's own if it may be, which with RFC 8950 is
    /// so for IPv4 over IPv6, where the link need have no IPv4 at all.
    fn own_address(&self, family: Family) -> Option<IpAddr> {
        let addresses = [Some(self.export.local_address), self.export.other_address];
        addresses.into_iter().flatten().find(|&a| self.can_carry(family, a))
    }

    fn can_carry(&self, family: Family, next_hop: IpAddr) -> bool {
        Family::of(next_hop) == family || (family == Family::Ipv4 && self.extended_next_hop)
    }

    /// RFC 4271 section 5.1.3; `None`: there is none that the peers could use.
    pub fn next_hop(&self, family: Family, set: &Attributes, source: PeerIndex) -> Option<NextHop> {
        let own = || {
            let address = self.own_address(family)?;
            Some(NextHop {
                address,
                link_local: self.export.link_local_next_hop.filter(|&l| address.is_ipv6() && l != address),
            })
        };
        // RFC 2545 section 3: a link-local address is good on the link to the peer that said it.
        let is_link_local = matches!(set.next_hop, IpAddr::V6(a) if a.is_unicast_link_local());
        let learned = || {
            let same = source != LOCAL && !is_link_local && self.can_carry(family, set.next_hop);
            same.then_some(NextHop { address: set.next_hop, link_local: None })
        };
        if source == LOCAL || self.export.next_hop_self { own().or_else(learned) } else { learned().or_else(own) }
    }

    fn layout(&self) -> Layout {
        let max_len = if self.extended_messages { MAX_EXTENDED_MESSAGE_LEN } else { MAX_MESSAGE_LEN };
        Layout { max_len, add_path: self.add_path }
    }
}

/// Writes the messages of one batch.
pub(super) struct Writer<'a, K> {
    table: &'a Table<K>,
    paths: &'a PathItems,
    to: &'a Terms,
    attributes: Vec<u8>,
    next_hop: Option<NextHop>,
}

impl<'a, K: Key> Writer<'a, K> {
    /// `attributes` is room for those of one set.
    pub(super) fn new(table: &'a Table<K>, paths: &'a PathItems, to: &'a Terms, attributes: Vec<u8>) -> Writer<'a, K> {
        Writer { table, paths, to, attributes, next_hop: None }
    }

    /// Gives the room back.
    pub(super) fn into_room(self) -> Vec<u8> {
        self.attributes
    }

    /// Makes the attributes of a run of routes. False: they leave no room for a prefix, or there is no next hop, and the
    /// routes are not announced (RFC 4271 section 9.2).
    pub(super) fn begin(&mut self, shared: &Shared, first: Reach) -> bool {
        let set = &shared.attrs.get(first.set).attributes;
        self.next_hop = self.to.next_hop(K::FAMILY, set, first.source);
        let Some(next_hop) = self.next_hop else { return false };
        self.attributes.clear();
        write_attributes(&mut self.attributes, K::FAMILY, self.to, set, shared.peer(first.source), next_hop);
        self.to.layout().fits(self.attributes.len(), self.mp_next_hop().as_ref())
    }

    /// The next hop of the run that was begun.
    pub(super) fn next_hop(&self) -> Option<IpAddr> {
        self.next_hop.map(|n| n.address)
    }

    /// The next hop, if the prefixes go into MP_REACH_NLRI.
    fn mp_next_hop(&self) -> Option<NextHop> {
        self.next_hop.filter(|n| K::FAMILY == Family::Ipv6 || n.address.is_ipv6())
    }

    fn path(&self, item: u32) -> (u32, K) {
        let (id, entry) = match self.paths.get(item).filter(|_| self.to.add_path) {
            Some(path) => (path.sent_id, path.entry),
            None => (0, item),
        };
        (id, self.table.entries()[entry as usize].key)
    }

    /// Appends UPDATEs that announce.
    pub(super) fn reach(&self, out: &mut Vec<u8>, items: impl Iterator<Item = u32>) {
        let next_hop = self.mp_next_hop();
        self.to.layout().write_reach(out, &self.attributes, next_hop.as_ref(), items.map(|item| self.path(item)));
    }

    /// Appends UPDATEs that withdraw.
    pub(super) fn unreach(&self, out: &mut Vec<u8>, items: impl Iterator<Item = u32>) {
        self.to.layout().write_unreach(out, items.map(|item| self.path(item)));
    }
}

/// Appends the attributes for a group. NEXT_HOP is for IPv4; MP_REACH_NLRI is written with the prefixes.
fn write_attributes(
    out: &mut Vec<u8>,
    family: Family,
    to: &Terms,
    set: &Attributes,
    from: Option<&PeerInfo>,
    next_hop: NextHop,
) {
    attribute::write(out, TRANSITIVE, iana::ORIGIN, &[set.origin]);
    // RFC 4271 section 5.1.2: our own AS goes in front for other ASes only.
    let own = [to.local_as];
    let write_path = |out: &mut Vec<u8>| prepend_path(out, if to.is_ebgp { &own } else { &[] }, set.as_path());
    let mut as4_path = None;
    if to.export.four_octet_as {
        attribute::write_with(out, TRANSITIVE, iana::AS_PATH, write_path);
    } else {
        let mut path = Vec::new();
        write_path(&mut path);
        let (narrow, replaced) = narrow_path(&path);
        attribute::write(out, TRANSITIVE, iana::AS_PATH, &narrow);
        as4_path = replaced.then_some(path);
    }
    if let (Family::Ipv4, IpAddr::V4(address)) = (family, next_hop.address) {
        attribute::write(out, TRANSITIVE, iana::NEXT_HOP, &address.octets());
    }
    if !to.is_ebgp {
        // RFC 4271 section 5.1.4: MED of another AS goes no further than our own; section 5.1.5.
        if let Some(med) = set.med {
            attribute::write(out, OPTIONAL, iana::MULTI_EXIT_DISC, &med.to_be_bytes());
        }
        // RFC 8326 section 4.1: inside the AS the route is used no more where there is another.
        let local_pref = if to.graceful_shutdown { 0 } else { set.local_pref.unwrap_or(DEFAULT_LOCAL_PREF) };
        attribute::write(out, TRANSITIVE, iana::LOCAL_PREF, &local_pref.to_be_bytes());
    }
    let as4_aggregator = write_rest(out, to, set);
    if let Some(from) = from.filter(|from| !from.is_ebgp && !to.is_ebgp) {
        // RFC 4456 section 8.
        let originator = set.originator_id().unwrap_or(from.router_id);
        attribute::write(out, OPTIONAL, iana::ORIGINATOR_ID, &originator.octets());
        let own = to.cluster_id.unwrap_or(to.local_router_id);
        attribute::write_with(out, OPTIONAL, iana::CLUSTER_LIST, |out| {
            out.extend_from_slice(&own.octets());
            out.extend_from_slice(set.value(iana::CLUSTER_LIST));
        });
    }
    if let Some(path) = as4_path {
        attribute::write(out, OPTIONAL | TRANSITIVE, iana::AS4_PATH, &path);
    }
    if let Some(value) = as4_aggregator {
        attribute::write(out, OPTIONAL | TRANSITIVE, iana::AS4_AGGREGATOR, value);
    }
    if to.is_down_or_beside() && set.only_to_customer().is_none() {
        // RFC 9234 section 5: from here on it goes down only.
        attribute::write(out, OPTIONAL | TRANSITIVE, iana::ONLY_TO_CUSTOMER, &to.local_as.to_be_bytes());
    }
}

/// Appends what is passed on; returns the AGGREGATOR that a two-octet peer gets in AS4_AGGREGATOR.
fn write_rest<'a>(out: &mut Vec<u8>, to: &Terms, set: &'a Attributes) -> Option<&'a [u8]> {
    let mut as4_aggregator = None;
    let mut shutdown = to.graceful_shutdown.then_some(iana::GRACEFUL_SHUTDOWN);
    for a in set.iter() {
        match a.kind {
            iana::AS_PATH | iana::ORIGINATOR_ID | iana::CLUSTER_LIST => {}
            iana::COMMUNITIES => {
                // RFC 8326 section 4.1.
                let add = shutdown.take().filter(|&s| set.communities().all(|c| c != s));
                let octets = add.map(u32::to_be_bytes);
                let value = [a.value, octets.as_ref().map_or(&[], <[u8; 4]>::as_slice)].concat();
                attribute::write(out, a.flags, a.kind, &value);
            }
            // RFC 4360 section 6, RFC 5701 section 3: what is not transitive stays in the AS.
            iana::EXTENDED_COMMUNITIES if to.is_ebgp => write_transitive(out, a, 8),
            iana::IPV6_EXTENDED_COMMUNITIES if to.is_ebgp => write_transitive(out, a, 20),
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
    if let Some(shutdown) = shutdown {
        attribute::write(out, OPTIONAL | TRANSITIVE, iana::COMMUNITIES, &shutdown.to_be_bytes());
    }
    as4_aggregator
}

/// Appends extended communities of `width` octets each, without those that have the non-transitive bit.
fn write_transitive(out: &mut Vec<u8>, a: Raw<'_>, width: usize) {
    let kept: Vec<u8> = a.value.chunks_exact(width).filter(|c| c[0] & NON_TRANSITIVE == 0).flatten().copied().collect();
    if !kept.is_empty() {
        attribute::write(out, a.flags, a.kind, &kept);
    }
}
