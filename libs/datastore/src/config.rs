//! Which store the environment asks for (DESIGN section 10; Calico's `ETCD_*` variables).

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use crate::etcd::EtcdStore;
use crate::kubernetes::KubernetesStore;
use crate::kubernetes::config::KubernetesConfig;
use crate::sqlite::SqliteStore;
use crate::store::{DynStore, Error};

/// Where the embedded store is where nothing else is said.
pub const DEFAULT_SQLITE_PATH: &str = "/var/lib/tortie/tortie.db";

/// A store and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    Sqlite { path: PathBuf },
    Etcd(EtcdConfig),
    Kubernetes(KubernetesConfig),
}

/// How to reach etcd.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EtcdConfig {
    /// URLs, `http://host:port` or `https://host:port`.
    pub endpoints: Vec<String>,
    pub username: Option<String>,
    pub password: Option<String>,
    pub key_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub ca_cert_file: Option<PathBuf>,
    /// PEM texts, as Calico's configuration file may hold them; the files win.
    pub key: Option<String>,
    pub cert: Option<String>,
    pub ca_cert: Option<String>,
}

/// Without the password and the key: it may be logged.
impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("username", &self.username)
            .field("key_file", &self.key_file)
            .field("cert_file", &self.cert_file)
            .field("ca_cert_file", &self.ca_cert_file)
            .finish_non_exhaustive()
    }
}

/// The store that the process's environment asks for.
///
/// # Errors
/// [`Error::Invalid`] names the variable, what it holds and what it may hold.
pub fn from_env() -> Result<StoreConfig, Error> {
    from_vars(|name| std::env::var(name).ok())
}

/// The fields of Calico's configuration file (`calico: libcalico-go/lib/apiconfig`) and the variables that they stand for.
const FILE_FIELDS: [(&str, &str); 22] = [
    ("datastoreType", "DATASTORE_TYPE"),
    ("sqlitePath", "SQLITE_PATH"),
    ("etcdEndpoints", "ETCD_ENDPOINTS"),
    ("etcdDiscoverySrv", "ETCD_DISCOVERY_SRV"),
    ("etcdUsername", "ETCD_USERNAME"),
    ("etcdPassword", "ETCD_PASSWORD"),
    ("etcdKeyFile", "ETCD_KEY_FILE"),
    ("etcdCertFile", "ETCD_CERT_FILE"),
    ("etcdCACertFile", "ETCD_CA_CERT_FILE"),
    ("etcdKey", "ETCD_KEY"),
    ("etcdCert", "ETCD_CERT"),
    ("etcdCACert", "ETCD_CA_CERT"),
    ("kubeconfig", "KUBECONFIG"),
    ("k8sAPIEndpoint", "K8S_API_ENDPOINT"),
    ("k8sKeyFile", "K8S_KEY_FILE"),
    ("k8sCertFile", "K8S_CERT_FILE"),
    ("k8sCAFile", "K8S_CA_FILE"),
    ("k8sAPIToken", "K8S_API_TOKEN"),
    ("k8sInsecureSkipTLSVerify", "K8S_INSECURE_SKIP_TLS_VERIFY"),
    ("k8sCurrentContext", "K8S_CURRENT_CONTEXT"),
    ("k8sClientQPS", "K8S_CLIENT_QPS"),
    ("calicoAPIGroup", "CALICO_API_GROUP"),
];

/// The store that Calico's configuration file asks for: a document of kind `CalicoAPIConfig`, which replaces the environment
/// wholesale.
///
/// # Errors
/// [`Error::Invalid`] names the field, what it holds and what it may hold; otherwise as [`from_env`].
pub fn from_document(document: &Value) -> Result<StoreConfig, Error> {
    let invalid = |what: String| Error::Invalid(what);
    for (field, expected) in [("kind", "CalicoAPIConfig"), ("apiVersion", "projectcalico.org/v3")] {
        let found = document.get(field).and_then(Value::as_str).unwrap_or_default();
        if found != expected {
            return Err(invalid(format!("{field} is \"{found}\"; it must be {expected}")));
        }
    }
    let mut vars: BTreeMap<&str, String> = BTreeMap::new();
    let empty = serde_json::Map::new();
    let spec = match document.get("spec") {
        None | Some(Value::Null) => &empty,
        Some(Value::Object(spec)) => spec,
        Some(_) => return Err(invalid("spec must be a map".into())),
    };
    for (field, value) in spec {
        let Some((_, variable)) = FILE_FIELDS.iter().find(|(name, _)| name == field) else {
            let valid: Vec<&str> = FILE_FIELDS.iter().map(|(name, _)| *name).collect();
            return Err(invalid(format!("spec.{field} is unknown; valid are {}", valid.join(", "))));
        };
        let value = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            _ => return Err(invalid(format!("spec.{field} must be a text"))),
        };
        vars.insert(variable, value);
    }
    from_vars(|name| vars.get(name).cloned())
}

/// The store that these variables ask for; an empty value counts as unset, and one with the prefix `CALICO_` wins, as in
/// Calico.
///
/// # Errors
/// As [`from_env`].
pub fn from_vars(lookup: impl Fn(&str) -> Option<String>) -> Result<StoreConfig, Error> {
    let set = |name: &str| lookup(name).map(|v| v.trim().to_string()).filter(|v| !v.is_empty());
    let var = |name: &str| set(&format!("CALICO_{name}")).or_else(|| set(name));
    let is_set = |name| var(name).is_some();
    let kind = var("DATASTORE_TYPE").unwrap_or_else(|| {
        let is_etcd = is_set("ETCD_ENDPOINTS") || is_set("ETCD_DISCOVERY_SRV");
        let implied = match (is_etcd, is_set("KUBECONFIG")) {
            (true, _) => "etcdv3",
            (false, true) => "kubernetes",
            (false, false) => "sqlite",
        };
        implied.into()
    });
    match kind.as_str() {
        "sqlite" => {
            Ok(StoreConfig::Sqlite { path: var("SQLITE_PATH").unwrap_or_else(|| DEFAULT_SQLITE_PATH.into()).into() })
        }
        "etcdv3" => etcd_from_vars(var).map(StoreConfig::Etcd),
        "kubernetes" => KubernetesConfig::from_vars(var).map(StoreConfig::Kubernetes),
        other => {
            Err(Error::Invalid(format!("DATASTORE_TYPE={other} is unknown; valid are sqlite, etcdv3 and kubernetes")))
        }
    }
}

fn etcd_from_vars(var: impl Fn(&str) -> Option<String>) -> Result<EtcdConfig, Error> {
    if let Some(domain) = var("ETCD_DISCOVERY_SRV") {
        return Err(Error::Invalid(format!(
            "ETCD_DISCOVERY_SRV={domain} asks for the members by DNS SRV records, which this version does not look up; set \
             ETCD_ENDPOINTS to what `dig +short SRV _etcd-client._tcp.{domain}` (or _etcd-client-ssl) prints"
        )));
    }
    let text = var("ETCD_ENDPOINTS").unwrap_or_default();
    let endpoints: Vec<String> = text.split(',').map(|e| e.trim().to_string()).filter(|e| !e.is_empty()).collect();
    if endpoints.is_empty() {
        return Err(Error::Invalid(
            "DATASTORE_TYPE=etcdv3 needs ETCD_ENDPOINTS, such as http://10.0.0.1:2379,http://10.0.0.2:2379".into(),
        ));
    }
    for endpoint in &endpoints {
        let host = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
        if host.is_none_or(str::is_empty) {
            return Err(Error::Invalid(format!(
                "ETCD_ENDPOINTS holds \"{endpoint}\"; each endpoint is http://host:port or https://host:port"
            )));
        }
    }
    let config = EtcdConfig {
        endpoints,
        username: var("ETCD_USERNAME"),
        password: var("ETCD_PASSWORD"),
        key_file: var("ETCD_KEY_FILE").map(PathBuf::from),
        cert_file: var("ETCD_CERT_FILE").map(PathBuf::from),
        ca_cert_file: var("ETCD_CA_CERT_FILE").map(PathBuf::from),
        key: var("ETCD_KEY"),
        cert: var("ETCD_CERT"),
        ca_cert: var("ETCD_CA_CERT"),
    };
    let pairs = [
        ("ETCD_USERNAME", config.username.is_some(), "ETCD_PASSWORD", config.password.is_some()),
        ("ETCD_CERT_FILE", config.cert_file.is_some(), "ETCD_KEY_FILE", config.key_file.is_some()),
        ("etcdCert", config.cert.is_some(), "etcdKey", config.key.is_some()),
    ];
    for (first, has_first, second, has_second) in pairs {
        if has_first != has_second {
            let (present, missing) = if has_first { (first, second) } else { (second, first) };
            return Err(Error::Invalid(format!("{present} is set but {missing} is not; set both or neither")));
        }
    }
    Ok(config)
}

impl StoreConfig {
    /// Opens the store.
    ///
    /// # Errors
    /// The text names the store, what failed and what to check.
    pub async fn open(&self) -> Result<DynStore, Error> {
        match self {
            Self::Sqlite { path } => Ok(Arc::new(SqliteStore::open(path).await?)),
            Self::Etcd(config) => Ok(Arc::new(EtcdStore::connect(config).await?)),
            Self::Kubernetes(config) => Ok(Arc::new(KubernetesStore::connect(config).await?)),
        }
    }

    /// Opens the store for a command: an embedded one on a disk that takes no writes can still be read.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_to_read(&self) -> Result<DynStore, Error> {
        match self {
            Self::Sqlite { path } => Ok(Arc::new(SqliteStore::open_to_read(path).await?)),
            Self::Etcd(_) | Self::Kubernetes(_) => self.open().await,
        }
    }
}

#[cfg(test)]
mod tests;
