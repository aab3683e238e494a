//! BGPFilter resources to the matcher's rules (pure).
//!
//! Filters of a peer are concatenated in the order in which it names them; each of the four lists keeps its order
//! (Calico's BIRD templates do the same).

use std::collections::BTreeMap;

use api::bgp_filter::{BgpFilterRule, FilterAction, FilterOperation, MatchOperator, PeerType, RouteSource};
use api::{BgpFilter, BgpFilterSpec};
use bgp_proto::af::{Family, Prefix};
use bgp_proto::policy::{self, Action, Community, Operation, PrefixMatch, Rule, SessionType};
use ipnet::IpNet;

/// The import and export rules of the filters with these names.
///
/// # Errors
/// A sentence for the operator when a filter does not exist or a rule cannot be compiled: such a peer stays down, because
/// without the rule it would let through what the operator wants kept.
pub fn compile(names: &[String], filters: &BTreeMap<String, BgpFilter>) -> Result<(Vec<Rule>, Vec<Rule>), String> {
    let (mut import, mut export) = (Vec::new(), Vec::new());
    for name in names {
        let filter = filters.get(name).ok_or_else(|| format!("BGPFilter {name} does not exist"))?;
        let spec = &filter.body.spec;
        import.extend(list(name, "importV4", Family::Ipv4, spec, |s| &s.import_v4)?);
        import.extend(list(name, "importV6", Family::Ipv6, spec, |s| &s.import_v6)?);
        export.extend(list(name, "exportV4", Family::Ipv4, spec, |s| &s.export_v4)?);
        export.extend(list(name, "exportV6", Family::Ipv6, spec, |s| &s.export_v6)?);
    }
    Ok((import, export))
}

fn list(
    name: &str,
    field: &str,
    family: Family,
    spec: &BgpFilterSpec,
    pick: impl Fn(&BgpFilterSpec) -> &Vec<BgpFilterRule>,
) -> Result<Vec<Rule>, String> {
    let rules = pick(spec).iter().enumerate();
    let compiled = rules.map(|(i, r)| match rule(family, r) {
        Ok(rule) => Ok(Rule { name: format!("BGPFilter {name}, {field}[{i}]"), ..rule }),
        Err(e) => Err(format!("BGPFilter {name}: {field}[{i}]: {e}")),
    });
    compiled.collect()
}

fn rule(family: Family, rule: &BgpFilterRule) -> Result<Rule, String> {
    let communities = rule.communities.iter().flat_map(|c| &c.values);
    let priority =
        rule.priority.map(|p| u32::try_from(p).map_err(|_| format!("priority {p} is negative or too large")));
    Ok(Rule {
        name: String::new(),
        family: Some(family),
        prefix: prefix_match(family, rule)?,
        source: rule.source.map(|RouteSource::RemotePeers| policy::Source::RemotePeers),
        interface: rule.interface.clone(),
        peer_type: rule.peer_type.map(|t| match t {
            PeerType::eBGP => SessionType::Ebgp,
            PeerType::iBGP => SessionType::Ibgp,
        }),
        communities: communities.map(|c| community(c)).collect::<Result<_, _>>()?,
        as_path_prefix: rule.as_path_prefix.iter().map(|a| a.0).collect(),
        priority: priority.transpose()?,
        action: match rule.action {
            FilterAction::Accept => Action::Accept,
            FilterAction::Reject => Action::Reject,
        },
        operations: rule.operations.iter().map(operation).collect::<Result<_, _>>()?,
    })
}

fn prefix_match(family: Family, rule: &BgpFilterRule) -> Result<Option<PrefixMatch>, String> {
    let (cidr, operator) = match (rule.cidr, rule.match_operator) {
        (None, None) => return Ok(None),
        (Some(cidr), Some(operator)) => (cidr, operator),
        _ => return Err("cidr and matchOperator go together".into()),
    };
    let prefix = prefix(cidr);
    if prefix.family() != family {
        return Err(format!("{cidr} is of the other family"));
    }
    let operator = match operator {
        MatchOperator::Equal => policy::MatchOperator::Equal,
        MatchOperator::NotEqual => policy::MatchOperator::NotEqual,
        MatchOperator::In => policy::MatchOperator::In,
        MatchOperator::NotIn => policy::MatchOperator::NotIn,
    };
    let length = rule.prefix_length;
    Ok(Some(PrefixMatch { prefix, operator, min_len: length.and_then(|l| l.min), max_len: length.and_then(|l| l.max) }))
}

fn operation(operation: &FilterOperation) -> Result<Operation, String> {
    match (&operation.add_community, &operation.prepend_as_path, &operation.set_priority) {
        (Some(add), None, None) => community(&add.value).map(Operation::AddCommunity),
        (None, Some(prepend), None) => Ok(Operation::PrependAsPath(prepend.prefix.iter().map(|a| a.0).collect())),
        (None, None, Some(set)) => u32::try_from(set.value)
            .map(Operation::SetPriority)
            .map_err(|_| format!("setPriority {} is negative or too large", set.value)),
        _ => Err("an operation is exactly one of addCommunity, prependASPath and setPriority".into()),
    }
}

/// A community as users write it: `aa:nn` (16 bits each) or `aa:nn:mm` (32 bits each).
///
/// # Errors
/// A sentence that says what it must look like.
pub fn community(text: &str) -> Result<Community, String> {
    let wrong = || format!("'{text}' is no community: use aa:nn, each up to 65535, or aa:nn:mm, each up to 4294967295");
    let numbers: Vec<u32> = text.split(':').map(|n| n.parse().map_err(|_| wrong())).collect::<Result<_, _>>()?;
    match numbers.as_slice() {
        [a, b] if *a <= 0xffff && *b <= 0xffff => Ok(Community::Standard(a << 16 | b)),
        [a, b, c] => Ok(Community::Large(*a, *b, *c)),
        _ => Err(wrong()),
    }
}

/// The same prefix in the speaker's type.
pub fn prefix(net: IpNet) -> Prefix {
    Prefix::new(net.addr(), net.prefix_len()).expect("an IpNet's length fits its family")
}

#[cfg(test)]
mod tests;
