//! Rules between documents, or between a document and what is stored.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde_json::Value;

use super::{FieldError, shown};
use crate::kind::Kind;
use crate::schema::{self, Field, Object, Type};

/// Whether two prefixes share an address.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// For each pool whose range overlaps that of another, by name, one that it overlaps. One pass over the sorted ranges: a fleet may
/// have thousands of pools.
pub fn pool_overlaps<'a>(pools: impl IntoIterator<Item = (&'a str, IpNet)>) -> BTreeMap<&'a str, (&'a str, IpNet)> {
    let mut pools: Vec<(IpNet, &str)> = pools.into_iter().map(|(name, cidr)| (cidr.trunc(), name)).collect();
    pools.sort_by_key(|(cidr, name)| (cidr.network(), cidr.prefix_len(), *name));
    let mut found = BTreeMap::new();
    // The ranges that the present one lies in; two prefixes overlap only where one is within the other.
    let mut around: Vec<(IpNet, &str)> = Vec::new();
    for (cidr, name) in pools {
        while around.last().is_some_and(|(outer, _)| !outer.contains(&cidr)) {
            around.pop();
        }
        if let Some(&(outer, other)) = around.last().filter(|(_, other)| *other != name) {
            found.entry(name).or_insert((other, outer));
            found.entry(other).or_insert((name, cidr));
        }
        around.push((cidr, name));
    }
    found
}

/// The error of pool `name` whose range overlaps that of `other`.
pub fn pool_overlap(name: &str, cidr: IpNet, other: &str, range: IpNet) -> FieldError {
    let rule = format!("IPPool({name}) CIDR overlaps with IPPool({other}) CIDR {range}");
    FieldError::field(
        "spec.cidr",
        "IPPool.Spec.CIDR",
        &cidr.to_string(),
        &rule,
        "choose a range that no other pool has, or delete the other pool first",
    )
}

/// The error of a new pool where blocks of another size lie in its range: they would be nobody's (Calico
/// `libcalico-go/lib/clientv3/ippool.go`).
pub fn block_sizes(cidr: IpNet, block_size: u8, blocks: impl IntoIterator<Item = IpNet>) -> Option<FieldError> {
    let other = blocks.into_iter().find(|b| b.prefix_len() != block_size && overlap(b, &cidr))?;
    Some(FieldError::field(
        "spec.blockSize",
        "IPPool.Spec.BlockSize",
        &block_size.to_string(),
        "IPPool blocksSize conflicts with existing allocations that use a different blockSize",
        format!("block {other} is there: use blockSize: {}, or release its addresses first", other.prefix_len()),
    ))
}

/// What an update may not change (Calico `libcalico-go/lib/clientv3/ippool.go`).
pub fn immutable(kind: Kind, stored: &Value, wanted: &Value) -> Vec<FieldError> {
    if kind != Kind::IpPool {
        return Vec::new();
    }
    let mut errors = Vec::new();
    let mut check = |field: &str, name: &str, rule: &str, same: bool| {
        if !same {
            let was = &stored["spec"][field];
            let advice = if was.is_null() {
                "delete the pool and create it again, or make another".into()
            } else {
                format!("it is {}; delete the pool and create it again, or make another", shown(was))
            };
            let value = shown(&wanted["spec"][field]);
            errors.push(FieldError::field(&format!("spec.{field}"), name, &value, rule, advice));
        }
    };
    let cidr = |v: &Value| v["spec"]["cidr"].as_str().and_then(|c| c.parse::<IpNet>().ok());
    let (old, new) = (cidr(stored), cidr(wanted));
    check("cidr", "IPPool.Spec.CIDR", "IPPool CIDR cannot be modified", old == new);
    // A size that is not said is the default, as Calico reads it.
    let default = match old {
        Some(IpNet::V6(_)) => crate::ip_pool::DEFAULT_BLOCK_SIZE_V6,
        _ => crate::ip_pool::DEFAULT_BLOCK_SIZE_V4,
    };
    let size = |v: &Value| v["spec"]["blockSize"].as_u64().filter(|n| *n != 0).unwrap_or(default.into());
    check(
        "blockSize",
        "IPPool.Spec.BlockSize",
        "IPPool BlockSize cannot be modified",
        old.is_none() || size(stored) == size(wanted),
    );
    let is_for_services =
        |v: &Value| v["spec"]["allowedUses"].as_array().is_some_and(|u| u.iter().any(|u| u == "LoadBalancer"));
    let (was, is) = (is_for_services(stored), is_for_services(wanted));
    // Calico's spelling.
    let rule = match was {
        true => "IPPool allowed use cannot be changed from LoadBalacer to Workload or Tunnel",
        false => "IPPool allowed use cannot be changed from Workload or Tunnel to LoadBalancer",
    };
    check("allowedUses", "IPPool.Spec.AllowedUses", rule, was == is);
    errors
}

/// Gives a wanted object the fields of the stored spec that the schema does not know: a newer Calico's, which whoever wrote the
/// document could not know either.
pub fn keep_unknown(kind: Kind, stored: &Value, wanted: &mut Value) {
    let Some(spec) = schema::of(kind).field("spec").and_then(|f| f.kind.object()) else { return };
    keep_unknown_in(spec, &stored["spec"], &mut wanted["spec"]);
}

fn keep_unknown_in(object: &Object, stored: &Value, wanted: &mut Value) {
    let (Some(stored), Some(wanted)) = (stored.as_object(), wanted.as_object_mut()) else { return };
    for (name, value) in stored {
        match object.field(name) {
            None if !object.open => drop(wanted.entry(name).or_insert_with(|| value.clone())),
            Some(Field { kind: Type::Object(inner), .. }) => {
                if let Some(wanted) = wanted.get_mut(name) {
                    keep_unknown_in(inner, value, wanted);
                }
            }
            _ => {}
        }
    }
}

/// Who has which node port: (protocol, port) to the service's `namespace/name`.
#[derive(Debug, Default)]
pub struct NodePorts(BTreeMap<(String, u64), String>);

impl NodePorts {
    /// Records a service's node ports; an error for each that another service has.
    pub fn add(&mut self, service: &str, spec: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (i, port) in spec["ports"].as_array().into_iter().flatten().enumerate() {
            let Some(number) = port["nodePort"].as_u64().filter(|n| *n != 0) else { continue };
            let key = (port["protocol"].as_str().unwrap_or("TCP").to_string(), number);
            let owner = self.0.entry(key).or_insert_with(|| service.to_string());
            if owner != service {
                let rule = format!("provided port is already allocated to service {owner}");
                let path = format!("spec.ports[{i}].nodePort");
                errors.push(FieldError::field(
                    &path,
                    "NodePort",
                    &number.to_string(),
                    &rule,
                    "choose another, or leave it out to have one assigned",
                ));
            }
        }
        errors
    }
}
