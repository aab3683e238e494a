//! plan: the sessions and filters that resources give a node, as its speaker would run them.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Result, anyhow, bail};
use api::key::KeyRange;
use bgp_plan::config::{DEFAULT_RESTART_TIME, PeerConfig, PeerId};
use bgp_plan::password;
use bgp_plan::peers::{Plan, RouterId};
use bgp_plan::resources::{Resources, SecretFile};
use datastore::watcher::Update;
use serde_json::{Map, Value, json};

use crate::cli::Output;
use crate::cli::bgp::{PlanArgs, ResourceArgs};
use crate::commands::{open_store, resources};
use crate::plan::{Failure, Verb, execute};
use crate::{documents, output, table};

/// Shows the plan of a node.
pub async fn plan(args: &PlanArgs) -> Result<()> {
    let (resources, router_id) = load(&args.resources, Some(&args.node)).await?;
    let plan = bgp_plan::peers::plan(&args.node, &resources, router_id)?;
    let value = value(&args.node, &plan)?;
    match output::structured(&value, args.output)? {
        Some(text) => output::print(&text),
        None => output::print(&text(&value, args.output == Output::Wide, output::width())),
    }
    Ok(())
}

/// The resources from files, or from the store; `node`: whose blocks count.
pub async fn load(args: &ResourceArgs, node: Option<&str>) -> Result<(Resources, RouterId)> {
    let router_id = RouterId::parse(&args.router_id).map_err(|e| anyhow!("{e}"))?;
    let store = if args.filename.is_empty() { open_store().await? } else { from_files(args).await? };
    let mut resources = Resources { namespace: args.namespace.clone(), ..Resources::default() };
    take(&store, resources.ranges(node.unwrap_or_default()), &mut resources).await?;
    take(&store, resources.more_ranges(), &mut resources).await?;
    take_secret_files(&args.secrets_dir, &mut resources);
    Ok((resources, router_id))
}

/// The passwords that are files, as bgpd reads them.
fn take_secret_files(dir: &Path, resources: &mut Resources) {
    for (name, key) in password::wanted(resources) {
        let file = dir.join(&name).join(&key);
        match std::fs::read(&file) {
            Ok(octets) => drop(resources.secret_files.insert((name, key), SecretFile(octets))),
            // Absent: the plan says what to create.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(e) => eprintln!("note: cannot read {}, the plan is as without it: {e}", file.display()),
        }
    }
}

async fn take(store: &datastore::DynStore, ranges: Vec<KeyRange>, resources: &mut Resources) -> Result<()> {
    for range in ranges {
        for item in store.list(&range).await?.items {
            resources.update(&Update::Put(item));
        }
    }
    Ok(())
}

/// Files as a store that only this process sees: read and checked as `apply` does.
async fn from_files(args: &ResourceArgs) -> Result<datastore::DynStore> {
    let sources = documents::read(&args.filename, args.recursive)?;
    let loaded = resources::checked(&sources, None, "planned")?;
    let store: datastore::DynStore = std::sync::Arc::new(datastore::memory::MemoryStore::new());
    match execute(&store, &loaded.documents, Verb::Suppose).await {
        Ok(()) => Ok(store),
        Err(Failure::Problems(problems)) => {
            problems.iter().for_each(|p| eprintln!("{p}"));
            bail!("nothing was planned")
        }
        Err(Failure::Store(_, error)) => Err(error),
    }
}

/// The plan in the form of the output.
fn value(node: &str, plan: &Plan) -> Result<Value> {
    let config = &plan.config;
    let peers: Vec<Value> = config.peers.iter().map(|(id, p)| peer(id, p)).collect::<Result<_>>()?;
    let dynamic: Vec<Value> = config
        .dynamic
        .iter()
        .map(|(name, d)| {
            let mut row = plain(serde_json::to_value(&d.peer)?);
            row["template"] = name.as_str().into();
            row["prefix"] = d.prefix.to_string().into();
            row["limit"] = d.limit.into();
            Ok(row)
        })
        .collect::<Result<_>>()?;
    let unnumbered: Vec<Value> =
        config.unnumbered.values().map(|p| Ok(plain(serde_json::to_value(p)?))).collect::<Result<_>>()?;
    Ok(json!({
        "node": node,
        "routerId": config.router_id,
        "localAs": config.local_as,
        "listen": config.listen,
        "flapThreshold": config.flap_threshold,
        "bmpCollectors": config.bmp,
        "peers": peers,
        "dynamicPeers": dynamic,
        "unnumberedPeers": unnumbered,
        "reachableBy": plan.gateways,
        "serviceRanges": plan.services.aggregates,
        "notes": plan.notes,
    }))
}

fn peer(id: &PeerId, config: &PeerConfig) -> Result<Value> {
    let mut row = Map::new();
    row.insert("address".into(), id.address.to_string().into());
    row.insert("port".into(), id.port.into());
    if let Value::Object(fields) = plain(serde_json::to_value(config)?) {
        row.extend(fields);
    }
    Ok(row.into())
}

/// The form of the speaker's own configuration in that of resources: names in camel case, durations as `5s`, prefixes and
/// communities as they are written.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(fields) => match duration(&fields).or_else(|| prefix(&fields)).or_else(|| community(&fields)) {
            Some(text) => text.into(),
            None => fields.into_iter().map(|(name, v)| (camel(&name), plain(v))).collect::<Map<_, _>>().into(),
        },
        Value::Array(items) => items.into_iter().map(plain).collect(),
        other => other,
    }
}

fn duration(fields: &Map<String, Value>) -> Option<String> {
    let (secs, nanos) = (fields.get("secs")?.as_u64()?, fields.get("nanos")?.as_u64()?);
    let millis = secs * 1000 + nanos / 1_000_000;
    Some(if millis % 1000 == 0 { format!("{secs}s") } else { format!("{millis}ms") })
}

fn prefix(fields: &Map<String, Value>) -> Option<String> {
    let (address, len) = (fields.get("address")?.as_str()?, fields.get("len")?.as_u64()?);
    (fields.len() == 2).then(|| format!("{address}/{len}"))
}

fn community(fields: &Map<String, Value>) -> Option<String> {
    if let Some(c) = fields.get("Standard").and_then(Value::as_u64) {
        return Some(format!("{}:{}", c >> 16, c & 0xffff));
    }
    let large: Option<Vec<String>> =
        fields.get("Large")?.as_array()?.iter().map(|n| n.as_u64().map(|n| n.to_string())).collect();
    large.map(|numbers| numbers.join(":"))
}

/// `hold_time` as `holdTime`.
fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_string();
    words.fold(first, |all, word| {
        let (head, tail) = word.split_at(word.len().min(1));
        all + &head.to_ascii_uppercase() + tail
    })
}

fn text(plan: &Value, is_wide: bool, width: Option<usize>) -> String {
    let listen: Vec<String> = plan["listen"].as_array().into_iter().flatten().map(output::text).collect();
    let mut out = format!(
        "Node:      {}\nRouter id: {}\nAS:        {}\nListens:   {}\n\n",
        output::text(&plan["node"]),
        output::text(&plan["routerId"]),
        plan["localAs"],
        if listen.is_empty() { "nowhere".into() } else { listen.join(", ") }
    );
    let headings = ["ADDRESS", "PORT", "NAME", "TYPE", "AS", "HOLD", "SETTINGS", "IMPORT", "EXPORT", "DOWN BECAUSE"];
    let peers: Vec<&Value> = ["peers", "dynamicPeers", "unnumberedPeers"]
        .iter()
        .flat_map(|k| plan[*k].as_array().into_iter().flatten())
        .collect();
    let mut rows: Vec<Vec<String>> = peers.iter().map(|p| row(p)).collect();
    table::fit(&headings, &mut rows, width, table::TABS.0, table::TABS.1);
    out += &if rows.is_empty() { "No sessions.\n\n".into() } else { table::tabs(&headings, &rows) };
    if is_wide {
        out += &peers.iter().map(|p| policies(p)).collect::<String>();
    }
    let notes: String =
        plan["notes"].as_array().into_iter().flatten().map(|n| format!("  {}\n", output::text(n))).collect();
    if notes.is_empty() { out } else { format!("{out}Notes\n{notes}") }
}

fn row(peer: &Value) -> Vec<String> {
    let field = |name: &str| output::text(&peer[name]);
    let rules = |name: &str| {
        let count = peer[name]["rules"].as_array().map_or(0, Vec::len);
        let rest = match (name, peer[name]["default"] == "Accept") {
            (_, true) => "accept",
            // Of those the export rules have said before what becomes of them.
            ("export", false) => "own routes",
            (_, false) => "reject",
        };
        format!("{count}, then {rest}")
    };
    let address = whom(peer);
    let hold = format!("{}s", peer["holdTime"]);
    vec![
        address,
        field("port"),
        field("name"),
        field("peerType"),
        format!("{}-{}", peer["localAs"], peer["remoteAs"]),
        hold,
        settings(peer),
        rules("import"),
        rules("export"),
        field("downReason"),
    ]
}

/// Where the peer is.
fn whom(peer: &Value) -> String {
    let known = [&peer["address"], &peer["prefix"], &peer["interface"]].into_iter().find(|v| !v.is_null());
    known.map(output::text).unwrap_or_default()
}

/// What differs from an ordinary session, in the order in which one would ask.
fn settings(peer: &Value) -> String {
    let is = |field: &str| peer[field] == true;
    let flag = |field: &str, name: &str| is(field).then(|| name.to_string());
    let present = |field: &str, name: &str| (!peer[field].is_null()).then(|| name.to_string());
    let number = |field: &str, name: &str| peer[field].as_u64().map(|n| format!("{name}:{n}"));
    let unlike = |field: &str, usual: u64, name: &str| number(field, name).filter(|_| peer[field] != usual);
    let bfd = &peer["bfd"];
    let bfd = (!bfd.is_null()).then(|| {
        let time = |field: &str| output::text(&bfd[field]);
        let multihop = if bfd["isMultihop"] == true { ",multihop" } else { "" };
        format!("bfd:{}/{}x{}{multihop}", time("minRx"), time("minTx"), bfd["multiplier"])
    });
    let add_path = match (is("addPathSend"), is("addPathReceive")) {
        (true, true) => Some("add-path:both"),
        (true, false) => Some("add-path:send"),
        (false, true) => Some("add-path:receive"),
        (false, false) => None,
    };
    let next_hop = match peer["nextHopMode"].as_str() {
        Some("SelfAddress") => Some("next-hop:self"),
        Some("Keep") => Some("next-hop:keep"),
        _ => None,
    };
    let role = peer["role"].as_str().map(|r| format!("role:{r}{}", if is("roleIsStrict") { ",strict" } else { "" }));
    let all = [
        (is("v4") && is("v6")).then(|| "families:IPv4,IPv6".into()),
        flag("passive", "passive"),
        flag("rrClient", "client"),
        present("password", "password"),
        number("ttlSecurity", "gtsm"),
        bfd,
        number("keepalive", "keepalive"),
        peer["connectRetry"].as_str().filter(|t| *t != "5s").map(|t| format!("retry:{t}")),
        peer["gracefulRestart"].is_null().then(|| "no-graceful-restart".into()),
        unlike("gracefulRestart", DEFAULT_RESTART_TIME.into(), "restart"),
        number("longLivedStaleTime", "long-lived"),
        next_hop.map(Into::into),
        add_path.map(Into::into),
        flag("extendedNextHop", "extended-next-hop"),
        (peer["extendedMessages"] == false).then(|| "no-extended-messages".into()),
        unlike("allowOwnAs", 0, "allow-own-as"),
        role,
        number("limit", "peers"),
        peer["maxPrefixes"]["limit"].as_u64().map(|n| format!("max-prefixes:{n}")),
        flag("requiresPolicy", "requires-policy"),
        flag("rejectsAsSets", "rejects-as-sets"),
        flag("gracefulShutdown", "graceful-shutdown"),
        present("shutdown", "shutdown"),
    ];
    all.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// Every rule of a session, a line each.
fn policies(peer: &Value) -> String {
    let mut out = String::new();
    for direction in ["import", "export"] {
        for rule in peer[direction]["rules"].as_array().into_iter().flatten() {
            let is_set = |v: &Value| !v.is_null() && *v != json!([]) && *v != json!("");
            let condition = |(name, v): (&String, &Value)| match name.as_str() {
                "name" | "action" | "operations" | "family" => None,
                _ => is_set(v).then(|| format!(" {name}={}", compact(v))),
            };
            let conditions: String = rule.as_object().into_iter().flatten().filter_map(condition).collect();
            let all = if conditions.is_empty() { " everything" } else { "" };
            let operations = rule["operations"].as_array().into_iter().flatten().filter_map(Value::as_object).flatten();
            let then: String = operations.map(|(name, v)| format!(" {}={}", camel_from(name), compact(v))).collect();
            let then = if then.is_empty() { then } else { format!(" then{then}") };
            let (action, name) = (output::text(&rule["action"]).to_lowercase(), output::text(&rule["name"]));
            let family = output::text(&rule["family"]).replace("Ip", " IP");
            let named = if name.is_empty() { name } else { format!(" ({name})") };
            out += &format!("{} {direction} {action}{family}{all}{conditions}{then}{named}\n", whom(peer));
        }
    }
    if out.is_empty() { out } else { out + "\n" }
}

/// `AddCommunity` as a BGPFilter has it.
fn camel_from(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(letters).collect()
}

fn compact(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            fields.iter().filter(|(_, v)| !v.is_null()).map(|(_, v)| compact(v)).collect::<Vec<_>>().join(",")
        }
        Value::Array(items) => items.iter().map(compact).collect::<Vec<_>>().join(","),
        other => output::text(other),
    }
}

#[cfg(test)]
mod tests {
    use bgp_plan::config::{PeerType, SpeakerConfig};
    use bgp_plan::password::REDACTED;
    use bgp_proto::policy::{Action, Community, Operation, Rule};

    use super::*;

    fn planned() -> Value {
        let mut peer = PeerConfig::new("Global_192_0_2_1", PeerType::Global, 65010, 65001);
        peer.password = Some("hunter2".into());
        peer.ttl_security = Some(1);
        let operations = vec![Operation::AddCommunity(Community::Standard(65010 << 16 | 8))];
        let communities = vec![Community::Standard(65010 << 16 | 7)];
        peer.import.rules =
            vec![Rule { name: "BGPFilter f, importV4[0]".into(), communities, operations, ..Rule::default() }];
        let mut held = PeerConfig::new("Node_192_0_2_9", PeerType::NodeSpecific, 65010, 65010);
        held.export.default = Action::Reject;
        held.down_reason = Some("BGPFilter x does not exist".into());
        let mut config = SpeakerConfig::new([10, 0, 0, 1].into(), 65010);
        config.peers.insert(PeerId::new([192, 0, 2, 1].into(), 179), peer);
        config.peers.insert(PeerId::new([192, 0, 2, 9].into(), 179), held);
        let plan = Plan {
            node: "a".into(),
            config,
            gateways: Default::default(),
            services: Default::default(),
            log_severity: None,
            notes: vec!["a note".into()],
        };
        value("a", &plan).unwrap()
    }

    #[test]
    fn a_plan_is_in_the_words_of_resources_and_tells_no_secret() {
        let plan = planned();
        let first = &plan["peers"][0];
        assert_eq!(
            (&first["address"], &first["connectRetry"], &first["password"]),
            (&"192.0.2.1".into(), &"5s".into(), &REDACTED.into())
        );
        assert_eq!(first["import"]["rules"][0]["communities"], json!(["65010:7"]));
        assert!(!plan.to_string().contains("hunter2"));
    }

    #[test]
    fn the_table_has_a_line_for_each_session_and_why_one_is_held_down() {
        let text = text(&planned(), true, None);
        let want = "\
Node:      a
Router id: 10.0.0.1
AS:        65010
Listens:   nowhere

ADDRESS     PORT   NAME               TYPE            AS            HOLD   SETTINGS                             IMPORT           EXPORT               DOWN BECAUSE                 
192.0.2.1   179    Global_192_0_2_1   global          65010-65001   90s    families:IPv4,IPv6 password gtsm:1   1, then accept   0, then accept                                    
192.0.2.9   179    Node_192_0_2_9     node specific   65010-65010   90s    families:IPv4,IPv6                   0, then accept   0, then own routes   BGPFilter x does not exist   

192.0.2.1 import accept communities=65010:7 then addCommunity=65010:8 (BGPFilter f, importV4[0])

Notes
  a note
";
        assert_eq!(text, want);
    }
}
