//! ipam split (Calico `calicoctl/commands/ipam/split.go`): one transaction where it fits into one; where not, it can be interrupted and run
//! again: the old pool goes last.

use anyhow::{Result, bail};
use api::go_json;
use api::key::{Key, KeyRange};
use api::kind::Kind;
use datastore::{DynStore, KeyValue, Op, Txn};
use ipnet::IpNet;
use serde_json::Value;

use crate::cli::ipam::SplitArgs;
use crate::cluster;

/// Most changes of one transaction; etcd's limit is 128 (`--max-txn-ops`).
const CHUNK: usize = 100;
/// Longest name of a resource.
const MAX_NAME: usize = 253;
/// Calico cuts a name to this before it adds to it.
const CUT_NAME: usize = 245;

/// Splits a pool.
pub async fn split(store: DynStore, args: &SplitArgs) -> Result<()> {
    let cluster = cluster::read(store.as_ref()).await?;
    if !cluster.is_locked {
        bail!(
            "datastore is not locked. Run the `calicoctl datastore migrate lock` command in order split the IP pools"
        );
    }
    let n = args.number;
    if n < 2 || !n.is_power_of_two() {
        bail!("number to split CIDR into is not a valid power of 2: {n}; use 2, 4, 8, ...");
    }
    let pools = store.list(&KeyRange::Kind(Kind::IpPool)).await?.items;
    let Some(old) = pools.iter().find(|kv| is_meant(kv, args)) else {
        return already(&pools, args);
    };
    let name = old.key.name().unwrap_or_default();
    let pool: api::IpPool = datastore::typed::decode(old)?;
    let (cidr, block_len) = (pool.body.spec.cidr, pool.body.spec.block_prefix_len());
    let len = cidr.prefix_len() + u8::try_from(n.trailing_zeros()).unwrap_or(u8::MAX);
    if len > cidr.max_prefix_len() {
        bail!("the CIDR {cidr} is not large enough to be split into {n} parts");
    }
    if len > block_len {
        let most = 1u64 << (block_len - cidr.prefix_len()).min(63);
        bail!(
            "the CIDR {cidr} is not large enough to be split into {n} parts: its blocks are /{block_len}, and no pool may be smaller \
             than a block; {most} parts are the most"
        );
    }
    let parts: Vec<(String, IpNet)> = (0..).map(|i| part_name(name, i)).zip(cidr.subnets(len)?).collect();
    let mut ops = Vec::new();
    for (part, cidr) in &parts {
        let key = Key::resource(Kind::IpPool, None, part);
        match pools.iter().find(|kv| kv.key == key) {
            None => ops.push(Op::Create(key, part_of(old, part, cidr)?)),
            Some(present) if cidr_of(present) == Some(*cidr) => {}
            Some(present) => bail!(
                "IPPool {part} exists already, with CIDR {} in place of {cidr}; rename or delete it",
                cidr_of(present).map_or_else(|| "unknown".into(), |c| c.to_string())
            ),
        }
    }
    ops.push(Op::Delete(old.key.clone(), Some(old.mod_revision)));
    let chunk = if store.has_transactions() { CHUNK } else { 1 };
    // The last is the old pool's, by itself or with others.
    for ops in ops.chunks(chunk) {
        store.txn(Txn { ops: ops.to_vec() }).await?;
    }
    println!("IP Pool {name} was successfully split into {n} smaller pools.");
    for (part, cidr) in &parts {
        println!("Created {part} with CIDR {cidr}.");
    }
    println!("Please refer to the documentation for final steps.");
    Ok(())
}

fn is_meant(kv: &KeyValue, args: &SplitArgs) -> bool {
    match (&args.name, args.cidr) {
        (Some(name), _) => kv.key.name() == Some(name),
        (None, cidr) => cidr.is_some() && cidr_of(kv) == cidr.map(|c| c.trunc()),
    }
}

/// No such pool: it was split before, or never was.
fn already(pools: &[KeyValue], args: &SplitArgs) -> Result<()> {
    if let Some(name) = &args.name {
        let parts = (0..args.number).map(|i| Key::resource(Kind::IpPool, None, &part_name(name, i)));
        if parts.into_iter().all(|key| pools.iter().any(|kv| kv.key == key)) {
            println!("IP Pool {name} is split into {} smaller pools already.", args.number);
            return Ok(());
        }
        bail!("unable to find IP pool with name {name}");
    }
    let cidr = args.cidr.map(|c| c.to_string()).unwrap_or_default();
    bail!("unable to find IP pool covering the specified CIDR {cidr}: it must be the pool's own")
}

fn part_name(name: &str, i: u32) -> String {
    let full = format!("split-{name}-{i}");
    if full.len() <= MAX_NAME { full } else { format!("split-{}-{i}", name.get(..CUT_NAME).unwrap_or(name)) }
}

fn cidr_of(kv: &KeyValue) -> Option<IpNet> {
    let value: Value = serde_json::from_slice(&kv.value).ok()?;
    Some(value.pointer("/spec/cidr")?.as_str()?.parse::<IpNet>().ok()?.trunc())
}

/// The old pool's record with another name and CIDR, and an identity of its own.
fn part_of(old: &KeyValue, name: &str, cidr: &IpNet) -> Result<Vec<u8>> {
    let mut value: Value = serde_json::from_slice(&old.value)?;
    value["metadata"]["name"] = name.into();
    value["metadata"]["uid"] = uuid::Uuid::new_v4().to_string().into();
    value["metadata"]["creationTimestamp"] = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
    value["spec"]["cidr"] = cidr.to_string().into();
    if let Some(object) = value.as_object_mut() {
        object.shift_remove("status");
    }
    Ok(go_json::to_vec(&value)?)
}
