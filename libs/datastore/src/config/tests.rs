use std::collections::BTreeMap;

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

#[test]
fn the_environment_chooses_the_store() {
    let rows: [(Vars, StoreConfig); 10] = [
        (&[], sqlite(DEFAULT_SQLITE_PATH)),
        (&[("SQLITE_PATH", "/x.db")], sqlite("/x.db")),
        (&[("DATASTORE_TYPE", ""), ("ETCD_ENDPOINTS", "")], sqlite(DEFAULT_SQLITE_PATH)),
        (&[("ETCD_ENDPOINTS", "http://a:1, https://b:2")], etcd(&["http://a:1", "https://b:2"])),
        (&[("DATASTORE_TYPE", "sqlite"), ("ETCD_ENDPOINTS", "http://a:1")], sqlite(DEFAULT_SQLITE_PATH)),
        (&[("DATASTORE_TYPE", "sqlite"), ("KUBECONFIG", "/k")], sqlite(DEFAULT_SQLITE_PATH)),
        (&[("KUBECONFIG", " ")], sqlite(DEFAULT_SQLITE_PATH)),
        (&[("ETCD_ENDPOINTS", "http://a:1"), ("KUBECONFIG", "/k")], etcd(&["http://a:1"])),
        (&[("DATASTORE_TYPE", "etcdv3"), ("ETCD_ENDPOINTS", "http://a:1")], etcd(&["http://a:1"])),
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
            &[("DATASTORE_TYPE", "kubernetes")],
            &["DATASTORE_TYPE=kubernetes", "this version", "sqlite", "ETCD_ENDPOINTS"],
        ),
        (
            &[("KUBECONFIG", "/k")],
            &["KUBECONFIG without DATASTORE_TYPE", "DATASTORE_TYPE=sqlite", "DATASTORE_TYPE=etcdv3"],
        ),
        (
            &[("DATASTORE_TYPE", "kubernetes"), ("ETCD_ENDPOINTS", "http://a:1")],
            &["DATASTORE_TYPE=kubernetes", "this version"],
        ),
        (&[("DATASTORE_TYPE", "etcdv3")], &["needs ETCD_ENDPOINTS", "http://"]),
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
