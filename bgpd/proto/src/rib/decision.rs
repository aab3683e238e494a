//! The decision process of RFC 4271 section 9.1.2.2, with the steps that RFC 4456 section 9 and RFC 9494 section 4.3 add.
//!
//! [`Step`] has the order. What is left after the IGP metric is the multipath set. Age decides nothing.

use std::net::{IpAddr, Ipv4Addr};

/// LOCAL_PREF of a path that has none (as in every implementation).
pub const DEFAULT_LOCAL_PREF: u32 = 100;

/// What the process looks at, of one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// It carries LLGR_STALE.
    pub is_long_lived_stale: bool,
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
    /// As received (RFC 7911), to tell the paths of one peer apart.
    pub path_id: u32,
}

/// Where a path falls out, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// RFC 9494 section 4.3: long-lived stale routes are the least preferred.
    LongLivedStale,
    /// RFC 4271 section 9.1.1: the degree of preference.
    LocalPref,
    /// A route of our own goes before learned ones.
    Local,
    /// Section 9.1.2.2 a.
    AsPathLength,
    /// b.
    Origin,
    /// c: within one neighbour AS, over the whole set that a and b leave.
    Med,
    /// d: eBGP before iBGP.
    Ebgp,
    /// e.
    IgpMetric,
    /// f, with ORIGINATOR_ID for the identifier (RFC 4456 section 9).
    RouterId,
    /// RFC 4456 section 9.
    ClusterListLength,
    /// g.
    PeerAddress,
    /// Not in an RFC: between paths of one peer.
    PathId,
}

/// Orders `candidates`, given with their numbers: the best first, then the others of its multipath set, then the rest.
/// Returns the size of the multipath set: 0 only for no candidates.
pub fn select(candidates: &mut [(usize, Candidate)]) -> usize {
    select_and_tell(candidates, |_, _| {})
}

/// [`select`]; `lost` is told which path each step up to the IGP metric turns down.
pub fn select_and_tell(candidates: &mut [(usize, Candidate)], mut lost: impl FnMut(usize, Step)) -> usize {
    use Step::*;
    let mut left = candidates.len();
    let list = candidates;
    keep(list, &mut left, |c| u32::from(c.is_long_lived_stale), |i| lost(i, LongLivedStale));
    keep(list, &mut left, |c| u32::MAX - c.local_pref, |i| lost(i, LocalPref));
    keep(list, &mut left, |c| u32::from(!c.is_local), |i| lost(i, Local));
    keep(list, &mut left, |c| c.as_path_len, |i| lost(i, AsPathLength));
    keep(list, &mut left, |c| u32::from(c.origin), |i| lost(i, Origin));
    keep_lowest_meds(list, &mut left, |i| lost(i, Med));
    keep(list, &mut left, |c| u32::from(!c.is_ebgp), |i| lost(i, Ebgp));
    keep(list, &mut left, |c| c.igp_metric, |i| lost(i, IgpMetric));
    // Steps f and g; the order of the equals is then the same whatever the order of arrival.
    list[..left].sort_by_key(|(_, c)| (c.router_id, c.cluster_list_len, c.peer, c.path_id));
    left
}

/// The step that puts `better` before `worse`, both of one multipath set.
pub fn deciding_step(better: &Candidate, worse: &Candidate) -> Step {
    if better.router_id != worse.router_id {
        Step::RouterId
    } else if better.cluster_list_len != worse.cluster_list_len {
        Step::ClusterListLength
    } else if better.peer != worse.peer {
        Step::PeerAddress
    } else {
        Step::PathId
    }
}

/// Keeps in front those of the first `left` whose key is the lowest.
fn keep(
    list: &mut [(usize, Candidate)],
    left: &mut usize,
    key: impl Fn(&Candidate) -> u32,
    mut lost: impl FnMut(usize),
) {
    let Some(lowest) = list[..*left].iter().map(|c| key(&c.1)).min() else { return };
    let mut front = 0;
    for i in 0..*left {
        if key(&list[i].1) == lowest {
            list.swap(front, i);
            front += 1;
        }
    }
    list[front..*left].iter().for_each(|c| lost(c.0));
    *left = front;
}

/// Step c: keeps those that none of the same neighbour AS beats.
fn keep_lowest_meds(list: &mut [(usize, Candidate)], left: &mut usize, mut lost: impl FnMut(usize)) {
    let (mut at, set) = (0, *left);
    while at < *left {
        let this = list[at].1;
        if list[..set].iter().any(|(_, c)| c.neighbour_as == this.neighbour_as && c.med < this.med) {
            *left -= 1;
            list.swap(at, *left);
            lost(list[*left].0);
        } else {
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests;
