//! Routes: what peers announced, which of it is best, and what each peer has to be told.
//!
//! [`Rib`] is the one owner. Received lists go in with [`Rib::announce`] and [`Rib::withdraw`]; nothing is sent until
//! [`Rib::distribute`] has handed the changed entries to the peers, and [`Rib::write_updates`] writes as many as there is
//! room for. A peer that is slow keeps a set of entry numbers, never copies of messages.

pub mod attr_set;
mod bitmap;
pub mod decision;
mod encode;
mod entry_set;
pub mod explain;
mod export;
pub mod flap;
mod group;
mod import;
mod path_items;
mod stream;
mod table;
mod view;

use std::net::{IpAddr, Ipv4Addr};

use foldhash::fast::FixedState;
use hashbrown::HashMap;

pub use self::attr_set::{AttrId, AttrSet, AttrTable};
use self::bitmap::Bitmap;
use self::decision::{Candidate, DEFAULT_LOCAL_PREF};
pub use self::export::ExportConfig;
use self::group::{Groups, Terms};
pub use self::table::{Entry, Path, Stale, Table};
pub use self::view::{Cursor, PrefixFilter, RouteFilter, RouteInfo, View};
use crate::af::{Family, Key, Prefix, V4, V6};
use crate::policy::{Community, PRIORITY_BASE, Policy};
use crate::wire::attribute::Attributes;
use crate::wire::iana::Role;
use crate::wire::nlri::paths;

/// Names a peer in paths.
pub type PeerIndex = u16;
/// The index of this speaker itself: routes of our own.
pub const LOCAL: PeerIndex = 0;

/// So many paths that are gone may have a number, with which each change of their prefix looks at them.
const MOST_GONE_PATHS: u32 = 1024;

/// So many answers about next hops are remembered, or twice as many as there are attribute sets.
const MOST_NEXT_HOPS: usize = 4096;

/// A route of our own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    pub prefix: Prefix,
    pub communities: Vec<Community>,
    /// Kernel interface of the route, for BGPFilter's `interface`.
    pub interface: Option<String>,
    /// Calico's route priority; sent to iBGP peers as LOCAL_PREF 2147483647 minus this. `None`: LOCAL_PREF 100.
    pub priority: Option<u32>,
    /// Whether it is announced where no export rule of the peer matches it.
    pub export: bool,
    /// Why, or why not: a sentence for explanations.
    pub rule: &'static str,
}

/// What the RIB knows of a peer.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    pub address: IpAddr,
    /// Of its OPEN; the last one while it is down.
    pub router_id: Ipv4Addr,
    pub is_ebgp: bool,
    pub rr_client: bool,
    pub cluster_id: Option<Ipv4Addr>,
    pub local_as: u32,
    pub remote_as: u32,
    pub local_router_id: Ipv4Addr,
    pub allow_own_as: u8,
    pub import: Policy,
    pub export: ExportConfig,
    /// RFC 7911, negotiated for each family: lists from and to the peer have path identifiers.
    pub add_path_receive: [bool; 2],
    pub add_path_send: [bool; 2],
    /// RFC 8654, negotiated.
    pub extended_messages: bool,
    /// RFC 8950, negotiated: IPv4 routes to the peer may have IPv6 next hops.
    pub extended_next_hop: bool,
    /// Routes with an AS_SET are turned down (RFC 9774).
    pub rejects_as_sets: bool,
    /// RFC 8212: without a policy of its own an eBGP peer gives and gets nothing.
    pub requires_policy: bool,
    /// RFC 8326: what the peer is told carries GRACEFUL_SHUTDOWN.
    pub graceful_shutdown: bool,
    /// RFC 9494, negotiated: it knows LLGR_STALE.
    pub long_lived: bool,
    /// RFC 9234: ours towards the peer; of no effect inside the AS.
    pub role: Option<Role>,
}

impl PeerInfo {
    /// A plain peer; what a session negotiates is not there yet.
    pub fn new(address: IpAddr, local_as: u32, local_router_id: Ipv4Addr) -> PeerInfo {
        PeerInfo {
            address,
            router_id: Ipv4Addr::UNSPECIFIED,
            is_ebgp: false,
            rr_client: false,
            cluster_id: None,
            local_as,
            remote_as: local_as,
            local_router_id,
            allow_own_as: 0,
            import: Policy::default(),
            export: ExportConfig::new(address),
            add_path_receive: [false; 2],
            add_path_send: [false; 2],
            extended_messages: false,
            extended_next_hop: false,
            rejects_as_sets: false,
            requires_policy: false,
            graceful_shutdown: false,
            long_lived: false,
            role: None,
        }
    }
}

/// A peer's place in the RIB.
#[derive(Debug)]
struct PeerSlot {
    info: PeerInfo,
    /// Paths in the Adj-RIB-In, and those of them that loop checks and policy let pass.
    received: [u32; 2],
    accepted: [u32; 2],
}

/// What tables of all families need for their decisions.
pub struct Shared {
    pub attrs: AttrTable,
    peers: Vec<Option<PeerSlot>>,
    /// Who has an address: on different ports, or behind different links, it may be several.
    by_address: HashMap<IpAddr, Vec<PeerIndex>, FixedState>,
    resolve: Box<dyn Fn(IpAddr) -> Option<u32> + Send>,
    next_hops: HashMap<IpAddr, Option<u32>, FixedState>,
    origins: HashMap<Prefix, Origin, FixedState>,
    room: export::Room,
}

impl Shared {
    fn peer(&self, peer: PeerIndex) -> Option<&PeerInfo> {
        self.slot(peer).map(|s| &s.info)
    }

    fn slot(&self, peer: PeerIndex) -> Option<&PeerSlot> {
        self.peers.get(usize::from(peer))?.as_ref()
    }

    fn slot_mut(&mut self, peer: PeerIndex) -> Option<&mut PeerSlot> {
        self.peers.get_mut(usize::from(peer))?.as_mut()
    }

    /// The one peer that has an address.
    fn peer_at(&self, address: IpAddr) -> Option<PeerIndex> {
        match self.by_address.get(&address)?[..] {
            [peer] => Some(peer),
            _ => None,
        }
    }

    /// A path that passed came or went.
    fn count(&mut self, family: Family, path: &Path, change: i32) {
        if path.used != AttrId::NONE
            && let Some(slot) = self.slot_mut(path.peer)
        {
            slot.accepted[family as usize] = slot.accepted[family as usize].wrapping_add_signed(change);
        }
    }

    /// Adds references to a path's sets, which are mostly one.
    fn retain(&mut self, path: &Path) {
        if path.received == path.used {
            return self.attrs.retain(path.received, 2);
        }
        self.attrs.retain(path.received, 1);
        self.attrs.retain(path.used, 1);
    }

    fn release(&mut self, path: &Path) {
        if path.received == path.used {
            return self.attrs.release_many(path.received, 2);
        }
        self.attrs.release(path.received);
        self.attrs.release(path.used);
    }

    fn intern(&mut self, attributes: Attributes) -> AttrId {
        let Shared { attrs, resolve, next_hops, .. } = self;
        // A peer may make up as many as it likes, one after another.
        if next_hops.len() > MOST_NEXT_HOPS.max(2 * attrs.len()) {
            next_hops.clear();
        }
        attrs.intern(attributes, |next_hop| *next_hops.entry(next_hop).or_insert_with(|| resolve(next_hop)))
    }

    fn metric(&mut self, next_hop: IpAddr) -> Option<u32> {
        let Shared { resolve, next_hops, .. } = self;
        *next_hops.entry(next_hop).or_insert_with(|| resolve(next_hop))
    }

    fn is_eligible(&self, path: &Path) -> bool {
        path.used != AttrId::NONE && (path.peer == LOCAL || self.attrs.get(path.used).metric().is_some())
    }

    /// What decides about a path; `None` if it cannot be used at all.
    fn candidate(&self, path: &Path) -> Option<Candidate> {
        if path.used == AttrId::NONE {
            return None;
        }
        let set = self.attrs.get(path.used);
        let igp_metric = if path.peer == LOCAL { 0 } else { set.metric()? };
        let attributes = &set.attributes;
        let peer = self.peer(path.peer);
        let is_ebgp = peer.is_some_and(|p| p.is_ebgp);
        let router_id = peer.map_or(Ipv4Addr::UNSPECIFIED, |p| p.router_id);
        Some(Candidate {
            is_long_lived_stale: set.marks.llgr_stale,
            local_pref: attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF),
            is_local: path.peer == LOCAL,
            as_path_len: set.as_path_len(),
            origin: attributes.origin,
            neighbour_as: set.neighbour_as,
            med: attributes.med.unwrap_or(0),
            is_ebgp,
            igp_metric,
            router_id: if is_ebgp { router_id } else { attributes.originator_id().unwrap_or(router_id) },
            cluster_list_len: attributes.cluster_list().len() as u32,
            peer: peer.map_or(Ipv4Addr::UNSPECIFIED.into(), |p| p.address),
            path_id: path.id,
        })
    }
}

/// All routes.
pub struct Rib {
    shared: Shared,
    v4: Table<V4>,
    v6: Table<V6>,
    /// The Adj-RIBs-Out of each family.
    out: [Groups; 2],
    /// Families of which nobody is told anything for now.
    held: [bool; 2],
    /// How many entries had to stay when [`Rib::reap`] last looked at each.
    kept: [u32; 2],
    /// The same of paths that are gone.
    kept_paths: [u32; 2],
    flaps: flap::Flaps,
    /// Whether our own routes are known: End-of-RIB says so to peers.
    complete: bool,
}

/// Runs an expression with `$table` bound to the table of a family.
macro_rules! with_table {
    ($rib:ident, $family:expr, |$table:ident, $shared:ident| $body:expr) => {
        match $family {
            Family::Ipv4 => {
                let ($table, $shared) = (&mut $rib.v4, &mut $rib.shared);
                $body
            }
            Family::Ipv6 => {
                let ($table, $shared) = (&mut $rib.v6, &mut $rib.shared);
                $body
            }
        }
    };
}

impl Rib {
    /// An empty one; every next hop is reachable until told otherwise.
    pub fn new(seed: u64) -> Rib {
        Rib {
            shared: Shared {
                attrs: AttrTable::new(seed),
                peers: vec![None],
                by_address: HashMap::with_hasher(FixedState::with_seed(seed)),
                resolve: Box::new(|_| Some(0)),
                next_hops: HashMap::with_hasher(FixedState::with_seed(seed)),
                origins: HashMap::with_hasher(FixedState::with_seed(seed)),
                room: export::Room::default(),
            },
            v4: Table::new(seed),
            v6: Table::new(seed),
            out: Default::default(),
            held: [false; 2],
            kept: [0; 2],
            kept_paths: [0; 2],
            flaps: flap::Flaps::new(seed),
            complete: false,
        }
    }

    /// Makes room for a peer.
    pub fn add_peer(&mut self, info: PeerInfo) -> PeerIndex {
        let address = info.address;
        let slot = PeerSlot { info, received: [0; 2], accepted: [0; 2] };
        let peers = &mut self.shared.peers;
        let index = match (1..peers.len()).find(|&i| peers[i].is_none()) {
            Some(free) => {
                peers[free] = Some(slot);
                free as PeerIndex
            }
            None => {
                peers.push(Some(slot));
                (peers.len() - 1) as PeerIndex
            }
        };
        self.shared.by_address.entry(address).or_default().push(index);
        self.note_next_hop(address);
        index
    }

    /// Forgets a peer and its paths.
    pub fn remove_peer(&mut self, peer: PeerIndex) {
        for family in Family::ALL {
            self.stop(peer, family);
            self.remove_paths(peer, family, false);
            self.out[family as usize].forget_peer(peer);
        }
        if let Some(slot) = self.shared.peers.get_mut(usize::from(peer)).and_then(Option::take) {
            let address = slot.info.address;
            if let Some(here) = self.shared.by_address.get_mut(&address) {
                here.retain(|&p| p != peer);
                if here.is_empty() {
                    self.shared.by_address.remove(&address);
                }
            }
            self.note_next_hop(address);
        }
    }

    /// Who has an address changed: who is told of the routes with it as next hop may be others.
    fn note_next_hop(&mut self, address: IpAddr) {
        if self.shared.attrs.has_next_hop(address) {
            self.note_where(|shared, path| {
                path.used != AttrId::NONE && shared.attrs.get(path.used).attributes.next_hop == address
            });
        }
    }

    /// Who may be told of what a peer announces changed ([`Rib::peer_mut`]): every other peer is told what differs.
    pub fn redistribute(&mut self, peer: PeerIndex) {
        self.note_where(|_, path| path.peer == peer);
    }

    /// All groups look again at the entries that have such a path.
    fn note_where(&mut self, is_meant: impl Fn(&Shared, &Path) -> bool) {
        for family in Family::ALL {
            with_table!(self, family, |table, shared| {
                let (groups, paths) = self.out[family as usize].groups_mut();
                let entries = (0..).zip(table.entries());
                let meant: Vec<u32> =
                    entries.filter(|(_, e)| e.paths().iter().any(|p| is_meant(shared, p))).map(|(at, _)| at).collect();
                groups.for_each(|group| meant.iter().for_each(|&at| group.note(paths, table, at)));
            });
        }
    }

    pub fn peer(&self, peer: PeerIndex) -> Option<&PeerInfo> {
        self.shared.peer(peer)
    }

    /// Changes what is known of a peer; `reimport` and `refresh` follow where policies changed.
    pub fn peer_mut(&mut self, peer: PeerIndex) -> Option<&mut PeerInfo> {
        self.shared.slot_mut(peer).map(|s| &mut s.info)
    }

    /// Prefixes received from and announced to a peer.
    pub fn counts(&self, peer: PeerIndex, family: Family) -> (u32, u32) {
        let Some(slot) = self.shared.slot(peer) else {
            return (0, 0);
        };
        (slot.received[family as usize], self.out[family as usize].count(peer))
    }

    /// How many of the paths received from a peer passed its loop checks and policy: what a limit on prefixes counts, since
    /// some peers send back what they were told.
    pub fn accepted(&self, peer: PeerIndex, family: Family) -> u32 {
        self.shared.slot(peer).map_or(0, |s| s.accepted[family as usize])
    }

    /// A list of prefixes that a peer announced, with path identifiers if [`PeerInfo::add_path_receive`] says so.
    pub fn announce(&mut self, peer: PeerIndex, family: Family, list: &[u8], attributes: Attributes) {
        with_table!(self, family, |table, shared| import::announce(table, shared, peer, list, attributes));
    }

    /// A list of prefixes that a peer withdrew.
    pub fn withdraw(&mut self, peer: PeerIndex, family: Family, list: &[u8]) {
        let add_path = self.peer(peer).is_some_and(|p| p.add_path_receive[family as usize]);
        let removed = with_table!(self, family, |table, shared| {
            let found = table.find_all(paths(list, add_path));
            let removed = found.iter().filter(|&&(at, id)| table.remove(shared, at, peer, id)).count() as u32;
            table.recycle_found(found);
            removed
        });
        self.uncount(peer, family, removed);
    }

    /// All paths of a peer, or only the stale ones, are gone.
    pub fn remove_paths(&mut self, peer: PeerIndex, family: Family, only_stale: bool) {
        let removed = with_table!(self, family, |table, shared| {
            table.remove_where(shared, peer, |p| p.stale != Stale::No || !only_stale)
        });
        self.uncount(peer, family, removed);
    }

    fn uncount(&mut self, peer: PeerIndex, family: Family, removed: u32) {
        if let Some(slot) = self.shared.slot_mut(peer) {
            slot.received[family as usize] -= removed;
        }
    }

    /// RFC 4724 section 4.2.
    pub fn mark_stale(&mut self, peer: PeerIndex, family: Family) {
        match family {
            Family::Ipv4 => self.v4.mark_stale(peer),
            Family::Ipv6 => self.v6.mark_stale(peer),
        }
    }

    /// RFC 9494 section 4.2: what is stale is kept for long. Routes with NO_LLGR go; the others are marked and are used only
    /// where there is nothing else.
    pub fn mark_long_lived_stale(&mut self, peer: PeerIndex, family: Family) {
        let removed = with_table!(self, family, |table, shared| table.mark_long_lived_stale(shared, peer));
        self.uncount(peer, family, removed);
        self.reimport_family(peer, family);
    }

    /// Applies the import policy again to what the peer announced.
    pub fn reimport(&mut self, peer: PeerIndex) {
        Family::ALL.into_iter().for_each(|f| self.reimport_family(peer, f));
    }

    fn reimport_family(&mut self, peer: PeerIndex, family: Family) {
        with_table!(self, family, |table, shared| {
            table.reimport(shared, peer, |shared, key, path| {
                shared.import(peer, key.prefix(), path.received, path.stale)
            })
        });
    }

    /// The full set of our own routes.
    pub fn originate(&mut self, origins: Vec<Origin>) {
        self.complete = true;
        let new: HashMap<Prefix, Origin, FixedState> = origins.into_iter().map(|o| (o.prefix, o)).collect();
        let old = std::mem::replace(&mut self.shared.origins, new);
        for prefix in old.keys().filter(|p| !self.shared.origins.contains_key(*p)).copied().collect::<Vec<_>>() {
            with_table!(self, prefix.family(), |table, shared| {
                if let Some(at) = Key::from_prefix(prefix).and_then(|k| table.find(k)) {
                    table.remove(shared, at, LOCAL, 0);
                }
            });
        }
        let changed: Vec<Origin> =
            self.shared.origins.values().filter(|o| old.get(&o.prefix) != Some(o)).cloned().collect();
        for origin in changed {
            let before = old.get(&origin.prefix);
            let same_attributes =
                before.is_some_and(|b| (&b.communities, b.priority) == (&origin.communities, origin.priority));
            let attributes = originated(&origin);
            with_table!(self, origin.prefix.family(), |table, shared| {
                if let Some(key) = Key::from_prefix(origin.prefix) {
                    if same_attributes && let Some(at) = table.find(key) {
                        // Only what export rules look at differs.
                        table.remove(shared, at, LOCAL, 0);
                    }
                    let id = shared.intern(attributes);
                    table.insert(shared, key, Path { received: id, used: id, id: 0, peer: LOCAL, stale: Stale::No });
                    shared.attrs.release(id);
                }
            });
        }
    }

    /// Replaces the judgement on next hops, and decides again.
    pub fn set_resolver(&mut self, resolve: Box<dyn Fn(IpAddr) -> Option<u32> + Send>) {
        // Most answers stay the same: decide again only if one differs.
        let Shared { attrs, next_hops, .. } = &mut self.shared;
        next_hops.clear();
        let differs = attrs.resolve(|next_hop| *next_hops.entry(next_hop).or_insert_with(|| resolve(next_hop)));
        self.shared.resolve = resolve;
        if differs {
            self.v4.redecide(&mut self.shared);
            self.v6.redecide(&mut self.shared);
        }
    }

    /// The peer may be told of a family: it is told everything there is, then End-of-RIB.
    pub fn start(&mut self, peer: PeerIndex, family: Family) {
        let Some(info) = self.shared.peer(peer) else { return };
        let terms = Terms::of(info, family);
        let out = &mut self.out[family as usize];
        out.stop(peer);
        let fresh = out.join(peer, terms, Bitmap::default());
        if let Some((_, member, _)) = out.of_mut(peer) {
            member.end_of_rib_due = true;
        }
        self.fill(family, fresh);
    }

    /// The session is gone: nothing is advertised any more.
    pub fn stop(&mut self, peer: PeerIndex, family: Family) {
        self.out[family as usize].stop(peer);
        self.note_all(family);
    }

    /// Tells a peer everything again: it asked for it. `is_marked`: between the marks of RFC 7313.
    pub fn refresh(&mut self, peer: PeerIndex, family: Family, is_marked: bool) {
        self.out[family as usize].refresh(peer, is_marked);
    }

    /// What decides about the routes to a peer may have changed ([`Rib::peer_mut`]): it is told what differs.
    pub fn regroup(&mut self, peer: PeerIndex) {
        for family in Family::ALL {
            let Some(terms) = self.shared.peer(peer).map(|info| Terms::of(info, family)) else { return };
            let fresh = self.out[family as usize].regroup(peer, terms);
            self.fill(family, fresh);
        }
    }

    /// Everything is pending in a new group.
    fn fill(&mut self, family: Family, group: Option<usize>) {
        self.note_all(family);
        let Some(group) = group else { return };
        with_table!(self, family, |table, _shared| {
            if let (Some(group), paths) = self.out[family as usize].group_mut(group) {
                for at in 0..table.entries().len() as u32 {
                    group.note(paths, table, at);
                }
            }
        });
    }

    /// Changes beyond the multipath sets matter to peers with add-path only.
    fn note_all(&mut self, family: Family) {
        let add_path = self.out[family as usize].have_add_path();
        with_table!(self, family, |table, _shared| table.note_all(add_path));
    }

    /// Nobody is told anything of a family until it is released (RFC 4724 section 4.1: while we restart).
    pub fn hold(&mut self, family: Family) {
        self.held[family as usize] = true;
    }

    pub fn release(&mut self, family: Family) {
        self.held[family as usize] = false;
    }

    /// Whether [`Rib::distribute`] has something to do.
    pub fn has_changes(&self) -> bool {
        self.v4.has_changes() || self.v6.has_changes()
    }

    /// Hands what changed to every peer's Adj-RIB-Out.
    pub fn distribute(&mut self) {
        self.distribute_and_tell(None::<fn(Prefix, Option<Vec<IpAddr>>)>);
    }

    /// [`Rib::distribute`]; `each` hears of the prefixes, with the next hops of the multipath set (`None`: no route learned
    /// from a peer).
    pub fn distribute_and_tell(&mut self, mut each: Option<impl FnMut(Prefix, Option<Vec<IpAddr>>)>) {
        for family in Family::ALL {
            with_table!(self, family, |table, shared| {
                let changed = table.take_changed();
                for &at in &changed {
                    let change = table.take_change(at);
                    let (groups, paths) = self.out[family as usize].groups_mut();
                    for group in groups.filter(|g| change.best || g.terms.add_path) {
                        group.note(paths, table, at);
                    }
                    if change.multipath {
                        let entry = &table.entries()[at as usize];
                        self.flaps.note(at, entry.key, entry.multipath().iter().map(|p| p.peer));
                        if let Some(each) = &mut each {
                            each(entry.key.prefix(), next_hops(shared, entry));
                        }
                    }
                }
                table.recycle(changed);
            });
        }
    }

    /// Every prefix that has a route learned from a peer, for `each` as in [`Rib::distribute`].
    pub fn for_each_best(&self, mut each: impl FnMut(Prefix, Option<Vec<IpAddr>>)) {
        let shared = &self.shared;
        let mut one = |prefix, hops: Option<Vec<IpAddr>>| {
            if hops.is_some() {
                each(prefix, hops);
            }
        };
        self.v4.entries().iter().for_each(|e| one(e.key.prefix(), next_hops(shared, e)));
        self.v6.entries().iter().for_each(|e| one(e.key.prefix(), next_hops(shared, e)));
    }

    /// Appends UPDATEs for a peer until `out` has about `limit` octets. Nothing is appended: there is nothing for now.
    pub fn write_updates(&mut self, peer: PeerIndex, out: &mut Vec<u8>, limit: usize) {
        let complete = self.complete;
        for family in Family::ALL.into_iter().filter(|&f| !self.held[f as usize]) {
            with_table!(self, family, |table, shared| {
                let groups = &mut self.out[family as usize];
                export::write_updates(table, shared, groups, peer, complete, out, limit)
            });
        }
    }

    /// Whether [`Rib::write_updates`] may have something for a peer.
    pub fn has_output(&self, peer: PeerIndex) -> bool {
        let has = |f: Family| !self.held[f as usize] && self.out[f as usize].has_output(peer, self.complete);
        Family::ALL.into_iter().any(has)
    }

    /// Forgets prefixes that are gone, of which every peer knows that. Their entries would do no harm: [`Rib::roll_flaps`] does
    /// this once a minute, and [`Rib::make_room`] where they are many.
    pub fn reap(&mut self) {
        for family in Family::ALL {
            self.reap_family(family, false);
            self.reap_paths(family);
        }
    }

    /// As [`Rib::reap`] where new prefixes would make a table larger though a good part of it is empty. Prefixes that flap keep
    /// their entries, and so their count.
    pub fn make_room(&mut self) {
        for family in Family::ALL {
            let wastes_room = match family {
                Family::Ipv4 => self.v4.wastes_room(),
                Family::Ipv6 => self.v6.wastes_room(),
            };
            if wastes_room {
                self.reap_family(family, true);
            }
            // While somebody is slow not every call looks at all of them.
            if self.out[family as usize].paths.gone_len() > MOST_GONE_PATHS.max(2 * self.kept_paths[family as usize]) {
                self.reap_paths(family);
            }
        }
    }

    /// Gives back the numbers of paths that are gone, of which every peer with add-path knows that.
    fn reap_paths(&mut self, family: Family) {
        let out = &mut self.out[family as usize];
        with_table!(self, family, |table, _shared| {
            for item in out.paths.take_gone() {
                let is_gone = out.paths.get(item).is_some_and(|i| {
                    let mut paths = table.entries()[i.entry as usize].paths().iter();
                    !paths.any(|p| (p.peer, p.id) == (i.peer, i.received_id))
                });
                if is_gone && !out.forget_path(item) {
                    out.paths.note_gone(item);
                }
            }
        });
        self.kept_paths[family as usize] = out.paths.gone_len();
    }

    fn reap_family(&mut self, family: Family, keeps_suspects: bool) {
        let out = &mut self.out[family as usize];
        let kept = &mut self.kept[family as usize];
        let flaps = &mut self.flaps;
        with_table!(self, family, |table, _shared| {
            // While somebody is slow not every call looks at all of them.
            let are_idle = out.are_idle();
            if table.empty_len() == 0 || (!are_idle && table.empty_len() < 2 * *kept) {
                return;
            }
            table.reap(|at| {
                let goes = !(keeps_suspects && flaps.is_suspect(family, at)) && out.forget_entry(at, are_idle);
                if goes {
                    flaps.forget(family, at);
                }
                goes
            });
            *kept = table.empty_len();
        });
    }

    /// How many attribute sets are interned.
    pub fn attribute_sets(&self) -> usize {
        self.shared.attrs.len()
    }
}

fn originated(origin: &Origin) -> Attributes {
    let mut standard = Vec::new();
    let mut large = Vec::new();
    for community in &origin.communities {
        match *community {
            Community::Standard(c) => standard.push(c),
            Community::Large(a, b, c) => large.push([a, b, c]),
        }
    }
    let local_pref = origin.priority.map_or(DEFAULT_LOCAL_PREF, |p| PRIORITY_BASE.saturating_sub(p));
    Attributes::originated(local_pref, &standard, &large)
}

/// The next hops of what peers announced, each once. A prefix of our own has none: its route is somebody else's.
fn next_hops<K>(shared: &Shared, entry: &Entry<K>) -> Option<Vec<IpAddr>> {
    let mut hops = Vec::new();
    for path in entry.multipath() {
        if path.peer == LOCAL {
            return None;
        }
        let hop = shared.attrs.get(path.used).attributes.next_hop;
        if !hops.contains(&hop) {
            hops.push(hop);
        }
    }
    (!hops.is_empty()).then_some(hops)
}

#[cfg(test)]
mod tests;
