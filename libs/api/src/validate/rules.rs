//! Rules between the fields of one document, run once every field by itself is right; [`bgp`] has those of the BGP kinds,
//! [`load_balancer`] those of LoadBalancerIPPool.

mod bgp;
mod load_balancer;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::{FieldError, Findings, shown};
use crate::kind::Kind;
use crate::selector::Selector;

pub(super) fn check(kind: Kind, document: &Value, found: &mut Findings) {
    let name = document["metadata"]["name"].as_str().unwrap_or_default();
    let spec = Spec(&document["spec"]);
    match kind {
        Kind::IpPool => ip_pool(&spec, found),
        Kind::BgpPeer => bgp::bgp_peer(&spec, found),
        Kind::BgpConfiguration => bgp::bgp_configuration(name, &spec, found),
        Kind::BgpFilter => bgp::bgp_filter(&spec, found),
        Kind::IpamConfiguration => ipam_configuration(name, &spec, found),
        Kind::Node => node(&spec, found),
        Kind::WorkloadEndpoint => workload_endpoint(name, &spec, found),
        Kind::Secret => secret(document, found),
        Kind::Service => service(&spec, found),
        Kind::EndpointSlice => endpoint_slice(document, found),
        Kind::HostEndpoint => host_endpoint(&spec, found),
        Kind::FelixConfiguration => felix_configuration(name, &spec, found),
        Kind::ClusterInformation => named_default(name, "Cluster Information", found),
        Kind::KubeControllersConfiguration => kube_controllers_configuration(name, &spec, found),
        Kind::LoadBalancerIpPool => load_balancer::ip_pool(&spec, found),
        Kind::CalicoNodeStatus => calico_node_status(&spec, found),
        Kind::IpReservation | Kind::Namespace | Kind::Pod => {}
    }
}

/// A spec whose fields have the types that the schema gives them.
struct Spec<'a>(&'a Value);

impl<'a> Spec<'a> {
    fn text(&self, field: &str) -> &'a str {
        self.0[field].as_str().unwrap_or_default()
    }

    fn is_set(&self, field: &str) -> bool {
        match &self.0[field] {
            Value::Null => false,
            Value::String(s) => !s.is_empty(),
            Value::Array(a) => !a.is_empty(),
            Value::Bool(b) => *b,
            _ => true,
        }
    }

    fn items(&self, field: &str) -> &'a [Value] {
        self.0[field].as_array().map(Vec::as_slice).unwrap_or_default()
    }
}

/// Kubernetes' rules for `data`; no message repeats a value.
fn secret(document: &Value, found: &mut Findings) {
    for field in ["data", "stringData"] {
        for (key, value) in document[field].as_object().into_iter().flatten() {
            let path = format!("{field}.{key}");
            let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if key.is_empty() || !key.chars().all(is_name) || key.starts_with("..") {
                let rule = "a key has letters, digits, '-', '_' and '.'";
                found.errors.push(FieldError::field(&path, field, key, rule, "password would do"));
            }
            if field == "data" && !value.as_str().is_some_and(crate::secret::is_base64) {
                let advice = "encode it, or put the text itself under stringData";
                found.errors.push(FieldError::text(&path, "", format!("{path} is not base64"), advice));
            }
        }
    }
}

fn ip_pool(spec: &Spec, found: &mut Findings) {
    let errors = &mut found.errors;
    let written = spec.text("cidr");
    let Ok(cidr) = written.parse::<IpNet>() else { return };
    let masked = cidr.trunc();
    if masked != cidr {
        errors.push(FieldError::field(
            "spec.cidr",
            "IPPool.Spec.CIDR",
            &masked.to_string(),
            "IPPool CIDR must be strictly masked",
            format!("{written} has host bits set: write {masked}"),
        ));
    }
    ip_pool_size(spec, cidr, errors);
    for (link_local, family) in [("169.254.0.0/16", "IPv4"), ("fe80::/10", "IPv6")] {
        if super::set::overlap(&masked, &link_local.parse().expect("a constant CIDR")) {
            let rule = format!("IPPool CIDR overlaps with {family} link local range {link_local}");
            let advice = "link-local addresses are not routed; choose another range";
            errors.push(FieldError::spec("spec.cidr", written, &rule, advice));
        }
    }
    let is_on = |field: &str| !matches!(spec.text(field), "" | "Never");
    if is_on("ipipMode") && is_on("vxlanMode") {
        errors.push(FieldError::spec(
            "spec.ipipMode",
            spec.text("ipipMode"),
            "ipipMode and vxlanMode cannot both be enabled",
            "set one of them, or both, to Never",
        ));
    }
    if is_on("ipipMode") && matches!(cidr, IpNet::V6(_)) {
        errors.push(FieldError::spec(
            "spec.ipipMode",
            spec.text("ipipMode"),
            "IPIP is not supported on IPv6 pools",
            "use ipipMode: Never",
        ));
    }
    for field in ["nodeSelector", "namespaceSelector"] {
        if has_global(spec.text(field)) {
            let rule = format!("global() selector is not valid for IPPool {field}");
            let advice = "all() selects every one";
            errors.push(FieldError::spec(&format!("spec.{field}"), spec.text(field), &rule, advice));
        }
    }
    ip_pool_uses(spec, is_on("ipipMode") || is_on("vxlanMode"), errors);
    for field in ["ipipMode", "vxlanMode"].into_iter().filter(|f| is_on(f)) {
        let text =
            format!("{field} {} is stored but not active: traffic is routed without encapsulation", spec.text(field));
        found.warnings.push(FieldError::text(&format!("spec.{field}"), spec.text(field), text, ""));
    }
}

/// The block size by itself, and against the pool. A disabled pool may be smaller than its blocks: it gives out nothing.
fn ip_pool_size(spec: &Spec, cidr: IpNet, errors: &mut Vec<FieldError>) {
    let (default, range) = match cidr {
        IpNet::V4(_) => (crate::ip_pool::DEFAULT_BLOCK_SIZE_V4, 20..=32),
        IpNet::V6(_) => (crate::ip_pool::DEFAULT_BLOCK_SIZE_V6, 116..=128),
    };
    let block_size = spec.0["blockSize"].as_u64().filter(|n| *n != 0).unwrap_or(default.into());
    if !range.contains(&block_size) {
        errors.push(FieldError::spec(
            "spec.blockSize",
            &block_size.to_string(),
            "blockSize must be between 20 and 32 for IPv4 pools, and between 116 and 128 for IPv6 pools",
            format!("it is the prefix length of a block; {default} is the default"),
        ));
    } else if u64::from(cidr.prefix_len()) > block_size && !spec.is_set("disabled") {
        let rule =
            "IP pool size is too small for use with Calico IPAM. It must be equal to or greater than the block size.";
        let advice = format!(
            "use a CIDR of /{block_size} or shorter, or a blockSize of {} to {}",
            cidr.prefix_len().max(*range.start() as u8),
            range.end()
        );
        errors.push(FieldError::spec("spec.cidr", spec.text("cidr"), rule, advice));
    }
}

fn ip_pool_uses(spec: &Spec, is_encapsulated: bool, errors: &mut Vec<FieldError>) {
    let uses: Vec<&str> = spec.items("allowedUses").iter().filter_map(Value::as_str).collect();
    let joined = uses.join(", ");
    let namespaces = spec.text("namespaceSelector");
    if uses.contains(&"Tunnel") && !namespaces.is_empty() {
        errors.push(FieldError::spec(
            "spec.namespaceSelector",
            namespaces,
            "IP Pool with AllowedUse Tunnel cannot have namespaceSelector",
            "write allowedUses: [Workload]",
        ));
    }
    if !uses.contains(&"LoadBalancer") {
        return;
    }
    let selector = spec.text("nodeSelector");
    let mut wrong = |field: &str, value: &str, rule: &str, advice: &str| {
        errors.push(FieldError::spec(&format!("spec.{field}"), value, rule, advice));
    };
    if uses.len() > 1 {
        wrong(
            "allowedUses",
            &joined,
            "LoadBalancer cannot be combined with Workload or Tunnel allowed uses",
            "make two pools",
        );
    }
    if is_encapsulated {
        wrong(
            "allowedUses",
            &joined,
            "LoadBalancer IP pool cannot have IPIP or VXLAN enabled",
            "set ipipMode and vxlanMode to Never",
        );
    }
    if spec.is_set("disableBGPExport") {
        wrong(
            "disableBGPExport",
            "true",
            "LoadBalancer IP pools cannot disable BGP export",
            "leave disableBGPExport out",
        );
    }
    if !matches!(Selector::parse(selector), Ok(Selector::All)) {
        wrong(
            "nodeSelector",
            selector,
            "IP Pool with AllowedUse LoadBalancer must have nodeSelector set to all()",
            "write nodeSelector: all(), or leave it out",
        );
    }
    if !namespaces.is_empty() {
        let rule = "namespaceSelector cannot be used with LoadBalancer allowed use";
        wrong("namespaceSelector", namespaces, rule, "leave namespaceSelector out");
    }
}

fn has_global(selector: &str) -> bool {
    fn within(s: &Selector) -> bool {
        match s {
            Selector::Global => true,
            Selector::Not(s) => within(s),
            Selector::And(all) | Selector::Or(all) => all.iter().any(within),
            _ => false,
        }
    }
    Selector::parse(selector).is_ok_and(|s| within(&s))
}

fn ipam_configuration(name: &str, spec: &Spec, found: &mut Findings) {
    if name != "default" {
        found.errors.push(FieldError::field(
            "metadata.name",
            "Metadata.Name",
            name,
            "Cannot create an IPAMConfiguration resource with a name other than \"default\"",
            "write name: default",
        ));
    }
    let is_strict = spec.0["strictAffinity"].as_bool().unwrap_or(false);
    let allocates = spec.0["autoAllocateBlocks"].as_bool().unwrap_or(true);
    if !is_strict && !allocates {
        found.errors.push(FieldError::text(
            "spec.autoAllocateBlocks",
            "false",
            "Cannot disable 'StrictAffinity' and 'AutoAllocateBlocks' at the same time",
            "set one of strictAffinity and autoAllocateBlocks to true",
        ));
    }
}

fn felix_configuration(name: &str, spec: &Spec, found: &mut Findings) {
    if name != "default" && !name.starts_with("node.") {
        let rule = "the name of a FelixConfiguration is default or node.<node name>";
        found.errors.push(FieldError::field(
            "metadata.name",
            "Metadata.Name",
            name,
            rule,
            "default holds the settings of all nodes",
        ));
    }
    let ranges = spec.items("kubeNodePortRanges");
    if ranges.len() > 7 {
        let rule = "node port ranges list is too long (max 7)";
        let count = ranges.len().to_string();
        found.errors.push(FieldError::field("spec.kubeNodePortRanges", "KubeNodePortRanges", &count, rule, ""));
    }
    for (i, cidr) in spec.items("externalNodesList").iter().enumerate() {
        let cidr = cidr.as_str().unwrap_or_default();
        if cidr.contains(':') {
            let path = format!("spec.externalNodesList[{i}]");
            let rule = "has invalid IPv6 CIDR";
            found.errors.push(FieldError::field(&path, "ExternalNodesCIDRList", cidr, rule, "IPv4 only"));
        }
    }
    for field in ["routeTableRange", "routeTableRanges"] {
        let one = spec.0[field].is_object().then_some(&spec.0[field]);
        for range in spec.items(field).iter().chain(one) {
            if range["min"].as_u64() > range["max"].as_u64() {
                let rule = "min value exceeds max value";
                let path = format!("spec.{field}");
                found.errors.push(FieldError::field(&path, "RouteTableRanges", &range.to_string(), rule, "swap them"));
            }
        }
    }
}

/// The one name that an object may have where there is one of its kind.
fn named_default(name: &str, kind: &str, found: &mut Findings) {
    if name != "default" {
        let rule = format!("Cannot create a {kind} resource with a name other than \"default\"");
        found.errors.push(FieldError::field("metadata.name", "Metadata.Name", name, &rule, "write name: default"));
    }
}

fn kube_controllers_configuration(name: &str, spec: &Spec, found: &mut Findings) {
    named_default(name, "Kube Controllers Configuration", found);
    let templates = spec.0["controllers"]["node"]["hostEndpoint"]["templates"].as_array();
    let mut names = BTreeSet::new();
    for (i, template) in templates.into_iter().flatten().enumerate() {
        let path = format!("spec.controllers.node.hostEndpoint.templates[{i}]");
        let name = template["generateName"].as_str().unwrap_or_default();
        let field = "KubeControllersConfiguration.Node.HostEndpoint.Templates";
        let mut wrong = |rule: &str, advice: &str| {
            let field = if name.is_empty() { field.into() } else { format!("{field}.{name}") };
            found.errors.push(FieldError::field(&path, &field, name, rule, advice));
        };
        if name.is_empty() {
            wrong("Template name must be specified", "add generateName:");
        } else if !names.insert(name) {
            wrong("Template name must be unique", "");
        }
        let template = Spec(template);
        if !template.is_set("interfaceCIDRs") && !template.is_set("interfacePattern") {
            wrong("InterfaceCIDRs or InterfacePattern must be specified", "add interfaceCIDRs: [10.0.0.0/8]");
        }
    }
}

fn node(spec: &Spec, found: &mut Findings) {
    let bgp = &spec.0["bgp"];
    if bgp.as_object().is_some_and(|b| b.values().all(Value::is_null)) {
        found.errors.push(FieldError::text(
            "spec.bgp",
            "{}",
            "Spec.BGP should not be empty",
            "give an ipv4Address, or leave bgp out",
        ));
    }
    for (field, is_v4) in [("ipv4Address", true), ("ipv6Address", false)] {
        let Some(address) = bgp[field].as_str().filter(|a| !a.is_empty()) else { continue };
        if address.contains(':') == is_v4 {
            let (family, tag) = if is_v4 { ("IPv4", "cidrv4") } else { ("IPv6", "cidrv6") };
            let name = super::formats::go_name(field);
            let reason = format!("Reason: failed to validate Field: {name} because of Tag: {tag} ");
            let advice = format!("must be an {family} address");
            found.errors.push(FieldError::field(&format!("spec.bgp.{field}"), &name, address, &reason, advice));
        }
    }
}

fn workload_endpoint(name: &str, spec: &Spec, found: &mut Findings) {
    let networks: Vec<&str> = spec.items("ipNetworks").iter().filter_map(Value::as_str).collect();
    for (i, network) in networks.iter().enumerate() {
        if let Ok(cidr) = network.parse::<IpNet>()
            && cidr.prefix_len() != cidr.max_prefix_len()
        {
            let advice = format!("write {}/{}", cidr.addr(), cidr.max_prefix_len());
            found.errors.push(FieldError::field(
                &format!("spec.ipNetworks[{i}]"),
                "IPNetworks",
                network,
                "IP network contains multiple addresses",
                advice,
            ));
        }
    }
    let is_own = |ip: &str| networks.iter().any(|n| n.split('/').next().map(str::parse::<IpAddr>) == Some(ip.parse()));
    for (i, nat) in spec.items("ipNATs").iter().enumerate() {
        let (inner, outer) =
            (nat["internalIP"].as_str().unwrap_or_default(), nat["externalIP"].as_str().unwrap_or_default());
        let path = format!("spec.ipNATs[{i}]");
        if inner.contains(':') != outer.contains(':') {
            let path = format!("{path}.externalIP");
            found.errors.push(FieldError::field(&path, "ExternalIP", outer, "mismatched IP versions", ""));
        }
        if !is_own(inner) {
            let path = format!("{path}.internalIP");
            let rule = "NAT is not in the endpoint networks";
            found.errors.push(FieldError::field(&path, "IPNATs", inner, rule, "it is one of ipNetworks"));
        }
    }
    for (i, port) in spec.items("ports").iter().enumerate() {
        let path = format!("spec.ports[{i}]");
        let protocol = shown(&port["protocol"]).to_ascii_uppercase();
        if !matches!(protocol.as_str(), "TCP" | "UDP" | "SCTP" | "6" | "17" | "132") {
            found.errors.push(FieldError::field(
                &format!("{path}.protocol"),
                "WorkloadEndpointPort.Protocol",
                &port.get("protocol").map(shown).unwrap_or_default(),
                "WorkloadEndpointPort protocol does not support ports.",
                "use TCP, UDP or SCTP",
            ));
        }
        if !Spec(port).is_set("name") && port["hostPort"].as_u64().unwrap_or(0) == 0 {
            found.errors.push(FieldError::field(
                &format!("{path}.name"),
                "WorkloadEndpointPort.Name",
                "",
                "WorkloadEndpointPort name must not be empty if no HostPort is specified",
                "add name:",
            ));
        }
    }
    found.errors.extend(workload_endpoint_name(name, spec));
}

fn host_endpoint(spec: &Spec, found: &mut Findings) {
    if !spec.is_set("node") {
        let error = FieldError::spec("spec", "", "node must be specified", "add node:");
        found.errors.push(error);
    }
    if !spec.is_set("interfaceName") && !spec.is_set("expectedIPs") {
        let rule = "at least one of interfaceName or expectedIPs must be specified";
        found.errors.push(FieldError::spec("spec", "", rule, "interfaceName: \"*\" is every interface"));
    }
    let text = "HostEndpoint is stored, but nothing here acts on it: no network policy is enforced";
    found.warnings.push(FieldError::text("kind", "", text, ""));
}

fn calico_node_status(spec: &Spec, found: &mut Findings) {
    if !spec.is_set("classes") {
        let rule = "Reason: failed to validate Field: Classes because of Tag: required ";
        let advice = "write classes: [Agent, BGP, Routes], or some of them";
        found.errors.push(FieldError::field("spec.classes", "Classes", "", rule, advice));
    }
}

/// The name is made of what identifies the endpoint (Calico `libcalico-go/lib/names/workloadendpoint.go`).
fn workload_endpoint_name(name: &str, spec: &Spec) -> Option<FieldError> {
    let orchestrator = spec.text("orchestrator");
    let third = match orchestrator {
        "" => return None,
        "k8s" => spec.text("pod"),
        "cni" => spec.text("containerID"),
        "libnetwork" => orchestrator,
        _ => spec.text("workload"),
    };
    let parts = [spec.text("node"), orchestrator, third, spec.text("endpoint")];
    // What is not said cannot contradict the name.
    if parts.iter().any(|p| p.is_empty()) {
        return None;
    }
    let expected = parts.map(|p| p.replace('-', "--")).join("-");
    (name != expected).then(|| {
        let rule = format!(
            "the WorkloadEndpoint name does not match the primary identifiers assigned in the Spec: expected name {expected}"
        );
        FieldError::field("metadata.name", "Name", name, &rule, "")
    })
}

fn service(spec: &Spec, found: &mut Findings) {
    let errors = &mut found.errors;
    let address_or_none = |path: String, value: &str, errors: &mut Vec<FieldError>| {
        if !value.is_empty() && value != "None" && value.parse::<IpAddr>().is_err() {
            errors.push(FieldError::field(
                &path,
                "ClusterIP",
                value,
                "must be an IP address, None, or empty",
                "leave it out to have one assigned",
            ));
        }
    };
    address_or_none("spec.clusterIP".into(), spec.text("clusterIP"), errors);
    for (i, address) in spec.items("clusterIPs").iter().enumerate() {
        address_or_none(format!("spec.clusterIPs[{i}]"), address.as_str().unwrap_or_default(), errors);
    }
    let ports = spec.items("ports");
    if ports.is_empty() && spec.text("type") != "ExternalName" && spec.text("clusterIP") != "None" {
        errors.push(FieldError::field(
            "spec",
            "Ports",
            "",
            "Required value: a service has at least one port",
            "add ports: [{port: 80}]",
        ));
    }
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (i, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{i}]");
        let name = port["name"].as_str().unwrap_or_default();
        if name.is_empty() && ports.len() > 1 {
            errors.push(FieldError::field(
                &at,
                "Name",
                "",
                "Required value: a service of several ports names each of them",
                "add name:",
            ));
        } else if !names.insert(name) {
            errors.push(FieldError::field(
                &format!("{at}.name"),
                "Name",
                name,
                "Duplicate value: two ports have this name",
                "",
            ));
        }
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        if !numbers.insert((protocol, port["port"].as_u64())) {
            let value = format!("{}/{protocol}", port["port"]);
            errors.push(FieldError::field(
                &format!("{at}.port"),
                "Port",
                &value,
                "Duplicate value: two entries have this port and protocol",
                "",
            ));
        }
        if port["nodePort"].as_u64().is_some_and(|p| p != 0) && matches!(spec.text("type"), "" | "ClusterIP") {
            errors.push(FieldError::field(
                &format!("{at}.nodePort"),
                "NodePort",
                &port["nodePort"].to_string(),
                "may not be used when type is ClusterIP",
                "write type: NodePort or type: LoadBalancer",
            ));
        }
    }
}

fn endpoint_slice(document: &Value, found: &mut Findings) {
    let is_v6 = match document["addressType"].as_str() {
        Some("IPv4") => false,
        Some("IPv6") => true,
        _ => return,
    };
    for (i, endpoint) in Spec(document).items("endpoints").iter().enumerate() {
        for (j, address) in Spec(endpoint).items("addresses").iter().enumerate() {
            let address = address.as_str().unwrap_or_default();
            if address.parse::<IpAddr>().is_ok_and(|a| a.is_ipv6() == is_v6) {
                continue;
            }
            let wanted = if is_v6 { "IPv6" } else { "IPv4" };
            let rule = format!("must be an {wanted} address, as addressType says");
            found.errors.push(FieldError::field(
                &format!("endpoints[{i}].addresses[{j}]"),
                "Addresses",
                address,
                &rule,
                "",
            ));
        }
    }
}
