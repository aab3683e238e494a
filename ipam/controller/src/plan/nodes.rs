//! A node that is gone: what was its own goes with it (Calico `calicoctl delete node`). Its addresses, blocks and affinities are
//! collected ([`ipam::gc`]) as soon as no workload endpoint of it is left.
//!
//! With Kubernetes a Node object may be gone for a moment, while a kubelet registers again, and what is configured for the node is the
//! user's: that stays.

use api::{Key, Kind};

use super::{Action, Settings};
use crate::state::State;

/// Plans the end of a node: what was its own when it ended goes, as it was then. One of which we have neither seen the end nor find any
/// address, block or affinity was perhaps never there: what names it may have been written before it.
pub fn plan(state: &mut State, node: &str, settings: &Settings, actions: &mut Vec<Action>) {
    if state.collector.has_node(node) {
        return;
    }
    if settings.has_kubernetes {
        state.ended_nodes.remove(node);
        return;
    }
    let ended = state.ended_nodes.get(node);
    if ended.is_none() && !state.collector.has_traces_of(node) {
        return;
    }
    let delete = |key: Key, revision: Option<u64>| Action::DeleteOfNode { node: node.to_string(), key, revision };
    actions.extend(ended.into_iter().flatten().map(|(key, revision)| delete(key.clone(), Some(*revision))));
    let workloads = state.workloads_of_node(node).map(|name| {
        let metadata = state.workloads.get(name).map(|workload| &workload.metadata);
        let revision = metadata.and_then(|m| m.resource_version.as_deref()?.parse().ok());
        delete(Key::resource(Kind::WorkloadEndpoint, Some(&name.0), &name.1), revision)
    });
    actions.extend(workloads);
}
