//! The decision process of RFC 4271 section 9.1.2.2, with the steps that RFC 4456 section 9 adds.
//!
//! The order: resolvable next hop; LOCAL_PREF; a route of our own; AS_PATH length; ORIGIN; MULTI_EXIT_DISC within one
//! neighbour AS; eBGP before iBGP; IGP metric; (here the multipath set ends); BGP identifier or ORIGINATOR_ID; CLUSTER_LIST
//! length; peer address. Age decides nothing.

use std::net::{IpAddr, Ipv4Addr};

/// LOCAL_PREF of a path that has none (as in every implementation).
pub const DEFAULT_LOCAL_PREF: u32 = 100;

/// What the process looks at, of one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub local_pref: u32,
    pub is_local: bool,
    pub as_path_len: u32,
    pub origin: u8,
    pub neighbour_as: u32,
    /// A missing one is 0 (RFC 4271 section 9.1.2.2 c).
    pub med: u32,
    pub is_ebgp: bool,
    pub igp_metric: u32,
    /// ORIGINATOR_ID where there is one (RFC 4456 section 9).
    pub router_id: Ipv4Addr,
    pub cluster_list_len: u32,
    pub peer: IpAddr,
}

/// Orders `candidates`, given with their numbers: the best first, then the others of its multipath set, then the rest.
/// Returns the size of the multipath set: 0 only for no candidates.
pub fn select(candidates: &mut [(usize, Candidate)]) -> usize {
    let mut left = candidates.len();
    // Each step keeps the equals of the best in front.
    let mut keep = |list: &mut [(usize, Candidate)], key: &dyn Fn(&Candidate) -> (u32, u32)| {
        let Some(best) = list[..left].iter().map(|c| key(&c.1)).min() else {
            return;
        };
        left = partition(&mut list[..left], |c| key(c) == best);
    };
    keep(candidates, &|c| (u32::MAX - c.local_pref, u32::from(!c.is_local)));
    keep(candidates, &|c| (c.as_path_len, u32::from(c.origin)));
    // Step c compares only within one neighbour AS, over the whole set that is left.
    let mut at = 0;
    let set = left;
    while at < left {
        let this = candidates[at].1;
        let beaten = candidates[..set].iter().any(|(_, c)| c.neighbour_as == this.neighbour_as && c.med < this.med);
        if beaten {
            left -= 1;
            candidates.swap(at, left);
        } else {
            at += 1;
        }
    }
    let mut keep = |list: &mut [(usize, Candidate)], key: &dyn Fn(&Candidate) -> (u32, u32)| {
        let Some(best) = list[..left].iter().map(|c| key(&c.1)).min() else {
            return;
        };
        left = partition(&mut list[..left], |c| key(c) == best);
    };
    keep(candidates, &|c| (u32::from(!c.is_ebgp), c.igp_metric));
    // Steps f and g; the order of the equals is then the same whatever the order of arrival.
    candidates[..left].sort_by_key(|(_, c)| (c.router_id, c.cluster_list_len, c.peer));
    left
}

/// Moves what holds to the front, in order; returns how many.
fn partition(list: &mut [(usize, Candidate)], holds: impl Fn(&Candidate) -> bool) -> usize {
    let mut front = 0;
    for i in 0..list.len() {
        if holds(&list[i].1) {
            list.swap(front, i);
            front += 1;
        }
    }
    front
}

#[cfg(test)]
mod tests;
