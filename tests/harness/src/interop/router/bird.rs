//! BIRD 2: one process, birdc.

use anyhow::{Result, bail};

use super::Router;
use crate::exec::{Exec, Output};
use crate::interop::{Path, Sessions, Table};

pub fn start(router: &mut Router) -> Result<()> {
    let (config, socket, pid) = (router.file("router.conf"), router.file("bird.ctl"), router.file("bird.pid"));
    let recovers = if router.dir.join("was-up").exists() { vec!["-R"] } else { Vec::new() };
    // A start after the first one is a graceful restart, as `bird -R` in a unit's ExecStart.
    std::fs::write(router.dir.join("was-up"), "")?;
    let mut argv = vec!["bird", "-f", "-c", &config, "-s", &socket, "-P", &pid];
    argv.extend(recovers);
    router.spawn("bird", &argv, &[])?;
    router.await_file("bird.ctl")
}

pub fn birdc(router: &Router, command: &str) -> Result<Output> {
    let socket = router.file("bird.ctl");
    let shown = format!("{}# birdc {command}", router.netns.name);
    let mut argv = vec!["birdc", "-s", &socket];
    argv.extend(command.split_whitespace());
    let output = Exec::new(&argv).shown_as(shown).run()?.ok()?;
    if output.stdout.contains("syntax error") {
        bail!("{}", output.stdout);
    }
    Ok(output)
}

/// `show protocols all`: the neighbor's address follows the protocol's line.
pub fn sessions(router: &Router) -> Result<Sessions> {
    let text = birdc(router, "show protocols all")?.stdout;
    let mut sessions = Sessions::new();
    let mut up = false;
    for line in text.lines() {
        if !line.starts_with(' ') {
            up = line.contains("Established");
        }
        if let Some(address) = line.trim().strip_prefix("Neighbor address:") {
            let address = address.split('%').next().unwrap_or(address).trim();
            sessions.insert(address.to_string(), up);
        }
    }
    Ok(sessions)
}

pub fn learned(router: &Router) -> Result<Table> {
    Ok(read(&birdc(router, "show route where source = RTS_BGP all")?.stdout))
}

/// Paths of one prefix follow each other, the prefix printed once; attributes are indented.
fn read(text: &str) -> Table {
    let mut table = Table::new();
    let mut prefix = String::new();
    for line in text.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if !line.starts_with(char::is_whitespace) && first.contains('/') {
            prefix = first.to_string();
        }
        let is_path = !line.starts_with('\t') && line.contains('[') && !prefix.is_empty();
        let paths = table.entry(prefix.clone()).or_default();
        if is_path {
            let (as_path, communities) = (Some(String::new()), Some(Vec::new()));
            paths.push(Path { as_path, communities, ..Path::default() });
        }
        let (Some(path), Some((name, value))) = (paths.last_mut(), line.trim().split_once(": ")) else { continue };
        attribute(path, name, value);
    }
    table.retain(|prefix, _| !prefix.is_empty());
    table
}

fn attribute(path: &mut Path, name: &str, value: &str) {
    match name {
        "BGP.next_hop" => path.next_hop = value.split_whitespace().next().map(str::to_string),
        "BGP.as_path" => path.as_path = Some(value.trim().to_string()),
        "BGP.local_pref" => path.local_pref = value.parse().ok(),
        "BGP.med" => path.med = value.parse().ok(),
        "BGP.originator_id" => path.originator = Some(value.to_string()),
        "BGP.cluster_list" => path.cluster_list = Some(value.split_whitespace().map(str::to_string).collect()),
        "BGP.community" | "BGP.large_community" => {
            // (65000,1) (65000,2), and (1, 2, 3) of large ones.
            let all = value.split(')').filter_map(|c| c.trim().strip_prefix('('));
            let list = path.communities.get_or_insert_default();
            list.extend(all.map(|c| c.replace(", ", ":").replace(',', ":")));
            list.sort();
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_with_two_paths_to_one_prefix() {
        let text = "BIRD 2.0.12 ready.\nTable master4:\n\
            10.96.0.1/32         unicast [node1 15:00:00.000] * (100) [AS65001i]\n\tvia 10.0.0.1 on eth0\n\
            \tType: BGP univ\n\tBGP.origin: IGP\n\tBGP.as_path: 65001 65003\n\tBGP.next_hop: 10.0.0.1\n\
            \tBGP.community: (65001,1) (65001,2)\n\tBGP.large_community: (1, 2, 3)\n\
            \x20                    unicast [node2 15:00:00.000] (100) [i]\n\tvia 10.0.0.3 on eth0\n\
            \tBGP.next_hop: 10.0.0.3\n\tBGP.local_pref: 100\n";
        let table = read(text);
        let paths = &table["10.96.0.1/32"];
        assert_eq!((table.len(), paths.len()), (1, 2));
        assert_eq!(paths[0].as_path.as_deref(), Some("65001 65003"));
        assert_eq!(paths[0].communities.as_deref().unwrap(), ["1:2:3", "65001:1", "65001:2"]);
        assert_eq!((paths[1].next_hop.as_deref(), paths[1].local_pref), (Some("10.0.0.3"), Some(100)));
    }
}
