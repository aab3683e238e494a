//! Prometheus metrics (OpenMetrics text), made anew for each answer from what the speaker says. No series for each prefix.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::kernel;
use crate::peer::PeerStatus;

pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerLabels {
    peer: String,
    name: String,
}

/// All metrics; `kernel` is absent without a FIB.
pub fn text(peers: &[PeerStatus], kernel: Option<kernel::Status>) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("tortie_bgp");
    let (up, received, advertised) = (gauge(), gauge(), gauge());
    let (flaps, near_limit) = (gauge(), gauge());
    registry.register("peer_flaps", "Sessions with the peer that were lost", flaps.clone());
    registry.register(
        "peer_near_limit",
        "Whether the peer's prefixes are near their limit or beyond",
        near_limit.clone(),
    );
    registry.register("peer_up", "Whether the session is Established", up.clone());
    registry.register("received_prefixes", "Prefixes the peer announces", received.clone());
    registry.register("advertised_prefixes", "Prefixes announced to the peer", advertised.clone());
    for peer in peers {
        let labels = PeerLabels { peer: peer.address.to_string(), name: peer.name.clone() };
        up.get_or_create(&labels).set(peer.up.into());
        received.get_or_create(&labels).set(peer.received.into());
        advertised.get_or_create(&labels).set(peer.advertised.into());
        flaps.get_or_create(&labels).set(i64::try_from(peer.flaps).unwrap_or(i64::MAX));
        near_limit.get_or_create(&labels).set(peer.near_limit.into());
    }
    if let Some(kernel) = kernel {
        let routes: [(&str, &str, usize); 3] = [
            ("kernel_routes", "Learned routes wanted in the kernel", kernel.routes),
            ("kernel_stale_routes", "Routes of an earlier process not announced again", kernel.stale),
            ("kernel_failed_routes", "Routes the last write could not make", kernel.failed),
        ];
        for (name, help, value) in routes {
            let gauge: Gauge = Gauge::default();
            gauge.set(value as i64);
            registry.register(name, help, gauge);
        }
    }
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

fn gauge() -> Family<PeerLabels, Gauge> {
    Family::default()
}
