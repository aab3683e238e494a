//! The resource types that every program of Tortie speaks, their keys in the store, their validation and the
//! selector grammar.
//!
//! Pure: no sockets, files, clocks or tasks. The JSON form of every type is Calico's (`projectcalico.org/v3`) or
//! Kubernetes' (`v1`, `discovery.k8s.io/v1`), field for field; what a document holds beyond the fields we use
//! survives a round trip in `extra`.
//!
//! - [`meta`]: `Metadata` and `Resource<S>`, the envelope of every kind
//! - [`kind`]: the kinds, their plurals, aliases, scope and API groups
//! - [`key`]: where an object lives in the store (Calico's etcd layout, byte for byte)
//! - [`kdd`]: IPAM's records as objects of the Kubernetes API
//! - one module per kind or family of kinds
//! - [`go_json`]: JSON as Calico writes it, byte for byte
//! - [`extension`]: `spec` fields that Calico lacks, kept as annotations in the store
//! - [`selector`], [`schema`], [`validate`]: the selector grammar; the fields of every kind; checks of documents
//!
//! The program `crdgen` writes `crds/` from the schema.

pub mod address_range;
pub mod bgp_configuration;
pub mod bgp_filter;
pub mod bgp_peer;
pub mod bgp_session;
pub mod calico_node_status;
pub mod duration;
pub mod extension;
pub mod felix_configuration;
pub mod go_json;
pub mod host_endpoint;
pub mod ip_pool;
pub mod ipam;
pub mod kdd;
pub mod key;
pub mod kind;
pub mod kube_controllers_configuration;
pub mod label_selector;
pub mod load_balancer_ip_pool;
pub mod meta;
pub mod node;
pub mod schema;
pub mod secret;
pub mod selector;
pub mod service;
pub mod validate;
pub mod workload;

pub use bgp_configuration::{BgpConfiguration, BgpConfigurationSpec};
pub use bgp_filter::{BgpFilter, BgpFilterSpec};
pub use bgp_peer::{BgpPeer, BgpPeerSpec};
pub use calico_node_status::{CalicoNodeStatus, CalicoNodeStatusSpec};
pub use felix_configuration::{FelixConfiguration, FelixConfigurationSpec};
pub use host_endpoint::{HostEndpoint, HostEndpointSpec};
pub use ip_pool::{IpPool, IpPoolSpec, IpReservation, IpReservationSpec};
pub use key::Key;
pub use kind::Kind;
pub use kube_controllers_configuration::{KubeControllersConfiguration, KubeControllersConfigurationSpec};
pub use load_balancer_ip_pool::{LoadBalancerIpPool, LoadBalancerIpPoolSpec};
pub use meta::{Metadata, Resource};
pub use node::{Node, NodeSpec};
pub use secret::Secret;
pub use selector::Selector;
pub use service::{EndpointSlice, Namespace, Pod, Service};
pub use workload::{WorkloadEndpoint, WorkloadEndpointSpec};
