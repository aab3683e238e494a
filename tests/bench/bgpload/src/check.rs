//! Whether what a receiver is told of a prefix is what the sender said of it: a sample of the UPDATEs, so that the check
//! costs next to nothing.

use std::sync::Arc;

use crate::feed::{self, Gen};
use crate::wire;

/// One UPDATE in so many is looked at.
pub const EVERY: u64 = 64;

/// Path attributes whose value passes through a speaker without policy unchanged, whatever the session.
const UNCHANGED: [u8; 5] = [1, 6, 7, 8, 32];
const AS_PATH: u8 = 2;
/// MULTI_EXIT_DISC and LOCAL_PREF: unchanged between clients of a reflector.
const UNCHANGED_INSIDE: [u8; 2] = [4, 5];

/// Knows what each prefix was announced with.
#[derive(Clone)]
pub struct Check {
    groups: Arc<Vec<u32>>,
    /// Prefixes of each sender.
    each: u32,
    gens: Vec<Gen>,
    speaker_as: u32,
    pub checked: u64,
    pub wrong: u64,
}

impl Check {
    pub fn new(groups: Arc<Vec<u32>>, each: u32, gens: &[Gen], speaker_as: u32) -> Check {
        Check { groups, each, gens: gens.to_vec(), speaker_as, checked: 0, wrong: 0 }
    }

    /// Counts one announcement of prefix `i` with the attributes of `block`.
    pub fn see(&mut self, i: u32, v6: bool, block: &[u8]) {
        let Some(g) = self.gens.get((i / self.each) as usize) else {
            return; // One of the single prefixes after the load.
        };
        let group = g.sender * self.groups.len() as u32 + feed::group_of(&self.groups, i % self.each);
        let mut sent = Vec::with_capacity(128);
        g.attrs(group, v6, &mut sent);
        self.checked += 1;
        self.wrong += u64::from(!self.is_passed_on(&sent, block, g.ibgp));
    }

    fn is_passed_on(&self, sent: &[u8], got: &[u8], ibgp: bool) -> bool {
        let value = |block, kind| wire::attrs(block).find(|a| a.1 == kind).map(|a| a.2);
        let same = |kind: &u8| value(sent, *kind) == value(got, *kind);
        let mut path = value(sent, AS_PATH).unwrap_or_default().to_vec();
        if !ibgp && path.len() > 1 {
            // The sender's path is one AS_SEQUENCE; the speaker's AS comes in front.
            path[1] += 1;
            path.splice(2..2, self.speaker_as.to_be_bytes());
        }
        UNCHANGED.iter().all(same)
            && (!ibgp || UNCHANGED_INSIDE.iter().all(same))
            && value(got, AS_PATH) == Some(&path[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::Mix;

    fn check(ibgp: bool) -> Check {
        let g = Gen {
            seed: 3,
            ibgp,
            asn: 65001,
            sender: 0,
            senders: 1,
            next_hop4: [198, 18, 0, 1].into(),
            next_hop6: 1.into(),
        };
        Check::new(Arc::new(feed::groups(Mix::Internet, 3, 1000)), 1000, &[g], 65000)
    }

    /// What the speaker would send of the attributes in `block`.
    fn relayed(block: &[u8], prepend: bool, drop: u8) -> Vec<u8> {
        let mut out = Vec::new();
        for (flags, kind, value) in wire::attrs(block).filter(|a| a.1 != drop) {
            let mut value = value.to_vec();
            if kind == AS_PATH && prepend {
                value[1] += 1;
                value.splice(2..2, 65000u32.to_be_bytes());
            }
            wire::attr(&mut out, flags, kind, &value);
        }
        out
    }

    #[test]
    fn what_is_passed_on_whole_is_right() {
        for ibgp in [false, true] {
            let mut c = check(ibgp);
            for i in 0..1000 {
                let mut sent = Vec::new();
                c.gens[0].attrs(feed::group_of(&c.groups, i), false, &mut sent);
                c.see(i, false, &relayed(&sent, !ibgp, 0));
            }
            assert_eq!((c.checked, c.wrong), (1000, 0));
        }
    }

    #[test]
    fn a_lost_community_and_a_missing_as_are_seen() {
        let mut c = check(false);
        let with_communities = (0..1000)
            .find(|&i| {
                let mut sent = Vec::new();
                c.gens[0].attrs(feed::group_of(&c.groups, i), false, &mut sent);
                wire::attrs(&sent).any(|a| a.1 == 8)
            })
            .unwrap();
        let mut sent = Vec::new();
        c.gens[0].attrs(feed::group_of(&c.groups, with_communities), false, &mut sent);
        c.see(with_communities, false, &relayed(&sent, true, 8));
        c.see(with_communities, false, &relayed(&sent, false, 0));
        assert_eq!((c.checked, c.wrong), (2, 2));
    }
}
