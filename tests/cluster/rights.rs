//! What `deploy/kubernetes/rbac.yaml` allows, for tests of the programs that it is for, which include this file.

use std::collections::BTreeSet;
use std::path::Path;

use api::key::KeyRange;
use serde_json::Value;

/// Fails unless an account may list and watch ranges.
pub fn assert_may_follow(account: &str, ranges: &[KeyRange]) {
    for range in ranges {
        for (group, resource) in datastore::kubernetes::resources(range) {
            assert_may(account, group, resource, &["list", "watch"]);
        }
    }
}

/// Fails unless an account has these verbs on a resource, in all namespaces or in its own.
pub fn assert_may(account: &str, group: &str, resource: &str, verbs: &[&str]) {
    let documents = manifest();
    let roles: BTreeSet<(&str, &str)> = documents
        .iter()
        .filter(|d| d["kind"].as_str().is_some_and(|k| k.ends_with("Binding")))
        .filter(|d| d["subjects"].as_array().unwrap().iter().any(|s| s["name"] == account))
        .map(|d| (d["roleRef"]["kind"].as_str().unwrap(), d["roleRef"]["name"].as_str().unwrap()))
        .collect();
    let holds = |list: &Value, wanted: &str| list.as_array().unwrap().iter().any(|v| v == wanted);
    let rules: Vec<&Value> = documents
        .iter()
        .filter(|d| roles.contains(&(d["kind"].as_str().unwrap(), d["metadata"]["name"].as_str().unwrap())))
        .flat_map(|d| d["rules"].as_array().unwrap())
        .filter(|rule| holds(&rule["apiGroups"], group) && holds(&rule["resources"], resource))
        .collect();
    for verb in verbs {
        let may = rules.iter().any(|rule| holds(&rule["verbs"], verb));
        assert!(may, "rbac.yaml does not let {account} {verb} {resource} of \"{group}\", which it does");
    }
}

fn manifest() -> Vec<Value> {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let path = above.map(|p| p.join("deploy/kubernetes/rbac.yaml")).find(|p| p.is_file()).unwrap();
    serde_yaml::from_multiple(&std::fs::read_to_string(path).unwrap()).unwrap()
}
