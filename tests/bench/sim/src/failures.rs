//! What goes wrong, and when: drawn beforehand, each failure with its recovery, or without one.

use crate::rng::Rng;
use crate::topology::{LinkId, Micros, Node, Topology};

const SECOND: Micros = 1_000_000;
/// Failures begin within so long.
const SPAN: Micros = 60 * SECOND;
/// What is mended is mended after at least this, and less than that.
const OUTAGE: std::ops::Range<Micros> = SECOND / 10..40 * SECOND;
/// A slow link is slower by at least this factor, and less than that.
const SLOWNESS: std::ops::Range<u64> = 20..2000;
/// Of the kinds below, how many there are; they take turns, so that each occurs.
const KINDS: usize = 8;

/// Something happens to the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing gets through; the ends find out by and by.
    Cut(LinkId),
    Mended(LinkId),
    /// Delay times this, rate through this.
    Slow(LinkId, u64),
    /// The speaker is gone with all it knew.
    Crash(Node),
    /// It starts again, knowing nothing.
    Restart(Node),
    /// Other speakers originate the prefixes of a group.
    Move(usize, Vec<(Node, Option<u32>)>),
}

/// `count` failures, not in order of time.
pub fn draw(t: &Topology, count: u32, rng: &mut Rng) -> Vec<(Micros, Failure)> {
    let mut all = Vec::new();
    for i in 0..count as usize {
        let at = rng.within(0..SPAN);
        let over = at + rng.within(OUTAGE);
        let link = rng.within(0..t.links.len() as u64) as LinkId;
        let client = rng.within(t.first_client.into()..t.speakers.len() as u64) as Node;
        let reflector = rng.within(0..t.first_client.into()) as Node;
        match i % KINDS {
            0 | 1 => all.extend([(at, Failure::Cut(link)), (over, Failure::Mended(link))]),
            2 => all.extend([(at, Failure::Crash(client)), (over, Failure::Restart(client))]),
            3 => all.extend([(at, Failure::Crash(reflector)), (over, Failure::Restart(reflector))]),
            4 => all.extend([(at, Failure::Slow(link, rng.within(SLOWNESS))), (over, Failure::Slow(link, 1))]),
            5 => {
                let group = rng.within(0..t.groups.len() as u64) as usize;
                all.push((at, Failure::Move(group, t.draw_origins(rng))));
            }
            6 => all.push((at, Failure::Cut(link))),
            _ => all.push((at, Failure::Crash(client))),
        }
    }
    all
}
