//! What is made of a route that comes in: loop checks and import policy; and a route as policies see it.

use super::{AttrId, DEFAULT_LOCAL_PREF, Path, PeerIndex, PeerInfo, Shared, Table};
use crate::af::{Key, Prefix};
use crate::policy::{self, Action, Community, Operation, PRIORITY_BASE, SessionType};
use crate::wire::attribute::Attributes;
use crate::wire::iana;
use crate::wire::nlri::prefixes;

/// Takes a list of prefixes that a peer announced.
pub(super) fn announce<K: Key>(
    table: &mut Table<K>,
    shared: &mut Shared,
    peer: PeerIndex,
    list: &[u8],
    attributes: Attributes,
) {
    let received = shared.attrs.intern(attributes);
    // Where policy does not look at the prefix, one answer does for all of the list.
    let uniform = shared.peer(peer).is_some_and(|p| p.import.rules.is_empty() || p.import.accepts_all(K::FAMILY));
    let mut used = AttrId::NONE;
    let mut fresh = 0;
    for (i, key) in prefixes::<K>(list).enumerate() {
        if i == 0 || !uniform {
            shared.attrs.release(used);
            used = shared.import(peer, key.prefix(), received);
        }
        fresh += u32::from(table.insert(shared, key, Path { received, used, id: 0, peer, stale: false }));
    }
    shared.attrs.release(used);
    shared.attrs.release(received);
    if let Some(slot) = shared.slot_mut(peer) {
        slot.received[K::FAMILY as usize] += fresh;
    }
}

impl Shared {
    /// Loop checks and import policy: the set to use, with a reference for the caller, or NONE.
    pub(super) fn import(&mut self, peer: PeerIndex, prefix: Prefix, received: AttrId) -> AttrId {
        let Some(info) = self.peers[usize::from(peer)].as_ref().map(|s| &s.info) else {
            return AttrId::NONE;
        };
        let attributes = &self.attrs.get(received).attributes;
        if is_loop(info, attributes) {
            return AttrId::NONE;
        }
        let route = RouteView { prefix, attributes, interface: None, is_local: false, is_ebgp: info.is_ebgp };
        let changed = match info.import.decide(&route) {
            Some(rule) if rule.action == Action::Accept => operate(&rule.operations, attributes),
            None if info.import.default == Action::Accept => None,
            Some(_) | None => return AttrId::NONE,
        };
        match changed {
            Some(changed) => self.attrs.intern(changed),
            None => {
                self.attrs.retain(received, 1);
                received
            }
        }
    }
}

/// RFC 4271 section 9 (own AS in the path) and RFC 4456 section 8.
fn is_loop(info: &PeerInfo, attributes: &Attributes) -> bool {
    let own = attributes.ases().filter(|&a| a == info.local_as).count();
    own > usize::from(info.allow_own_as)
        || attributes.originator_id() == Some(info.local_router_id)
        || info.cluster_id.is_some_and(|id| attributes.cluster_list().any(|c| c == u32::from(id)))
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
            Operation::AddCommunity(community) => {
                let (kind, octets) = match *community {
                    Community::Standard(c) => (iana::COMMUNITIES, c.to_be_bytes().to_vec()),
                    Community::Large(a, b, c) => {
                        (iana::LARGE_COMMUNITIES, [a, b, c].iter().flat_map(|v| v.to_be_bytes()).collect())
                    }
                };
                let had = changed.value(kind);
                if !had.chunks_exact(octets.len()).any(|c| c == octets) {
                    let value = [had, &octets].concat();
                    changed.set(iana::OPTIONAL | iana::TRANSITIVE, kind, &value);
                }
            }
        }
    }
    Some(changed)
}
