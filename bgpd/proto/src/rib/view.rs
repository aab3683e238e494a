//! Routes for display.

use std::net::IpAddr;

use super::{LOCAL, PeerIndex, Shared, Table};
use crate::af::{Key, Prefix};
use crate::wire::attribute::Attributes;

/// A path for display.
#[derive(Clone, Debug)]
pub struct RouteInfo {
    pub prefix: Prefix,
    pub attributes: Attributes,
    /// `None`: a route of our own.
    pub peer: Option<IpAddr>,
    pub best: bool,
    pub stale: bool,
}

/// Which routes to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The multipath sets.
    Best,
    /// All paths of a peer, or of all, as received.
    Received(Option<PeerIndex>),
    /// What a peer was told, before its own next hop and path are put in.
    Advertised(PeerIndex),
}

/// Appends the routes of one family, up to `limit` in all.
pub(super) fn list<K: Key>(table: &Table<K>, shared: &Shared, view: View, limit: usize, routes: &mut Vec<RouteInfo>) {
    for (at, entry) in table.entries().iter().enumerate() {
        let best = entry.multipath().len();
        for (i, path) in entry.paths().iter().enumerate() {
            let (shown, id) = match view {
                View::Best => (i < best, path.used),
                View::Received(peer) => (path.peer != LOCAL && peer.is_none_or(|p| p == path.peer), path.received),
                View::Advertised(peer) => {
                    let out = shared.slot(peer).and_then(|s| s.out[K::FAMILY as usize].as_ref());
                    (i == 0 && best > 0 && out.is_some_and(|o| o.advertised.contains(at as u32)), path.used)
                }
            };
            if !shown {
                continue;
            }
            if routes.len() == limit {
                return;
            }
            routes.push(RouteInfo {
                prefix: entry.key.prefix(),
                attributes: shared.attrs.get(id).attributes.clone(),
                peer: shared.peer(path.peer).map(|p| p.address),
                best: i < best,
                stale: path.stale,
            });
        }
    }
}
