//! What an export does not carry, told on standard error.

use std::collections::BTreeMap;

use api::key::KeyRange;
use api::kind::Kind;
use datastore::DynStore;

use super::{is_kubernetes, is_of_kubernetes};

/// Where resources are: what follows is their plural.
const RESOURCES: [&str; 3] =
    ["/calico/resources/v3/projectcalico.org/", "/tortie/resources/", "/apis/crd.projectcalico.org/v1/"];
/// Markers of hosts, which Calico's oldest clients wrote: empty, and read by nobody.
const HOST_MARKERS: &str = "/calico/ipam/v2/host/";
/// Parts of a path by which what is no resource is counted: `/calico/felix/v2/`.
const DEPTH: usize = 3;

/// One group of what is left out.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    /// What all its paths begin with.
    prefix: String,
    /// The plural, of resources.
    plural: Option<String>,
}

/// Tells kind or prefix, and count, of everything in the store that an export leaves out.
pub async fn tell(store: &DynStore, to_kubernetes: bool) {
    match store.foreign_paths().await {
        Ok(paths) => lines(&paths).iter().for_each(|line| eprintln!("{line}")),
        Err(error) => {
            eprintln!("warning: what is left out of kinds that this version does not have is not known: {error}")
        }
    }
    for &kind in Kind::ALL.iter().filter(|k| is_of_kubernetes(**k)) {
        let why = match (is_kubernetes(store.as_ref()), kind, to_kubernetes) {
            (true, Kind::WorkloadEndpoint, _) => "they are made from the cluster's Pods",
            (true, ..) => "they are the cluster's own",
            (false, Kind::WorkloadEndpoint, true) => "Kubernetes makes its own from Pods",
            _ => continue,
        };
        match store.list_keys(&KeyRange::Kind(kind)).await.map(|listing| listing.items.len()) {
            Ok(0) => {}
            Ok(count) => eprintln!("warning: left out: {count} {}: {why}", kind.plural()),
            Err(error) => eprintln!("warning: left out: {}, {why}; how many is not known: {error}", kind.plural()),
        }
    }
    match store.list_keys(&KeyRange::Elections).await.map(|listing| listing.items.len()) {
        Ok(0) | Err(_) => {}
        Ok(count) => eprintln!("left out: {count} below {}: who leads in this store", KeyRange::Elections.prefix()),
    }
}

fn lines(paths: &[String]) -> Vec<String> {
    let mut groups: BTreeMap<Group, usize> = BTreeMap::new();
    for path in paths {
        *groups.entry(group(path)).or_default() += 1;
    }
    let line = |(Group { prefix, plural }, count): (Group, usize)| match plural {
        Some(plural) => format!("warning: left out: {count} {plural} ({prefix}): this version has no such kind"),
        None if prefix == HOST_MARKERS => {
            format!("left out: {count} below {prefix}: empty markers, which nothing reads")
        }
        None => format!("warning: left out: {count} below {prefix}: this version does not know what that is"),
    };
    groups.into_iter().map(line).collect()
}

fn group(path: &str) -> Group {
    for root in RESOURCES {
        if let Some((plural, _)) = path.strip_prefix(root).and_then(|rest| rest.split_once('/')) {
            return Group { prefix: format!("{root}{plural}/"), plural: Some(plural.into()) };
        }
    }
    let is_marker = path.strip_prefix(HOST_MARKERS).is_some_and(|host| !host.is_empty() && !host.contains('/'));
    let prefix = if is_marker { HOST_MARKERS.into() } else { directory(path) };
    Group { prefix, plural: None }
}

/// The first parts of a path, its last left aside.
fn directory(path: &str) -> String {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let kept = parts.len().saturating_sub(1).min(DEPTH);
    parts[..kept].iter().fold("/".to_string(), |text, part| text + part + "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted_by_kind_and_prefix() {
        let paths = [
            "/apis/crd.projectcalico.org/v1/tiers/default",
            "/calico/felix/v2/no-region/host/node-1/status",
            "/calico/felix/v2/no-region/host/node-2/status",
            "/calico/ipam/v2/host/node-1",
            "/calico/ipam/v2/host/node-1/ipv4/block/nonsense",
            "/calico/resources/v3/projectcalico.org/networkpolicies/default/a",
            "/calico/resources/v3/projectcalico.org/networkpolicies/other/a",
            "/calico/stray",
            "/tortie/resources/laterkinds/a",
        ];
        let told = lines(&paths.map(str::to_string));
        assert_eq!(
            told,
            [
                "warning: left out: 1 tiers (/apis/crd.projectcalico.org/v1/tiers/): this version has no such kind",
                "warning: left out: 1 below /calico/: this version does not know what that is",
                "warning: left out: 2 below /calico/felix/v2/: this version does not know what that is",
                "warning: left out: 1 below /calico/ipam/v2/: this version does not know what that is",
                "left out: 1 below /calico/ipam/v2/host/: empty markers, which nothing reads",
                "warning: left out: 2 networkpolicies (/calico/resources/v3/projectcalico.org/networkpolicies/): this version has no such \
                 kind",
                "warning: left out: 1 laterkinds (/tortie/resources/laterkinds/): this version has no such kind",
            ]
        );
    }
}
