//! Rules between documents, or between a document and what is stored.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde_json::Value;

use super::{FieldError, shown};
use crate::kind::Kind;

/// Whether two prefixes share an address.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The error of pool `name` if its range overlaps that of one of `others`.
pub fn pool_overlap<'a>(
    name: &str,
    cidr: IpNet,
    others: impl IntoIterator<Item = (&'a str, IpNet)>,
) -> Option<FieldError> {
    let (other, range) = others.into_iter().find(|(other, range)| *other != name && overlap(&cidr, range))?;
    let rule = format!("IPPool({name}) CIDR overlaps with IPPool({other}) CIDR {range}");
    Some(FieldError::field(
        "spec.cidr",
        "IPPool.Spec.CIDR",
        &cidr.to_string(),
        &rule,
        "choose a range that no other pool has, or delete the other pool first",
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
            let advice = format!(
                "it is {}; delete the pool and create it again, or make another",
                shown(&stored["spec"][field])
            );
            errors.push(FieldError::field(
                &format!("spec.{field}"),
                name,
                &shown(&wanted["spec"][field]),
                rule,
                advice,
            ));
        }
    };
    let cidr = |v: &Value| v["spec"]["cidr"].as_str().and_then(|c| c.parse::<IpNet>().ok());
    check("cidr", "IPPool.Spec.CIDR", "IPPool CIDR cannot be modified", cidr(stored) == cidr(wanted));
    let is_same_size = stored["spec"]["blockSize"] == wanted["spec"]["blockSize"];
    check("blockSize", "IPPool.Spec.BlockSize", "IPPool BlockSize cannot be modified", is_same_size);
    errors
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
