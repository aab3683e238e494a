//! The rules of the BGP kinds: BGPPeer, BGPConfiguration, BGPFilter.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Spec;
use crate::duration;
use crate::validate::{FieldError, Findings, formats, nearest, shown};

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

pub(super) fn bgp_peer(spec: &Spec, found: &mut Findings) {
    let mut exclusive = |a: &str, b: &str, rule: &str, advice: &str| {
        if spec.is_set(a) && spec.is_set(b) {
            let path = format!("spec.{b}");
            found.errors.push(FieldError::spec(&path, &shown(&spec.0[b]), rule, advice));
        }
    };
    exclusive(
        "node",
        "nodeSelector",
        "node and nodeSelector cannot both be set",
        "keep the one that says which nodes have this peering",
    );
    // What names the peer; each excludes the others.
    for (a, b) in [
        ("peerSelector", "peerIP"),
        ("localWorkloadSelector", "peerIP"),
        ("localWorkloadSelector", "peerSelector"),
        ("peerRange", "peerIP"),
        ("peerRange", "peerSelector"),
        ("peerRange", "localWorkloadSelector"),
        ("peerInterface", "peerIP"),
        ("peerInterface", "peerSelector"),
        ("peerInterface", "localWorkloadSelector"),
        ("peerInterface", "peerRange"),
    ] {
        let (rule, advice) = match (a, b) {
            // Calico's words.
            ("peerSelector", _) => (
                "peerIP and peerSelector cannot both be set".into(),
                "peerSelector finds the addresses of nodes by itself",
            ),
            ("localWorkloadSelector", b) => (format!("{b} must be empty when localWorkloadSelector is set"), ""),
            (a, b) => (format!("{b} must be empty when {a} is set"), "make a BGPPeer for each"),
        };
        exclusive(a, b, &rule, advice);
    }
    exclusive(
        "nextHopMode",
        "keepOriginalNextHop",
        "keepOriginalNextHop and nextHopMode cannot both be set; keepOriginalNextHop is deprecated, use nextHopMode instead",
        "",
    );
    let errors = &mut found.errors;
    // 0 is an AS number that is not set, as in Go.
    let has_as = spec.is_set("asNumber") && spec.0["asNumber"] != 0;
    if spec.is_set("peerSelector") && has_as {
        let rule = "asNumber must be empty when peerSelector is set";
        let advice = "the AS number of each node is used";
        errors.push(FieldError::spec("spec.asNumber", &shown(&spec.0["asNumber"]), rule, advice));
    }
    if !["peerIP", "peerSelector", "localWorkloadSelector", "peerRange", "peerInterface"].iter().any(|f| spec.is_set(f))
    {
        errors.push(FieldError::spec(
            "spec",
            "",
            "one of peerIP, peerSelector and localWorkloadSelector must be set",
            "name the peer, as in peerIP: 192.168.1.1; peerRange: 192.168.1.0/24 or peerInterface: eth0 would do too",
        ));
    }
    if spec.is_set("localWorkloadSelector") && !has_as {
        errors.push(FieldError::spec(
            "spec.localWorkloadSelector",
            spec.text("localWorkloadSelector"),
            "asNumber is required when localWorkloadSelector is set",
            "",
        ));
    }
    if spec.is_set("reachableBy") {
        let by = spec.text("reachableBy");
        if !spec.is_set("peerIP") {
            let rule = "reachableBy must be empty when peerIP is empty";
            errors.push(FieldError::spec("spec.reachableBy", by, rule, "it is the gateway to peerIP"));
        } else if spec.text("peerIP").contains('.') != by.contains('.') {
            let rule = "ReachableBy and PeerIP address family mismatched";
            let advice = "reachableBy is of the same address family as peerIP";
            errors.push(FieldError::field("spec.reachableBy", "ReachableBy", by, rule, advice));
        }
    }
    if spec.is_set("peerRangeLimit") && !spec.is_set("peerRange") {
        let limit = shown(&spec.0["peerRangeLimit"]);
        errors.push(FieldError::spec("spec.peerRangeLimit", &limit, "peerRangeLimit needs a peerRange", ""));
    }
    session(spec, errors);
}

/// The rules between the settings of a session.
fn session(spec: &Spec, errors: &mut Vec<FieldError>) {
    let time = |field: &str| duration::parse(spec.text(field));
    if let (Some(send), Some(hold)) = (time("sendHoldTime"), time("holdTime"))
        && !send.is_zero()
        && send <= hold
    {
        errors.push(FieldError::field(
            "spec.sendHoldTime",
            "SendHoldTime",
            spec.text("sendHoldTime"),
            "must be longer than holdTime, RFC 9687 section 4.2",
            "leave it out for the longer of 8m and twice the hold time",
        ));
    }
    if let (Some(keepalive), Some(hold)) = (time("keepaliveTime"), time("holdTime"))
        && !hold.is_zero()
        && keepalive >= hold
    {
        errors.push(FieldError::field(
            "spec.keepaliveTime",
            "KeepaliveTime",
            spec.text("keepaliveTime"),
            "must be shorter than holdTime, RFC 4271 section 4.4",
            "leave it out for a third of the hold time",
        ));
    }
    // RFC 9003 section 2: at most 255 octets of UTF-8.
    let message = spec.0["shutdown"]["message"].as_str().unwrap_or_default();
    if message.len() > 255 {
        errors.push(FieldError::field(
            "spec.shutdown.message",
            "Message",
            message,
            "has at most 255 bytes, RFC 9003 section 2",
            format!("it has {}", message.len()),
        ));
    }
    let max = &spec.0["maxPrefixes"];
    if max["restartAfter"].is_string() && matches!(max["action"].as_str(), Some("Warn" | "Shutdown")) {
        errors.push(FieldError::spec(
            "spec.maxPrefixes.restartAfter",
            &shown(&max["restartAfter"]),
            "restartAfter is for action Restart",
            "remove it, or set action: Restart",
        ));
    }
    if spec.is_set("roleStrict") && !spec.is_set("role") {
        errors.push(FieldError::spec(
            "spec.roleStrict",
            "true",
            "roleStrict needs a role",
            "say what this side is: role: Customer towards a provider",
        ));
    }
}

pub(super) fn bgp_configuration(name: &str, spec: &Spec, found: &mut Findings) {
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
        let is_set = |f: &&&str| !spec.0[**f].is_null() && spec.0[**f] != Value::Array(Vec::new());
        for field in DEFAULT_ONLY.iter().filter(is_set) {
            let path = format!("spec.{field}");
            let message = format!("Cannot set {field} on a non default BGP Configuration.");
            let advice = match *field {
                "asNumber" => "for one node use spec.bgp.asNumber of its Node",
                _ => "put it into the BGPConfiguration named default",
            };
            errors.push(FieldError::field(
                &path,
                &format!("BGPConfiguration.Spec.{}", formats::go_name(field)),
                &shown(&spec.0[*field]),
                &message,
                advice,
            ));
        }
    }
    let has_mesh = spec.0["nodeToNodeMeshEnabled"].as_bool().unwrap_or(true);
    for field in ["nodeMeshPassword", "nodeMeshMaxRestartTime"] {
        if !has_mesh && spec.is_set(field) {
            let rule = format!("{field} cannot be set when nodeToNodeMeshEnabled is false");
            errors.push(FieldError::spec(
                &format!("spec.{field}"),
                &shown(&spec.0[field]),
                &rule,
                "remove it, or set nodeToNodeMeshEnabled: true",
            ));
        }
    }
    if spec.is_set("communities") && !spec.is_set("prefixAdvertisements") {
        let rule = "communities are defined but not used in prefixAdvertisements";
        let advice = "name them in prefixAdvertisements, or leave them out";
        errors.push(FieldError::spec("spec.communities", "", rule, advice));
    }
    let named: BTreeSet<&str> = spec.items("communities").iter().filter_map(|c| c["name"].as_str()).collect();
    for (i, advertisement) in spec.items("prefixAdvertisements").iter().enumerate() {
        for (j, community) in advertisement["communities"].as_array().into_iter().flatten().enumerate() {
            let community = community.as_str().unwrap_or_default();
            let is_literal = formats::check(crate::schema::Format::Community, "", community).is_none();
            if !named.contains(community) && !is_literal {
                let path = format!("spec.prefixAdvertisements[{i}].communities[{j}]");
                let rule = "community used is invalid or not defined.";
                let near = nearest(community, named.iter().copied()).map(|n| format!("did you mean {n}?"));
                let advice = near.unwrap_or_else(|| "define it under spec.communities, or write it as aa:nn".into());
                let field = "Spec.PrefixAdvertisement[].Communities[]";
                errors.push(FieldError::field(&path, field, community, rule, advice));
            }
        }
    }
    session(spec, errors);
}

pub(super) fn bgp_filter(spec: &Spec, found: &mut Findings) {
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
        let (family, tag) = if is_v4 { ("IPv4", "netv4") } else { ("IPv6", "netv6") };
        let reason = format!("Reason: failed to validate Field: CIDR because of Tag: {tag} ");
        let advice = format!("this list is for {family} prefixes");
        errors.push(FieldError::field(&format!("{at}.cidr"), "CIDR", cidr, &reason, advice));
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
            &shown(&rule["communities"]["values"]),
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
        let prefix = operation["prependASPath"]["prefix"].as_array();
        if let Some(count) = prefix.map(Vec::len).filter(|n| !(1..=10).contains(n)) {
            let path = format!("{at}.operations[{i}].prependASPath.prefix");
            let rule = "has from 1 to 10 AS numbers";
            errors.push(FieldError::field(&path, "Prefix", &count.to_string(), rule, ""));
        }
    }
}
