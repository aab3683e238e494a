//! Who a container is: its names, labels and annotations, and the WorkloadEndpoint that says so.

use std::collections::BTreeMap;

use api::meta::WithSpec;
use api::workload::{LABEL_NAMESPACE, LABEL_ORCHESTRATOR, WorkloadEndpointSpec, cni_endpoint_name, k8s_endpoint_name};
use api::{Metadata, Namespace, Pod, WorkloadEndpoint};
use ipnet::IpNet;
use serde_json::Value;
use sha1::{Digest, Sha1};

use crate::protocol::{Attachment, Error, code};

/// What the host's side of a workload's interface is named, before eleven characters that tell it apart.
const INTERFACE_PREFIX: &str = "cali";
const INTERFACE_ID_LEN: usize = 11;
/// On an endpoint, the name of the CNI network that it is of: GC is about one network.
pub const ANNOTATION_NETWORK: &str = "tortie.io/cni-network";
/// Namespace of a container that no orchestrator placed in one.
const DEFAULT_NAMESPACE: &str = "default";

/// A container, as the runtime names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    pub node: String,
    pub namespace: String,
    /// `None` without Kubernetes.
    pub pod: Option<String>,
    pub container_id: String,
    /// The interface inside the container.
    pub ifname: String,
}

impl Workload {
    pub fn new(node: String, attachment: &Attachment) -> Self {
        let arg = |name: &str| attachment.args.get(name).filter(|v| !v.is_empty()).cloned();
        let pod = arg("K8S_POD_NAME").filter(|_| arg("K8S_POD_NAMESPACE").is_some());
        Self {
            node,
            namespace: arg("K8S_POD_NAMESPACE").filter(|_| pod.is_some()).unwrap_or_else(|| DEFAULT_NAMESPACE.into()),
            pod,
            container_id: attachment.container_id.clone(),
            ifname: attachment.ifname.clone(),
        }
    }

    /// The interface on the host (Calico `cni-plugin/pkg/k8s/k8s.go`, `VethNameForWorkload`).
    pub fn host_interface(&self) -> String {
        let id = match &self.pod {
            Some(pod) => {
                let digest = Sha1::digest(format!("{}.{pod}", self.namespace));
                digest.iter().map(|b| format!("{b:02x}")).collect()
            }
            None => self.container_id.clone(),
        };
        format!("{INTERFACE_PREFIX}{}", id.chars().take(INTERFACE_ID_LEN).collect::<String>())
    }

    /// The name of the WorkloadEndpoint.
    pub fn endpoint_name(&self) -> String {
        match &self.pod {
            Some(pod) => k8s_endpoint_name(&self.node, pod, &self.ifname),
            None => cni_endpoint_name(&self.node, &self.container_id, &self.ifname),
        }
    }

    /// The handle of this container's addresses in a network.
    pub fn handle(network: &str, container_id: &str) -> String {
        format!("{network}.{container_id}")
    }

    /// The WorkloadEndpoint of this container in a network with these addresses; `mac` is that of the container's interface.
    pub fn endpoint(&self, addresses: &[IpNet], mac: &str, pod: Option<&Pod>, network: &str) -> WorkloadEndpoint {
        let orchestrator = if self.pod.is_some() { "k8s" } else { "cni" };
        let mut metadata = Metadata::namespaced(&self.namespace, self.endpoint_name());
        metadata.labels = pod.map(|p| p.metadata.labels.clone()).unwrap_or_default();
        metadata.labels.insert(LABEL_NAMESPACE.into(), self.namespace.clone());
        metadata.labels.insert(LABEL_ORCHESTRATOR.into(), orchestrator.into());
        metadata.annotations.insert(ANNOTATION_NETWORK.into(), network.into());
        let spec = WorkloadEndpointSpec {
            orchestrator: Some(orchestrator.into()),
            // Calico: only an endpoint without Kubernetes names a workload.
            workload: self.pod.is_none().then(|| self.container_id.clone()),
            node: self.node.clone(),
            container_id: Some(self.container_id.clone()),
            pod: self.pod.clone(),
            endpoint: Some(self.ifname.clone()),
            ip_networks: addresses.iter().map(|a| IpNet::from(a.addr()).to_string()).collect(),
            profiles: vec![format!("kns.{}", self.namespace)],
            interface_name: self.host_interface(),
            mac: Some(mac.into()),
            ..Default::default()
        };
        WorkloadEndpoint::new(metadata, WithSpec { spec, status: None })
    }
}

/// What annotations ask of the address allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Pools by name or CIDR; `None` leaves it to the configuration.
    pub ipv4_pools: Option<Vec<String>>,
    pub ipv6_pools: Option<Vec<String>>,
    /// Exactly these addresses.
    pub addresses: Vec<std::net::IpAddr>,
    /// Exactly these, which nobody assigns: IPAM is not asked.
    pub addresses_without_ipam: Vec<std::net::IpAddr>,
    /// An address of each of these families and of no other.
    pub families: Option<Families>,
}

/// Address families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    pub v4: bool,
    pub v6: bool,
}

const IPV4_POOLS: &str = "cni.projectcalico.org/ipv4pools";
const IPV6_POOLS: &str = "cni.projectcalico.org/ipv6pools";
const IP_ADDRS: &str = "cni.projectcalico.org/ipAddrs";
const IP_ADDRS_NO_IPAM: &str = "cni.projectcalico.org/ipAddrsNoIpam";
const IP_FAMILIES: &str = "cni.projectcalico.org/ipFamilies";
/// IPAM plugins that know what [`Wishes::into_config`] writes.
const POOL_PLUGINS: [&str; 2] = ["tortie-ipam", "calico-ipam"];
/// Annotations that change what a pod gets and that we do not implement: refused, never ignored.
const REFUSED: &[(&str, &str)] =
    &[("cni.projectcalico.org/floatingIPs", "floating_ips"), ("cni.projectcalico.org/hwAddr", "hw_addr")];

impl Wishes {
    /// The pod's annotations win over the namespace's; a list replaces, it is never intersected (Calico, "Use specific IP pools").
    /// `no_ipam` is the configuration's `feature_control.ip_addrs_no_ipam`.
    ///
    /// # Errors
    /// Code 7 for an annotation that cannot be read or that asks for a feature that is not there.
    pub fn new(namespace: Option<&Namespace>, pod: Option<&Pod>, no_ipam: bool) -> Result<Self, Error> {
        let empty = BTreeMap::new();
        let of_pod = pod.map_or(&empty, |p| &p.metadata.annotations);
        let of_namespace = namespace.map_or(&empty, |n| &n.metadata.annotations);
        if let Some((name, feature)) = REFUSED.iter().find(|(name, _)| of_pod.contains_key(*name)) {
            let msg = format!("requested feature is not enabled: {feature}");
            return Err(Error::new(code::INVALID_CONFIG, msg).because(format!("remove annotation {name} from the pod")));
        }
        let list = |name: &str| {
            let text = of_pod.get(name).or_else(|| of_namespace.get(name));
            text.map(|t| string_list(name, t)).transpose()
        };
        if of_pod.contains_key(IP_ADDRS_NO_IPAM) && !no_ipam {
            let because = "set feature_control.ip_addrs_no_ipam in the network configuration, or use ipAddrs";
            let msg = "requested feature is not enabled: ip_addrs_no_ipam";
            return Err(Error::new(code::INVALID_CONFIG, msg).because(because));
        }
        if of_pod.contains_key(IP_ADDRS) && of_pod.contains_key(IP_ADDRS_NO_IPAM) {
            return Err(bad_annotation(IP_ADDRS_NO_IPAM, format!("it cannot stand beside {IP_ADDRS}")));
        }
        let of_annotation = |name| of_pod.get(name).map_or(Ok(vec![]), |text| address_list(name, text));
        let (addresses, addresses_without_ipam) = (of_annotation(IP_ADDRS)?, of_annotation(IP_ADDRS_NO_IPAM)?);
        let families = of_pod.get(IP_FAMILIES).map(|text| Families::parse(text)).transpose()?;
        if let Some(f) = families
            && addresses.iter().chain(&addresses_without_ipam).any(|a| if a.is_ipv4() { !f.v4 } else { !f.v6 })
        {
            return Err(bad_annotation(IP_FAMILIES, format!("{IP_ADDRS} asks for an address of another family")));
        }
        let (ipv4_pools, ipv6_pools) = (list(IPV4_POOLS)?, list(IPV6_POOLS)?);
        Ok(Self { ipv4_pools, ipv6_pools, addresses, addresses_without_ipam, families })
    }

    /// The configuration for the IPAM plugin: `stdin` with the pools and families that were asked for.
    ///
    /// # Errors
    /// Code 6 when stdin is no JSON object, 7 when the IPAM plugin knows neither pools nor families.
    pub fn into_config(self, stdin: &[u8]) -> Result<Vec<u8>, Error> {
        let bad = |e: &dyn std::fmt::Display| {
            Error::new(code::DECODE_FAILURE, "cannot read the network configuration").because(e)
        };
        let mut conf: Value = serde_json::from_slice(stdin).map_err(|e| bad(&e))?;
        let ipam = conf.get_mut("ipam").and_then(Value::as_object_mut).ok_or_else(|| bad(&"\"ipam\" is no object"))?;
        let plugin = ipam.get("type").and_then(Value::as_str).unwrap_or_default();
        let needs_pools = self.ipv4_pools.is_some() || self.ipv6_pools.is_some() || self.families.is_some();
        if needs_pools && !POOL_PLUGINS.contains(&plugin) {
            let msg = format!("annotations ask for IP pools or families, which ipam.type \"{plugin}\" does not know");
            let names = format!("remove {IPV4_POOLS}, {IPV6_POOLS} and {IP_FAMILIES}, or use tortie-ipam");
            return Err(Error::new(code::INVALID_CONFIG, msg).because(names));
        }
        if let Some(families) = self.families {
            // Calico's switches are texts.
            ipam.insert("assign_ipv4".into(), families.v4.to_string().into());
            ipam.insert("assign_ipv6".into(), families.v6.to_string().into());
        }
        for (field, pools) in [("ipv4_pools", self.ipv4_pools), ("ipv6_pools", self.ipv6_pools)] {
            if let Some(pools) = pools {
                ipam.insert(field.into(), pools.into());
            }
        }
        Ok(conf.to_string().into_bytes())
    }
}

impl Families {
    /// A JSON list of IPv4 and IPv6, not empty.
    fn parse(text: &str) -> Result<Self, Error> {
        let list = string_list(IP_FAMILIES, text)?;
        if let Some(other) = list.iter().find(|f| !matches!(f.as_str(), "IPv4" | "IPv6")) {
            return Err(bad_annotation(IP_FAMILIES, format!("\"{other}\" is neither IPv4 nor IPv6")));
        }
        if list.is_empty() {
            return Err(bad_annotation(IP_FAMILIES, "the list is empty: name IPv4, IPv6 or both"));
        }
        Ok(Self { v4: list.iter().any(|f| f == "IPv4"), v6: list.iter().any(|f| f == "IPv6") })
    }
}

/// A JSON list of addresses, one of a family at most.
fn address_list(name: &str, text: &str) -> Result<Vec<std::net::IpAddr>, Error> {
    let texts = string_list(name, text)?;
    let addresses = texts.iter().map(|a| a.parse()).collect::<Result<Vec<std::net::IpAddr>, _>>();
    let addresses = addresses.map_err(|e| bad_annotation(name, e))?;
    for family in [true, false] {
        if addresses.iter().filter(|a| a.is_ipv4() == family).count() > 1 {
            return Err(bad_annotation(name, "at most one IPv4 and one IPv6 address can be asked for"));
        }
    }
    Ok(addresses)
}

fn string_list(name: &str, text: &str) -> Result<Vec<String>, Error> {
    serde_json::from_str(text).map_err(|e| bad_annotation(name, format!("{text} is no JSON list of strings: {e}")))
}

fn bad_annotation(name: &str, reason: impl std::fmt::Display) -> Error {
    Error::new(code::INVALID_CONFIG, format!("failed to parse annotation {name}")).because(reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::service::{NamespaceBody, PodBody};

    fn workload(pod: Option<&str>) -> Workload {
        Workload {
            node: "worker-01".into(),
            namespace: "test".into(),
            pod: pod.map(Into::into),
            container_id: "0123456789abcdef".into(),
            ifname: "eth0".into(),
        }
    }

    #[test]
    fn names_are_calicos() {
        // sha1("test.web-0") = printf 'test.web-0' | sha1sum
        assert_eq!(workload(Some("web-0")).host_interface(), "cali7b07e5871ca");
        assert_eq!(workload(None).host_interface(), "cali0123456789a");
        assert_eq!(workload(Some("web-0")).endpoint_name(), "worker--01-k8s-web--0-eth0");
        assert_eq!(workload(None).endpoint_name(), "worker--01-cni-0123456789abcdef-eth0");
    }

    #[test]
    fn the_endpoint_carries_the_pods_labels_and_ours() {
        let mut meta = Metadata::namespaced("test", "web-0");
        meta.labels.insert("app".into(), "web".into());
        let pod = Pod::new(meta, PodBody::default());
        let addresses = ["10.0.0.1/26".parse().unwrap()];
        let wep = workload(Some("web-0")).endpoint(&addresses, "aa:bb:cc:dd:ee:ff", Some(&pod), "net");
        assert_eq!(wep.metadata.annotations[ANNOTATION_NETWORK], "net");
        assert_eq!(wep.metadata.labels["app"], "web");
        assert_eq!(wep.metadata.labels[LABEL_NAMESPACE], "test");
        assert_eq!(wep.metadata.labels[LABEL_ORCHESTRATOR], "k8s");
        assert_eq!(wep.body.spec.ip_networks, ["10.0.0.1/32"]);
        assert_eq!(wep.body.spec.profiles, ["kns.test"]);
        assert_eq!(wep.body.spec.container_id.as_deref(), Some("0123456789abcdef"));
    }

    fn wishes(pod: &[(&str, &str)], namespace: &[(&str, &str)]) -> Result<Wishes, Error> {
        let annotations = |list: &[(&str, &str)]| list.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let p = Metadata { annotations: annotations(pod), ..Metadata::named("p") };
        let n = Metadata { annotations: annotations(namespace), ..Metadata::named("n") };
        Wishes::new(Some(&Namespace::new(n, NamespaceBody::default())), Some(&Pod::new(p, PodBody::default())), false)
    }

    #[test]
    fn the_pods_pools_replace_the_namespaces() {
        let pools = |list: &[&str]| Some(list.iter().map(|s| s.to_string()).collect::<Vec<_>>());
        let w =
            wishes(&[(IPV4_POOLS, r#"["a"]"#)], &[(IPV4_POOLS, r#"["b","10.1.0.0/16"]"#), (IPV6_POOLS, r#"["c"]"#)]);
        let w = w.unwrap();
        assert_eq!((w.ipv4_pools, w.ipv6_pools), (pools(&["a"]), pools(&["c"])));
        let w = wishes(&[], &[(IPV4_POOLS, r#"["b","10.1.0.0/16"]"#)]).unwrap();
        assert_eq!(w.ipv4_pools, pools(&["b", "10.1.0.0/16"]));
        assert_eq!(wishes(&[], &[]).unwrap(), Wishes::default());
    }

    #[test]
    fn annotations_that_cannot_be_honoured_are_errors() {
        for (name, value) in [
            (IPV4_POOLS, "pool-a"),
            (IP_ADDRS, r#"["10.0.0.1","10.0.0.2"]"#),
            (IP_ADDRS, r#"["10.0.0"]"#),
            (IP_FAMILIES, r#"["ipv4"]"#),
            (IP_FAMILIES, "[]"),
            (IP_FAMILIES, "IPv4"),
            ("cni.projectcalico.org/ipAddrsNoIpam", r#"["10.0.0.1"]"#),
        ] {
            assert_eq!(wishes(&[(name, value)], &[]).unwrap_err().code, code::INVALID_CONFIG, "{name}");
        }
    }

    #[test]
    fn addresses_without_ipam_need_the_feature_and_stand_alone() {
        let with = |list: &[(&str, &str)], enabled| {
            let annotations = list.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            let pod = Pod::new(Metadata { annotations, ..Metadata::named("p") }, PodBody::default());
            Wishes::new(None, Some(&pod), enabled)
        };
        let one = [(IP_ADDRS_NO_IPAM, r#"["192.0.2.7","2001:db8::7"]"#)];
        let wishes = with(&one, true).unwrap();
        assert_eq!(wishes.addresses_without_ipam.len(), 2);
        assert!(wishes.addresses.is_empty());
        let error = with(&one, false).unwrap_err();
        assert_eq!(error.msg, "requested feature is not enabled: ip_addrs_no_ipam");
        for (bad, enabled) in [
            (&[one[0], (IP_ADDRS, r#"["10.0.0.1"]"#)][..], true),
            (&[(IP_ADDRS_NO_IPAM, r#"["192.0.2.7","192.0.2.8"]"#)], true),
            (&[one[0], (IP_FAMILIES, r#"["IPv4"]"#)], true),
        ] {
            assert_eq!(with(bad, enabled).unwrap_err().code, code::INVALID_CONFIG, "{bad:?}");
        }
    }

    #[test]
    fn the_ipam_plugin_is_told_the_pools() {
        let conf = br#"{"name":"n","ipam":{"type":"tortie-ipam","ipv4_pools":["x"],"keep":1}}"#;
        let w = Wishes { ipv4_pools: Some(vec!["a".into()]), ..Default::default() };
        let out: Value = serde_json::from_slice(&w.clone().into_config(conf).unwrap()).unwrap();
        assert_eq!(out["ipam"], serde_json::json!({"type": "tortie-ipam", "ipv4_pools": ["a"], "keep": 1}));
        let out: Value = serde_json::from_slice(&Wishes::default().into_config(conf).unwrap()).unwrap();
        assert_eq!(out["ipam"]["ipv4_pools"], serde_json::json!(["x"]));
        let other = br#"{"name":"n","ipam":{"type":"host-local"}}"#;
        assert_eq!(w.into_config(other).unwrap_err().code, code::INVALID_CONFIG);
        assert!(Wishes::default().into_config(other).is_ok());
    }

    #[test]
    fn families_are_the_ipam_plugins_switches() {
        let conf = br#"{"name":"n","ipam":{"type":"tortie-ipam","assign_ipv4":"true"}}"#;
        for (list, v4, v6) in
            [(r#"["IPv4"]"#, "true", "false"), (r#"["IPv6","IPv4"]"#, "true", "true"), (r#"["IPv6"]"#, "false", "true")]
        {
            let out = wishes(&[(IP_FAMILIES, list)], &[]).unwrap().into_config(conf).unwrap();
            let out: Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(out["ipam"], serde_json::json!({"type": "tortie-ipam", "assign_ipv4": v4, "assign_ipv6": v6}));
        }
        let error = wishes(&[(IP_FAMILIES, r#"["IPv6"]"#), (IP_ADDRS, r#"["10.0.0.1"]"#)], &[]).unwrap_err();
        assert_eq!(error.code, code::INVALID_CONFIG);
    }
}
