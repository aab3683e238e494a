//! ipam configure (Calico `calicoctl/commands/ipam/configure.go`).

use anyhow::{Context as _, Result, bail};
use api::ipam::IpamConfig;
use api::{Key, go_json};
use datastore::{DynStore, Error, Op, Txn};
use serde_json::{Map, Value, json};

use crate::cli::ipam::ConfigureArgs;

/// How often a change is made again when somebody else writes the configuration at the same time.
const ATTEMPTS: u32 = 20;
/// Calico's limit.
const MAX_BLOCKS: u32 = 1_000_000;
/// Calico's limit.
const MAX_COOLDOWN: u32 = 1200;

/// Changes what is named, and leaves the rest of the record as it is.
pub async fn configure(store: DynStore, args: &ConfigureArgs) -> Result<()> {
    let changes = changes(args)?;
    for _ in 0..ATTEMPTS {
        let found = store.get(&Key::IpamConfig).await?;
        let mut record: Map<String, Value> = match &found {
            Some(kv) => {
                serde_json::from_slice(&kv.value).with_context(|| format!("{} holds what cannot be read", kv.key))?
            }
            None => {
                let defaults = serde_json::to_value(IpamConfig::default())?;
                defaults.as_object().cloned().unwrap_or_default()
            }
        };
        for (stored, _, value) in &changes {
            record.insert((*stored).into(), value.clone());
        }
        let config: IpamConfig = serde_json::from_value(Value::Object(record.clone()))?;
        if !config.strict_affinity && !config.auto_allocate_blocks {
            bail!("{}", ipam::Error::InvalidConfig);
        }
        let value = go_json::to_vec(&record)?;
        let op = match found {
            Some(kv) if kv.value == value => Op::Check(Key::IpamConfig, kv.mod_revision),
            Some(kv) => Op::Update(Key::IpamConfig, value, kv.mod_revision),
            None => Op::Create(Key::IpamConfig, value),
        };
        match store.txn(Txn { ops: vec![op] }).await {
            Err(Error::Conflict(_) | Error::NotFound(_) | Error::AlreadyExists(_)) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {
                for (_, name, value) in &changes {
                    let value = value.as_str().map_or_else(|| value.to_string(), str::to_string);
                    println!("Successfully set {name} to: {value}");
                }
                return Ok(());
            }
        }
    }
    bail!("gave up after {ATTEMPTS} attempts, others write {} too", Key::IpamConfig)
}

/// Stored name, the name in messages, and value of each flag; the texts of errors begin as Calico's.
fn changes(args: &ConfigureArgs) -> Result<Vec<(&'static str, &'static str, Value)>> {
    let mut changes = Vec::new();
    if let Some(text) = &args.strictaffinity {
        let value = match text.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            other => bail!("invalid value. Use true or false to set strictaffinity: not '{other}'"),
        };
        changes.push(("strict_affinity", "StrictAffinity", json!(value)));
    }
    if let Some(text) = &args.max_blocks_per_host {
        let value = text.parse::<u32>().ok().filter(|n| *n <= MAX_BLOCKS);
        let value = value.with_context(|| {
            format!("invalid value for maxblockhost. Use a valid number: 0 to {MAX_BLOCKS}, not '{text}'")
        })?;
        changes.push(("maxBlocksPerHost", "MaxBlocksPerHost", json!(value)));
    }
    if let Some(text) = &args.kubevirt_ip_persistence {
        if !matches!(text.as_str(), "Enabled" | "Disabled") {
            bail!("invalid value for --kubevirt-ip-persistence. Use Enabled or Disabled: not '{text}'");
        }
        eprintln!("warning: kubeVirtVMAddressPersistence: {}: no virtual machine is known", api::schema::INERT);
        changes.push(("kubeVirtVMAddressPersistence", "KubeVirtVMAddressPersistence", json!(text)));
    }
    if let Some(text) = &args.ip_cooldown_seconds {
        let value = text.parse::<u32>().ok().filter(|n| *n <= MAX_COOLDOWN);
        let value = value.with_context(|| {
            format!(
                "invalid value for --ip-cooldown-seconds. Use a number of seconds: 0 to {MAX_COOLDOWN}, not '{text}'"
            )
        })?;
        changes.push(("ipCooldownSeconds", "IPCooldownSeconds", json!(value)));
    }
    if changes.is_empty() {
        bail!(
            "at least one configuration option must be specified: --strictaffinity, --max-blocks-per-host, \
             --kubevirt-ip-persistence or --ip-cooldown-seconds"
        );
    }
    Ok(changes)
}
