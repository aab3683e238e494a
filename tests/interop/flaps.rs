//! What the seed warns of: a pair of leaves with different AS numbers, one of which dies and comes back again and again. The
//! prefixes that flap are named, with the peers.

use anyhow::{Context as _, bail};
use harness::cluster::{LEAF_ADDRESSES, Options};
use harness::evidence::eventually;
use harness::main_job::{Job, SETTLE, bgp};
use harness::switch::Tor;

/// Deaths of the leaf: two changes each, spread over two windows at worst.
const DEATHS: usize = 5;
const SETTINGS: &str = "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata:\n  name: default\nspec:\n  \
                        asNumber: 1111111\n  nodeToNodeMeshEnabled: false\n  connectRetryTime: 1s\n  holdTime: 9s\n  flapThreshold: 4\n";

fn routes_by(job: &Job, leaves: &[&str]) -> anyhow::Result<()> {
    let node = &job.lab.nodes[0];
    eventually(SETTLE, &format!("{} routes by {leaves:?}", node.name), || {
        let hops = node.netns.next_hops("0.0.0.0/0")?;
        if hops == leaves { Ok(()) } else { bail!("via {hops:?}") }
    })
}

fn a_leaf_that_dies_again_and_again_is_named(tor: Tor) -> anyhow::Result<()> {
    let mut job = Job::start(Options { tor, ebgp: true, ..Options::default() })?;
    job.attempt(|job| {
        job.lab.apply(SETTINGS)?;
        bgp::await_sessions(job)?;
        let quiet = job.lab.nodes[0].ctl("bgpctl", &["node", "status"]).run()?.ok()?;
        if quiet.stdout.contains("Flapping") {
            bail!("nothing has flapped yet: {}", quiet.stdout);
        }
        routes_by(job, &LEAF_ADDRESSES)?;
        for _ in 0..DEATHS {
            job.lab.kill_leaf(0)?;
            routes_by(job, &LEAF_ADDRESSES[1..])?;
            job.lab.revive_leaf(0)?;
            routes_by(job, &LEAF_ADDRESSES)?;
        }
        let status = job.lab.nodes[0].status("bgpd", "/v1/status")?;
        let flapping = status["flapping"].as_array().context("no list of flapping prefixes")?;
        let default = flapping.iter().find(|f| f["prefix"] == "0.0.0.0/0").context(status.to_string())?;
        for leaf in LEAF_ADDRESSES {
            if !default["peers"].as_array().is_some_and(|p| p.iter().any(|a| a == leaf)) {
                bail!("{leaf} is not among the peers of {default}");
            }
        }
        let metrics = job.lab.nodes[0].answer("bgpd", "/metrics")?;
        for leaf in LEAF_ADDRESSES {
            let series = format!("tortie_bgp_peer_flapping_prefixes{{peer=\"{leaf}\"");
            let value = metrics.lines().find(|l| l.starts_with(&series)).and_then(|l| l.rsplit(' ').next());
            if value.and_then(|v| v.parse::<f64>().ok()).is_none_or(|n| n < 1.0) {
                bail!("no metric says that {leaf} has part in the flapping: {value:?} in {metrics}");
            }
        }
        let shown = job.lab.nodes[0].ctl("bgpctl", &["node", "status"]).run()?.ok()?;
        let line = shown.stdout.lines().find(|l| l.starts_with("0.0.0.0/0 ")).unwrap_or_default();
        if !line.contains(LEAF_ADDRESSES[0]) {
            bail!("node status does not name the default route and its peers: {}", shown.stdout);
        }
        job.report.all(&shown);
        Ok(())
    })
}

#[test]
#[ignore = "needs FRR"]
fn frr() {
    a_leaf_that_dies_again_and_again_is_named(Tor::Frr).unwrap_or_else(|error| panic!("{error:#}"));
}
