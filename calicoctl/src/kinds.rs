//! The columns of `get`, kind by kind (Calico `calicoctl/resourcemgr`; kubectl's for Kubernetes' kinds).

use std::collections::BTreeSet;

use anyhow::Result;
use api::bgp_configuration::DEFAULT_AS_NUMBER;
use api::kind::Kind;
use api::load_balancer_ip_pool::{self as lb, LoadBalancerIpPool};
use api::validate::shown;
use datastore::Store;
use serde_json::Value;

use crate::stored::{self, Stored};

/// What cells need beside the object itself.
pub struct Context {
    /// The AS number of what names none.
    default_as: String,
    now: jiff::Timestamp,
    /// The names of the LoadBalancerIPPools that conflict with older ones.
    conflicting: BTreeSet<String>,
}

impl Context {
    /// Reads what tables of this kind need.
    pub async fn read(store: &dyn Store, kind: Kind) -> Result<Self> {
        let mut default_as = DEFAULT_AS_NUMBER.to_string();
        if matches!(kind, Kind::BgpPeer | Kind::Node) {
            match stored::get_any(store, Kind::BgpConfiguration, None, "default").await? {
                Some(Ok(found)) => {
                    if let Some(number) = found.value["spec"].get("asNumber") {
                        default_as = shown(number);
                    }
                }
                Some(Err(error)) => {
                    eprintln!("warning: {error}; the AS number of what names none is not known");
                    default_as = "unknown".into();
                }
                None => {}
            }
        }
        let mut conflicting = BTreeSet::new();
        if kind == Kind::LoadBalancerIpPool {
            let stored = stored::list_any(store, kind, None).await?.0;
            let pools: Vec<LoadBalancerIpPool> =
                stored.into_iter().flatten().filter_map(|s| serde_json::from_value(s.value).ok()).collect();
            conflicting.extend(lb::conflicts(&pools, []).into_keys().map(str::to_string));
        }
        Ok(Self { default_as, now: jiff::Timestamp::now(), conflicting })
    }
}

/// A heading and its cell.
type Column = (&'static str, fn(&Value, &Context) -> String);

/// Headings and rows.
pub fn table(
    kind: Kind,
    cx: &Context,
    is_wide: bool,
    all_namespaces: bool,
    items: &[Stored],
) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let mut columns: Vec<Column> = Vec::new();
    // Calico's table of workload endpoints has the namespace always.
    if kind.is_namespaced() && (all_namespaces || kind == Kind::WorkloadEndpoint) {
        columns.push(("NAMESPACE", |v, _| text(v, "/metadata/namespace")));
    }
    columns.extend(self::columns(kind, is_wide));
    let headings = columns.iter().map(|(heading, _)| *heading).collect();
    let rows = items.iter().map(|s| columns.iter().map(|(_, cell)| cell(&s.value, cx)).collect()).collect();
    (headings, rows)
}

const NAME: Column = ("NAME", |v, _| text(v, "/metadata/name"));

fn columns(kind: Kind, is_wide: bool) -> Vec<Column> {
    match kind {
        Kind::IpPool if is_wide => vec![
            NAME,
            ("CIDR", |v, _| text(v, "/spec/cidr")),
            ("NAT", |v, _| flag(v, "/spec/natOutgoing")),
            ("IPIPMODE", |v, _| or(text(v, "/spec/ipipMode"), "Never")),
            ("VXLANMODE", |v, _| or(text(v, "/spec/vxlanMode"), "Never")),
            ("DISABLED", |v, _| flag(v, "/spec/disabled")),
            ("DISABLEBGPEXPORT", |v, _| flag(v, "/spec/disableBGPExport")),
            ("SELECTOR", |v, _| or(text(v, "/spec/nodeSelector"), "all()")),
            ("ASSIGNMENTMODE", |v, _| or(text(v, "/spec/assignmentMode"), "Automatic")),
        ],
        Kind::IpPool => vec![
            NAME,
            ("CIDR", |v, _| text(v, "/spec/cidr")),
            ("SELECTOR", |v, _| or(text(v, "/spec/nodeSelector"), "all()")),
        ],
        Kind::BgpPeer => vec![
            NAME,
            ("PEERIP", |v, _| text(v, "/spec/peerIP")),
            ("NODE", |v, _| or(text(v, "/spec/node"), &or(text(v, "/spec/nodeSelector"), "(global)"))),
            ("ASN", |v, cx| or(text(v, "/spec/asNumber"), &format!("({})", cx.default_as))),
        ],
        Kind::BgpConfiguration => vec![
            NAME,
            ("LOGSEVERITY", |v, _| or(text(v, "/spec/logSeverityScreen"), "-")),
            ("MESHENABLED", |v, _| or(text(v, "/spec/nodeToNodeMeshEnabled"), "-")),
            ("ASNUMBER", |v, _| or(text(v, "/spec/asNumber"), "-")),
        ],
        Kind::Node if is_wide => vec![
            NAME,
            ("ASN", |v, cx| or(text(v, "/spec/bgp/asNumber"), &format!("({})", cx.default_as))),
            ("IPV4", |v, _| text(v, "/spec/bgp/ipv4Address")),
            ("IPV6", |v, _| text(v, "/spec/bgp/ipv6Address")),
        ],
        Kind::WorkloadEndpoint if is_wide => vec![
            NAME,
            ("WORKLOAD", workload),
            ("NODE", |v, _| text(v, "/spec/node")),
            ("NETWORKS", |v, _| joined(v, "/spec/ipNetworks")),
            ("INTERFACE", |v, _| text(v, "/spec/interfaceName")),
            ("PROFILES", |v, _| joined(v, "/spec/profiles")),
            ("NATS", |v, _| joined(v, "/spec/ipNATs")),
        ],
        Kind::WorkloadEndpoint => vec![
            ("WORKLOAD", workload),
            ("NODE", |v, _| text(v, "/spec/node")),
            ("NETWORKS", |v, _| joined(v, "/spec/ipNetworks")),
            ("INTERFACE", |v, _| text(v, "/spec/interfaceName")),
        ],
        Kind::BgpFilter => vec![
            NAME,
            ("NUMEXPORTV4", |v, _| count(v, "/spec/exportV4")),
            ("NUMIMPORTV4", |v, _| count(v, "/spec/importV4")),
            ("NUMEXPORTV6", |v, _| count(v, "/spec/exportV6")),
            ("NUMIMPORTV6", |v, _| count(v, "/spec/importV6")),
        ],
        Kind::IpReservation if is_wide => vec![NAME, ("CIDRS", |v, _| cut(joined(v, "/spec/reservedCIDRs")))],
        Kind::IpamConfiguration => {
            let mut columns: Vec<Column> = vec![
                NAME,
                ("STRICTAFFINITY", |v, _| flag(v, "/spec/strictAffinity")),
                ("AUTOALLOCATEBLOCKS", |v, _| flag(v, "/spec/autoAllocateBlocks")),
            ];
            if is_wide {
                columns.push(("MAXBLOCKSPERHOST", |v, _| or(text(v, "/spec/maxBlocksPerHost"), "0")));
            }
            columns
        }
        Kind::ClusterInformation => vec![
            NAME,
            ("CLUSTERGUID", |v, _| text(v, "/spec/clusterGUID")),
            ("CLUSTERTYPE", |v, _| text(v, "/spec/clusterType")),
            ("CALICOVERSION", |v, _| text(v, "/spec/calicoVersion")),
            ("DATASTOREREADY", |v, _| flag(v, "/spec/datastoreReady")),
        ],
        Kind::HostEndpoint => {
            let mut columns: Vec<Column> = vec![NAME, ("NODE", |v, _| text(v, "/spec/node"))];
            if is_wide {
                columns.push(("INTERFACE", |v, _| text(v, "/spec/interfaceName")));
                columns.push(("IPS", |v, _| joined(v, "/spec/expectedIPs")));
                columns.push(("PROFILES", |v, _| joined(v, "/spec/profiles")));
            }
            columns
        }
        Kind::CalicoNodeStatus => {
            let mut columns: Vec<Column> = vec![NAME, ("NODE", |v, _| text(v, "/spec/node"))];
            if is_wide {
                columns.push(("CLASSES", |v, _| joined(v, "/spec/classes")));
            }
            columns
        }
        Kind::LoadBalancerIpPool => vec![
            NAME,
            ("DISABLED", |v, _| flag(v, "/spec/disabled")),
            ("CONFLICTING", conflicting),
            ("IPS AVAILABLE", available),
            ("AGE", age),
        ],
        Kind::Service => {
            let mut columns: Vec<Column> = vec![
                NAME,
                ("TYPE", |v, _| or(text(v, "/spec/type"), "ClusterIP")),
                ("CLUSTER-IP", |v, _| or(text(v, "/spec/clusterIP"), "<none>")),
                ("EXTERNAL-IP", external_ip),
                ("PORT(S)", ports),
            ];
            if is_wide {
                columns.push(("SELECTOR", |v, _| selector(v)));
            }
            columns
        }
        // Never the values.
        Kind::Secret => vec![
            NAME,
            ("TYPE", |v, _| or(text(v, "/type"), "Opaque")),
            ("DATA", |v, _| v.pointer("/data").and_then(Value::as_object).map_or(0, |d| d.len()).to_string()),
        ],
        Kind::EndpointSlice => vec![
            NAME,
            ("ADDRESSTYPE", |v, _| text(v, "/addressType")),
            ("PORTS", |v, _| or(each(v, "/ports", |p| p.get("port").map(shown)), "<unset>")),
            ("ENDPOINTS", |v, _| {
                or(each(v, "/endpoints", |e| Some(joined(e, "/addresses")).filter(|a| !a.is_empty())), "<unset>")
            }),
        ],
        Kind::Pod => vec![NAME, ("NODE", |v, _| or(text(v, "/spec/nodeName"), "<none>"))],
        Kind::Namespace if is_wide => {
            vec![
                NAME,
                ("IPV4POOLS", |v, _| {
                    v["metadata"]["annotations"]["cni.projectcalico.org/ipv4pools"].as_str().unwrap_or_default().into()
                }),
            ]
        }
        Kind::Node
        | Kind::IpReservation
        | Kind::FelixConfiguration
        | Kind::KubeControllersConfiguration
        | Kind::Namespace => vec![NAME],
    }
}

/// What a condition of a LoadBalancerIPPool says; `None` where the controller has not said it yet.
fn condition(v: &Value, kind: &str, field: &str) -> Option<String> {
    let conditions = v.pointer("/status/conditions")?.as_array()?;
    conditions.iter().find(|c| c["type"] == kind)?[field].as_str().map(Into::into)
}

fn conflicting(v: &Value, cx: &Context) -> String {
    let own = || if cx.conflicting.contains(&text(v, "/metadata/name")) { "True" } else { "False" };
    condition(v, lb::CONDITION_CONFLICT, "status").unwrap_or_else(|| own().into())
}

/// Before the controller has counted, nothing is assigned.
fn available(v: &Value, _: &Context) -> String {
    let total = || {
        let pool: Option<LoadBalancerIpPool> = serde::Deserialize::deserialize(v).ok();
        pool.map(|p| p.body.spec.total().to_string()).unwrap_or_default()
    };
    condition(v, lb::CONDITION_AVAILABLE, "message").unwrap_or_else(total)
}

fn age(v: &Value, cx: &Context) -> String {
    let created = text(v, "/metadata/creationTimestamp").parse::<jiff::Timestamp>();
    created.map_or_else(|_| "<unknown>".into(), |c| duration(cx.now.as_second() - c.as_second()))
}

/// Seconds as kubectl writes an age, two units at most (Kubernetes `k8s.io/apimachinery/pkg/util/duration`).
fn duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |n: i64, unit: &str, rest: i64, small: &str| {
        if rest == 0 { format!("{n}{unit}") } else { format!("{n}{unit}{rest}{small}") }
    };
    match seconds {
        ..-1 => "<invalid>".into(),
        -1..0 => "0s".into(),
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// The pod where the orchestrator is Kubernetes, else the workload.
fn workload(v: &Value, _: &Context) -> String {
    or(text(v, "/spec/pod"), &text(v, "/spec/workload"))
}

fn external_ip(v: &Value, _: &Context) -> String {
    let mut addresses: Vec<String> = Vec::new();
    for ingress in v.pointer("/status/loadBalancer/ingress").and_then(Value::as_array).into_iter().flatten() {
        addresses.extend(ingress["ip"].as_str().map(Into::into));
    }
    for address in v.pointer("/spec/externalIPs").and_then(Value::as_array).into_iter().flatten() {
        addresses.extend(address.as_str().map(Into::into));
    }
    let is_waiting = addresses.is_empty() && text(v, "/spec/type") == "LoadBalancer";
    if is_waiting { "<pending>".into() } else { or(addresses.join(","), "<none>") }
}

fn ports(v: &Value, _: &Context) -> String {
    let port = |p: &Value| {
        let node_port = p["nodePort"].as_u64().filter(|n| *n > 0).map(|n| format!(":{n}")).unwrap_or_default();
        Some(format!("{}{node_port}/{}", shown(&p["port"]), p["protocol"].as_str().unwrap_or("TCP")))
    };
    or(each(v, "/spec/ports", port), "<none>")
}

fn selector(v: &Value) -> String {
    let labels = v.pointer("/spec/selector").and_then(Value::as_object);
    let pairs: Vec<String> = labels.into_iter().flatten().map(|(k, v)| format!("{k}={}", shown(v))).collect();
    or(pairs.join(","), "<none>")
}

fn text(v: &Value, pointer: &str) -> String {
    v.pointer(pointer).filter(|v| !v.is_null()).map(shown).unwrap_or_default()
}

fn flag(v: &Value, pointer: &str) -> String {
    v.pointer(pointer).and_then(Value::as_bool).unwrap_or(false).to_string()
}

fn count(v: &Value, pointer: &str) -> String {
    v.pointer(pointer).and_then(Value::as_array).map_or(0, Vec::len).to_string()
}

fn joined(v: &Value, pointer: &str) -> String {
    each(v, pointer, |item| Some(shown(item)))
}

fn each(v: &Value, pointer: &str, cell: impl Fn(&Value) -> Option<String>) -> String {
    let items = v.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    items.filter_map(cell).collect::<Vec<_>>().join(",")
}

fn or(text: String, other: &str) -> String {
    if text.is_empty() { other.into() } else { text }
}

/// Calico cuts the list of reservations at 80 characters.
fn cut(text: String) -> String {
    const MAX: usize = 80;
    if text.chars().count() <= MAX { text } else { text.chars().take(MAX - 3).collect::<String>() + "..." }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_kubectls() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (38, "38s"),
            (119, "119s"),
            (155, "2m35s"),
            (540, "9m"),
            (1440, "24m"),
            (10_800, "3h"),
            (12_000, "3h20m"),
            (86_400, "24h"),
            (2 * 86_400 + 3_600, "2d1h"),
            (30 * 86_400, "30d"),
            (800 * 86_400, "2y70d"),
            (9 * 365 * 86_400, "9y"),
        ] {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
    }
}
