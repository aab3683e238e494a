//! Whether what is stored about addresses is true, and what would make it so (Calico `calicoctl/commands/ipam/check.go`, which knows less).
//! Pure but for `carry_out`: a [`Snapshot`] goes in, [`Problem`]s come out, and for each what mends it.
//!
//! - [`snapshot`]: what is read
//! - [`fault`]: what is wrong within one block
//! - [`repair`]: which writes mend a problem, and which problems nobody but the operator can mend
//! - [`report`]: Calico's report, for `ipam release --from-report`

mod carry_out;
pub mod fault;
pub mod repair;
pub mod report;
pub mod snapshot;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use api::ipam::{AffinityState, AllocationAttribute, AllocationBlock, attr};
use api::key::AffinityOwner;
use ipnet::IpNet;
use serde::Serialize;

use self::fault::{Fault, faults, size_of};
use self::snapshot::{Snapshot, User, UserKind};
use crate::block::{address_at, owner_of};
use crate::gc::TYPE_LOAD_BALANCER;

/// The handle of addresses that Windows keeps in each block (Calico `ipam.WindowsReservedHandle`).
const WINDOWS_HANDLE: &str = "windows-reserved-ipam-handle";

/// An address that a block says is taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    pub ip: IpAddr,
    pub block: IpNet,
    pub ordinal: usize,
    /// `None` where the block names an attribute that it has not.
    pub attribute: Option<AllocationAttribute>,
    pub sequence: u64,
    /// The node that has it; where nothing says so, the block's owner.
    pub node: String,
    pub is_borrowed: bool,
    /// Who uses it.
    pub owners: Vec<String>,
}

impl Allocation {
    pub fn handle(&self) -> Option<&str> {
        self.attribute.as_ref()?.handle_id.as_deref()
    }

    /// Something that is known of who has it ([`attr`]).
    pub fn attr(&self, name: &str) -> Option<&str> {
        self.attribute.as_ref()?.secondary.as_ref()?.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    pub fn is_in_use(&self) -> bool {
        !self.owners.is_empty()
    }

    /// Whether it is the address of a service's load balancer.
    pub fn is_of_service(&self) -> bool {
        self.attr(attr::SERVICE).is_some() || self.attr(attr::TYPE) == Some(TYPE_LOAD_BALANCER)
    }

    pub fn is_cooling(&self) -> bool {
        self.attribute.as_ref().is_some_and(|a| a.released_at.is_some())
    }

    /// Handle and attributes in Calico's form: `Main:<handle> Extra:<key>=<value>,...`.
    pub fn described(&self) -> String {
        let Some(attribute) = &self.attribute else { return "<missing>".into() };
        let pairs =
            |of: &BTreeMap<String, String>| of.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",");
        let main = attribute.handle_id.as_deref().unwrap_or("<none>");
        let extra = attribute.secondary.as_ref().map(pairs).unwrap_or_default();
        let text = format!("Main:{main} Extra:{extra}");
        match &attribute.alternate_owner_attrs {
            Some(other) if !other.is_empty() => format!("{text} Alternate:{}", pairs(other)),
            _ => text,
        }
    }
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "problem", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Problem {
    /// Allocated, and nobody uses it.
    Leaked {
        ip: IpAddr,
        block: IpNet,
        handle: Option<String>,
        sequence_number: u64,
        attributes: String,
    },
    /// Allocated to a service in a store that has no Services: who uses it is not known.
    ServiceUnknown {
        ip: IpAddr,
        attributes: String,
    },
    /// Used, and in no enabled pool.
    NotInPool {
        ip: IpAddr,
        owners: Vec<String>,
    },
    /// Used, and free to be given to somebody else.
    NotAllocated {
        ip: IpAddr,
        owners: Vec<String>,
    },
    /// Used, although it has been released and waits for its cool-down to end.
    UsedWhileCooling {
        ip: IpAddr,
        owners: Vec<String>,
    },
    /// Used by two at once.
    Duplicate {
        ip: IpAddr,
        owners: Vec<String>,
    },
    /// Used by two services that may not share an address.
    CannotShare {
        ip: IpAddr,
        services: Vec<String>,
        reason: String,
    },
    /// Allocated to another than the one who uses it.
    WrongOwner {
        ip: IpAddr,
        allocated_to: String,
        used_by: String,
    },
    /// Allocated in two blocks.
    AllocatedTwice {
        ip: IpAddr,
        blocks: Vec<IpNet>,
    },
    HandleLeaked {
        handle: String,
    },
    HandleMissing {
        handle: String,
        actual: BTreeMap<IpNet, usize>,
    },
    HandleCount {
        handle: String,
        stored: BTreeMap<String, usize>,
        actual: BTreeMap<IpNet, usize>,
    },
    InvalidBlock {
        block: IpNet,
        faults: Vec<Fault>,
    },
    /// A block of another size than its pool's.
    BlockSize {
        block: IpNet,
        pool: String,
        expected: u8,
        allocated: usize,
    },
    /// A block in no pool.
    OrphanBlock {
        block: IpNet,
        allocated: usize,
    },
    /// One block lies in another.
    OverlappingBlocks {
        outer: IpNet,
        inner: IpNet,
    },
    /// An empty block of nobody.
    UnownedBlock {
        block: IpNet,
    },
    /// A block of a node that does not exist.
    BlockOfMissingNode {
        block: IpNet,
        node: String,
        allocated: usize,
    },
    BlockWithoutAffinity {
        block: IpNet,
        owner: String,
    },
    AffinityWithoutBlock {
        block: IpNet,
        owner: String,
        state: &'static str,
    },
    /// An affinity for a block that is another's, or nobody's.
    AffinityOfOther {
        block: IpNet,
        owner: String,
        block_owner: Option<String>,
    },
    /// An affinity that a crash has left between two states.
    AffinityState {
        block: IpNet,
        owner: String,
        state: &'static str,
    },
    Unreadable {
        key: String,
        reason: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaked { ip, attributes, .. } => write!(f, "{ip} leaked; attrs {attributes}"),
            Self::ServiceUnknown { ip, attributes } => {
                write!(f, "{ip} is a service's, and its Services are not in this store; attrs {attributes}")
            }
            Self::NotInPool { ip, owners } => {
                write!(f, "{ip} in use by {} is not in any active IP pool.", owners.join(", "))
            }
            Self::NotAllocated { ip, owners } => {
                write!(f, "{ip} in use by {} and in active IPAM pool but has no IPAM allocation.", owners.join(", "))
            }
            Self::UsedWhileCooling { ip, owners } => {
                write!(f, "{ip} in use by {} has been released and is cooling down.", owners.join(", "))
            }
            Self::Duplicate { ip, owners } => write!(f, "{ip} has multiple owners: {}.", owners.join(", ")),
            Self::CannotShare { ip, services, reason } => {
                write!(f, "{ip} in use by {}, which may not share it: {reason}.", services.join(" and "))
            }
            Self::WrongOwner { ip, allocated_to, used_by } => {
                write!(f, "{ip} in use by {used_by} is allocated to {allocated_to}.")
            }
            Self::AllocatedTwice { ip, blocks } => write!(f, "{ip} is allocated in two blocks: {}.", listed(blocks)),
            Self::HandleLeaked { handle } => write!(f, "{handle} doesn't have any active IPs."),
            Self::HandleMissing { handle, .. } => write!(f, "{handle} is in use in a block but doesn't exist."),
            Self::HandleCount { handle, stored, actual } => {
                let stored: Vec<String> = stored.iter().map(|(c, n)| format!("{n} in {c}")).collect();
                write!(f, "handle {handle} says {}, but has {}.", stored.join(", "), counted(actual))
            }
            Self::InvalidBlock { block, faults } => {
                let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
                write!(f, "IPAMBlock BlockKey(cidr={block}) is invalid: {}", texts.join("; "))
            }
            Self::BlockSize { block, pool, expected, allocated } => {
                write!(f, "block {block} ({allocated} in use) is in IPPool {pool}, whose blocks are /{expected}.")
            }
            Self::OrphanBlock { block, allocated } => write!(f, "block {block} ({allocated} in use) is in no IP pool."),
            Self::OverlappingBlocks { outer, inner } => write!(f, "block {inner} lies in block {outer}."),
            Self::UnownedBlock { block } => write!(f, "block {block} is empty and nobody's."),
            Self::BlockOfMissingNode { block, node, allocated } => {
                write!(f, "block {block} ({allocated} in use) belongs to node {node}, which does not exist.")
            }
            Self::BlockWithoutAffinity { block, owner } => {
                write!(f, "block {block} belongs to {owner}, which has no affinity for it.")
            }
            Self::AffinityWithoutBlock { block, owner, state } => {
                write!(f, "{owner} has an affinity ({state}) for block {block}, which does not exist.")
            }
            Self::AffinityOfOther { block, owner, block_owner } => {
                let whose = block_owner.as_deref().unwrap_or("nobody");
                write!(f, "{owner} has an affinity for block {block}, which belongs to {whose}.")
            }
            Self::AffinityState { block, owner, state } => {
                write!(f, "the affinity of {owner} for its block {block} is stuck at {state}.")
            }
            Self::Unreadable { key, reason } => write!(f, "{key} cannot be read: {reason}."),
        }
    }
}

/// A state as it is stored.
fn word(state: AffinityState) -> &'static str {
    match state {
        AffinityState::Pending => "pending",
        AffinityState::Confirmed => "confirmed",
        AffinityState::PendingDeletion => "pendingDeletion",
    }
}

fn listed(blocks: &[IpNet]) -> String {
    blocks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn counted(actual: &BTreeMap<IpNet, usize>) -> String {
    actual.iter().map(|(c, n)| format!("{n} in {c}")).collect::<Vec<_>>().join(", ")
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// By address; one that two blocks have is there twice.
    pub allocations: BTreeMap<IpAddr, Vec<Allocation>>,
    /// Who uses an address; the places are those of [`Snapshot::users`].
    pub in_use: BTreeMap<IpAddr, Vec<usize>>,
    /// Handles that blocks name.
    pub active_handles: BTreeSet<String>,
    /// A block cannot be read, or names attributes that it has not: of its handles too little is known to say that one has nothing.
    pub handles_uncertain: bool,
    /// Sorted by kind and by what they are about.
    pub problems: Vec<Problem>,
}

/// Looks for everything that is wrong.
pub fn check(snapshot: &Snapshot) -> Findings {
    let mut findings = Findings::default();
    for (place, user) in snapshot.users.iter().enumerate() {
        for ip in &user.addresses {
            findings.in_use.entry(*ip).or_default().push(place);
        }
    }
    for (cidr, block) in &snapshot.blocks {
        for allocation in allocations(*cidr, &block.value, &findings.in_use, snapshot) {
            findings.active_handles.extend(allocation.handle().map(str::to_string));
            findings.allocations.entry(allocation.ip).or_default().push(allocation);
        }
    }
    let mut problems: BTreeSet<Problem> = BTreeSet::new();
    findings.handles_uncertain = snapshot.unreadable.iter().any(|u| matches!(u.key, api::Key::IpamBlock(_)))
        || snapshot.blocks.values().any(|b| faults(&b.value, snapshot.now).iter().any(Fault::loses_owners));
    for unreadable in &snapshot.unreadable {
        problems.insert(Problem::Unreadable { key: unreadable.key.to_string(), reason: unreadable.reason.clone() });
    }
    addresses(snapshot, &findings, &mut problems);
    handles(snapshot, &findings, &mut problems);
    blocks(snapshot, &mut problems);
    affinities(snapshot, &mut problems);
    findings.problems = problems.into_iter().collect();
    findings
}

fn allocations<'a>(
    cidr: IpNet,
    block: &'a AllocationBlock,
    in_use: &'a BTreeMap<IpAddr, Vec<usize>>,
    snapshot: &'a Snapshot,
) -> impl Iterator<Item = Allocation> + 'a {
    let host = match owner_of(block) {
        Some(AffinityOwner::Host(name)) => name,
        _ => String::new(),
    };
    let slots = block.allocations.iter().take(size_of(block)).enumerate();
    slots.filter_map(move |(ordinal, slot)| {
        let attribute = block.attributes.get((*slot)?).cloned();
        let ip = address_at(cidr, ordinal);
        let mut owners: Vec<String> =
            in_use.get(&ip).into_iter().flatten().map(|&u| snapshot.users[u].to_string()).collect();
        if attribute.as_ref().is_some_and(is_windows) {
            owners.push("Reserved for Windows".into());
        }
        let mut allocation = Allocation {
            ip,
            block: cidr,
            ordinal,
            attribute,
            sequence: block.sequence_number_for_allocation.get(&ordinal.to_string()).copied().unwrap_or(0),
            node: host.clone(),
            is_borrowed: false,
            owners,
        };
        if let Some(node) = allocation.attr(attr::NODE).map(str::to_string) {
            allocation.is_borrowed = node != host;
            allocation.node = node;
        }
        Some(allocation)
    })
}

fn is_windows(attribute: &AllocationAttribute) -> bool {
    attribute.handle_id.as_deref().is_some_and(|h| h.eq_ignore_ascii_case(WINDOWS_HANDLE))
}

fn addresses(snapshot: &Snapshot, findings: &Findings, problems: &mut BTreeSet<Problem>) {
    for (ip, allocations) in &findings.allocations {
        if allocations.len() > 1 {
            let blocks = allocations.iter().map(|a| a.block).collect();
            problems.insert(Problem::AllocatedTwice { ip: *ip, blocks });
        }
        for allocation in allocations.iter().filter(|a| !a.is_in_use() && !a.is_cooling()) {
            let attributes = allocation.described();
            problems.insert(match allocation.is_of_service() && snapshot.lacks_services() {
                true => Problem::ServiceUnknown { ip: *ip, attributes },
                false => Problem::Leaked {
                    ip: *ip,
                    block: allocation.block,
                    handle: allocation.handle().map(str::to_string),
                    sequence_number: allocation.sequence,
                    attributes,
                },
            });
        }
    }
    for (&ip, places) in &findings.in_use {
        let users: Vec<&User> = places.iter().map(|&p| &snapshot.users[p]).collect();
        let owners: Vec<String> = users.iter().map(ToString::to_string).collect();
        let allocated = findings.allocations.get(&ip).map(Vec::as_slice).unwrap_or_default();
        if is_duplicate(&users, allocated) {
            problems.insert(Problem::Duplicate { ip, owners: owners.clone() });
        }
        // Whoever else balances services has addresses and rules of his own.
        if !allocated.is_empty() || snapshot.is_in_active_pool(ip) {
            unshared(snapshot, ip, &users, problems);
        }
        match allocated {
            [] if snapshot.is_in_active_pool(ip) => {
                problems.insert(Problem::NotAllocated { ip, owners });
            }
            // Who else balances a service has addresses of his own.
            [] if users.iter().all(|u| u.kind == UserKind::Service) => {}
            [] => {
                problems.insert(Problem::NotInPool { ip, owners });
            }
            [only] if only.is_cooling() => {
                problems.insert(Problem::UsedWhileCooling { ip, owners });
            }
            [only] => {
                let wrong = users.iter().find(|u| !is_owner(u, only));
                problems.extend(wrong.map(|user| Problem::WrongOwner {
                    ip,
                    allocated_to: only.described(),
                    used_by: user.to_string(),
                }));
            }
            _ => {}
        }
    }
}

/// Whether an address is used by several who should not share it. Of services [`unshared`] knows, endpoints of one pod do, and so do the two
/// pods of a virtual machine while it moves.
fn is_duplicate(users: &[&User], allocated: &[Allocation]) -> bool {
    let moves = allocated.iter().any(|a| a.attribute.as_ref().is_some_and(|t| t.alternate_owner_attrs.is_some()));
    let [first, rest @ ..] = users else { return false };
    let same = |u: &&User| {
        (u.kind == UserKind::Service && first.kind == UserKind::Service)
            || (u.pod.is_some() && u.pod == first.pod && u.namespace == first.namespace)
            || (u.kind == UserKind::Node && first.kind == UserKind::Node && u.name == first.name)
    };
    !moves && !rest.iter().all(same)
}

/// Services that have the address of an earlier one which they may not share; each is told once.
fn unshared(snapshot: &Snapshot, ip: IpAddr, users: &[&User], problems: &mut BTreeSet<Problem>) {
    let services: Vec<&User> = users.iter().copied().filter(|u| u.kind == UserKind::Service).collect();
    for (i, service) in services.iter().enumerate() {
        let earlier = services[..i].iter().find_map(|other| Some((other, snapshot.cannot_share(other, service)?)));
        problems.extend(earlier.map(|(other, reason)| Problem::CannotShare {
            ip,
            services: vec![other.to_string(), service.to_string()],
            reason,
        }));
    }
}

/// Whether what is stored with an allocation says that this user has it. What is not stored contradicts nobody.
fn is_owner(user: &User, allocation: &Allocation) -> bool {
    let attribute = allocation.attribute.as_ref();
    let known =
        [attribute.and_then(|a| a.secondary.as_ref()), attribute.and_then(|a| a.alternate_owner_attrs.as_ref())];
    let known: Vec<_> = known.into_iter().flatten().collect();
    let agrees = |owner: &BTreeMap<String, String>, name: &str, value: Option<&str>| match (owner.get(name), value) {
        (Some(stored), Some(value)) => stored == value || stored.is_empty(),
        _ => true,
    };
    known.is_empty()
        || known.iter().any(|owner| match user.kind {
            UserKind::Node => !owner.contains_key(attr::POD) && agrees(owner, attr::NODE, user.node.as_deref()),
            UserKind::Service => !owner.contains_key(attr::POD),
            UserKind::Workload => {
                agrees(owner, attr::NODE, user.node.as_deref())
                    && agrees(owner, attr::POD, user.pod.as_deref())
                    && (user.pod.is_none() || agrees(owner, attr::NAMESPACE, Some(&user.namespace)))
                    && !owner.contains_key(attr::SERVICE)
            }
        })
}

fn handles(snapshot: &Snapshot, findings: &Findings, problems: &mut BTreeSet<Problem>) {
    let mut actual: BTreeMap<&str, BTreeMap<IpNet, usize>> = BTreeMap::new();
    for allocation in findings.allocations.values().flatten() {
        // Calico does not count what Windows keeps.
        let counts = allocation.attribute.as_ref().is_some_and(|a| !is_windows(a));
        if let Some(handle) = allocation.handle().filter(|_| counts) {
            *actual.entry(handle).or_default().entry(allocation.block).or_default() += 1;
        }
    }
    for (id, stored) in &snapshot.handles {
        let Some(actual) = actual.get(id.as_str()) else {
            problems.insert(Problem::HandleLeaked { handle: id.clone() });
            continue;
        };
        let is_true = stored.value.block.len() == actual.len()
            && stored.value.block.iter().all(|(c, n)| c.parse().is_ok_and(|c: IpNet| actual.get(&c) == Some(n)));
        if !is_true {
            let stored = stored.value.block.clone();
            problems.insert(Problem::HandleCount { handle: id.clone(), stored, actual: actual.clone() });
        }
    }
    let unreadable: BTreeSet<&api::Key> = snapshot.unreadable.iter().map(|u| &u.key).collect();
    for (id, actual) in actual {
        if !snapshot.handles.contains_key(id) && !unreadable.contains(&api::Key::IpamHandle(id.into())) {
            problems.insert(Problem::HandleMissing { handle: id.into(), actual });
        }
    }
}

fn blocks(snapshot: &Snapshot, problems: &mut BTreeSet<Problem>) {
    // The blocks that the present one may lie in, the smallest last.
    let mut around: Vec<IpNet> = Vec::new();
    for (&cidr, stored) in &snapshot.blocks {
        let block = &stored.value;
        let allocated = block.allocations.iter().flatten().count();
        let faults = faults(block, snapshot.now);
        if !faults.is_empty() {
            problems.insert(Problem::InvalidBlock { block: cidr, faults });
        }
        around.retain(|outer| outer.contains(&cidr));
        problems.extend(around.iter().map(|&outer| Problem::OverlappingBlocks { outer, inner: cidr }));
        around.push(cidr);
        match snapshot.pool_of(&cidr) {
            None => {
                problems.insert(Problem::OrphanBlock { block: cidr, allocated });
            }
            Some(pool) => {
                let wrong = pool.block_len.filter(|&len| len != cidr.prefix_len());
                problems.extend(wrong.map(|expected| Problem::BlockSize {
                    block: cidr,
                    pool: pool.name.clone(),
                    expected,
                    allocated,
                }));
            }
        }
        match owner_of(block) {
            None if allocated == 0 => {
                problems.insert(Problem::UnownedBlock { block: cidr });
            }
            Some(AffinityOwner::Host(node)) if !snapshot.nodes.contains(&node) => {
                problems.insert(Problem::BlockOfMissingNode { block: cidr, node, allocated });
            }
            _ => {}
        }
    }
}

fn affinities(snapshot: &Snapshot, problems: &mut BTreeSet<Problem>) {
    let unreadable: BTreeSet<&api::Key> = snapshot.unreadable.iter().map(|u| &u.key).collect();
    for ((cidr, owner), affinity) in &snapshot.affinities {
        let (block, state) = (*cidr, word(affinity.value.state));
        let named = owner.to_block_field();
        match snapshot.blocks.get(cidr).map(|b| owner_of(&b.value)) {
            // It is there, whatever it says.
            None if unreadable.contains(&api::Key::IpamBlock(block)) => {}
            None => {
                problems.insert(Problem::AffinityWithoutBlock { block, owner: named, state });
            }
            Some(Some(other)) if other == *owner => {
                if affinity.value.state != AffinityState::Confirmed {
                    problems.insert(Problem::AffinityState { block, owner: named, state });
                }
            }
            Some(other) => {
                let block_owner = other.map(|o| o.to_block_field());
                problems.insert(Problem::AffinityOfOther { block, owner: named, block_owner });
            }
        }
    }
    for (&cidr, block) in &snapshot.blocks {
        let Some(owner) = owner_of(&block.value) else { continue };
        let is_known = snapshot.affinities.contains_key(&(cidr, owner.clone()))
            || unreadable.contains(&api::Key::BlockAffinity(owner.clone(), cidr));
        if !is_known {
            problems.insert(Problem::BlockWithoutAffinity { block: cidr, owner: owner.to_block_field() });
        }
    }
}

#[cfg(test)]
mod tests;
