//! The reference of resources: every kind, every field, its values and default.

use std::fmt::Write as _;

use api::Kind;
use api::duration;
use api::schema::{self, Field, Format, Object, Type};

const HEAD: &str = "\
# Resources

Written by crdgen from `libs/api/src/schema`: change it there.

Every document has `apiVersion`, `kind`, `metadata` (`name`, and `namespace` where the kind has one; `labels`, `annotations`) and
what stands below. A kind of `projectcalico.org/v3` may also be written as `crd.projectcalico.org/v1`. A field that is not
listed is an error that names it and the nearest right one, except where the kind says that it is kept. A default is what counts where the field is absent.
What is *stored, not active* is a setting of Calico's on which no program here acts: `apply` takes it, says so in one line for each document, and
keeps it for the way back.
";

/// The page.
pub fn reference() -> String {
    let mut page = String::from(HEAD);
    for kind in Kind::ALL {
        section(&mut page, *kind);
    }
    page
}

fn section(page: &mut String, kind: Kind) {
    let object = schema::of(kind);
    let scope = if kind.is_namespaced() { "namespaced" } else { "cluster-wide" };
    let mut names: Vec<String> =
        std::iter::once(kind.plural()).chain(kind.aliases().iter().copied()).map(code).collect();
    names.dedup();
    let _ = write!(page, "\n## {kind}\n\n`{}`, {scope}; also {}.", kind.api_version(), names.join(", "));
    page.push_str(about(kind));
    let mut rows = String::new();
    for field in object.fields.iter().filter(|f| !matches!(f.name, "apiVersion" | "kind" | "metadata" | "status")) {
        if !is_carried(field) {
            row(&mut rows, "", field);
        }
    }
    if rows.is_empty() {
        page.push_str("\n\nIts fields are Kubernetes'; they are kept.\n");
        return;
    }
    let _ = write!(page, "\n\n| field | values | default | |\n|---|---|---|---|\n{rows}");
    let rules: Vec<&str> = rules(object);
    if !rules.is_empty() {
        page.push_str("\nRefused, in the words of the message:\n\n");
        for rule in rules {
            let _ = writeln!(page, "- {rule}");
        }
    }
}

/// A word on a kind that its fields do not say.
fn about(kind: Kind) -> &'static str {
    match kind {
        Kind::IpamConfiguration => " Its name is `default`. It is stored as one record of IPAM.",
        Kind::BgpConfiguration | Kind::FelixConfiguration => {
            " `default` is for every node, `node.<name>` for one; other names are refused."
        }
        Kind::KubeControllersConfiguration | Kind::ClusterInformation => " Its name is `default`.",
        Kind::HostEndpoint => " It is stored; no network policy is enforced here.",
        Kind::Node => " A Kubernetes Node (`v1`) is taken too: its labels and addresses are put on ours.",
        Kind::LoadBalancerIpPool => {
            " A CiliumLoadBalancerIPPool (`cilium.io/v2alpha1`, `v2`) is converted when it is applied."
        }
        _ => "",
    }
}

/// A spec of which nothing is checked.
fn is_carried(field: &Field) -> bool {
    field.kind.object().is_some_and(|o| o.open && o.fields.is_empty())
}

fn rules(object: &Object) -> Vec<&'static str> {
    let mut found: Vec<&str> = object.rules.iter().map(|r| r.message).collect();
    for inner in object.fields.iter().filter(|f| f.name != "metadata").filter_map(|f| f.kind.object()) {
        for rule in rules(inner) {
            if !found.contains(&rule) {
                found.push(rule);
            }
        }
    }
    found
}

/// The row of a field, and those of the fields within it.
fn row(rows: &mut String, prefix: &str, field: &Field) {
    let path = format!("{prefix}{}", field.name);
    let is_spec = prefix.is_empty() && field.name == "spec";
    if !is_spec {
        let required = if field.required { "**required** " } else { "" };
        let default = if field.default.is_empty() { String::new() } else { code(&escaped(field.default)) };
        let about = escaped(&field.text());
        let cells = format!("| `{path}` | {} | {default} | {required}{about}", values(field.kind));
        let _ = writeln!(rows, "{} |", cells.trim_end());
    }
    let list = if matches!(field.kind, Type::List(_) | Type::Items(..) | Type::Set(..)) { "[]" } else { "" };
    let inner_prefix = if is_spec { String::new() } else { format!("{path}{list}.") };
    if let Some(object) = field.kind.object() {
        object.fields.iter().for_each(|inner| row(rows, &inner_prefix, inner));
        if object.open && is_spec {
            rows.push_str("| other fields | anything | | kept |\n");
        }
    }
}

fn values(kind: Type) -> String {
    match kind {
        Type::Text(format) => text(format),
        Type::Bool => "true, false".into(),
        Type::Int(min, max) if min == i64::from(i32::MIN) && max == i64::from(i32::MAX) => "number".into(),
        Type::Int(min, max) => format!("{min} to {max}"),
        Type::As => "AS number".into(),
        Type::Port => "port, or its name".into(),
        Type::PortRange => "port, or range: `30000:32767`".into(),
        Type::Protocol => "protocol, or its number".into(),
        Type::Object(_) => "mapping".into(),
        Type::List(Type::Object(_)) => "list of mappings".into(),
        Type::Items(item, least, most) => {
            let count = match least {
                0 => format!("at most {most}"),
                least if least == most => format!("exactly {most}"),
                least => format!("{least} to {most}"),
            };
            format!("list, {count}: {}", values(*item))
        }
        Type::List(item) => format!("list: {}", values(*item)),
        Type::Set(item, most) => format!("at most {most}, none twice: {}", values(*item)),
        Type::Map => "names to strings".into(),
        Type::Counts => "names to numbers".into(),
        Type::Nullable(inner) => values(*inner),
        Type::Any => "anything".into(),
    }
}

fn text(format: Format) -> String {
    match format {
        Format::Free => "text".into(),
        Format::Name => "name".into(),
        Format::Cidr => "CIDR".into(),
        Format::CidrOrIp => "CIDR or address".into(),
        Format::Ip => "address".into(),
        Format::Ipv4 => "IPv4 address".into(),
        Format::Ipv6 => "IPv6 address".into(),
        Format::Mac => "MAC address".into(),
        Format::Time => "time, RFC 3339".into(),
        Format::IpPort => "address, with port or without".into(),
        Format::Selector => "selector".into(),
        Format::Duration => "duration: `90s`, `1m30s`".into(),
        Format::Within(span) => {
            let zero = if span.or_zero { "0s, or " } else { "" };
            format!("{zero}{} to {}", duration::format(span.least), duration::format(span.most))
        }
        Format::Community => "`aa:nn` or `aa:nn:mm`".into(),
        Format::Interface => "interface, 15 characters".into(),
        Format::Matches(pattern) => pattern.about.into(),
        Format::Regex => "regular expression".into(),
        Format::InterfacePatterns => "interfaces, or `/regular expressions/`, comma between them".into(),
        Format::OneOf(words) => words.join(", "),
        Format::AnyCase(words) => format!("{} (any case)", words.join(", ")),
    }
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

/// What would end a cell.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}
