//! Prometheus metrics (OpenMetrics text), made anew for each answer from what the speaker says. No series for each prefix.
//! docs/guide/troubleshooting.md lists them for operators.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::kernel;
use crate::peer::{MessageCounts, PeerDetail, Place};
use crate::speaker::SpeakerStatus;

pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;

/// A registry with a short way to fill it.
struct Metrics(Registry);

impl Metrics {
    fn gauges(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, f64)>) {
        let family: Family<Labels, Gauge<f64, AtomicU64>> = Family::default();
        for (labels, value) in values {
            family.get_or_create(&labels).set(value);
        }
        self.0.register(name, help, family);
    }

    fn gauge(&mut self, name: &str, help: &str, value: usize) {
        let gauge: Gauge = Gauge::default();
        gauge.set(value as i64);
        self.0.register(name, help, gauge);
    }

    fn counters(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let family: Family<Labels, Counter> = Family::default();
        for (labels, value) in values {
            family.get_or_create(&labels).inc_by(value);
        }
        self.0.register(name, help, family);
    }
}

/// All metrics; `kernel` is absent without a FIB.
///
/// # Errors
/// None is known: a String takes all that is written to it.
pub fn text(
    speaker: &SpeakerStatus,
    peers: &[PeerDetail],
    kernel: Option<kernel::Status>,
) -> Result<String, std::fmt::Error> {
    let mut all = Metrics(Registry::with_prefix("tortie_bgp"));
    info(&mut all, peers);
    sessions(&mut all, peers);
    families(&mut all, peers);
    flapping(&mut all, speaker, peers);
    tables(&mut all, speaker);
    if let Some(kernel) = kernel {
        let routes = [
            ("kernel_routes", "Learned routes wanted in the kernel", kernel.routes),
            ("kernel_stale_routes", "Routes of an earlier process not announced again", kernel.stale),
            ("kernel_failed_routes", "Learned routes the kernel refused, tried again", kernel.failed),
        ];
        for (name, help, value) in routes {
            all.gauge(name, help, value);
        }
    }
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &all.0)?;
    Ok(text)
}

fn of_peer(peer: &PeerDetail) -> Labels {
    let status = &peer.status;
    // The same link-local address may be behind several links.
    let address = match (&status.address, &status.interface) {
        (Place::Address(address), Some(link)) => format!("{address}%{link}"),
        (place, _) => place.to_string(),
    };
    vec![("peer", address), ("name", status.name.clone())]
}

/// What joins the other series with words.
fn info(all: &mut Metrics, peers: &[PeerDetail]) {
    let row = |p: &PeerDetail| {
        let (kind, ases) = (p.status.peer_type.name(), [p.status.local_as, p.status.remote_as].map(|a| a.to_string()));
        (with(of_peer(p), &[("type", kind), ("local_as", &ases[0]), ("remote_as", &ases[1])]), 1.0)
    };
    all.gauges("peer_info", "What a peer is configured as; always 1", peers.iter().map(row));
}

fn with(mut labels: Labels, more: &[(&'static str, &str)]) -> Labels {
    labels.extend(more.iter().map(|(name, value)| (*name, value.to_string())));
    labels
}

fn sessions(all: &mut Metrics, peers: &[PeerDetail]) {
    let each = |f: &dyn Fn(&PeerDetail) -> Option<f64>| -> Vec<(Labels, f64)> {
        peers.iter().filter_map(|p| Some((of_peer(p), f(p)?))).collect()
    };
    all.gauges("peer_up", "Whether the session is Established", each(&|p| Some(f64::from(u8::from(p.status.up)))));
    all.gauges(
        "peer_state",
        "State of the session as BGP4-MIB counts it: 1 Idle, 2 Connect, 3 Active, 4 OpenSent, 5 OpenConfirm, 6 Established",
        each(&|p| Some(state(p.status.state))),
    );
    all.gauges(
        "peer_up_since_timestamp_seconds",
        "When the session came up; absent while it is down",
        each(&|p| p.status.up.then(|| p.status.since.as_millisecond() as f64 / 1000.0)),
    );
    all.gauges(
        "peer_held_down",
        "Whether the configuration keeps the session down",
        each(&|p| Some(f64::from(u8::from(p.status.held_down.is_some())))),
    );
    let negotiated =
        |name: &'static str| each(&move |p| p.timers.iter().find(|t| t.name == name).and_then(|t| t.negotiated));
    all.gauges("hold_time_seconds", "Negotiated hold time; 0: none", negotiated("hold"));
    all.gauges("keepalive_seconds", "Negotiated time between keepalives", negotiated("keepalive"));
    all.gauges("last_error_code", "Code of the NOTIFICATION that ended the last session", {
        each(&|p| p.last_code.map(|c| f64::from(c.0)))
    });
    all.gauges("last_error_subcode", "Its subcode", each(&|p| p.last_code.map(|c| f64::from(c.1))));
    all.gauges("bfd_up", "Whether the BFD session is Up; absent without BFD", {
        each(&|p| p.status.bfd.as_ref().map(|b| f64::from(u8::from(b.state == "Up"))))
    });
    let bfd_flaps = peers.iter().filter_map(|p| Some((of_peer(p), p.status.bfd.as_ref()?.flaps)));
    all.counters("bfd_flaps", "Times that the BFD session went down", bfd_flaps);
    all.counters("flaps", "Sessions that were lost", peers.iter().map(|p| (of_peer(p), p.status.flaps)));
    all.counters("established", "Sessions that came up", peers.iter().map(|p| (of_peer(p), p.established)));
    let messages = peers.iter().flat_map(|p| {
        let both = [("in", &p.messages_received), ("out", &p.messages_sent)];
        both.into_iter().flat_map(|(direction, counts)| {
            by_type(counts).map(|(kind, n)| (with(of_peer(p), &[("direction", direction), ("type", kind)]), n))
        })
    });
    all.counters("messages", "Messages by type and direction", messages);
    let malformed = peers.iter().flat_map(|p| {
        let both = [("discard", p.malformed.discarded), ("withdraw", p.malformed.withdrawn)];
        both.map(|(remedy, n)| (with(of_peer(p), &[("remedy", remedy)]), n))
    });
    all.counters("malformed_updates", "UPDATEs that were malformed, by what RFC 7606 makes of them", malformed);
    all.gauges("peer_near_limit", "Whether it announces nearly as many prefixes as it may, or more", {
        each(&|p| p.families.iter().any(|f| f.limit.is_some()).then(|| f64::from(u8::from(p.status.near_limit))))
    });
}

fn state(name: &str) -> f64 {
    let states = ["Idle", "Connect", "Active", "OpenSent", "OpenConfirm", "Established"];
    states.iter().position(|s| *s == name).map_or(0.0, |i| (i + 1) as f64)
}

fn by_type(counts: &MessageCounts) -> [(&'static str, u64); 5] {
    [
        ("open", counts.open),
        ("update", counts.update),
        ("notification", counts.notification),
        ("keepalive", counts.keepalive),
        ("route-refresh", counts.route_refresh),
    ]
}

fn families(all: &mut Metrics, peers: &[PeerDetail]) {
    let rows: Vec<_> = peers
        .iter()
        .flat_map(|p| p.families.iter().map(move |f| (with(of_peer(p), &[("family", &f.family)]), f)))
        .collect();
    let mut each = |name: &str, help: &str, f: &dyn Fn(&crate::peer::FamilyStatus) -> Option<f64>| {
        let values: Vec<_> = rows.iter().filter_map(|(labels, row)| Some((labels.clone(), f(row)?))).collect();
        all.gauges(name, help, values);
    };
    each("received_prefixes", "Prefixes the peer announces", &|f| Some(f.received.into()));
    each("accepted_prefixes", "Those that loop checks and policy let pass", &|f| Some(f.accepted.into()));
    each("advertised_prefixes", "Prefixes announced to the peer", &|f| Some(f.advertised.into()));
    each("end_of_rib", "Whether the peer has said End-of-RIB", &|f| Some(f64::from(u8::from(f.end_of_rib))));
    each("prefix_limit", "Most prefixes the peer may announce; absent without a limit", &|f| f.limit.map(Into::into));
    each("prefix_limit_used", "Share of the limit that is used", &|f| {
        f.limit.map(|limit| f64::from(f.accepted) / f64::from(limit.max(1)))
    });
}

/// How much of the flapping each peer has a part in.
fn flapping(all: &mut Metrics, speaker: &SpeakerStatus, peers: &[PeerDetail]) {
    let count = |p: &PeerDetail| {
        let Place::Address(address) = p.status.address else { return 0 };
        speaker.flapping.iter().filter(|f| f.peers.contains(&address)).count()
    };
    let help = "Flapping prefixes of which a path is, or was, the peer's";
    all.gauges("peer_flapping_prefixes", help, peers.iter().map(|p| (of_peer(p), count(p) as f64)));
    let flapping = "Prefixes whose best path changes flapThreshold times a minute or more";
    all.gauge("flapping_prefixes", flapping, speaker.flapping.len());
}

fn tables(all: &mut Metrics, speaker: &SpeakerStatus) {
    let of = |f: &dyn Fn(&crate::speaker::RibStatus) -> u32| -> Vec<(Labels, f64)> {
        speaker.rib.iter().map(|r| (vec![("family", r.family.clone())], f(r).into())).collect()
    };
    all.gauges("rib_prefixes", "Prefixes in the table", of(&|r| r.prefixes));
    all.gauges("rib_paths", "Paths in the table", of(&|r| r.paths));
    all.gauge("attribute_sets", "Sets of attributes that the paths share", speaker.attribute_sets);
}
