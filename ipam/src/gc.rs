//! Garbage collection: what the store holds, and nobody needs (Calico `kube-controllers/pkg/controllers/node/ipam.go`). Pure.
//!
//! A [`Collector`] is told every change of a block, an affinity, a handle, a workload, a pod, a node and a service; a change costs what it
//! changes, never the world. [`Collector::observe`] gives what is to be released now.
//!
//! - An answer depends on the present objects and on when each subject was first observed as it is now, never on the order of events. What
//!   had a workload between two observations is observed anew.
//! - What is not of a workload, a tunnel or a service (assigned by hand, of an unknown type) is never a candidate.
//! - The addresses of a handle go together or not at all.
//! - A release names handle and sequence number of each address: what was assigned anew meanwhile is not what was observed.
//!
//! Addresses are compared as values, never as text.

mod judge;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use api::ipam::{AllocationAttribute, attr};
use api::key::AffinityOwner;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::block::Block;
use crate::pool::Family;

use view::{BlockView, HandleView, Holder, Record, Slot, holder, withheld};
pub use view::{Usage, node_of_endpoint};

/// How long a leaked address is kept (Calico `leakGracePeriod`).
pub const DEFAULT_GRACE: SignedDuration = SignedDuration::from_mins(15);
/// A virtual machine's address is kept at least so long: it may be moving (Calico).
pub const MIN_VM_GRACE: SignedDuration = SignedDuration::from_mins(5);
/// Between the two observations of an empty block and the like where no grace period says otherwise (Calico).
pub const DEFAULT_INTERVAL: SignedDuration = SignedDuration::from_mins(5);
/// A release that had no effect is tried again after this.
const RETRY: SignedDuration = SignedDuration::from_secs(60);

/// The `type` attribute of a service's addresses.
pub const TYPE_LOAD_BALANCER: &str = "LoadBalancer";

/// Namespace and name.
pub type Name = (String, String);

/// How to collect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long an address without its workload is kept. Zero: for ever, unless its node is gone.
    pub grace: SignedDuration,
    /// Whether Pod objects are the truth about pods, as with Kubernetes: a pod that runs keeps its address even where its
    /// WorkloadEndpoint is missing.
    pub has_kubernetes: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { grace: DEFAULT_GRACE, has_kubernetes: false }
    }
}

impl Settings {
    /// Between the two observations of what has no grace period.
    fn interval(self) -> SignedDuration {
        if self.grace.is_positive() { self.grace / 2 } else { DEFAULT_INTERVAL }
    }
}

/// A pod, where pods are the truth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodView {
    /// Empty: it has not said them yet.
    pub addresses: Vec<IpAddr>,
    /// Its phase is Succeeded or Failed.
    pub is_finished: bool,
}

impl PodView {
    /// What a Pod's `status` says.
    pub fn of_status(status: &Value) -> Self {
        let entries = status["podIPs"].as_array().into_iter().flatten().map(|entry| &entry["ip"]);
        let texts = entries.chain([&status["podIP"]]).filter_map(Value::as_str);
        let is_finished = matches!(status["phase"].as_str(), Some("Succeeded" | "Failed"));
        Self { addresses: texts.filter_map(|text| text.parse().ok()).collect(), is_finished }
    }

    /// Whether it runs, and may have the address.
    pub fn may_have(&self, ip: IpAddr) -> bool {
        !self.is_finished && (self.addresses.is_empty() || self.addresses.contains(&ip))
    }
}

/// What may be released.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// All addresses of a handle.
    Handle(String),
    Block(IpNet),
    Affinity(AffinityOwner, IpNet),
    /// The record of a handle that has no address.
    Record(String),
}

/// Why nobody needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// At once: no endpoint of the node is there, or each could be read.
    NodeGone(String),
    /// The same of a node with an endpoint that cannot be read, after a grace period since the node's end.
    NodeLongGone(String),
    NoWorkload(Option<Name>),
    NoMachine(Name),
    NoService(Name),
    Empty,
    NoOwner,
    NoBlock,
    OtherOwner,
    NoAddress,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeGone(node) => write!(f, "node {node} does not exist"),
            Self::NodeLongGone(node) => {
                write!(f, "node {node} does not exist, and an endpoint of it that cannot be read counts no longer")
            }
            Self::NoWorkload(Some((namespace, pod))) => write!(f, "pod {namespace}/{pod} has no workload endpoint"),
            Self::NoWorkload(None) => f.write_str("its container has no workload endpoint"),
            Self::NoMachine((namespace, name)) => {
                write!(f, "virtual machine {namespace}/{name} has no workload endpoint")
            }
            Self::NoService((namespace, name)) => write!(f, "service {namespace}/{name} does not exist"),
            Self::Empty => f.write_str("the block is empty, and not its owner's last"),
            Self::NoOwner => f.write_str("the block is empty and nobody's"),
            Self::NoBlock => f.write_str("the affinity has no block"),
            Self::OtherOwner => f.write_str("the affinity is for a block of another owner"),
            Self::NoAddress => f.write_str("the handle has no address"),
        }
    }
}

/// Something that was observed as released soon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub reason: Reason,
    /// The addresses of a handle, in order; else empty.
    pub addresses: Vec<IpAddr>,
    /// When it was first observed as it is now.
    pub since: Timestamp,
    /// When it goes, if nothing changes.
    pub due: Timestamp,
    print: Fingerprint,
    /// It was given for release, and is given again then.
    retry: Option<Timestamp>,
}

/// What a subject was when it was observed: one that was touched since is observed anew.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fingerprint {
    Addresses(Vec<(IpAddr, Option<u64>)>),
    Revision(u64),
}

/// What is to be released now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Release {
    /// Each with its sequence number; None where the block has none for it.
    Addresses {
        handle: String,
        addresses: Vec<(IpAddr, Option<u64>)>,
        reason: Reason,
    },
    /// The block's owner gives it up; the block goes too if it is empty. With `must_be_empty` only then.
    Block {
        cidr: IpNet,
        owner: Option<AffinityOwner>,
        must_be_empty: bool,
        reason: Reason,
    },
    Affinity {
        owner: AffinityOwner,
        cidr: IpNet,
        revision: u64,
        reason: Reason,
    },
    Record {
        handle: String,
        revision: u64,
        reason: Reason,
    },
}

impl Release {
    pub fn reason(&self) -> &Reason {
        match self {
            Self::Addresses { reason, .. }
            | Self::Block { reason, .. }
            | Self::Affinity { reason, .. }
            | Self::Record { reason, .. } => reason,
        }
    }
}

/// What became of an examination.
enum Verdict {
    Kept,
    Leaked { reason: Reason, wait: SignedDuration },
}

/// Everything that bears on collection, and the candidates.
#[derive(Clone, Debug, Default)]
pub struct Collector {
    settings: Settings,
    blocks: BTreeMap<IpNet, BlockView>,
    /// Blocks that cannot be read: what is in them is not known.
    unreadable: BTreeSet<IpNet>,
    owned: HashMap<AffinityOwner, BTreeSet<IpNet>>,
    affinities: BTreeMap<AffinityOwner, BTreeMap<IpNet, u64>>,
    handles: HashMap<Arc<str>, HandleView>,
    /// Handles whose addresses have `node` for their node, by that.
    of_node: HashMap<String, Vec<Arc<str>>>,
    of_pod: HashMap<Name, Vec<Arc<str>>>,
    of_service: HashMap<Name, Vec<Arc<str>>>,
    of_address: HashMap<IpAddr, Arc<str>>,
    workloads: HashMap<Name, Vec<IpAddr>>,
    /// Endpoints that cannot be read, by their nodes, with which their names begin: what they have is not known.
    unreadable_workloads: BTreeMap<String, BTreeSet<Name>>,
    in_use: HashMap<IpAddr, usize>,
    pods: HashMap<Name, PodView>,
    nodes: HashSet<String>,
    services: HashSet<Name>,
    /// What services have is not looked at: they are kept elsewhere.
    holds_services: bool,
    dirty: BTreeSet<Subject>,
    candidates: BTreeMap<Subject, Candidate>,
    due: BTreeSet<(Timestamp, Subject)>,
}

impl Collector {
    pub fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Takes other settings; what is a candidate keeps the time since when it is one.
    pub fn set_settings(&mut self, settings: Settings) {
        if self.settings != settings {
            self.settings = settings;
            self.dirty.extend(self.candidates.keys().cloned());
            self.dirty.extend(self.handles.keys().map(|h| Subject::Handle(h.to_string())));
        }
    }

    pub fn put_block(&mut self, block: &Block) {
        let cidr = block.cidr();
        if self.unreadable.remove(&cidr) {
            self.touch_records_of(cidr);
        }
        let owner = block.owner();
        let mut view = BlockView {
            owner: owner.clone(),
            sequence: block.sequence_number(),
            is_empty: block.allocated().next().is_none(),
            ..BlockView::default()
        };
        if matches!(owner, Some(AffinityOwner::Virtual(_))) {
            view.withheld = withheld(block);
        }
        let mut before = self.blocks.remove(&cidr).unwrap_or_default();
        let mut holders: HashMap<*const AllocationAttribute, Arc<Holder>> = HashMap::new();
        for (ip, attribute) in block.allocated() {
            let node = attribute.secondary.as_ref().and_then(|s| s.get(attr::NODE));
            let usage = view.usage.entry(node.cloned().unwrap_or_default()).or_default();
            usage.in_use += 1;
            let is_borrowed = matches!((&owner, node), (Some(AffinityOwner::Host(o)), Some(n)) if o != n);
            usage.borrowed += usize::from(is_borrowed);
            let Some(id) = attribute.handle_id.as_deref() else { continue };
            let handle = match self.handles.get_key_value(id) {
                Some((known, _)) => known.clone(),
                None => Arc::from(id),
            };
            let holder = holders.entry(std::ptr::from_ref(attribute)).or_insert_with(|| Arc::new(holder(attribute)));
            let slot = Slot { sequence: block.sequence_of(ip), holder: holder.clone() };
            match before.handles.remove(&ip) {
                Some(other) if other != handle => {
                    self.remove_slot(&other, ip);
                    self.put_slot(&handle, ip, slot);
                }
                _ => self.put_slot(&handle, ip, slot),
            }
            view.handles.insert(ip, handle);
        }
        for (ip, handle) in before.handles {
            self.remove_slot(&handle, ip);
        }
        let (owner_before, owner_after) = (before.owner.as_ref(), view.owner.as_ref());
        self.set_owner(cidr, owner_before, owner_after);
        // Of which of an owner's blocks it is the last, depends on which are empty.
        if owner_before == owner_after && before.is_empty != view.is_empty {
            self.mark_owned(view.owner.as_ref());
        }
        self.blocks.insert(cidr, view);
        self.dirty.insert(Subject::Block(cidr));
    }

    /// A block that cannot be read: nothing that may have to do with it is released.
    pub fn put_unreadable_block(&mut self, cidr: IpNet) {
        self.delete_block(cidr);
        self.unreadable.insert(cidr);
        self.touch_records_of(cidr);
    }

    pub fn delete_block(&mut self, cidr: IpNet) {
        if self.unreadable.remove(&cidr) {
            self.touch_records_of(cidr);
        }
        let Some(before) = self.blocks.remove(&cidr) else { return };
        for (ip, handle) in before.handles {
            self.remove_slot(&handle, ip);
        }
        self.set_owner(cidr, before.owner.as_ref(), None);
        self.dirty.insert(Subject::Block(cidr));
    }

    pub fn put_affinity(&mut self, owner: &AffinityOwner, cidr: IpNet, revision: u64) {
        self.affinities.entry(owner.clone()).or_default().insert(cidr, revision);
        self.dirty.insert(Subject::Affinity(owner.clone(), cidr));
    }

    pub fn delete_affinity(&mut self, owner: &AffinityOwner, cidr: IpNet) {
        if let Some(of_owner) = self.affinities.get_mut(owner) {
            of_owner.remove(&cidr);
            if of_owner.is_empty() {
                self.affinities.remove(owner);
            }
        }
        self.dirty.insert(Subject::Affinity(owner.clone(), cidr));
    }

    /// The record of a handle: the blocks that it names. Of one that cannot be read (None) nothing is released.
    pub fn put_record(&mut self, handle: &str, blocks: Option<Vec<IpNet>>, revision: u64) {
        self.handles.entry(Arc::from(handle)).or_default().record = Some(Record { revision, blocks });
        self.touch(handle);
    }

    pub fn delete_record(&mut self, handle: &str) {
        if let Some(view) = self.handles.get_mut(handle) {
            view.record = None;
            if view.slots.is_empty() {
                self.handles.remove(handle);
            }
        }
        self.touch(handle);
    }

    /// A WorkloadEndpoint and its addresses.
    pub fn put_workload(&mut self, name: &Name, addresses: Vec<IpAddr>) {
        self.set_unreadable_workload(name, false);
        let before = self.workloads.insert(name.clone(), addresses.clone()).unwrap_or_default();
        if before != addresses {
            addresses.iter().for_each(|ip| *self.in_use.entry(*ip).or_default() += 1);
            self.leave(&before);
            self.restart(self.holding(&addresses));
        }
    }

    /// A WorkloadEndpoint that cannot be read: it may have any address of its node's workloads, and what it had when it was read last.
    pub fn put_unreadable_workload(&mut self, name: &Name) {
        self.set_unreadable_workload(name, true);
    }

    fn set_unreadable_workload(&mut self, name: &Name, is_unreadable: bool) {
        let node = node_of_endpoint(&name.1);
        let is_other = match is_unreadable {
            true => self.unreadable_workloads.entry(node).or_default().insert(name.clone()),
            false => {
                let Some(of_node) = self.unreadable_workloads.get_mut(&node) else { return };
                let is_other = of_node.remove(name);
                if of_node.is_empty() {
                    self.unreadable_workloads.remove(&node);
                }
                is_other
            }
        };
        if is_other {
            self.touch_all_handles();
        }
    }

    pub fn delete_workload(&mut self, name: &Name) {
        self.set_unreadable_workload(name, false);
        let before = self.workloads.remove(name).unwrap_or_default();
        self.leave(&before);
    }

    pub fn put_pod(&mut self, name: &Name, pod: PodView) {
        let is_finished = pod.is_finished;
        if self.pods.insert(name.clone(), pod.clone()) != Some(pod) {
            let handles = self.of_pod.get(name).cloned();
            match is_finished {
                true => self.touch_all(handles),
                false => self.restart(handles.unwrap_or_default()),
            }
        }
    }

    pub fn delete_pod(&mut self, name: &Name) {
        if self.pods.remove(name).is_some() {
            self.touch_all(self.of_pod.get(name).cloned());
        }
    }

    pub fn put_node(&mut self, name: &str) {
        if self.nodes.insert(name.to_string()) {
            self.touch_node(name);
        }
    }

    pub fn delete_node(&mut self, name: &str) {
        if self.nodes.remove(name) {
            self.touch_node(name);
        }
    }

    fn touch_all_handles(&mut self) {
        self.dirty.extend(self.handles.keys().map(|h| Subject::Handle(h.to_string())));
    }

    pub fn put_service(&mut self, name: &Name) {
        if self.services.insert(name.clone()) {
            self.restart(self.of_service.get(name).cloned().unwrap_or_default());
        }
    }

    pub fn delete_service(&mut self, name: &Name) {
        if self.services.remove(name) {
            self.touch_all(self.of_service.get(name).cloned());
        }
    }

    /// The handles whose addresses were given to a service of this name.
    pub fn handles_of_service(&self, name: &Name) -> impl Iterator<Item = &str> {
        self.of_service.get(name).into_iter().flatten().map(AsRef::as_ref)
    }

    /// While it holds, no address of a service is released: the services are not in the store, as far as one can tell.
    pub fn hold_services(&mut self, holds: bool) {
        if self.holds_services != holds {
            self.holds_services = holds;
            self.touch_all(Some(self.of_service.values().flatten().cloned().collect()));
        }
    }

    /// Whether something changed that [`Self::observe`] has not seen.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// When the next candidate is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|(due, _)| *due)
    }

    pub fn candidates(&self) -> impl Iterator<Item = (&Subject, &Candidate)> {
        self.candidates.iter()
    }

    /// The node that the addresses of a handle were given on.
    pub fn node_of(&self, handle: &str) -> Option<&str> {
        self.handles.get(handle)?.slots.iter().find_map(|(_, slot)| match slot.holder.as_ref() {
            Holder::Workload { node: Some(node), .. } | Holder::Tunnel(node) => Some(node.as_str()),
            _ => None,
        })
    }

    pub fn has_node(&self, name: &str) -> bool {
        self.nodes.contains(name)
    }

    /// Whether the store holds an affinity, a block or an address of this node.
    pub fn has_traces_of(&self, node: &str) -> bool {
        let owner = AffinityOwner::Host(node.to_string());
        self.affinities.contains_key(&owner) || self.owned.contains_key(&owner) || self.of_node.contains_key(node)
    }

    /// Whether nobody has the address, and it does not cool down, as far as blocks of virtual owners say.
    pub fn is_free(&self, ip: IpAddr) -> bool {
        let nearest = self.blocks.range(..=IpNet::from(ip)).next_back();
        let withheld = nearest.is_some_and(|(_, block)| block.withheld.contains(&ip));
        !withheld && !self.of_address.contains_key(&ip)
    }

    /// The block that an address is in, where it is of this virtual owner.
    pub fn virtual_block_of(&self, ip: IpAddr, owner: &str) -> Option<IpNet> {
        let (cidr, view) = self.blocks.range(..=IpNet::from(ip)).next_back()?;
        let is_owner = matches!(&view.owner, Some(AffinityOwner::Virtual(o)) if o == owner);
        Some(*cidr).filter(|cidr| is_owner && cidr.contains(&ip))
    }

    /// Whether no block meets this one, unless it is the same.
    pub fn is_room_for(&self, cidr: &IpNet) -> bool {
        if self.blocks.contains_key(cidr) {
            return true;
        }
        let meets = |other: &IpNet| other.contains(cidr) || cidr.contains(other);
        let before = self.blocks.range(..cidr).rev().take_while(|(c, _)| Family::of(c) == Family::of(cidr));
        let after = self.blocks.range(cidr..).take_while(|(c, _)| cidr.contains(&c.network()));
        // Blocks do not overlap: of those before, only the nearest can reach here.
        !before.take(1).chain(after).any(|(other, _)| meets(other)) && !self.unreadable.iter().any(meets)
    }

    /// How each block is used: its owner, and by node what that uses of it.
    pub fn usage(&self) -> impl Iterator<Item = (&IpNet, Option<&AffinityOwner>, &BTreeMap<String, Usage>)> {
        self.blocks.iter().map(|(cidr, view)| (cidr, view.owner.as_ref(), &view.usage))
    }

    /// Takes what changed into account, and gives what is due. What was given is given again after a while, unless it went.
    pub fn observe(&mut self, now: Timestamp) -> Vec<Release> {
        for subject in std::mem::take(&mut self.dirty) {
            self.examine(subject, now);
        }
        let mut ripe = BTreeSet::new();
        while let Some(first) = self.due.first().filter(|(due, _)| *due <= now).cloned() {
            self.due.remove(&first);
            ripe.insert(first.1);
        }
        // Addresses before the blocks that they are in.
        let mut releases = Vec::new();
        for subject in ripe {
            let Some(candidate) = self.candidates.get_mut(&subject) else { continue };
            candidate.due = now + RETRY;
            candidate.retry = Some(candidate.due);
            self.due.insert((candidate.due, subject.clone()));
            releases.extend(release(&subject, candidate, &self.blocks));
        }
        releases
    }

    /// Judges a subject, and keeps it as a candidate or not.
    fn examine(&mut self, subject: Subject, now: Timestamp) {
        let found = match &subject {
            Subject::Handle(handle) => self.judge_handle(handle),
            Subject::Record(handle) => self.judge_record(handle),
            Subject::Block(cidr) => self.judge_block(cidr),
            Subject::Affinity(owner, cidr) => self.judge_affinity(owner, cidr),
        };
        let before = self.candidates.remove(&subject);
        if let Some(before) = &before {
            self.due.remove(&(before.due, subject.clone()));
        }
        let Some((Verdict::Leaked { reason, wait }, print)) = found else { return };
        // An endpoint that cannot be read has a grace period of its own.
        let is_later = |b: &Candidate| b.reason != reason && matches!(reason, Reason::NodeLongGone(_));
        let same = before.filter(|b| b.print == print && !is_later(b));
        let (since, retry) = same.map_or((now, None), |b| (b.since, b.retry));
        let addresses = match &print {
            Fingerprint::Addresses(addresses) => addresses.iter().map(|(ip, _)| *ip).collect(),
            Fingerprint::Revision(_) => vec![],
        };
        let due = retry.map_or(since + wait, |retry| retry.max(since + wait));
        self.due.insert((due, subject.clone()));
        self.candidates.insert(subject, Candidate { reason, addresses, since, due, print, retry });
    }

    fn put_slot(&mut self, handle: &Arc<str>, ip: IpAddr, slot: Slot) {
        let view = self.handles.entry(handle.clone()).or_default();
        if view.slots.get(&ip) == Some(&slot) {
            return;
        }
        let before = view.slots.insert(ip, slot.clone());
        if let Some(before) = before.filter(|b| b.holder != slot.holder) {
            self.unlink(handle, &before.holder);
        }
        match slot.holder.as_ref() {
            Holder::Workload { pod, node } => {
                if let Some(pod) = pod {
                    remember(&mut self.of_pod, pod.clone(), handle);
                }
                if let Some(node) = node {
                    remember(&mut self.of_node, node.clone(), handle);
                }
            }
            Holder::Tunnel(node) => remember(&mut self.of_node, node.clone(), handle),
            Holder::Service(name) => remember(&mut self.of_service, name.clone(), handle),
            Holder::Machine(_) | Holder::Unknown => {}
        }
        self.of_address.insert(ip, handle.clone());
        self.touch(handle);
    }

    fn remove_slot(&mut self, handle: &Arc<str>, ip: IpAddr) {
        let Some(view) = self.handles.get_mut(handle) else { return };
        let before = view.slots.remove(&ip);
        if view.slots.is_empty() && view.record.is_none() {
            self.handles.remove(handle);
        }
        if let Some(before) = before {
            self.unlink(handle, &before.holder);
        }
        if self.of_address.get(&ip) == Some(handle) {
            self.of_address.remove(&ip);
        }
        self.touch(handle);
    }

    /// Forgets that a handle has to do with this holder, unless another of its addresses says so.
    fn unlink(&mut self, handle: &Arc<str>, gone: &Holder) {
        let view = self.handles.get(handle);
        let others: Vec<&Holder> = view.iter().flat_map(|v| v.slots.iter()).map(|(_, s)| s.holder.as_ref()).collect();
        let node_of = |holder: &Holder| match holder {
            Holder::Workload { node, .. } => node.clone(),
            Holder::Tunnel(node) => Some(node.clone()),
            _ => None,
        };
        let pod_of = |holder: &Holder| match holder {
            Holder::Workload { pod, .. } => pod.clone(),
            _ => None,
        };
        let service_of = |holder: &Holder| match holder {
            Holder::Service(name) => Some(name.clone()),
            _ => None,
        };
        if let Some(node) = node_of(gone).filter(|n| !others.iter().any(|o| node_of(o).as_ref() == Some(n))) {
            forget(&mut self.of_node, &node, handle);
        }
        if let Some(pod) = pod_of(gone).filter(|p| !others.iter().any(|o| pod_of(o).as_ref() == Some(p))) {
            forget(&mut self.of_pod, &pod, handle);
        }
        if let Some(name) = service_of(gone).filter(|s| !others.iter().any(|o| service_of(o).as_ref() == Some(s))) {
            forget(&mut self.of_service, &name, handle);
        }
    }

    /// Whether a block is its owner's last depends on the owner's other blocks.
    fn set_owner(&mut self, cidr: IpNet, before: Option<&AffinityOwner>, after: Option<&AffinityOwner>) {
        if before == after {
            return;
        }
        if let Some(before) = before.filter(|b| after != Some(*b))
            && let Some(owned) = self.owned.get_mut(before)
        {
            owned.remove(&cidr);
            if owned.is_empty() {
                self.owned.remove(before);
            }
            self.mark_owned(Some(before));
        }
        if let Some(after) = after {
            self.owned.entry(after.clone()).or_default().insert(cidr);
            self.mark_owned(Some(after));
        }
        self.dirty.extend([before, after].into_iter().flatten().map(|o| Subject::Affinity(o.clone(), cidr)));
    }

    /// Marks the blocks of a node; a virtual owner keeps none for its own sake.
    fn mark_owned(&mut self, owner: Option<&AffinityOwner>) {
        if let Some(owner @ AffinityOwner::Host(_)) = owner {
            self.dirty.extend(self.owned.get(owner).into_iter().flatten().map(|c| Subject::Block(*c)));
        }
    }

    fn leave(&mut self, addresses: &[IpAddr]) {
        for ip in addresses {
            if let Some(count) = self.in_use.get_mut(ip) {
                *count -= 1;
                if *count == 0 {
                    self.in_use.remove(ip);
                }
            }
        }
        self.touch_all(Some(self.holding(addresses)));
    }

    fn touch(&mut self, handle: &str) {
        // Whether the block of a node that is gone stays depends on what it is used for.
        if self.settings.has_kubernetes
            && let Some(view) = self.handles.get(handle)
        {
            for (ip, _) in view.slots.iter() {
                let Some((cidr, block)) = self.blocks.range(..=IpNet::from(*ip)).next_back() else { continue };
                if matches!(&block.owner, Some(AffinityOwner::Host(node)) if !self.nodes.contains(node)) {
                    self.dirty.insert(Subject::Block(*cidr));
                }
            }
        }
        self.dirty.insert(Subject::Handle(handle.to_string()));
        self.dirty.insert(Subject::Record(handle.to_string()));
    }

    fn touch_all(&mut self, handles: Option<Vec<Arc<str>>>) {
        handles.into_iter().flatten().for_each(|h| self.touch(&h));
    }

    /// Whoever holds these handles has come: the wait for its end begins anew, also where it has gone again before the next observation.
    fn restart(&mut self, handles: Vec<Arc<str>>) {
        for handle in &handles {
            let subject = Subject::Handle(handle.to_string());
            if let Some(candidate) = self.candidates.remove(&subject) {
                self.due.remove(&(candidate.due, subject));
            }
        }
        self.touch_all(Some(handles));
    }

    fn holding(&self, addresses: &[IpAddr]) -> Vec<Arc<str>> {
        addresses.iter().filter_map(|ip| self.of_address.get(ip).cloned()).collect()
    }

    fn touch_node(&mut self, name: &str) {
        let owner = AffinityOwner::Host(name.to_string());
        self.dirty.extend(self.owned.get(&owner).into_iter().flatten().map(|c| Subject::Block(*c)));
        let affinities = self.affinities.get(&owner).into_iter().flat_map(BTreeMap::keys);
        self.dirty.extend(affinities.map(|cidr| Subject::Affinity(owner.clone(), *cidr)));
        self.touch_all(self.of_node.get(name).cloned());
        if self.unreadable_workloads.contains_key(name) {
            self.touch_all_handles();
        }
    }

    fn touch_records_of(&mut self, cidr: IpNet) {
        let names = |record: &Record| record.blocks.as_ref().is_some_and(|blocks| blocks.contains(&cidr));
        let naming = self.handles.iter().filter(|(_, v)| v.record.as_ref().is_some_and(names));
        let naming: Vec<Arc<str>> = naming.map(|(h, _)| h.clone()).collect();
        self.touch_all(Some(naming));
        let of_block = self.affinities.iter().filter(|(_, cidrs)| cidrs.contains_key(&cidr));
        self.dirty.extend(of_block.map(|(owner, _)| Subject::Affinity(owner.clone(), cidr)));
    }
}

/// Adds a handle once.
fn remember<K: std::hash::Hash + Eq>(map: &mut HashMap<K, Vec<Arc<str>>>, key: K, handle: &Arc<str>) {
    let handles = map.entry(key).or_default();
    if !handles.contains(handle) {
        handles.push(handle.clone());
    }
}

fn forget<K: std::hash::Hash + Eq>(map: &mut HashMap<K, Vec<Arc<str>>>, key: &K, handle: &Arc<str>) {
    if let Some(handles) = map.get_mut(key) {
        handles.retain(|known| known != handle);
        if handles.is_empty() {
            map.remove(key);
        }
    }
}

fn release(subject: &Subject, candidate: &Candidate, blocks: &BTreeMap<IpNet, BlockView>) -> Option<Release> {
    let reason = candidate.reason.clone();
    Some(match (subject, &candidate.print) {
        (Subject::Handle(handle), Fingerprint::Addresses(addresses)) => {
            Release::Addresses { handle: handle.clone(), addresses: addresses.clone(), reason }
        }
        (Subject::Block(cidr), _) => Release::Block {
            cidr: *cidr,
            owner: blocks.get(cidr)?.owner.clone(),
            must_be_empty: !matches!(reason, Reason::NodeGone(_)),
            reason,
        },
        (Subject::Affinity(owner, cidr), Fingerprint::Revision(revision)) => {
            Release::Affinity { owner: owner.clone(), cidr: *cidr, revision: *revision, reason }
        }
        (Subject::Record(handle), Fingerprint::Revision(revision)) => {
            Release::Record { handle: handle.clone(), revision: *revision, reason }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
