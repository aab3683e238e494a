//! The form of single values.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use regex::bytes::{Regex, RegexBuilder};
use serde_json::Value;

use super::{FieldError, last, nearest, shown};
use crate::bgp_peer::{AsNumber, decimal};
use crate::duration;
use crate::schema::{Format, Object, Pattern, Span};
use crate::selector::Selector;

pub(super) const AS_ADVICE: &str =
    "an AS number is 0 to 4294967295, or a quoted string of two halves up to 65535 such as \"1.10\"";
/// Kubernetes' rule for names (RFC 1123 subdomain).
const NAME_REGEX: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const MAX_NAME_LEN: usize = 253;
/// Calico's bound on the length of a selector.
const MAX_SELECTOR_LEN: usize = 1024;
/// Linux IFNAMSIZ without the terminating zero.
const MAX_INTERFACE_LEN: usize = 15;

/// Checks a string against the form its field asks for.
pub(super) fn check(format: Format, at: &str, value: &str) -> Option<FieldError> {
    let (tag, advice) = match format {
        Format::Free => return None,
        // An empty string is an unset field in Go; whether there must be one is another question.
        _ if value.is_empty() && format != Format::Name => return None,
        Format::Name => return name_error(at, value),
        Format::Cidr => ("net", cidr_problem(value)?),
        Format::CidrOrIp => ("net", if value.parse::<IpAddr>().is_ok() { return None } else { cidr_problem(value)? }),
        Format::Ip => ("ip", address_problem(value)?),
        Format::Ipv4 => match value.parse::<Ipv4Addr>() {
            Ok(_) => return None,
            Err(_) => ("ipv4", "write four numbers up to 255, such as 192.168.1.1".into()),
        },
        Format::Ipv6 => match value.parse::<Ipv6Addr>() {
            Ok(_) => return None,
            Err(_) => ("ipv6", "write an IPv6 address such as fd00::1".into()),
        },
        Format::Mac => ("mac", mac_problem(value)?),
        Format::Time => match value.parse::<jiff::Timestamp>() {
            Ok(_) => return None,
            Err(_) => ("datetime", "write a time such as 2026-08-22T10:00:00Z".into()),
        },
        Format::IpPort => ("IP:port", ip_port_problem(value)?),
        Format::Selector => ("selector", selector_problem(value)?),
        Format::Duration => ("duration", duration_problem(value)?),
        Format::Within(span) => match span_error(span, at, value) {
            Some(error) => return Some(error),
            None => ("duration", duration_problem(value)?),
        },
        Format::Community => ("communities", community_problem(value)?),
        Format::Interface => ("interface", interface_problem(value)?),
        Format::Matches(pattern) => return pattern_error(pattern, at, value),
        Format::Regex => ("regexp", regex_problem(value)?),
        Format::InterfacePatterns => ("iface-list-regexp", value.split(',').find_map(interface_pattern_problem)?),
        Format::OneOf(words) if words.contains(&value) => return None,
        Format::AnyCase(words) if words.iter().any(|w| w.eq_ignore_ascii_case(value)) => return None,
        Format::OneOf(words) | Format::AnyCase(words) => {
            let near =
                nearest(value, words.iter().copied()).map(|w| format!("; did you mean {w}?")).unwrap_or_default();
            ("oneof", format!("the values are {}{near}", words.join(", ")))
        }
    };
    Some(tagged(tag, at, value, advice))
}

/// Checks an AS number. Calico reads a number that is no uint32 as a string and says so.
pub(super) fn check_as(object: &Object, at: &str, value: &Value) -> Option<FieldError> {
    match value {
        Value::Number(n) if n.as_u64().is_some_and(|n| u32::try_from(n).is_ok()) => None,
        Value::Number(n) => {
            let path = super::without_indices(at);
            let message =
                format!("cannot unmarshal number into Go struct field {}.{path} of type string", object.go_type);
            Some(FieldError::text(at, &n.to_string(), message, AS_ADVICE))
        }
        other => {
            let text = shown(other);
            let reason = "Reason: failed to validate Field: ASNumber because of Tag: ASNumber ";
            text.parse::<AsNumber>().err().map(|_| FieldError::field(at, "ASNumber", &text, reason, AS_ADVICE))
        }
    }
}

/// Checks the name of a port (RFC 6335 section 5.1, as in Kubernetes).
pub(super) fn check_port_name(at: &str, value: &str) -> Option<FieldError> {
    let b = value.as_bytes();
    let is_name = b.len() <= 15
        && b.iter().all(|&c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        && b.iter().any(u8::is_ascii_lowercase)
        && !value.starts_with('-')
        && !value.ends_with('-')
        && !value.contains("--");
    if is_name || value.is_empty() {
        return None;
    }
    let advice = match decimal::<u16>(value) {
        Some(_) => "a number stands without quotes",
        None => "a name has at most 15 lower case letters, digits and single dashes, such as http",
    };
    Some(tagged("portName", at, value, advice.into()))
}

/// Checks `30000:32767` or `80`.
pub(super) fn check_port_range(at: &str, value: &str) -> Option<FieldError> {
    let (first, last) = value.split_once(':').unwrap_or((value, value));
    let advice = match (decimal::<u16>(first), decimal::<u16>(last)) {
        _ if value.is_empty() => return None,
        (Some(first), Some(last)) if first <= last => return None,
        (Some(_), Some(_)) => format!("{first} is above {last}: swap them"),
        _ => "write two port numbers up to 65535 with a colon between them, such as 30000:32767".into(),
    };
    Some(tagged("portrange", at, value, advice))
}

/// Checks the name of a protocol, in any case as Calico reads it.
pub(super) fn check_protocol(at: &str, value: &str) -> Option<FieldError> {
    const NAMES: [&str; 6] = ["TCP", "UDP", "ICMP", "ICMPv6", "SCTP", "UDPLite"];
    if value.is_empty() || NAMES.iter().any(|n| n.eq_ignore_ascii_case(value)) {
        return None;
    }
    let advice = format!("use one of {}, or a number from 1 to 255 without quotes", NAMES.join(", "));
    Some(tagged("protocol", at, value, advice))
}

/// Calico's error of a form that is called `tag`.
pub(super) fn tagged(tag: &str, at: &str, value: &str, advice: String) -> FieldError {
    let field = go_name(last(at));
    let reason = format!("Reason: failed to validate Field: {field} because of Tag: {tag} ");
    FieldError::field(at, &field, value, &reason, advice)
}

/// The name of the Go struct's field for a JSON field, as Calico's messages have it.
pub(super) fn go_name(json: &str) -> String {
    for (prefix, upper) in [
        ("cidr", "CIDR"),
        ("asNumber", "ASNumber"),
        ("asPath", "ASPath"),
        ("ipip", "IPIP"),
        ("vxlan", "VXLAN"),
        ("ip", "IP"),
        ("nat", "NAT"),
        ("mac", "MAC"),
    ] {
        if let Some(rest) = json.strip_prefix(prefix)
            && rest.chars().next().is_none_or(|c| !c.is_ascii_lowercase() || c == 'v')
        {
            return format!("{upper}{rest}");
        }
    }
    let mut chars = json.chars();
    chars.next().map(|c| c.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}

/// Whether a character is one of the quotes that word processors put in place of `'` and `"`.
pub fn is_typographic_quote(c: char) -> bool {
    matches!(c, '\u{2018}'..='\u{201f}' | '\u{ff02}' | '\u{ff07}' | '\u{2032}' | '\u{2033}')
}

fn name_error(at: &str, value: &str) -> Option<FieldError> {
    let is_label = |part: &str| {
        let alnum = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let b = part.as_bytes();
        !b.is_empty() && alnum(b[0]) && alnum(b[b.len() - 1]) && b.iter().all(|&c| alnum(c) || c == b'-')
    };
    if value.len() <= MAX_NAME_LEN && value.split('.').all(is_label) {
        return None;
    }
    // A node that is wanted may be unset by an empty string.
    if value.is_empty() && at != "metadata.name" {
        return None;
    }
    let fixed: String = value
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
        .collect();
    let fixed = fixed.trim_matches(['-', '.']);
    let advice = match fixed {
        _ if value.len() > MAX_NAME_LEN => format!("{} characters are the most", MAX_NAME_LEN),
        "" => "give it a name such as test-0".into(),
        fixed if fixed.split('.').all(is_label) => format!("{fixed} would do"),
        _ => String::new(),
    };
    let rule = format!("name must consist of lower case alphanumeric characters, '-' or '.' (regex: {NAME_REGEX})");
    let field = if at == "metadata.name" { "Metadata.Name".into() } else { go_name(last(at)) };
    Some(FieldError::field(at, &field, value, &rule, advice))
}

fn cidr_problem(value: &str) -> Option<String> {
    if value.parse::<IpNet>().is_ok() {
        return None;
    }
    let (address, length) = match value.split_once('/') {
        Some((a, l)) => (a, Some(l)),
        None => (value, None),
    };
    if let Some(problem) = address_problem(address) {
        return Some(problem);
    }
    let is_v6 = address.contains(':');
    let (example, max) = if is_v6 { (64, 128) } else { (24, 32) };
    Some(match length {
        None => format!("a CIDR has a prefix length, such as {address}/{example}"),
        Some(_) => format!("the prefix length is a number from 0 to {max}, such as {address}/{example}"),
    })
}

fn address_problem(value: &str) -> Option<String> {
    if value.parse::<IpAddr>().is_ok() {
        return None;
    }
    if value.chars().any(is_typographic_quote) {
        return Some(QUOTES.into());
    }
    if value.contains(':') {
        let doubled = value.matches("::").count() > 1;
        return Some(if doubled {
            "an IPv6 address has :: at most once".into()
        } else {
            "write an IPv6 address such as fd00::1".to_string()
        });
    }
    let parts: Vec<&str> = value.split('.').collect();
    if let Some(part) = parts.iter().find(|p| p.parse::<u16>().is_ok_and(|n| n > 255)) {
        return Some(format!("{part} in {value} is over 255, the most that a part of an IPv4 address can be"));
    }
    if value.contains('/') {
        return Some("write the address without a prefix length".into());
    }
    Some("write an IPv4 address such as 192.168.1.1 or an IPv6 address such as fd00::1".into())
}

/// What to say about text that came through a word processor or a web page.
pub const QUOTES: &str = "typographic quotes were pasted from a text that curls quotes; use straight quotes, \" or '";

fn ip_port_problem(value: &str) -> Option<String> {
    if value.parse::<IpAddr>().is_ok() {
        return None;
    }
    if let Ok(socket) = value.parse::<SocketAddr>() {
        return (socket.port() == 0).then(|| "the port is 1 to 65535".into());
    }
    // A name, a bad address, or a bad port: say which.
    let address = match (value.strip_prefix('[').and_then(|v| v.split_once(']')), value.matches(':').count()) {
        (Some((address, _)), _) => address,
        (None, 1) => value.split(':').next().unwrap_or(value),
        _ => value,
    };
    Some(
        address_problem(address)
            .unwrap_or_else(|| "the port is 1 to 65535, as in 192.168.1.1:179 or [fd00::1]:179".into()),
    )
}

fn selector_problem(value: &str) -> Option<String> {
    if value.len() > MAX_SELECTOR_LEN {
        return Some(format!("a selector has at most {MAX_SELECTOR_LEN} characters, this has {}", value.len()));
    }
    let error = Selector::parse(value).err()?;
    if value.chars().any(is_typographic_quote) {
        return Some(format!("{} at offset {}: {QUOTES}", error.reason, error.offset));
    }
    let hint = match error.reason.as_str() {
        "expected ==" => ": write == between a label and its value",
        "expected string" | "unterminated string" | "expected }" => {
            ": a value stands in straight quotes, as in rr-group == 'rr1'"
        }
        _ => "",
    };
    Some(format!("{} at offset {}{hint}", error.reason, error.offset))
}

/// Go's durations: numbers with units, one after the other (Go `time.ParseDuration`).
fn duration_problem(value: &str) -> Option<String> {
    duration::parse(value).is_none().then(|| "write a duration with its unit, such as 90s or 2m30s".into())
}

/// A duration that is one, but out of bounds.
fn span_error(span: &Span, at: &str, value: &str) -> Option<FieldError> {
    let duration = duration::parse(value)?;
    if (span.least..=span.most).contains(&duration) || (span.or_zero && duration.is_zero()) {
        return None;
    }
    let zero = if span.or_zero { "0s or " } else { "" };
    let source = if span.source.is_empty() { String::new() } else { format!(", {}", span.source) };
    let (least, most) = (duration::format(span.least), duration::format(span.most));
    let rule = format!("must be {zero}from {least} to {most}{source}");
    Some(FieldError::field(at, &go_name(last(at)), value, &rule, span.advice))
}

fn pattern_error(pattern: &Pattern, at: &str, value: &str) -> Option<FieldError> {
    let regex = Regex::new(pattern.regex).ok()?;
    let reason = format!("should match '{}'", pattern.regex);
    let advice = format!("write {}, such as {}", pattern.about, pattern.example);
    (!regex.is_match(value.as_bytes())).then(|| FieldError::field(at, &go_name(last(at)), value, &reason, advice))
}

/// Names of interfaces are bytes; tables of Unicode are not needed to match them.
fn regex_problem(value: &str) -> Option<String> {
    let error = RegexBuilder::new(value).unicode(false).build().err()?.to_string();
    // The first lines show where; the last one tells what.
    let cause = error.lines().last().unwrap_or_default();
    Some(format!("{value} is not a regular expression: {}", cause.trim_start_matches("error: ")))
}

/// One of a list: a name, or a regular expression between slashes.
fn interface_pattern_problem(value: &str) -> Option<String> {
    if let Some(regex) = value.strip_prefix('/').and_then(|v| v.strip_suffix('/')).filter(|r| !r.is_empty()) {
        return regex_problem(regex);
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let fits = (1..=MAX_INTERFACE_LEN).contains(&value.len()) && value.chars().all(is_name);
    (!fits).then(|| {
        format!("'{value}' is no interface name of at most {MAX_INTERFACE_LEN} characters, and no /regular expression/")
    })
}

fn community_problem(value: &str) -> Option<String> {
    let parts: Vec<&str> = value.split(':').collect();
    let fits = match parts.as_slice() {
        [a, b] => decimal::<u16>(a).is_some() && decimal::<u16>(b).is_some(),
        [a, b, c] => [a, b, c].iter().all(|p| decimal::<u32>(p).is_some()),
        _ => false,
    };
    (!fits).then(|| {
        "a community is aa:nn with two numbers up to 65535, or a large community aa:nn:mm with three up to 4294967295".into()
    })
}

/// Six, eight or twenty bytes (Go `net.ParseMAC`).
fn mac_problem(value: &str) -> Option<String> {
    let bytes: Vec<&str> = value.split(if value.contains('-') { '-' } else { ':' }).collect();
    let is_byte = |b: &&str| b.len() == 2 && b.chars().all(|c| c.is_ascii_hexdigit());
    let fits = matches!(bytes.len(), 6 | 8 | 20) && bytes.iter().all(is_byte);
    (!fits).then(|| "write a MAC address such as ee:ee:ee:ee:ee:ee".into())
}

fn interface_problem(value: &str) -> Option<String> {
    if value.len() > MAX_INTERFACE_LEN {
        return Some(format!("an interface name has at most {MAX_INTERFACE_LEN} characters, this has {}", value.len()));
    }
    value
        .chars()
        .any(|c| c.is_whitespace() || c == '/')
        .then(|| "an interface name has no spaces and no slashes".into())
}
