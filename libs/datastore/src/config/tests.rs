use std::collections::BTreeMap;

use serde_json::json;

use super::*;

type Vars = &'static [(&'static str, &'static str)];

fn config(vars: Vars) -> Result<StoreConfig, String> {
    let vars: BTreeMap<&str, &str> = vars.iter().copied().collect();
    from_vars(|name| vars.get(name).map(ToString::to_string)).map_err(|e| e.to_string())
}

fn sqlite(path: &str) -> StoreConfig {
    StoreConfig::Sqlite { path: path.into() }
}

fn etcd(endpoints: &[&str]) -> StoreConfig {
    StoreConfig::Etcd(EtcdConfig {
        endpoints: endpoints.iter().map(ToString::to_string).collect(),
        ..EtcdConfig::default()
    })
}

fn kubernetes(kubeconfig: Option<&str>) -> StoreConfig {
    StoreConfig::Kubernetes(KubernetesConfig {
        kubeconfig: kubeconfig.map(Into::into),
        namespace: "kube-system".into(),
        ..KubernetesConfig::default()
    })
}

#[test]
fn the_environment_chooses_the_store() {
    let rows: [(Vars, StoreConfig); 14] = [
        (&[], sqlite(DEFAULT_SQLITE_PATH)),
        (&[("SQLITE_PATH", "/x.db")], sqlite("/x.db")),
        (&[("DATASTORE_TYPE", ""), ("ETCD_ENDPOINTS", "")], sqlite(DEFAULT_SQLITE_PATH)),
        (&[("ETCD_ENDPOINTS", "http://a:1, https://b:2")], etcd(&["http://a:1", "https://b:2"])),
        (&[("DATASTORE_TYPE", "sqlite"), ("ETCD_ENDPOINTS", "http://a:1")], sqlite(DEFAULT_SQLITE_PATH)),
        (&[("DATASTORE_TYPE", "sqlite"), ("KUBECONFIG", "/k")], sqlite(DEFAULT_SQLITE_PATH)),
        (&[("KUBECONFIG", " ")], sqlite(DEFAULT_SQLITE_PATH)),
        (&[("KUBECONFIG", "/k")], kubernetes(Some("/k"))),
        (&[("DATASTORE_TYPE", "kubernetes"), ("ETCD_ENDPOINTS", "http://a:1")], kubernetes(None)),
        (&[("ETCD_ENDPOINTS", "http://a:1"), ("KUBECONFIG", "/k")], etcd(&["http://a:1"])),
        (&[("DATASTORE_TYPE", "etcdv3"), ("ETCD_ENDPOINTS", "http://a:1")], etcd(&["http://a:1"])),
        (&[("CALICO_ETCD_ENDPOINTS", "http://a:1"), ("ETCD_ENDPOINTS", "http://b:1")], etcd(&["http://a:1"])),
        (
            &[("CALICO_DATASTORE_TYPE", "sqlite"), ("DATASTORE_TYPE", "etcdv3"), ("ETCD_ENDPOINTS", "http://a:1")],
            sqlite(DEFAULT_SQLITE_PATH),
        ),
        (
            &[
                ("ETCD_ENDPOINTS", "http://a:1"),
                ("ETCD_USERNAME", "u"),
                ("ETCD_PASSWORD", "p"),
                ("ETCD_CA_CERT_FILE", "/ca"),
            ],
            StoreConfig::Etcd(EtcdConfig {
                endpoints: vec!["http://a:1".into()],
                username: Some("u".into()),
                password: Some("p".into()),
                ca_cert_file: Some("/ca".into()),
                ..EtcdConfig::default()
            }),
        ),
    ];
    for (vars, expected) in rows {
        assert_eq!(config(vars), Ok(expected), "{vars:?}");
    }
}

#[test]
fn what_is_wrong_in_the_environment_is_named() {
    let rows: [(Vars, &[&str]); 9] = [
        (&[("DATASTORE_TYPE", "etcd")], &["DATASTORE_TYPE=etcd", "sqlite, etcdv3 and kubernetes"]),
        (
            &[("KUBECONFIG", "/k"), ("K8S_INSECURE_SKIP_TLS_VERIFY", "maybe")],
            &["K8S_INSECURE_SKIP_TLS_VERIFY=maybe", "true and false"],
        ),
        (&[("ETCD_ENDPOINTS", " , ")], &["needs ETCD_ENDPOINTS", "http://"]),
        (&[("DATASTORE_TYPE", "etcdv3")], &["needs ETCD_ENDPOINTS", "http://"]),
        (
            &[("ETCD_DISCOVERY_SRV", "x.org")],
            &["ETCD_DISCOVERY_SRV=x.org", "ETCD_ENDPOINTS", "_etcd-client._tcp.x.org"],
        ),
        (&[("ETCD_ENDPOINTS", "10.0.0.1:2379")], &["10.0.0.1:2379", "http://host:port"]),
        (
            &[("ETCD_ENDPOINTS", "http://a:1"), ("ETCD_USERNAME", "u")],
            &["ETCD_USERNAME is set", "ETCD_PASSWORD is not"],
        ),
        (
            &[("ETCD_ENDPOINTS", "http://a:1"), ("ETCD_KEY_FILE", "k")],
            &["ETCD_KEY_FILE is set", "ETCD_CERT_FILE is not"],
        ),
        (&[("ETCD_ENDPOINTS", "http://a:1,http://")], &["\"http://\""]),
    ];
    for (vars, parts) in rows {
        let error = config(vars).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{vars:?}: \"{error}\" lacks \"{part}\"");
        }
    }
}

/// A document of Calico's configuration file with this `spec`.
fn document(spec: serde_json::Value) -> serde_json::Value {
    json!({"kind": "CalicoAPIConfig", "apiVersion": "projectcalico.org/v3", "metadata": null, "spec": spec})
}

#[test]
fn calicos_configuration_file_is_read() {
    let key = "-----BEGIN PRIVATE KEY-----\nAA\n-----END PRIVATE KEY-----";
    let spec = json!({
        "datastoreType": "etcdv3", "etcdEndpoints": "https://a:1,https://b:1", "etcdUsername": "u", "etcdPassword": "hush",
        "etcdKey": format!("{key}\n"), "etcdCert": "cert", "etcdCACert": "ca",
    });
    let StoreConfig::Etcd(config) = from_document(&document(spec)).unwrap() else { panic!("not etcd") };
    assert_eq!(config.endpoints, ["https://a:1", "https://b:1"]);
    assert_eq!(config.key.as_deref(), Some(key));
    assert_eq!((config.cert.as_deref(), config.ca_cert.as_deref()), (Some("cert"), Some("ca")));
    let logged = format!("{config:?}");
    assert!(!logged.contains("PRIVATE") && !logged.contains("hush"), "{logged}");
    assert_eq!(from_document(&document(json!(null))).unwrap(), sqlite(DEFAULT_SQLITE_PATH));
    let spec = json!({"datastoreType": "sqlite", "sqlitePath": "/x.db", "etcdEndpoints": null});
    assert_eq!(from_document(&document(spec)).unwrap(), sqlite("/x.db"));

    let rows: [(serde_json::Value, &[&str]); 6] = [
        (json!({"kind": "X"}), &["kind is \"X\"", "CalicoAPIConfig"]),
        (json!({"kind": "CalicoAPIConfig"}), &["apiVersion", "projectcalico.org/v3"]),
        (document(json!([])), &["spec must be a map"]),
        (document(json!({"etcdEndpoint": "a"})), &["spec.etcdEndpoint is unknown", "etcdEndpoints"]),
        (document(json!({"etcdEndpoints": ["a"]})), &["spec.etcdEndpoints must be a text"]),
        (document(json!({"etcdEndpoints": "https://a:1", "etcdCert": "x"})), &["etcdCert is set", "etcdKey is not"]),
    ];
    for (document, parts) in rows {
        let error = from_document(&document).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{document}: \"{error}\" lacks \"{part}\"");
        }
    }
}
