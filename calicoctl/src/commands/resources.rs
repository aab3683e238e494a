//! apply, create, replace, delete, validate.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use api::kind::Kind;

use super::open_store;
use crate::cli::{DeleteArgs, FileArgs};
use crate::documents::{self, Document, Loaded, Problem, Source};
use crate::plan::{self, Failure, Verb};
use crate::retire;

/// Problems printed before the rest is only counted.
const MAX_SHOWN: usize = 50;

/// apply, create and replace.
pub async fn change(files: &FileArgs, verb: Verb) -> Result<()> {
    let sources = documents::read(&files.filename, files.recursive)?;
    carry_out(&sources, files.namespace.as_deref(), verb).await
}

/// delete, by file or by kind and name.
pub async fn delete(args: DeleteArgs) -> Result<()> {
    let verb = Verb::Delete { skip_missing: args.skip_not_exists };
    let sources = match &args.kind {
        None => documents::read(&args.filename, args.recursive)?,
        Some(word) => {
            let kind = super::kind(word)?;
            return delete_named(kind, &args).await;
        }
    };
    carry_out(&sources, args.namespace.as_deref(), verb).await
}

async fn delete_named(kind: Kind, args: &DeleteArgs) -> Result<()> {
    if args.namespace.is_some() && !kind.is_namespaced() {
        bail!("{kind} is not namespaced");
    }
    let store = open_store().await?;
    let mut missing = Vec::new();
    let (mut going, mut unreadable) = (Vec::new(), Vec::new());
    let names: BTreeSet<&String> = args.names.iter().collect();
    for name in names {
        match crate::stored::get_any(store.as_ref(), kind, args.namespace.as_deref(), name).await? {
            Some(Ok(found)) => going.push(found),
            // What it says does not matter, but for a pool, whose blocks go with it.
            Some(Err(error)) if kind != Kind::IpPool => {
                eprintln!("warning: {error}; it is deleted as it is");
                unreadable.push(error.key);
            }
            Some(Err(error)) => return Err(error.into()),
            None if args.skip_not_exists => {}
            None => {
                let namespace = args.namespace.as_deref().or(Some("default"));
                missing.push(plan::missing(&plan::identity(kind, namespace, name)));
            }
        }
    }
    if !missing.is_empty() {
        let plural = if args.names.len() > 1 { "any '" } else { "'" };
        let s = if args.names.len() > 1 { "s" } else { "" };
        bail!("failed to delete {plural}{kind}' resource{s}: [{}]", missing.join(" "));
    }
    let count = going.len() + unreadable.len();
    if kind == Kind::IpPool {
        retire::pools(&store, &going).await?;
    }
    let keys = going.into_iter().map(|found| found.key).chain(unreadable);
    let ops: Vec<_> = keys.map(|key| datastore::Op::Delete(key, None)).collect();
    let most = if store.has_transactions() { plan::CHUNK } else { 1 };
    for ops in ops.chunks(most) {
        store.txn(datastore::Txn { ops: ops.to_vec() }).await?;
    }
    println!("Successfully deleted {count} '{kind}' resource(s)");
    Ok(())
}

/// validate: no store is asked.
pub fn validate(files: &FileArgs) -> Result<()> {
    let sources = documents::read(&files.filename, files.recursive)?;
    let loaded = checked(&sources, files.namespace.as_deref(), "validated")?;
    success("validated", &loaded.documents);
    Ok(())
}

async fn carry_out(sources: &[Source], namespace: Option<&str>, verb: Verb) -> Result<()> {
    let (present, past) = match verb {
        Verb::Apply | Verb::Suppose => ("apply", "applied"),
        Verb::Create { .. } => ("create", "created"),
        Verb::Replace => ("replace", "replaced"),
        Verb::Delete { .. } => ("delete", "deleted"),
    };
    let loaded = checked(sources, namespace, past)?;
    let store = open_store().await?;
    match plan::execute(&store, &loaded.documents, verb).await {
        Ok(()) => {
            success(past, &loaded.documents);
            Ok(())
        }
        Err(Failure::Problems(problems)) => {
            show(&problems, "");
            bail!("{}", nothing(past, &problems, loaded.total))
        }
        Err(Failure::Store(done, error)) => bail!("{}", store_failure(present, past, &loaded.documents, done, &error)),
    }
}

/// Reads all documents; fails with every error printed where there is one.
pub fn checked<'a>(sources: &'a [Source], namespace: Option<&str>, past: &str) -> Result<Loaded<'a>> {
    let loaded = documents::load(sources, namespace);
    show(&loaded.warnings, "warning: ");
    if !loaded.errors.is_empty() {
        show(&loaded.errors, "");
        bail!("{}", nothing(past, &loaded.errors, loaded.total));
    }
    if loaded.documents.is_empty() {
        match sources {
            [one] => bail!("no resources specified in file {}", one.name),
            _ => bail!("No resources specified"),
        }
    }
    Ok(loaded)
}

/// Several fields of one document stand in a list, as Calico's client prints them, each with its position.
fn show(problems: &[Problem], prefix: &str) {
    let shown = &problems[..problems.len().min(MAX_SHOWN)];
    for of_one in shown.chunk_by(|a, b| a.is_of_same_document(b) && a.field().is_some() == b.field().is_some()) {
        if let ([first, _, ..], Some(_)) = (of_one, of_one[0].field()) {
            eprintln!("{prefix}{}: error with the following fields:", first.document());
            of_one.iter().for_each(|p| eprintln!("-  {}; {}, {}", p.field().unwrap_or_default(), p.path, p.position()));
        } else {
            of_one.iter().for_each(|problem| eprintln!("{prefix}{problem}"));
        }
    }
    if problems.len() > MAX_SHOWN {
        eprintln!("{prefix}and {} more", problems.len() - MAX_SHOWN);
    }
}

fn nothing(past: &str, problems: &[Problem], total: usize) -> String {
    let mut bad: Vec<_> = problems.iter().map(|p| (&p.file, p.document, &p.subject)).collect();
    bad.sort();
    bad.dedup();
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    format!(
        "nothing was {past}: {} error{} in {} of {total} document{}",
        problems.len(),
        plural(problems.len()),
        bad.len(),
        plural(total)
    )
}

/// `Successfully applied 4 'IPPool' resource(s)`, without the kind where there are several.
fn success(past: &str, documents: &[Document]) {
    match one_kind(documents) {
        Some(kind) => println!("Successfully {past} {} '{kind}' resource(s)", documents.len()),
        None => println!("Successfully {past} {} resource(s)", documents.len()),
    }
}

fn one_kind(documents: &[Document]) -> Option<Kind> {
    let first = documents.first()?.kind;
    documents.iter().all(|d| d.kind == first).then_some(first)
}

/// Calico's texts for what the store refuses.
fn store_failure(present: &str, past: &str, documents: &[Document], done: usize, error: &anyhow::Error) -> String {
    let kind = one_kind(documents).map(|k| format!("'{k}' ")).unwrap_or_default();
    match (documents.len(), done) {
        (1, _) => format!("failed to {present} {kind}resource: [{error:#}]"),
        (_, 0) => format!("failed to {present} any {kind}resources: [{error:#}]"),
        (total, done) => {
            format!("Partial success: {past} the first {done} out of {total} {kind}resources:\nhit error: [{error:#}]")
        }
    }
}
