//! Which store the environment asks for (DESIGN section 10; Calico's `ETCD_*` variables).

use std::path::PathBuf;
use std::sync::Arc;

use crate::etcd::EtcdStore;
use crate::sqlite::SqliteStore;
use crate::store::{DynStore, Error};

/// Where the embedded store is where nothing else is said.
pub const DEFAULT_SQLITE_PATH: &str = "/var/lib/tortie/tortie.db";

/// A store and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    Sqlite { path: PathBuf },
    Etcd(EtcdConfig),
}

/// How to reach etcd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdConfig {
    /// URLs, `http://host:port` or `https://host:port`.
    pub endpoints: Vec<String>,
    pub username: Option<String>,
    pub password: Option<String>,
    pub key_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub ca_cert_file: Option<PathBuf>,
}

/// The store that the process's environment asks for.
///
/// # Errors
/// [`Error::Invalid`] names the variable, what it holds and what it may hold.
pub fn from_env() -> Result<StoreConfig, Error> {
    from_vars(|name| std::env::var(name).ok())
}

/// The store that these variables ask for; an empty value counts as unset, as in Calico.
///
/// # Errors
/// As [`from_env`].
pub fn from_vars(lookup: impl Fn(&str) -> Option<String>) -> Result<StoreConfig, Error> {
    let var = |name: &str| lookup(name).map(|v| v.trim().to_string()).filter(|v| !v.is_empty());
    let is_set = |name| var(name).is_some();
    let kind = var("DATASTORE_TYPE").unwrap_or_else(|| {
        let implied = match (is_set("ETCD_ENDPOINTS"), is_set("KUBECONFIG")) {
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
        "kubernetes" => {
            let asked = if is_set("DATASTORE_TYPE") {
                "DATASTORE_TYPE=kubernetes"
            } else {
                "KUBECONFIG without DATASTORE_TYPE"
            };
            Err(Error::Invalid(format!(
                "{asked} asks for the Kubernetes API server as the store, which this version cannot use; set \
                 DATASTORE_TYPE=sqlite (one machine), or DATASTORE_TYPE=etcdv3 and ETCD_ENDPOINTS (a fleet)"
            )))
        }
        other => {
            Err(Error::Invalid(format!("DATASTORE_TYPE={other} is unknown; valid are sqlite, etcdv3 and kubernetes")))
        }
    }
}

fn etcd_from_vars(var: impl Fn(&str) -> Option<String>) -> Result<EtcdConfig, Error> {
    let text = var("ETCD_ENDPOINTS").ok_or_else(|| {
        Error::Invalid(
            "DATASTORE_TYPE=etcdv3 needs ETCD_ENDPOINTS, such as http://10.0.0.1:2379,http://10.0.0.2:2379".into(),
        )
    })?;
    let endpoints: Vec<String> = text.split(',').map(|e| e.trim().to_string()).filter(|e| !e.is_empty()).collect();
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
    };
    let pairs = [
        ("ETCD_USERNAME", config.username.is_some(), "ETCD_PASSWORD", config.password.is_some()),
        ("ETCD_CERT_FILE", config.cert_file.is_some(), "ETCD_KEY_FILE", config.key_file.is_some()),
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
        }
    }
}

#[cfg(test)]
mod tests;
