//! UPDATEs that were malformed and mended (RFC 7606): counted, shown, and logged.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use bgp_proto::af::{Family, Key as _, V4, V6};
use bgp_proto::wire::attribute::{Context, Malformed, Remedy};
use bgp_proto::wire::community::hex;
use bgp_proto::wire::iana::attribute_name;
use bgp_proto::wire::nlri::paths;
use bgp_proto::wire::update::Update;
use bgp_proto::wire::{MessageType, write_message};
use jiff::Timestamp;
use serde::Serialize;

/// A peer that sends them in a stream does not fill the log.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// So many prefixes are named.
const NAMED: usize = 3;

/// What a peer sent that was malformed since it was configured.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MalformedUpdates {
    /// UPDATEs of which attributes were discarded.
    pub discarded: u64,
    /// UPDATEs of which what was announced counted as withdrawn.
    pub withdrawn: u64,
    /// What was wrong with the last one.
    pub last: Option<Malformation>,
    #[serde(skip)]
    logged: Option<Instant>,
}

/// What was wrong with an UPDATE, in a sentence.
#[derive(Clone, Debug, Serialize)]
pub struct Malformation {
    pub time: Timestamp,
    pub reason: String,
}

impl MalformedUpdates {
    /// Counts an UPDATE with errors, and logs it with its octets (RFC 7606 section 8), at most once a minute.
    pub fn note(&mut self, peer: IpAddr, cx: &Context, update: &Update<'_>, body: &[u8], now: Instant) {
        if update.withdraws() {
            self.withdrawn += 1;
        } else {
            self.discarded += 1;
        }
        let reason = describe(cx, update);
        if self.logged.is_none_or(|last| now.duration_since(last) >= LOG_INTERVAL) {
            self.logged = Some(now);
            let mut message = Vec::new();
            write_message(&mut message, MessageType::Update, |out| out.extend_from_slice(body));
            tracing::warn!("peer {peer}: malformed UPDATE: {reason}; `bgpctl decode` explains {}", hex(&message));
        }
        self.last = Some(Malformation { time: Timestamp::now(), reason });
    }
}

fn describe(cx: &Context, update: &Update<'_>) -> String {
    let error = |e: &Malformed| {
        let name = attribute_name(e.kind).map_or_else(|| format!("attribute {}", e.kind), str::to_owned);
        let what = match e.remedy {
            Remedy::AttributeDiscard => "discarded",
            Remedy::TreatAsWithdraw => "treated as a withdrawal",
        };
        format!("{name}: {}, {what} ({})", e.reason, e.rule)
    };
    let errors: Vec<String> = update.errors.iter().map(error).collect();
    let lists = update.withdrawn.iter().copied().chain(update.announced.iter().map(|(f, list, _)| (*f, *list)));
    let mut prefixes = lists.flat_map(|(family, list)| {
        let ids = cx.has_path_ids(family);
        let named: Vec<String> = match family {
            Family::Ipv4 => paths::<V4>(list, ids).take(NAMED + 1).map(|(_, k)| k.prefix().to_string()).collect(),
            Family::Ipv6 => paths::<V6>(list, ids).take(NAMED + 1).map(|(_, k)| k.prefix().to_string()).collect(),
        };
        named
    });
    let named: Vec<String> = prefixes.by_ref().take(NAMED).collect();
    let more = if prefixes.next().is_some() { ", and more" } else { "" };
    format!("{}; prefixes {}{more}", errors.join("; "), named.join(", "))
}
