//! The rules of LoadBalancerIPPool.

use serde_json::Value;

use super::Spec;
use crate::address_range::AddressRange;
use crate::load_balancer_ip_pool::LoadBalancerIpPoolBlock;
use crate::validate::{FieldError, Findings, shown};

pub(super) fn ip_pool(spec: &Spec, found: &mut Findings) {
    blocks(spec.items("blocks"), &mut found.errors);
    let selector = &spec.0["serviceSelector"];
    for (i, requirement) in selector["matchExpressions"].as_array().into_iter().flatten().enumerate() {
        found.errors.extend(requirement_error(&format!("spec.serviceSelector.matchExpressions[{i}]"), requirement));
    }
}

fn blocks(blocks: &[Value], errors: &mut Vec<FieldError>) {
    if blocks.is_empty() {
        errors.push(FieldError::field(
            "spec.blocks",
            "Blocks",
            "",
            "a pool has at least one block",
            "write blocks: [{cidr: 20.0.10.0/24}], or a block of start: and stop:",
        ));
    }
    let mut ranges: Vec<(AddressRange, usize)> = Vec::new();
    for (i, block) in blocks.iter().enumerate() {
        let path = format!("spec.blocks[{i}]");
        match range(&path, block) {
            Ok(range) => ranges.push((range, i)),
            Err(error) => errors.push(error),
        }
    }
    ranges.sort();
    // Two that overlap are neighbours, or lie within one that reaches further.
    let mut reached: Option<(AddressRange, usize)> = None;
    for (range, i) in ranges {
        if let Some((other, j)) = reached.filter(|(other, _)| other.overlaps(&range)) {
            let (first, second) = (i.min(j), i.max(j));
            let (here, there) = if second == i { (range, other) } else { (other, range) };
            let rule = format!("overlaps with spec.blocks[{first}], {there}");
            let path = format!("spec.blocks[{second}]");
            errors.push(FieldError::field(&path, "Blocks", &here.to_string(), &rule, "keep one of them"));
        }
        if reached.is_none_or(|(r, _)| r.first().is_ipv4() != range.first().is_ipv4() || range.last() > r.last()) {
            reached = Some((range, i));
        }
    }
}

/// The addresses of a block.
fn range(path: &str, block: &Value) -> Result<AddressRange, FieldError> {
    let is_set = |field: &str| block[field].as_str().is_some_and(|s| !s.is_empty());
    match (is_set("cidr"), is_set("start"), is_set("stop")) {
        (true, false, false) | (false, true, _) => {}
        (true, ..) => {
            let rule = "a block is a cidr, or start and stop, not both";
            return Err(FieldError::field(path, "Blocks", &shown(block), rule, "make two blocks"));
        }
        (false, false, has_stop) => {
            let rule = if has_stop { "start is required when stop is set" } else { "a block has a cidr, or a start" };
            return Err(FieldError::field(path, "Blocks", &shown(block), rule, "write cidr: 20.0.10.0/24"));
        }
    }
    let typed: Option<LoadBalancerIpPoolBlock> = serde::Deserialize::deserialize(block).ok();
    typed.and_then(|b| b.range()).ok_or_else(|| {
        let (start, stop) = (shown(&block["start"]), shown(&block["stop"]));
        let (rule, advice) = if start.contains(':') != stop.contains(':') {
            (format!("start {start} is of the other address family"), "make a block for each family")
        } else {
            (format!("stop is below start {start}"), "swap them")
        };
        FieldError::field(&format!("{path}.stop"), "Stop", &stop, &rule, advice)
    })
}

/// Kubernetes' rule for the values of an expression.
fn requirement_error(path: &str, requirement: &Value) -> Option<FieldError> {
    let operator = requirement["operator"].as_str().unwrap_or_default();
    let has_values = requirement["values"].as_array().is_some_and(|v| !v.is_empty());
    let (rule, advice) = match (operator, has_values) {
        ("In" | "NotIn", false) => ("must be specified when `operator` is 'In' or 'NotIn'", "write values: [blue]"),
        ("Exists" | "DoesNotExist", true) => {
            ("may not be specified when `operator` is 'Exists' or 'DoesNotExist'", "leave values out")
        }
        _ => return None,
    };
    let value = requirement.get("values").map(shown).unwrap_or_default();
    Some(FieldError::field(&format!("{path}.values"), "Values", &value, rule, advice))
}
