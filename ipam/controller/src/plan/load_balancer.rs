//! Addresses of LoadBalancer services (Calico `kube-controllers/pkg/controllers/loadbalancer`). The blocks say what a service has;
//! its status is written from them. IPv4 only: the datapath serves no other family yet.

use std::net::IpAddr;

use api::Service;
use api::ip_pool::AllowedUse;
use api::service::{LoadBalancerIngress, ServiceStatus, ServiceType};
use ipnet::IpNet;
use serde_json::Value;

use super::{Action, AssignAddress, Problem, Wish};
use crate::state::{Allocation, Name, State};

/// Annotations of Calico's.
const WISHED_IPS: &str = "projectcalico.org/loadBalancerIPs";
const WISHED_POOLS: &str = "projectcalico.org/ipv4pools";
/// The load-balancer class that is ours besides none.
const CLASS: &str = "calico";

/// Whether a service is ours to give an address: type LoadBalancer, of no class or Calico's.
pub fn wants_address(service: &Service) -> bool {
    let spec = &service.body.spec;
    let class = spec.extra.get("loadBalancerClass").and_then(Value::as_str);
    spec.service_type == ServiceType::LoadBalancer && class.is_none_or(|c| c == CLASS)
}

/// The handle of a service's addresses; a service without a uid was never stored.
pub fn handle_of(name: &Name, service: &Service) -> Option<String> {
    Some(ipam::handle::for_service(&name.1, &name.0, service.metadata.uid.as_deref()?))
}

/// Plans the address of a service that wants one, and writes what it has into its status.
pub fn plan(
    name: &Name,
    wanted: &mut Service,
    handle: &str,
    allocation: Option<&Allocation>,
    state: &State,
    actions: &mut Vec<Action>,
) -> Option<Problem> {
    let has: Vec<IpAddr> = allocation.map(|a| a.addresses.iter().copied().collect()).unwrap_or_default();
    let assign = |wish, pools| {
        Action::AssignAddress(AssignAddress { service: name.clone(), handle: handle.into(), wish, pools })
    };
    let request = wish(wanted).and_then(|wish| Ok((wish, pools(wanted, state)?)));
    let (wish, pools) = match request {
        Ok(request) => request,
        // What it has stays: a slip of the pen takes no service down.
        Err(message) => {
            set_ingress(wanted, &has);
            return Some(Problem { reason: "InvalidRequest", message });
        }
    };
    if let Some(ip) = wish
        && !has.contains(&ip)
    {
        set_ingress(wanted, &has);
        if !is_for_load_balancers(state, ip) {
            let message = format!("{ip} is in no enabled IPPool with allowedUses [LoadBalancer]");
            return Some(Problem { reason: "AddressNotInPool", message });
        }
        actions.push(assign(Wish::Must(ip), pools));
    } else if let Some(homeless) = homeless(&has, state) {
        // Its pool was deleted: nobody announces it any more. Where another pool can take the service it moves there; else it
        // waits, with the address it has, for the pool to come back.
        let mut specs = state.pools.values().map(|p| &p.body.spec).filter(|s| !s.disabled);
        let has_others = specs.any(|s| s.allows(AllowedUse::LoadBalancer));
        if wish.is_some() || !has_others {
            set_ingress(wanted, &[wish.unwrap_or(homeless)]);
            let message = format!("{homeless} is in no IPPool with allowedUses [LoadBalancer] any more");
            return Some(Problem { reason: "AddressNotInPool", message });
        }
        actions.push(Action::ReleaseAddresses { handle: handle.into(), addresses: has });
        actions.push(assign(Wish::Any, pools));
    } else if has.is_empty() {
        let Some(status) = current_ingress(wanted) else {
            actions.push(assign(Wish::Any, pools));
            return failure(name, state);
        };
        let keep = is_for_load_balancers(state, status);
        actions.push(assign(if keep { Wish::Prefer(status) } else { Wish::Any }, pools));
    } else {
        let keep = wish.or_else(|| current_ingress(wanted).filter(|ip| has.contains(ip))).unwrap_or(has[0]);
        let extra: Vec<IpAddr> = has.into_iter().filter(|ip| *ip != keep).collect();
        if !extra.is_empty() {
            actions.push(Action::ReleaseAddresses { handle: handle.into(), addresses: extra });
        }
        set_ingress(wanted, &[keep]);
        return None;
    }
    failure(name, state)
}

/// Clears the status of a service that is of another type now.
pub fn forget(wanted: &mut Service) {
    if wanted.body.spec.service_type != ServiceType::LoadBalancer {
        set_ingress(wanted, &[]);
    }
}

fn failure(name: &Name, state: &State) -> Option<Problem> {
    state.failures.get(name).map(|message| Problem { reason: "NoAddress", message: message.clone() })
}

fn wish(service: &Service) -> Result<Option<IpAddr>, String> {
    let is_v4 = |ip: &IpAddr| ip.is_ipv4();
    if let Some(text) = service.metadata.annotations.get(WISHED_IPS) {
        let ips: Vec<IpAddr> = serde_json::from_str(text)
            .map_err(|e| format!("annotation {WISHED_IPS}: not a JSON list of addresses: {e}"))?;
        let first = ips.into_iter().find(is_v4);
        return first.map(Some).ok_or_else(|| format!("annotation {WISHED_IPS}: has no IPv4 address"));
    }
    let Some(text) = service.body.spec.load_balancer_ip.as_deref().filter(|t| !t.is_empty()) else { return Ok(None) };
    let ip = text.parse().map_err(|_| format!("spec.loadBalancerIP: {text} is no IP address"))?;
    if is_v4(&ip) {
        Ok(Some(ip))
    } else {
        Err(format!("spec.loadBalancerIP: {ip} is not IPv4, the only family served"))
    }
}

/// The pools that the annotation names, by name or CIDR.
fn pools(service: &Service, state: &State) -> Result<Vec<IpNet>, String> {
    let Some(text) = service.metadata.annotations.get(WISHED_POOLS) else { return Ok(vec![]) };
    let names: Vec<String> =
        serde_json::from_str(text).map_err(|e| format!("annotation {WISHED_POOLS}: not a JSON list of pools: {e}"))?;
    let cidr = |name: &String| {
        let named = state.pools.get(name).map(|p| p.body.spec.cidr);
        named
            .or_else(|| name.parse().ok())
            .ok_or_else(|| format!("annotation {WISHED_POOLS}: there is no IPPool {name}"))
    };
    names.iter().map(cidr).collect()
}

/// The address of a service all of whose addresses are in no pool for services, be it disabled.
fn homeless(has: &[IpAddr], state: &State) -> Option<IpAddr> {
    let has_home = |ip: &IpAddr| {
        let mut specs = state.pools.values().map(|p| &p.body.spec);
        specs.any(|s| s.allows(AllowedUse::LoadBalancer) && s.cidr.contains(ip))
    };
    if has.iter().any(has_home) { None } else { has.first().copied() }
}

fn is_for_load_balancers(state: &State, ip: IpAddr) -> bool {
    let specs = state.pools.values().map(|p| &p.body.spec);
    specs.filter(|s| !s.disabled && s.allows(AllowedUse::LoadBalancer)).any(|s| s.cidr.contains(&ip))
}

fn current_ingress(service: &Service) -> Option<IpAddr> {
    service.body.status.as_ref()?.load_balancer.ingress.iter().find_map(|i| i.ip.as_deref()?.parse().ok())
}

/// Writes the addresses; an entry that is there already keeps its other fields. No address and no status stays no status.
fn set_ingress(service: &mut Service, addresses: &[IpAddr]) {
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
