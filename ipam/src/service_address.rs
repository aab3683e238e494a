//! Addresses of services: out of pools of another kind than IPPool, from one service to another, and which of them may share one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::Service;
use api::key::AffinityOwner;
use api::service::{ServiceSpec, TrafficPolicy};
use ipnet::IpNet;
use jiff::SignedDuration;

use crate::allocator::{Error, Ipam, Outcome, Retries, completed_attributes};
use crate::assign::AssignRequest;
use crate::block::Assignee;
use crate::changes::HandleChange;
use crate::handle;

/// The load-balancer classes of services that get addresses, besides none.
pub const LOAD_BALANCER_CLASSES: [&str; 2] = ["calico", "io.cilium/bgp-control-plane"];

/// Annotations, ours, then Cilium's and Cilium's former ones: a key, namespaces with commas between or `*`.
const SHARING_KEY: [&str; 3] =
    ["tortie.io/sharing-key", "lbipam.cilium.io/sharing-key", "io.cilium/lb-ipam-sharing-key"];
const SHARING_NAMESPACES: [&str; 3] = [
    "tortie.io/sharing-cross-namespace",
    "lbipam.cilium.io/sharing-cross-namespace",
    "io.cilium/lb-ipam-sharing-cross-namespace",
];

/// The key under which a service shares its address.
pub fn sharing_key(service: &Service) -> Option<&str> {
    annotation(service, &SHARING_KEY).filter(|k| !k.is_empty())
}

/// Why two services, each with its namespace, may not have one address; `None` where they may (Cilium `operator/pkg/lbipam`: the same
/// key, namespaces that allow each other, the same traffic policy, no common port).
pub fn cannot_share((a_namespace, a): (&str, &Service), (b_namespace, b): (&str, &Service)) -> Option<String> {
    let key = sharing_key(a);
    if key.is_none() || key != sharing_key(b) {
        return Some("their sharing keys differ".into());
    }
    let allows = |service: &Service, namespace: &str| {
        let allowed = annotation(service, &SHARING_NAMESPACES).unwrap_or_default();
        allowed.split(',').map(str::trim).any(|n| n == "*" || n == namespace)
    };
    if a_namespace != b_namespace && !(allows(a, b_namespace) && allows(b, a_namespace)) {
        return Some("their namespaces do not both allow it (sharing-cross-namespace)".into());
    }
    let (a, b) = (&a.body.spec, &b.body.spec);
    let traffic = |spec: &ServiceSpec| spec.external_traffic_policy.unwrap_or_default();
    if traffic(a) != traffic(b) {
        return Some("their externalTrafficPolicy differs".into());
    }
    if traffic(a) == TrafficPolicy::Local && a.selector != b.selector {
        return Some("with externalTrafficPolicy Local their selectors must be the same".into());
    }
    let mut ports = a.ports.iter();
    let common = ports.find(|p| b.ports.iter().any(|q| (q.port, q.protocol) == (p.port, p.protocol)))?;
    Some(format!("both have port {}", common.port))
}

fn annotation<'a>(service: &'a Service, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| service.metadata.annotations.get(*name)).map(|text| text.trim())
}

impl Ipam {
    /// As [`Self::assign_ip`], for an address of a pool that is no IPPool; where no block holds it, `block` is made. Whether the
    /// pool may give it is the caller's to know.
    ///
    /// # Errors
    /// As [`Self::assign_ip`], but for those about pools; [`crate::block::BlockError::Inconsistent`] where `block` meets another one.
    pub async fn assign_ip_in_block(
        &self,
        ip: IpAddr,
        block: IpNet,
        handle: &str,
        attributes: BTreeMap<String, String>,
        owner: AffinityOwner,
    ) -> Result<IpNet, Error> {
        let request = AssignRequest {
            attributes,
            addresses: vec![ip],
            in_block: Some(block),
            ..AssignRequest::new(owner, handle)
        };
        let assignment = self.assign_one(request).await?;
        // An assignment of given addresses has them all.
        assignment.v4.into_iter().chain(assignment.v6).next().ok_or(Error::NotInPool(ip))
    }

    /// Gives an address that handle `from` has, as allocation number `sequence`, to handle `to`; at no moment is it free. That `to`
    /// has it already is success.
    ///
    /// # Errors
    /// [`Error::NotTheSame`] where somebody else has it; [`Error::Store`], [`Error::Contention`].
    pub async fn hand_over(
        &self,
        ip: IpAddr,
        from: &str,
        sequence: Option<u64>,
        to: &str,
        attributes: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let (pools, mut fence) = futures::try_join!(self.pools(), self.fence())?;
        let to = handle::sanitized(to);
        let mut retries = Retries::new(self, format!("hand {ip} over to {to}"));
        loop {
            let not_the_same = |what, expected: String, present: Option<String>| {
                let present = present.unwrap_or_else(|| "nobody".into());
                Error::NotTheSame { ip, what, expected, present }
            };
            let Some(mut block) = self.block_with(ip, &pools).await? else {
                return Err(not_the_same("handle", from.into(), None));
            };
            let holder = block.value.attribute_of(ip).and_then(|a| a.handle_id.clone());
            if holder.as_deref() == Some(to) {
                return Ok(());
            }
            if holder.as_deref() != Some(from) {
                return Err(not_the_same("handle", from.into(), holder));
            }
            let present = block.value.sequence_of(ip);
            if sequence.is_some() && sequence != present {
                let text = |n: Option<u64>| n.map(|n| n.to_string());
                return Err(not_the_same("sequence number", text(sequence).unwrap_or_default(), text(present)));
            }
            let now = self.now();
            let owner =
                block.value.owner().unwrap_or_else(|| AffinityOwner::Virtual(crate::LOAD_BALANCER_OWNER.into()));
            let attributes = completed_attributes(attributes, &owner, now);
            // In one write, so that no cooldown has to pass.
            block.value.release(&[ip], now, SignedDuration::ZERO);
            block.value.assign_address(ip, Assignee { handle: to, attributes: &attributes }, None)?;
            let cidr = block.value.cidr();
            let mut changes = fence.changes();
            for id in [from, to] {
                let before = self.handle(id).await?;
                let mut after = before.value.clone();
                handle::set(&mut after, cidr, block.value.addresses_of(id).len());
                changes.handles.insert(id.into(), HandleChange { before, after });
            }
            changes.write(block, vec![ip]);
            match self.write_changes(changes).await? {
                Outcome::Done => return Ok(()),
                Outcome::Retry(error) | Outcome::Open(error, _) => {
                    fence.renew(&error).await?;
                    retries.again(error).await?;
                }
            }
        }
    }
}
