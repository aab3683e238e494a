//! ipam check (Calico `calicoctl/commands/ipam/check.go`; its lines word for word, and ours for what it does not look at).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use api::key::KeyRange;
use api::kind::Kind;
use datastore::{DynStore, KeyValue, Op};
use ipam::Ipam;
use ipam::check::repair::{self, Circumstances, Left, Mend};
use ipam::check::report::{Cluster, Report};
use ipam::check::snapshot::{Snapshot, UserKind};
use ipam::check::{self, Findings, Problem};
use ipam::lock;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::cli::ipam::{CheckArgs, Format};
use crate::cluster;
use crate::output::print;

/// What is wrong is looked at twice: while nodes assign addresses, a reading of several kinds of records is not of one moment.
const SECOND_LOOK: Duration = Duration::from_millis(300);
/// Before something is changed, who is in the middle of an allocation has longer.
const SECOND_LOOK_OF_REPAIR: Duration = Duration::from_secs(1);
/// Most rounds of mends in a row in which nothing comes of them: others write the same records.
const MAX_VAIN_ROUNDS: usize = 5;
/// What came of a mend that was made, and of one that would be.
const DONE: &str = "done";
const DONE_IF: &str = "would be done";
/// Nodes that are listed by their allocations (Calico).
const TOP_NODES: usize = 20;

/// Checks, reports and, where asked, repairs. Fails where problems are left.
pub async fn check(store: DynStore, args: &CheckArgs) -> Result<()> {
    let mut cluster = cluster(&store).await?;
    let (mut objects, mut snapshot, mut findings) = observe_twice(&store, args.repair).await?;
    let before = (snapshot.clone(), findings.clone());
    let first = findings.problems.len();
    if args.format == Format::Text {
        print(&text(&snapshot, &findings, args));
    }
    let mut done = Vec::new();
    let mut left = Vec::new();
    if args.repair {
        let cooldown = SignedDuration::from_secs(Ipam::new(store.clone()).config().await?.ip_cooldown_seconds.into());
        let mut known = BTreeSet::new();
        let mut vain = 0;
        loop {
            // Who cannot read the lock is not to rely on it.
            let is_locked = cluster.is_locked && !snapshot.is_unreadable(&lock::key());
            let circumstances = Circumstances { is_locked, cooldown };
            let (mends, cannot) = repair::plan(&snapshot, &findings, circumstances);
            left = cannot;
            if mends.is_empty() {
                break;
            }
            if vain == MAX_VAIN_ROUNDS {
                let again = findings.problems.iter().filter(|p| !left.iter().any(|l| l.problem == **p));
                let again: Vec<Left> =
                    again.map(|p| Left { problem: p.clone(), why: "it comes again".into() }).collect();
                left.extend(again);
                break;
            }
            vain += 1;
            for mend in mends {
                let outcome = if args.dry_run {
                    imagine(&mut objects, &mend);
                    DONE_IF.into()
                } else {
                    carry_out(&store, &mend).await?
                };
                if args.format == Format::Text {
                    let line =
                        if args.dry_run { format!("would {}", mend.what) } else { format!("{}: {outcome}", mend.what) };
                    print(&format!("  {line}\n"));
                }
                if [DONE, DONE_IF].contains(&outcome.as_str()) && known.insert(mend.what.clone()) {
                    vain = 0;
                }
                done.push((mend.what, outcome));
            }
            if args.dry_run {
                snapshot = Snapshot::new(&objects, Timestamp::now());
                findings = check::check(&snapshot);
            } else {
                cluster = self::cluster(&store).await?;
                (objects, snapshot, findings) = observe_twice(&store, true).await?;
            }
        }
        if args.format == Format::Text {
            print(&repaired(&done, &left, args.dry_run));
        }
    }
    if args.dry_run {
        (snapshot, findings) = before;
    }
    if args.format == Format::Json {
        let document = document(&cluster, &snapshot, &findings, &done, &left);
        print(&(serde_json::to_string_pretty(&document)? + "\n"));
    }
    if let Some(path) = &args.output {
        if let Some(user) = snapshot.unreadable_user() {
            bail!(
                "no report is written: {} cannot be read ({}), and addresses that it uses would be reported as leaked",
                user.key,
                user.reason
            );
        }
        if snapshot.is_unreadable(&lock::key()) {
            bail!("no report is written: {} cannot be read, and whose report it is, is not known", lock::key());
        }
        let report = Report::new(&cluster, &snapshot, &findings);
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    match findings.problems.len() {
        0 => Ok(()),
        n if args.repair && !args.dry_run => bail!("{n} of {first} problems are left"),
        1 => bail!("1 problem"),
        n => bail!("{n} problems"),
    }
}

/// Two looks, where the first finds something; what only one of them sees was an allocation under way: one that began before the datastore
/// was locked, too.
async fn observe_twice(store: &DynStore, repairs: bool) -> Result<(Vec<KeyValue>, Snapshot, Findings)> {
    let objects = observe(store).await?;
    let snapshot = Snapshot::new(&objects, Timestamp::now());
    let first = check::check(&snapshot);
    if first.problems.is_empty() {
        return Ok((objects, snapshot, first));
    }
    tokio::time::sleep(if repairs { SECOND_LOOK_OF_REPAIR } else { SECOND_LOOK }).await;
    let objects = observe(store).await?;
    let snapshot = Snapshot::new(&objects, Timestamp::now());
    let mut second = check::check(&snapshot);
    second.problems.retain(|p| first.problems.contains(p));
    Ok((objects, snapshot, second))
}

/// What the ClusterInformation says. One that cannot be read is a problem among the others, and locks, as for every program.
async fn cluster(store: &DynStore) -> Result<Cluster> {
    match cluster::read_any(store.as_ref()).await? {
        Ok(cluster) => Ok(cluster),
        Err(_) => Ok(Cluster { version: env!("CARGO_PKG_VERSION").into(), is_locked: true, ..Cluster::default() }),
    }
}

async fn observe(store: &DynStore) -> Result<Vec<KeyValue>> {
    // Users last: an address is assigned before its workload is written.
    let kinds = [
        Kind::ClusterInformation,
        Kind::IpPool,
        Kind::LoadBalancerIpPool,
        Kind::Node,
        Kind::Service,
        Kind::WorkloadEndpoint,
        Kind::Pod,
    ];
    let ranges = [KeyRange::Handles, KeyRange::HostAffinities, KeyRange::VirtualAffinities, KeyRange::Blocks];
    let mut objects: Vec<KeyValue> = Vec::new();
    for range in ranges.into_iter().chain(kinds.map(KeyRange::Kind)) {
        objects.extend(store.list(&range).await?.items);
    }
    Ok(objects)
}

/// What the store would hold after a mend.
fn imagine(objects: &mut Vec<KeyValue>, mend: &Mend) {
    for op in &mend.ops {
        let value = match op {
            Op::Create(_, value) | Op::Put(_, value) | Op::Update(_, value, _) => Some(value.clone()),
            Op::Delete(..) => None,
            Op::Check(..) => continue,
        };
        objects.retain(|kv| kv.key != *op.key());
        objects.extend(value.map(|value| KeyValue { key: op.key().clone(), value, mod_revision: 0 }));
    }
}

/// Does one mend; what came of it.
async fn carry_out(store: &DynStore, mend: &Mend) -> Result<String> {
    match Ipam::new(store.clone()).commit(mend.ops.clone()).await {
        Ok(None) => Ok(DONE.into()),
        Ok(Some(lost)) => Ok(format!("left for now, it has changed meanwhile ({lost})")),
        Err(error) => Err(error).context(mend.what.clone()),
    }
}

/// What Calico prints, in its order, with a section of our own before the last line.
fn text(snapshot: &Snapshot, findings: &Findings, args: &CheckArgs) -> String {
    let mut out = String::from("Checking IPAM for inconsistencies...\n\n");
    let show_problems = args.show_problem_ips || args.show_all_ips;
    blocks(&mut out, snapshot, findings, args.show_all_ips);
    users(&mut out, snapshot, findings, args.show_all_ips);
    top_nodes(&mut out, findings);
    let mut section = |heading: &str, shows: bool, of: &dyn Fn(&Problem) -> bool, sum: &dyn Fn(usize) -> String| {
        out += heading;
        let found: Vec<&Problem> = findings.problems.iter().filter(|p| of(p)).collect();
        for problem in found.iter().filter(|_| shows) {
            let _ = writeln!(out, "  {problem}");
        }
        out += &sum(found.len());
    };
    section(
        "Scanning for IPs that are allocated but not actually in use...\n",
        show_problems,
        &|p| matches!(p, Problem::Leaked { .. } | Problem::ServiceUnknown { .. }),
        &|n| format!("Found {n} IPs that are allocated in IPAM but not actually in use.\n"),
    );
    section(
        "Scanning for IPs that are in use by a workload or node but not allocated in IPAM...\n",
        show_problems,
        &|p| matches!(p, Problem::NotInPool { .. }),
        &|n| format!("Found {n} in-use IPs that are not in active IP pools.\n"),
    );
    section("", show_problems, &|p| matches!(p, Problem::NotAllocated { .. }), &|n| {
        format!("Found {n} in-use IPs that are in active IP pools but have no corresponding IPAM allocation.\n\n")
    });
    let matched = findings.active_handles.iter().filter(|h| snapshot.handles.contains_key(*h)).count();
    section(
        "Scanning for IPAM handles with no matching IPs...\n",
        show_problems,
        &|p| matches!(p, Problem::HandleLeaked { .. }),
        &|n| format!("Found {n} handles with no matching IPs (and {matched} handles with matches).\n"),
    );
    section(
        "Scanning for IPs with missing handle...\n",
        show_problems,
        &|p| matches!(p, Problem::HandleMissing { .. }),
        &|n| format!("Found {n} handles mentioned in blocks with no matching handle resource.\n"),
    );
    section("Validating IPAMBlock structures...\n", true, &|p| matches!(p, Problem::InvalidBlock { .. }), &|n| {
        format!("Found {n} invalid IPAMBlocks.\n\n")
    });
    section(
        "Scanning for IPs with the wrong owner or several...\n",
        show_problems,
        &|p| {
            matches!(
                p,
                Problem::UsedWhileCooling { .. }
                    | Problem::Duplicate { .. }
                    | Problem::CannotShare { .. }
                    | Problem::WrongOwner { .. }
                    | Problem::AllocatedTwice { .. }
            )
        },
        &|n| format!("Found {n} in-use IPs with the wrong owner or several.\n"),
    );
    section("Counting the IPs of handles...\n", show_problems, &|p| matches!(p, Problem::HandleCount { .. }), &|n| {
        format!("Found {n} handles with wrong counts.\n")
    });
    section(
        "Comparing blocks with pools, nodes and each other...\n",
        true,
        &|p| {
            matches!(
                p,
                Problem::BlockSize { .. }
                    | Problem::OrphanBlock { .. }
                    | Problem::OverlappingBlocks { .. }
                    | Problem::UnownedBlock { .. }
                    | Problem::BlockOfMissingNode { .. }
            )
        },
        &|n| format!("Found {n} blocks that should not be as they are.\n"),
    );
    section(
        "Comparing affinities with blocks...\n",
        true,
        &|p| {
            matches!(
                p,
                Problem::BlockWithoutAffinity { .. }
                    | Problem::AffinityWithoutBlock { .. }
                    | Problem::AffinityOfOther { .. }
                    | Problem::AffinityState { .. }
            )
        },
        &|n| format!("Found {n} affinities that do not match their blocks.\n"),
    );
    section(
        "Scanning for records that cannot be read...\n",
        true,
        &|p| matches!(p, Problem::Unreadable { .. }),
        &|n| format!("Found {n} records that cannot be read.\n\n"),
    );
    let _ = writeln!(out, "Check complete; found {} problems.", findings.problems.len());
    out
}

fn blocks(out: &mut String, snapshot: &Snapshot, findings: &Findings, show_all: bool) {
    out.push_str("Loading all IPAM blocks...\n");
    let _ = writeln!(out, "Found {} IPAM blocks.", snapshot.blocks.len());
    for (cidr, block) in &snapshot.blocks {
        let affinity = block.value.affinity.as_deref().unwrap_or("<none>");
        let _ = writeln!(out, " IPAM block {cidr} affinity={affinity}:");
        if show_all {
            let of_block = findings.allocations.values().flatten().filter(|a| a.block == *cidr);
            for allocation in of_block {
                let _ = writeln!(out, "  {} allocated; attrs {}", allocation.ip, allocation.described());
            }
        }
    }
    let count: usize = findings.allocations.values().map(Vec::len).sum();
    let _ = writeln!(out, "IPAM blocks record {count} allocations.\n");
    out.push_str("Loading all IPAM pools...\n");
    let active: Vec<String> =
        snapshot.pools.iter().filter(|p| !p.disabled).map(|p| format!("  {}\n", p.text)).collect();
    let _ = writeln!(out, "{}Found {} active IP pools.\n", active.concat(), active.len());
}

fn users(out: &mut String, snapshot: &Snapshot, findings: &Findings, show_all: bool) {
    let mut of = |kind: UserKind, heading: &str, sum: &dyn Fn(usize, usize) -> String| {
        let users: Vec<_> = snapshot.users.iter().filter(|u| u.kind == kind).collect();
        out.push_str(heading);
        for user in users.iter().filter(|_| show_all) {
            for ip in &user.addresses {
                let _ = writeln!(out, "  {ip} belongs to {user}");
            }
        }
        let with_addresses = users.iter().filter(|u| !u.addresses.is_empty()).count();
        out.push_str(&sum(users.iter().map(|u| u.addresses.len()).sum(), with_addresses));
    };
    of(UserKind::Node, "Loading all nodes.\n", &|ips, _| format!("Found {ips} node tunnel IPs.\n\n"));
    of(UserKind::Service, "Loading all service load balancer IPs.\n", &|_, services| {
        format!("Found {services} service load balancer(s).\n\n")
    });
    of(UserKind::Workload, "Loading all workload endpoints.\n", &|ips, _| format!("Found {ips} workload IPs.\n"));
    let _ = writeln!(out, "Workloads and nodes are using {} IPs.\n", findings.in_use.len());
    out.push_str("Loading all handles\n");
}

fn top_nodes(out: &mut String, findings: &Findings) {
    let _ = writeln!(out, "Looking for top (up to {TOP_NODES}) nodes by allocations...");
    let mut by_node: BTreeMap<&str, usize> = BTreeMap::new();
    // Addresses of services are no node's.
    for allocation in findings.allocations.values().flatten().filter(|a| !a.node.is_empty()) {
        *by_node.entry(&allocation.node).or_default() += 1;
    }
    let mut nodes: Vec<(&str, usize)> = by_node.into_iter().collect();
    nodes.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
    for (name, count) in nodes.iter().take(TOP_NODES) {
        let _ = writeln!(out, "  {name} has {count} allocations");
    }
    if let [(_, most), ..] = nodes.as_slice() {
        let median = nodes[nodes.len() / 2].1;
        let _ = writeln!(out, "Node with most allocations has {most}; median is {median}");
    }
    out.push('\n');
}

fn repaired(done: &[(String, String)], left: &[Left], dry_run: bool) -> String {
    let mut out = String::new();
    for left in left {
        let _ = writeln!(out, "  cannot mend: {}: {}", left.problem.to_string().trim_end_matches('.'), left.why);
    }
    let n = done.iter().filter(|(_, outcome)| outcome == DONE).count();
    if dry_run {
        let _ = writeln!(out, "Dry run; {} mends would be made, {} problems would be left.", done.len(), left.len());
    } else {
        let _ = writeln!(out, "Repair complete; {n} mends made, {} problems left.", left.len());
    }
    out
}

/// Everything, for programs.
fn document(
    cluster: &Cluster,
    snapshot: &Snapshot,
    findings: &Findings,
    done: &[(String, String)],
    left: &[Left],
) -> Value {
    let with_text = |problem: &Problem| {
        let mut value = json!(problem);
        value["message"] = problem.to_string().into();
        if let Some(left) = left.iter().find(|l| l.problem == *problem) {
            value["cannotMend"] = left.why.clone().into();
        }
        value
    };
    json!({
        "version": cluster.version,
        "clusterGUID": cluster.guid,
        "datastoreLocked": cluster.is_locked,
        "clusterInformationRevision": cluster.revision,
        "clusterType": cluster.cluster_type,
        "blocks": snapshot.blocks.len(),
        "allocations": findings.allocations.values().map(Vec::len).sum::<usize>(),
        "handles": snapshot.handles.len(),
        "inUse": findings.in_use.len(),
        "problems": findings.problems.iter().map(with_text).collect::<Vec<_>>(),
        "repairs": done.iter().map(|(what, outcome)| json!({"what": what, "outcome": outcome})).collect::<Vec<_>>(),
    })
}
