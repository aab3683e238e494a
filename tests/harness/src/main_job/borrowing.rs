//! Step 5: a borrowed address is reachable although the switch reflects no route; strict affinity forbids borrowing.

use anyhow::{Context, Result, bail};

use super::pods::NAMESPACE;
use super::{Job, SETTLE};
use crate::evidence::eventually;
use crate::netns::Netns;
use crate::pod::PodSpec;
use crate::traffic::ping;

/// Two blocks of four addresses: one for worker01, one for worker02.
const POOL: &str = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: two-blocks\nspec:\n  cidr: 1.1.200.0/29\n  \
    blockSize: 30\n  nodeSelector: \"!all()\"\n  ipipMode: Never\n  vxlanMode: Never\n  natOutgoing: false\n";
/// Calico's words (`libcalico-go/lib/ipam`).
const STRICT_MESSAGE: &str = "No more free affine blocks and strict affinity enabled";

/// Exhausts a block, borrows, forbids borrowing.
///
/// # Errors
/// With the ping that was lost or the message that differs.
pub fn step(job: &mut Job) -> Result<()> {
    job.report.step(5, "Borrowing without route reflection, and strict affinity");
    borrow(job)?;
    strict_affinity(job)?;
    // The rest of the job has no use for them, and the summary is to fit a screen.
    for (node, name) in names(job) {
        job.lab.delete_pod(node, &name)?;
    }
    Ok(())
}

/// worker02 fills its own block; the next pod borrows from worker01's.
///
/// # Errors
/// When it does not, or somebody cannot reach it.
pub fn borrow(job: &mut Job) -> Result<()> {
    job.lab.apply(POOL)?;
    let owner = job.lab.add_pod(0, pod("owner"))?.address.clone();
    for i in 1..=4 {
        job.lab.add_pod(1, pod(&format!("filler-{i}")))?;
    }
    let borrowed = job.lab.add_pod(1, pod("borrower"))?;
    let (address, netns) = (borrowed.address.clone(), borrowed.netns.clone());
    let block = super::pods::block_of(&address, 30)?;
    if block != super::pods::block_of(&owner, 30)? {
        bail!("the fifth pod of worker02 got {address}, which is not from worker01's block ({owner})");
    }
    job.report.all(&job.lab.calicoctl(&["ipam", "show", "--show-blocks"])?);
    let host = format!("{address}/32");
    for (node, via) in [(0, "owner of the block"), (2, "neither")] {
        let node = &job.lab.nodes[node];
        let shown =
            eventually(SETTLE, &format!("{} ({via}) has a route to the borrower of {address}", node.name), || {
                let found = node.netns.route_text(&host)?;
                if found.stdout.contains(" via ") || found.stdout.contains("nexthop") {
                    Ok(found)
                } else {
                    bail!("{found:?}")
                }
            })?;
        job.report.all(&shown);
    }
    for leaf in &job.lab.leaves {
        let (borrower, owner) = (job.lab.nodes[1].address.clone(), job.lab.nodes[0].address.clone());
        eventually(SETTLE, "the leaves have the /32 via its borrower, and the block via its owner", || {
            leaf.check_route(&host, &[&borrower])?;
            leaf.check_route(&block, &[&owner])
        })?;
    }
    let pod_of = |node: usize, name: &str| -> Result<Netns> {
        Ok(job.lab.nodes[node].pods.get(name).with_context(|| format!("no pod {name}"))?.netns.clone())
    };
    let from = [
        job.lab.nodes[0].netns.clone(),
        job.lab.nodes[2].netns.clone(),
        pod_of(0, "owner")?,
        pod_of(2, "web-3")?,
        job.lab.client.clone(),
    ];
    for netns in &from {
        job.report.shown(&ping(netns, &address, 3)?, |l| l.contains("packets transmitted"));
    }
    job.report.shown(&ping(&netns, &owner, 3)?, |l| l.contains("packets transmitted"));
    job.report
        .checked(&format!("{address}, borrowed by worker02 out of worker01's {block}, is reached from everywhere"));
    job.report.conclude(
        "a borrowed address is reached, the switches reflecting nothing",
        "ping from worker01, worker03, their pods, the client",
    );
    Ok(())
}

/// With strictAffinity an exhausted block is the end.
///
/// # Errors
/// When a pod gets an address, or another message.
pub fn strict_affinity(job: &mut Job) -> Result<()> {
    let set =
        |job: &Job, value: &str| job.lab.calicoctl(&["ipam", "configure", &format!("--strictaffinity={value}")])?.ok();
    job.report.all(&set(job, "true")?);
    let spec = pod("refused");
    let netns = Netns::create(job.lab.id(), "refused", job.lab.nodes[1].cgroup().join("pods/refused"))?;
    job.lab.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: refused\n  namespace: {NAMESPACE}\n  annotations:\n    \
         cni.projectcalico.org/ipv4pools: '[\"two-blocks\"]'\n"
    ))?;
    let refused = job.lab.cni(1, "ADD", &spec, &netns)?;
    if refused.code == 0 || !refused.text().contains(STRICT_MESSAGE) {
        bail!(
            "with strictAffinity, ADD does not fail with '{STRICT_MESSAGE}' (code {}): {}",
            refused.code,
            refused.text()
        );
    }
    job.report.all(&refused);
    job.report.checked("with strictAffinity the allocation fails, and says why");
    job.report.conclude("strictAffinity forbids borrowing", format!("CNI ADD: '{STRICT_MESSAGE}'"));
    job.lab.cni(1, "DEL", &spec, &netns)?.ok()?;
    crate::exec::run(&["ip", "netns", "del", &netns.full_name])?;
    job.lab.calicoctl(&["delete", "pod", "refused", "-n", NAMESPACE])?.ok()?;
    job.report.all(&set(job, "false")?);
    Ok(())
}

fn pod(name: &str) -> PodSpec {
    PodSpec::new(NAMESPACE, name).annotation("cni.projectcalico.org/ipv4pools", "[\"two-blocks\"]")
}

fn names(job: &Job) -> Vec<(usize, String)> {
    let of_this_step = |n: &&String| n.starts_with("filler") || *n == "owner" || *n == "borrower";
    let nodes = job.lab.nodes.iter().enumerate();
    nodes.flat_map(|(i, node)| node.pods.keys().filter(of_this_step).map(move |n| (i, n.clone()))).collect()
}
