//! get.

use anyhow::{Result, bail};
use api::kind::Kind;
use serde_json::{Value, json};

use super::open_store;
use crate::cli::GetArgs;
use crate::stored::{self, Stored};
use crate::{documents, kinds, plan, table, yaml};

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Output {
    Table { is_wide: bool },
    Yaml,
    Json,
}

/// Prints the resources that a kind, names or documents ask for.
pub async fn get(args: GetArgs) -> Result<()> {
    let output = match args.output.as_str() {
        "" | "ps" => Output::Table { is_wide: false },
        "wide" => Output::Table { is_wide: true },
        "yaml" => Output::Yaml,
        "json" => Output::Json,
        other => bail!("unrecognized output format '{other}'; the formats are ps, wide, yaml and json"),
    };
    let wanted = wanted(&args)?;
    let store = open_store().await?;
    // Neither keeps the others from being shown.
    let (mut missing, mut unreadable) = (Vec::new(), Vec::new());
    for (kind, names) in &wanted {
        let (found, revision) = match names {
            Names::All(namespace) => stored::list_any(store.as_ref(), *kind, namespace.as_deref()).await?,
            Names::These(these) => {
                let mut found = Vec::new();
                for (namespace, name) in these {
                    match stored::get_any(store.as_ref(), *kind, namespace.as_deref(), name).await? {
                        Some(one) => found.push(one),
                        None => missing.push(plan::missing(&plan::identity(*kind, namespace.as_deref(), name))),
                    }
                }
                (found, 0)
            }
        };
        let mut items = Vec::with_capacity(found.len());
        for one in found {
            match one {
                Ok(item) => items.push(item),
                Err(error) => unreadable.push(format!("{error}; apply it anew, or delete it by its name")),
            }
        }
        let is_list = matches!(names, Names::All(_)) || items.len() != 1;
        if items.is_empty() && matches!(names, Names::These(_)) {
            continue;
        }
        match output {
            Output::Table { is_wide } => {
                let cx = kinds::Context::read(store.as_ref(), *kind).await?;
                let (headings, rows) = kinds::table(*kind, &cx, is_wide, args.all_namespaces, &items);
                print!("{}", table::tabs(&headings, &rows));
            }
            Output::Yaml => print!("{}", yaml::emit(document(*kind, items, revision, is_list))?),
            Output::Json => println!("{}", serde_json::to_string_pretty(&document(*kind, items, revision, is_list))?),
        }
    }
    missing.extend(unreadable);
    if missing.is_empty() { Ok(()) } else { bail!("failed to get resources: {}", missing.join("\n")) }
}

/// Which objects of a kind.
enum Names {
    All(Option<String>),
    These(Vec<(Option<String>, String)>),
}

fn wanted(args: &GetArgs) -> Result<Vec<(Kind, Names)>> {
    let namespace_of = |kind: Kind| {
        let namespace = args.namespace.clone().unwrap_or_else(|| "default".into());
        kind.is_namespaced().then_some(namespace)
    };
    if let Some(word) = &args.kind {
        let kind = super::kind(word)?;
        if args.namespace.is_some() && !kind.is_namespaced() {
            bail!("{kind} is not namespaced");
        }
        if args.names.is_empty() {
            return Ok(vec![(kind, Names::All(namespace_of(kind).filter(|_| !args.all_namespaces)))]);
        }
        if args.all_namespaces && kind.is_namespaced() {
            bail!("a name needs a namespace: use -n in place of -A");
        }
        return Ok(vec![(kind, Names::These(args.names.iter().map(|n| (namespace_of(kind), n.clone())).collect()))]);
    }
    let sources = documents::read(&args.filename, false)?;
    let loaded = documents::load(&sources, args.namespace.as_deref());
    if !loaded.errors.is_empty() {
        let lines: Vec<String> = loaded.errors.iter().map(ToString::to_string).collect();
        bail!("{}", lines.join("\n"));
    }
    let mut wanted: Vec<(Kind, Names)> = Vec::new();
    for document in &loaded.documents {
        let id = (document.namespace().map(str::to_string), document.name().to_string());
        match wanted.iter_mut().find(|(kind, _)| *kind == document.kind) {
            Some((_, Names::These(these))) => these.push(id),
            _ => wanted.push((document.kind, Names::These(vec![id]))),
        }
    }
    Ok(wanted)
}

/// One object, or a list of its kind.
fn document(kind: Kind, items: Vec<Stored>, revision: u64, is_list: bool) -> Value {
    let mut values: Vec<Value> = items.into_iter().map(|s| s.value).collect();
    if !is_list && values.len() == 1 {
        return values.remove(0);
    }
    let metadata = if revision > 0 { json!({"resourceVersion": revision.to_string()}) } else { json!({}) };
    json!({"apiVersion": kind.api_version(), "items": values, "kind": format!("{kind}List"), "metadata": metadata})
}
