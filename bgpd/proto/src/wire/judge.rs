//! Octets in, an explanation out: every field of the messages, and what RFC 7606 makes of them.
//!
//! For people and scripts, not for sessions: nothing here decides anything. The verdict comes from the decoders that sessions
//! use, so that both say the same.

mod attributes;
mod capabilities;

use serde::Serialize;

pub use self::attributes::{AttributeView, Value};
pub use self::capabilities::CapabilityView;
use super::attribute::{Context, Malformed, Remedy};
use super::community::hex;
use super::nlri::paths;
use super::open::Open;
use super::update::Update;
use super::{HEADER_LEN, MessageType, Notification, RefreshKind, RouteRefresh, frame, iana};
use crate::af::{Family, Key, V4, V6};

/// One message, its fields and the verdict on it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Judged {
    /// Octets, header included.
    pub length: usize,
    #[serde(flatten)]
    pub message: Message,
    pub verdict: Verdict,
}

/// The fields, whatever is wrong with them.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Message {
    Open {
        version: u8,
        my_as: u16,
        hold_time: u16,
        identifier: std::net::Ipv4Addr,
        capabilities: Vec<CapabilityView>,
    },
    Update {
        withdrawn: Vec<String>,
        attributes: Vec<AttributeView>,
        nlri: Vec<String>,
    },
    Notification(NotificationView),
    Keepalive {},
    RouteRefresh {
        /// `None`: another one than IPv4 and IPv6 unicast.
        family: Option<String>,
        kind: String,
    },
    /// Where no message could be told apart.
    Unreadable {
        octets: String,
    },
}

#[derive(Debug, Serialize)]
pub struct NotificationView {
    pub code: u8,
    pub subcode: u8,
    pub meaning: String,
    /// Hexadecimal.
    pub data: String,
}

/// What a session does about a message.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    pub action: Verb,
    pub findings: Vec<Finding>,
    /// What the peer is told before the session ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notification: Option<NotificationView>,
    /// Prefixes that have a route after it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub announced: Vec<String>,
    /// Prefixes that have none of this peer any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub withdrawn: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_of_rib: Option<String>,
}

/// RFC 7606 section 2, strongest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    Accept,
    /// A message that has no effect.
    Ignore,
    AttributeDiscard,
    TreatAsWithdraw,
    SessionReset,
}

/// One thing that is wrong.
#[derive(Debug, Serialize)]
pub struct Finding {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attribute: Option<String>,
    pub action: Verb,
    pub reason: String,
    /// The section that asks for the action.
    pub rule: String,
}

/// Octets of a text of hexadecimal digits; blanks, colons and `0x` between them do not matter.
///
/// # Errors
/// Names the character that is no digit.
pub fn parse_hex(text: &str) -> Result<Vec<u8>, String> {
    let mut digits = Vec::with_capacity(text.len());
    for word in text.split(|c: char| c.is_whitespace() || c == ':') {
        for c in word.strip_prefix("0x").unwrap_or(word).chars() {
            digits.push(c.to_digit(16).ok_or_else(|| format!("{c:?} is not a hexadecimal digit"))? as u8);
        }
    }
    match digits.as_chunks::<2>() {
        (pairs, []) => Ok(pairs.iter().map(|[a, b]| a << 4 | b).collect()),
        _ => Err(format!("{} hexadecimal digits are no whole number of octets", digits.len())),
    }
}

/// Every message of `octets`, in order. Ends at one that cannot be told apart from what follows.
pub fn judge(cx: &Context, octets: &[u8]) -> Vec<Judged> {
    let mut all = Vec::new();
    let mut rest = octets;
    while !rest.is_empty() {
        match frame(rest, cx.max_message_len()) {
            Ok(Some(message)) => {
                let (fields, verdict) = one(cx, message.kind, message.body);
                all.push(Judged { length: message.len, message: fields, verdict });
                rest = &rest[message.len..];
            }
            Ok(None) => {
                let reason = format!("{} octets are no whole message", rest.len());
                all.push(unreadable(rest, Verdict::ignored(&reason, "RFC 4271 section 4.1")));
                break;
            }
            Err(n) => {
                let reason = n.describe();
                all.push(unreadable(rest, Verdict::reset(n, &reason, "RFC 4271 section 6.1")));
                break;
            }
        }
    }
    all
}

fn unreadable(octets: &[u8], verdict: Verdict) -> Judged {
    let shown = &octets[..octets.len().min(HEADER_LEN)];
    Judged { length: octets.len(), message: Message::Unreadable { octets: hex(shown) }, verdict }
}

fn one(cx: &Context, kind: MessageType, body: &[u8]) -> (Message, Verdict) {
    match kind {
        MessageType::Open => open(body),
        MessageType::Update => update(cx, body),
        MessageType::Keepalive => (Message::Keepalive {}, Verdict::new(Verb::Accept)),
        MessageType::Notification => {
            (Message::Notification(Notification::read(body).into()), Verdict::new(Verb::Accept))
        }
        MessageType::RouteRefresh => route_refresh(body),
    }
}

fn open(body: &[u8]) -> (Message, Verdict) {
    // `frame` saw to it that the fixed part is there.
    let fixed = body.first_chunk::<9>().copied().unwrap_or_default();
    let message = Message::Open {
        version: fixed[0],
        my_as: u16::from_be_bytes([fixed[1], fixed[2]]),
        hold_time: u16::from_be_bytes([fixed[3], fixed[4]]),
        identifier: [fixed[5], fixed[6], fixed[7], fixed[8]].into(),
        capabilities: capabilities::list(body),
    };
    let verdict = match Open::read(body) {
        Ok(_) => Verdict::new(Verb::Accept),
        Err(n) => {
            let reason = n.describe();
            Verdict::reset(n, &reason, "RFC 4271 section 6.2")
        }
    };
    (message, verdict)
}

fn route_refresh(body: &[u8]) -> (Message, Verdict) {
    let field = |at: usize| body.get(at).copied().unwrap_or(0);
    let kind = match field(2) {
        0 => "request".to_owned(),
        1 => "begin of RIB".to_owned(),
        2 => "end of RIB".to_owned(),
        other => format!("unknown ({other})"),
    };
    let family = Family::from_wire(u16::from_be_bytes([field(0), field(1)]), field(3));
    let verdict = match RouteRefresh::read(true, body) {
        Ok(Some(RouteRefresh {
            kind: RefreshKind::Request | RefreshKind::BeginOfRib | RefreshKind::EndOfRib, ..
        })) => Verdict::new(Verb::Accept),
        Ok(None) => Verdict::ignored("a family, kind or filter that was not negotiated", "RFC 7313 section 5"),
        Err(n) => {
            let reason = n.describe();
            let is_header = n.code == iana::MESSAGE_HEADER_ERROR;
            Verdict::reset(n, &reason, if is_header { "RFC 4271 section 6.1" } else { "RFC 7313 section 5" })
        }
    };
    (Message::RouteRefresh { family: family.map(|f| f.to_string()), kind }, verdict)
}

fn update(cx: &Context, body: &[u8]) -> (Message, Verdict) {
    let (withdrawn, list, nlri) = attributes::parts(body);
    let message = Message::Update {
        withdrawn: prefixes(cx, Family::Ipv4, withdrawn),
        attributes: attributes::list(cx, list),
        nlri: prefixes(cx, Family::Ipv4, nlri),
    };
    let update = match Update::examine(cx, body) {
        Ok(update) => update,
        Err(reset) => return (message, Verdict::reset(reset.notification, reset.reason, reset.rule)),
    };
    let findings: Vec<Finding> = update.errors.iter().map(Finding::from).collect();
    let worst = findings.iter().map(|f| f.action).max().unwrap_or(Verb::Accept);
    let verdict = Verdict {
        announced: update.announced.iter().flat_map(|(family, list, _)| prefixes(cx, *family, list)).collect(),
        withdrawn: update.withdrawn.iter().flat_map(|(family, list)| prefixes(cx, *family, list)).collect(),
        end_of_rib: update.end_of_rib.map(|f| f.to_string()),
        findings,
        ..Verdict::new(worst)
    };
    (message, verdict)
}

/// Prefixes as text, with ` path N` where they have identifiers; as far as the list is well formed.
fn prefixes(cx: &Context, family: Family, list: &[u8]) -> Vec<String> {
    fn of<K: Key>(list: &[u8], ids: bool) -> Vec<String> {
        let text = |(id, key): (u32, K)| match ids {
            true => format!("{} path {id}", key.prefix()),
            false => key.prefix().to_string(),
        };
        paths::<K>(list, ids).map(text).collect()
    }
    match family {
        Family::Ipv4 => of::<V4>(list, cx.has_path_ids(family)),
        Family::Ipv6 => of::<V6>(list, cx.has_path_ids(family)),
    }
}

impl Verdict {
    fn new(action: Verb) -> Verdict {
        Verdict {
            action,
            findings: Vec::new(),
            notification: None,
            announced: Vec::new(),
            withdrawn: Vec::new(),
            end_of_rib: None,
        }
    }

    fn with(action: Verb, reason: &str, rule: &str) -> Verdict {
        let finding = Finding { attribute: None, action, reason: reason.to_owned(), rule: rule.to_owned() };
        Verdict { findings: vec![finding], ..Verdict::new(action) }
    }

    fn ignored(reason: &str, rule: &str) -> Verdict {
        Verdict::with(Verb::Ignore, reason, rule)
    }

    fn reset(notification: Notification, reason: &str, rule: &str) -> Verdict {
        Verdict { notification: Some(notification.into()), ..Verdict::with(Verb::SessionReset, reason, rule) }
    }
}

impl From<Notification> for NotificationView {
    fn from(n: Notification) -> NotificationView {
        NotificationView { code: n.code, subcode: n.subcode, meaning: n.describe(), data: hex(&n.data) }
    }
}

impl From<&Malformed> for Finding {
    fn from(error: &Malformed) -> Finding {
        let name = iana::attribute_name(error.kind).map_or_else(|| error.kind.to_string(), str::to_owned);
        Finding {
            attribute: Some(name),
            action: match error.remedy {
                Remedy::AttributeDiscard => Verb::AttributeDiscard,
                Remedy::TreatAsWithdraw => Verb::TreatAsWithdraw,
            },
            reason: error.reason.to_owned(),
            rule: error.rule.to_owned(),
        }
    }
}
