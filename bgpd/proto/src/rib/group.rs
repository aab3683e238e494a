//! Update groups: peers that are told the same share one Adj-RIB-Out and one encoded [`Stream`].
//!
//! What a peer has been told of an item is what its group has ([`AdjRibOut`]), but for routes that are from the peer
//! itself or have it as next hop, and but for its [`Backlog`]. Items are entries of the prefix table; in a group with add-path (RFC 7911) they are
//! the paths that [`PathItems`] numbers.
//!
//! ```text
//!             first table, refresh, other terms, or too far behind
//!   in the stream ──────────────────────────────────────────► behind: items to look at again, encoded for this peer
//!   (a cursor)    ◄──────────────────────────────────────────  (two bits an item)
//!                                 all told
//! ```
//!
//! Invariants:
//! - for a peer in the stream at its end, told = the Adj-RIB-Out, without what the peer is not to hear;
//! - for a peer behind, the same holds for every item that is not in its backlog, and for those `told` says it;
//! - an item that is pending in the group keeps its state in the Adj-RIB-Out until it is encoded, so that the two above hold.

use std::net::Ipv4Addr;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::bitmap::Bitmap;
use super::entry_set::EntrySet;
use super::export::ExportConfig;
use super::path_items::{PathItem, PathItems};
use super::stream::{Chunk, Cursor, Hearers, Op, Stream};
use super::{LOCAL, Path, PeerIndex, PeerInfo, Table};
use crate::af::{Family, Key};
use crate::wire::iana::Role;

/// No peer: no route is announced.
pub const NOBODY: PeerIndex = PeerIndex::MAX;

/// How much is done at once, and how much may wait.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Items looked at together: enough to pack well, few enough to stop near the limit.
    pub chunk_items: usize,
    /// Octets encoded together, about.
    pub chunk_octets: usize,
    /// Octets of a stream that wait for its slowest peers; those fall out of it beyond this.
    pub stream: usize,
    /// Octets that wait in a stream while only peers that hear nothing of it would take more.
    pub patience: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { chunk_items: 4096, chunk_octets: 64 * 1024, stream: 8 * 1024 * 1024, patience: 512 * 1024 }
    }
}

/// All that decides what a peer is told, but where a route is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    pub is_ebgp: bool,
    pub rr_client: bool,
    pub cluster_id: Option<Ipv4Addr>,
    pub local_as: u32,
    pub local_router_id: Ipv4Addr,
    pub export: ExportConfig,
    pub add_path: bool,
    pub extended_messages: bool,
    pub extended_next_hop: bool,
    pub requires_policy: bool,
    pub graceful_shutdown: bool,
    pub long_lived: bool,
    pub role: Option<Role>,
}

impl Terms {
    pub fn of(info: &PeerInfo, family: Family) -> Terms {
        Terms {
            is_ebgp: info.is_ebgp,
            rr_client: info.rr_client,
            cluster_id: info.cluster_id,
            local_as: info.local_as,
            local_router_id: info.local_router_id,
            export: info.export.clone(),
            add_path: info.add_path_send[family as usize],
            extended_messages: info.extended_messages,
            extended_next_hop: info.extended_next_hop,
            requires_policy: info.requires_policy,
            graceful_shutdown: info.graceful_shutdown,
            long_lived: info.long_lived,
            role: info.role.filter(|_| info.is_ebgp),
        }
    }

    /// The peers are our providers, our equals, or a route server.
    pub fn is_up_or_beside(&self) -> bool {
        matches!(self.role, Some(Role::Customer | Role::RouteServerClient | Role::Peer))
    }

    /// The peers are our customers, our equals, or a route server's clients.
    pub fn is_down_or_beside(&self) -> bool {
        matches!(self.role, Some(Role::Provider | Role::RouteServer | Role::Peer))
    }
}

/// What a peer that is not in the stream has yet to be told.
#[derive(Debug, Default)]
pub struct Backlog {
    pub pending: EntrySet,
    /// Of the items in `pending`: the peer has a route.
    pub told: Bitmap,
}

#[derive(Debug)]
pub enum Position {
    InStream(Cursor),
    Behind(Backlog),
}

/// A peer as a member of a group.
#[derive(Debug)]
pub struct Member {
    group: usize,
    pub position: Position,
    pub end_of_rib_due: bool,
    /// RFC 7313 section 4: the marks around what answers a refresh.
    pub refresh_begin_due: bool,
    pub refresh_end_due: bool,
}

/// What the peers of a group have been told.
#[derive(Debug, Default)]
pub struct AdjRibOut {
    /// By item: the peer whose route is announced, or [`NOBODY`].
    sources: Vec<PeerIndex>,
    /// [`Hearers::next_hop`] of the few items that have one.
    next_hops: HashMap<u32, PeerIndex, FixedState>,
    count: u32,
    /// How many of the routes each peer is not told.
    withheld: Vec<u32>,
}

impl AdjRibOut {
    pub fn source(&self, item: u32) -> PeerIndex {
        self.sources.get(item as usize).copied().unwrap_or(NOBODY)
    }

    fn hearers(&self, item: u32) -> Hearers {
        let next_hop = self.next_hops.get(&item).copied().unwrap_or(NOBODY);
        Hearers { source: self.source(item), next_hop }
    }

    /// Whether `peer` has a route, backlog apart.
    pub fn has(&self, peer: PeerIndex, item: u32) -> bool {
        self.hearers(item).include(peer)
    }

    /// The items of which `peer` has a route, backlog apart.
    fn items(&self, peer: PeerIndex) -> impl Iterator<Item = u32> {
        (0..self.sources.len() as u32).filter(move |&item| self.has(peer, item))
    }

    /// Sets who has the route of an item; returns who had one.
    pub fn set(&mut self, item: u32, now: Hearers) -> Hearers {
        let at = item as usize;
        if at >= self.sources.len() {
            if now.source == NOBODY {
                return Hearers::NONE;
            }
            self.sources.resize(at + 1, NOBODY);
        }
        let before = self.hearers(item);
        if before != now {
            self.sources[at] = now.source;
            match now.next_hop {
                NOBODY => self.next_hops.remove(&item),
                peer => self.next_hops.insert(item, peer),
            };
            self.count -= u32::from(before.source != NOBODY);
            self.count += u32::from(now.source != NOBODY);
            [before.source, before.next_hop].into_iter().for_each(|peer| self.withhold(peer, -1));
            [now.source, now.next_hop].into_iter().for_each(|peer| self.withhold(peer, 1));
        }
        before
    }

    /// One more route that a peer is not told, or one less.
    fn withhold(&mut self, peer: PeerIndex, change: i32) {
        if peer == NOBODY {
            return;
        }
        let peer = usize::from(peer);
        if peer >= self.withheld.len() {
            self.withheld.resize(peer + 1, 0);
        }
        self.withheld[peer] = self.withheld[peer].wrapping_add_signed(change);
    }

    /// No route has the peer as its next hop: the peer is no more, and its number will be another's.
    fn forget_next_hop(&mut self, peer: PeerIndex) {
        let before = self.next_hops.len();
        self.next_hops.retain(|_, p| *p != peer);
        if let Some(withheld) = self.withheld.get_mut(usize::from(peer)) {
            *withheld -= (before - self.next_hops.len()) as u32;
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Group {
    pub terms: Terms,
    pub adj: AdjRibOut,
    /// Items that changed and are not encoded yet.
    pub pending: EntrySet,
    pub stream: Stream,
    in_stream: u32,
    behind: Vec<PeerIndex>,
}

impl Group {
    fn new(terms: Terms) -> Group {
        Group {
            terms,
            adj: AdjRibOut::default(),
            pending: EntrySet::default(),
            stream: Stream::default(),
            in_stream: 0,
            behind: Vec::new(),
        }
    }

    /// An entry changed: what is told of it is to be looked at again.
    pub fn note<K: Key>(&mut self, paths: &mut PathItems, table: &Table<K>, at: u32) {
        if !self.terms.add_path {
            self.pending.insert(at);
            return;
        }
        for path in table.entries()[at as usize].paths() {
            paths.number(at, path.peer, path.id);
        }
        paths.of_entry(at).iter().for_each(|&item| {
            self.pending.insert(item);
        });
    }

    /// Whether anybody reads the stream: what is encoded for nobody need not be written.
    pub fn has_readers(&self) -> bool {
        self.in_stream > 0
    }
}

/// The groups of one family.
#[derive(Debug, Default)]
pub struct Groups {
    groups: Vec<Option<Group>>,
    members: Vec<Option<Member>>,
    /// Numbers the paths for the groups with add-path.
    pub paths: PathItems,
    pub limits: Limits,
}

impl Groups {
    fn of(&self, peer: PeerIndex) -> Option<(&Group, &Member)> {
        let member = self.members.get(usize::from(peer))?.as_ref()?;
        Some((self.groups[member.group].as_ref()?, member))
    }

    pub fn of_mut(&mut self, peer: PeerIndex) -> Option<(&mut Group, &mut Member, &mut PathItems)> {
        let member = self.members.get_mut(usize::from(peer))?.as_mut()?;
        Some((self.groups[member.group].as_mut()?, member, &mut self.paths))
    }

    pub fn groups_mut(&mut self) -> (impl Iterator<Item = &mut Group>, &mut PathItems) {
        (self.groups.iter_mut().flatten(), &mut self.paths)
    }

    pub fn terms(&self, peer: PeerIndex) -> Option<&Terms> {
        self.of(peer).map(|(g, _)| &g.terms)
    }

    /// Whether some group has add-path.
    pub fn have_add_path(&self) -> bool {
        self.groups.iter().flatten().any(|g| g.terms.add_path)
    }

    /// Puts a peer, which has been told `told` so far, into the group of its terms. Returns that group's number where it is
    /// new: everything is pending in it.
    pub fn join(&mut self, peer: PeerIndex, terms: Terms, told: Bitmap) -> Option<usize> {
        let found = self.groups.iter().position(|g| g.as_ref().is_some_and(|g| g.terms == terms));
        let at = found.unwrap_or_else(|| {
            let free = self.groups.iter().position(Option::is_none);
            let at = free.unwrap_or(self.groups.len());
            if at == self.groups.len() {
                self.groups.push(None);
            }
            self.groups[at] = Some(Group::new(terms));
            at
        });
        let Some(group) = &mut self.groups[at] else { return None };
        let mut backlog = Backlog::default();
        told.iter().for_each(|item| {
            backlog.pending.insert(item);
        });
        group.adj.items(peer).for_each(|item| {
            backlog.pending.insert(item);
        });
        backlog.told = told;
        let position = if backlog.pending.is_empty() {
            group.in_stream += 1;
            Position::InStream(group.stream.end())
        } else {
            group.behind.push(peer);
            Position::Behind(backlog)
        };
        if usize::from(peer) >= self.members.len() {
            self.members.resize_with(usize::from(peer) + 1, || None);
        }
        self.members[usize::from(peer)] = Some(Member {
            group: at,
            position,
            end_of_rib_due: false,
            refresh_begin_due: false,
            refresh_end_due: false,
        });
        found.is_none().then_some(at)
    }

    pub fn group_mut(&mut self, at: usize) -> (Option<&mut Group>, &mut PathItems) {
        (self.groups[at].as_mut(), &mut self.paths)
    }

    /// A session is gone, with what its peer was told.
    pub fn stop(&mut self, peer: PeerIndex) {
        self.leave(peer);
        if !self.have_add_path() {
            self.paths = PathItems::default();
        }
    }

    /// A peer is no more.
    pub fn forget_peer(&mut self, peer: PeerIndex) {
        self.groups.iter_mut().flatten().for_each(|g| g.adj.forget_next_hop(peer));
    }

    /// Takes a peer out of its group; what is left of it.
    fn leave(&mut self, peer: PeerIndex) -> Option<Member> {
        let member = self.members.get_mut(usize::from(peer))?.take()?;
        let slot = &mut self.groups[member.group];
        if let Some(group) = slot {
            match &member.position {
                Position::InStream(cursor) => {
                    group.stream.leave(*cursor, |_| {});
                    group.in_stream -= 1;
                }
                Position::Behind(_) => group.behind.retain(|&p| p != peer),
            }
            if group.in_stream == 0 && group.behind.is_empty() {
                *slot = None;
            }
        }
        Some(member)
    }

    /// Moves a peer to the group of its terms if they are others than before; what it has been told stays.
    pub fn regroup(&mut self, peer: PeerIndex, terms: Terms) -> Option<usize> {
        if self.terms(peer).is_none_or(|t| *t == terms) {
            return None;
        }
        self.fall_behind(peer);
        let (group, member) = self.of(peer)?;
        let Position::Behind(backlog) = &member.position else { return None };
        let mut told = backlog.told.clone();
        group.adj.items(peer).filter(|&item| !backlog.pending.contains(item)).for_each(|item| {
            told.insert(item);
        });
        let before = self.leave(peer)?;
        let fresh = self.join(peer, terms, told);
        if let Some((_, member, _)) = self.of_mut(peer) {
            member.end_of_rib_due = before.end_of_rib_due;
            member.refresh_begin_due = before.refresh_begin_due;
            member.refresh_end_due = before.refresh_end_due;
        }
        fresh
    }

    /// Takes a peer out of the stream; what it has not heard goes into its backlog.
    pub fn fall_behind(&mut self, peer: PeerIndex) {
        let Some((group, member, _)) = self.of_mut(peer) else { return };
        let Position::InStream(cursor) = member.position else { return };
        let mut backlog = Backlog::default();
        group.stream.leave(cursor, |op| backlog.note(peer, op));
        group.in_stream -= 1;
        group.behind.push(peer);
        member.position = Position::Behind(backlog);
    }

    /// Everything is told to a peer once more.
    pub fn refresh(&mut self, peer: PeerIndex, is_marked: bool) {
        self.fall_behind(peer);
        let Some((group, member, _)) = self.of_mut(peer) else { return };
        let Position::Behind(backlog) = &mut member.position else { return };
        for item in group.adj.items(peer) {
            if backlog.pending.insert(item) {
                backlog.told.insert(item);
            }
        }
        // RFC 7313 section 4: no BoRR before End-of-RIB, which then ends this answer too.
        let is_marked = is_marked && !member.end_of_rib_due;
        // A mark that is due stays so: who has heard BoRR waits for EoRR.
        member.refresh_begin_due |= is_marked;
        member.refresh_end_due |= is_marked;
    }

    /// A peer without a backlog takes part in the stream again.
    pub fn rejoin(&mut self, peer: PeerIndex) {
        let Some((group, member, _)) = self.of_mut(peer) else { return };
        if matches!(&member.position, Position::Behind(b) if b.pending.is_empty()) {
            member.position = Position::InStream(group.stream.end());
            group.in_stream += 1;
            group.behind.retain(|&p| p != peer);
        }
    }

    /// Appends a chunk to the stream of a peer's group: those behind look at its items too, and those that keep more of the
    /// stream than may be kept fall behind.
    pub fn push(&mut self, peer: PeerIndex, chunk: Chunk) {
        let Some(at) = self.members.get(usize::from(peer)).and_then(|m| m.as_ref()).map(|m| m.group) else {
            return;
        };
        let Some(group) = self.groups[at].as_mut() else { return };
        for &behind in &group.behind {
            if let Some(Member { position: Position::Behind(backlog), .. }) = &mut self.members[usize::from(behind)] {
                chunk.ops.iter().for_each(|&op| backlog.note(behind, op));
            }
        }
        group.stream.push(chunk, group.in_stream);
        while self.groups[at].as_ref().is_some_and(|g| g.stream.len() > self.limits.stream) {
            let stream = self.groups[at].as_ref().map(|g| &g.stream);
            let slowest = self.members.iter().position(|m| {
                m.as_ref().is_some_and(|m| {
                    let is_last = |c| stream.is_some_and(|s| s.is_last(c));
                    m.group == at && matches!(m.position, Position::InStream(c) if is_last(c))
                })
            });
            match slowest {
                Some(slowest) => self.fall_behind(slowest as PeerIndex),
                None => break,
            }
        }
    }

    /// Whether there is something to write for a peer. `complete`: End-of-RIB may go out.
    pub fn has_output(&self, peer: PeerIndex, complete: bool) -> bool {
        let Some((group, member)) = self.of(peer) else { return false };
        let waits = match &member.position {
            Position::InStream(cursor) => *cursor != group.stream.end() || !group.pending.is_empty(),
            Position::Behind(_) => true,
        };
        waits || (member.end_of_rib_due && complete)
    }

    /// Octets that wait in the stream of a peer's group.
    #[cfg(test)]
    pub fn stream_len(&self, peer: PeerIndex) -> usize {
        self.of(peer).map_or(0, |(group, _)| group.stream.len())
    }

    /// How many routes a peer has been told.
    pub fn count(&self, peer: PeerIndex) -> u32 {
        let Some((group, member)) = self.of(peer) else { return 0 };
        let withheld = group.adj.withheld.get(usize::from(peer)).copied().unwrap_or(0);
        let mut count = group.adj.count - withheld;
        if let Position::Behind(backlog) = &member.position {
            for item in backlog.pending.iter() {
                count -= u32::from(group.adj.has(peer, item));
                count += u32::from(backlog.told.contains(item));
            }
        }
        count
    }

    /// Whether a peer has been told of an item, or is just about to be.
    pub fn is_told(&self, peer: PeerIndex, item: u32) -> bool {
        self.of(peer).is_some_and(|(group, member)| match &member.position {
            Position::Behind(backlog) if backlog.pending.contains(item) => backlog.told.contains(item),
            _ => group.adj.has(peer, item),
        })
    }

    /// Whether a peer has been told of a path of an entry; of `is_best` only, without add-path.
    pub fn is_told_path(&self, peer: PeerIndex, entry: u32, path: &Path, is_best: bool) -> bool {
        let is_it = |item: &PathItem| (item.peer, item.received_id) == (path.peer, path.id);
        if !self.terms(peer).is_some_and(|t| t.add_path) {
            return is_best && self.is_told(peer, entry);
        }
        let mut items = self.paths.of_entry(entry).iter();
        items.any(|&i| self.paths.get(i).as_ref().is_some_and(is_it) && self.is_told(peer, i))
    }

    /// The number under which a path is told to a peer.
    pub fn item(&self, peer: PeerIndex, entry: u32, path: &Path) -> Option<u32> {
        if !self.terms(peer)?.add_path {
            return Some(entry);
        }
        let is_it = |item: &PathItem| (item.peer, item.received_id) == (path.peer, path.id);
        self.paths.of_entry(entry).iter().copied().find(|&i| self.paths.get(i).as_ref().is_some_and(is_it))
    }

    /// Whether nothing at all is waiting to be told.
    pub fn are_idle(&self) -> bool {
        self.groups.iter().flatten().all(|g| g.pending.is_empty() && g.stream.is_empty() && g.behind.is_empty())
    }

    /// Whether no peer has, or has still to hear of, an entry or a path of it; they are forgotten then.
    pub fn forget_entry(&mut self, entry: u32, are_idle: bool) -> bool {
        if are_idle && !self.have_add_path() {
            return self.groups.iter().flatten().all(|g| g.adj.source(entry) == NOBODY);
        }
        let paths = self.paths.of_entry(entry).to_vec();
        paths.into_iter().all(|item| self.forget_path(item)) && self.forget(entry, false)
    }

    /// Whether no peer of the groups with (or without) add-path has, or has still to hear of, an item; it is forgotten then.
    fn forget(&mut self, item: u32, add_path: bool) -> bool {
        let groups = self.groups.iter().enumerate().filter_map(|(i, g)| Some((i, g.as_ref()?)));
        for (at, group) in groups.filter(|(_, g)| g.terms.add_path == add_path) {
            if group.adj.source(item) != NOBODY || group.pending.contains(item) || !group.stream.is_empty() {
                return false;
            }
            let owed = |m: &Member| match &m.position {
                Position::Behind(b) => m.group == at && b.pending.contains(item) && b.told.contains(item),
                Position::InStream(_) => false,
            };
            if !group.behind.is_empty() && self.members.iter().flatten().any(owed) {
                return false;
            }
        }
        for member in self.members.iter_mut().flatten() {
            if let Position::Behind(backlog) = &mut member.position
                && self.groups[member.group].as_ref().is_some_and(|g| g.terms.add_path == add_path)
            {
                backlog.pending.remove(item);
            }
        }
        true
    }
}

impl Groups {
    /// Gives the number of a path back if nobody knows of it any more.
    pub fn forget_path(&mut self, item: u32) -> bool {
        let gone = self.forget(item, true);
        if gone {
            self.paths.remove(item);
        }
        gone
    }
}

impl Backlog {
    fn note(&mut self, peer: PeerIndex, op: Op) {
        if self.pending.insert(op.item) && op.before.include(peer) {
            self.told.insert(op.item);
        }
    }
}

const _: () = assert!(LOCAL != NOBODY);
