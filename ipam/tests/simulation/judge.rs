//! What must be true. The judge sees every write the store takes, and what every call was told, and knows nothing of how the allocator
//! works.
//!
//! - **Told**: a caller that got an address has it until it, or somebody entitled to it, asks for its release. Meanwhile nobody else gets
//!   it, and no write takes it away.
//! - **Stored**: blocks never overlap and are well formed; with transactions, after every write a handle counts exactly the addresses
//!   that it has, and blocks and affinities agree.
//! - **Answers**: what a call returns was true at some moment while it ran, and is all that its own writes did.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::ipam::{AffinityState, BlockAffinity, IpamHandle};
use api::key::AffinityOwner;
use api::{Key, Kind};
use datastore::Op;
use ipam::block::Block;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

use crate::life::Holder;
use crate::world::CallId;

/// Number of the write or answer, counted from the episode's start.
pub type Moment = u64;

/// What the model knows of a workload's handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has exactly what its caller was told.
    Live,
    /// A call failed, crashed, or met another about the same handle: what it has is not known before it is asked or released.
    Uncertain,
    /// Released, and the caller was told so. What still turns up is for the collection.
    Gone,
}

/// What an answer says of a handle's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Those that this call took.
    New,
    /// One of them, which it may have had before.
    One,
    /// All of them.
    All,
}

/// A call under way.
#[derive(Debug)]
struct Call {
    began: Moment,
    handles: BTreeSet<String>,
    gained: BTreeSet<(String, IpAddr)>,
    lost: BTreeSet<IpAddr>,
    /// Another call is about one of the same handles or addresses.
    is_contended: bool,
    /// The blocks in which the records of the handles counted addresses when it began.
    counted: BTreeSet<String>,
    /// A write of it had an unknown outcome.
    is_unsure: bool,
}

/// What the collection may do.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub grace: SignedDuration,
    pub has_kubernetes: bool,
}

/// Watches that broke stand again by then.
const RECONNECTED: SignedDuration = SignedDuration::from_mins(2);

/// The judge.
pub struct Judge {
    is_exact: bool,
    now: Moment,
    blocks: BTreeMap<IpNet, Block>,
    handles: BTreeMap<String, BTreeMap<String, usize>>,
    affinities: BTreeMap<(AffinityOwner, IpNet), BlockAffinity>,
    /// Who has which address by the blocks.
    owners: BTreeMap<IpAddr, String>,
    /// The same, counted by handle and block.
    counts: BTreeMap<String, BTreeMap<String, usize>>,
    /// Every change of an address's owner.
    history: BTreeMap<IpAddr, Vec<(Moment, Option<String>)>>,
    told: BTreeMap<IpAddr, String>,
    standing: BTreeMap<String, Standing>,
    calls: BTreeMap<CallId, Call>,
    /// Calls that ended without an answer, while a write of theirs may still come: whom it would concern.
    open: BTreeMap<CallId, BTreeSet<String>>,
    /// Addresses that calls are releasing whoever has them: how many, and when the last of them ended.
    releases: BTreeMap<IpAddr, (usize, Moment)>,
    /// Where there is a collection.
    rules: Option<Rules>,
    /// Reads may be old: an answer that wrote nothing proves nothing.
    is_stale: bool,
    /// Some clients follow the store.
    follows: bool,
    /// When the watches broke last: what comes and goes before they stand again, a collection does not see.
    broken: Timestamp,
    time: Timestamp,
    /// When each address was given.
    given: BTreeMap<IpAddr, Timestamp>,
    /// The nodes on which handles are.
    homes: BTreeMap<String, String>,
    /// Nodes that are not there now, and when those that are there again came back.
    absent: BTreeSet<String>,
    returned: BTreeMap<String, Moment>,
    /// Handles with an endpoint, or whose service or pod is there.
    running: BTreeSet<String>,
    /// What their endpoints have.
    endpoints: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Handles that nobody stands behind any more, and since when; with their node, or alone.
    over: BTreeMap<String, Timestamp>,
    doomed: BTreeSet<String>,
    /// Calls of the collection, and when they began.
    collections: BTreeMap<CallId, Moment>,
}

/// A violation, in words.
pub type Verdict = Result<(), String>;

impl Judge {
    /// With `is_exact`, handles and affinities are checked after every write, else only where they are asked for.
    pub fn new(is_exact: bool, rules: Option<Rules>, is_stale: bool, follows: bool) -> Self {
        Self {
            is_exact,
            rules,
            is_stale,
            follows,
            broken: Timestamp::MIN,
            time: Timestamp::MIN,
            given: BTreeMap::new(),
            homes: BTreeMap::new(),
            absent: BTreeSet::new(),
            returned: BTreeMap::new(),
            running: BTreeSet::new(),
            endpoints: BTreeMap::new(),
            over: BTreeMap::new(),
            doomed: BTreeSet::new(),
            collections: BTreeMap::new(),
            now: 0,
            blocks: BTreeMap::new(),
            handles: BTreeMap::new(),
            affinities: BTreeMap::new(),
            owners: BTreeMap::new(),
            counts: BTreeMap::new(),
            history: BTreeMap::new(),
            told: BTreeMap::new(),
            standing: BTreeMap::new(),
            calls: BTreeMap::new(),
            open: BTreeMap::new(),
            releases: BTreeMap::new(),
        }
    }

    pub fn now(&self) -> Moment {
        self.now
    }

    pub fn owners(&self) -> &BTreeMap<IpAddr, String> {
        &self.owners
    }

    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.values()
    }

    /// What callers have and nobody is releasing.
    pub fn told(&self) -> &BTreeMap<IpAddr, String> {
        &self.told
    }

    pub fn standing(&self, handle: &str) -> Option<Standing> {
        self.standing.get(handle).copied()
    }

    /// The handles of a standing, in order.
    pub fn handles_that_are(&self, wanted: Standing) -> Vec<String> {
        self.standing.iter().filter(|(_, s)| **s == wanted).map(|(h, _)| h.clone()).collect()
    }

    // What the world does

    pub fn watches_break(&mut self) {
        self.broken = self.time;
    }

    /// The store gave no answer to a write of a call.
    pub fn is_unsure(&mut self, id: CallId) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.is_unsure = true;
        }
    }

    /// It is as late as that.
    pub fn set_time(&mut self, time: Timestamp) {
        self.time = time;
    }

    /// A handle is of this node.
    pub fn set_home(&mut self, handle: &str, node: &str) {
        if self.rules.is_some() {
            self.homes.entry(handle.into()).or_insert_with(|| node.into());
            if self.absent.contains(node) {
                self.doom(handle);
            }
        }
    }

    pub fn runs(&mut self, handle: &str) {
        self.running.insert(handle.into());
    }

    /// The same with an endpoint.
    pub fn runs_with(&mut self, handle: &str, addresses: &[IpAddr]) {
        self.runs(handle);
        self.endpoints.insert(handle.into(), addresses.iter().copied().collect());
    }

    /// Nobody stands behind a handle any more, since that time.
    pub fn ends(&mut self, handle: &str, since: Timestamp) {
        self.running.remove(handle);
        self.endpoints.remove(handle);
        if Holder::of(handle).is_collected() {
            self.over.entry(handle.into()).or_insert(since);
            self.told.retain(|_, holder| holder != handle);
            self.standing.insert(handle.into(), Standing::Gone);
        }
    }

    /// Its node is gone.
    fn doom(&mut self, handle: &str) {
        let is_safe = match Holder::of(handle) {
            Holder::ByHand | Holder::Service | Holder::Plain => true,
            Holder::Pod => self.rules.is_some_and(|r| r.has_kubernetes),
            Holder::Container | Holder::Tunnel => false,
        };
        if !is_safe {
            self.doomed.insert(handle.into());
            self.told.retain(|_, holder| holder != handle);
            self.standing.insert(handle.into(), Standing::Gone);
        }
    }

    /// Whether the node of a handle is there.
    pub fn is_at_home(&self, handle: &str) -> bool {
        self.homes.get(handle).is_some_and(|node| !self.absent.contains(node))
    }

    fn is_ended(&self, handle: &str) -> bool {
        self.over.contains_key(handle) || self.doomed.contains(handle)
    }

    /// A call begins that collects.
    pub fn begin_collection(&mut self, id: CallId) {
        self.begin(id, BTreeSet::new(), false);
        self.collections.insert(id, self.now);
    }

    fn write_node(&mut self, name: &str, is_there: bool) {
        if is_there {
            if self.absent.remove(name) {
                self.returned.insert(name.into(), self.now);
            }
        } else if self.rules.is_some() {
            self.absent.insert(name.into());
            let here: Vec<String> = self.homes.iter().filter(|(_, n)| *n == name).map(|(h, _)| h.clone()).collect();
            here.iter().for_each(|handle| self.doom(handle));
        }
    }

    /// Whether a collection that began then may take an address from a handle.
    fn may_collect(&self, began: Moment, ip: IpAddr, handle: &str, rules: Rules) -> Verdict {
        let refuse = |why: &str| Err(format!("{ip} was collected from {handle}: {why}"));
        let passed =
            |since: Timestamp, wait: SignedDuration| since == Timestamp::MIN || self.time.duration_since(since) >= wait;
        let given = self.given.get(&ip).copied().unwrap_or(Timestamp::MIN);
        let home = self.homes.get(handle).map(String::as_str).unwrap_or_default();
        let was_absent = self.absent.contains(home) || self.returned.get(home).is_some_and(|at| *at >= began);
        let is_node_gone = self.doomed.contains(handle) || was_absent;
        // Where endpoints are the truth: one that its endpoint does not have, and of which it was not told.
        let has_other = self.endpoints.get(handle).is_some_and(|addresses| !addresses.contains(&ip));
        let is_beside = has_other && !rules.has_kubernetes && self.told.get(&ip).is_none_or(|h| h != handle);
        match Holder::of(handle) {
            Holder::ByHand | Holder::Plain => refuse("it was taken by hand"),
            Holder::Tunnel if is_node_gone => Ok(()),
            Holder::Tunnel => refuse("its node is there"),
            Holder::Pod | Holder::Container | Holder::Service
                if self.running.contains(handle) && !self.doomed.contains(handle) && !is_beside =>
            {
                refuse("it runs")
            }
            Holder::Pod | Holder::Container if is_node_gone => Ok(()),
            holder => {
                let wait = if holder == Holder::Service { rules.grace / 2 } else { rules.grace };
                if !passed(given, wait) {
                    return refuse("it was given too lately");
                }
                let is_seen = given == Timestamp::MIN || self.broken < given - RECONNECTED;
                match self.over.get(handle) {
                    Some(since) if is_seen && !passed(*since, wait) => refuse("it has ended too lately"),
                    None if self.told.get(&ip).is_some_and(|h| h == handle) => {
                        refuse("it has been told that it has it")
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    /// What must be so after a collection that has nothing left to do: no block is there for nothing.
    pub fn check_collected(&self) -> Verdict {
        let mut idle: BTreeMap<(AffinityOwner, bool), Vec<IpNet>> = BTreeMap::new();
        for (cidr, block) in &self.blocks {
            match block.owner() {
                None if block.is_empty() => return Err(format!("block {cidr} is empty and nobody's")),
                Some(AffinityOwner::Host(node)) if self.absent.contains(&node) => {
                    let is_here = |h: &Option<String>| {
                        h.as_deref().is_some_and(|h| self.running.contains(h) && self.homes.get(h) == Some(&node))
                    };
                    if !block.allocated().any(|(_, a)| is_here(&a.handle_id)) {
                        return Err(format!("block {cidr} is of node {node}, which is gone"));
                    }
                }
                Some(AffinityOwner::Virtual(_)) if block.is_empty() => {
                    return Err(format!("block {cidr} of services is empty"));
                }
                Some(owner) if block.is_empty() => {
                    idle.entry((owner, cidr.addr().is_ipv6())).or_default().push(*cidr);
                }
                _ => {}
            }
        }
        for ((owner, is_v6), blocks) in idle {
            let all =
                self.blocks.iter().filter(|(c, b)| b.owner().as_ref() == Some(&owner) && c.addr().is_ipv6() == is_v6);
            if blocks.len() > 1 || all.count() > blocks.len() {
                return Err(format!("blocks {blocks:?} of {owner:?} are empty, and not its last"));
            }
        }
        Ok(())
    }

    /// The number of an address's allocation.
    pub fn sequence_of(&self, ip: IpAddr) -> Option<u64> {
        self.blocks.values().find(|b| b.cidr().contains(&ip))?.sequence_of(ip)
    }

    /// Whether nothing of IPAM is stored any more.
    pub fn check_nothing_left(&self) -> Verdict {
        match (self.blocks.len(), self.handles.len(), self.affinities.len()) {
            (0, 0, 0) => Ok(()),
            (blocks, handles, affinities) => Err(format!(
                "{blocks} blocks, {handles} handles and {affinities} affinities are left after everything has gone"
            )),
        }
    }

    // Writes

    /// The store took these operations, asked for by this call.
    pub fn commit(&mut self, call: CallId, ops: &[Op]) -> Verdict {
        self.now += 1;
        let mut touched_handles = BTreeSet::new();
        let mut touched_blocks = BTreeSet::new();
        for op in ops {
            let (key, value) = match op {
                Op::Check(..) => continue,
                Op::Create(key, value) | Op::Update(key, value, _) | Op::Put(key, value) => (key, Some(value)),
                Op::Delete(key, _) => (key, None),
            };
            match key {
                Key::IpamBlock(cidr) => {
                    touched_blocks.insert(*cidr);
                    self.write_block(call, *cidr, value, &mut touched_handles)?;
                }
                Key::IpamHandle(id) => {
                    touched_handles.insert(id.clone());
                    self.handles.remove(id);
                    if let Some(value) = value {
                        let handle: IpamHandle = serde_json::from_slice(value).map_err(|e| format!("{key}: {e}"))?;
                        self.handles.insert(id.clone(), handle.block);
                    }
                }
                Key::BlockAffinity(owner, cidr) => {
                    touched_blocks.insert(*cidr);
                    self.affinities.remove(&(owner.clone(), *cidr));
                    if let Some(value) = value {
                        let affinity = serde_json::from_slice(value).map_err(|e| format!("{key}: {e}"))?;
                        self.affinities.insert((owner.clone(), *cidr), affinity);
                    }
                }
                Key::Resource { kind: Kind::Node, name, .. } => self.write_node(name, value.is_some()),
                _ => {}
            }
        }
        if self.is_exact {
            touched_handles.iter().try_for_each(|h| self.check_handle(h))?;
            touched_blocks.iter().try_for_each(|b| self.check_affinity(b))?;
        }
        Ok(())
    }

    fn write_block(
        &mut self,
        call: CallId,
        cidr: IpNet,
        value: Option<&Vec<u8>>,
        touched: &mut BTreeSet<String>,
    ) -> Verdict {
        let old = self.blocks.remove(&cidr);
        let new = value.map(|value| read_block(cidr, value)).transpose()?;
        if let (Some(old), Some(new)) = (&old, &new)
            && new.stored() != old.stored()
            && new.stored().sequence_number <= old.stored().sequence_number
        {
            return Err(format!("block {cidr} changed and its sequence number did not grow"));
        }
        let taken = |block: &Option<Block>| -> BTreeMap<IpAddr, String> {
            let of = |b: &Block| b.allocated().map(|(ip, a)| (ip, a.handle_id.clone().unwrap_or_default())).collect();
            block.as_ref().map(of).unwrap_or_default()
        };
        let (before, after) = (taken(&old), taken(&new));
        if let Some(block) = new {
            let overlaps = |other: &&IpNet| other.contains(&cidr) || cidr.contains(*other);
            if let Some(other) = self.blocks.keys().find(overlaps) {
                return Err(format!("block {cidr} overlaps block {other}"));
            }
            self.blocks.insert(cidr, block);
        }
        for (ip, handle) in &before {
            if after.get(ip) != Some(handle) {
                touched.insert(handle.clone());
                self.lose(call, *ip, handle, cidr)?;
            }
        }
        for (ip, handle) in &after {
            if before.get(ip) != Some(handle) {
                touched.insert(handle.clone());
                self.gain(call, *ip, handle, cidr)?;
            }
        }
        Ok(())
    }

    fn gain(&mut self, call: CallId, ip: IpAddr, handle: &str, block: IpNet) -> Verdict {
        if let Some(other) = self.owners.insert(ip, handle.into()) {
            return Err(format!("{ip} is owned twice: by {other} and {handle}"));
        }
        if let Some(other) = self.told.get(&ip).filter(|h| *h != handle) {
            return Err(format!("{ip} was given to {handle} while {other} has been told that it has it"));
        }
        *self.counts.entry(handle.into()).or_default().entry(block.to_string()).or_default() += 1;
        self.given.insert(ip, self.time);
        self.history.entry(ip).or_default().push((self.now, Some(handle.into())));
        if let Some(call) = self.calls.get_mut(&call) {
            call.gained.insert((handle.into(), ip));
        }
        Ok(())
    }

    fn lose(&mut self, call: CallId, ip: IpAddr, handle: &str, block: IpNet) -> Verdict {
        if let (Some(rules), Some(began)) = (self.rules, self.collections.get(&call)) {
            self.may_collect(*began, ip, handle, rules)?;
            self.told.remove(&ip);
        }
        if self.told.get(&ip).is_some_and(|h| h == handle) {
            return Err(format!(
                "{ip} was taken from {handle}, which has been told that it has it and released nothing"
            ));
        }
        self.owners.remove(&ip);
        if let Some(counts) = self.counts.get_mut(handle) {
            let key = block.to_string();
            let left = counts.get(&key).copied().unwrap_or_default().saturating_sub(1);
            if left == 0 {
                counts.remove(&key);
            } else {
                counts.insert(key, left);
            }
            if counts.is_empty() {
                self.counts.remove(handle);
            }
        }
        self.history.entry(ip).or_default().push((self.now, None));
        if let Some(call) = self.calls.get_mut(&call) {
            call.lost.insert(ip);
        }
        Ok(())
    }

    fn check_handle(&self, handle: &str) -> Verdict {
        let (stored, counted) = (self.handles.get(handle), self.counts.get(handle));
        if stored == counted {
            return Ok(());
        }
        Err(format!("handle {handle} says {stored:?}, and the blocks say {counted:?}"))
    }

    fn check_affinity(&self, cidr: &IpNet) -> Verdict {
        let owner = self.blocks.get(cidr).and_then(Block::owner);
        let claims: Vec<_> = self.affinities.iter().filter(|((_, block), _)| block == cidr).collect();
        let confirmed = BlockAffinity::new(AffinityState::Confirmed);
        match (&owner, claims.as_slice()) {
            (None, []) => Ok(()),
            (Some(owner), [((claimant, _), affinity)]) if claimant == owner && **affinity == confirmed => Ok(()),
            _ => Err(format!("block {cidr} is {owner:?}'s, and its affinities are {claims:?}")),
        }
    }

    /// Handles are exact, and blocks and affinities agree, everywhere.
    pub fn check_all(&self) -> Verdict {
        let handles: BTreeSet<&String> = self.handles.keys().chain(self.counts.keys()).collect();
        handles.into_iter().try_for_each(|h| self.check_handle(h))?;
        let blocks: BTreeSet<&IpNet> = self.blocks.keys().chain(self.affinities.keys().map(|(_, b)| b)).collect();
        blocks.into_iter().try_for_each(|b| self.check_affinity(b))
    }

    // Calls

    /// A call begins that is about these handles: to give them addresses, or (`releases`) to take what they have.
    pub fn begin(&mut self, id: CallId, handles: BTreeSet<String>, releases: bool) {
        self.now += 1;
        let mut is_contended = false;
        for other in self.calls.values_mut().filter(|c| !c.handles.is_disjoint(&handles)) {
            other.is_contended = true;
            is_contended = true;
        }
        if releases || is_contended {
            self.told.retain(|_, holder| !handles.contains(holder));
        }
        let records = handles.iter().filter_map(|h| self.handles.get(h));
        let counted = records.flat_map(BTreeMap::keys).cloned().collect();
        let (gained, lost) = Default::default();
        let is_unsure = false;
        self.calls.insert(id, Call { began: self.now, handles, gained, lost, is_contended, counted, is_unsure });
    }

    /// A call begins that releases addresses, whoever has them.
    pub fn begin_release_of(&mut self, id: CallId, addresses: &[IpAddr]) {
        let mut handles: BTreeSet<String> = BTreeSet::new();
        for ip in addresses {
            self.releases.entry(*ip).or_default().0 += 1;
            handles.extend(self.told.get(ip).cloned());
            handles.extend(self.owners.get(ip).cloned());
        }
        self.begin(id, handles, true);
    }

    /// A call begins that gives an address of one handle to another.
    pub fn begin_hand_over(&mut self, id: CallId, ip: IpAddr, from: &str, to: &str) {
        self.begin(id, [from, to].map(String::from).into(), false);
        if self.told.get(&ip).is_some_and(|h| h == from) {
            self.told.remove(&ip);
        }
    }

    /// A call ended without an answer that says what it did, or its client died.
    pub fn end_unknown(&mut self, id: CallId) {
        let Some(call) = self.end(id) else { return };
        call.handles.iter().for_each(|h| self.failed(id, h));
    }

    /// No write of the other calls is to come any more. What a call read that is still under way may be from before the last of them.
    pub fn close_all_but(&mut self, open: &BTreeSet<CallId>) {
        for (_, handles) in self.open.extract_if(.., |id, _| !open.contains(id)) {
            for call in self.calls.values_mut().filter(|c| !c.handles.is_disjoint(&handles)) {
                call.is_contended = true;
            }
        }
    }

    /// A release of addresses is over, answered or not.
    pub fn end_release_of(&mut self, addresses: &[IpAddr]) {
        for ip in addresses {
            let (running, ended) = self.releases.entry(*ip).or_default();
            *running = running.saturating_sub(1);
            *ended = self.now;
        }
    }

    /// A call is answered for one of its handles, which has these addresses. [`Self::end_plain`] follows.
    pub fn assigned(&mut self, id: CallId, handle: &str, got: &[IpAddr], answer: Told) -> Verdict {
        let Some(call) = self.calls.get(&id) else { return Ok(()) };
        let answered: BTreeSet<IpAddr> = got.iter().copied().collect();
        if answered.len() != got.len() {
            return Err(format!("{handle} was told an address twice: {got:?}"));
        }
        let gained: BTreeSet<IpAddr> = call.gained.iter().filter(|(h, _)| h == handle).map(|(_, ip)| *ip).collect();
        // Unless somebody else has released it meanwhile.
        let is_kept = |ip: &&IpAddr| self.owners.get(*ip).is_some_and(|h| h == handle);
        if let Some(ip) = gained.difference(&answered).find(is_kept) {
            // What it read afterwards was of before.
            if self.is_stale && call.is_unsure {
                self.uncertain(handle);
                return Ok(());
            }
            return Err(format!("{handle} was told {answered:?}, but the call took {ip} as well"));
        }
        if answer == Told::New && !answered.is_subset(&gained) {
            return Err(format!("{handle} was told {answered:?}, but the call took only {gained:?}"));
        }
        if self.is_stale && !answered.is_subset(&gained) {
            self.uncertain(handle);
            return Ok(());
        }
        if let Some(ip) = answered.iter().find(|ip| !self.was(call.began, **ip, |o| o == Some(handle))) {
            return Err(format!("{handle} was told that it has {ip}, which it had at no moment of the call"));
        }
        if self.is_ended(handle) {
            return Ok(());
        }
        let may_lose = |(running, ended): &(usize, Moment)| *running > 0 || *ended >= call.began;
        let is_disturbed = got.iter().any(|ip| self.releases.get(ip).is_some_and(may_lose));
        let is_open = self.open.values().any(|handles| handles.contains(handle));
        if call.is_contended || is_disturbed || is_open {
            self.uncertain(handle);
            return Ok(());
        }
        for ip in answered {
            if let Some(other) = self.told.insert(ip, handle.into()).filter(|h| h != handle) {
                return Err(format!("{handle} was told that it has {ip}, which {other} has been told before"));
            }
            if self.owners.get(&ip).is_none_or(|h| h != handle) {
                return Err(format!("{handle} was told that it has {ip}, which it has not"));
            }
        }
        // One key at a time: what a repair took for cut off, and was not, the handle does not count.
        let is_hidden = |(ip, holder): (&IpAddr, &String)| holder == handle && self.told.get(ip) != Some(holder);
        if !self.is_exact && self.rules.is_some() && self.owners.iter().any(is_hidden) {
            self.uncertain(handle);
            return Ok(());
        }
        if answer == Told::All || self.standing.get(handle) != Some(&Standing::Uncertain) {
            self.stands(handle, Standing::Live);
        }
        Ok(())
    }

    /// A call is answered that took an address from this handle, to which it says nothing of the others. [`Self::end_plain`] follows.
    pub fn gave(&mut self, id: CallId, handle: &str) {
        if self.calls.get(&id).is_some_and(|call| call.is_contended) {
            self.uncertain(handle);
        }
    }

    /// A call failed for one of its handles. [`Self::end_plain`] follows.
    pub fn failed(&mut self, id: CallId, handle: &str) {
        self.uncertain(handle);
        self.open.entry(id).or_default().insert(handle.into());
    }

    /// A call was answered: what the handle had, these addresses, is released.
    pub fn end_released(&mut self, id: CallId, handle: &str, released: &[IpAddr]) -> Verdict {
        let Some(call) = self.end(id) else { return Ok(()) };
        let answered: BTreeSet<IpAddr> = released.iter().copied().collect();
        if !self.is_stale && !call.lost.is_subset(&answered) {
            return Err(format!(
                "{handle}: {answered:?} were said to be released, but the call released {:?}",
                call.lost
            ));
        }
        // After an unknown outcome, who follows the store counts in what was released shortly before.
        let since = if self.follows && call.is_unsure { 0 } else { call.began };
        let was_released = |ip: &IpAddr| {
            self.is_stale
                || self.was(since, *ip, |o| o == Some(handle)) && self.was(call.began, *ip, |o| o != Some(handle))
        };
        if let Some(ip) = answered.iter().find(|ip| !was_released(ip)) {
            return Err(format!("{handle}: {ip} was said to be released, and it was not during the call"));
        }
        if call.is_contended {
            self.uncertain(handle);
            return Ok(());
        }
        if let Some((ip, _)) = self.owners.iter().find(|(_, h)| *h == handle) {
            // A write of an earlier call may have come after all; it is no call's gain that is known.
            let is_late = self.history[ip].last().is_some_and(|(at, _)| *at >= call.began);
            // One key at a time: a release that met an assignment has deleted the handle before the block that it counts was written, and
            // the assignment was cut off. That is for the collection.
            let block = self.blocks.keys().find(|cidr| cidr.contains(ip)).map(ToString::to_string);
            let is_unrecorded = !self.is_exact && block.is_none_or(|b| !call.counted.contains(&b));
            if !is_late && !is_unrecorded && !self.is_stale {
                return Err(format!("{handle} was said to have nothing left, and has {ip}"));
            }
        }
        let is_left = self.is_stale && self.owners.values().any(|h| h == handle);
        self.stands(handle, if is_left { Standing::Uncertain } else { Standing::Gone });
        Ok(())
    }

    /// A call that releases addresses was answered: these were not allocated, and the others are free now, as far as `wanted` of them
    /// go.
    pub fn end_released_addresses(&mut self, id: CallId, wanted: &[IpAddr], unallocated: &[IpAddr]) -> Verdict {
        let Some(call) = self.end(id) else { return Ok(()) };
        if let Some(ip) = unallocated.iter().find(|ip| !wanted.contains(ip)) {
            return Err(format!("{ip} was said to be unallocated, and nobody asked"));
        }
        if let Some(ip) = wanted.iter().find(|ip| !self.is_stale && !self.was(call.began, **ip, |o| o.is_none())) {
            return Err(format!("{ip} was said to be free, and it was not during the call"));
        }
        if let Some(ip) = call.lost.iter().find(|ip| unallocated.contains(ip)) {
            return Err(format!("{ip} was said to be unallocated, and the call released it"));
        }
        call.handles.iter().for_each(|h| self.uncertain(h));
        Ok(())
    }

    /// A call is over.
    fn end(&mut self, id: CallId) -> Option<Call> {
        self.now += 1;
        self.calls.remove(&id)
    }

    /// A call ended of whose answer everything was said, or nothing is to be said.
    pub fn end_plain(&mut self, id: CallId) {
        self.end(id);
    }

    fn stands(&mut self, handle: &str, standing: Standing) {
        let standing = if self.is_ended(handle) { Standing::Gone } else { standing };
        self.standing.insert(handle.into(), standing);
    }

    fn uncertain(&mut self, handle: &str) {
        self.stands(handle, Standing::Uncertain);
        self.told.retain(|_, holder| holder != handle);
    }

    /// Whether that was so of an address's owner at some moment since `began`.
    fn was(&self, began: Moment, ip: IpAddr, holds: impl Fn(Option<&str>) -> bool) -> bool {
        let Some(history) = self.history.get(&ip) else { return holds(None) };
        let since = history.partition_point(|(at, _)| *at < began);
        let at_start = since.checked_sub(1).and_then(|i| history[i].1.as_deref());
        holds(at_start) || history[since..].iter().any(|(_, owner)| holds(owner.as_deref()))
    }
}

/// A stored block: it can be read, and nothing in it is left over.
fn read_block(cidr: IpNet, value: &[u8]) -> Result<Block, String> {
    let stored = serde_json::from_slice(value).map_err(|e| format!("block {cidr} cannot be read: {e}"))?;
    let block = Block::from_stored(stored).map_err(|e| e.to_string())?;
    if block.cidr() != cidr {
        return Err(format!("block {} is stored as {cidr}", block.cidr()));
    }
    let used: BTreeSet<usize> = block.stored().allocations.iter().flatten().copied().collect();
    if used.len() != block.stored().attributes.len() {
        return Err(format!("block {cidr} has {} attributes and uses {}", block.stored().attributes.len(), used.len()));
    }
    Ok(block)
}
