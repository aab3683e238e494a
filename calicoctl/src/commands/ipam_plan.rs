//! `ipam plan`: how many routes the switch will carry, how often addresses are borrowed, and which block size is best.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Result, bail};
use api::ip_pool::{AllowedUse, AssignmentMode};
use api::{IpPool, Node};
use datastore::typed;
use ipam::plan::{self, Cost, PlannedNode, Scenario};
use ipam::pool::{Family, selects_node};
use ipam::{DEFAULT_MAX_BLOCKS_PER_HOST, Ipam, IpamConfig};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::open_store;
use crate::cli::Output;
use crate::cli::ipam_plan::{IpamPlanArgs, PlanOutput};
use crate::{output, table};

mod picture;

/// Pods that kubelet allows by default.
const DEFAULT_MAX_PODS: u32 = 110;
/// More pods and replacements than these, over all block sizes, would take minutes.
const MOST_EVENTS: f64 = 2e8;
/// Cells of the map of addresses: two lines of it.
const MAP_CELLS: usize = 128;

/// Runs the command.
pub async fn plan(args: &IpamPlanArgs) -> Result<()> {
    let plans = plans(args).await?;
    let text = match args.output {
        PlanOutput::Ps => plans.iter().map(|plan| plan.table()).collect::<Vec<_>>().join("\n"),
        PlanOutput::Svg => picture::svg(&plans),
        PlanOutput::Json | PlanOutput::Yaml => {
            let format = if args.output == PlanOutput::Json { Output::Json } else { Output::Yaml };
            let values: Vec<Value> = plans.iter().map(Plan::value).collect();
            output::structured(&json!({ "plans": values }), format)?.unwrap_or_default()
        }
    };
    output::print(&text);
    Ok(())
}

/// A scenario of one family, and what its block sizes cost.
struct Plan {
    scenario: Scenario,
    costs: Vec<Cost>,
    best: usize,
    /// The block sizes that the pools have now; none where the pools are not in the store.
    present: BTreeSet<u8>,
}

/// What the scenarios are made of.
struct Fleet {
    pools: Vec<IpPool>,
    nodes: Vec<Node>,
    config: IpamConfig,
}

impl Fleet {
    /// What the store has. It is not opened where the flags say everything.
    async fn read(args: &IpamPlanArgs) -> Result<Self> {
        if !args.pools.is_empty() && args.nodes.is_some() {
            return Ok(Self { pools: vec![], nodes: vec![], config: IpamConfig::default() });
        }
        let store = open_store().await?;
        Ok(Self {
            pools: typed::list(store.as_ref()).await?.0,
            nodes: typed::list(store.as_ref()).await?.0,
            config: Ipam::new(store).config().await?,
        })
    }

    /// The pools of one family that give workloads addresses unasked, by name; with the flag, those that it names.
    fn pools(&self, args: &IpamPlanArgs, family: Family) -> Vec<(IpNet, Option<&IpPool>)> {
        if !args.pools.is_empty() {
            return args.pools.iter().filter(|p| Family::of(p) == family).map(|p| (p.trunc(), None)).collect();
        }
        let serves = |pool: &&IpPool| {
            let spec = &pool.body.spec;
            !spec.disabled
                && spec.allows(AllowedUse::Workload)
                && spec.assignment_mode.unwrap_or_default() == AssignmentMode::Automatic
                && Family::of(&spec.cidr) == family
        };
        let mut pools: Vec<&IpPool> = self.pools.iter().filter(serves).collect();
        pools.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        pools.into_iter().map(|pool| (pool.body.spec.cidr, Some(pool))).collect()
    }

    fn nodes(&self, args: &IpamPlanArgs, pools: &[(IpNet, Option<&IpPool>)]) -> Result<Vec<PlannedNode>> {
        if let Some(count) = args.nodes {
            let pools: Vec<usize> = (0..pools.len()).collect();
            return Ok((1..=count).map(|n| PlannedNode { name: format!("node-{n}"), pools: pools.clone() }).collect());
        }
        let mut nodes = Vec::new();
        for node in &self.nodes {
            let mut serving = Vec::new();
            for (i, (_, pool)) in pools.iter().enumerate() {
                if pool.map_or(Ok(true), |pool| selects_node(pool, &node.metadata.labels))? {
                    serving.push(i);
                }
            }
            if !serving.is_empty() {
                nodes.push(PlannedNode { name: node.metadata.name.clone(), pools: serving });
            }
        }
        Ok(nodes)
    }
}

async fn plans(args: &IpamPlanArgs) -> Result<Vec<Plan>> {
    check_pools(&args.pools)?;
    let fleet = Fleet::read(args).await?;
    let strict_affinity = args.strict_affinity.unwrap_or(fleet.config.strict_affinity);
    let max_blocks_per_host = match args.max_blocks_per_host.unwrap_or(fleet.config.max_blocks_per_host) {
        0 => DEFAULT_MAX_BLOCKS_PER_HOST,
        limit => limit,
    } as usize;
    let max_pods = args.max_pods_per_node.unwrap_or(DEFAULT_MAX_PODS.max(args.pods_per_node));
    if max_pods < args.pods_per_node {
        bail!("--max-pods-per-node {max_pods} is less than --pods-per-node {}", args.pods_per_node);
    }
    let mut plans = Vec::new();
    for family in [Family::V4, Family::V6] {
        let pools = fleet.pools(args, family);
        if pools.is_empty() {
            continue;
        }
        let nodes = fleet.nodes(args, &pools)?;
        if nodes.is_empty() {
            bail!("no node in the store is served by a pool: apply Node resources, or give --nodes");
        }
        let present = pools.iter().filter_map(|(_, pool)| pool.map(|p| p.body.spec.block_prefix_len())).collect();
        let scenario = Scenario {
            pools: pools.iter().map(|(cidr, _)| *cidr).collect(),
            nodes,
            pods_per_node: args.pods_per_node as usize,
            max_pods_per_node: max_pods as usize,
            churn: args.churn / 100.0,
            hours: args.hours,
            strict_affinity,
            max_blocks_per_host,
            seed: args.seed,
        };
        if let Some(plan) = played(scenario, &args.block_sizes, present)? {
            plans.push(plan);
        }
    }
    match (plans.is_empty(), args.block_sizes.is_empty()) {
        (false, _) => Ok(plans),
        (true, true) => bail!("no IPPool in the store gives workloads addresses: apply one, or give --pool CIDR"),
        (true, false) => bail!("--block-size: no pool can have blocks of that size"),
    }
}

/// Plays a scenario with each block size that is asked for; `None` when the pools allow none of them.
fn played(scenario: Scenario, asked: &[u8], present: BTreeSet<u8>) -> Result<Option<Plan>> {
    let mut sizes = plan::sizes(&scenario.pools);
    if !asked.is_empty() {
        sizes.retain(|size| asked.contains(size));
    } else if sizes.is_empty() {
        let longest = scenario.pools.iter().map(IpNet::prefix_len).max().unwrap_or_default();
        bail!("no block size fits a pool of /{longest}");
    }
    let pods = (scenario.nodes.len() * scenario.pods_per_node) as f64;
    let events = pods * (1.0 + scenario.churn * scenario.hours) * sizes.len() as f64;
    if events > MOST_EVENTS {
        bail!(
            "{events:.1e} pods would be started over {} block sizes, at most {MOST_EVENTS:.0e} can be: \
             give fewer --hours, less --churn, or --block-size",
            sizes.len()
        );
    }
    let costs: Vec<Cost> = sizes.iter().map(|&size| plan::cost(&scenario, size, MAP_CELLS)).collect();
    let best = plan::best(&costs);
    Ok(best.map(|best| Plan { scenario, costs, best, present }))
}

/// Refuses pools that no IPPool could be.
fn check_pools(pools: &[IpNet]) -> Result<()> {
    for (i, pool) in pools.iter().enumerate() {
        if pool.addr() != pool.network() {
            bail!("--pool {pool}: must be strictly masked: {}", pool.trunc());
        }
        let longest = if pool.max_prefix_len() == 32 { 32 } else { 128 };
        if plan::sizes(std::slice::from_ref(pool)).is_empty() {
            bail!("--pool {pool}: has no block size, the longest block is /{longest}");
        }
        if let Some(other) = pools[..i].iter().find(|o| o.contains(pool) || pool.contains(*o)) {
            bail!("--pool {pool}: overlaps --pool {other}");
        }
    }
    Ok(())
}

impl Plan {
    fn best(&self) -> &Cost {
        &self.costs[self.best]
    }

    fn title(&self) -> String {
        let scenario = &self.scenario;
        let pools: Vec<String> = scenario.pools.iter().map(ToString::to_string).collect();
        format!(
            "{}: {} nodes, {} pods each ({} in all), {} % replaced an hour for {} h",
            pools.join(", "),
            scenario.nodes.len(),
            scenario.pods_per_node,
            scenario.nodes.len() * scenario.pods_per_node,
            scenario.churn * 100.0,
            scenario.hours,
        )
    }

    /// What the plan comes to.
    fn verdict(&self) -> String {
        let best = self.best();
        let mut text = String::new();
        if best.failed > 0 {
            let limit = self.scenario.max_blocks_per_host;
            let strict = if self.scenario.strict_affinity { ", strict affinity" } else { "" };
            let why = format!("too few addresses, or maxBlocksPerHost {limit}{strict}");
            let _ = writeln!(text, "No block size gives every pod an address ({why}).");
        }
        let _ = writeln!(
            text,
            "Best: /{}, with at most {} routes at the switch and {} borrowed addresses.",
            best.block_size, best.routes_peak, best.borrowed_peak
        );
        for cost in
            self.costs.iter().filter(|c| self.present.contains(&c.block_size) && c.block_size != best.block_size)
        {
            let _ = writeln!(
                text,
                "Now: /{}, with at most {} routes and {} borrowed addresses.",
                cost.block_size, cost.routes_peak, cost.borrowed_peak
            );
        }
        text
    }

    fn table(&self) -> String {
        let headings = [
            "BLOCK SIZE",
            "ADDRESSES",
            "BLOCKS",
            "PER NODE",
            "ROUTES",
            "PEAK",
            "BORROWED",
            "PEAK",
            "STRANDED",
            "FAILED",
        ];
        let rows: Vec<Vec<String>> = self
            .costs
            .iter()
            .map(|cost| {
                vec![
                    format!("/{}", cost.block_size),
                    cost.addresses.to_string(),
                    cost.blocks.to_string(),
                    cost.blocks_per_node_max.to_string(),
                    cost.routes.to_string(),
                    cost.routes_peak.to_string(),
                    format!("{:.1}", cost.borrowed_mean),
                    cost.borrowed_peak.to_string(),
                    cost.stranded.to_string(),
                    cost.failed.to_string(),
                ]
            })
            .collect();
        format!(
            "{}\n\n{}{}\n{}",
            self.title(),
            table::tabs(&headings, &rows),
            picture::bars(self, output::width()),
            self.verdict()
        )
    }

    fn value(&self) -> Value {
        let scenario = &self.scenario;
        json!({
            "pools": scenario.pools,
            "nodes": scenario.nodes.len(),
            "podsPerNode": scenario.pods_per_node,
            "maxPodsPerNode": scenario.max_pods_per_node,
            "churnPerHour": scenario.churn,
            "hours": scenario.hours,
            "strictAffinity": scenario.strict_affinity,
            "maxBlocksPerHost": scenario.max_blocks_per_host,
            "seed": scenario.seed,
            "best": self.best().block_size,
            "present": self.present,
            "blockSizes": self.costs,
        })
    }
}

#[cfg(test)]
mod tests;
