//! `tortie-ipam`: gives a container addresses out of Tortie's pools, under the handle `<network>.<container>`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::ipam::attr;
use api::service::NamespaceBody;
use api::{IpPool, Key};
use datastore::{DynStore, typed};
use ipam::{AffinityOwner, AllowedUse, AssignRequest, Ipam};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::gc;
use crate::program::Call;
use crate::protocol::{AddResult, Attachment, Command, Error, IpamConf, ResultIp, code};
use crate::workload::Workload;

/// Runs one call.
///
/// # Errors
/// As the runtime shall see them.
pub async fn run(call: Call) -> Result<Option<Value>, Error> {
    let unavailable = |e: datastore::Error| {
        let code = if call.command == Command::Status { code::NOT_AVAILABLE } else { code::TRY_AGAIN_LATER };
        Error::new(code, "cannot open the datastore").because(e)
    };
    let store = call.conf.store()?.open().await.map_err(unavailable)?;
    match call.command {
        Command::Add => add(&call, store).await.map(|r| Some(json!(r))),
        Command::Del => del(&call, store).await.map(|()| None),
        Command::Check => check(&call, store).await.map(|()| None),
        Command::Status => store.get(&Key::IpamConfig).await.map(|_| None).map_err(unavailable),
        Command::Gc => gc::addresses(&call, store).await.map(|()| None),
        Command::Version => unreachable!("answered before the configuration is read"),
    }
}

async fn add(call: &Call, store: DynStore) -> Result<AddResult, Error> {
    let attachment = call.attachment()?;
    let node = call.conf.node()?;
    let workload = Workload::new(node.clone(), &attachment);
    let handle = Workload::handle(&call.conf.name, &attachment.container_id);
    let mut attributes = BTreeMap::from([(attr::NODE.to_string(), node.clone())]);
    if let Some(pod) = &workload.pod {
        attributes.insert(attr::POD.into(), pod.clone());
        attributes.insert(attr::NAMESPACE.into(), workload.namespace.clone());
    }
    let owner = AffinityOwner::Host(node);
    let ipam = Ipam::new(store.clone());
    let assigned = match wanted_address(&attachment)? {
        Some(addr) => vec![ipam.assign_ip(addr, &handle, attributes, owner).await.map_err(no_address)?],
        None => {
            let conf = call.conf.ipam.clone().unwrap_or_default();
            let request = AssignRequest {
                num_v4: usize::from(is_on("assign_ipv4", conf.assign_ipv4.as_deref(), true)?),
                num_v6: usize::from(is_on("assign_ipv6", conf.assign_ipv6.as_deref(), false)?),
                handle: handle.clone(),
                attributes,
                owner,
                pools_v4: pools(&store, &conf, true).await?,
                pools_v6: pools(&store, &conf, false).await?,
                intended_use: AllowedUse::Workload,
                namespace: typed::get::<NamespaceBody>(&*store, None, &workload.namespace).await?,
            };
            let assignment = ipam.ensure_assigned(&request).await.map_err(no_address)?;
            let complete = assignment.v4.len() == request.num_v4 && assignment.v6.len() == request.num_v6;
            let assigned: Vec<IpNet> = assignment.v4.into_iter().chain(assignment.v6).collect();
            if !complete || assigned.is_empty() {
                // One family of two is no success: what was given goes back (Calico `cni-plugin/pkg/ipamplugin`).
                ipam.release_by_handle(&handle).await.map_err(no_address)?;
                let reason = assignment.message.unwrap_or_else(|| "assign_ipv4 and assign_ipv6 are both off".into());
                return Err(Error::new(code::NO_ADDRESS, "failed to request IP addresses").because(reason));
            }
            assigned
        }
    };
    let ip = |a: &IpNet| ResultIp { version: None, address: IpNet::from(a.addr()), gateway: None, interface: None };
    let result = AddResult { ips: assigned.iter().map(ip).collect(), ..Default::default() };
    Ok(result.in_version(&call.conf.cni_version))
}

async fn del(call: &Call, store: DynStore) -> Result<(), Error> {
    let attachment = call.attachment()?;
    let handle = Workload::handle(&call.conf.name, &attachment.container_id);
    let released = Ipam::new(store).release_by_handle(&handle).await;
    let released =
        released.map_err(|e| Error::new(code::TRY_AGAIN_LATER, "cannot release the addresses").because(e))?;
    tracing::info!(handle, ?released, "addresses released");
    Ok(())
}

/// Every address of the previous result must be this container's.
async fn check(call: &Call, store: DynStore) -> Result<(), Error> {
    let attachment = call.attachment()?;
    let handle = Workload::handle(&call.conf.name, &attachment.container_id);
    let ipam = Ipam::new(store);
    for ip in call.conf.prev_result.iter().flat_map(|r| &r.ips) {
        let addr = ip.address.addr();
        let info = ipam.ip_info(addr).await.map_err(no_address)?;
        if info.and_then(|i| i.handle).as_deref() != Some(&handle) {
            return Err(Error::new(code::CHECK_FAILED, format!("address {addr} is not assigned to {handle}")));
        }
    }
    Ok(())
}

/// `IP` of `CNI_ARGS`.
fn wanted_address(attachment: &Attachment) -> Result<Option<IpAddr>, Error> {
    let parse = |text: &String| {
        text.parse().map_err(|e| Error::new(code::INVALID_ENVIRONMENT, format!("IP={text} in CNI_ARGS")).because(e))
    };
    attachment.args.get("IP").map(parse).transpose()
}

/// Calico's switches are texts.
fn is_on(name: &str, value: Option<&str>, default: bool) -> Result<bool, Error> {
    match value {
        None | Some("") => Ok(default),
        Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(other) => Err(Error::new(
            code::INVALID_CONFIG,
            format!("ipam.{name} is \"{other}\"; it must be \"true\" or \"false\""),
        )),
    }
}

/// The pools that the configuration asks for, as CIDRs; a pool may be named.
async fn pools(store: &DynStore, conf: &IpamConf, v4: bool) -> Result<Vec<IpNet>, Error> {
    let mut cidrs = Vec::new();
    for wanted in if v4 { &conf.ipv4_pools } else { &conf.ipv6_pools } {
        let cidr = match wanted.parse::<IpNet>() {
            Ok(cidr) => cidr,
            Err(_) => {
                let pool: Option<IpPool> = typed::get(&**store, None, wanted).await?;
                let missing = || {
                    let msg = format!("IP pool \"{wanted}\" does not exist");
                    Error::new(code::INVALID_CONFIG, msg).because("name an IPPool, or give the CIDR of one")
                };
                pool.ok_or_else(missing)?.body.spec.cidr
            }
        };
        if cidr.addr().is_ipv4() != v4 {
            let msg = format!("IP pool {wanted} ({cidr}) is not of IPv{}", if v4 { 4 } else { 6 });
            return Err(Error::new(code::INVALID_CONFIG, msg));
        }
        cidrs.push(cidr);
    }
    Ok(cidrs)
}

fn no_address(e: ipam::Error) -> Error {
    let code = if matches!(e, ipam::Error::Store(_) | ipam::Error::Contention { .. }) {
        code::TRY_AGAIN_LATER
    } else {
        code::NO_ADDRESS
    };
    Error::new(code, "failed to request IP addresses").because(e.to_string().trim())
}
