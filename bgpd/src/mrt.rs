//! The table as an MRT file (RFC 6396): what `/v1/mrt` streams. Every path of every peer, as received.
//!
//! Made of slices, as other answers: a record is one prefix as it is when its slice is taken. A peer that is configured
//! meanwhile is not in the index, and so not in the file. The time of a path is that of the session it came in: no time is
//! kept of each path.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use bgp_proto::mrt::{self, Path};
use bgp_proto::rib::{Cursor, PeerIndex, RouteFilter, RouteInfo};
use jiff::Timestamp;

use crate::speaker::{Handle, RouteQuery, RouteView};

/// Who announced what is dumped: places in it name peers.
#[derive(Clone, Debug)]
pub struct Index {
    pub router_id: Ipv4Addr,
    pub peers: Vec<Member>,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    pub index: PeerIndex,
    pub peer: mrt::Peer,
    /// When its state began.
    pub since: Timestamp,
}

/// A dump under way.
pub struct Dump {
    speaker: Handle,
    state: State,
}

enum State {
    Begin,
    Table { index: Index, now: u32, sequence: u32, from: Cursor },
    End,
}

impl Dump {
    pub fn new(speaker: Handle) -> Dump {
        Dump { speaker, state: State::Begin }
    }

    /// The next octets of the file, whole records; `None` at its end.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        while out.is_empty() {
            match &mut self.state {
                State::Begin => {
                    let index = self.speaker.mrt_index().await?;
                    let now = seconds(Timestamp::now());
                    let peers: Vec<mrt::Peer> = index.peers.iter().map(|p| p.peer).collect();
                    mrt::write_peer_index(&mut out, now, index.router_id, "", &peers);
                    self.state = State::Table { index, now, sequence: 0, from: Cursor::START };
                }
                State::Table { index, now, sequence, from } => {
                    let query = RouteQuery { view: RouteView::Received(None), filter: RouteFilter::default() };
                    let (routes, next) = self.speaker.routes(query, *from).await?;
                    write_routes(&mut out, index, *now, sequence, routes);
                    match next {
                        Some(next) => *from = next,
                        None => self.state = State::End,
                    }
                }
                State::End => return None,
            }
        }
        Some(out)
    }
}

/// Appends a record for each prefix; its paths come one after another.
fn write_routes(out: &mut Vec<u8>, index: &Index, now: u32, sequence: &mut u32, routes: Vec<RouteInfo>) {
    let places: HashMap<PeerIndex, usize> = (0..).zip(&index.peers).map(|(place, p)| (p.index, place)).collect();
    // A peer that came meanwhile may have the number of one that went.
    let place = |route: &RouteInfo| {
        let place = places.get(&route.peer_index).copied();
        place.filter(|&p| route.peer == Some(index.peers[p].peer.address))
    };
    for run in routes.chunk_by(|a, b| a.prefix == b.prefix) {
        let paths: Vec<Path> = run
            .iter()
            .filter_map(|route| {
                let peer = place(route)?;
                let originated = seconds(index.peers[peer].since);
                Some(Path {
                    peer: peer as u16,
                    originated,
                    path_id: route.path_id,
                    attributes: route.attributes.clone(),
                })
            })
            .collect();
        if !paths.is_empty() {
            mrt::write_rib(out, now, *sequence, run[0].prefix, &paths);
            *sequence += 1;
        }
    }
}

/// Good until 2106.
fn seconds(time: Timestamp) -> u32 {
    time.as_second() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use bgp_proto::af::Prefix;
    use bgp_proto::wire::attribute::Attributes;

    #[test]
    fn paths_of_a_prefix_are_one_record() {
        let peer = |n: u8| mrt::Peer { router_id: [10, 0, 0, n].into(), address: [192, 0, 2, n].into(), asn: 65000 };
        let member = |n: u8| Member { index: n.into(), peer: peer(n), since: Timestamp::UNIX_EPOCH };
        let peers = [1, 2].map(member).to_vec();
        let index = Index { router_id: [10, 0, 0, 9].into(), peers };
        let route = |second: u8, from: Option<u8>| RouteInfo {
            prefix: Prefix::new([10, second, 0, 0].into(), 16).unwrap(),
            attributes: Attributes { next_hop: [192, 0, 2, 1].into(), ..Attributes::originated(100, &[], &[]) },
            peer: from.map(|n| [192, 0, 2, n].into()),
            peer_index: from.map_or(bgp_proto::rib::LOCAL, Into::into),
            best: true,
            path_id: 0,
            stale: false,
            accepted: true,
        };
        let routes = vec![route(1, Some(1)), route(1, Some(2)), route(2, None), route(3, Some(7)), route(4, Some(2))];
        let (mut out, mut sequence) = (Vec::new(), 0);
        write_routes(&mut out, &index, 5, &mut sequence, routes);
        assert_eq!(sequence, 2, "own routes and unknown peers are left out");
        let count = |at: usize| u16::from_be_bytes([out[at + 19], out[at + 20]]);
        let next = 12 + u32::from_be_bytes([out[8], out[9], out[10], out[11]]) as usize;
        assert_eq!((count(0), count(next)), (2, 1), "paths of each record");
    }
}
