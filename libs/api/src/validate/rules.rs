//! Rules between the fields of one document, run once every field by itself is right.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::{FieldError, Findings};
use crate::kind::Kind;
use crate::selector::Selector;

/// Fields of a BGPConfiguration that only the object `default` may have.
const DEFAULT_ONLY: &[&str] = &[
    "nodeToNodeMeshEnabled",
    "asNumber",
    "serviceClusterIPs",
    "serviceExternalIPs",
    "serviceLoadBalancerIPs",
    "serviceLoadBalancerAggregation",
    "nodeMeshPassword",
    "nodeMeshMaxRestartTime",
];

pub(super) fn check(kind: Kind, document: &Value, found: &mut Findings) {
    let name = document["metadata"]["name"].as_str().unwrap_or_default();
    let spec = Spec(&document["spec"]);
    match kind {
        Kind::IpPool => ip_pool(&spec, found),
        Kind::BgpPeer => bgp_peer(&spec, found),
        Kind::BgpConfiguration => bgp_configuration(name, &spec, found),
        Kind::BgpFilter => bgp_filter(&spec, found),
        Kind::IpamConfiguration => ipam_configuration(name, &spec, found),
        Kind::Node => node(&spec, found),
        Kind::WorkloadEndpoint => workload_endpoint(&spec, found),
        Kind::Service => service(&spec, found),
        Kind::EndpointSlice => endpoint_slice(document, found),
        Kind::FelixConfiguration => felix_configuration(name, found),
        Kind::IpReservation | Kind::ClusterInformation | Kind::Namespace | Kind::Pod => {}
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
    let (default, range, family) = match cidr {
        IpNet::V4(_) => (crate::ip_pool::DEFAULT_BLOCK_SIZE_V4, 20..=32, "IPv4"),
        IpNet::V6(_) => (crate::ip_pool::DEFAULT_BLOCK_SIZE_V6, 116..=128, "IPv6"),
    };
    let block_size = spec.0["blockSize"].as_u64().filter(|n| *n != 0).unwrap_or(default.into());
    if !range.contains(&block_size) {
        let rule = format!("block size of an {family} pool must be between {} and {}", range.start(), range.end());
        let advice = format!("it is the prefix length of a block; {default} is the default");
        errors.push(FieldError::field(
            "spec.blockSize",
            "IPPool.Spec.BlockSize",
            &block_size.to_string(),
            &rule,
            advice,
        ));
    } else if u64::from(cidr.prefix_len()) > block_size {
        let rule =
            "IP pool size is too small for use with Calico IPAM. It must be equal to or greater than the block size.";
        let advice = format!(
            "use a CIDR of /{block_size} or shorter, or a blockSize of {} to {}",
            cidr.prefix_len().max(*range.start() as u8),
            range.end()
        );
        errors.push(FieldError::spec("spec.cidr", written, rule, advice));
    }
    for (link_local, family) in [("169.254.0.0/16", "IPv4"), ("fe80::/10", "IPv6")] {
        if super::set::overlap(&masked, &link_local.parse().expect("a constant CIDR")) {
            let rule = format!("IP pool range overlaps with {family} Link Local range {link_local}");
            errors.push(FieldError::field(
                "spec.cidr",
                "IPPool.Spec.CIDR",
                written,
                &rule,
                "link-local addresses are not routed; choose another range",
            ));
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
    ip_pool_uses(spec, is_on("ipipMode") || is_on("vxlanMode"), errors);
    for field in ["ipipMode", "vxlanMode"].into_iter().filter(|f| is_on(f)) {
        let text =
            format!("{field} {} is stored but not active: traffic is routed without encapsulation", spec.text(field));
        found.warnings.push(FieldError::text(&format!("spec.{field}"), spec.text(field), text, ""));
    }
}

fn ip_pool_uses(spec: &Spec, is_encapsulated: bool, errors: &mut Vec<FieldError>) {
    let uses: Vec<&str> = spec.items("allowedUses").iter().filter_map(Value::as_str).collect();
    let selector = spec.text("nodeSelector");
    if has_global(selector) {
        errors.push(FieldError::spec(
            "spec.nodeSelector",
            selector,
            "global() selector is not valid",
            "use all() for every node",
        ));
    }
    if !uses.contains(&"LoadBalancer") {
        return;
    }
    let joined = uses.join(", ");
    if uses.len() > 1 {
        errors.push(FieldError::spec(
            "spec.allowedUses",
            &joined,
            "LoadBalancer cannot be combined with Workload or Tunnel allowed uses",
            "make two pools",
        ));
    }
    if is_encapsulated {
        errors.push(FieldError::spec(
            "spec.allowedUses",
            &joined,
            "LoadBalancer IP pool cannot have IPIP or VXLAN enabled",
            "set ipipMode and vxlanMode to Never",
        ));
    }
    if spec.is_set("disableBGPExport") {
        errors.push(FieldError::spec(
            "spec.disableBGPExport",
            "true",
            "LoadBalancer IP pools cannot disable BGP export",
            "leave disableBGPExport out",
        ));
    }
    if !matches!(Selector::parse(selector), Ok(Selector::All)) {
        errors.push(FieldError::spec(
            "spec.nodeSelector",
            selector,
            "IP Pool with AllowedUse LoadBalancer must have nodeSelector set to all()",
            "write nodeSelector: all(), or leave it out",
        ));
    }
    if spec.is_set("namespaceSelector") {
        errors.push(FieldError::spec(
            "spec.namespaceSelector",
            spec.text("namespaceSelector"),
            "namespaceSelector cannot be used with LoadBalancer allowed use",
            "leave namespaceSelector out",
        ));
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

fn bgp_peer(spec: &Spec, found: &mut Findings) {
    let mut exclusive = |a: &str, b: &str, rule: &str, advice: &str| {
        if spec.is_set(a) && spec.is_set(b) {
            let path = format!("spec.{b}");
            found.errors.push(FieldError::spec(&path, &super::shown(&spec.0[b]), rule, advice));
        }
    };
    exclusive(
        "node",
        "nodeSelector",
        "node and nodeSelector cannot both be set",
        "keep the one that says which nodes have this peering",
    );
    exclusive(
        "peerSelector",
        "peerIP",
        "peerIP and peerSelector cannot both be set",
        "peerSelector finds the addresses of nodes by itself",
    );
    exclusive(
        "peerSelector",
        "asNumber",
        "asNumber must be empty when peerSelector is set",
        "the AS number of each node is used",
    );
    exclusive(
        "nextHopMode",
        "keepOriginalNextHop",
        "nextHopMode and keepOriginalNextHop cannot both be set",
        "keepOriginalNextHop is deprecated: use nextHopMode: Keep",
    );
    exclusive("localWorkloadSelector", "peerIP", "peerIP must be empty when localWorkloadSelector is set", "");
    exclusive(
        "localWorkloadSelector",
        "peerSelector",
        "peerSelector must be empty when localWorkloadSelector is set",
        "",
    );
    let errors = &mut found.errors;
    if !spec.is_set("peerIP") && !spec.is_set("peerSelector") && !spec.is_set("localWorkloadSelector") {
        errors.push(FieldError::spec(
            "spec",
            "",
            "one of peerIP, peerSelector and localWorkloadSelector must be set",
            "name the peer: peerIP: 192.168.1.1",
        ));
    }
    if spec.is_set("localWorkloadSelector") && !spec.is_set("asNumber") {
        errors.push(FieldError::spec(
            "spec.localWorkloadSelector",
            spec.text("localWorkloadSelector"),
            "asNumber is required when localWorkloadSelector is set",
            "",
        ));
    }
    if spec.is_set("reachableBy") {
        let by = spec.text("reachableBy");
        let same_family = spec.text("peerIP").contains('.') == by.contains('.');
        if !spec.is_set("peerIP") || !same_family {
            errors.push(FieldError::field(
                "spec.reachableBy",
                "ReachableBy",
                by,
                "reachableBy needs a peerIP of the same address family",
                "",
            ));
        }
    }
    hold_time(spec, errors);
}

/// RFC 4271 section 4.2: the hold time is zero or at least three seconds.
fn hold_time(spec: &Spec, errors: &mut Vec<FieldError>) {
    let written = spec.text("holdTime");
    let seconds = written.strip_suffix('s').and_then(|n| n.parse::<f64>().ok());
    if seconds.is_some_and(|s| s != 0.0 && s < 3.0) || written.ends_with("ms") {
        errors.push(FieldError::field(
            "spec.holdTime",
            "HoldTime",
            written,
            "the hold time is 0 or at least 3s (RFC 4271 section 4.2)",
            "use 9s for fast detection, 90s otherwise",
        ));
    }
}

fn bgp_configuration(name: &str, spec: &Spec, found: &mut Findings) {
    let errors = &mut found.errors;
    if name != "default" && !name.starts_with("node.") {
        let rule = "the name of a BGPConfiguration is default or node.<node name>";
        errors.push(FieldError::field(
            "metadata.name",
            "Metadata.Name",
            name,
            rule,
            "default holds the settings of all nodes",
        ));
    }
    if name != "default" {
        for field in DEFAULT_ONLY.iter().filter(|f| !spec.0[**f].is_null()) {
            let path = format!("spec.{field}");
            let message = format!("Cannot set {field} on a non default BGP Configuration.");
            let advice = match *field {
                "asNumber" => "for one node use spec.bgp.asNumber of its Node",
                _ => "put it into the BGPConfiguration named default",
            };
            errors.push(FieldError::field(
                &path,
                &format!("BGPConfiguration.Spec.{}", super::formats::go_name(field)),
                &super::shown(&spec.0[*field]),
                &message,
                advice,
            ));
        }
    }
    let has_mesh = spec.0["nodeToNodeMeshEnabled"].as_bool().unwrap_or(true);
    for field in ["nodeMeshPassword", "nodeMeshMaxRestartTime"] {
        if !has_mesh && spec.is_set(field) {
            let rule = format!("spec.{field} cannot be set if spec.nodeToNodeMesh is disabled");
            errors.push(FieldError::spec(
                &format!("spec.{field}"),
                &super::shown(&spec.0[field]),
                &rule,
                "remove it, or set nodeToNodeMeshEnabled: true",
            ));
        }
    }
    let named: BTreeSet<&str> = spec.items("communities").iter().filter_map(|c| c["name"].as_str()).collect();
    for (i, advertisement) in spec.items("prefixAdvertisements").iter().enumerate() {
        for (j, community) in advertisement["communities"].as_array().into_iter().flatten().enumerate() {
            let community = community.as_str().unwrap_or_default();
            let is_literal = super::formats::check(crate::schema::Format::Community, "", community).is_none();
            if !named.contains(community) && !is_literal {
                let path = format!("spec.prefixAdvertisements[{i}].communities[{j}]");
                let rule = "community used is invalid or not defined";
                let near = super::nearest(community, named.iter().copied()).map(|n| format!("did you mean {n}?"));
                let advice = near.unwrap_or_else(|| "define it under spec.communities, or write it as aa:nn".into());
                errors.push(FieldError::field(&path, "Communities", community, rule, advice));
            }
        }
    }
    hold_time(spec, errors);
}

fn bgp_filter(spec: &Spec, found: &mut Findings) {
    for (list, is_v4) in [("exportV4", true), ("importV4", true), ("exportV6", false), ("importV6", false)] {
        for (i, rule) in spec.items(list).iter().enumerate() {
            bgp_filter_rule(&format!("spec.{list}[{i}]"), rule, is_v4, &mut found.errors);
        }
    }
}

fn bgp_filter_rule(at: &str, rule: &Value, is_v4: bool, errors: &mut Vec<FieldError>) {
    let cidr = rule["cidr"].as_str().filter(|c| !c.is_empty());
    if cidr.is_some() != rule["matchOperator"].as_str().is_some_and(|m| !m.is_empty()) {
        errors.push(FieldError::spec(
            at,
            cidr.unwrap_or_default(),
            "cidr and matchOperator must both be set or both be empty",
            "add matchOperator: In for the prefix and all within it",
        ));
    }
    if let Some(cidr) = cidr
        && cidr.contains(':') == is_v4
    {
        let family = if is_v4 { "IPv4" } else { "IPv6" };
        errors.push(FieldError::field(
            &format!("{at}.cidr"),
            "CIDR",
            cidr,
            &format!("this list is for {family} prefixes"),
            "",
        ));
    }
    let length = &rule["prefixLength"];
    if !length.is_null() && cidr.is_none() {
        errors.push(FieldError::spec(
            &format!("{at}.prefixLength"),
            &length.to_string(),
            "cidr is required when prefixLength is set",
            "",
        ));
    }
    if let (Some(min), Some(max)) = (length["min"].as_u64(), length["max"].as_u64())
        && min > max
    {
        errors.push(FieldError::field(
            &format!("{at}.prefixLength"),
            "PrefixLength",
            &length.to_string(),
            "min is greater than max",
            "swap them",
        ));
    }
    if let Some(values) = rule["communities"]["values"].as_array()
        && values.len() != 1
    {
        errors.push(FieldError::field(
            &format!("{at}.communities.values"),
            "Values",
            &super::shown(&rule["communities"]["values"]),
            "exactly one community can be matched",
            "make one rule for each",
        ));
    }
    let operations = rule["operations"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !operations.is_empty() && rule["action"] == "Reject" {
        errors.push(FieldError::spec(
            &format!("{at}.operations"),
            "",
            "operations may only be used with action Accept",
            "",
        ));
    }
    if operations.len() > 10 {
        errors.push(FieldError::spec(
            &format!("{at}.operations"),
            &operations.len().to_string(),
            "at most 10 operations are allowed",
            "",
        ));
    }
    for (i, operation) in operations.iter().enumerate() {
        if operation.as_object().is_none_or(|o| o.values().filter(|v| !v.is_null()).count() != 1) {
            errors.push(FieldError::spec(
                &format!("{at}.operations[{i}]"),
                "",
                "exactly one of addCommunity, prependASPath and setPriority must be set",
                "make a list item for each",
            ));
        }
    }
}

fn ipam_configuration(name: &str, spec: &Spec, found: &mut Findings) {
    if name != "default" {
        found.errors.push(FieldError::field(
            "metadata.name",
            "Metadata.Name",
            name,
            "resource name 'default' is the only one allowed",
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

fn felix_configuration(name: &str, found: &mut Findings) {
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
            let family = if is_v4 { "IPv4" } else { "IPv6" };
            found.errors.push(FieldError::field(
                &format!("spec.bgp.{field}"),
                &super::formats::go_name(field),
                address,
                &format!("must be an {family} address"),
                "",
            ));
        }
    }
}

fn workload_endpoint(spec: &Spec, found: &mut Findings) {
    for (i, network) in spec.items("ipNetworks").iter().enumerate() {
        let network = network.as_str().unwrap_or_default();
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
