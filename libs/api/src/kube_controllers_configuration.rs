//! KubeControllersConfiguration (Calico `api/pkg/apis/projectcalico/v3/kubecontrollersconfig.go`): the settings of the controller.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::go_json::{empty_as_default, null_as_default};
use crate::kind::Kind;
use crate::meta::{Body, Resource, WithSpec};

pub type KubeControllersConfiguration = Resource<WithSpec<KubeControllersConfigurationSpec>>;

impl Body for WithSpec<KubeControllersConfigurationSpec> {
    const KIND: Kind = Kind::KubeControllersConfiguration;
}

/// The fields that the controller acts on; the others are carried. The object is always named `default`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KubeControllersConfigurationSpec {
    #[serde(default, deserialize_with = "null_as_default")]
    pub controllers: Controllers,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A controller that is absent has the defaults of its fields: without `node`, addresses are collected after 15 minutes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Controllers {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeController>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancerController>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeController {
    /// Duration; how long an address must have no owner before it counts as leaked; 0: never collected; default 15 minutes.
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub leak_grace_period: Option<String>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadBalancerController {
    #[serde(
        default,
        deserialize_with = "empty_as_default",
        rename = "assignIPs",
        skip_serializing_if = "Option::is_none"
    )]
    pub assign_ips: Option<AssignIps>,
}

/// Which services of type LoadBalancer get an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AssignIps {
    #[default]
    AllServices,
    /// Those that ask for one, by annotation or `loadBalancerIP`.
    RequestedServicesOnly,
}
