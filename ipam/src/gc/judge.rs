//! What of the present objects nobody needs, and why.

use std::net::IpAddr;
use std::sync::Arc;

use api::key::AffinityOwner;
use ipnet::IpNet;
use jiff::SignedDuration;

use super::view::{BlockView, HandleView, Holder};
use super::{Collector, Fingerprint, MIN_VM_GRACE, Name, Reason, Verdict};
use crate::pool::Family;

impl Collector {
    pub(super) fn judge_handle(&self, handle: &str) -> Option<(Verdict, Fingerprint)> {
        let view = self.handles.get(handle)?;
        let mut found: Option<(Reason, SignedDuration)> = None;
        for (ip, slot) in view.slots.iter() {
            match self.judge_address(*ip, &slot.holder) {
                Verdict::Kept => return None,
                Verdict::Leaked { reason, wait } => {
                    found = match found {
                        Some((first, longest)) => Some((first, longest.max(wait))),
                        None => Some((reason, wait)),
                    };
                }
            }
        }
        let (reason, wait) = found.filter(|_| !self.names_unreadable(view))?;
        let print = view.slots.iter().map(|(ip, slot)| (*ip, slot.sequence)).collect();
        Some((Verdict::Leaked { reason, wait }, Fingerprint::Addresses(print)))
    }

    fn judge_address(&self, ip: IpAddr, holder: &Holder) -> Verdict {
        // Whoever it was given to: a workload has it.
        let in_use = self.is_in_use(ip);
        if in_use == Some(true) {
            return Verdict::Kept;
        }
        let gone =
            |node: &str| Verdict::Leaked { reason: Reason::NodeGone(node.to_string()), wait: SignedDuration::ZERO };
        let after = |reason: Reason, wait: SignedDuration| match self.settings.grace.is_positive() {
            true => Verdict::Leaked { reason, wait },
            false => Verdict::Kept,
        };
        match holder {
            Holder::Unknown => Verdict::Kept,
            Holder::Tunnel(node) if self.nodes.contains(node) => Verdict::Kept,
            Holder::Tunnel(node) => gone(node),
            Holder::Service(name) if self.holds_services || self.services.contains(name) => Verdict::Kept,
            Holder::Service(name) => {
                Verdict::Leaked { reason: Reason::NoService(name.clone()), wait: self.settings.interval() }
            }
            Holder::Machine(_) if self.has_unreadable_somewhere() => Verdict::Kept,
            Holder::Machine(name) => after(Reason::NoMachine(name.clone()), self.settings.grace.max(MIN_VM_GRACE)),
            Holder::Workload { pod: Some(pod), .. } if self.runs(pod, ip) => Verdict::Kept,
            Holder::Workload { node, pod } => {
                let is_doubtful = in_use.is_none() || self.has_unreadable(node.as_ref());
                match node {
                    Some(node) if !self.nodes.contains(node) && is_doubtful => Verdict::Leaked {
                        reason: Reason::NodeLongGone(node.clone()),
                        wait: self.settings.grace.max(self.settings.interval()),
                    },
                    Some(node) if !self.nodes.contains(node) => gone(node),
                    Some(_) if self.has_unreadable(node.as_ref()) => Verdict::Kept,
                    None if self.has_unreadable_somewhere() => Verdict::Kept,
                    _ => after(Reason::NoWorkload(pod.clone()), self.settings.grace),
                }
            }
        }
    }

    /// Whether a pod runs that may have the address.
    fn runs(&self, pod: &Name, ip: IpAddr) -> bool {
        self.settings.has_kubernetes && self.pods.get(pod).is_some_and(|p| p.may_have(ip))
    }

    pub(super) fn judge_record(&self, handle: &str) -> Option<(Verdict, Fingerprint)> {
        let view = self.handles.get(handle)?;
        let record = view.record.as_ref()?;
        if !view.slots.is_empty() || self.names_unreadable(view) {
            return None;
        }
        let verdict = Verdict::Leaked { reason: Reason::NoAddress, wait: self.settings.interval() };
        Some((verdict, Fingerprint::Revision(record.revision)))
    }

    fn names_unreadable(&self, view: &HandleView) -> bool {
        let Some(record) = &view.record else { return false };
        record.blocks.as_ref().is_none_or(|blocks| blocks.iter().any(|b| self.unreadable.contains(b)))
    }

    pub(super) fn judge_block(&self, cidr: &IpNet) -> Option<(Verdict, Fingerprint)> {
        let view = self.blocks.get(cidr)?;
        let wait = self.settings.interval();
        let verdict = match &view.owner {
            None if view.is_empty => Verdict::Leaked { reason: Reason::NoOwner, wait },
            Some(AffinityOwner::Host(node)) if !self.nodes.contains(node) && self.has_live_address(view, node) => {
                Verdict::Kept
            }
            Some(AffinityOwner::Host(node)) if !self.nodes.contains(node) => {
                Verdict::Leaked { reason: Reason::NodeGone(node.clone()), wait: SignedDuration::ZERO }
            }
            Some(owner) if view.is_empty && !self.is_last(owner, cidr) => {
                Verdict::Leaked { reason: Reason::Empty, wait }
            }
            _ => Verdict::Kept,
        };
        Some((verdict, Fingerprint::Revision(view.sequence)))
    }

    /// Whether a node still uses an address of a block, where Kubernetes says what runs: then it is its Node object alone that is gone, and
    /// perhaps for a moment.
    fn has_live_address(&self, block: &BlockView, node: &str) -> bool {
        let is_of_node = |ip: &IpAddr, handle: &Arc<str>| {
            let slot = self.handles.get(handle).and_then(|view| view.slots.get(ip));
            slot.is_some_and(|s| matches!(s.holder.as_ref(), Holder::Workload { node: Some(n), .. } if n == node))
        };
        self.settings.has_kubernetes
            && block.handles.iter().any(|(ip, handle)| is_of_node(ip, handle) && self.judge_handle(handle).is_none())
    }

    /// Whether a node would have no block of this family without this one: of empty blocks alone the first stays.
    fn is_last(&self, owner: &AffinityOwner, cidr: &IpNet) -> bool {
        let AffinityOwner::Host(_) = owner else { return false };
        let family = Family::of(cidr);
        let mut others = self.owned.get(owner).into_iter().flatten().filter(|c| Family::of(c) == family && *c != cidr);
        !others.any(|other| other < cidr || self.blocks.get(other).is_some_and(|b| !b.is_empty))
    }

    pub(super) fn judge_affinity(&self, owner: &AffinityOwner, cidr: &IpNet) -> Option<(Verdict, Fingerprint)> {
        let revision = *self.affinities.get(owner)?.get(cidr)?;
        let reason = match self.blocks.get(cidr) {
            _ if self.unreadable.contains(cidr) => return None,
            Some(block) if block.owner.as_ref() == Some(owner) => return None,
            Some(_) => Reason::OtherOwner,
            None => Reason::NoBlock,
        };
        let (reason, wait) = match owner {
            AffinityOwner::Host(node) if !self.nodes.contains(node) => {
                (Reason::NodeGone(node.clone()), SignedDuration::ZERO)
            }
            _ => (reason, self.settings.interval()),
        };
        Some((Verdict::Leaked { reason, wait }, Fingerprint::Revision(revision)))
    }

    /// Whether an endpoint of this node cannot be read: it may have an address that was given there.
    fn has_unreadable(&self, node: Option<&String>) -> bool {
        node.is_some_and(|node| self.unreadable_workloads.contains_key(node))
    }

    /// Whether an endpoint of a node that is there cannot be read: it may have an address that is of no node. A name that tells of no
    /// node counts as that of one which is there.
    fn has_unreadable_somewhere(&self) -> bool {
        self.unreadable_workloads.keys().any(|node| !self.is_gone(node))
    }

    fn is_gone(&self, node: &str) -> bool {
        !node.is_empty() && !self.nodes.contains(node)
    }

    /// Whether a workload has an address, as far as is known: an endpoint that can be read, or one that could be and is of a node that
    /// is there. `None`: only endpoints that cannot be read any more, of nodes that are gone.
    fn is_in_use(&self, ip: IpAddr) -> Option<bool> {
        let Some(all) = self.in_use.get(&ip) else { return Some(false) };
        let of_gone = self.unreadable_workloads.iter().filter(|(node, _)| self.is_gone(node));
        let addresses = of_gone.flat_map(|(_, names)| names).filter_map(|name| self.workloads.get(name));
        let doubtful = addresses.flatten().filter(|known| **known == ip).count();
        (*all > doubtful).then_some(true)
    }
}
