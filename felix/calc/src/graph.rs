//! The updates, and which calculator each of them reaches.
//!
//! ```text
//! WorkloadEndpoint ──► LocalEndpoints ──► interfaces, workload routes
//!                           │ local addresses
//!                           ▼
//! Service, EndpointSlice ─► ServiceIndex ──► frontends
//! IPAMBlock, Node ────────► L3RouteResolver ──► blackholes, borrowed addresses
//! ```

use std::collections::BTreeMap;
use std::fmt;

use api::ipam::AllocationBlock;
use api::node::NodeSpec;
use api::service::{EndpointSlice, ServiceBody};
use api::workload::WorkloadEndpointSpec;
use ipnet::IpNet;
use serde::Serialize;

use crate::l3_route_resolver::{BlockRoute, L3RouteResolver};
use crate::local_endpoints::{LocalEndpoint, LocalEndpoints};
use crate::service_index::{Frontend, ServiceIndex, Skipped};

/// A namespaced object. Orders by namespace, then by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ObjectName {
    pub namespace: String,
    pub name: String,
}

impl ObjectName {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One resource as it is now; `None` where it is gone or cannot be read.
#[derive(Clone, Debug)]
pub enum Update {
    WorkloadEndpoint(ObjectName, Option<Box<WorkloadEndpointSpec>>),
    Block(IpNet, Option<Box<AllocationBlock>>),
    Node(String, Option<Box<NodeSpec>>),
    Service(ObjectName, Option<Box<ServiceBody>>),
    EndpointSlice(ObjectName, Option<Box<EndpointSlice>>),
}

/// What the dataplane of this node shall look like.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DesiredState {
    /// By interface name.
    pub endpoints: BTreeMap<String, LocalEndpoint>,
    /// Host routes of local workloads: address to interface name.
    pub workload_routes: BTreeMap<IpNet, String>,
    pub block_routes: BTreeMap<IpNet, BlockRoute>,
    /// Sorted by address, protocol and port, which are unique.
    pub frontends: Vec<Frontend>,
    pub skipped: Skipped,
}

/// All calculators of one node.
pub struct Graph {
    endpoints: LocalEndpoints,
    resolver: L3RouteResolver,
    services: ServiceIndex,
}

impl Graph {
    /// An empty graph for the node of this name.
    pub fn new(node: &str) -> Self {
        Self {
            endpoints: LocalEndpoints::new(node),
            resolver: L3RouteResolver::new(node),
            services: ServiceIndex::new(node),
        }
    }

    /// Takes one update. Cheap: what follows from it is computed by [`Graph::desired`].
    pub fn apply(&mut self, update: Update) {
        match update {
            Update::WorkloadEndpoint(name, spec) => self.endpoints.apply(name, spec.map(|s| *s)),
            Update::Block(cidr, block) => self.resolver.apply_block(cidr, block.map(|b| *b)),
            Update::Node(name, spec) => self.resolver.apply_node(name, spec.map(|s| *s)),
            Update::Service(name, body) => self.services.apply_service(name, body.map(|b| *b)),
            Update::EndpointSlice(name, slice) => self.services.apply_slice(name, slice.map(|s| *s)),
        }
    }

    /// The state that follows from the resources as they are now.
    pub fn desired(&mut self) -> DesiredState {
        let endpoints = self.endpoints.by_interface();
        let workload_routes: BTreeMap<IpNet, String> = endpoints
            .iter()
            .rev()
            .flat_map(|(interface, e)| e.addresses.iter().map(|a| (IpNet::from(*a), interface.clone())))
            .collect();
        self.services.set_local_addresses(workload_routes.keys().map(IpNet::addr).collect());
        let mut block_routes = self.resolver.routes();
        // A workload that is here wins over any other way to its address (Calico's RouteClass order, LocalWorkload first).
        block_routes.retain(|dst, _| !workload_routes.contains_key(dst));
        let (frontends, skipped) = self.services.frontends();
        DesiredState { endpoints, workload_routes, block_routes, frontends, skipped }
    }
}
