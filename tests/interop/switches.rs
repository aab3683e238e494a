//! bgpd with each switch: sessions, routes, and what happens when the router on the switch dies but its links stay.

use std::time::Duration;

use anyhow::bail;
use harness::cluster::{LEAF_ADDRESSES, Options};
use harness::evidence::eventually;
use harness::main_job::{Job, SETTLE, bgp, pods};
use harness::switch::{HOLD_TIME, Tor};

fn follows_a_restart_of_the_router(tor: Tor) -> anyhow::Result<()> {
    let mut job = Job::start(Options { tor, ..Options::default() })?;
    job.attempt(|job| {
        pods::step(job)?;
        bgp::await_sessions(job)?;
        bgp::check_switch_routes(job)?;
        job.lab.leaves[0].kill()?;
        let limit = Duration::from_secs(u64::from(HOLD_TIME) + 6);
        for node in &job.lab.nodes {
            eventually(limit, &format!("bgpd of {} notices that leaf1 is silent", node.name), || {
                let peers = node.peers()?;
                let up = |i: usize| peers.get(LEAF_ADDRESSES[i]).copied();
                if up(0) == Some(false) && up(1) == Some(true) { Ok(()) } else { bail!("{peers:?}") }
            })?;
        }
        job.lab.leaves[0].start()?;
        bgp::await_sessions(job)?;
        bgp::check_switch_routes(job)?;
        for node in &job.lab.nodes {
            eventually(SETTLE, &format!("{} routes by both leaves", node.name), || {
                let hops = node.netns.next_hops("0.0.0.0/0")?;
                if hops == LEAF_ADDRESSES { Ok(()) } else { bail!("via {hops:?}") }
            })?;
        }
        Ok(())
    })
}

#[test]
#[ignore = "needs FRR"]
fn frr() {
    follows_a_restart_of_the_router(Tor::Frr).unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
#[ignore = "needs BIRD"]
fn bird() {
    follows_a_restart_of_the_router(Tor::Bird).unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
#[ignore = "needs GoBGP"]
fn gobgp() {
    follows_a_restart_of_the_router(Tor::Gobgp).unwrap_or_else(|error| panic!("{error:#}"));
}
