//! switch-config: the switch's side of the nodes' sessions.

use anyhow::{Result, anyhow, bail};
use bgp_plan::switch::{Switch, merge, switches};

use super::plan::load;
use crate::cli::bgp::SwitchConfigArgs;
use crate::output;
use crate::switch_config::render;

/// Writes the configuration of each switch, or of the one that `--peer` names.
pub async fn switch_config(args: &SwitchConfigArgs) -> Result<()> {
    let (resources, router_id) = load(&args.resources, None).await?;
    let (found, notes) = switches(&resources, &args.node, router_id)?;
    notes.iter().for_each(|note| eprintln!("note: {note}"));
    let wanted: Vec<Switch> = if args.peer.is_empty() {
        found
    } else {
        let known: Vec<String> = found.iter().flat_map(|s| &s.addresses).map(ToString::to_string).collect();
        if let Some(unknown) = args.peer.iter().find(|a| !known.contains(&a.to_string())) {
            bail!("no session leads to {unknown}; the switches are {}", known.join(", "));
        }
        let chosen = found.into_iter().filter(|s| s.addresses.iter().any(|a| args.peer.contains(a)));
        vec![merge(chosen.collect()).map_err(|e| anyhow!("{e}"))?]
    };
    if wanted.is_empty() {
        bail!("no node has a session with a switch: there is no BGPPeer whose peerIP is not a node of ours");
    }
    let texts: Vec<String> = wanted.iter().map(|s| render(args.vendor, s)).collect();
    output::print(&texts.join("\n"));
    Ok(())
}
