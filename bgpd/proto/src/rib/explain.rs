//! Why a prefix goes the way it goes: every path and where it lost, what import policy made of it, who is told and who not.
//!
//! Nothing here decides: the answers are those of [`decision`](super::decision), `import` and `export`, asked once more.

use std::net::IpAddr;

use super::decision::{Candidate, Step, deciding_step, select_and_tell};
use super::encode::Writer;
use super::export::{Reach, Withheld, exported};
use super::group::{Groups, Terms};
use super::import::{Refusal, RouteView, refusal};
use super::{AttrId, LOCAL, Origin, Path, PeerIndex, Rib, Shared, Stale, Table};
use crate::af::{Family, Key, Prefix};
use crate::policy::{Action, Policy};
use crate::wire::HEADER_LEN;
use crate::wire::attribute::{Attributes, Context};
use crate::wire::iana::origin_name;
use crate::wire::update::Update;

/// All about one prefix.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub prefix: Prefix,
    /// The best one first.
    pub paths: Vec<PathFate>,
    /// Every peer that has a session with the prefix's family.
    pub peers: Vec<Hearer>,
    /// Our own route, if there is one.
    pub origin: Option<Origin>,
}

/// What became of a path.
#[derive(Clone, Debug)]
pub struct PathFate {
    /// `None`: a route of our own.
    pub peer: Option<IpAddr>,
    pub path_id: u32,
    pub received: Attributes,
    /// After loop checks and import policy; `None`: turned down.
    pub used: Option<Attributes>,
    pub is_stale: bool,
    /// How far away the next hop is; `None`: it cannot be reached.
    pub metric: Option<u32>,
    /// What import made of it; empty where nothing was to be said.
    pub import: String,
    pub fate: Fate,
    /// A sentence.
    pub why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Best,
    /// Used together with the best, but not announced.
    Multipath,
    Lost(Step),
    /// Turned down at import, or without a next hop: not a candidate.
    Unusable,
}

/// A peer, and what it is told.
#[derive(Clone, Debug)]
pub struct Hearer {
    pub peer: IpAddr,
    /// As it is sent.
    pub told: Option<Attributes>,
    /// Why it is not told, or which export rule changed what it is told; empty where nothing is to be said.
    pub why: String,
}

impl Rib {
    /// Explains the prefix itself, or else the longest one that has a path and that it lies inside of.
    pub fn explain(&mut self, target: Prefix) -> Option<Explanation> {
        let lens = (0..=target.len()).rev();
        let mut all = lens.filter_map(|len| Prefix::new(target.address(), len));
        all.find_map(|prefix| match prefix.family() {
            Family::Ipv4 => explain(&self.v4, &mut self.shared, &self.out[0], prefix),
            Family::Ipv6 => explain(&self.v6, &mut self.shared, &self.out[1], prefix),
        })
    }

    /// What a peer is sent of a path, as it reads it; `None`: nothing.
    pub(super) fn sent(
        &mut self,
        peer: PeerIndex,
        prefix: Prefix,
        from: Option<IpAddr>,
        path_id: u32,
    ) -> Option<Attributes> {
        match prefix.family() {
            Family::Ipv4 => sent_of(&self.v4, &mut self.shared, &self.out[0], peer, prefix, from, path_id),
            Family::Ipv6 => sent_of(&self.v6, &mut self.shared, &self.out[1], peer, prefix, from, path_id),
        }
    }
}

fn explain<K: Key>(table: &Table<K>, shared: &mut Shared, out: &Groups, prefix: Prefix) -> Option<Explanation> {
    let at = table.find(K::from_prefix(prefix)?)?;
    let entry = &table.entries()[at as usize];
    if entry.paths().is_empty() {
        return None;
    }
    let paths = fates(shared, prefix, entry.paths());
    let best = entry.best().copied();
    let peers: Vec<PeerIndex> = (1..shared.peers.len() as PeerIndex).filter(|&p| out.terms(p).is_some()).collect();
    let peers = peers.into_iter().filter_map(|p| hearer(table, shared, out, p, at, best)).collect();
    Some(Explanation { prefix, paths, peers, origin: shared.origins.get(&prefix).cloned() })
}

/// Every path, as the decision process left them: the best first.
fn fates(shared: &mut Shared, prefix: Prefix, paths: &[Path]) -> Vec<PathFate> {
    let mut candidates: Vec<(usize, Candidate)> =
        paths.iter().enumerate().filter_map(|(i, p)| Some((i, shared.candidate(p)?))).collect();
    let all = candidates.clone();
    let of = |i: usize| all.iter().find(|(n, _)| *n == i).map(|(_, c)| *c);
    let mut lost = Vec::new();
    let multipath = select_and_tell(&mut candidates, |i, step| lost.push((i, step)));
    let best = candidates.first().copied();
    let mut fates: Vec<PathFate> = Vec::new();
    for (rank, (i, candidate)) in candidates.iter().take(multipath).enumerate() {
        let (fate, why) = match best {
            Some((_, best)) if rank > 0 => {
                let step = deciding_step(&best, candidate);
                (Fate::Multipath, format!("used together with the best; {}", difference(step, candidate, &best)))
            }
            _ => (Fate::Best, "the best".to_string()),
        };
        fates.push(path_fate(shared, prefix, &paths[*i], fate, why));
    }
    for (i, step) in lost {
        // A path of another neighbour AS may be the best, but not the one that was lower in MED.
        let winner = all.iter().map(|(_, c)| c).filter(|c| step != Step::Med || is_same_as(c, of(i)));
        let winner = winner.min_by_key(|c| if step == Step::Med { c.med } else { u32::MAX }).copied();
        let winner = if step == Step::Med { winner } else { best.map(|b| b.1) };
        let why = match (of(i), winner) {
            (Some(loser), Some(winner)) => difference(step, &loser, &winner),
            _ => String::new(),
        };
        fates.push(path_fate(shared, prefix, &paths[i], Fate::Lost(step), why));
    }
    for (i, path) in paths.iter().enumerate().filter(|(i, _)| of(*i).is_none()) {
        let why = match path.used == AttrId::NONE {
            true => "turned down at import".to_string(),
            false => "its next hop cannot be reached (RFC 4271 section 9.1.2)".to_string(),
        };
        fates.push(path_fate(shared, prefix, &paths[i], Fate::Unusable, why));
    }
    fates
}

fn is_same_as(a: &Candidate, b: Option<Candidate>) -> bool {
    b.is_some_and(|b| a.neighbour_as == b.neighbour_as)
}

fn path_fate(shared: &mut Shared, prefix: Prefix, path: &Path, fate: Fate, why: String) -> PathFate {
    let used = (path.used != AttrId::NONE).then(|| shared.attrs.get(path.used).attributes.clone());
    let metric = match &used {
        _ if path.peer == LOCAL => Some(0),
        Some(used) => shared.metric(used.next_hop),
        None => None,
    };
    PathFate {
        peer: shared.peer(path.peer).map(|p| p.address),
        path_id: path.id,
        received: shared.attrs.get(path.received).attributes.clone(),
        used,
        is_stale: path.stale != Stale::No,
        metric,
        import: imported(shared, prefix, path),
        fate,
        why,
    }
}

/// What loop checks and import policy said.
fn imported(shared: &Shared, prefix: Prefix, path: &Path) -> String {
    let Some(info) = shared.peer(path.peer) else { return String::new() };
    let attributes = &shared.attrs.get(path.received).attributes;
    if let Some(refusal) = refusal(info, attributes) {
        return refused(refusal).into();
    }
    let route = RouteView { prefix, attributes, interface: None, is_local: false, is_ebgp: info.is_ebgp };
    let said = by_rule(
        &info.import,
        info.import.decide(&route).map(|r| (r.name.as_str(), r.action, !r.operations.is_empty())),
    );
    match (said.is_empty(), path.used == path.received || path.used == AttrId::NONE) {
        // Marks of RFC 8326, 9234 and 9494 are put on without a rule.
        (true, false) => "changed as its communities and the session's role ask".into(),
        _ => said,
    }
}

fn by_rule(policy: &Policy, rule: Option<(&str, Action, bool)>) -> String {
    match rule {
        Some((name, Action::Reject, _)) => format!("rejected by {}", named(name)),
        Some((name, Action::Accept, true)) => format!("changed by {}", named(name)),
        Some((name, Action::Accept, false)) if !name.is_empty() => format!("accepted by {name}"),
        None if policy.default == Action::Reject => "rejected: no rule accepts it".into(),
        _ => String::new(),
    }
}

fn named(name: &str) -> &str {
    if name.is_empty() { "a rule" } else { name }
}

fn refused(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::OwnAs => "turned down: our own AS is in its path (RFC 4271 section 9)",
        Refusal::OwnOriginatorId => "turned down: it began here, by its ORIGINATOR_ID (RFC 4456 section 8)",
        Refusal::OwnClusterId => "turned down: it has been in our cluster, by its CLUSTER_LIST (RFC 4456 section 8)",
        Refusal::NoPolicy => "turned down: the peer has no import filter, and ebgpRequiresPolicy is set (RFC 8212)",
        Refusal::RouteLeak => {
            "turned down: a route leak by its OTC attribute and the session's role (RFC 9234 section 5)"
        }
        Refusal::AsSet => "turned down: it has an AS_SET, and rejectASSets is set (RFC 9774)",
    }
}

/// What made `loser` lose against `winner`, with both values.
fn difference(step: Step, loser: &Candidate, winner: &Candidate) -> String {
    let session = |c: &Candidate| if c.is_ebgp { "eBGP" } else { "iBGP" };
    match step {
        Step::LongLivedStale => "it is long-lived stale (RFC 9494 section 4.3)".into(),
        Step::LocalPref => format!("LOCAL_PREF {} is lower than {}", loser.local_pref, winner.local_pref),
        Step::Local => "it is learned, and this node has a route of its own".into(),
        Step::AsPathLength => format!("AS_PATH of {} is longer than {}", loser.as_path_len, winner.as_path_len),
        Step::Origin => format!("ORIGIN {} is worse than {}", origin_name(loser.origin), origin_name(winner.origin)),
        Step::Med => {
            format!("MED {} is higher than {} of the same neighbour AS {}", loser.med, winner.med, loser.neighbour_as)
        }
        Step::Ebgp => format!("{} goes behind {}", session(loser), session(winner)),
        Step::IgpMetric => {
            format!("its next hop is farther away: metric {}, not {}", loser.igp_metric, winner.igp_metric)
        }
        Step::RouterId => format!("BGP identifier {} is higher than {}", loser.router_id, winner.router_id),
        Step::ClusterListLength => {
            format!("CLUSTER_LIST of {} is longer than {}", loser.cluster_list_len, winner.cluster_list_len)
        }
        Step::PeerAddress => format!("peer address {} is higher than {}", loser.peer, winner.peer),
        Step::PathId => format!("path identifier {} is higher than {}", loser.path_id, winner.path_id),
    }
}

fn hearer<K: Key>(
    table: &Table<K>,
    shared: &mut Shared,
    out: &Groups,
    peer: PeerIndex,
    at: u32,
    best: Option<Path>,
) -> Option<Hearer> {
    let address = shared.peer(peer)?.address;
    let terms = out.terms(peer)?;
    let Some(best) = best else {
        return Some(Hearer { peer: address, told: None, why: "no path can be used".into() });
    };
    if best.peer == peer && !terms.add_path {
        return Some(Hearer { peer: address, told: None, why: "the best path is its own".into() });
    }
    // With add-path it is told more; what is said here is about the best.
    let told = match out.item(peer, at, &best) {
        Some(item) => sent(table, shared, out, terms, item),
        None => Err(Withheld::NoRoute),
    };
    let rule = export_rule(table, shared, terms, at, &best);
    let why = match &told {
        Ok(set) if set.next_hop == address && shared.peer_at(address).is_some() => {
            let why = "the next hop would be its own address (RFC 4271 section 5.1.3)".into();
            return Some(Hearer { peer: address, told: None, why });
        }
        Ok(_) if !out.is_told_path(peer, at, &best, true) => "it is about to be told".into(),
        Ok(_) => rule,
        Err(Withheld::Rule | Withheld::Default) => rule,
        Err(Withheld::NotExported) if !rule.is_empty() => format!("not announced: {rule}"),
        Err(withheld) => withheld_because(*withheld).into(),
    };
    Some(Hearer { peer: address, told: told.ok(), why })
}

fn export_rule<K: Key>(table: &Table<K>, shared: &Shared, to: &Terms, at: u32, path: &Path) -> String {
    let prefix = table.entries()[at as usize].key.prefix();
    let is_local = path.peer == LOCAL;
    let origin = shared.origins.get(&prefix).filter(|_| is_local);
    let route = RouteView {
        prefix,
        attributes: &shared.attrs.get(path.used).attributes,
        interface: origin.and_then(|o| o.interface.as_deref()),
        is_local,
        is_ebgp: to.is_ebgp,
    };
    let rule = to.export.policy.decide(&route);
    if let (None, Some(origin)) = (rule, origin) {
        // A route of our own that no BGPFilter is about has the verdict that it was originated with.
        return origin.rule.into();
    }
    by_rule(&to.export.policy, rule.map(|r| (r.name.as_str(), r.action, !r.operations.is_empty())))
}

fn withheld_because(withheld: Withheld) -> &'static str {
    match withheld {
        Withheld::NoRoute => "no path can be used",
        Withheld::Ibgp => {
            "it came from an iBGP peer, and neither of the two is a client of this reflector (RFC 4456 section 6)"
        }
        Withheld::NoAdvertise => "it carries NO_ADVERTISE (RFC 1997)",
        Withheld::NoExport => "its communities keep it in this AS (RFC 1997, RFC 7999)",
        Withheld::LongLivedStale => "it is long-lived stale, which the peer does not know (RFC 9494 section 4.3)",
        Withheld::OnlyToCustomer => "it goes to customers only, by its OTC attribute (RFC 9234 section 5)",
        Withheld::NoPolicy => "the peer has no export filter, and ebgpRequiresPolicy is set (RFC 8212)",
        Withheld::NoNextHop => "there is no address of the family to give as next hop",
        Withheld::NotExported => "the node's export rules do not announce it",
        Withheld::Rule | Withheld::Default => "the export rules reject it",
    }
}

fn sent_of<K: Key>(
    table: &Table<K>,
    shared: &mut Shared,
    out: &Groups,
    peer: PeerIndex,
    prefix: Prefix,
    from: Option<IpAddr>,
    path_id: u32,
) -> Option<Attributes> {
    let at = table.find(K::from_prefix(prefix)?)?;
    let is_it = |p: &&Path| p.id == path_id && shared.peer(p.peer).map(|i| i.address) == from;
    let path = *table.entries()[at as usize].paths().iter().find(is_it)?;
    let item = out.item(peer, at, &path)?;
    sent(table, shared, out, out.terms(peer)?, item).ok()
}

/// What the peers of a group read of an item: the message is written as it always is, and read.
fn sent<K: Key>(
    table: &Table<K>,
    shared: &mut Shared,
    out: &Groups,
    to: &Terms,
    item: u32,
) -> Result<Attributes, Withheld> {
    let accepts_all = to.export.policy.accepts_all(K::FAMILY);
    let mut made = Vec::new();
    let route = exported(table, shared, to, &out.paths, item, accepts_all, &mut made);
    let mut octets = Vec::new();
    if let Ok((set, source)) = route {
        let mut writer = Writer::new(table, &out.paths, to, Vec::new());
        if writer.begin(shared, Reach { source, set, item }) {
            writer.reach(&mut octets, std::iter::once(item));
        }
    }
    made.into_iter().for_each(|id| shared.attrs.release(id));
    route?;
    let cx = Context {
        four_octet_as: to.export.four_octet_as,
        ibgp: !to.is_ebgp,
        ipv4: true,
        ipv6: true,
        add_path_receive: [to.add_path; 2],
        extended_next_hop: true,
        extended_messages: true,
        local_address: std::net::Ipv4Addr::UNSPECIFIED.into(),
        first_as: None,
    };
    let update = octets.get(HEADER_LEN..).and_then(|body| Update::read(&cx, body).ok());
    update.and_then(|u| u.announced.into_iter().next()).map(|(_, _, attributes)| attributes).ok_or(Withheld::NoNextHop)
}

#[cfg(test)]
mod tests;
