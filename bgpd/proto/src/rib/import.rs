//! What is made of a route that comes in: loop checks and import policy; and a route as policies see it.

use super::{AttrId, DEFAULT_LOCAL_PREF, Path, PeerIndex, PeerInfo, Shared, Stale, Table};
use crate::af::{Key, Prefix};
use crate::policy::{self, Action, Community, Operation, PRIORITY_BASE, SessionType};
use crate::wire::attribute::Attributes;
use crate::wire::iana;
use crate::wire::iana::Role;
use crate::wire::nlri::paths;

/// Takes a list of prefixes that a peer announced.
pub(super) fn announce<K: Key>(
    table: &mut Table<K>,
    shared: &mut Shared,
    peer: PeerIndex,
    list: &[u8],
    attributes: Attributes,
) {
    let received = shared.intern(attributes);
    let info = shared.peer(peer);
    // Where policy does not look at the prefix, one answer does for all of the list.
    let uniform = info.is_some_and(|p| p.import.rules.is_empty() || p.import.accepts_all(K::FAMILY));
    let add_path = info.is_some_and(|p| p.add_path_receive[K::FAMILY as usize]);
    let mut used = AttrId::NONE;
    let mut fresh = 0;
    // RFC 4271 section 6.3: a prefix that makes no sense is ignored.
    let unicast = paths::<K>(list, add_path).filter(|(_, key)| !key.is_multicast());
    for (i, (id, key)) in unicast.enumerate() {
        if i == 0 || !uniform {
            shared.attrs.release(used);
            used = shared.import(peer, key.prefix(), received, Stale::No);
        }
        fresh += u32::from(table.insert(shared, key, Path { received, used, id, peer, stale: Stale::No }));
    }
    shared.attrs.release(used);
    shared.attrs.release(received);
    if let Some(slot) = shared.slot_mut(peer) {
        slot.received[K::FAMILY as usize] += fresh;
    }
}

impl Shared {
    /// Loop checks and import policy: the set to use, with a reference for the caller, or NONE.
    pub(super) fn import(&mut self, peer: PeerIndex, prefix: Prefix, received: AttrId, stale: Stale) -> AttrId {
        let Some(info) = self.peers[usize::from(peer)].as_ref().map(|s| &s.info) else {
            return AttrId::NONE;
        };
        let set = self.attrs.get(received);
        let attributes = &set.attributes;
        if refusal(info, attributes).is_some() {
            return AttrId::NONE;
        }
        let route = RouteView { prefix, attributes, interface: None, is_local: false, is_ebgp: info.is_ebgp };
        let mut changed = match info.import.decide(&route) {
            Some(rule) if rule.action == Action::Accept => operate(&rule.operations, attributes),
            None if info.import.default == Action::Accept => None,
            Some(_) | None => return AttrId::NONE,
        };
        let mut change = |f: &dyn Fn(&mut Attributes)| f(changed.get_or_insert_with(|| attributes.clone()));
        if info.is_ebgp && set.marks.graceful_shutdown {
            // RFC 8326 section 4.2: used only where there is nothing else.
            change(&|a| a.local_pref = Some(0));
        }
        if info.is_ebgp
            && matches!(info.role, Some(Role::Customer | Role::RouteServerClient | Role::Peer))
            && attributes.only_to_customer().is_none()
        {
            // RFC 9234 section 5: it came from above or from the side.
            let octets = info.remote_as.to_be_bytes();
            change(&|a| a.set(iana::OPTIONAL | iana::TRANSITIVE, iana::ONLY_TO_CUSTOMER, &octets));
        }
        if stale == Stale::LongLived {
            // RFC 9494 section 4.2.
            change(&|a| add_community(a, Community::Standard(iana::LLGR_STALE)));
        }
        match changed {
            Some(changed) => self.intern(changed),
            None => {
                self.attrs.retain(received, 1);
                received
            }
        }
    }
}

/// Why a route is turned down whatever policies say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// RFC 4271 section 9.
    OwnAs,
    /// RFC 4456 section 8: it is from here.
    OwnOriginatorId,
    /// RFC 4456 section 8: it has been in our cluster.
    OwnClusterId,
    /// RFC 8212 section 2.
    NoPolicy,
    /// RFC 9234 section 5.
    RouteLeak,
    /// RFC 9774 section 3.
    AsSet,
}

/// What no policy can let pass.
pub(super) fn refusal(info: &PeerInfo, attributes: &Attributes) -> Option<Refusal> {
    let own = attributes.ases().filter(|&a| a == info.local_as).count();
    let is_leak = match (info.role.filter(|_| info.is_ebgp), attributes.only_to_customer()) {
        (Some(Role::Provider | Role::RouteServer), Some(_)) => true,
        (Some(Role::Peer), Some(asn)) => asn != info.remote_as,
        _ => false,
    };
    let in_our_cluster = |id| attributes.cluster_list().any(|c| c == u32::from(id));
    if own > usize::from(info.allow_own_as) {
        Some(Refusal::OwnAs)
    } else if attributes.originator_id() == Some(info.local_router_id) {
        Some(Refusal::OwnOriginatorId)
    } else if info.cluster_id.is_some_and(in_our_cluster) {
        Some(Refusal::OwnClusterId)
    } else if info.requires_policy && info.is_ebgp && info.import.rules.is_empty() {
        Some(Refusal::NoPolicy)
    } else if is_leak {
        Some(Refusal::RouteLeak)
    } else if info.rejects_as_sets && attributes.has_as_set() {
        Some(Refusal::AsSet)
    } else {
        None
    }
}

/// A route as policies see it.
pub(super) struct RouteView<'a> {
    pub(super) prefix: Prefix,
    pub(super) attributes: &'a Attributes,
    pub(super) interface: Option<&'a str>,
    pub(super) is_local: bool,
    pub(super) is_ebgp: bool,
}

impl policy::Route for RouteView<'_> {
    fn prefix(&self) -> Prefix {
        self.prefix
    }

    fn is_local(&self) -> bool {
        self.is_local
    }

    fn interface(&self) -> Option<&str> {
        self.interface
    }

    fn session_type(&self) -> SessionType {
        if self.is_ebgp { SessionType::Ebgp } else { SessionType::Ibgp }
    }

    fn has_community(&self, community: Community) -> bool {
        has_community(self.attributes, community)
    }

    fn as_path_starts_with(&self, ases: &[u32]) -> bool {
        let mut path = self.attributes.ases();
        ases.iter().all(|&a| path.next() == Some(a))
    }

    fn local_pref(&self) -> u32 {
        self.attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)
    }
}

/// Whether a route carries a community.
pub(super) fn has_community(attributes: &Attributes, community: Community) -> bool {
    match community {
        Community::Standard(c) => attributes.communities().any(|x| x == c),
        Community::Large(a, b, c) => attributes.large_communities().any(|x| x == [a, b, c]),
    }
}

/// The attributes after a rule's operations, if there are any.
pub(super) fn operate(operations: &[Operation], attributes: &Attributes) -> Option<Attributes> {
    if operations.is_empty() {
        return None;
    }
    let mut changed = attributes.clone();
    for operation in operations {
        match operation {
            Operation::SetPriority(p) => changed.local_pref = Some(PRIORITY_BASE.saturating_sub(*p)),
            Operation::PrependAsPath(ases) => changed.prepend(ases),
            Operation::AddCommunity(community) => add_community(&mut changed, *community),
        }
    }
    Some(changed)
}

/// Adds a community that is not there yet.
fn add_community(attributes: &mut Attributes, community: Community) {
    let (kind, octets) = match community {
        Community::Standard(c) => (iana::COMMUNITIES, c.to_be_bytes().to_vec()),
        Community::Large(a, b, c) => {
            (iana::LARGE_COMMUNITIES, [a, b, c].iter().flat_map(|v| v.to_be_bytes()).collect())
        }
    };
    let had = attributes.value(kind);
    if !had.chunks_exact(octets.len()).any(|c| c == octets) {
        let value = [had, &octets].concat();
        attributes.set(iana::OPTIONAL | iana::TRANSITIVE, kind, &value);
    }
}
