//! BGPPeer (Calico `api/pkg/apis/projectcalico/v3/bgppeer.go`), with the settings of ours that Calico's kind lacks
//! (stored as annotations `tortie.io/<field>`, see [`crate::bgp_session`]).

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::bgp_session::BgpSessionSettings;
use crate::go_json::{empty_as_default, null_as_default};
use crate::kind::Kind;
use crate::meta::{Body, Resource, WithSpec};

pub type BgpPeer = Resource<WithSpec<BgpPeerSpec>>;

impl Body for WithSpec<BgpPeerSpec> {
    const KIND: Kind = Kind::BgpPeer;
}

/// An AS number as users write it: a number, or a string in plain or dotted form (`"1.10"` is 65546).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct AsNumber(pub u32);

impl std::str::FromStr for AsNumber {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let wrong = || format!("'{s}' is not an AS number: use 0 to 4294967295, or two halves up to 65535 as in 1.10");
        match s.split_once('.') {
            None => decimal(s).map(AsNumber).ok_or_else(wrong),
            Some((hi, lo)) => {
                let (hi, lo): (u16, u16) = (decimal(hi).ok_or_else(wrong)?, decimal(lo).ok_or_else(wrong)?);
                Ok(AsNumber(u32::from(hi) << 16 | u32::from(lo)))
            }
        }
    }
}

/// A number in decimal digits and nothing else: Rust's own parser takes a sign.
pub(crate) fn decimal<N: std::str::FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

impl<'de> Deserialize<'de> for AsNumber {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match Value::deserialize(d)? {
            Value::Number(n) => n
                .as_u64()
                .and_then(|n| u32::try_from(n).ok())
                .map(AsNumber)
                .ok_or_else(|| serde::de::Error::custom(format!("'{n}' is not an AS number: use 0 to 4294967295"))),
            Value::String(s) => s.parse().map_err(serde::de::Error::custom),
            other => Err(serde::de::Error::custom(format!("'{other}' is not an AS number"))),
        }
    }
}

impl std::fmt::Display for AsNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    pub name: String,
    pub key: String,
    /// Kept; a Secret that is missing is told of all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpPassword {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceAddress {
    #[default]
    UseNodeIP,
    None,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NextHopMode {
    #[default]
    Auto,
    #[serde(rename = "Self")]
    Itself,
    Keep,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpPeerSpec {
    /// Exactly this node; excludes `node_selector`. Both empty: every node (a global peer).
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<String>,
    /// `ip`, `ip:port` or `[ip6]:port`.
    #[serde(
        default,
        deserialize_with = "empty_as_default",
        rename = "peerIP",
        skip_serializing_if = "Option::is_none"
    )]
    pub peer_ip: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_number: Option<AsNumber>,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub peer_selector: Option<String>,
    #[serde(default, rename = "localASNumber", skip_serializing_if = "Option::is_none")]
    pub local_as_number: Option<AsNumber>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<BgpPassword>,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub source_address: Option<SourceAddress>,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub next_hop_mode: Option<NextHopMode>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "std::ops::Not::not")]
    pub keep_original_next_hop: bool,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub max_restart_time: Option<String>,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub keepalive_time: Option<String>,
    #[serde(default, rename = "numAllowedLocalASNumbers", skip_serializing_if = "Option::is_none")]
    pub num_allowed_local_as_numbers: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_security: Option<u8>,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub reachable_by: Option<String>,
    /// BGPFilter names, in order.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<String>,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub local_workload_selector: Option<String>,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub reverse_peering: Option<String>,
    /// Unnumbered: the peer behind this interface, found by its Router Advertisements (RFC 4861).
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub peer_interface: Option<String>,
    /// Whoever connects from this prefix.
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub peer_range: Option<IpNet>,
    /// How many of them at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_range_limit: Option<u32>,
    #[serde(flatten)]
    pub session: BgpSessionSettings,
    /// Fields that nothing here acts on, kept.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl BgpPeerSpec {
    /// Fields of ours beside the session settings, stored like them.
    pub const FIELDS: &'static [&'static str] = &["peerInterface", "peerRange", "peerRangeLimit"];
}
