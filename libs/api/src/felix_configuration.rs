//! FelixConfiguration: the fields that this program acts on (Calico `felix/config/config_params.go`); others are carried.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::go_json::empty_as_default;
use crate::kind::Kind;
use crate::meta::{Body, Resource, WithSpec};

pub type FelixConfiguration = Resource<WithSpec<FelixConfigurationSpec>>;

impl Body for WithSpec<FelixConfigurationSpec> {
    const KIND: Kind = Kind::FelixConfiguration;
}

/// The object `default` is the fleet's; `node.<name>` overrides it on one node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FelixConfigurationSpec {
    /// Comma list of prefixes of workload interfaces; default `cali`.
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub interface_prefix: Option<String>,
    /// Duration; default 90 s. Full resync of routes.
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub route_refresh_interval: Option<String>,
    /// Regular expression of uplink devices for the service datapath.
    #[serde(
        default,
        deserialize_with = "empty_as_default",
        rename = "bpfDataIfacePattern",
        skip_serializing_if = "Option::is_none"
    )]
    pub bpf_data_iface_pattern: Option<String>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}
