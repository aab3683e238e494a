//! Addresses of LoadBalancer services, from IPPools (Calico `kube-controllers/pkg/controllers/loadbalancer`) and from
//! LoadBalancerIPPools (Cilium `operator/pkg/lbipam`). The blocks say what a service has; its status is written from them.
//!
//! Services with the same sharing key are planned together: an address belongs to the handle of one of them and is in the status of
//! all who share it. When the one whose handle has it leaves, another takes it over.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::ip_pool::AllowedUse;
use api::key::LOAD_BALANCER_OWNER;
use api::load_balancer_ip_pool::{LoadBalancerIpPool, LoadBalancerIpPoolStatus};
use api::service::{LoadBalancerIngress, ServiceStatus, ServiceType};
use api::{Kind, Service};
use ipam::pool::{Family, fnv1a32};
use ipam::service_address::{LOAD_BALANCER_CLASSES, cannot_share, sharing_key};
use ipnet::IpNet;
use serde_json::Value;

use super::{Action, AssignAddress, Problem, Wish, family_name, family_of, named_families, policy};
use crate::state::{Name, Slot, State};

/// Calico's annotations.
const WISHED_IPS: &str = "projectcalico.org/loadBalancerIPs";
const WISHED_POOLS_V4: &str = "projectcalico.org/ipv4pools";
const WISHED_POOLS_V6: &str = "projectcalico.org/ipv6pools";
/// Ours, then Cilium's and Cilium's former one: addresses with commas between.
const WISHED_IPS_LIST: [&str; 3] = ["tortie.io/load-balancer-ips", "lbipam.cilium.io/ips", "io.cilium/lb-ipam-ips"];
/// Longest block of a LoadBalancerIPPool, by family; shorter where the pool's range or another's block leaves no room.
const BLOCK_V4: u8 = 26;
const BLOCK_V6: u8 = 122;
/// Addresses of a pool that are looked at for a free one: an IPv6 pool may have more than can be counted.
const MAX_PROBES: u128 = 1 << 20;

/// Whether a service is of a type and class that we give an address.
pub fn wants_address(service: &Service) -> bool {
    let spec = &service.body.spec;
    let class = spec.extra.get("loadBalancerClass").and_then(Value::as_str);
    spec.service_type == ServiceType::LoadBalancer && class.is_none_or(|c| LOAD_BALANCER_CLASSES.contains(&c))
}

/// The handle of a service's addresses; a service without a uid was never stored.
pub fn handle_of(name: &Name, service: &Service) -> Option<String> {
    Some(ipam::handle::for_service(&name.1, &name.0, service.metadata.uid.as_deref()?))
}

/// The addresses that a service's status has.
pub fn ingress_of(service: &Service) -> impl Iterator<Item = IpAddr> + '_ {
    let ingress = service.body.status.iter().flat_map(|s| &s.load_balancer.ingress);
    ingress.filter_map(|i| i.ip.as_deref()?.parse().ok())
}

/// Plans the release of what a handle has that is of no service which wants it, and which none that shares it takes over.
pub fn release_unwanted(state: &State, handle: &str, actions: &mut Vec<Action>) {
    let is_free = !is_wanted(state, handle) && !state.is_held(handle);
    let Some(allocation) = state.allocations.get(handle).filter(|_| is_free) else { return };
    let is_unclaimed = |ip: IpAddr| !state.is_claimed(ip) && !takes_over(state, &allocation.service, ip);
    let unclaimed = allocation.addresses.iter().filter(|(ip, _)| is_unclaimed(**ip));
    let addresses: Vec<(IpAddr, Option<u64>)> = unclaimed.map(|(ip, slot)| (*ip, slot.sequence)).collect();
    if !addresses.is_empty() {
        let service = allocation.service.clone();
        actions.push(Action::ReleaseHandle { service, handle: handle.into(), addresses });
    }
}

fn is_wanted(state: &State, handle: &str) -> bool {
    let Some(name) = state.allocations.get(handle).map(|a| &a.service) else { return false };
    let service = state.services.get(name);
    service.is_some_and(|s| wants_address(s) && handle_of(name, s).as_deref() == Some(handle))
}

/// Whether a service says in its status that it has an address: one that was made anew with its status, and has another uid, keeps
/// what it had.
fn takes_over(state: &State, name: &Name, ip: IpAddr) -> bool {
    state.services.get(name).is_some_and(|s| wants_address(s) && ingress_of(s).any(|i| i == ip))
}

/// Clears the status of a service that is of another type now.
pub fn forget(wanted: &mut Service) {
    if wanted.body.spec.service_type != ServiceType::LoadBalancer {
        set_ingress(wanted, &[]);
    }
}

/// What the plan of a group says of one of its services.
#[derive(Debug, Default)]
pub struct Placement {
    pub ingress: Vec<IpAddr>,
    pub problems: Vec<Problem>,
}

/// Plans the addresses of services that share a key, oldest first, or of one service alone.
pub fn plan_group(members: &[Name], state: &mut State, actions: &mut Vec<Action>) -> BTreeMap<Name, Placement> {
    let mut group = Group::new(members, state);
    for name in members {
        group.place(name);
    }
    let Group { placements, releases, handovers, assigns, picked, exhausted, .. } = group.finish();
    picked.into_iter().for_each(|(ip, handle)| state.picked.insert(ip, handle));
    state.exhausted.extend(exhausted);
    // What is released or handed over comes first: an assignment may want it.
    actions.extend(releases.into_iter().chain(handovers).chain(assigns));
    placements
}

/// An address that the group has.
struct Offer {
    handle: String,
    slot: Slot,
}

/// A plan in the making.
struct Group<'a> {
    state: &'a State,
    members: &'a [Name],
    has: BTreeMap<IpAddr, Offer>,
    /// Who uses each address.
    placed: BTreeMap<IpAddr, Vec<&'a Name>>,
    /// Assignments of a kind whose outcome others could share.
    coming: Vec<(Family, Vec<&'a Name>)>,
    picked: BTreeMap<IpAddr, String>,
    /// LoadBalancerIPPools that were searched in vain.
    exhausted: BTreeSet<(String, Family)>,
    placements: BTreeMap<Name, Placement>,
    releases: Vec<Action>,
    handovers: Vec<Action>,
    assigns: Vec<Action>,
}

/// What a service asks for.
struct Request {
    /// These addresses, and of their families no others.
    named: Vec<IpAddr>,
    /// Of each of these one; whether it is a must.
    families: Vec<(Family, bool)>,
    /// IPPools that were named.
    pools: BTreeMap<Family, Vec<IpNet>>,
}

impl<'a> Group<'a> {
    fn new(members: &'a [Name], state: &'a State) -> Self {
        let mut has = BTreeMap::new();
        for name in members {
            let Some(handle) = state.services.get(name).and_then(|s| handle_of(name, s)) else { continue };
            for (ip, slot) in state.allocations.get(&handle).iter().flat_map(|a| &a.addresses) {
                has.insert(*ip, Offer { handle: handle.clone(), slot: slot.clone() });
            }
        }
        // What a service that left had, and others of the group use; what one of them had when its uid was another.
        for name in members {
            let Some(service) = state.services.get(name) else { continue };
            let is_sharing = sharing_key(service).is_some();
            for ip in ingress_of(service) {
                let holder = state.holder_of(ip).filter(|h| !has.contains_key(&ip) && !is_wanted(state, h));
                let Some((handle, allocation)) = holder.and_then(|h| Some((h, state.allocations.get(h)?))) else {
                    continue;
                };
                if !is_sharing && allocation.service != *name {
                    continue;
                }
                let slot = allocation.addresses.get(&ip).cloned();
                has.insert(ip, Offer { handle: handle.to_string(), slot: slot.unwrap_or_default() });
            }
        }
        Self {
            state,
            members,
            has,
            placed: BTreeMap::new(),
            coming: vec![],
            picked: BTreeMap::new(),
            exhausted: BTreeSet::new(),
            placements: BTreeMap::new(),
            releases: vec![],
            handovers: vec![],
            assigns: vec![],
        }
    }

    /// Finds the addresses of one service.
    fn place(&mut self, name: &'a Name) {
        let Some(service) = self.state.services.get(name) else { return };
        let Some(handle) = handle_of(name, service) else { return };
        let mut placement = Placement::default();
        match request(service, self.state) {
            Ok(request) if !self.is_to_be_served(service, &handle, &request) => {}
            Ok(request) => self.serve(name, service, &handle, &request, &mut placement),
            // What it has stays: a slip of the pen takes no service down.
            Err(message) => {
                self.keep_all(name, service, &handle, &mut placement);
                placement.problems.push(Problem { reason: "InvalidRequest", message });
            }
        }
        placement.ingress.sort_by_key(|ip| (first_family(service) != family_of(*ip), *ip));
        placement.ingress.dedup();
        self.placements.insert(name.clone(), placement);
    }

    /// With `assignIPs: RequestedServicesOnly`, only who asks gets an address; who has one keeps it.
    fn is_to_be_served(&self, service: &Service, handle: &str, request: &Request) -> bool {
        !self.state.config.only_requested
            || !request.named.is_empty()
            || !request.pools.is_empty()
            || ingress_of(service).next().is_some()
            || self.has.values().any(|offer| offer.handle == handle)
    }

    fn serve(&mut self, name: &'a Name, service: &Service, handle: &str, request: &Request, out: &mut Placement) {
        for ip in &request.named {
            self.serve_named(name, service, handle, *ip, out);
        }
        for (family, is_required) in &request.families {
            self.serve_family(name, service, handle, (*family, *is_required), request, out);
        }
        // While the new one comes, its status says what it said, unless that is another's.
        let coming = self.assigns.iter().filter_map(|a| match a {
            Action::AssignAddress(a) if a.service == *name => Some(a.family),
            _ => None,
        });
        let coming: BTreeSet<Family> = coming.filter(|f| !out.ingress.iter().any(|ip| family_of(*ip) == *f)).collect();
        for ip in ingress_of(service).filter(|ip| coming.contains(&family_of(*ip))) {
            if !self.has.contains_key(&ip) {
                out.ingress.extend(Some(ip).filter(|ip| self.is_nobodys(*ip, handle)));
            } else if self.incompatible(name, service, self.placed.get(&ip)).is_none() {
                self.use_address(name, ip, out);
            }
        }
        let is_preferred = request.families.len() > 1 && !request.families.iter().any(|(_, required)| *required);
        let is_short = out.ingress.is_empty() && out.problems.is_empty();
        if is_preferred && is_short && !self.is_assigning(name) {
            out.problems.push(no_pool(None));
        }
        if self.is_assigning(name)
            && let Some(message) = self.state.failures.get(name)
        {
            out.problems.push(Problem { reason: "NoAddress", message: message.clone() });
        }
    }

    /// Whether none but this handle has the address or is getting it.
    fn is_nobodys(&self, ip: IpAddr, handle: &str) -> bool {
        let picked = self.state.picked.handle_of(ip).into_iter().chain(self.picked.get(&ip).map(String::as_str));
        self.state.collector.is_free(ip) && picked.into_iter().all(|h| h == handle)
    }

    fn is_assigning(&self, name: &Name) -> bool {
        self.assigns.iter().any(|a| matches!(a, Action::AssignAddress(a) if a.service == *name))
    }

    /// An address that the user asked for: that or none.
    fn serve_named(&mut self, name: &'a Name, service: &Service, handle: &str, ip: IpAddr, out: &mut Placement) {
        if self.has.contains_key(&ip) {
            match self.incompatible(name, service, self.placed.get(&ip)) {
                None => {
                    if let Home::None(_) = self.home(ip, name, service) {
                        let message = format!("{ip} is in no IPPool with allowedUses [LoadBalancer] any more");
                        out.problems.push(Problem { reason: "AddressNotInPool", message });
                    }
                    self.use_address(name, ip, out);
                }
                Some(why) => out.problems.push(Problem { reason: "CannotShare", message: format!("{ip}: {why}") }),
            }
            return;
        }
        // Until it has the new one, it keeps what it has.
        self.keep_family(name, service, handle, family_of(ip), out);
        // What nobody wants is released first.
        let stays = |h: &&str| is_wanted(self.state, h) || self.state.is_held(h) || self.state.is_claimed(ip);
        let holder = self.state.holder_of(ip).filter(stays);
        if let Some(other) = holder.and_then(|h| self.state.allocations.get(h)) {
            let (namespace, other) = &other.service;
            let message = format!("{ip} is the address of service {namespace}/{other}");
            out.problems.push(Problem { reason: "AddressInUse", message });
            return;
        }
        match self.home(ip, name, service) {
            Home::IpPool => self.assign(name, handle, Wish::Must(ip), vec![], None),
            Home::Pool(pool) => self.assign_from(name, handle, ip, pool, out),
            Home::Refused(reason, message) => out.problems.push(Problem { reason, message }),
            Home::None(has_pools) => {
                let pools = if has_pools {
                    "IPPool with allowedUses [LoadBalancer] and no LoadBalancerIPPool"
                } else {
                    "enabled IPPool with allowedUses [LoadBalancer]"
                };
                let message = format!("{ip} is in no {pools}");
                out.problems.push(Problem { reason: "AddressNotInPool", message });
            }
        }
    }

    /// Any address of a family.
    fn serve_family(
        &mut self,
        name: &'a Name,
        service: &Service,
        handle: &str,
        (family, is_required): (Family, bool),
        request: &Request,
        out: &mut Placement,
    ) {
        let mut candidates: Vec<IpAddr> = ingress_of(service).filter(|ip| self.has.contains_key(ip)).collect();
        candidates.extend(self.has.iter().filter(|(_, offer)| offer.handle == handle).map(|(ip, _)| *ip));
        candidates.extend(self.has.keys().copied());
        candidates
            .retain(|ip| family_of(*ip) == family && self.incompatible(name, service, self.placed.get(ip)).is_none());
        let at_home = candidates.iter().find(|ip| {
            !matches!(self.home(**ip, name, service), Home::None(_) | Home::Refused("PoolSelectorMismatch", _))
        });
        if let Some(ip) = at_home {
            return self.use_address(name, *ip, out);
        }
        let pools = request.pools.get(&family).cloned().unwrap_or_default();
        let free = self.free_in_pools(name, service, handle, family).filter(|_| pools.is_empty());
        let has_ip_pool = self.has_ip_pool(family, &pools);
        if let Some(homeless) = candidates.first().copied() {
            // Its pool is gone: nobody announces it any more. Where another pool can take the service it moves there; else it waits,
            // with the address it has, for the pool to come back.
            if free.is_none() && !has_ip_pool {
                let message = format!("{homeless} is in no IPPool with allowedUses [LoadBalancer] any more");
                out.problems.push(Problem { reason: "AddressNotInPool", message });
                if !self.is_of_pool(homeless) {
                    self.use_address(name, homeless, out);
                }
                return;
            }
            // Until it has the new one, it keeps this.
            self.use_address(name, homeless, out);
        }
        if let Some(status) =
            ingress_of(service).find(|ip| family_of(*ip) == family && self.state.holder_of(*ip).is_none())
            && candidates.is_empty()
        {
            match self.home(status, name, service) {
                Home::IpPool => return self.assign_any(name, service, handle, family, Wish::Prefer(status), pools),
                Home::Pool(pool) => return self.assign_from(name, handle, status, pool, out),
                Home::Refused(..) | Home::None(_) => {}
            }
        }
        if self.joins_coming(name, service, family) {
            return;
        }
        match free {
            Some((ip, pool)) => {
                self.coming.push((family, vec![name]));
                self.assign_from(name, handle, ip, pool, out);
            }
            None if has_ip_pool => self.assign_any(name, service, handle, family, Wish::Any, pools),
            None if is_required => out.problems.push(no_pool_left(self.state, name, service, family)),
            None => {}
        }
    }

    /// Whether another of the group is getting an address that this service can share.
    fn joins_coming(&mut self, name: &'a Name, service: &Service, family: Family) -> bool {
        if sharing_key(service).is_none() {
            return false;
        }
        let found = (0..self.coming.len()).find(|i| {
            let (of, users) = &self.coming[*i];
            *of == family && self.incompatible(name, service, Some(users)).is_none()
        });
        found.map(|i| self.coming[i].1.push(name)).is_some()
    }

    fn assign_any(
        &mut self,
        name: &'a Name,
        service: &Service,
        handle: &str,
        family: Family,
        wish: Wish,
        pools: Vec<IpNet>,
    ) {
        if self.joins_coming(name, service, family) {
            return;
        }
        self.coming.push((family, vec![name]));
        // What is neither released nor handed over before.
        let is_kept = |ip: &IpAddr| self.placed.get(ip).is_some_and(|users| users.contains(&name));
        let own = self.has.iter().filter(|(ip, offer)| offer.handle == handle && family_of(**ip) == family);
        let besides = own.filter(|(ip, _)| is_kept(ip)).count();
        self.assigns.push(Action::AssignAddress(AssignAddress {
            service: name.clone(),
            handle: handle.into(),
            wish,
            family,
            pools,
            from: None,
            besides,
        }));
    }

    fn assign(&mut self, name: &Name, handle: &str, wish: Wish, pools: Vec<IpNet>, from: Option<(IpNet, String)>) {
        let family = match wish {
            Wish::Must(ip) | Wish::Prefer(ip) => family_of(ip),
            Wish::Any => Family::V4,
        };
        let (service, handle) = (name.clone(), handle.to_string());
        let assign = AssignAddress { service, handle, wish, family, pools, from, besides: 0 };
        self.assigns.push(Action::AssignAddress(assign));
    }

    fn assign_from(&mut self, name: &Name, handle: &str, ip: IpAddr, pool: &str, out: &mut Placement) {
        let Some(block) = block_for(self.state, pool, ip) else {
            let message = format!(
                "{ip} of LoadBalancerIPPool {pool} is in a block that is not for load balancers, or cannot be read"
            );
            return out.problems.push(Problem { reason: "NoBlock", message });
        };
        self.picked.insert(ip, handle.to_string());
        self.assign(name, handle, Wish::Must(ip), vec![], Some((block, pool.to_string())));
    }

    fn use_address(&mut self, name: &'a Name, ip: IpAddr, out: &mut Placement) {
        let users = self.placed.entry(ip).or_default();
        if !users.contains(&name) {
            users.push(name);
        }
        out.ingress.push(ip);
    }

    fn keep_family(&mut self, name: &'a Name, service: &Service, handle: &str, family: Family, out: &mut Placement) {
        let own = self.has.iter().filter(|(_, offer)| offer.handle == handle).map(|(ip, _)| *ip);
        let status = ingress_of(service).filter(|ip| self.has.contains_key(ip));
        let kept: BTreeSet<IpAddr> = own.chain(status).filter(|ip| family_of(*ip) == family).collect();
        for ip in kept {
            if self.incompatible(name, service, self.placed.get(&ip)).is_none() {
                self.use_address(name, ip, out);
            }
        }
    }

    fn keep_all(&mut self, name: &'a Name, service: &Service, handle: &str, out: &mut Placement) {
        for family in [Family::V4, Family::V6] {
            self.keep_family(name, service, handle, family, out);
        }
    }

    /// Why a service cannot share an address with those who use it (Cilium: no common port, the same traffic policy, namespaces that
    /// allow each other).
    fn incompatible(&self, name: &Name, service: &Service, users: Option<&Vec<&'a Name>>) -> Option<String> {
        users.into_iter().flatten().filter(|user| **user != name).find_map(|user| {
            let other = self.state.services.get(*user)?;
            cannot_share((&name.0, service), (&user.0, other))
                .map(|why| format!("cannot be shared with {}/{}: {why}", user.0, user.1))
        })
    }

    /// The address of the group that nobody uses goes; what is used by others than whose handle has it is handed over.
    fn finish(mut self) -> Self {
        for (ip, offer) in &self.has {
            let Some(users) = self.placed.get(ip).filter(|users| !users.is_empty()) else {
                let owner = self.members.iter().find(|m| self.handle(m).as_ref() == Some(&offer.handle));
                if let Some(owner) = owner {
                    self.releases.push(Action::ReleaseAddresses {
                        service: owner.clone(),
                        handle: offer.handle.clone(),
                        addresses: vec![(*ip, offer.slot.sequence)],
                    });
                }
                continue;
            };
            if !users.iter().any(|user| self.handle(user).as_ref() == Some(&offer.handle))
                && let Some(handle) = self.handle(users[0])
            {
                self.handovers.push(Action::HandOver {
                    address: *ip,
                    from: offer.handle.clone(),
                    sequence: offer.slot.sequence,
                    service: users[0].clone(),
                    handle,
                    pool: offer.slot.pool.clone(),
                });
            }
        }
        self
    }

    fn handle(&self, name: &Name) -> Option<String> {
        handle_of(name, self.state.services.get(name)?)
    }

    fn is_of_pool(&self, ip: IpAddr) -> bool {
        self.has.get(&ip).is_some_and(|offer| offer.slot.pool.is_some())
    }

    fn has_ip_pool(&self, family: Family, named: &[IpNet]) -> bool {
        let readable = self.state.pools.iter().filter(|(name, _)| !self.state.is_unreadable(Kind::IpPool, name));
        let mut specs = readable.map(|(_, p)| &p.body.spec);
        !named.is_empty()
            || specs.any(|s| !s.disabled && s.allows(AllowedUse::LoadBalancer) && Family::of(&s.cidr) == family)
    }

    /// Where an address is, as it concerns a service.
    fn home(&self, ip: IpAddr, (namespace, name): &Name, service: &Service) -> Home<'a> {
        let mut specs = self.state.pools.iter().map(|(name, p)| (name, &p.body.spec));
        let held = self.has.get(&ip);
        let is_held = held.is_some();
        if let Some((pool, spec)) = specs.find(|(_, s)| s.allows(AllowedUse::LoadBalancer) && s.cidr.contains(&ip)) {
            if !is_held && (spec.disabled || self.state.is_unreadable(Kind::IpPool, pool)) {
                return Home::None(false);
            }
            return Home::IpPool;
        }
        let holding = self.state.lb_pools.iter().find(|(_, p)| p.body.spec.contains(ip));
        let Some((pool, found)) = holding else {
            // It may be of a pool of which we know only that it is there.
            let unknown = |kind: Kind| self.state.unknown_pools(kind);
            let found = match held.map(|offer| offer.slot.pool.as_deref()) {
                Some(Some(of)) => unknown(Kind::LoadBalancerIpPool).find(|name| *name == of).map(Home::Pool),
                Some(None) => unknown(Kind::IpPool).next().map(|_| Home::IpPool),
                None => None,
            };
            return found.unwrap_or(Home::None(!self.state.lb_pools.is_empty()));
        };
        if !found.body.spec.selects(namespace, name, &service.metadata.labels) {
            let message = format!("{ip} is in LoadBalancerIPPool {pool}, whose serviceSelector does not match");
            return Home::Refused("PoolSelectorMismatch", message);
        }
        if !is_held && found.body.spec.disabled {
            return Home::Refused("PoolDisabled", format!("{ip} is in LoadBalancerIPPool {pool}, which is disabled"));
        }
        if !is_held && self.state.is_unreadable(Kind::LoadBalancerIpPool, pool) {
            return Home::Refused(
                "PoolUnreadable",
                format!("{ip} is in LoadBalancerIPPool {pool}, which cannot be read"),
            );
        }
        if !is_held && let Some(conflict) = self.state.conflicts.get(pool) {
            return Home::Refused("PoolConflict", format!("{ip} is in LoadBalancerIPPool {pool}, where {conflict}"));
        }
        Home::Pool(pool)
    }

    /// A free address of a LoadBalancerIPPool that selects the service. The search starts where the name hashes to; a pool that was
    /// searched in vain is not searched again by the same plan, in which addresses only become fewer.
    fn free_in_pools(
        &mut self,
        name: &Name,
        service: &Service,
        handle: &str,
        family: Family,
    ) -> Option<(IpAddr, &'a str)> {
        let state = self.state;
        let pools: Vec<(&'a String, &'a LoadBalancerIpPool)> = serving_pools(state, name, service).collect();
        let known = |ip: IpAddr| pools.iter().find(|(_, p)| p.body.spec.contains(ip)).map(|(pool, _)| pool.as_str());
        // What it was given in a plan that the blocks do not show yet.
        let mut before = state.picked.of(handle).filter(|ip| family_of(*ip) == family);
        if let Some(found) = before.find_map(|ip| Some((ip, known(ip)?))) {
            return Some(found);
        }
        let is_free = |ip: &IpAddr| {
            state.collector.is_free(*ip)
                && !state.reservations.contains(*ip)
                && state.picked.handle_of(*ip).is_none()
                && !self.picked.contains_key(ip)
        };
        // Of a pool that is too large only a part was searched, from where the name hashes to.
        let is_whole = |pool: &LoadBalancerIpPool| pool.body.spec.assignable().all(|r| r.len() <= MAX_PROBES);
        let mut in_vain = Vec::new();
        let found = pools.iter().find_map(|(pool, found)| {
            let key = ((*pool).clone(), family);
            if state.exhausted.contains(&key) || self.exhausted.contains(&key) {
                return None;
            }
            let has_block = |ip: &IpAddr| block_for(state, pool, *ip).is_some();
            let mut ranges = found.body.spec.assignable().filter(|r| r.first().is_ipv4() == (family == Family::V4));
            let free = ranges.find_map(|range| {
                let count = range.len();
                let start = u128::from(fnv1a32(&format!("{}/{}", name.0, name.1))) % count;
                let mut probes = (0..count.min(MAX_PROBES)).map(|i| offset(range.first(), (start + i) % count));
                probes.find(|ip| is_free(ip) && has_block(ip))
            });
            if free.is_none() && is_whole(found) {
                in_vain.push(key);
            }
            free.map(|ip| (ip, pool.as_str()))
        });
        self.exhausted.extend(in_vain);
        found
    }
}

/// Where an address is.
enum Home<'a> {
    IpPool,
    Pool(&'a str),
    /// In a pool that may not give it to this service.
    Refused(&'static str, String),
    /// In none; whether there are LoadBalancerIPPools at all.
    None(bool),
}

/// The LoadBalancerIPPools that may give a service an address, by name.
fn serving_pools<'a>(
    state: &'a State,
    (namespace, name): &Name,
    service: &Service,
) -> impl Iterator<Item = (&'a String, &'a LoadBalancerIpPool)> {
    state.lb_pools.iter().filter(move |(pool, found)| {
        let spec = &found.body.spec;
        !spec.disabled
            && !state.is_unreadable(Kind::LoadBalancerIpPool, pool)
            && !state.conflicts.contains_key(*pool)
            && spec.selects(namespace, name, &service.metadata.labels)
    })
}

/// The block in which an address of a pool is to be: the one it is in already, else the largest that lies in the pool's range and
/// meets no other block.
fn block_for(state: &State, pool: &str, ip: IpAddr) -> Option<IpNet> {
    if let Some(present) = state.collector.virtual_block_of(ip, LOAD_BALANCER_OWNER) {
        return Some(present);
    }
    let spec = &state.lb_pools.get(pool)?.body.spec;
    let range = spec.ranges().find(|range| range.contains(ip))?;
    let (from, to) = if ip.is_ipv4() { (BLOCK_V4, 32) } else { (BLOCK_V6, 128) };
    (from..=to).filter_map(|len| Some(IpNet::new(ip, len).ok()?.trunc())).find(|block| {
        let is_inside = range.contains(block.network()) && range.contains(block.broadcast());
        is_inside && state.collector.is_room_for(block)
    })
}

/// The status of a LoadBalancerIPPool, if it has another.
pub fn pool_status(state: &State, name: &str, now: &str) -> Option<Action> {
    let pool = state.lb_pools.get(name).filter(|_| !state.is_unreadable(Kind::LoadBalancerIpPool, name))?;
    let before = LoadBalancerIpPoolStatus::of(pool);
    let used = state.lb_used.get(name).copied().unwrap_or(0);
    let wanted = LoadBalancerIpPoolStatus::new(state.conflicts.get(name), pool.body.spec.total(), used, now, &before);
    if wanted == before {
        return None;
    }
    let mut updated = pool.clone();
    updated.body.status = serde_json::to_value(wanted).ok();
    Some(Action::UpdatePool(Box::new(updated)))
}

fn no_pool(family: Option<Family>) -> Problem {
    let of = family.map(|f| format!(" of {}", family_name(f))).unwrap_or_default();
    let message = format!(
        "no configured Calico pools for node load-balancer: there is no enabled IPPool{of} with allowedUses [LoadBalancer], and no \
         LoadBalancerIPPool{of} that selects the service"
    );
    Problem { reason: "NoPool", message }
}

/// Why no LoadBalancerIPPool gives a service an address of a family.
fn no_pool_left(state: &State, (namespace, name): &Name, service: &Service, family: Family) -> Problem {
    let is_of_family =
        |pool: &LoadBalancerIpPool| pool.body.spec.assignable().any(|r| r.first().is_ipv4() == (family == Family::V4));
    let selecting = state
        .lb_pools
        .iter()
        .filter(|(_, p)| is_of_family(p) && p.body.spec.selects(namespace, name, &service.metadata.labels));
    let (mut full, mut idle) = (vec![], vec![]);
    for (pool, found) in selecting {
        if found.body.spec.disabled {
            idle.push(format!("LoadBalancerIPPool {pool} is disabled"));
        } else if state.is_unreadable(Kind::LoadBalancerIpPool, pool) {
            idle.push(format!("LoadBalancerIPPool {pool} cannot be read"));
        } else if let Some(conflict) = state.conflicts.get(pool) {
            idle.push(format!("in LoadBalancerIPPool {pool}, {conflict}"));
        } else {
            full.push(pool.as_str());
        }
    }
    let of = family_name(family);
    if !full.is_empty() {
        let others = idle.iter().map(|why| format!("; {why}")).collect::<String>();
        let message = format!("no {of} address is left in LoadBalancerIPPool {}{others}", full.join(", "));
        return Problem { reason: "OutOfAddresses", message };
    }
    if !idle.is_empty() {
        let message = format!("no pool gives {of} addresses to the service: {}", idle.join("; "));
        return Problem { reason: "NoPool", message };
    }
    no_pool(Some(family))
}

fn first_family(service: &Service) -> Family {
    let spec = &service.body.spec;
    let of_cluster_ip = spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok()).map(family_of);
    named_families(spec).first().copied().or(of_cluster_ip).unwrap_or(Family::V4)
}

/// What a service asks for.
fn request(service: &Service, state: &State) -> Result<Request, String> {
    let spec = &service.body.spec;
    let named = named_addresses(service)?;
    let mut pools = BTreeMap::new();
    for (annotation, family) in [(WISHED_POOLS_V4, Family::V4), (WISHED_POOLS_V6, Family::V6)] {
        if let Some(text) = service.metadata.annotations.get(annotation) {
            pools.insert(family, named_pools(annotation, text, family, state)?);
        }
    }
    let first = first_family(service);
    let other = if first == Family::V4 { Family::V6 } else { Family::V4 };
    let mut families = match policy(spec) {
        Some("PreferDualStack") => vec![(first, false), (other, false)],
        Some("RequireDualStack") => vec![(first, true), (other, true)],
        _ if named_families(spec).len() > 1 => vec![(first, true), (other, true)],
        // Who names addresses gets these.
        _ if !named.is_empty() => vec![],
        _ => vec![(first, true)],
    };
    families.retain(|(family, _)| !named.iter().any(|ip| family_of(*ip) == *family));
    Ok(Request { named, families, pools })
}

fn named_addresses(service: &Service) -> Result<Vec<IpAddr>, String> {
    if let Some(text) = service.metadata.annotations.get(WISHED_IPS) {
        let ips: Vec<IpAddr> = serde_json::from_str(text)
            .map_err(|e| format!("annotation {WISHED_IPS}: not a JSON list of addresses: {e}"))?;
        let of = |v4: bool| ips.iter().filter(|ip| ip.is_ipv4() == v4).count();
        if of(true) > 1 || of(false) > 1 {
            return Err(format!("annotation {WISHED_IPS}: at most one IPv4 and one IPv6 address, not {text}"));
        }
        return Ok(ips);
    }
    for name in WISHED_IPS_LIST {
        let Some(text) = service.metadata.annotations.get(name) else { continue };
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        return parts.map(|p| p.parse().map_err(|_| format!("annotation {name}: {p} is no IP address"))).collect();
    }
    let Some(text) = service.body.spec.load_balancer_ip.as_deref().filter(|t| !t.is_empty()) else { return Ok(vec![]) };
    Ok(vec![text.parse().map_err(|_| format!("spec.loadBalancerIP: {text} is no IP address"))?])
}

/// The pools that an annotation names, by name or CIDR.
fn named_pools(annotation: &str, text: &str, family: Family, state: &State) -> Result<Vec<IpNet>, String> {
    let names: Vec<String> =
        serde_json::from_str(text).map_err(|e| format!("annotation {annotation}: not a JSON list of pools: {e}"))?;
    let cidr = |name: &String| {
        let named = state.pools.get(name).map(|p| p.body.spec.cidr);
        let found = named.or_else(|| name.parse().ok());
        let found = found.ok_or_else(|| format!("annotation {annotation}: there is no IPPool {name}"))?;
        if Family::of(&found) == family {
            Ok(found)
        } else {
            Err(format!("annotation {annotation}: {name} is no pool of {}", family_name(family)))
        }
    };
    names.iter().map(cidr).collect()
}

fn offset(first: IpAddr, by: u128) -> IpAddr {
    match first {
        IpAddr::V4(ip) => IpAddr::V4(u32::from(ip).wrapping_add(u32::try_from(by).unwrap_or(0)).into()),
        IpAddr::V6(ip) => IpAddr::V6(u128::from(ip).wrapping_add(by).into()),
    }
}

/// Writes the addresses; an entry that is there already keeps its other fields. No address and no status stays no status.
pub fn set_ingress(service: &mut Service, addresses: &[IpAddr]) {
    if addresses.is_empty() && service.body.status.is_none() {
        return;
    }
    let status = service.body.status.get_or_insert_with(ServiceStatus::default);
    let entry = |ip: &IpAddr| {
        let text = ip.to_string();
        let known = status.load_balancer.ingress.iter().find(|i| i.ip.as_deref() == Some(&text)).cloned();
        known.unwrap_or(LoadBalancerIngress { ip: Some(text), ..LoadBalancerIngress::default() })
    };
    let ingress = addresses.iter().map(entry).collect();
    status.load_balancer.ingress = ingress;
}
