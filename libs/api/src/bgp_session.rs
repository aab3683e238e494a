//! Settings of a BGP session that Calico's kinds lack.
//!
//! They are ordinary `spec` fields of a BGPPeer, and of a BGPConfiguration as the default of every session: a BGPPeer's
//! comes first, then that of BGPConfiguration `node.<name>`, then that of `default` ([`BgpSessionSettings::or`]). The store
//! keeps each as an annotation `tortie.io/<field>` with its value as JSON, so that Calico's own tools carry them.

use serde::{Deserialize, Serialize};

use crate::go_json::{empty_as_default, null_as_default};

/// Every field is absent unless somebody set it. Durations are texts such as `9s` ([`crate::duration`]).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpSessionSettings {
    /// 0 or at least 3 s (RFC 4271 section 4.2).
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub hold_time: Option<String>,
    /// How long an attempt to connect may take, and the longest wait between two.
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub connect_retry_time: Option<String>,
    /// A session whose peer reads nothing for so long is ended (RFC 9687); 0: never.
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub send_hold_time: Option<String>,
    /// How long the OPEN waits for the peer's (RFC 4271 section 8.1.1).
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub delay_open_time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graceful_restart: Option<GracefulRestartSettings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_lived_graceful_restart: Option<LongLivedSettings>,
    /// Empty: the family of the session's addresses, as in Calico.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub families: Vec<AddressFamily>,
    /// RFC 7911.
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub add_path: Option<AddPath>,
    /// IPv4 routes with IPv6 next hops (RFC 8950).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extended_next_hop: Option<bool>,
    /// Messages of up to 65,535 octets (RFC 8654).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extended_messages: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<BfdSettings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_prefixes: Option<MaxPrefixesSettings>,
    /// Never connects, only accepts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passive: Option<bool>,
    /// Our role (RFC 9234).
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Refuses a peer that does not say its role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role_strict: Option<bool>,
    /// RFC 8212: no route to or from an eBGP peer that has no filters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ebgp_requires_policy: Option<bool>,
    /// RFC 8326: asks the peer to prefer other ways, before maintenance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graceful_shutdown: Option<bool>,
    /// Routes with an AS_SET in their path count as withdrawn (RFC 9774).
    #[serde(default, rename = "rejectASSets", skip_serializing_if = "Option::is_none")]
    pub reject_as_sets: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<ShutdownSettings>,
}

impl BgpSessionSettings {
    /// The `spec` fields that are stored as annotations `tortie.io/<field>`.
    pub const FIELDS: &'static [&'static str] = &[
        "holdTime",
        "connectRetryTime",
        "sendHoldTime",
        "delayOpenTime",
        "gracefulRestart",
        "longLivedGracefulRestart",
        "families",
        "addPath",
        "extendedNextHop",
        "extendedMessages",
        "bfd",
        "maxPrefixes",
        "passive",
        "role",
        "roleStrict",
        "ebgpRequiresPolicy",
        "gracefulShutdown",
        "rejectASSets",
        "shutdown",
    ];

    /// These settings, and where one is absent that of `fallback`.
    pub fn or(&self, fallback: &Self) -> Self {
        fn first<T: Clone>(a: &Option<T>, b: &Option<T>) -> Option<T> {
            a.as_ref().or(b.as_ref()).cloned()
        }
        Self {
            hold_time: first(&self.hold_time, &fallback.hold_time),
            connect_retry_time: first(&self.connect_retry_time, &fallback.connect_retry_time),
            send_hold_time: first(&self.send_hold_time, &fallback.send_hold_time),
            delay_open_time: first(&self.delay_open_time, &fallback.delay_open_time),
            graceful_restart: first(&self.graceful_restart, &fallback.graceful_restart),
            long_lived_graceful_restart: first(
                &self.long_lived_graceful_restart,
                &fallback.long_lived_graceful_restart,
            ),
            families: if self.families.is_empty() { &fallback.families } else { &self.families }.clone(),
            add_path: first(&self.add_path, &fallback.add_path),
            extended_next_hop: first(&self.extended_next_hop, &fallback.extended_next_hop),
            extended_messages: first(&self.extended_messages, &fallback.extended_messages),
            bfd: first(&self.bfd, &fallback.bfd),
            max_prefixes: first(&self.max_prefixes, &fallback.max_prefixes),
            passive: first(&self.passive, &fallback.passive),
            role: first(&self.role, &fallback.role),
            role_strict: first(&self.role_strict, &fallback.role_strict),
            ebgp_requires_policy: first(&self.ebgp_requires_policy, &fallback.ebgp_requires_policy),
            graceful_shutdown: first(&self.graceful_shutdown, &fallback.graceful_shutdown),
            reject_as_sets: first(&self.reject_as_sets, &fallback.reject_as_sets),
            shutdown: first(&self.shutdown, &fallback.shutdown),
        }
    }
}

/// On or off; a BGPPeer says `Disabled` where the BGPConfiguration turned something on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    #[default]
    Enabled,
    Disabled,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GracefulRestartSettings {
    pub mode: Mode,
}

/// RFC 9494.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LongLivedSettings {
    /// How long routes of a peer that is gone are kept as a last resort; 0: not at all.
    pub stale_time: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddressFamily {
    IPv4,
    IPv6,
}

/// RFC 7911: several paths for one prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddPath {
    None,
    Receive,
    Send,
    Both,
}

/// RFC 5880. `bfd: {}` turns it on with the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BfdSettings {
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub min_rx_interval: Option<String>,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub min_tx_interval: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiplier: Option<u8>,
    /// RFC 5883, for a peer that is not on a link of ours; the subnet of the node's address says which, unless this does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multihop: Option<bool>,
}

/// RFC 4271 section 6.7.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MaxPrefixesSettings {
    /// The most prefixes of each family; 0: no bound.
    pub limit: u32,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub action: Option<MaxPrefixesAction>,
    #[serde(default, deserialize_with = "empty_as_default", skip_serializing_if = "Option::is_none")]
    pub restart_after: Option<String>,
    /// A warning at this share of the limit, per cent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warn_at: Option<u8>,
}

/// What happens when a peer announces more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MaxPrefixesAction {
    /// The session is ended, and tried again after `restartAfter`.
    #[default]
    Restart,
    /// The session is ended until somebody clears it.
    Shutdown,
    Warn,
}

/// RFC 9234 section 4.1: what we are to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    Provider,
    RouteServer,
    RouteServerClient,
    Customer,
    Peer,
}

/// Administratively down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShutdownSettings {
    /// For the peer's operators (RFC 9003).
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub message: String,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kind::Kind;
    use crate::schema::{self, Type};

    fn all() -> Value {
        json!({
            "holdTime": "9s", "connectRetryTime": "2s", "sendHoldTime": "1m", "delayOpenTime": "1s",
            "gracefulRestart": {"mode": "Enabled"}, "longLivedGracefulRestart": {"staleTime": "60s"},
            "families": ["IPv4", "IPv6"], "addPath": "Both", "extendedNextHop": true, "extendedMessages": true,
            "bfd": {"minRxInterval": "100ms", "minTxInterval": "100ms", "multiplier": 3},
            "maxPrefixes": {"limit": 100, "action": "Restart", "restartAfter": "1m", "warnAt": 75}, "passive": true,
            "role": "RouteServerClient", "roleStrict": true, "ebgpRequiresPolicy": true, "gracefulShutdown": true,
            "rejectASSets": true, "shutdown": {"message": "back at noon"},
        })
    }

    /// The type, the list of stored fields, and the schema of both kinds name the same fields.
    #[test]
    fn every_field_is_stored_and_documented() {
        let settings: BgpSessionSettings = serde_json::from_value(all()).unwrap();
        let written = serde_json::to_value(&settings).unwrap();
        let names: Vec<&str> = written.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, BgpSessionSettings::FIELDS);
        for kind in [Kind::BgpPeer, Kind::BgpConfiguration] {
            let Some(Type::Object(spec)) = schema::of(kind).field("spec").map(|f| f.kind) else { panic!("{kind}") };
            for name in &names {
                assert!(spec.field(name).is_some(), "{kind} {name}");
            }
        }
    }

    #[test]
    fn what_is_absent_comes_from_the_fallback() {
        let settings: BgpSessionSettings = serde_json::from_value(all()).unwrap();
        assert_eq!(BgpSessionSettings::default().or(&settings), settings);
        assert_eq!(settings.or(&BgpSessionSettings::default()), settings);
        let own: BgpSessionSettings =
            serde_json::from_value(json!({"holdTime": "3s", "families": ["IPv6"], "bfd": {"mode": "Disabled"}}))
                .unwrap();
        let both = own.or(&settings);
        assert_eq!((both.hold_time, both.families, both.bfd), (own.hold_time, own.families, own.bfd));
        assert_eq!(both.role, Some(Role::RouteServerClient));
    }
}
