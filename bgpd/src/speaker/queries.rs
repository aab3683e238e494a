//! What operators ask: slices of routes, and events for those who watch.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use bgp_proto::af::{Family, Prefix};
use bgp_proto::fsm::State;
use bgp_proto::rib::flap::Flap;
use bgp_proto::rib::{Cursor, PeerIndex, PrefixFilter, RouteFilter, RouteInfo, View};
use jiff::Timestamp;
use serde::Serialize;

use super::Speaker;
use crate::events::{Best, Event};
use crate::mrt;
use crate::peer::Peer;
use bgp_plan::config::PeerId;

/// Entries that one slice looks at: a fraction of a millisecond of the speaker's time.
const SLICE: u32 = 1024;

/// flapThreshold is a number in a minute.
const FLAP_WINDOW_SECS: u64 = 60;

/// Peers that a question is about: those at an address, on one link where it says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeersAt {
    pub address: IpAddr,
    /// Index of the interface of a link-local address.
    pub scope: Option<u32>,
}

impl PeersAt {
    pub fn has(self, id: &PeerId) -> bool {
        self.address == id.address && self.scope.is_none_or(|s| s == id.scope)
    }
}

impl From<IpAddr> for PeersAt {
    fn from(address: IpAddr) -> PeersAt {
        PeersAt { address, scope: None }
    }
}

/// Which routes a query is about.
#[derive(Clone, Debug)]
pub struct RouteQuery {
    pub view: RouteView,
    pub filter: RouteFilter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteView {
    /// That came from one peer, or from anywhere.
    Best(Option<PeersAt>),
    /// Of one peer, or of all.
    Received(Option<PeersAt>),
    Advertised(PeersAt),
}

/// Some routes, and where the next ones begin.
pub type RouteSlice = (Vec<RouteInfo>, Option<Cursor>);

/// The speaker as a whole; the fields are documented in `control`.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SpeakerStatus {
    pub router_id: Option<Ipv4Addr>,
    pub local_as: Option<u32>,
    pub listening: Vec<SocketAddr>,
    pub rib: Vec<RibStatus>,
    pub attribute_sets: usize,
    /// After a restart: whose End-of-RIB our announcements wait for.
    pub awaited: Vec<IpAddr>,
    pub flap_threshold: u32,
    pub flapping: Vec<Flapping>,
}

/// The size of a family's table.
#[derive(Clone, Debug, Serialize)]
pub struct RibStatus {
    pub family: String,
    pub prefixes: u32,
    pub paths: u32,
}

/// A prefix whose best path changes too often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flapping {
    pub prefix: String,
    /// In a minute.
    pub changes: u32,
    /// Whose paths they are.
    pub peers: Vec<IpAddr>,
}

impl Speaker {
    pub(super) fn status(&mut self) -> SpeakerStatus {
        self.roll_flaps(Instant::now());
        let config = self.config.as_ref();
        let threshold = config.map_or(u32::MAX, |c| c.flap_threshold);
        SpeakerStatus {
            router_id: config.map(|c| c.router_id),
            local_as: config.map(|c| c.local_as),
            listening: self.listeners.keys().copied().collect(),
            rib: Family::ALL
                .into_iter()
                .map(|family| {
                    let (prefixes, paths) = self.rib.size(family);
                    RibStatus { family: family.to_string(), prefixes, paths }
                })
                .collect(),
            attribute_sets: self.rib.attribute_sets(),
            awaited: self.awaited(),
            flap_threshold: config.map_or(0, |c| c.flap_threshold),
            flapping: self.rib.flapping(threshold).into_iter().map(|f| self.flapping(f)).collect(),
        }
    }

    /// A window of changes of best paths ends after a minute, a quiet one unnoticed.
    pub(super) fn roll_flaps(&mut self, now: Instant) {
        let windows = now.duration_since(self.flap_window).as_secs() / FLAP_WINDOW_SECS;
        if windows > 0 {
            (0..windows.min(2)).for_each(|_| self.rib.roll_flaps());
            self.flap_window = now;
        }
    }

    fn flapping(&self, flap: Flap) -> Flapping {
        let peers = flap.peers.iter().filter_map(|&p| self.rib.peer(p)).map(|p| p.address).collect();
        Flapping { prefix: flap.prefix.to_string(), changes: flap.changes, peers }
    }

    fn peer_index(&self, at: PeersAt) -> Option<PeerIndex> {
        self.peers.iter().find(|(id, _)| at.has(id)).map(|(_, p)| p.index)
    }

    /// See [`mrt::Index`].
    pub(super) fn mrt_index(&self) -> mrt::Index {
        let peer = |(id, peer): (&PeerId, &Peer)| {
            let info = self.rib.peer(peer.index);
            let router_id = info.map_or(Ipv4Addr::UNSPECIFIED, |info| info.router_id);
            let named = bgp_proto::mrt::Peer { router_id, address: id.address, asn: self.remote_as(peer) };
            mrt::Member { index: peer.index, peer: named, since: peer.since }
        };
        let router_id = self.config.as_ref().map_or(Ipv4Addr::UNSPECIFIED, |c| c.router_id);
        mrt::Index { router_id, peers: self.peers.iter().map(peer).collect() }
    }

    /// The AS of a peer: what it said of itself, where its template takes any.
    fn remote_as(&self, peer: &Peer) -> u32 {
        self.rib.peer(peer.index).map_or(peer.config.remote_as, |info| info.remote_as)
    }

    /// Prefixes of a family that a peer announced.
    pub(crate) fn received(&self, id: PeerId, family: Family) -> u32 {
        self.peers.get(&id).map_or(0, |p| self.rib.counts(p.index, family).0)
    }

    /// `None`: there is no such peer.
    pub(super) fn routes(&mut self, query: &RouteQuery, from: Cursor) -> Option<RouteSlice> {
        let mut filter = query.filter.clone();
        let view = match query.view {
            RouteView::Best(None) => View::Best,
            RouteView::Best(Some(at)) => {
                filter.from = Some(self.peer_index(at)?);
                View::Best
            }
            RouteView::Received(None) => View::Received(None),
            RouteView::Received(Some(at)) => View::Received(Some(self.peer_index(at)?)),
            RouteView::Advertised(at) => {
                let peer = self.peer_index(at)?;
                return Some(self.rib.advertised(peer, &filter, from, SLICE));
            }
        };
        Some(self.rib.routes(view, &filter, from, SLICE))
    }

    /// A session came or went.
    pub(super) fn tell_of_session(&mut self, id: PeerId, before: State, after: State) {
        let is_up = match (before, after) {
            (_, State::Established) => true,
            (State::Established, _) => false,
            _ => return,
        };
        let Some(peer) = self.peers.get(&id).filter(|_| self.events.is_heard()) else { return };
        let (time, name, remote_as) = (Timestamp::now(), peer.config.name.clone(), self.remote_as(peer));
        let event = if is_up {
            Event::PeerUp { time, peer: id.address, name, remote_as }
        } else {
            let reason = peer.last_error.clone().unwrap_or_else(|| "the session ended".into());
            Event::PeerDown { time, peer: id.address, name, remote_as, reason }
        };
        self.events.tell(&event);
    }

    /// The best paths of these prefixes changed.
    pub(super) fn tell_of_best_paths(&mut self, prefixes: impl Iterator<Item = Prefix>) {
        let time = Timestamp::now();
        for prefix in prefixes {
            let filter = RouteFilter { prefix: Some(PrefixFilter::Exact(prefix)), ..RouteFilter::default() };
            let (routes, _) = self.rib.routes(View::Best, &filter, Cursor::START, 1);
            let best = routes.first().map(|first| {
                let mut next_hops: Vec<IpAddr> = Vec::new();
                for hop in routes.iter().filter(|r| r.peer.is_some()).map(|r| r.attributes.next_hop) {
                    if !next_hops.contains(&hop) {
                        next_hops.push(hop);
                    }
                }
                Best { peer: first.peer, next_hops, as_path: first.attributes.ases().collect() }
            });
            self.events.tell(&Event::BestPath { time, prefix, best });
        }
    }
}
