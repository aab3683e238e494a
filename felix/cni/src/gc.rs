//! GC: removes what lost containers of a network left on this node (CNI specification 1.1.0, "GC").
//!
//! Ours is what carries both names: an endpoint of this node with the network's annotation, an address of this node under one
//! of the network's handles. What cannot be told apart stays; the controller collects addresses without an owner.

use std::collections::BTreeSet;

use api::key::KeyRange;
use api::meta::WithSpec;
use api::workload::WorkloadEndpointSpec;
use api::{Kind, WorkloadEndpoint};
use datastore::{DynStore, typed};
use ipam::Ipam;

use crate::plugin::{Plugin, check_ready, not_now, open_store};
use crate::program::Call;
use crate::protocol::{Attachment, Error, ValidAttachment};
use crate::workload::{ANNOTATION_NETWORK, Workload};

/// GC of `tortie`: endpoints and interfaces, then the IPAM plugin. Goes on after an error and reports the first.
///
/// # Errors
/// Codes 1, 6 and 7 for a configuration that does not say what is valid; else what could not be removed.
pub async fn interfaces(call: &Call) -> Result<(), Error> {
    let valid = call.conf.valid_attachments()?;
    let node = call.conf.node()?;
    let store = open_store(&call.conf).await?;
    check_ready(&store).await?;
    let mut outcome = Ok(());
    for endpoint in endpoints(&store).await? {
        if is_lost(&endpoint, &call.conf.name, &node, &valid) {
            let spec = &endpoint.body.spec;
            let attachment = Attachment {
                container_id: spec.container_id.clone().unwrap_or_default(),
                netns: None,
                ifname: spec.endpoint.clone().unwrap_or_default(),
                args: Default::default(),
            };
            let workload = Workload {
                node: node.clone(),
                namespace: endpoint.metadata.namespace.clone().unwrap_or_default(),
                pod: spec.pod.clone(),
                container_id: attachment.container_id.clone(),
                ifname: attachment.ifname.clone(),
            };
            tracing::info!(endpoint = endpoint.metadata.name, "a container is lost: its endpoint and interface go");
            let lost = Plugin { call, attachment, workload, store: store.clone() };
            outcome = outcome.and(lost.remove_endpoint().await).and(lost.remove_interface().await);
        }
    }
    let ipam = Plugin::ipam(call, call.stdin.clone()).and_then(|ipam| ipam.run("GC").map(drop));
    outcome.and(ipam)
}

async fn endpoints(store: &DynStore) -> Result<Vec<WorkloadEndpoint>, Error> {
    let listing = store.list(&KeyRange::Kind(Kind::WorkloadEndpoint)).await?;
    // One that cannot be read is nobody's that we know.
    let decode = |kv| typed::decode::<WithSpec<WorkloadEndpointSpec>>(kv).ok();
    Ok(listing.items.iter().filter_map(decode).collect())
}

fn is_lost(endpoint: &WorkloadEndpoint, network: &str, node: &str, valid: &[ValidAttachment]) -> bool {
    let spec = &endpoint.body.spec;
    let (Some(container_id), Some(ifname)) = (&spec.container_id, &spec.endpoint) else { return false };
    spec.node == node
        && endpoint.metadata.annotations.get(ANNOTATION_NETWORK).is_some_and(|n| n == network)
        && !valid.iter().any(|v| v.container_id == *container_id && v.ifname == *ifname)
}

/// GC of `tortie-ipam`: the addresses of this node under handles of the network whose container is not valid.
///
/// # Errors
/// As [`interfaces`].
pub async fn addresses(call: &Call) -> Result<(), Error> {
    let store = open_store(&call.conf).await?;
    check_ready(&store).await?;
    let valid = call.conf.valid_attachments()?;
    let node = call.conf.node()?;
    let ipam = Ipam::new(store).heeding_lock();
    let failed = |e: ipam::Error| not_now(e, "cannot collect addresses");
    let mut lost = BTreeSet::new();
    for block in ipam.blocks().await.map_err(failed)? {
        for attribute in block.attributes {
            let is_ours = attribute.secondary.is_some_and(|s| s.get(api::ipam::attr::NODE) == Some(&node));
            let handle = attribute.handle_id.filter(|h| is_ours && is_lost_handle(h, &call.conf.name, &valid));
            lost.extend(handle);
        }
    }
    let mut outcome = Ok(());
    for handle in lost {
        let released = ipam.release_by_handle(&handle).await.map_err(failed);
        tracing::info!(handle, ?released, "a container is lost: its addresses go");
        outcome = outcome.and(released.map(drop));
    }
    outcome
}

/// Whether a handle is `<network>.<container>` with a container that is not valid. With a further dot it may be the handle of a
/// network whose name begins with ours and a dot.
fn is_lost_handle(handle: &str, network: &str, valid: &[ValidAttachment]) -> bool {
    let container = handle.strip_prefix(network).and_then(|rest| rest.strip_prefix('.'));
    container.is_some_and(|id| !id.contains('.') && !valid.iter().any(|v| v.container_id == id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Workload;

    fn valid(list: &[(&str, &str)]) -> Vec<ValidAttachment> {
        list.iter().map(|(id, i)| ValidAttachment { container_id: id.to_string(), ifname: i.to_string() }).collect()
    }

    #[test]
    fn only_what_is_ours_and_not_valid_is_lost() {
        let workload = Workload {
            node: "n1".into(),
            namespace: "test".into(),
            pod: Some("web-0".into()),
            container_id: "c1".into(),
            ifname: "eth0".into(),
        };
        let ours = workload.endpoint(&[], "aa:bb:cc:dd:ee:ff", None, "net");
        let mut unnamed = ours.clone();
        unnamed.metadata.annotations.clear();
        let rows = [
            (&ours, "net", "n1", &[][..], true),
            (&ours, "net", "n1", &[("c1", "eth0"), ("c2", "eth0")], false),
            (&ours, "net", "n1", &[("c1", "eth1")], true),
            (&ours, "other", "n1", &[], false),
            (&ours, "net", "n2", &[], false),
            (&unnamed, "net", "n1", &[], false),
        ];
        for (endpoint, network, node, list, expected) in rows {
            assert_eq!(is_lost(endpoint, network, node, &valid(list)), expected, "{network} {node} {list:?}");
        }
    }

    #[test]
    fn handles_of_other_networks_stay() {
        let rows = [
            ("net.c1", &[][..], true),
            ("net.c1", &[("c1", "eth0")], false),
            ("net.a.c1", &[], false),
            ("network.c1", &[], false),
            ("net", &[], false),
        ];
        for (handle, list, expected) in rows {
            assert_eq!(is_lost_handle(handle, "net", &valid(list)), expected, "{handle} {list:?}");
        }
    }
}
