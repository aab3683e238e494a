//! What a CNI plugin asks of felix on its socket, in JSON, and the same asked of the allocator in the plugin's own process.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /ipam/assign` | [`AssignCall`] | 200 [`Assigned`]: what the handle has then, be it asked once or again |
//! | `POST /ipam/release` | [`ReleaseCall`] | 200 [`Released`] |
//!
//! Another status has a body [`Failure`]: 400 the request cannot be met whoever is asked, 409 there is no address for it, 503 it is
//! not known what became of it; ask again, or somebody else.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use api::key::AffinityOwner;
use api::service::NamespaceBody;
use api::{IpPool, Namespace};
use datastore::typed;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::allocator::{Error, Ipam};
use crate::assign::{AssignRequest, Assignment};
use crate::pool::Family;
use crate::queue::Queue;

pub const ASSIGN_PATH: &str = "/ipam/assign";
pub const RELEASE_PATH: &str = "/ipam/release";
/// How long the plugin waits for an answer.
pub const PLUGIN_WAIT: Duration = Duration::from_secs(10);
/// When felix answers 503 at the latest: before the plugin stops waiting.
pub const DEADLINE: Duration = Duration::from_secs(8);

/// A workload's addresses; what its handle has already counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AssignCall {
    pub node: String,
    pub handle: String,
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    #[serde(default)]
    pub num_v4: usize,
    #[serde(default)]
    pub num_v6: usize,
    /// By name or CIDR; empty: all that match.
    #[serde(default)]
    pub ipv4_pools: Vec<String>,
    #[serde(default)]
    pub ipv6_pools: Vec<String>,
    /// Exactly these instead.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// The workload's namespace.
    #[serde(default)]
    pub namespace: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// With the masks of their blocks.
    pub addresses: Vec<IpNet>,
    /// Why there are fewer than were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseCall {
    pub node: String,
    pub handle: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    pub addresses: Vec<IpAddr>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub error: String,
}

impl From<Assignment> for Assigned {
    fn from(assignment: Assignment) -> Self {
        let Assignment { v4, v6, message } = assignment;
        Self { addresses: v4.into_iter().chain(v6).collect(), message }
    }
}

/// How an error is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The request is wrong.
    BadRequest,
    NoAddress,
    TryAgain,
}

impl Verdict {
    pub fn of(error: &Error) -> Self {
        match error {
            Error::NoPool(_) | Error::OtherFamily { .. } => Self::BadRequest,
            Error::Store(_) | Error::Contention { .. } | Error::Locked => Self::TryAgain,
            _ => Self::NoAddress,
        }
    }

    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::NoAddress => 409,
            Self::TryAgain => 503,
        }
    }

    pub fn of_status(status: u16) -> Self {
        match status {
            400 => Self::BadRequest,
            409 => Self::NoAddress,
            _ => Self::TryAgain,
        }
    }
}

impl Ipam {
    /// The request that a call stands for: pools by their CIDRs, and the namespace where a pool asks for one.
    ///
    /// # Errors
    /// [`Error::NoPool`], [`Error::OtherFamily`], [`Error::Store`].
    pub async fn resolve(&self, call: AssignCall) -> Result<AssignRequest, Error> {
        let pools = self.pools().await?;
        let selects = |p: &IpPool| p.body.spec.namespace_selector.as_deref().is_some_and(|s| !s.trim().is_empty());
        let namespace: Option<Namespace> = match &call.namespace {
            Some(name) if pools.iter().any(selects) => {
                typed::get::<NamespaceBody>(self.store.as_ref(), None, name).await?
            }
            _ => None,
        };
        Ok(AssignRequest {
            num_v4: call.num_v4,
            num_v6: call.num_v6,
            attributes: call.attributes,
            pools_v4: self.pools_named(&pools, &call.ipv4_pools, Family::V4).await?,
            pools_v6: self.pools_named(&pools, &call.ipv6_pools, Family::V6).await?,
            namespace,
            addresses: call.addresses,
            counts_existing: true,
            ..AssignRequest::new(AffinityOwner::Host(call.node), call.handle)
        })
    }

    async fn pools_named(&self, pools: &[IpPool], wanted: &[String], family: Family) -> Result<Vec<IpNet>, Error> {
        let mut cidrs = Vec::new();
        for name in wanted {
            let known = pools.iter().find(|p| p.metadata.name == *name).map(|p| p.body.spec.cidr);
            let cidr = match (name.parse::<IpNet>(), known) {
                (Ok(cidr), _) | (Err(_), Some(cidr)) => cidr,
                // It may have been made a moment ago.
                (Err(_), None) => {
                    let pool: Option<IpPool> = typed::get(self.store.as_ref(), None, name).await?;
                    pool.ok_or_else(|| Error::NoPool(name.clone()))?.body.spec.cidr
                }
            };
            if Family::of(&cidr) != family {
                return Err(Error::OtherFamily { pool: name.clone(), cidr, wanted: family.number() });
            }
            cidrs.push(cidr);
        }
        Ok(cidrs)
    }
}

impl Queue {
    /// Assigns what a call asks for. What is followed may be a moment old, and with it what the call was taken for: a refusal counts
    /// only where the store itself says the same.
    ///
    /// # Errors
    /// As [`Ipam::resolve`] and [`Queue::assign`].
    pub async fn assign_call(&self, ipam: &Ipam, call: AssignCall) -> Result<Assignment, Error> {
        let mut first = None;
        let outcome = match ipam.resolve(call.clone()).await {
            Ok(request) => self.assign(first.insert(request).clone()).await,
            Err(error) => Err(error),
        };
        let is_refused = match &outcome {
            Ok(got) => got.message.is_some(),
            Err(error) => Verdict::of(error) != Verdict::TryAgain,
        };
        if !is_refused || ipam.known().is_none() {
            return outcome;
        }
        let request = ipam.reading().resolve(call).await?;
        // The allocator has asked the store by itself.
        if first.as_ref() == Some(&request) { outcome } else { self.assign(request).await }
    }
}
