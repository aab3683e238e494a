//! What the operator wrote (flags, FelixConfiguration) and what felix runs on.

use std::path::PathBuf;
use std::time::Duration;

use api::FelixConfigurationSpec;
use clap::{Parser, ValueEnum};
use felix_lb::Hooks;
use regex::bytes::{Regex, RegexBuilder};

/// Workload interfaces (Calico `felix/config`, InterfacePrefix).
const DEFAULT_INTERFACE_PREFIX: &str = "cali";
/// Full resync (Calico `felix/config`, RouteRefreshInterval).
const DEFAULT_ROUTE_REFRESH: Duration = Duration::from_secs(90);
/// Uplinks of the service datapath (Calico `felix/config`, BPFDataIfacePattern).
const DEFAULT_DATA_IFACE_PATTERN: &str = "^((en|wl|ww|sl|ib)[Popsx].*|(eth|wlan|wwan|bond).*)";

/// The node agent: programs routes of this node's workloads and the eBPF service load balancer.
///
/// The store is chosen by DATASTORE_TYPE, SQLITE_PATH and ETCD_ENDPOINTS. Routes, BPF programs and maps stay when felix ends.
#[derive(Clone, Debug, Parser)]
#[command(name = "felix", version)]
pub struct Args {
    /// Name of this node [default: the host's name, lower case]
    #[arg(long, env = "NODENAME")]
    pub nodename: Option<String>,
    /// Directory of felix.sock
    #[arg(long, default_value = "/run/tortie")]
    pub run_dir: PathBuf,
    /// Run one part alone: the service load balancer, without routes and without a Node resource
    #[arg(long, value_enum)]
    pub only: Option<Part>,
    /// Hooks that the load balancer may use, a list of xdp, tc and socket
    #[arg(long, default_value = "xdp,tc,socket")]
    pub hooks: Hooks,
    /// Directory on a bpffs for maps and links
    #[arg(long, default_value = "/sys/fs/bpf/tortie")]
    pub bpf_pin_root: PathBuf,
    /// Directory of the cgroup (v2) whose processes reach services at their socket [default: the root]
    #[arg(long)]
    pub cgroup: Option<PathBuf>,
}

/// What `--only` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    Services,
}

/// FelixConfiguration, typed and defaulted.
#[derive(Clone, Debug)]
pub struct Settings {
    pub interface_prefixes: Vec<String>,
    pub route_refresh: Duration,
    pub data_iface_pattern: Regex,
}

/// What an interface is to the datapath.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Workload,
    Uplink,
    None,
}

impl Default for Settings {
    fn default() -> Self {
        Self::new(None, None).0
    }
}

impl Settings {
    /// From the objects `default` and `node.<name>`, of which the latter wins field by field; and what is wrong with them. A
    /// field that cannot be read counts as absent.
    pub fn new(default: Option<&FelixConfigurationSpec>, node: Option<&FelixConfigurationSpec>) -> (Self, Vec<String>) {
        let mut wrong = Vec::new();
        let field = |get: fn(&FelixConfigurationSpec) -> &Option<String>| {
            let of = |spec: Option<&FelixConfigurationSpec>| spec.and_then(|s| get(s).clone());
            of(node).or_else(|| of(default)).filter(|v| !v.is_empty())
        };
        let prefixes = field(|s| &s.interface_prefix).unwrap_or_else(|| DEFAULT_INTERFACE_PREFIX.into());
        let prefixes: Vec<String> =
            prefixes.split(',').map(|p| p.trim().to_string()).filter(|p| !p.is_empty()).collect();
        let route_refresh = field(|s| &s.route_refresh_interval).and_then(|text| {
            let parsed = parse_duration(&text).filter(|d| !d.is_zero());
            if parsed.is_none() {
                wrong.push(format!("routeRefreshInterval \"{text}\" is no duration such as 90s or 1m30s"));
            }
            parsed
        });
        let pattern = field(|s| &s.bpf_data_iface_pattern).and_then(|text| {
            // Names of interfaces are bytes; tables of Unicode are not needed to match them.
            let regex = RegexBuilder::new(&text).unicode(false).build();
            regex.map_err(|e| wrong.push(format!("bpfDataIfacePattern \"{text}\": {e}"))).ok()
        });
        let settings = Self {
            interface_prefixes: prefixes,
            route_refresh: route_refresh.unwrap_or(DEFAULT_ROUTE_REFRESH),
            data_iface_pattern: pattern.unwrap_or_else(|| {
                Regex::new(DEFAULT_DATA_IFACE_PATTERN).expect("the default is a regular expression")
            }),
        };
        (settings, wrong)
    }

    /// What the interface of this name is.
    pub fn role(&self, interface: &str) -> Role {
        if self.interface_prefixes.iter().any(|p| interface.starts_with(p.as_str())) {
            Role::Workload
        } else if interface != "lo" && self.data_iface_pattern.is_match(interface.as_bytes()) {
            Role::Uplink
        } else {
            Role::None
        }
    }
}

/// Go's durations as Kubernetes' metav1.Duration writes them: `90s`, `1m30s`, `1.5h`, `500ms`.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit_len = rest[digits..].find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len() - digits);
        seconds += number
            * match &rest[digits..digits + unit_len] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                _ => return None,
            };
        rest = &rest[digits + unit_len..];
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|_| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let rows = [
            ("90s", Some(90_000)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("500ms", Some(500)),
            ("90", None),
            ("", None),
            ("5x", None),
            ("s", None),
        ];
        for (text, ms) in rows {
            assert_eq!(parse_duration(text), ms.map(Duration::from_millis), "{text}");
        }
    }

    fn spec(prefix: Option<&str>, refresh: Option<&str>, pattern: Option<&str>) -> FelixConfigurationSpec {
        FelixConfigurationSpec {
            interface_prefix: prefix.map(Into::into),
            route_refresh_interval: refresh.map(Into::into),
            bpf_data_iface_pattern: pattern.map(Into::into),
            ..Default::default()
        }
    }

    #[test]
    fn the_nodes_object_wins_field_by_field() {
        let (default, node) = (spec(Some("cali,tap"), Some("30s"), None), spec(None, Some("10s"), Some(r"^up\d$")));
        let (settings, wrong) = Settings::new(Some(&default), Some(&node));
        assert_eq!(settings.interface_prefixes, ["cali", "tap"]);
        assert_eq!(settings.route_refresh, Duration::from_secs(10));
        assert_eq!(settings.role("up0"), Role::Uplink);
        assert!(wrong.is_empty());
    }

    #[test]
    fn fields_that_cannot_be_read_are_named_and_count_as_absent() {
        let (settings, wrong) = Settings::new(Some(&spec(None, Some("soon"), Some("("))), None);
        assert_eq!(settings.route_refresh, DEFAULT_ROUTE_REFRESH);
        assert_eq!(wrong.len(), 2);
        assert!(wrong[0].contains("routeRefreshInterval") && wrong[1].contains("bpfDataIfacePattern"), "{wrong:?}");
    }

    #[test]
    fn roles_of_interfaces() {
        let settings = Settings::default();
        for (name, role) in [
            ("cali123", Role::Workload),
            ("eth0", Role::Uplink),
            ("enp1s0", Role::Uplink),
            ("bond0", Role::Uplink),
            ("lo", Role::None),
            ("docker0", Role::None),
            ("dummy0", Role::None),
        ] {
            assert_eq!(settings.role(name), role, "{name}");
        }
        let (both, _) = Settings::new(Some(&spec(Some("n-cli,n-be"), None, None)), None);
        assert_eq!((both.role("n-cli"), both.role("n-be")), (Role::Workload, Role::Workload));
    }
}
