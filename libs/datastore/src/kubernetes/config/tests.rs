use std::collections::BTreeMap;

use super::*;

fn vars(vars: &[(&str, &str)]) -> KubernetesConfig {
    let vars: BTreeMap<&str, &str> = vars.iter().copied().collect();
    KubernetesConfig::from_vars(|name| vars.get(name).map(ToString::to_string)).expect("valid variables")
}

fn error(config: &KubernetesConfig) -> String {
    config.access().expect_err("it is refused").to_string()
}

const KUBECONFIG: &str = "
apiVersion: v1
kind: Config
current-context: one
preferences: {}
clusters:
- name: c1
  cluster: {server: 'https://10.0.0.1:6443/', certificate-authority: ca.pem, tls-server-name: api}
- name: c2
  cluster: {server: 'http://[fd00::1]:8001/clusters/a', insecure-skip-tls-verify: true, certificate-authority-data: 'YWJj'}
- name: proxied
  cluster: {server: 'https://a', proxy-url: 'http://proxy'}
- name: wrong
  cluster: {server: '10.0.0.1:6443'}
contexts:
- {name: one, context: {cluster: c1, user: u1, namespace: x}}
- {name: two, context: {cluster: c2, user: u2}}
- {name: data, context: {cluster: c1, user: u3}}
- {name: anonymous, context: {cluster: c1, user: ''}}
- {name: exec, context: {cluster: c1, user: exec}}
- {name: password, context: {cluster: c1, user: password}}
- {name: half, context: {cluster: c1, user: half}}
- {name: proxied, context: {cluster: proxied, user: u1}}
- {name: wrong, context: {cluster: wrong, user: u1}}
- {name: no-cluster, context: {cluster: other, user: u1}}
- {name: no-user, context: {cluster: c1, user: other}}
- {name: base64, context: {cluster: c1, user: base64}}
users:
- {name: u1, user: {client-certificate: certs/a.pem, client-key: /abs/a.key}}
- {name: u2, user: {token: secret}}
- {name: u3, user: {client-certificate-data: YQ==, client-key-data: Yg==, tokenFile: token}}
- {name: exec, user: {exec: {command: aws, apiVersion: client.authentication.k8s.io/v1}}}
- {name: password, user: {username: a, password: b}}
- {name: half, user: {client-key: a.key}}
- {name: base64, user: {client-certificate-data: '*', client-key-data: YQ==}}
";

#[test]
fn a_kubeconfig_says_where_and_who() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config");
    std::fs::write(&path, KUBECONFIG).unwrap();
    let config = |context: &str| vars(&[("KUBECONFIG", path.to_str().unwrap()), ("K8S_CURRENT_CONTEXT", context)]);
    let file = |name: &str| Source::File(directory.path().join(name));
    let data = |text: &str| Source::Data(text.into());

    let access = vars(&[("KUBECONFIG", path.to_str().unwrap())]).access().unwrap();
    assert_eq!(access.server.to_string(), "https://10.0.0.1:6443");
    assert_eq!(access.server_name.as_deref(), Some("api"));
    assert_eq!(access.ca, Some(file("ca.pem")), "relative to the file");
    assert_eq!(access.identity, Some((file("certs/a.pem"), Source::File("/abs/a.key".into()))));
    assert_eq!((access.token, access.insecure), (None, false));

    let access = config("two").access().unwrap();
    assert_eq!(access.server.to_string(), "http://[fd00::1]:8001/clusters/a");
    assert_eq!((access.server.host.as_str(), access.server.path.as_str()), ("fd00::1", "/clusters/a"));
    assert_eq!((access.ca, access.token, access.insecure), (Some(data("abc")), Some(data("secret")), true));

    let access = config("data").access().unwrap();
    assert_eq!((access.identity, access.token), (Some((data("a"), data("b"))), Some(file("token"))));
    assert_eq!(config("anonymous").access().unwrap().identity, None);

    // (context, what the error says)
    let rows: [(&str, &[&str]); 8] = [
        ("exec", &["user exec", "exec", "tokenFile"]),
        ("password", &["user password", "no passwords"]),
        ("half", &["user half", "client-certificate"]),
        ("proxied", &["cluster proxied", "proxy-url"]),
        ("wrong", &["cluster wrong", "10.0.0.1:6443", "https://"]),
        ("no-cluster", &["no cluster \"other\""]),
        ("no-user", &["no user \"other\""]),
        ("base64", &["client-certificate-data", "base64"]),
    ];
    for (context, parts) in rows {
        let text = error(&config(context));
        for part in parts.iter().chain(&["config"]) {
            assert!(text.contains(part), "{context}: \"{text}\" lacks \"{part}\"");
        }
    }
    assert!(error(&config("absent")).contains("no context \"absent\""));
}

/// kubectl's rule: the first file that names a thing wins, of several files some may be missing.
#[test]
fn several_kubeconfigs_are_one() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    std::fs::create_dir(directory.path().join("b")).unwrap();
    let first =
        "contexts: [{name: x, context: {cluster: c, user: u}}]\nclusters:\nusers:\n- {name: u, user: {tokenFile: t}}";
    let second = "current-context: x\nclusters: [{name: c, cluster: {server: 'https://s', certificate-authority: ca}}]\n\
                  users:\n- {name: u, user: {token: other}}";
    std::fs::write(at("a"), first).unwrap();
    std::fs::write(at("b/b"), second).unwrap();
    let access = vars(&[("KUBECONFIG", &format!("{}:{}:{}", at("none"), at("a"), at("b/b")))]).access().unwrap();
    assert_eq!(access.server.authority(), "s:443");
    assert_eq!(access.ca, Some(Source::File(at("b/ca").into())));
    assert_eq!(access.token, Some(Source::File(at("t").into())));

    let rows = [
        (at("none"), "cannot be read"),
        (format!("{}:{}", at("none"), at("none2")), "none of these files exists"),
        (at("a"), "no current-context"),
    ];
    for (paths, part) in rows {
        let text = error(&vars(&[("KUBECONFIG", &paths)]));
        assert!(text.contains(part) && text.contains(&paths), "\"{text}\" lacks \"{part}\"");
    }
    std::fs::write(at("a"), "- not a kubeconfig").unwrap();
    assert!(error(&vars(&[("KUBECONFIG", &at("a"))])).contains("is no kubeconfig"));
}

#[test]
fn without_a_kubeconfig_the_variables_or_the_pod_say_it() {
    let access = vars(&[
        ("K8S_API_ENDPOINT", "https://api:6443"),
        ("K8S_CA_FILE", "/ca"),
        ("K8S_CERT_FILE", "/c"),
        ("K8S_KEY_FILE", "/k"),
        ("K8S_API_TOKEN", "t"),
        ("K8S_INSECURE_SKIP_TLS_VERIFY", "true"),
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
    ])
    .access()
    .unwrap();
    assert_eq!(access.server.to_string(), "https://api:6443");
    assert_eq!(access.ca, Some(Source::File("/ca".into())));
    assert_eq!(access.identity, Some((Source::File("/c".into()), Source::File("/k".into()))));
    assert_eq!((access.token, access.insecure), (Some(Source::Data(b"t".to_vec())), true));

    let mut config = vars(&[("KUBERNETES_SERVICE_HOST", "fd00::1"), ("KUBERNETES_SERVICE_PORT", "6443")]);
    config.service_account = Some("/sa".into());
    let access = config.access().unwrap();
    assert_eq!(access.server.to_string(), "https://[fd00::1]:6443");
    assert_eq!(access.ca, Some(Source::File("/sa/ca.crt".into())));
    assert_eq!(access.token, Some(Source::File("/sa/token".into())));

    let home = tempfile::tempdir().unwrap();
    let nothing = vars(&[("HOME", home.path().to_str().unwrap())]);
    for part in ["KUBECONFIG", "K8S_API_ENDPOINT", "service account"] {
        assert!(error(&nothing).contains(part), "{}", error(&nothing));
    }
    std::fs::create_dir(home.path().join(".kube")).unwrap();
    std::fs::write(home.path().join(".kube/config"), KUBECONFIG).unwrap();
    assert_eq!(nothing.access().unwrap().server.host, "10.0.0.1");

    let half = vars(&[("K8S_API_ENDPOINT", "https://a"), ("K8S_CERT_FILE", "/c")]);
    assert!(error(&half).contains("K8S_KEY_FILE is not"), "{}", error(&half));
    for server in ["a:6443", "https://", "https://a:port", "ftp://a", "https://user@a"] {
        let text = error(&vars(&[("K8S_API_ENDPOINT", server)]));
        assert!(text.contains("K8S_API_ENDPOINT") && text.contains(server), "{text}");
    }
    let maybe = |name: &str| (name == "K8S_INSECURE_SKIP_TLS_VERIFY").then(|| "maybe".to_string());
    assert!(KubernetesConfig::from_vars(maybe).unwrap_err().to_string().contains("=maybe"));
}

/// Debug output ends up in logs.
#[test]
fn secrets_are_not_printed() {
    let config = vars(&[("K8S_API_ENDPOINT", "https://a"), ("K8S_API_TOKEN", "hunter2")]);
    for text in [format!("{config:?}"), format!("{:?}", config.access().unwrap())] {
        assert!(!text.contains("hunter2"), "{text}");
    }
    assert!(format!("{config:?}").contains("https://a"), "{config:?}");
}
