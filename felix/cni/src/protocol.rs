//! What passes between a runtime and a plugin (CNI specification 1.1.0, sections 2 to 5).

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The versions that we speak, oldest first.
pub const SUPPORTED_VERSIONS: &[&str] = &["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The version of an error that is given before a configuration could be read.
pub const NEWEST_VERSION: &str = "1.1.0";
/// Where the daemons' sockets are where the configuration does not say.
pub const DEFAULT_RUN_DIR: &str = "/run/tortie";

/// Error codes (specification, "Error"); 100 and above are ours.
pub mod code {
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    pub const UNKNOWN_CONTAINER: u32 = 3;
    pub const INVALID_ENVIRONMENT: u32 = 4;
    pub const IO_FAILURE: u32 = 5;
    pub const DECODE_FAILURE: u32 = 6;
    pub const INVALID_CONFIG: u32 = 7;
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// STATUS: the plugin cannot serve an ADD.
    pub const NOT_AVAILABLE: u32 = 50;
    /// The address allocation failed.
    pub const NO_ADDRESS: u32 = 100;
    /// CHECK found something that is not as ADD left it.
    pub const CHECK_FAILED: u32 = 101;
    /// The namespace, the interface or a route could not be set up.
    pub const WIRING_FAILED: u32 = 102;
}

/// An error as the runtime reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}{}", if .details.is_empty() { String::new() } else { format!(": {}", .details) })]
pub struct Error {
    #[serde(rename = "cniVersion", default)]
    pub cni_version: String,
    #[serde(default)]
    pub code: u32,
    #[serde(default)]
    pub msg: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl Error {
    /// An error of [`code`]; the version is filled where it is printed.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { cni_version: String::new(), code, msg: msg.into(), details: String::new() }
    }

    /// The same with what happened in detail.
    pub fn because(self, details: impl std::fmt::Display) -> Self {
        Self { details: details.to_string(), ..self }
    }
}

impl From<datastore::Error> for Error {
    fn from(e: datastore::Error) -> Self {
        Self::new(code::TRY_AGAIN_LATER, "the datastore refused").because(e)
    }
}

/// What the runtime asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Command {
    /// The command of `CNI_COMMAND`.
    ///
    /// # Errors
    /// Code 4 for a word that is none.
    pub fn parse(word: &str) -> Result<Self, Error> {
        Ok(match word {
            "ADD" => Self::Add,
            "DEL" => Self::Del,
            "CHECK" => Self::Check,
            "GC" => Self::Gc,
            "STATUS" => Self::Status,
            "VERSION" => Self::Version,
            other => {
                let msg = format!("CNI_COMMAND is \"{other}\"; it must be ADD, DEL, CHECK, GC, STATUS or VERSION");
                return Err(Error::new(code::INVALID_ENVIRONMENT, msg));
            }
        })
    }
}

/// The attachment that ADD, DEL and CHECK are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub container_id: String,
    /// Path of the network namespace; DEL may come without.
    pub netns: Option<PathBuf>,
    pub ifname: String,
    /// `CNI_ARGS`, `K=V;K=V`.
    pub args: BTreeMap<String, String>,
}

impl Attachment {
    /// Reads `CNI_CONTAINERID`, `CNI_NETNS`, `CNI_IFNAME` and `CNI_ARGS`.
    ///
    /// # Errors
    /// Code 4, naming every variable that is missing or wrong.
    pub fn from_vars(command: Command, lookup: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let var = |name: &str| lookup(name).filter(|v| !v.is_empty());
        let mut missing = Vec::new();
        let mut required = |name: &'static str| {
            var(name).unwrap_or_else(|| {
                missing.push(name);
                String::new()
            })
        };
        let container_id = required("CNI_CONTAINERID");
        let ifname = required("CNI_IFNAME");
        let netns = if command == Command::Del { var("CNI_NETNS") } else { Some(required("CNI_NETNS")) };
        if !missing.is_empty() {
            let msg = format!("required environment variables are missing: {}", missing.join(", "));
            return Err(Error::new(code::INVALID_ENVIRONMENT, msg));
        }
        // Specification, CNI_CONTAINERID: alphanumeric, then also `_`, `.` and `-`.
        let is_id = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if !container_id.starts_with(|c: char| c.is_ascii_alphanumeric()) || !container_id.chars().all(is_id) {
            let msg =
                format!("CNI_CONTAINERID \"{container_id}\" holds characters other than letters, digits, _ . and -");
            return Err(Error::new(code::INVALID_ENVIRONMENT, msg));
        }
        // Linux: at most 15 bytes (IFNAMSIZ), no slash, colon or white space, neither `.` nor `..`.
        let is_bad = |c: char| c == '/' || c == ':' || c.is_whitespace();
        if ifname.len() > 15 || ifname == "." || ifname == ".." || ifname.contains(is_bad) {
            let msg =
                format!("CNI_IFNAME \"{ifname}\" is no valid interface name (at most 15 bytes, without / : and space)");
            return Err(Error::new(code::INVALID_ENVIRONMENT, msg));
        }
        Ok(Self {
            container_id,
            netns: netns.map(PathBuf::from),
            ifname,
            args: parse_args(&var("CNI_ARGS").unwrap_or_default())?,
        })
    }
}

fn parse_args(text: &str) -> Result<BTreeMap<String, String>, Error> {
    let pairs = text.split(';').filter(|p| !p.is_empty());
    let pair = |p: &str| {
        let (k, v) = p.split_once('=').ok_or_else(|| {
            Error::new(code::INVALID_ENVIRONMENT, format!("CNI_ARGS holds \"{p}\", which is not of the form KEY=VALUE"))
        })?;
        Ok((k.to_string(), v.to_string()))
    };
    pairs.map(pair).collect()
}

/// The network configuration on stdin: the fields that we act on.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NetConf {
    #[serde(rename = "cniVersion", default)]
    pub cni_version: String,
    #[serde(default)]
    pub name: String,
    /// Of the pod's interface; the kernel's default where absent.
    pub mtu: Option<u32>,
    pub nodename: Option<String>,
    pub run_dir: Option<PathBuf>,
    /// Put default routes into the result (Calico's `include_default_routes`).
    #[serde(default)]
    pub include_default_routes: bool,
    pub ipam: Option<IpamConf>,
    #[serde(rename = "prevResult")]
    pub prev_result: Option<AddResult>,
    /// Everything else, such as the store's settings.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// An attachment that the runtime knows (GC).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ValidAttachment {
    #[serde(rename = "containerID")]
    pub container_id: String,
    pub ifname: String,
}

/// Where a runtime lists them: the specification's key, and the one that libcni 1.2.0 wrote instead.
const VALID_ATTACHMENTS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// The `ipam` section (Calico's names).
#[derive(Clone, Debug, Default, Deserialize)]
pub struct IpamConf {
    #[serde(rename = "type", default)]
    pub plugin: String,
    /// `"true"` or `"false"`, as text; default true.
    pub assign_ipv4: Option<String>,
    /// Default false.
    pub assign_ipv6: Option<String>,
    /// Pools by name or CIDR; none means all that match.
    #[serde(default)]
    pub ipv4_pools: Vec<String>,
    #[serde(default)]
    pub ipv6_pools: Vec<String>,
}

/// Settings of the store that a network configuration may hold (as in Calico), and the variables that they stand for.
const STORE_SETTINGS: &[(&[&str], &str)] = &[
    (&["datastore_type"], "DATASTORE_TYPE"),
    (&["sqlite_path"], "SQLITE_PATH"),
    (&["etcd_endpoints"], "ETCD_ENDPOINTS"),
    (&["etcd_key_file"], "ETCD_KEY_FILE"),
    (&["etcd_cert_file"], "ETCD_CERT_FILE"),
    (&["etcd_ca_cert_file"], "ETCD_CA_CERT_FILE"),
    (&["kubernetes", "kubeconfig"], "KUBECONFIG"),
    (&["kubernetes", "k8s_api_root"], "K8S_API_ENDPOINT"),
];

impl NetConf {
    /// Reads the configuration and checks its version and name.
    ///
    /// # Errors
    /// Code 6 for JSON that cannot be read, 1 for a version that we do not speak, 7 for a missing name.
    pub fn parse(stdin: &[u8]) -> Result<Self, Error> {
        let conf: Self = serde_json::from_slice(stdin).map_err(|e| {
            Error::new(code::DECODE_FAILURE, "cannot read the network configuration on stdin").because(e)
        })?;
        if !SUPPORTED_VERSIONS.contains(&conf.cni_version.as_str()) {
            let msg = format!("unsupported CNI version \"{}\"", conf.cni_version);
            let details = format!("supported versions: {}", SUPPORTED_VERSIONS.join(", "));
            return Err(Error::new(code::INCOMPATIBLE_VERSION, msg).because(details));
        }
        if conf.name.is_empty() {
            return Err(Error::new(code::INVALID_CONFIG, "the network configuration has no \"name\""));
        }
        Ok(conf)
    }

    /// The store: what the configuration says wins over the environment.
    ///
    /// # Errors
    /// Code 7 when the settings make no sense.
    pub fn store(&self) -> Result<datastore::config::StoreConfig, Error> {
        let setting = |path: &[&str]| {
            let (first, rest) = path.split_first()?;
            let value = rest.iter().try_fold(self.extra.get(*first)?, |at, field| at.get(*field))?;
            value.as_str().filter(|text| !text.is_empty()).map(str::to_string)
        };
        let lookup = |name: &str| {
            let found = STORE_SETTINGS.iter().find(|(_, var)| *var == name);
            found.and_then(|(path, _)| setting(path)).or_else(|| std::env::var(name).ok())
        };
        datastore::config::from_vars(lookup)
            .map_err(|e| Error::new(code::INVALID_CONFIG, "the store's settings are wrong").because(e))
    }

    /// What GC has to leave.
    ///
    /// # Errors
    /// Code 1 before CNI 1.1.0, 7 without a list (nothing would be valid), 6 for one that cannot be read.
    pub fn valid_attachments(&self) -> Result<Vec<ValidAttachment>, Error> {
        if self.cni_version != NEWEST_VERSION {
            let msg = format!(
                "GC is a command of CNI {NEWEST_VERSION}; the network configuration is of {}",
                self.cni_version
            );
            return Err(Error::new(code::INCOMPATIBLE_VERSION, msg));
        }
        let list = VALID_ATTACHMENTS.iter().find_map(|key| self.extra.get(*key)).ok_or_else(|| {
            Error::new(code::INVALID_CONFIG, format!("GC needs \"{}\" in the configuration", VALID_ATTACHMENTS[0]))
        })?;
        // An empty list of Go is null.
        let list: Option<Vec<ValidAttachment>> = serde_json::from_value(list.clone()).map_err(|e| {
            Error::new(code::DECODE_FAILURE, format!("cannot read \"{}\"", VALID_ATTACHMENTS[0])).because(e)
        })?;
        Ok(list.unwrap_or_default())
    }

    /// The node's name: the configuration, `NODENAME`, else the host's name in lower case.
    ///
    /// # Errors
    /// Code 5 when the host has no name that can be read.
    pub fn node(&self) -> Result<String, Error> {
        let named = self.nodename.clone().or_else(|| std::env::var("NODENAME").ok()).filter(|n| !n.is_empty());
        if let Some(name) = named {
            return Ok(name);
        }
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        host.map(|h| h.trim().to_lowercase()).ok_or_else(|| {
            Error::new(code::IO_FAILURE, "cannot read the host name; set \"nodename\" in the network configuration")
        })
    }

    /// Whether `feature_control` switches a feature on (Calico).
    pub fn has_feature(&self, name: &str) -> bool {
        self.extra.get("feature_control").and_then(|f| f.get(name)).and_then(Value::as_bool).unwrap_or(false)
    }

    /// Where felix's socket is.
    pub fn felix_socket(&self) -> PathBuf {
        self.run_dir.clone().unwrap_or_else(|| DEFAULT_RUN_DIR.into()).join("felix.sock")
    }
}

/// An interface in a result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultInterface {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
}

/// An address in a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultIp {
    /// `4` or `6`; required before 1.0.0, gone since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    pub address: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<std::net::IpAddr>,
    /// Index into `interfaces`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

/// A route in a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultRoute {
    pub dst: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<std::net::IpAddr>,
}

/// What ADD answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AddResult {
    #[serde(rename = "cniVersion", default)]
    pub cni_version: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<ResultInterface>,
    #[serde(default)]
    pub ips: Vec<ResultIp>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<ResultRoute>,
    #[serde(default)]
    pub dns: Value,
}

impl AddResult {
    /// The result in the form of a version: `ips[].version` exists only before 1.0.0.
    pub fn in_version(mut self, version: &str) -> Self {
        self.cni_version = version.into();
        let is_old = version.starts_with("0.");
        for ip in &mut self.ips {
            ip.version = is_old.then(|| if ip.address.addr().is_ipv4() { "4".into() } else { "6".into() });
        }
        if self.dns.is_null() {
            self.dns = Value::Object(Map::new());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use datastore::config::StoreConfig;

    use super::*;

    fn attachment(command: Command, vars: &[(&str, &str)]) -> Result<Attachment, Error> {
        let vars: BTreeMap<String, String> = vars.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Attachment::from_vars(command, |name| vars.get(name).cloned())
    }

    #[test]
    fn parameters_that_are_missing_are_all_named() {
        let error = attachment(Command::Add, &[("CNI_NETNS", "")]).unwrap_err();
        assert_eq!(error.code, code::INVALID_ENVIRONMENT);
        assert!(error.msg.contains("CNI_CONTAINERID, CNI_IFNAME, CNI_NETNS"), "{error}");
        let vars = [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0")];
        assert!(attachment(Command::Add, &vars).is_err());
        assert_eq!(attachment(Command::Del, &vars).unwrap().netns, None);
    }

    #[test]
    fn parameters_that_are_wrong_are_refused() {
        for (id, ifname, args) in [
            ("c/1", "eth0", ""),
            ("-c", "eth0", ""),
            ("c", "averylonginterface", ""),
            ("c", "a/b", ""),
            ("c", "..", ""),
            ("c", "eth0", "K8S_POD_NAME"),
        ] {
            let vars = [("CNI_CONTAINERID", id), ("CNI_IFNAME", ifname), ("CNI_ARGS", args)];
            assert!(attachment(Command::Del, &vars).is_err(), "{id} {ifname} {args}");
        }
    }

    #[test]
    fn arguments_are_pairs() {
        let vars = [("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "eth0"), ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=a;")];
        assert_eq!(attachment(Command::Del, &vars).unwrap().args["K8S_POD_NAME"], "a");
    }

    #[test]
    fn the_store_is_what_the_configuration_says() {
        let store = |settings: &str| {
            let text = format!(r#"{{"cniVersion":"1.0.0","name":"n",{settings}}}"#);
            NetConf::parse(text.as_bytes()).unwrap().store().unwrap()
        };
        for settings in [
            r#""datastore_type":"kubernetes","kubernetes":{"kubeconfig":"/etc/k"}"#,
            r#""kubernetes":{"kubeconfig":"/etc/k","k8s_api_root":""}"#,
        ] {
            let StoreConfig::Kubernetes(config) = store(settings) else { panic!("{settings}") };
            assert_eq!((config.kubeconfig.as_deref(), config.server), (Some("/etc/k"), None));
        }
        let StoreConfig::Sqlite { path } = store(r#""datastore_type":"sqlite","sqlite_path":"/t""#) else { panic!() };
        assert_eq!(path, std::path::Path::new("/t"));
    }

    #[test]
    fn versions_and_names_of_configurations() {
        let rows = [
            (r#"{"cniVersion":"0.3.1","name":"n"}"#, 0),
            (r#"{"cniVersion":"1.1.0","name":"n"}"#, 0),
            (r#"{"cniVersion":"2.0.0","name":"n"}"#, code::INCOMPATIBLE_VERSION),
            (r#"{"name":"n"}"#, code::INCOMPATIBLE_VERSION),
            (r#"{"cniVersion":"1.0.0"}"#, code::INVALID_CONFIG),
            (r#"{"cniVersion":"#, code::DECODE_FAILURE),
        ];
        for (text, expected) in rows {
            assert_eq!(NetConf::parse(text.as_bytes()).err().map_or(0, |e| e.code), expected, "{text}");
        }
    }

    #[test]
    fn gc_wants_to_know_what_is_valid() {
        let rows = [
            (r#"{"cniVersion":"1.1.0","name":"n","cni.dev/valid-attachments":null}"#, Ok(0)),
            (
                r#"{"cniVersion":"1.1.0","name":"n","cni.dev/valid-attachments":[{"containerID":"c","ifname":"eth0"}],
                    "cni.dev/attachments":[]}"#,
                Ok(1),
            ),
            (r#"{"cniVersion":"1.1.0","name":"n","cni.dev/attachments":[]}"#, Ok(0)),
            (r#"{"cniVersion":"1.1.0","name":"n"}"#, Err(code::INVALID_CONFIG)),
            (r#"{"cniVersion":"1.1.0","name":"n","cni.dev/valid-attachments":[{}]}"#, Err(code::DECODE_FAILURE)),
            (r#"{"cniVersion":"1.0.0","name":"n","cni.dev/valid-attachments":[]}"#, Err(code::INCOMPATIBLE_VERSION)),
        ];
        for (text, expected) in rows {
            let valid = NetConf::parse(text.as_bytes()).unwrap().valid_attachments();
            assert_eq!(valid.map(|list| list.len()).map_err(|e| e.code), expected, "{text}");
        }
    }

    #[test]
    fn addresses_carry_their_family_only_in_old_results() {
        let ip = ResultIp { version: None, address: "10.0.0.1/32".parse().unwrap(), gateway: None, interface: Some(1) };
        let result = AddResult { ips: vec![ip], ..Default::default() };
        let old = serde_json::to_value(result.clone().in_version("0.4.0")).unwrap();
        assert_eq!(old["ips"][0]["version"], "4");
        let new = serde_json::to_value(result.in_version("1.0.0")).unwrap();
        assert_eq!(new["ips"][0], serde_json::json!({"address": "10.0.0.1/32", "interface": 1}));
        assert_eq!(new["dns"], serde_json::json!({}));
    }
}
