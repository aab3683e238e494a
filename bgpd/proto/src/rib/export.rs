//! What a peer is told: export rules, the attributes of its session, UPDATEs packed by attribute set.

use std::net::{IpAddr, Ipv6Addr};

use super::attr_set::Marks;
use super::encode::Writer;
use super::group::{Backlog, Group, Groups, Limits, NOBODY, Position, Terms};
use super::import::{RouteView, operate};
use super::path_items::PathItems;
use super::stream::{Audience, Chunk, Hearers, Op};
use super::{AttrId, LOCAL, PeerIndex, PeerInfo, Shared, Table};
use crate::af::Key;
use crate::policy::{Action, Policy};
use crate::wire::update::write_end_of_rib;
use crate::wire::{RefreshKind, RouteRefresh};

/// How routes go out to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// Appends UPDATEs for a peer until `out` has about `limit` octets, or there is no more for now.
pub(super) fn write_updates<K: Key>(
    table: &Table<K>,
    shared: &mut Shared,
    groups: &mut Groups,
    peer: PeerIndex,
    complete: bool,
    out: &mut Vec<u8>,
    limit: usize,
) {
    let limits = groups.limits;
    while out.len() < limit {
        let Some((group, member, paths)) = groups.of_mut(peer) else { return };
        match &mut member.position {
            Position::InStream(cursor) if *cursor != group.stream.end() => {
                group.stream.read(peer, cursor, out, limit);
            }
            Position::InStream(_) if group.pending.is_empty() => {
                if std::mem::take(&mut member.end_of_rib_due) {
                    if complete {
                        write_end_of_rib(out, K::FAMILY);
                    }
                    member.end_of_rib_due = !complete;
                }
                return;
            }
            Position::InStream(_) => {
                // Who is the source of all that is pending does not push the others out of the stream for it.
                if group.stream.len() > limits.patience && !is_owed(table, group, paths, peer) {
                    return;
                }
                let chunk = encode(table, shared, group, paths, limits);
                groups.push(peer, chunk);
            }
            Position::Behind(backlog) => {
                if std::mem::take(&mut member.refresh_begin_due) {
                    RouteRefresh { family: K::FAMILY, kind: RefreshKind::BeginOfRib }.write(out);
                }
                let before = (backlog.pending.len(), group.pending.len());
                tell(table, shared, (group, backlog, peer), paths, limits, out);
                if backlog.pending.is_empty() {
                    if std::mem::take(&mut member.refresh_end_due) {
                        RouteRefresh { family: K::FAMILY, kind: RefreshKind::EndOfRib }.write(out);
                    }
                    groups.rejoin(peer);
                } else if !group.pending.is_empty() {
                    let chunk = encode(table, shared, group, paths, limits);
                    groups.push(peer, chunk);
                } else if before == (backlog.pending.len(), 0) {
                    return; // What is left changed just now: it will be in the group's set.
                }
            }
        }
    }
}

/// Whether anything that is pending in its group is for a peer: it has, or may get, a route that is not its own.
fn is_owed<K: Key>(table: &Table<K>, group: &Group, paths: &PathItems, peer: PeerIndex) -> bool {
    let source = |item| match group.terms.add_path {
        true => paths.get(item).map(|p| p.peer),
        false => table.entries()[item as usize].best().map(|p| p.peer),
    };
    group.pending.iter().any(|item| group.adj.has(peer, item) || source(item).is_some_and(|s| s != peer))
}

/// Room for what is encoded next, kept from one chunk to the other: one prefix at a time is the common case, and to allocate
/// for it would take longer than to encode it.
#[derive(Default)]
pub(super) struct Room {
    items: Vec<u32>,
    reach: Vec<Reach>,
    unreach: Vec<(Audience, u32)>,
    gone: Vec<u32>,
    /// Sets that policies made: their references are given back at the end.
    made: Vec<AttrId>,
    attributes: Vec<u8>,
}

impl Room {
    /// Takes it out of where it is kept, empty.
    fn take(shared: &mut Shared) -> Room {
        let mut room = std::mem::take(&mut shared.room);
        room.items.clear();
        room.reach.clear();
        room.unreach.clear();
        room.gone.clear();
        room
    }

    /// Puts it back, and gives back what was made.
    fn put_back(mut self, shared: &mut Shared) {
        self.made.drain(..).for_each(|id| shared.attrs.release(id));
        shared.room = self;
    }
}

/// A route to announce.
#[derive(Clone, Copy)]
pub(super) struct Reach {
    pub(super) source: PeerIndex,
    pub(super) set: AttrId,
    pub(super) item: u32,
}

/// Encodes the next of what is pending in a group.
fn encode<K: Key>(
    table: &Table<K>,
    shared: &mut Shared,
    group: &mut Group,
    paths: &mut PathItems,
    limits: Limits,
) -> Chunk {
    let mut room = Room::take(shared);
    group.pending.take(limits.chunk_items, &mut room.items);
    let accepts_all = group.terms.export.policy.accepts_all(K::FAMILY);
    for &item in &room.items {
        match exported(table, shared, &group.terms, paths, item, accepts_all, &mut room.made) {
            Ok((set, source)) => room.reach.push(Reach { source, set, item }),
            Err(withheld) => {
                if withheld == Withheld::NoRoute && group.terms.add_path {
                    paths.note_gone(item);
                }
                room.gone.push(item);
            }
        }
    }
    let paths = &*paths;
    let is_read = group.has_readers();
    let mut chunk = Chunk::with_room_for(room.items.len());
    let mut writer = Writer::new(table, paths, &group.terms, std::mem::take(&mut room.attributes));
    room.reach.sort_by_key(|r| (r.source, r.set));
    let mut left = room.reach.as_slice();
    while let Some(run) = left.chunk_by(|a, b| (a.source, a.set) == (b.source, b.set)).next() {
        if chunk.octets.len() >= limits.chunk_octets {
            break;
        }
        left = &left[run.len()..];
        if !writer.begin(shared, run[0]) {
            room.gone.extend(run.iter().map(|r| r.item));
            continue;
        }
        if is_read {
            writer.reach(&mut chunk.octets, run.iter().map(|r| r.item));
        }
        let source = run[0].source;
        // RFC 4271 section 5.1.3.
        let next_hop = writer.next_hop().and_then(|a| shared.peer_at(a)).filter(|&p| p != source).unwrap_or(NOBODY);
        let now = Hearers { source, next_hop };
        chunk.close_span(Audience::All(now));
        for &Reach { item, .. } in run {
            let before = group.adj.set(item, now);
            chunk.ops.push(Op { item, before });
            // Those have what was announced before, and are not told this.
            for peer in [source, next_hop].into_iter().filter(|&p| p != NOBODY && before.include(p)) {
                room.unreach.push((Audience::Only(peer), item));
            }
        }
    }
    left.iter().for_each(|r| {
        group.pending.insert(r.item);
    });
    for &item in &room.gone {
        let before = group.adj.set(item, Hearers::NONE);
        if before != Hearers::NONE {
            chunk.ops.push(Op { item, before });
            room.unreach.push((Audience::All(before), item));
        }
    }
    if is_read {
        room.unreach.sort_unstable();
        for run in room.unreach.chunk_by(|a, b| a.0 == b.0) {
            writer.unreach(&mut chunk.octets, run.iter().map(|u| u.1));
            chunk.close_span(run[0].0);
        }
    }
    room.attributes = writer.into_room();
    room.put_back(shared);
    chunk
}

/// Writes the next of a peer's backlog.
fn tell<K: Key>(
    table: &Table<K>,
    shared: &mut Shared,
    (group, backlog, peer): (&Group, &mut Backlog, PeerIndex),
    paths: &PathItems,
    limits: Limits,
    out: &mut Vec<u8>,
) {
    let mut room = Room::take(shared);
    backlog.pending.take(limits.chunk_items, &mut room.items);
    let accepts_all = group.terms.export.policy.accepts_all(K::FAMILY);
    for &item in &room.items {
        // What is announced to all next is told then.
        if group.pending.contains(item) || table.is_changed(paths.entry(item, group.terms.add_path)) {
            backlog.pending.insert(item);
            continue;
        }
        let route = group
            .adj
            .has(peer, item)
            .then(|| exported(table, shared, &group.terms, paths, item, accepts_all, &mut room.made).ok());
        match route.flatten() {
            Some((set, source)) => room.reach.push(Reach { source, set, item }),
            None if backlog.told.remove(item) => room.gone.push(item),
            None => {}
        }
    }
    let limit = out.len() + limits.chunk_octets;
    let mut writer = Writer::new(table, paths, &group.terms, std::mem::take(&mut room.attributes));
    room.reach.sort_by_key(|r| (r.source, r.set));
    let mut left = room.reach.as_slice();
    while let Some(run) = left.chunk_by(|a, b| (a.source, a.set) == (b.source, b.set)).next() {
        if out.len() >= limit {
            break;
        }
        left = &left[run.len()..];
        // A set that does not fit is announced to nobody, so it fits.
        if writer.begin(shared, run[0]) {
            writer.reach(out, run.iter().map(|r| r.item));
        }
        run.iter().for_each(|r| {
            backlog.told.remove(r.item);
        });
    }
    left.iter().for_each(|r| {
        backlog.pending.insert(r.item);
    });
    writer.unreach(out, room.gone.iter().copied());
    room.attributes = writer.into_room();
    room.put_back(shared);
}

/// Why the peers of a group do not get a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Withheld {
    /// There is none that can be used.
    NoRoute,
    /// From one iBGP peer to another, and we do not reflect.
    Ibgp,
    NoAdvertise,
    NoExport,
    LongLivedStale,
    OnlyToCustomer,
    /// RFC 8212.
    NoPolicy,
    NoNextHop,
    /// The first export rule that matches rejects it.
    Rule,
    /// No rule of the peer matches, and the export rules of the node reject it.
    NotExported,
    /// No rule matches.
    Default,
}

/// The set to send for an item and where it comes from, or why nobody of the group may have it. Sets that a policy makes are
/// noted in `made`: their reference is the caller's to release.
pub(super) fn exported<K: Key>(
    table: &Table<K>,
    shared: &mut Shared,
    to: &Terms,
    paths: &PathItems,
    item: u32,
    accepts_all: bool,
    made: &mut Vec<AttrId>,
) -> Result<(AttrId, PeerIndex), Withheld> {
    let entry = &table.entries()[paths.entry(item, to.add_path) as usize];
    let path = if to.add_path {
        let wanted = paths.get(item).ok_or(Withheld::NoRoute)?;
        *entry.paths().iter().find(|p| (p.peer, p.id) == (wanted.peer, wanted.received_id)).ok_or(Withheld::NoRoute)?
    } else {
        *entry.best().ok_or(Withheld::NoRoute)?
    };
    if to.add_path && !shared.is_eligible(&path) {
        return Err(Withheld::NoRoute);
    }
    if !may_pass(shared.peer(path.peer), to) {
        return Err(Withheld::Ibgp);
    }
    let set = shared.attrs.get(path.used);
    let is_local = path.peer == LOCAL;
    // RFC 1997 is about routes received with them: what we say of our own routes is for the peers to obey, as in Calico.
    let marks = if is_local { Marks::default() } else { set.marks };
    if marks.no_advertise {
        return Err(Withheld::NoAdvertise);
    }
    if to.is_ebgp && (marks.no_export || marks.blackhole) {
        return Err(Withheld::NoExport);
    }
    // RFC 9494 section 4.3: whoever does not know the mark would prefer the route.
    if marks.llgr_stale && !to.long_lived {
        return Err(Withheld::LongLivedStale);
    }
    // RFC 9234 section 5: what came from above or from the side goes down only.
    if to.is_up_or_beside() && set.attributes.only_to_customer().is_some() {
        return Err(Withheld::OnlyToCustomer);
    }
    // RFC 8212 section 2.
    if to.requires_policy && to.is_ebgp && to.export.policy.rules.is_empty() {
        return Err(Withheld::NoPolicy);
    }
    to.next_hop(K::FAMILY, &set.attributes, path.peer).ok_or(Withheld::NoNextHop)?;
    if accepts_all {
        return Ok((path.used, path.peer));
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
        Some(_) => return Err(Withheld::Rule),
        None if is_local => origin.is_some_and(|o| o.export).then_some(None).ok_or(Withheld::NotExported)?,
        None => (to.export.policy.default == Action::Accept).then_some(None).ok_or(Withheld::Default)?,
    };
    let id = match changed {
        None => path.used,
        Some(changed) => {
            let id = shared.intern(changed);
            made.push(id);
            id
        }
    };
    Ok((id, path.peer))
}

/// RFC 4271 section 9.2: what one iBGP peer said is not for another, unless RFC 4456 section 6 lets a reflector pass it on.
fn may_pass(from: Option<&PeerInfo>, to: &Terms) -> bool {
    match from {
        Some(from) if !from.is_ebgp && !to.is_ebgp => from.rr_client || to.rr_client,
        _ => true,
    }
}
