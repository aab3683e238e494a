//! What `bgpctl switch-config` writes, loaded into the real router: the sessions come up, and the filters let pass what nodes
//! announce.

use anyhow::bail;
use harness::cluster::{LEAF_ADDRESSES, Options};
use harness::evidence::eventually;
use harness::exec::Exec;
use harness::main_job::{Job, SETTLE, bgp, pods};
use harness::switch::Tor;

fn runs_what_is_written_for_it(tor: Tor, ebgp: bool) -> anyhow::Result<()> {
    let mut job = Job::start(Options { tor, ebgp, ..Options::default() })?;
    job.attempt(|job| {
        pods::step(job)?;
        bgp::await_sessions(job)?;
        let vendor = tor.title().to_lowercase();
        let written = job.lab.calicoctl(&["switch-config", "--vendor", &vendor, "--peer", LEAF_ADDRESSES[0]])?.ok()?;
        job.lab.leaves[0].kill()?;
        let file = job.lab.leaves[0].replace_config(&written.stdout)?;
        let check: &[&str] = match tor {
            Tor::Bird => &["bird", "-p", "-c", &file],
            _ => &["vtysh", "-C", "-f", &file],
        };
        let checked = Exec::new(check).run()?.ok()?;
        if checked.text().contains("Unknown command") {
            bail!("{}\n{}", checked.text(), written.stdout);
        }
        job.lab.leaves[0].start()?;
        for node in &job.lab.nodes {
            eventually(SETTLE, &format!("{} is established with leaf1", node.name), || {
                let peers = node.peers()?;
                if peers.get(LEAF_ADDRESSES[0]) == Some(&true) {
                    Ok(())
                } else {
                    bail!("{peers:?}\n{}", written.stdout)
                }
            })?;
        }
        bgp::check_switch_routes(job)
    })
}

#[test]
#[ignore = "needs FRR"]
fn frr_with_ebgp() {
    runs_what_is_written_for_it(Tor::Frr, true).unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
#[ignore = "needs FRR"]
fn frr_with_ibgp() {
    runs_what_is_written_for_it(Tor::Frr, false).unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
#[ignore = "needs BIRD"]
fn bird_with_ebgp() {
    runs_what_is_written_for_it(Tor::Bird, true).unwrap_or_else(|error| panic!("{error:#}"));
}
