//! A node that is gone: what was its own goes with it (Calico `calicoctl delete node`). Its addresses, blocks and affinities are
//! collected ([`ipam::gc`]) as soon as no workload endpoint of it is left.
//!
//! With Kubernetes a Node object may be gone for a moment, while a kubelet registers again, and what is configured for the node is the
//! user's: that stays.

use api::{Key, Kind};

use super::{Action, Settings};
use crate::state::State;

/// Plans the end of a node. One of which we have neither seen the end nor find any address, block or affinity was perhaps never there:
/// what names it may have been written before it.
pub fn plan(state: &mut State, node: &str, settings: &Settings, actions: &mut Vec<Action>) {
    if state.collector.has_node(node) {
        return;
    }
    if settings.has_kubernetes {
        state.deleted_nodes.remove(node);
        return;
    }
    if !(state.deleted_nodes.contains(node) || state.collector.has_traces_of(node)) {
        return;
    }
    let delete = |key: Key| Action::DeleteOfNode { node: node.to_string(), key };
    let before = actions.len();
    actions.extend(state.node_scoped.get(node).into_iter().flatten().cloned().map(delete));
    let workloads = state.workloads_of_node(node);
    actions.extend(workloads.map(|(ns, name)| delete(Key::resource(Kind::WorkloadEndpoint, Some(ns), name))));
    if actions.len() == before && !state.collector.has_traces_of(node) {
        state.deleted_nodes.remove(node);
    }
}
