//! Pools that are deleted: disabled first, then their blocks are taken from the nodes (Calico `libcalico-go/lib/clientv3/ippool.go`).
//!
//! What is in use stays, in blocks of nobody, and routes to it stay too. An empty block goes.

use std::time::Duration;

use anyhow::{Context as _, Result};
use api::kind::Kind;
use datastore::{DynStore, Error};
use ipam::Ipam;
use ipnet::IpNet;

use crate::stored::{self, Stored};

/// How long allocations that have read the pool while it was enabled are waited for (Calico's).
const PAUSE: Duration = Duration::from_millis(500);
/// How often a pool is read again that others write.
const ATTEMPTS: usize = 20;

/// Makes pools ready to be deleted. Done again where it was interrupted, it does what is left.
///
/// # Errors
/// The store's; pools stay disabled then.
pub async fn pools(store: &DynStore, pools: &[Stored]) -> Result<()> {
    let mut was_enabled = false;
    for pool in pools {
        was_enabled |= disable(store, pool).await?;
    }
    if was_enabled {
        tokio::time::sleep(PAUSE).await;
    }
    let ipam = Ipam::new(store.clone());
    for pool in pools {
        if let Some(cidr) = pool.value["spec"]["cidr"].as_str().and_then(|c| c.parse::<IpNet>().ok()) {
            let released = ipam.release_pool_affinities(cidr).await;
            released.with_context(|| format!("cannot release the blocks of {cidr}; the pool is disabled"))?;
        }
    }
    Ok(())
}

/// Disables a pool; whether it was enabled.
async fn disable(store: &DynStore, pool: &Stored) -> Result<bool> {
    let mut present = Some(pool.clone());
    for _ in 0..ATTEMPTS {
        let Some(mut pool) = present else { return Ok(false) };
        if pool.value["spec"]["disabled"] == true {
            return Ok(false);
        }
        pool.value["spec"]["disabled"] = true.into();
        let name = pool.value["metadata"]["name"].as_str().unwrap_or_default().to_string();
        let value = stored::encode(Kind::IpPool, &pool.value)?;
        match store.update(pool.key, value, pool.revision).await {
            Ok(_) => return Ok(true),
            Err(Error::Conflict(_) | Error::NotFound(_)) => {
                present = stored::get(store.as_ref(), Kind::IpPool, None, &name).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    anyhow::bail!("gave up to disable the pool after {ATTEMPTS} attempts, others write it")
}
