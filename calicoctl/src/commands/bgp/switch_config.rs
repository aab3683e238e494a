//! switch-config: the switch's side of the nodes' sessions.

use std::net::IpAddr;

use anyhow::{Result, anyhow, bail};
use bgp_plan::switch::{End, Switch, merge, switches};

use super::plan::load;
use crate::cli::bgp::SwitchConfigArgs;
use crate::output;
use crate::switch_config::render;

/// Writes the configuration of each switch, or of the one that `--peer` names.
pub async fn switch_config(args: &SwitchConfigArgs) -> Result<()> {
    let (resources, router_id) = load(&args.resources, None).await?;
    let (mut found, notes) = switches(&resources, &args.node, router_id)?;
    notes.iter().for_each(|note| eprintln!("note: {note}"));
    if found.is_empty() {
        bail!("no node has a session with a switch: there is no BGPPeer whose peer is not a node of ours");
    }
    if !args.peer.is_empty() {
        found = vec![chosen(&found, &args.peer)?];
    }
    let all = found.len();
    found.retain_mut(|switch| match (switch.asn, args.asn) {
        (0, Some(asn)) => {
            switch.asn = asn.0;
            true
        }
        (0, None) => {
            eprintln!("note: nodes take any AS of {}: say which one the switch has, with --as-number", switch.ends[0]);
            false
        }
        (known, Some(asn)) if known != asn.0 => {
            eprintln!("note: nodes expect AS {known} of {}, not {}", switch.ends[0], asn.0);
            false
        }
        _ => true,
    });
    if found.is_empty() {
        bail!("nothing is left of {all} switch{}", if all == 1 { "" } else { "es" });
    }
    let texts: Vec<String> = found.iter().map(|s| render(args.vendor, s)).collect();
    output::print(&texts.join("\n"));
    Ok(())
}

/// The one switch that all these words mean.
fn chosen(found: &[Switch], words: &[String]) -> Result<Switch> {
    let known: Vec<String> = found.iter().flat_map(|s| &s.ends).map(ToString::to_string).collect();
    if let Some(unknown) = words.iter().find(|w| !found.iter().any(|s| is_meant(found, s, w))) {
        bail!("no session leads to {unknown}; the switches are {}", known.join(", "));
    }
    let is_chosen = |s: &&Switch| words.iter().any(|w| is_meant(found, s, w));
    let mut chosen: Vec<Switch> = found.iter().filter(is_chosen).cloned().collect();
    for switch in &mut chosen {
        // Of one that connects from inside a range the address is known now.
        let inside =
            |net: &ipnet::IpNet| words.iter().filter_map(|w| w.parse::<IpAddr>().ok()).find(|a| net.contains(a));
        let group_ends = switch.groups.iter_mut().map(|g| &mut g.end);
        for end in switch.ends.iter_mut().chain(group_ends) {
            if let End::Range(net) = end
                && let Some(address) = inside(net)
            {
                *end = End::Address(address);
            }
        }
    }
    merge(chosen).map_err(|e| anyhow!("{e}"))
}

/// Whether a word names the switch: its own address does before a range that has it.
fn is_meant(all: &[Switch], switch: &Switch, word: &str) -> bool {
    let address = word.parse::<IpAddr>().ok();
    let is_named = |end: &End| end.to_string() == word || (address.is_some() && end.address() == address);
    let is_around = |end: &End| matches!((end, address), (End::Range(net), Some(a)) if net.contains(&a));
    match all.iter().flat_map(|s| &s.ends).any(is_named) {
        true => switch.ends.iter().any(is_named),
        false => switch.ends.iter().any(is_around),
    }
}
